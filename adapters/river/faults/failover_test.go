//go:build unix

package faults_test

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// A pair is a primary and its standby.
type pair struct {
	primary, standby *server
	params           map[string]string // of connection strings that find whichever is the primary
}

// newPair starts a primary, and a standby that follows it.
func newPair(t testing.TB, synchronous bool) *pair {
	t.Helper()
	// If root runs the test, another user runs the servers.
	dir, err := os.MkdirTemp("", "failover") //nolint:usetesting // only this user may enter that of t.TempDir
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	data := func(name string) devdb.Options { return devdb.Options{DataDir: filepath.Join(dir, name)} }

	// The standby's data is a copy of the primary's, made while the server is stopped.
	first, err := devdb.Open(t.Context(), dbtest.Private(data("primary")))
	require.NoError(t, err)
	s := &server{DB: first}
	require.NoError(t, s.prepare())
	execSQL(t, newPool(t, s.URL), `ALTER SYSTEM SET wal_keep_size = '1GB'`)
	require.NoError(t, first.Stop())
	out, err := exec.CommandContext(t.Context(), "cp", "-a", filepath.Join(dir, "primary"), filepath.Join(dir, "standby")).CombinedOutput()
	require.NoError(t, err, "%s", out)

	p := &pair{primary: &server{DB: dbtest.Server(t, data("primary"))}}
	host, port := address(t, p.primary)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "standby", "standby.signal"), nil, 0o644)) //nolint:gosec // for the server
	auto, err := os.OpenFile(filepath.Join(dir, "standby", "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fmt.Fprintf(auto, "primary_conninfo = 'host=%s port=%s user=postgres application_name=standby'\n", host, port)
	require.NoError(t, err)
	require.NoError(t, auto.Close())
	p.standby = &server{DB: dbtest.Server(t, data("standby"))}
	otherHost, otherPort := address(t, p.standby)
	p.params = map[string]string{
		"host": host + "," + otherHost, "port": port + "," + otherPort,
		"target_session_attrs": "read-write", "connect_timeout": "2",
	}

	admin := newPool(t, p.primary.URL)
	state := "async"
	if synchronous {
		state = "sync"
		execSQL(t, admin, `ALTER SYSTEM SET synchronous_standby_names = 'standby'`)
		execSQL(t, admin, `SELECT pg_reload_conf()`)
	}
	until(t, time.Minute, "the standby follows", func() bool {
		return scalar[int](t, admin, `SELECT count(*) FROM pg_stat_replication
			WHERE application_name = 'standby' AND state = 'streaming' AND sync_state = $1`, state) == 1
	})
	return p
}

// address returns a server's host and port.
func address(t testing.TB, s *server) (host, port string) {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	return u.Query().Get("host"), u.Query().Get("port")
}

// failOver kills the primary and promotes the standby.
func (p *pair) failOver(t testing.TB) {
	t.Helper()
	killServer(t, p.primary)
	conn, err := pgx.Connect(t.Context(), p.standby.URL)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var promoted bool
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT pg_promote(true, 30)`).Scan(&promoted))
	require.True(t, promoted)
}

// The primary is killed under 20 callers and a schedule, and its standby takes over. With synchronous replication,
// nothing acknowledged is lost, and no tick is lost or doubled.
func TestFailover(t *testing.T) {
	t.Parallel()
	skipNative(t)
	for _, tt := range []struct {
		name        string
		synchronous bool
	}{{"synchronous", true}, {"asynchronous", false}} {
		if !tt.synchronous && !*failoverFlag {
			continue // it shows what is lost then, and requires less
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, tt.synchronous)
			c := newCluster(t, p.primary, false)
			// The processes and the test find whichever server is the primary.
			c.params = maps.Clone(p.params)
			multi, err := c.server.urlOf(c.database, c.params)
			require.NoError(t, err)
			c.pool = newPool(t, multi)
			schedule := job{Name: "tick.2s", Every: 2 * time.Second, All: true}
			for range 2 {
				c.launch([]job{schedule})
			}
			from := c.now()
			calls := newCallers(t, multi, 20, false)
			calls.awaitAck(t, time.Now())
			length := 3 * time.Second
			if *failoverFlag {
				length = 15 * time.Second
			}
			pass(t, length)
			killed := time.Now()
			p.failOver(t)
			promoted := time.Now()
			recovered := promoted.Sub(killed) + calls.awaitAck(t, promoted)
			pass(t, length)
			calls.finish()
			until(t, time.Minute, "the new primary answers", func() bool { return c.pool.Ping(t.Context()) == nil })
			to := c.now()
			c.settle(to)
			o := c.measure(schedule, from, to)
			lost := calls.lost(t, c.pool)
			fmt.Printf("| replication | acknowledged | of these lost | ticks | lost | doubled | longest wait of a caller | "+
				"first acknowledgement after the kill |\n|---|---|---|---|---|---|---|---|\n| %s | %d | %d | %d | %d | %d | %.1f s | %.1f s |\n",
				tt.name, len(calls.acked), lost, o.expected, o.lost, o.doubled, calls.longest.Seconds(), recovered.Seconds())
			require.NotEmpty(t, calls.acked)
			require.Less(t, calls.longest, callerPatience+2*time.Second, "a caller's wait")
			if tt.synchronous {
				require.Zero(t, lost, "acknowledged jobs without a row")
				require.Zero(t, o.lost, "lost ticks")
				require.Zero(t, o.doubled, "doubled ticks")
				c.requireNoneDoubled()
			}
		})
	}
}
