package devdb

import (
	"context"
	"errors"
	"log/slog"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// OpenOnBareMachine is Open where no binaries are installed and none can be downloaded.
func OpenOnBareMachine(ctx context.Context, o Options) (*DB, error) {
	return open(ctx, o,
		func(context.Context, func(string) string) ([]binaries, error) { return nil, nil },
		func(context.Context, *slog.Logger) (binaries, error) { return binaries{}, errors.New("no network") })
}

// Search returns the directories that the search for local binaries finds, the preferred one first.
func Search(ctx context.Context, getenv func(string) string, usual ...string) (dirs []string, err error) {
	found, err := search(ctx, getenv, usual)
	for _, b := range found {
		if b.source != sourceDownload {
			dirs = append(dirs, b.dir)
		}
	}
	return dirs, err
}

// Download fetches binaries to dir from another repository than the public one.
func Download(ctx context.Context, repository, dir string) (source string, err error) {
	cfg := embeddedpostgres.DefaultConfig().BinaryRepositoryURL(repository)
	b, err := downloadTo(ctx, slog.New(slog.DiscardHandler), dir, cfg)
	return b.source, err
}
