package devdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// server is a Postgres with one data directory and one address. It is run by pg_ctl, which drops administrator
// rights; Postgres refuses to run with them.
type server struct {
	bin, data, dir string // directories of binaries, data, and temporary files: log, usually data
	port           int
	fast           bool
	removed        bool
}

func newServer(ctx context.Context, o Options, bin string) (_ *server, err error) {
	s := &server{bin: bin, port: o.Port, fast: o.Fast}
	if s.port == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("devdb: %w", err)
		}
		s.port = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	if s.dir, err = os.MkdirTemp("", "devdb-"); err != nil {
		return nil, fmt.Errorf("devdb: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove())
		}
	}()
	if err := s.newFiles(); err != nil {
		return nil, fmt.Errorf("devdb: %w", err)
	}
	s.data = filepath.Join(s.dir, "data")
	fresh := true
	if o.DataDir != "" {
		if s.data, err = filepath.Abs(o.DataDir); err != nil {
			return nil, fmt.Errorf("devdb: data directory: %w", err)
		}
		if err := os.MkdirAll(s.data, 0o700); err != nil {
			return nil, fmt.Errorf("devdb: data directory: %w", err)
		}
		if fresh, err = needsInit(s.data); err != nil {
			return nil, err
		}
	}
	if fresh {
		if err := s.run(ctx, "initdb.exe", initdbArgs(s.data)...); err != nil {
			return nil, fmt.Errorf("devdb: initdb: %w%s", err, s.logTail(0))
		}
	}
	return s, nil
}

func (s *server) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Env = cleanEnv()
	out, err := cmd.CombinedOutput()
	if err != nil && name == "initdb.exe" {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return err
}

// start starts the server. The channel is never closed: pg_ctl waits until the server is up.
func (s *server) start(ctx context.Context) (<-chan struct{}, error) {
	options := `-c listen_addresses=127.0.0.1 ` + strings.Join(s.args()[2:], " ") // without -D, which pg_ctl adds
	// Do not read the output of pg_ctl: the server inherits it, so reading would not end.
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "pg_ctl.exe"), "start", "-w", "-D", s.data, "-l", s.logFile(), "-o", options)
	cmd.Env = cleanEnv()
	return make(chan struct{}), cmd.Run()
}

func (s *server) host() string { return "127.0.0.1" }

func (s *server) pid() int {
	b, _ := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	first, _, _ := strings.Cut(string(b), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(first))
	return pid
}

func (s *server) halt(now bool) error {
	if s.pid() == 0 {
		return nil
	}
	mode := "fast"
	if now {
		mode = "immediate"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.run(ctx, "pg_ctl.exe", "stop", "-w", "-D", s.data, "-m", mode); err != nil {
		return fmt.Errorf("devdb: stopping Postgres: %w", err)
	}
	return nil
}

func (s *server) remove() error {
	s.removed = true
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("devdb: %w", err)
	}
	return nil
}
