//go:build unix

package devdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// leash is a shell script that runs for as long as the server exists. Only this process holds the other end of its
// standard input. A line there means that the server has been stopped. End of file means that this process died:
// the leash then stops its process group, which is the server or initdb, waits until the server is gone, and removes
// the temporary directory.
//
// It signals the group, of which it is the leader, because that ID cannot have been reused. It waits for
// postmaster.pid to disappear rather than for the process, because nobody may be left to reap the process. The last
// signal requests an immediate shutdown, in case the fast one takes too long.
const leash = `
trap '' HUP INT QUIT TERM
read -r _ || {
	kill -INT -$$
	kill -CONT -$$
	n=0
	while [ -e "$1/postmaster.pid" ] && [ $n -lt 200 ]; do
		[ $n -ne 100 ] || kill -QUIT -$$
		sleep 0.1
		n=$((n + 1))
	done
}
rm -rf "$2" || { sleep 1; rm -rf "$2"; }
`

// server is a Postgres with one data directory and one address.
type server struct {
	bin, data, dir string // directories of binaries, data, and temporary files: socket, log, usually data
	port           int
	tcp, fast      bool
	cred           *syscall.Credential // the user it runs as; nil means the user of this process
	lock           *os.File            // on a kept data directory, otherwise nil
	leash          *exec.Cmd
	pipe           *os.File // to the leash
	proc           *exec.Cmd
	exited         chan struct{} // closed when proc was reaped
	removed        bool
}

// newServer prepares directories, leash and database for start. If it fails, it leaves nothing behind.
func newServer(ctx context.Context, o Options, bin string) (_ *server, err error) {
	s := &server{bin: bin, port: o.Port, tcp: o.Port != 0, fast: o.Fast}
	if !s.tcp {
		s.port = 5432 // names the socket
	}
	username := ""
	if s.cred, username, err = serverUser(); err != nil {
		return nil, err
	}
	// Not TMPDIR: a socket path is limited to about 100 bytes, and other users may not be able to enter root's
	// temporary directory.
	if s.dir, err = os.MkdirTemp("/tmp", "devdb-"); err != nil {
		return nil, fmt.Errorf("devdb: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove())
		}
	}()
	if err := errors.Join(s.newFiles(), s.chown(s.dir)); err != nil {
		return nil, fmt.Errorf("devdb: %w", err)
	}

	s.data = filepath.Join(s.dir, "data")
	fresh := true
	if o.DataDir != "" {
		if fresh, err = s.keepData(ctx, o.DataDir, username); err != nil {
			return nil, err
		}
	}
	if err := s.startLeash(); err != nil {
		return nil, fmt.Errorf("devdb: starting /bin/sh: %w", err)
	}
	if fresh {
		cmd := s.command(ctx, filepath.Join(bin, "initdb"), initdbArgs(s.data)...)
		// On an interrupt initdb removes its unfinished database.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err := s.run(cmd); err != nil {
			return nil, fmt.Errorf("devdb: initdb: %w%s", err, s.logTail(0))
		}
	}
	return s, nil
}

// serverUser returns the user to run the server as, or nil for the current user. Postgres refuses to run as root, so
// root runs it as another user of this machine.
func serverUser() (*syscall.Credential, string, error) {
	if os.Geteuid() != 0 {
		return nil, "", nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseInt(u.Uid, 10, 64) // nobody is -2 on some systems
		gid, gidErr := strconv.ParseInt(u.Gid, 10, 64)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, name, nil
		}
	}
	return nil, "", errors.New("devdb: Postgres does not run as root," +
		" and this machine has no user named postgres or nobody")
}

func (s *server) chown(name string) error {
	if s.cred == nil {
		return nil
	}
	return os.Chown(name, int(s.cred.Uid), int(s.cred.Gid))
}

// keepData prepares a data directory that is kept: it creates the directory, makes sure that the server's user can
// use it, and locks it. It reports whether the directory is empty.
func (s *server) keepData(ctx context.Context, dir, username string) (fresh bool, err error) {
	if s.data, err = filepath.Abs(dir); err != nil {
		return false, fmt.Errorf("devdb: data directory: %w", err)
	}
	parent := filepath.Dir(s.data)
	if err := s.checkEnterable(ctx, parent, username); err != nil {
		return false, err // before creating anything
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return false, fmt.Errorf("devdb: data directory: %w", err)
	}
	if err := os.Mkdir(s.data, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false, fmt.Errorf("devdb: data directory: %w", err)
	}
	if fresh, err = needsInit(s.data); err != nil {
		return false, err
	}
	if fresh {
		if err := s.chown(s.data); err != nil {
			return false, fmt.Errorf("devdb: data directory: %w", err)
		}
	} else if fi, err := os.Stat(s.data); err == nil && s.cred != nil {
		if owner := fi.Sys().(*syscall.Stat_t).Uid; owner != s.cred.Uid {
			return false, fmt.Errorf("devdb: data directory %q belongs to user ID %d, but when started by root"+
				" the server runs as %q; start it as the owner, or give it to that user with chown -R",
				s.data, owner, username)
		}
	}
	if err := s.checkEnterable(ctx, parent, username); err != nil {
		return false, err // the umask may have closed the new directories
	}
	if err := s.lockData(ctx); err != nil {
		return false, err
	}
	return fresh, s.clearStalePID(ctx)
}

// checkEnterable returns an error if the server's user cannot enter dir or a directory above it. Directories that do
// not exist are skipped. The check runs as that user, so that access control lists count too.
func (s *server) checkEnterable(ctx context.Context, dir, username string) error {
	if s.cred == nil {
		return nil
	}
	var path []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			path = append(path, d)
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	slices.Reverse(path)
	const ask = `for d; do [ -x "$d" ] || { printf %s "$d"; exit 1; }; done`
	cmd := s.command(ctx, "/bin/sh", append([]string{"-c", ask, "sh"}, path...)...)
	closed, err := cmd.Output()
	if len(closed) > 0 {
		return fmt.Errorf("devdb: data directory %q: when started by root the server runs as the user %q,"+
			" who cannot enter %q; choose a directory that every user can enter, such as one below /var/lib or /tmp",
			s.data, username, closed)
	}
	return err
}

// lockData prevents two processes from starting servers on one data directory. The lock is on the directory itself,
// and the leash inherits it. So it lasts until the server of a killed process is down as well, and a new process
// waits that long.
func (s *server) lockData(ctx context.Context) (err error) {
	if s.lock, err = os.Open(s.data); err != nil {
		return fmt.Errorf("devdb: data directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		// If the file system does not support locks, Postgres's own weaker check must do.
		if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("devdb: data directory %q is in use by another process;"+
				" stop it or choose another directory", s.data)
		}
	}
}

// clearStalePID handles the postmaster.pid of a server that crashed. Postgres ignores the file if no process has that
// ID, but after a reboot or in a container another process often has it, and Postgres then refuses to start. So if
// nothing answers at the address in the file, clearStalePID replaces the process ID with ours: Postgres knows that
// its parent is not another server, and still makes its other checks.
func (s *server) clearStalePID(ctx context.Context) error {
	name := filepath.Join(s.data, "postmaster.pid")
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("devdb: data directory: %w", err)
	}
	lines := strings.Split(string(b), "\n") // pid, data directory, start time, port, socket directory, TCP address, …
	if len(lines) < 6 {
		return nil // Postgres reports what is wrong with it
	}
	dial := func(network, address string) bool {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	port, socketDir, host := lines[3], lines[4], lines[5]
	if socketDir == "" && host == "" {
		return nil // no address to try
	}
	if host == "*" {
		host = "localhost"
	}
	if socketDir != "" && dial("unix", filepath.Join(socketDir, ".s.PGSQL."+port)) ||
		host != "" && dial("tcp", net.JoinHostPort(host, port)) {
		return fmt.Errorf("devdb: data directory %q is in use by another Postgres, process %s;"+
			" stop it or choose another directory", s.data, lines[0])
	}
	lines[0] = strconv.Itoa(os.Getpid())
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		return fmt.Errorf("devdb: data directory: %w", err)
	}
	return nil
}

// command prepares a child process: as the server's user, in a directory that the user can enter, with a clean
// environment, and in a separate process group, because Ctrl-C in a terminal signals the whole group and the server
// must outlive our own shutdown.
func (s *server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = cleanEnv()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	if s.leash != nil {
		cmd.SysProcAttr.Pgid = s.leash.Process.Pid
	}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// held keeps every server with a leash reachable. Otherwise the garbage collector would close the pipe of an
// unreachable server, which the leash would take for the end of this process.
var held sync.Map

func (s *server) startLeash() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := s.command(context.Background(), "/bin/sh", "-c", leash, "sh", s.data, s.dir)
	cmd.Stdin = r
	if s.lock != nil {
		cmd.ExtraFiles = []*os.File{s.lock}
	}
	if err := cmd.Start(); err != nil {
		w.Close()
		return err
	}
	s.leash, s.pipe = cmd, w
	held.Store(s, struct{}{})
	return nil
}

// run runs cmd and waits for it. Its output goes to the log file rather than our own output: a reader of that would
// wait for every process that inherited it.
func (s *server) run(cmd *exec.Cmd) error {
	if err := s.launch(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

func (s *server) launch(cmd *exec.Cmd) error {
	log, err := os.OpenFile(s.logFile(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Start()
}

// start starts the server. The channel is closed when it has exited.
func (s *server) start(context.Context) (<-chan struct{}, error) {
	addresses := "listen_addresses="
	if s.tcp {
		addresses += "127.0.0.1"
	}
	cmd := s.command(context.Background(), filepath.Join(s.bin, "postgres"), append(s.args(), "-k", s.dir, "-c", addresses)...)
	if err := s.launch(cmd); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the log has the reason
		close(exited)
	}()
	s.proc, s.exited = cmd, exited
	return exited, nil
}

func (s *server) host() string { return s.dir }

func (s *server) pid() int {
	if s.proc == nil {
		return 0
	}
	select {
	case <-s.exited:
		return 0
	default:
		return s.proc.Process.Pid
	}
}

// halt stops the server if it is running and waits until it has exited. It requests a fast shutdown, or with now an
// immediate one like a crash, and escalates if the server does not exit.
func (s *server) halt(now bool) error {
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}
	if now {
		signals = signals[1:]
	}
	for _, sig := range signals {
		if s.pid() == 0 {
			return nil
		}
		// Ignore errors: the process may have exited. One that was stopped by SIGSTOP must first continue.
		_ = s.proc.Process.Signal(sig)
		_ = s.proc.Process.Signal(syscall.SIGCONT)
		select {
		case <-s.exited:
		case <-time.After(15 * time.Second):
		}
	}
	if pid := s.pid(); pid != 0 {
		return fmt.Errorf("devdb: Postgres, process %d, does not exit", pid)
	}
	return nil
}

// remove makes the leash remove the temporary directory and exit. The server must have been stopped.
func (s *server) remove() error {
	s.removed = true
	if s.leash != nil {
		held.Delete(s)
		_, _ = s.pipe.WriteString("\n") // fails if the leash was killed; RemoveAll below handles that
		s.pipe.Close()
		_ = s.leash.Wait()
	}
	if s.lock != nil {
		s.lock.Close()
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("devdb: %w", err)
	}
	return nil
}
