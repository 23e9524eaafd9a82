// Package devdb finds or starts a Postgres without any setup, for the demo and the tests.
//
// [Open] uses the database of DATABASE_URL if it is set. Otherwise it starts a private server from the Postgres
// binaries on this machine, or from binaries that it downloads once. If that fails too, the error says what to
// install.
//
// A private server listens on a Unix socket in its own directory, which only its user may enter, so it neither
// collides with another Postgres nor can be reached from elsewhere. On Unix it does not outlive the process that
// opened it, however that process ends: a small shell process holds one end of a pipe, and when the pipe closes it
// stops the server and removes the temporary files. On Windows only [DB.Stop] stops the server, and it listens on
// 127.0.0.1.
//
// Use it for development only: the server accepts connections without a password.
package devdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	pingTimeout  = 10 * time.Second // for the server of DATABASE_URL, which should be running
	startTimeout = time.Minute      // for a private server, which replays its log after a crash
	// orphanTimeout is how long to wait for the child processes of a killed server to exit.
	orphanTimeout = 15 * time.Second
)

// Options configures [Open]. The zero value starts a temporary server without logging.
type Options struct {
	// DataDir is the data directory. It is created if it does not exist, initialized if it is empty, and never
	// removed. Defaults to a temporary directory that is removed when the server stops.
	//
	// If the process runs as root, the server runs as the user postgres, or nobody if there is none. A new data
	// directory then belongs to that user, who must be able to enter every directory above it.
	DataDir string
	// Fast trades durability for speed in tests: a crash of the machine may lose or damage the data. A crash of only
	// the server, such as by [DB.Kill], loses nothing. Defaults to false.
	Fast bool
	// Port is a TCP port to listen on at 127.0.0.1 in addition to the Unix socket, for use with psql. Every user of
	// this machine can then connect as superuser. Defaults to 0: the Unix socket only.
	Port int
	// Log receives a line for what is found, downloaded and started. Defaults to no logging.
	Log *slog.Logger
	// Getenv looks up DATABASE_URL, PGBIN and PATH. Defaults to [os.Getenv].
	Getenv func(string) string
}

// DB is a development database. Its methods are safe for concurrent use.
type DB struct {
	// URL is the connection string of a superuser. It is complete, so PGHOST, PGPORT and similar variables have no
	// effect. If DATABASE_URL is set, it is that string, unchanged.
	URL string
	// Source says where the Postgres came from: "DATABASE_URL", the directory of its binaries, or "embedded-postgres
	// download".
	Source string

	mu  sync.Mutex
	srv *server // nil with DATABASE_URL
}

var (
	errNotOurs = errors.New("devdb: the server of DATABASE_URL was not started here and is left alone")
	errStopped = errors.New("devdb: stopped")
)

// Open finds or starts a Postgres and returns once it accepts connections. ctx bounds only the start. The server runs
// until [DB.Stop] or the end of the process, even if the DB becomes unreachable.
//
// If DATABASE_URL is set, it must work; there is no fallback. The same holds for PGBIN, the directory of the binaries
// to use. If the server does not start, the error has the end of its log. Errors contain no connection string and no
// password.
func Open(ctx context.Context, o Options) (*DB, error) {
	return open(ctx, o, localBinaries, download)
}

// open is Open with both sources of binaries as parameters, for tests.
func open(
	ctx context.Context, o Options,
	local func(context.Context, func(string) string) ([]binaries, error),
	download func(context.Context, *slog.Logger) (binaries, error),
) (*DB, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}

	if dsn := o.Getenv("DATABASE_URL"); dsn != "" {
		if err := ping(ctx, dsn); err != nil {
			return nil, err
		}
		o.Log.Info("using the database of DATABASE_URL")
		return &DB{URL: dsn, Source: "DATABASE_URL"}, nil
	}

	found, err := local(ctx, o.Getenv)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		b, err := download(ctx, o.Log)
		if err != nil {
			return nil, fmt.Errorf("%w\n(downloading one failed as well: %w)", errNotFound, err)
		}
		found = []binaries{b}
	}
	bin, err := pick(found, o.DataDir)
	if err != nil {
		return nil, err
	}

	srv, err := newServer(ctx, o, bin.dir)
	if err != nil {
		return nil, err
	}
	if err := srv.up(ctx); err != nil {
		return nil, errors.Join(err, srv.remove())
	}
	o.Log.Info("started Postgres", "binaries", bin.dir, "version", bin.major, "pid", srv.pid())
	return &DB{URL: srv.url(), Source: bin.source, srv: srv}, nil
}

// Stop stops the server that Open started, closing its connections, and removes its temporary files. It does nothing
// with DATABASE_URL or if it was called before.
func (db *DB) Stop() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.srv == nil || db.srv.removed {
		return nil
	}
	return errors.Join(db.srv.halt(false), db.srv.remove())
}

// PID returns the process ID of the server. It returns 0 with DATABASE_URL or if the server is not running.
func (db *DB) PID() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.srv == nil {
		return 0
	}
	return db.srv.pid()
}

// Kill stops the server immediately, like a crash: connections break, and the next start recovers from the log. The
// data is kept for [DB.Restart]. Kill returns an error with DATABASE_URL and after [DB.Stop].
func (db *DB) Kill() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.ours(); err != nil {
		return err
	}
	return db.srv.halt(true)
}

// Restart stops the server if it is running, starts it with the same data at the same URL, and returns once it accepts
// connections. ctx bounds only the start. Restart returns an error with DATABASE_URL and after [DB.Stop].
func (db *DB) Restart(ctx context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.ours(); err != nil {
		return err
	}
	if err := db.srv.halt(false); err != nil {
		return err
	}
	return db.srv.up(ctx)
}

func (db *DB) ours() error {
	switch {
	case db.srv == nil:
		return errNotOurs
	case db.srv.removed:
		return errStopped
	}
	return nil
}

// ping returns an error if the server of DATABASE_URL does not answer. It hides the parser's error: if the password
// has an unescaped character, the parser quotes the rest of it as a host or port.
func ping(ctx context.Context, dsn string) error {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errors.New("devdb: DATABASE_URL is not a connection string for Postgres" +
			" (postgres://user:password@host:port/dbname, with special characters in percent encoding)")
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("devdb: connecting to the database of DATABASE_URL: %w", err)
	}
	return conn.Close(ctx)
}

// up starts the server and returns once it accepts connections. If it fails, no server is left running.
func (s *server) up(ctx context.Context) error {
	before := fileSize(s.logFile())
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	exited, err := s.start(ctx)
	if err != nil {
		return fmt.Errorf("devdb: starting Postgres: %w%s", err, s.logTail(before))
	}
	cfg, err := pgx.ParseConfig(s.url())
	if err != nil {
		return errors.Join(fmt.Errorf("devdb: starting Postgres: %w", err), s.halt(true))
	}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	orphansEnd := time.Now().Add(orphanTimeout)
	for {
		conn, connErr := pgx.ConnectConfig(ctx, cfg)
		if connErr == nil {
			return conn.Close(ctx)
		}
		select {
		case <-poll.C:
		case <-exited:
			tail := s.logTail(before)
			// It takes a while until the child processes of a killed server exit. Until then Postgres refuses to
			// start in their directory.
			if !strings.Contains(tail, "pre-existing shared memory block") || time.Now().After(orphansEnd) {
				return fmt.Errorf("devdb: Postgres exited while starting%s", tail)
			}
			<-poll.C
			before = fileSize(s.logFile())
			if exited, err = s.start(ctx); err != nil {
				return fmt.Errorf("devdb: starting Postgres: %w%s", err, s.logTail(before))
			}
		case <-ctx.Done():
			err := fmt.Errorf("devdb: Postgres does not accept connections: %w: %w%s", ctx.Err(), connErr, s.logTail(before))
			return errors.Join(err, s.halt(true))
		}
	}
}

// url sets every part, so that none comes from the environment.
func (s *server) url() string {
	q := url.Values{"host": {s.host()}, "port": {strconv.Itoa(s.port)}, "sslmode": {"disable"}}
	if os.Getenv("PGSERVICE") != "" {
		// pgx reads the service before it applies this string, and fails if there is no service of that name. So name
		// an empty one, but only if PGSERVICE is set, because psql before 18 rejects servicefile.
		q.Set("service", "devdb")
		q.Set("servicefile", s.serviceFile())
	}
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: q.Encode()}).String()
}

func (s *server) logFile() string     { return filepath.Join(s.dir, "server.log") }
func (s *server) serviceFile() string { return filepath.Join(s.dir, "pg_service.conf") }

// newFiles creates our files in the temporary directory, before the directory is given to the server's user.
func (s *server) newFiles() error {
	return errors.Join(
		os.WriteFile(s.logFile(), nil, 0o644),
		os.WriteFile(s.serviceFile(), []byte("[devdb]\n"), 0o644),
	)
}

// args returns the server's arguments except its addresses.
func (s *server) args() []string {
	args := []string{"-D", s.data, "-p", strconv.Itoa(s.port), "-c", "max_connections=300"}
	if s.fast {
		// Not synchronous_commit=off: it adds little speed, and would lose the last commits when only the server
		// crashes, which fault tests rely on.
		args = append(args, "-F", "-c", "full_page_writes=off")
	}
	return args
}

func initdbArgs(data string) []string {
	return []string{
		"-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync",
	}
}

// needsInit reports whether data is an empty directory, which initdb can fill. It returns an error if data contains
// something other than a database.
func needsInit(data string) (bool, error) {
	entries, err := os.ReadDir(data)
	if err != nil {
		return false, fmt.Errorf("devdb: data directory: %w", err)
	}
	if len(entries) == 0 {
		return true, nil
	}
	if dataMajor(data) == 0 {
		return false, fmt.Errorf("devdb: %q is neither empty nor the data directory of a Postgres", data)
	}
	return false, nil
}

// dataMajor returns the major version of the Postgres that created a data directory, or 0 if it is not one.
func dataMajor(data string) int {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	major, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return major
}

// logTail returns the end of the log, without its first n bytes: what the server logged while in use may contain
// statements of its users.
func (s *server) logTail(n int64) string {
	b, err := os.ReadFile(s.logFile())
	if err != nil || int64(len(b)) <= n {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b[n:])), "\n")
	return "; the end of its log:\n" + strings.Join(lines[max(0, len(lines)-15):], "\n")
}

func fileSize(name string) int64 {
	fi, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return fi.Size()
}
