package devdb

import (
	"context"
	"errors"
	"log/slog"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// OpenOnBareMachine is Open on a machine without binaries and without network.
func OpenOnBareMachine(ctx context.Context, o Options) (*DB, error) {
	return open(ctx, o,
		func(context.Context, func(string) string) ([]binaries, error) { return nil, nil },
		func(context.Context, *slog.Logger) (binaries, error) { return binaries{}, errors.New("no network") })
}

// Search returns the directories of local binaries in order of preference.
func Search(ctx context.Context, getenv func(string) string, usual ...string) (dirs []string, err error) {
	found, err := search(ctx, getenv, usual)
	for _, b := range found {
		if b.source != sourceDownload {
			dirs = append(dirs, b.dir)
		}
	}
	return dirs, err
}

// Download downloads binaries from repository to dir.
func Download(ctx context.Context, repository, dir string) (source string, err error) {
	cfg := embeddedpostgres.DefaultConfig().BinaryRepositoryURL(repository)
	b, err := downloadTo(ctx, slog.New(slog.DiscardHandler), dir, cfg)
	return b.source, err
}
