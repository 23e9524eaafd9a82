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

// leash runs beside the server for as long as it exists, with the other end of its standard input held
// by this process alone. A line there means that the server is down already. End of file means that
// this process died, in whatever way: then the leash ends what is in its process group, which is the
// server or initdb, waits for the server to be gone, and removes the temporary directory.
//
// It signals the group, of which it is the leader, because that id cannot have gone to anybody else. It
// waits for postmaster.pid to go rather than for the process, which nobody may be there to reap. The
// last signal is an immediate shutdown, for a server that does not manage a fast one.
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

// server is a Postgres on one data directory, at one address.
type server struct {
	bin, data, dir string // the binaries, the database, and what is temporary: socket, log, often data
	port           int
	tcp, fast      bool
	cred           *syscall.Credential // whom it runs as; nil: the user of this process
	lock           *os.File            // of a kept data directory, else nil
	leash          *exec.Cmd
	pipe           *os.File // to the leash
	proc           *exec.Cmd
	exited         chan struct{} // closed when proc was reaped
	removed        bool
}

// newServer prepares all that start needs: directories, leash, database. When it fails it leaves nothing.
func newServer(ctx context.Context, o Options, bin string) (_ *server, err error) {
	s := &server{bin: bin, port: o.Port, tcp: o.Port != 0, fast: o.Fast}
	if !s.tcp {
		s.port = 5432 // names the socket
	}
	username := ""
	if s.cred, username, err = serverUser(); err != nil {
		return nil, err
	}
	// The path of a socket may have about 100 bytes, and a temporary directory of root's own may be
	// closed to other users: neither holds for TMPDIR in general.
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
		return nil, fmt.Errorf("devdb: start /bin/sh: %w", err)
	}
	if fresh {
		cmd := s.command(ctx, filepath.Join(bin, "initdb"), initdbArgs(s.data)...)
		// Interrupted it takes its half-made database away again.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err := s.run(cmd); err != nil {
			return nil, fmt.Errorf("devdb: initdb: %w%s", err, s.logTail(0))
		}
	}
	return s, nil
}

// serverUser is whom the server runs as: for root, whom Postgres refuses, another user of this machine.
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
	return nil, "", errors.New("devdb: Postgres does not run as root, and this machine has neither a user postgres nor nobody")
}

func (s *server) chown(name string) error {
	if s.cred == nil {
		return nil
	}
	return os.Chown(name, int(s.cred.Uid), int(s.cred.Gid))
}

// keepData prepares a data directory that stays: makes it, makes sure that the server's user can use it,
// and locks it. It reports whether the directory is empty.
func (s *server) keepData(ctx context.Context, dir, username string) (fresh bool, err error) {
	if s.data, err = filepath.Abs(dir); err != nil {
		return false, fmt.Errorf("devdb: data directory: %w", err)
	}
	parent := filepath.Dir(s.data)
	if err := s.checkEnterable(ctx, parent, username); err != nil {
		return false, err // before anything is made
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
			return false, fmt.Errorf("devdb: data directory %q belongs to user id %d, but started by root the server runs as %q;"+
				" start it as its owner, or give it to that user with chown -R", s.data, owner, username)
		}
	}
	if err := s.checkEnterable(ctx, parent, username); err != nil {
		return false, err // the umask may have closed what was just made
	}
	if err := s.lockData(ctx); err != nil {
		return false, err
	}
	return fresh, s.clearStalePID(ctx)
}

// checkEnterable makes sure that the server's user can pass every directory down to dir that exists.
// That user itself is asked, so that access lists and the like count too.
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
		return fmt.Errorf("devdb: data directory %q: started by root the server runs as the user %q, who cannot enter %q;"+
			" choose a place that every user can enter, such as below /var/lib or /tmp", s.data, username, closed)
	}
	return err
}

// lockData keeps two processes from starting servers on one data directory. The lock is on the directory
// itself, and the leash inherits it: so it lasts until the server of a killed process is down as well,
// and a new process waits that long.
func (s *server) lockData(ctx context.Context) (err error) {
	if s.lock, err = os.Open(s.data); err != nil {
		return fmt.Errorf("devdb: data directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		// A file system that knows no locks leaves it to Postgres, which has a weaker one.
		if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("devdb: data directory %q is in use by another process; stop that one or choose another directory", s.data)
		}
	}
}

// clearStalePID deals with the postmaster.pid of a server that crashed. Postgres ignores it when no
// process has that id, but after a reboot or in a container one often has, and Postgres then refuses to
// start. So when nothing answers at the address in the file, its process id becomes ours: Postgres
// knows that its parent is no other server, and still makes the rest of its checks.
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
		return nil // Postgres says what is wrong with it
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
		return nil // nowhere to ask
	}
	if host == "*" {
		host = "localhost"
	}
	if socketDir != "" && dial("unix", filepath.Join(socketDir, ".s.PGSQL."+port)) ||
		host != "" && dial("tcp", net.JoinHostPort(host, port)) {
		return fmt.Errorf("devdb: data directory %q is in use by another Postgres, process %s; stop that one or choose another directory",
			s.data, lines[0])
	}
	lines[0] = strconv.Itoa(os.Getpid())
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		return fmt.Errorf("devdb: data directory: %w", err)
	}
	return nil
}

// command prepares a child: as the server's user, in a directory that user can enter, with an empty
// environment, and in a process group apart from ours, because Ctrl-C in a terminal goes to the whole
// group and the server has to outlive our own shutdown.
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

// held keeps every server with a leash reachable: the garbage collector would close the pipe of one that
// nobody refers to, and the leash take that for the end of this process.
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

// run runs cmd to its end, its output in the log: a file, since whoever reads ours would wait for every
// process that inherited it.
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

// start starts the server. The channel is closed when it has ended.
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
		_ = cmd.Wait() // what there is to know of its end is in the log
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

// halt ends the server if it runs, and waits for that: in good order, or at once like a crash, and
// harder when it does not obey.
func (s *server) halt(now bool) error {
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}
	if now {
		signals = signals[1:]
	}
	for _, sig := range signals {
		if s.pid() == 0 {
			return nil
		}
		// A process that has ended meanwhile is what we want, and one that was stopped must first go on.
		_ = s.proc.Process.Signal(sig)
		_ = s.proc.Process.Signal(syscall.SIGCONT)
		select {
		case <-s.exited:
		case <-time.After(15 * time.Second):
		}
	}
	if pid := s.pid(); pid != 0 {
		return fmt.Errorf("devdb: Postgres, process %d, does not end", pid)
	}
	return nil
}

// remove lets the leash remove the temporary directory and end. The server must be down.
func (s *server) remove() error {
	s.removed = true
	if s.leash != nil {
		held.Delete(s)
		_, _ = s.pipe.WriteString("\n") // fails when somebody ended the leash; RemoveAll is there for that
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
