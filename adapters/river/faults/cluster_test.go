//go:build unix

package faults_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
)

// A cluster is a set of processes that run schedules on one database.
type cluster struct {
	t        testing.TB
	server   *server
	database string
	params   map[string]string // of every connection string, including the test's own
	pool     *pgxpool.Pool     // the test's own
	proxied  bool              // each node has its own proxy
	provider string
	ahead    time.Duration // of the database's clock, against the processes'
	// retention is [river.Config].Retention of the processes.
	retention time.Duration

	mu    sync.Mutex
	nodes []*node
	count int
}

// newCluster returns a cluster on a new database, without processes. With clock, [cluster.setClockAhead] can shift the
// database's clock.
func newCluster(t testing.TB, s *server, clock bool) *cluster {
	t.Helper()
	c := &cluster{t: t, server: s, database: s.database(t), provider: provider}
	if clock {
		c.params = map[string]string{"search_path": clockPath}
	}
	url, err := s.urlOf(c.database, c.params)
	require.NoError(t, err)
	c.pool = newPool(t, url)
	return c
}

// A node is a process that runs schedules.
type node struct {
	id    string
	jobs  []job
	proxy *proxy // nil if it connects directly
	log   string // path of its log file

	cmd     *exec.Cmd
	started chan struct{} // closed when the process has started
	exited  chan struct{}
}

// launch starts a process and waits until it runs the schedules.
func (c *cluster) launch(all []job) *node {
	c.t.Helper()
	n := c.spawn(all, nil)
	c.awaitStart(n)
	return n
}

func (c *cluster) awaitStart(n *node) {
	c.t.Helper()
	select {
	case <-n.started:
	case <-n.exited:
		c.t.Fatalf("%s exited during its start; its log:\n%s", n.id, tail(n.readLog(c.t), 10))
	case <-time.After(time.Minute):
		c.t.Fatalf("%s did not start; its log:\n%s", n.id, tail(n.readLog(c.t), 10))
	}
}

// spawn starts a process without waiting for it. If p is nil and the cluster is proxied, the process gets a new proxy.
func (c *cluster) spawn(all []job, p *proxy) *node {
	c.t.Helper()
	c.mu.Lock()
	c.count++
	n := &node{
		id: fmt.Sprintf("node-%d", c.count), jobs: all, proxy: p,
		started: make(chan struct{}), exited: make(chan struct{}),
	}
	c.mu.Unlock()
	// With that a process has up to five connections; many processes run at once.
	params := map[string]string{"pool_max_conns": "2"}
	for key, value := range c.params {
		params[key] = value
	}
	if c.proxied && n.proxy == nil {
		n.proxy = newProxy(c.t, c.server.socket(c.t), all)
	}
	if n.proxy != nil {
		for key, value := range n.proxy.params() {
			params[key] = value
		}
	}
	url, err := c.server.urlOf(c.database, params)
	require.NoError(c.t, err)
	cfg, err := json.Marshal(childConfig{Provider: c.provider, ID: n.id, URL: url, Jobs: all, Retention: c.retention})
	require.NoError(c.t, err)
	n.log = filepath.Join(c.t.TempDir(), n.id+".log")
	log, err := os.Create(n.log)
	require.NoError(c.t, err)
	defer log.Close()
	exe, err := os.Executable()
	require.NoError(c.t, err)

	n.cmd = exec.Command(exe)
	n.cmd.Env = []string{childEnv + "=" + string(cfg)}
	n.cmd.Stdout, n.cmd.Stderr = &closeOnWrite{ch: n.started}, log
	// A process group of its own: if the test's process dies while this one is stopped and cannot read its leash,
	// the kernel ends it as a stopped member of an orphaned group.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	leash, err := n.cmd.StdinPipe()
	require.NoError(c.t, err)
	require.NoError(c.t, n.cmd.Start())
	go func() {
		_ = n.cmd.Wait() // most processes are killed
		leash.Close()
		close(n.exited)
	}()
	c.mu.Lock()
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	c.t.Cleanup(func() {
		n.kill()
		if c.t.Failed() {
			c.t.Logf("end of the log of %s:\n%s", n.id, tail(n.readLog(c.t), 10))
		}
	})
	return n
}

// closeOnWrite is a writer that closes ch on the first write.
type closeOnWrite struct {
	once sync.Once
	ch   chan struct{}
}

func (w *closeOnWrite) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.ch) })
	return len(p), nil
}

var _ io.Writer = (*closeOnWrite)(nil)

func (n *node) signal(sig syscall.Signal) { _ = n.cmd.Process.Signal(sig) }

// kill ends the process as a crash would, even if it is frozen.
func (n *node) kill() {
	n.signal(syscall.SIGKILL)
	<-n.exited
}

// terminate asks the process to shut down.
func (n *node) terminate() {
	n.signal(syscall.SIGTERM)
	select {
	case <-n.exited:
	case <-time.After(15 * time.Second): // longer than the process takes for a hard stop
		n.kill()
	}
}

func (n *node) freeze() { n.signal(syscall.SIGSTOP) }
func (n *node) thaw()   { n.signal(syscall.SIGCONT) }

func (n *node) alive() bool {
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *node) pid() int { return n.cmd.Process.Pid }

func (n *node) readLog(t testing.TB) string {
	b, err := os.ReadFile(n.log)
	if err != nil {
		t.Error(err)
	}
	return string(bytes.TrimSpace(b))
}

// tail returns the last n lines, shortened.
func tail(s string, n int) string {
	lines := strings.Split(s, "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		lines[i] = line[:min(len(line), 240)]
	}
	return strings.Join(lines, "\n")
}

// living returns the processes that are running or frozen.
func (c *cluster) living() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return !n.alive() })
}

// leader waits until a living process leads, and returns that process.
func (c *cluster) leader() (leader *node) {
	c.t.Helper()
	until(c.t, time.Minute, "a living process leads", func() bool {
		leader = c.tryLeader()
		return leader != nil
	})
	return leader
}

// tryLeader returns nil if no living process leads or the database does not answer.
func (c *cluster) tryLeader() *node {
	var id string
	err := c.pool.QueryRow(c.t.Context(), `SELECT leader_id FROM river.river_leader WHERE expires_at > now()`).Scan(&id)
	if err != nil {
		return nil
	}
	for _, n := range c.living() {
		if strings.Contains(id, fmt.Sprintf("_%d_", n.pid())) {
			return n
		}
	}
	return nil
}

// now returns the database's time.
func (c *cluster) now() time.Time {
	c.t.Helper()
	return scalar[time.Time](c.t, c.pool, `SELECT clock_timestamp()`).UTC()
}

// awaitPhase waits until the given phase after a tick.
func (c *cluster) awaitPhase(every, phase time.Duration) {
	c.t.Helper()
	now := c.now()
	at := now.Truncate(every).Add(phase)
	if at.Before(now) {
		at = at.Add(every)
	}
	pass(c.t, at.Sub(now))
}

// setClockAhead shifts the database's clock.
func (c *cluster) setClockAhead(by time.Duration) {
	c.t.Helper()
	execSQL(c.t, c.pool, `UPDATE clock.ahead SET by = $1`, by)
	c.ahead = by
}

// requestResign asks the leader to resign.
func (c *cluster) requestResign() {
	c.t.Helper()
	s, err := river.New(c.pool, &river.Config{TriggerOnly: true})
	require.NoError(c.t, err)
	require.NoError(c.t, s.Client().Notify().RequestResign(c.t.Context()))
}

// awaitRun waits until a process accepted by of starts an attempt of the job after since, and returns the job's ID, its
// tick and the process. since is before whatever makes it run.
func (c *cluster) awaitRun(name string, since time.Time, of func(*node) bool) (id int64, tick time.Time, runner *node) {
	c.t.Helper()
	until(c.t, time.Minute, "a process runs "+name, func() bool {
		for _, n := range c.living() {
			if !of(n) {
				continue
			}
			err := c.pool.QueryRow(c.t.Context(), `SELECT job, tick FROM runs WHERE name = $1 AND started > $2 AND pid = $3 ORDER BY started LIMIT 1`,
				name, since, n.pid()).Scan(&id, &tick)
			if err == nil {
				runner = n
				return true
			}
			require.ErrorIs(c.t, err, pgx.ErrNoRows)
		}
		return false
	})
	return id, tick.UTC(), runner
}
