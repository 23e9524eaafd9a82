//go:build unix

package river_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

var bouncerFlag = flag.Bool("bouncer", false, "run the conformance suite through PgBouncer, which must be installed")

// A bouncer is a PgBouncer before the server of the tests. It forwards to any of its databases.
type bouncer struct {
	mode string
	port uint16
}

// newBouncer starts a PgBouncer that ends with the test, or with this process in whatever way that ends.
func newBouncer(t testing.TB, mode string) *bouncer {
	t.Helper()
	if !*bouncerFlag {
		t.Skip("needs PgBouncer: install it, and run with -bouncer, as `make bouncer` does")
	}
	program, err := exec.LookPath("pgbouncer")
	require.NoError(t, err, "PgBouncer is not installed: apt-get install pgbouncer")
	server, err := pgx.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &bouncer{mode: mode, port: uint16(listener.Addr().(*net.TCPAddr).Port)} //nolint:gosec // a port
	require.NoError(t, listener.Close())

	// PgBouncer refuses to run as root, and only the server's user may enter the directory of its socket.
	cmd := exec.Command("/bin/sh", "-c", `"$0" "$1" >"$2" 2>&1 & read _; kill $!; wait`, program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dir, err := os.MkdirTemp("", "bouncer") //nolint:usetesting // only this user may enter that of t.TempDir
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o777)) //nolint:gosec // another user writes the log
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if info, err := os.Stat(server.Host); err == nil && os.Geteuid() == 0 {
		owner := info.Sys().(*syscall.Stat_t)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
	}
	config, log := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "log")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `[databases]
* = host=%s port=%d user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = %s
max_client_conn = 2000
default_pool_size = 20
server_idle_timeout = 2
ignore_startup_parameters = extra_float_digits
`, server.Host, server.Port, server.User, b.port, mode), 0o644)) //nolint:gosec // another user reads it
	cmd.Args = append(cmd.Args, config, log)
	leash, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = leash.Close()
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("end of PgBouncer's log:\n%s", text[max(0, len(text)-2000):])
		}
	})
	eventually(t, "PgBouncer answers", func() bool {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(int(b.port)))
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	return b
}

// through makes a pool connect through PgBouncer.
func (b *bouncer) through(cfg *pgxpool.Config, mode pgx.QueryExecMode) {
	cfg.ConnConfig.Host, cfg.ConnConfig.Port = "127.0.0.1", b.port
	cfg.ConnConfig.Fallbacks = nil
	cfg.ConnConfig.DefaultQueryExecMode = mode
}

// pool returns a pool through PgBouncer on a new migrated database, and a connection past it.
func (b *bouncer) pool(t *testing.T, mode pgx.QueryExecMode) (pool *pgxpool.Pool, direct *pgx.Conn) {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	direct, err = pgx.ConnectConfig(t.Context(), cfg.ConnConfig.Copy())
	require.NoError(t, err)
	t.Cleanup(func() { _ = direct.Close(context.WithoutCancel(t.Context())) })
	b.through(cfg, mode)
	pool, err = pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool, direct
}

// The tests' own administration, such as creating databases, goes to the server directly.
func TestConformance_ThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"transaction", "session"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := newBouncer(t, mode)
			requireConformance(t, river.Config{PollOnly: mode == "transaction"}, func(cfg *pgxpool.Config) {
				b.through(cfg, pgx.QueryExecModeExec)
			})
		})
	}
}

// What we set for our own sessions must not reach those of the application, which get the same server connections.
func TestBouncer_ForgettingPollOnlyChangesNoOtherSession(t *testing.T) {
	t.Parallel()
	b := newBouncer(t, "transaction")
	pool, direct := b.pool(t, pgx.QueryExecModeExec)
	_, err := direct.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{direct.Config().Database}.Sanitize()+
		` SET default_transaction_isolation = 'repeatable read'`)
	require.NoError(t, err)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	_, err = s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, ran)
	// As many transactions at once as the scheduler may have had, before PgBouncer closes idle connections to the server.
	var conns []*pgx.Conn
	for range 8 {
		conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
		require.NoError(t, err)
		defer conn.Close(context.WithoutCancel(t.Context()))
		_, err = conn.Exec(t.Context(), `BEGIN`)
		require.NoError(t, err)
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		for setting, want := range map[string]string{
			"default_transaction_isolation": "repeatable read", "transaction_isolation": "repeatable read",
			"lock_timeout": "0", "statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "application_name": "",
		} {
			var got string
			require.NoError(t, conn.QueryRow(t.Context(), `SELECT current_setting($1)`, setting).Scan(&got))
			require.Equal(t, want, got, setting)
		}
	}
	require.NoError(t, shutdown(s))
}

// The messages that operating.md gives for a wrong query mode.
func TestBouncer_MessagesOfAWrongQueryMode(t *testing.T) {
	t.Parallel()
	b := newBouncer(t, "transaction")
	pool, _ := b.pool(t, pgx.QueryExecModeCacheStatement)
	seen := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				_, err := pool.Exec(t.Context(), fmt.Sprintf(`SELECT $1::int + %d`, (i+j)%7), i)
				if err != nil {
					mu.Lock()
					seen[err.Error()] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile("../../docs/operating.md")
	require.NoError(t, err)
	require.NotEmpty(t, seen, "no message")
	for message := range seen {
		known := false
		for _, documented := range []string{"does not exist", "already exists", "bind message supplies"} {
			known = known || strings.Contains(message, documented) && strings.Contains(string(text), documented)
		}
		require.True(t, known, "not in operating.md: %s", message)
	}
}

// Connections to the server break while callers trigger. Each ID that a caller was given has its row, and no caller's
// job is stored twice.
func TestBouncer_BrokenServerConnectionsStoreNothingTwice(t *testing.T) {
	t.Parallel()
	b := newBouncer(t, "transaction")
	pool, direct := b.pool(t, pgx.QueryExecModeExec)
	s := newScheduler(t, pool, river.Config{PollOnly: true})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	ctx, stop := context.WithCancel(t.Context())
	var acked, calls atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := calls.Add(1)
				if _, err := s.Trigger(t.Context(), "a.job", map[string]int64{"n": n}); err == nil {
					acked.Add(1)
				}
			}
		})
	}
	kills := 0
	for range 40 {
		pass(t, 100*time.Millisecond)
		var n int
		require.NoError(t, direct.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&n))
		kills += n
	}
	stop()
	wg.Wait()
	var rows, distinct int64
	require.NoError(t, direct.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT args->'n') FROM river.river_job`).Scan(&rows, &distinct))
	fmt.Printf("PgBouncer: %d connections killed, %d of %d triggers acknowledged, %d stored\n", kills, acked.Load(), calls.Load(), rows)
	require.Positive(t, kills)
	require.Less(t, acked.Load(), calls.Load(), "some triggers failed")
	require.Equal(t, rows, distinct, "a trigger is stored at most once")
	require.GreaterOrEqual(t, rows, acked.Load(), "each acknowledged trigger is stored")
}
