// Package devdb finds or starts a Postgres with no set-up, for the demo and the tests.
//
// [Open] takes the first of: the database of DATABASE_URL; a private server run from Postgres
// binaries found on this machine; the same from binaries that are downloaded once; an error that says
// what to install.
//
// A private server listens on a Unix socket in a directory of its own, which only its user may enter,
// so it can neither collide with another Postgres nor be reached from elsewhere. On Unix it does not
// outlive the process that opened it, however that process ends: a small shell process (see leash in
// server_unix.go) holds one end of a pipe, sees it close, stops the server and removes what is temporary.
// Windows has no such process: there only [DB.Stop] stops the server, and it listens on 127.0.0.1.
//
// It is for development alone: the server trusts whoever reaches it.
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
	pingTimeout  = 10 * time.Second // for the server of DATABASE_URL, which runs already or does not
	startTimeout = time.Minute      // for a server of ours: after a crash it first replays its log
	// orphanTimeout is for the children of a server that was killed.
	orphanTimeout = 15 * time.Second
)

// Options for [Open]. The zero value is a temporary server that writes no log.
type Options struct {
	// DataDir is the directory of the database. It is made when absent, filled when empty, and kept.
	// Defaults to a temporary one that is removed when the server stops.
	//
	// As root the server runs as the user postgres, else nobody: the directory then becomes that
	// user's, who must be able to enter every directory above it.
	DataDir string
	// Fast gives up durability for speed, for tests: a crash of the machine may lose or damage the
	// data. One of the server alone, as by [DB.Kill], loses nothing. Defaults to false.
	Fast bool
	// Port is a TCP port to listen on at 127.0.0.1 besides the Unix socket, for people who want psql.
	// Every user of this machine may then connect as superuser. Defaults to 0: the Unix socket only.
	Port int
	// Log receives what is found, downloaded and started. Defaults to silence.
	Log *slog.Logger
	// Getenv looks up DATABASE_URL, PGBIN and PATH. Defaults to [os.Getenv].
	Getenv func(string) string
}

// DB is a database to develop on. Its methods may be called from several goroutines.
type DB struct {
	// URL is the complete connection string of a superuser. Being complete, it leaves PGHOST, PGPORT
	// and the like in the environment without effect. With DATABASE_URL it is that, as given.
	URL string
	// Source says where the Postgres came from, for people: "DATABASE_URL", the directory of its
	// binaries, or "embedded-postgres download".
	Source string

	mu  sync.Mutex
	srv *server // nil: not ours
}

var (
	errNotOurs = errors.New("devdb: the server of DATABASE_URL was not started here and is left alone")
	errStopped = errors.New("devdb: stopped")
)

// Open finds or starts a Postgres and returns once it accepts connections. ctx bounds the start alone;
// the server runs until [DB.Stop] or the end of the process, also when the DB is forgotten.
//
// DATABASE_URL, when set, must work: there is no falling back from it, nor from PGBIN, the directory of
// the binaries to use. A server that does not come up is an error with the end of its log. No error
// holds a connection string or a password.
func Open(ctx context.Context, o Options) (*DB, error) {
	return open(ctx, o, localBinaries, download)
}

// open is Open with both ways to binaries as parameters, for the tests.
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

// Stop stops the server that Open started and removes what is temporary; connections still open are
// cut. It leaves the server of DATABASE_URL alone. Calls after the first do nothing.
func (db *DB) Stop() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.srv == nil || db.srv.removed {
		return nil
	}
	return errors.Join(db.srv.halt(false), db.srv.remove())
}

// PID is the process id of the running server, or 0 when it is not ours or does not run.
func (db *DB) PID() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.srv == nil {
		return 0
	}
	return db.srv.pid()
}

// Kill takes the server down at once, as a crash would: connections are cut, and the next start recovers
// from its log. The data stays for [DB.Restart]. It is an error with DATABASE_URL and after [DB.Stop].
func (db *DB) Kill() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.ours(); err != nil {
		return err
	}
	return db.srv.halt(true)
}

// Restart brings the server up again on the same data at the same URL, after stopping it if it still
// runs, and returns once it accepts connections. ctx bounds the start alone. It is an error with
// DATABASE_URL and after [DB.Stop].
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

// ping says whether the server of DATABASE_URL answers. What cannot be parsed is not quoted: with a
// stray character in the password the parser takes the rest of it for a host or a port, and says so.
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
		return fmt.Errorf("devdb: connect to the database of DATABASE_URL: %w", err)
	}
	return conn.Close(ctx)
}

// up starts the server and returns once it accepts connections. When that fails, no server is left.
func (s *server) up(ctx context.Context) error {
	before := fileSize(s.logFile())
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	exited, err := s.start(ctx)
	if err != nil {
		return fmt.Errorf("devdb: start Postgres: %w%s", err, s.logTail(before))
	}
	cfg, err := pgx.ParseConfig(s.url())
	if err != nil {
		return errors.Join(fmt.Errorf("devdb: start Postgres: %w", err), s.halt(true))
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
			// The children of a server that was killed notice after a while, and until then
			// Postgres refuses to start in their directory.
			if !strings.Contains(tail, "pre-existing shared memory block") || time.Now().After(orphansEnd) {
				return fmt.Errorf("devdb: Postgres ended while starting%s", tail)
			}
			<-poll.C
			before = fileSize(s.logFile())
			if exited, err = s.start(ctx); err != nil {
				return fmt.Errorf("devdb: start Postgres: %w%s", err, s.logTail(before))
			}
		case <-ctx.Done():
			err := fmt.Errorf("devdb: Postgres does not accept connections: %w: %w%s", ctx.Err(), connErr, s.logTail(before))
			return errors.Join(err, s.halt(true))
		}
	}
}

// url names every part, so that none is taken from the environment.
func (s *server) url() string {
	q := url.Values{"host": {s.host()}, "port": {strconv.Itoa(s.port)}, "sslmode": {"disable"}}
	if os.Getenv("PGSERVICE") != "" {
		// pgx reads the service before it looks at what this string overrides, and fails when there is
		// none of that name; so name an empty one. Only then, since psql before 18 refuses servicefile.
		q.Set("service", "devdb")
		q.Set("servicefile", s.serviceFile())
	}
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: q.Encode()}).String()
}

func (s *server) logFile() string     { return filepath.Join(s.dir, "server.log") }
func (s *server) serviceFile() string { return filepath.Join(s.dir, "pg_service.conf") }

// newFiles makes the files of ours in the temporary directory, before that may become another user's.
func (s *server) newFiles() error {
	return errors.Join(
		os.WriteFile(s.logFile(), nil, 0o644),
		os.WriteFile(s.serviceFile(), []byte("[devdb]\n"), 0o644),
	)
}

// args are the server's settings besides its addresses.
func (s *server) args() []string {
	args := []string{"-D", s.data, "-p", strconv.Itoa(s.port), "-c", "max_connections=200"}
	if s.fast {
		// Not synchronous_commit=off: on top of these it gains little, and would lose the last commits in
		// a crash of the server alone, which is what tests of faults bring about.
		args = append(args, "-F", "-c", "full_page_writes=off")
	}
	return args
}

func initdbArgs(data string) []string {
	return []string{
		"-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions",
	}
}

// needsInit reports whether data is an empty directory for initdb to fill. One that holds something
// other than a database is an error: it is not ours to fill.
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

// dataMajor is the major version of the Postgres that made a data directory, 0 when none did.
func dataMajor(data string) int {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	major, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return major
}

// logTail is the end of what the server logged after the first n bytes: not earlier, since what it
// logged while in use may quote the statements of its users.
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
