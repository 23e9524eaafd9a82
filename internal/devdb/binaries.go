package devdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// errNotFound is all that a newcomer without Postgres sees, so it says what to do.
var errNotFound = errors.New(`devdb: found no Postgres; install one, or set DATABASE_URL to a running one:
  Debian, Ubuntu:  sudo apt-get install postgresql
  macOS:           brew install postgresql@17
  Windows:         winget install PostgreSQL.PostgreSQL.17
If it is installed elsewhere, set PGBIN to the directory of its "postgres" and "initdb"`)

// binaries is an installed Postgres.
type binaries struct {
	dir    string // of postgres and initdb
	source string // for DB.Source
	major  int    // version, such as 17
}

// usualDirs lists where installers put Postgres without adding it to PATH.
var usualDirs = []string{
	"/usr/lib/postgresql/*/bin", // Debian
	"/usr/pgsql-*/bin",          // postgresql.org's packages for Red Hat
	"/usr/local/pgsql/bin",      // built from source
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	`C:\Program Files\PostgreSQL\*\bin`,
}

// localBinaries returns the installations on this machine in order of preference: only PGBIN if it is set; otherwise
// PATH, pg_config, usualDirs with the newest first, and an earlier download.
func localBinaries(ctx context.Context, getenv func(string) string) ([]binaries, error) {
	return search(ctx, getenv, usualDirs)
}

func search(ctx context.Context, getenv func(string) string, usual []string) ([]binaries, error) {
	if dir := getenv("PGBIN"); dir != "" {
		b, ok := inspect(ctx, dir)
		if !ok {
			return nil, fmt.Errorf("devdb: PGBIN is set to %q, which has no working postgres and initdb", dir)
		}
		return []binaries{b}, nil
	}

	var found []binaries
	add := func(dir string) {
		known := slices.ContainsFunc(found, func(b binaries) bool { return b.dir == dir })
		if b, ok := inspect(ctx, dir); ok && !known {
			found = append(found, b)
		}
	}
	for _, dir := range filepath.SplitList(getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue
		}
		// postgres on PATH may be a symlink into a directory that has initdb.
		if real, err := filepath.EvalSymlinks(filepath.Join(dir, exe("postgres"))); err == nil {
			add(filepath.Dir(real))
		}
		if out, err := output(ctx, filepath.Join(dir, exe("pg_config")), "--bindir"); err == nil {
			add(filepath.FromSlash(out))
		}
	}
	preferred := len(found)
	for _, pattern := range usual {
		dirs, _ := filepath.Glob(pattern) // fails only on a malformed pattern
		for _, dir := range dirs {
			add(dir)
		}
	}
	slices.SortStableFunc(found[preferred:], func(a, b binaries) int { return cmp.Compare(b.major, a.major) })

	if dir, err := downloadDir(); err == nil {
		if b, ok := inspect(ctx, filepath.Join(dir, "bin")); ok {
			b.source = sourceDownload
			found = append(found, b)
		}
	}
	return found, nil
}

// pick returns the first of found that can run the database in dataDir, which requires the same major version.
func pick(found []binaries, dataDir string) (binaries, error) {
	want := dataMajor(dataDir)
	if dataDir == "" || want == 0 {
		return found[0], nil
	}
	for _, b := range found {
		if b.major == want {
			return b, nil
		}
	}
	return binaries{}, fmt.Errorf("devdb: %q was created by Postgres %d, but this machine has only %d;"+
		" install %d or choose another directory", dataDir, want, found[0].major, want)
}

var versionNumber = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect returns the installation in dir, and reports whether it works.
func inspect(ctx context.Context, dir string) (binaries, bool) {
	if _, err := exec.LookPath(filepath.Join(dir, exe("initdb"))); err != nil {
		return binaries{}, false
	}
	out, err := output(ctx, filepath.Join(dir, exe("postgres")), "-V")
	m := versionNumber.FindStringSubmatch(out)
	if err != nil || m == nil {
		return binaries{}, false
	}
	major, err := strconv.Atoi(m[1])
	return binaries{dir: dir, source: dir, major: major}, err == nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = cleanEnv()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func exe(name string) string {
	if runtime.GOOS == "windows" {
		return name + ".exe"
	}
	return name
}

// cleanEnv returns the environment of child processes. It inherits nothing, so that no PG* variable reaches a server
// and no locale changes its messages.
func cleanEnv() []string {
	env := []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if runtime.GOOS == "windows" { // processes need these to start and to find a temporary directory
		env = []string{"SystemRoot=" + os.Getenv("SystemRoot"), "PATH=" + os.Getenv("PATH"), "TEMP=" + os.TempDir()}
	}
	return env
}

const (
	sourceDownload  = "embedded-postgres download"
	downloadVersion = embeddedpostgres.V17
)

// downloadDir returns the directory for downloaded binaries. For root it is outside root's home directory, which the
// server's user cannot enter. For others it is never a directory that another user could have created.
func downloadDir() (string, error) {
	cache, err := os.UserCacheDir()
	if os.Geteuid() == 0 {
		cache, err = "/var/cache", nil
	}
	return filepath.Join(cache, "everytick", "postgres-"+string(downloadVersion)), err
}

// download downloads the binaries of Postgres, about 30 MB, to downloadDir.
func download(ctx context.Context, log *slog.Logger) (binaries, error) {
	dir, err := downloadDir()
	if err != nil {
		return binaries{}, err
	}
	return downloadTo(ctx, log, dir, embeddedpostgres.DefaultConfig())
}

func downloadTo(ctx context.Context, log *slog.Logger, dir string, cfg embeddedpostgres.Config) (binaries, error) {
	log.Info("found no Postgres; downloading one (about 30 MB, once)", "to", dir)
	done := make(chan error, 1)
	go func() { done <- fetch(dir, cfg) }() // the library takes no context
	select {
	case err := <-done:
		if err != nil {
			return binaries{}, err
		}
	case <-ctx.Done():
		return binaries{}, ctx.Err()
	}
	b, ok := inspect(ctx, filepath.Join(dir, "bin"))
	if !ok {
		return binaries{}, fmt.Errorf("the binaries in %q do not run on this machine", dir)
	}
	b.source = sourceDownload
	return b, nil
}

// fetch downloads binaries to dir. The library always downloads and starts in one step, and its server refuses root,
// needs a TCP port and outlives its owner. So fetch passes an encoding that initdb rejects, which makes Start fail
// after the download. It has succeeded if the binaries are in place.
func fetch(dir string, cfg embeddedpostgres.Config) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	// Unpack next to dir and rename, so that a partial download is never used.
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	unpacked := filepath.Join(tmp, "unpacked")
	startErr := embeddedpostgres.NewDatabase(cfg.Version(downloadVersion).Port(0).Encoding("download only").Logger(io.Discard).
		CachePath(filepath.Join(tmp, "archive")).RuntimePath(filepath.Join(tmp, "run")).BinariesPath(unpacked)).Start()
	if _, err := os.Stat(filepath.Join(unpacked, "bin", exe("initdb"))); err != nil {
		return startErr
	}
	if err := os.Rename(unpacked, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil { // otherwise another process was faster
			return err
		}
	}
	return nil
}
