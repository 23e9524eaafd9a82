package river_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/adapters/river/internal/migrate"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
)

// wire is a connection that a test can slow down, stop or change.
type wire struct {
	net.Conn
	onRead  func(p []byte, n int) (int, error) // after a read of n bytes
	onWrite func(p []byte)                     // before a write
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err == nil && w.onRead != nil {
		return w.onRead(p, n)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.onWrite != nil {
		w.onWrite(p)
	}
	return w.Conn.Write(p)
}

// wired returns a pool on a migrated database whose connections set may change.
func wired(t testing.TB, cfg func(*pgxpool.Config), set func(*wire)) *pgxpool.Pool {
	t.Helper()
	return poolWith(t, func(c *pgxpool.Config) {
		if cfg != nil {
			cfg(c)
		}
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			w := &wire{Conn: conn}
			set(w)
			return w, nil
		}
	})
}

func reasonsOf(t testing.TB, s *river.Scheduler) (texts []string) {
	t.Helper()
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	for _, r := range health.Reasons {
		texts = append(texts, r.Text)
	}
	require.Equal(t, len(texts) == 0, health.Healthy)
	return texts
}

// awaitReason waits until one of the reasons contains text.
func awaitReason(t testing.TB, s *river.Scheduler, text string) {
	t.Helper()
	var latest []string
	defer func() {
		if t.Failed() {
			t.Logf("the latest reasons: %q", latest)
		}
	}()
	eventually(t, "a reason contains "+text, func() bool {
		latest = reasonsOf(t, s)
		return strings.Contains(strings.Join(latest, "\n"), text)
	})
}

func TestHealth_ReportsWhatCannotBeStoredOrFetched(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	release := make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error {
		<-release
		return nil
	}))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.TriggerMany(t.Context(), "a.job", make([]any, 5))
	require.NoError(t, err)
	eventually(t, "all run", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'running'`) == 5
	})
	require.Empty(t, reasonsOf(t, s))
	// As on a full disk.
	execSQL(t, pool, `CREATE FUNCTION river.disk_full() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END$$`)
	execSQL(t, pool, `CREATE TRIGGER disk_full BEFORE UPDATE ON river.river_job EXECUTE FUNCTION river.disk_full()`)
	close(release)
	insertRows(t, pool, 5, `kind, state`, `'a.job', 'available'`)
	awaitReason(t, s, "the results of 5 ended jobs could not be stored for 1")
	awaitReason(t, s, `no job of queue "default" could be fetched for 1`)
	for _, reason := range reasonsOf(t, s) {
		require.Contains(t, reason, "no space left on device")
	}
	execSQL(t, pool, `DROP TRIGGER disk_full ON river.river_job`)
	eventually(t, "all is well", func() bool { return len(reasonsOf(t, s)) == 0 })
	eventually(t, "all results are stored", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE state = 'completed'`) == 10
	})
}

func TestHealth_ReportsJobsDueWhileWorkersAreFree(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{MaxWorkers: 7})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.own", 0, noop, jobs.Concurrency(2)))
	require.NoError(t, s.RegisterDelayed("a.tx", 0, noop, jobs.Transactional()))
	// Jobs that only another process can fetch are none of this one's concern.
	execSQL(t, pool, `INSERT INTO river.everytick_process
		(id, beat, host, pid, version, registrations, jobs, workers, busy, started_at, seen_at)
		VALUES ('other', 1, '', 0, '', '', '{other.job}', 1, 0, now(), now() + interval '1 hour')`)
	insertRows(t, pool, 1, `kind, state, scheduled_at`, `'other.job', 'available', now() - interval '1 hour'`)
	require.NoError(t, s.Start(t.Context()))
	insertRows(t, pool, 1, `kind, state, scheduled_at`, `'other.job', 'available', now() - interval '1 hour'`)

	tx := begin(t, pool)
	for _, name := range []string{"a.job", "a.tx"} {
		id, err := s.Trigger(t.Context(), name, nil, jobs.Delay(2*time.Second))
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SELECT FROM river.river_job WHERE id = $1::text::bigint FOR UPDATE`, id)
		require.NoError(t, err)
	}
	own := scalar[string](t, pool, `SELECT name FROM river.river_queue WHERE name LIKE 'a-own-%'`)
	paused, unsubscribe := s.Client().Subscribe(riverqueue.EventKindQueuePaused)
	defer unsubscribe()
	require.NoError(t, s.Client().QueuePause(t.Context(), own, nil))
	receive(t, paused)
	_, err := s.Trigger(t.Context(), "a.own", nil)
	require.NoError(t, err)
	require.Empty(t, reasonsOf(t, s), "nothing has waited for long")

	awaitReason(t, s, `a job in queue "default" has been due for 1`)
	awaitReason(t, s, `a job in queue "default-tx" has been due for 1`)
	awaitReason(t, s, `, and its queue "`+own+`" is paused in River: `)
	health, err := s.Health(t.Context())
	require.NoError(t, err)
	require.Len(t, health.Reasons, 3)
	require.Empty(t, health.Reasons[0].Job)
	require.Contains(t, health.Reasons[0].Text, "and none was fetched, though 7 of 7 workers are free")
	require.Equal(t, "a.own", health.Reasons[2].Job)

	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, s.Client().QueueResume(t.Context(), own, nil))
	eventually(t, "all is well", func() bool { return len(reasonsOf(t, s)) == 0 })
}

// A job may be old as soon as it can be fetched.
func TestHealth_IsGoodRightAfterALongTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{PollOnly: true})
	ran := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	pass(t, 11*time.Second) // until workers have been idle for long
	for range 5 {
		insertRows(t, pool, 1, `kind, state, scheduled_at`, `'a.job', 'available', now() - interval '1 minute'`)
		require.Empty(t, reasonsOf(t, s))
		receive(t, ran)
	}
}

func TestHealth_ReportsAHeartbeatThatIsNotStored(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{DeadAfter: 10 * time.Second})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	execSQL(t, pool, `ALTER TABLE river.everytick_process RENAME COLUMN busy TO occupied`)
	awaitReason(t, s, "the heartbeat of this process could not be stored for 1")
	execSQL(t, pool, `ALTER TABLE river.everytick_process RENAME COLUMN occupied TO busy`)
	eventually(t, "all is well", func() bool { return len(reasonsOf(t, s)) == 0 })
}

func TestHealth_AnswersBeforeTheDeadlineOfItsCaller(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		known bool // whether the database has answered before
		limit time.Duration
		want  string
	}{
		"hanging":                         {true, time.Second, "the database does not answer: no answer within 900ms: "},
		"hanging, and no answer before":   {false, time.Second, "the database does not answer: no answer within 900ms: "},
		"hanging, and an hour of time":    {true, time.Hour, "the database does not answer: no answer within 5s: "},
		"hanging, and little time left":   {true, 100 * time.Millisecond, "the database does not answer: no answer within 100ms: "},
		"hanging, and no deadline at all": {true, 0, "the database does not answer: no answer within 5s: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stop atomic.Bool
			pool := wired(t, nil, func(w *wire) {
				w.onRead = func(p []byte, n int) (_ int, err error) {
					for stop.Load() && err == nil { // nothing arrives any more
						n, err = w.Conn.Read(p)
					}
					return n, err
				}
			})
			s := newScheduler(t, pool, river.Config{TriggerOnly: true})
			if row.known {
				require.Empty(t, reasonsOf(t, s))
			}
			stop.Store(true)
			ctx := t.Context()
			if row.limit > 0 {
				limited, cancel := context.WithTimeout(ctx, row.limit)
				defer cancel()
				ctx = limited
			}
			health, err := s.Health(ctx)
			require.NoError(t, err)
			require.Len(t, health.Reasons, 1)
			require.Contains(t, health.Reasons[0].Text, row.want)
		})
	}
	t.Run("refused, and no answer before", func(t *testing.T) {
		t.Parallel()
		pool, network := breakablePool(t)
		network.cut()
		s := newScheduler(t, pool, river.Config{TriggerOnly: true})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		health, err := s.Health(ctx)
		require.NoError(t, err)
		require.Len(t, health.Reasons, 1)
		require.Regexp(t, "^the database does not answer: .*the network is cut", health.Reasons[0].Text)
	})
}

// Over a slow link, a fetch of as many jobs as there are workers would time out again and again.
func TestScheduler_FetchesFewerJobsOverASlowLink(t *testing.T) {
	t.Parallel()
	const (
		n         = 24
		kilobytes = 500
		perSecond = 1 << 20 // bytes
	)
	var slow atomic.Bool
	var mu sync.Mutex // the link is shared by all connections
	pool := wired(t, nil, func(w *wire) {
		w.onRead = func(_ []byte, n int) (int, error) {
			if slow.Load() {
				mu.Lock()
				defer mu.Unlock()
				time.Sleep(time.Duration(n) * time.Second / perSecond)
			}
			return n, nil
		}
	})
	s := newScheduler(t, pool, river.Config{})
	var ran atomic.Int32
	require.NoError(t, s.RegisterDelayed("a.large", 0, func(context.Context, *jobs.Job) error {
		ran.Add(1)
		return nil
	}))
	raw := make([]byte, kilobytes*750)
	_, _ = rand.Read(raw)
	data := make([]any, n)
	for i := range data {
		data[i] = map[string]string{"blob": base64.StdEncoding.EncodeToString(raw)}
	}
	_, err := s.TriggerMany(t.Context(), "a.large", data)
	require.NoError(t, err)
	slow.Store(true)
	require.NoError(t, s.Start(t.Context()))
	start := time.Now()
	require.Eventually(t, func() bool { return ran.Load() == n }, 3*time.Minute, 100*time.Millisecond)
	t.Logf("%d jobs of %d kB started after %s", n, kilobytes, time.Since(start).Round(time.Second))
	require.Eventually(t, func() bool {
		return scalar[int](t, migratedCopy(t, pool), `SELECT count(*) FROM river.river_job WHERE state = 'completed'`) == n
	}, 3*time.Minute, time.Second)
	t.Logf("all results stored after %s", time.Since(start).Round(time.Second))
	require.Equal(t, int32(n), ran.Load(), "none ran twice")
	slow.Store(false)
}

// migratedCopy returns a pool on the database of pool that does not go through its link.
func migratedCopy(t testing.TB, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	cfg.ConnConfig.DialFunc = (&net.Dialer{}).DialContext
	direct, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(direct.Close)
	return direct
}

// loseFetch returns a scheduler that has triggered a job, which the database has marked as running, and has not heard of
// it.
func loseFetch(t *testing.T) (s *river.Scheduler, ran chan jobs.Job, id string, logged *buffer) {
	t.Helper()
	var armed, lost atomic.Bool
	pool := wired(t, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // each statement is sent with its text
	}, func(w *wire) {
		var fetching atomic.Bool
		w.onWrite = func(p []byte) { fetching.Store(bytes.Contains(p, []byte("name: JobGetAvailable"))) }
		w.onRead = func(p []byte, n int) (int, error) {
			if fetching.Load() && bytes.Contains(p[:n], []byte("a.job")) && armed.CompareAndSwap(true, false) {
				lost.Store(true)
				_ = w.Close()
				return 0, errors.New("the connection is lost")
			}
			return n, nil
		}
	})
	log, logged := loud()
	s = newScheduler(t, pool, river.Config{Logger: log})
	ran = make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.MaxRetries(0)))
	require.NoError(t, s.Start(t.Context()))
	armed.Store(true)
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	eventually(t, "the answer to the fetch is lost", lost.Load)
	require.Equal(t, "running", scalar[string](t, pool, `SELECT state::text FROM river.river_job`))
	return s, ran, id, logged
}

func TestShutdown_ReturnsAJobWhoseFetchWasLost(t *testing.T) {
	t.Parallel()
	s, ran, id, _ := loseFetch(t)
	require.NoError(t, shutdown(s))
	require.Equal(t, jobs.StateWaiting, stateOf(t, s, "a.job", id))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, id, receive(t, ran).ID)
}

func TestScheduler_ReturnsAJobWhoseFetchWasLost(t *testing.T) {
	t.Parallel()
	s, ran, id, logged := loseFetch(t)
	require.NoError(t, s.GiveBack(t.Context()))
	job := receive(t, ran)
	require.Equal(t, id, job.ID)
	require.Equal(t, 1, job.Attempt)
	require.Contains(t, logged.String(), `level=WARN msg="jobs whose fetch was lost on the way to this process return to the queue" jobs=1`)
	eventually(t, "it has completed", func() bool { return stateOf(t, s, "a.job", id) == jobs.StateCompleted })
}

func TestScheduler_GivesBackOnlyWhatItDoesNotHold(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, untilCancelled(ran)))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, ran)
	row := func(id int, client string) string {
		insertRows(t, pool, 1, `id, kind, state, attempt, attempted_at, attempted_by`,
			fmt.Sprintf(`%d, 'b.job', 'running', 1, now() - interval '1 minute', ARRAY['before', '%s']`, id, client))
		return fmt.Sprint(id)
	}
	lost, others := row(1001, s.Client().ID()), row(1002, "another")
	cancelled := row(1003, s.Client().ID())
	execSQL(t, pool, `UPDATE river.river_job SET metadata = '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}' WHERE id = 1003`)
	state := func(id string) string {
		return scalar[string](t, pool, `SELECT state::text || ' ' || attempt FROM river.river_job WHERE id = $1::text::bigint`, id)
	}
	eventually(t, "the lost job is given back", func() bool { // not during a fetch, which may bring it
		require.NoError(t, s.GiveBack(t.Context()))
		return state(lost) == "available 0"
	})
	for id, want := range map[string]string{id: "running 1", others: "running 1", cancelled: "cancelled 0"} {
		require.Equal(t, want, state(id), id)
	}
}

// After some failovers the old primary keeps its connections, and refuses writes.
func TestTrigger_LeavesAServerThatHasBecomeReadOnly(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, ran)
	direct := migratedCopy(t, pool)
	listeners := func() []int {
		return column[int](t, direct, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
	}
	before := listeners()
	require.Len(t, before, 1)
	for range 3 { // each connection that there may be
		makeReadOnly(t, pool, s.OwnPool())
	}
	var id string
	eventually(t, "triggers reach the new primary", func() bool {
		id, err = s.Trigger(t.Context(), "a.job", nil)
		return err == nil
	})
	require.Equal(t, id, receive(t, ran).ID)
	require.Empty(t, reasonsOf(t, s))
	eventually(t, "River listens on the new primary", func() bool {
		now := listeners()
		return len(now) == 1 && now[0] != before[0]
	})
}

func TestMigrateAndStart_RefuseAnEncodingOtherThanUTF8(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			admin := migrated.Pool(t)
			name := "encoding_" + strings.ToLower(encoding) + "_" + scalar[string](t, admin, `SELECT current_database()`)
			execSQL(t, admin, fmt.Sprintf(`CREATE DATABASE %s ENCODING '%s' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`, name, encoding))
			t.Cleanup(func() { _, _ = admin.Exec(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`) })
			cfg := admin.Config()
			cfg.ConnConfig.Database = name
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			want := "the database's encoding is " + encoding + ": it must be UTF8"
			require.ErrorContains(t, river.Migrate(t.Context(), pool, nil), want)

			// Older versions migrated such databases.
			m, err := migrate.New(pool, store.New(river.DefaultSchema), nil)
			require.NoError(t, err)
			require.NoError(t, m.Run(t.Context()))
			s := newScheduler(t, pool, river.Config{})
			require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
			require.ErrorContains(t, s.Start(t.Context()), want)
		})
	}
}

func TestStart_PreparesItsOwnConnections(t *testing.T) {
	t.Parallel()
	params := map[string]string{"default_transaction_isolation": "repeatable read"}
	timeout := "'0'" // where there is no such setting
	if hasIdleSessionTimeout(t) {
		params["idle_session_timeout"], timeout = "1h", `current_setting('idle_session_timeout')`
	}
	settings := func(t *testing.T, conn *pgxpool.Conn) string {
		return scalarOf(t, conn, `SELECT current_setting('default_transaction_isolation') || ', ' || `+timeout)
	}
	kept := "repeatable read, " + cmp.Or(params["idle_session_timeout"], "0")
	for name, row := range map[string]struct {
		pollOnly, pooled bool
		want             string
	}{
		"direct":          {false, false, "read committed, 0"},
		"PollOnly":        {true, false, kept},
		"behind a pooler": {false, true, kept},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := wired(t, func(cfg *pgxpool.Config) {
				for key, value := range params {
					cfg.ConnConfig.RuntimeParams[key] = value
				}
			}, func(w *wire) {
				w.onRead = func(p []byte, n int) (int, error) {
					// A pooler sends a number of its own in place of the server's process ID.
					if i := bytes.Index(p[:n], []byte("K\x00\x00\x00\x0c")); row.pooled && i >= 0 {
						p[i+8] ^= 0x55
					}
					return n, nil
				}
			})
			s := newScheduler(t, pool, river.Config{PollOnly: row.pollOnly})
			require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
			require.NoError(t, s.Start(t.Context()))
			conn, err := s.OwnPool().Acquire(t.Context())
			require.NoError(t, err)
			defer conn.Release()
			require.Equal(t, row.want, settings(t, conn))
			require.Positive(t, s.OwnPool().Config().PingTimeout)
			apps, err := pool.Acquire(t.Context())
			require.NoError(t, err)
			defer apps.Release()
			require.Equal(t, kept, settings(t, apps), "the application's connections are its own")
		})
	}
}

// hasIdleSessionTimeout reports whether the server is newer than PostgreSQL 13.
func hasIdleSessionTimeout(t testing.TB) bool {
	t.Helper()
	return scalar[bool](t, migrated.Pool(t), `SELECT current_setting('server_version_num')::int >= 140000`)
}

func scalarOf(t testing.TB, conn *pgxpool.Conn, sql string) (v string) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&v))
	return v
}

// The server would cut off River's listener, and a heartbeat every 4 s.
func TestScheduler_ListensWhateverTheIdleSessionTimeout(t *testing.T) {
	t.Parallel()
	has := hasIdleSessionTimeout(t) // PostgreSQL 13 has none
	pool := poolWith(t, func(cfg *pgxpool.Config) {
		if has {
			cfg.ConnConfig.RuntimeParams["idle_session_timeout"] = "2s"
		}
	})
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log, DeadAfter: time.Minute})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.long", 0, untilCancelled(ran), jobs.MaxRetries(0)))
	require.NoError(t, s.Start(t.Context()))
	pass(t, 12*time.Second)
	id, err := s.Trigger(t.Context(), "a.long", nil)
	require.NoError(t, err)
	receive(t, ran)
	require.NoError(t, s.Cancel(t.Context(), "a.long", id))
	eventually(t, "the handler is cancelled", func() bool { return stateOf(t, s, "a.long", id) == jobs.StateCancelled })
	require.NotContains(t, logged.String(), "level=ERROR")
	require.NotContains(t, logged.String(), "heartbeat")
}

// Each of River's parts logs an error for each try, and each queue tries twice a second.
func TestScheduler_FoldsWhatIsLoggedInAnOutage(t *testing.T) {
	t.Parallel()
	pool, network := breakablePool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	for n := range 5 {
		require.NoError(t, s.RegisterDelayed(fmt.Sprintf("a.job-%d", n), 0, noop, jobs.Concurrency(1)))
	}
	require.NoError(t, s.Start(t.Context()))
	network.cut()
	repeated := []string{"Error fetching jobs", "maintenance step failed; retrying within seconds\" step=pauses", "could not store the heartbeat"}
	for _, message := range repeated {
		eventually(t, message, func() bool { return strings.Contains(logged.String(), message) })
	}
	pass(t, 3*time.Second)
	for _, message := range repeated {
		require.Equal(t, 1, strings.Count(logged.String(), message), message)
	}
	_ = interrupt(s)
	eventually(t, "the shutdown says how often", func() bool {
		return strings.Contains(logged.String(), `msg="an error repeated until the shutdown" message="producer: Error fetching jobs" times=`)
	})
}

// poisonHook is a hook of the application that fails with a text that PostgreSQL cannot store, for one job.
func poisonHook(cfg *riverqueue.Config) {
	cfg.Hooks = append(cfg.Hooks, riverqueue.HookWorkBeginFunc(func(_ context.Context, job *rivertype.JobRow) error {
		if job.Kind == "a.poison" {
			return errors.New("unexpected byte \x00 in the message")
		}
		return nil
	}))
}

// A job fails once, and succeeds at once in its second attempt. The database refuses the result of another job that
// ended together with the first attempt.
func TestScheduler_ARefusedResultMakesNoOtherJobRunAgain(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: poisonHook})
	var calls atomic.Int32
	require.NoError(t, s.RegisterDelayed("a.poison", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(_ context.Context, job *jobs.Job) error {
		calls.Add(1)
		if job.Attempt == 1 {
			return errors.New("no")
		}
		return nil
	}, jobs.RetryDelay(10*time.Millisecond)))
	for _, name := range []string{"a.poison", "a.job"} {
		_, err := s.Trigger(t.Context(), name, nil)
		require.NoError(t, err)
	}
	require.NoError(t, s.Start(t.Context()))
	pass(t, 10*time.Second) // River sends refused results again within seconds
	require.EqualValues(t, 2, calls.Load(), "calls of the handler")
}

// All jobs go on, though the database refuses a result.
func TestScheduler_ARefusedResultDoesNotStopTheProcess(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{River: poisonHook})
	require.NoError(t, s.RegisterDelayed("a.poison", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.poison", nil)
	require.NoError(t, err)
	const n = 25_000
	_, err = s.TriggerBulk(t.Context(), "a.job", make([]any, n))
	require.NoError(t, err)
	eventually(t, "all have completed", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'a.job' AND state = 'completed'`) == n
	})
}

// A transaction of the application has locked the row of a running job. The results of others are stored nevertheless.
func TestScheduler_ALockedResultHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["lock_timeout"] = "1s" })
	s := newScheduler(t, pool, river.Config{})
	running, release := make(chan struct{}), make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("a.locked", 0, func(context.Context, *jobs.Job) error {
		close(running)
		<-release
		return nil
	}))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.locked", nil)
	require.NoError(t, err)
	<-running
	tx := begin(t, pool)
	_, err = tx.Exec(t.Context(), `SELECT FROM river.river_job WHERE id = $1::text::bigint FOR UPDATE`, id)
	require.NoError(t, err)
	close(release)
	pass(t, 500*time.Millisecond) // the result is about to be stored
	_, err = s.TriggerMany(t.Context(), "a.job", make([]any, 50))
	require.NoError(t, err)
	eventually(t, "the other results are stored", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'a.job' AND state = 'completed'`) == 50
	})
	require.NoError(t, tx.Rollback(t.Context()))
	eventually(t, "the result is stored", func() bool { return stateOf(t, s, "a.locked", id) == jobs.StateCompleted })
}

// makeReadOnly makes the connections of these pools look as if their server had become a standby.
func makeReadOnly(t *testing.T, pools ...*pgxpool.Pool) {
	t.Helper()
	var conns []*pgxpool.Conn
	for _, p := range pools {
		for range p.Stat().TotalConns() {
			conn, err := p.Acquire(t.Context())
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), `SET default_transaction_read_only = on`)
			require.NoError(t, err)
			conns = append(conns, conn)
		}
	}
	require.NotEmpty(t, conns)
	for _, conn := range conns {
		conn.Release()
	}
}

// A function of the application's pool may return the cancellation of somebody else, as of a request for a token that
// two callers share.
func TestScheduler_OutlivesCancellationsInThePoolsFunctions(t *testing.T) {
	t.Parallel()
	for name, install := range map[string]func(cfg *pgxpool.Config, fail func() error){
		"BeforeConnect": func(cfg *pgxpool.Config, fail func() error) {
			cfg.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return fail() }
		},
		"AfterConnect": func(cfg *pgxpool.Config, fail func() error) {
			cfg.AfterConnect = func(context.Context, *pgx.Conn) error { return fail() }
		},
		"PrepareConn": func(cfg *pgxpool.Config, fail func() error) {
			cfg.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { return true, fail() }
		},
		"DialFunc": func(cfg *pgxpool.Config, fail func() error) {
			dial := cfg.ConnConfig.DialFunc
			cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if err := fail(); err != nil {
					return nil, err
				}
				return dial(ctx, network, addr)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := migrated.URL(t)
			cfg, err := pgxpool.ParseConfig(url)
			require.NoError(t, err)
			var failing atomic.Bool
			install(cfg, func() error {
				if failing.Load() {
					return fmt.Errorf("no token: %w", context.Canceled)
				}
				return nil
			})
			pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			s := newScheduler(t, pool, river.Config{})
			running, release := make(chan struct{}), make(chan struct{})
			require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error {
				close(running)
				<-release
				return nil
			}))
			require.NoError(t, s.Start(t.Context()))
			_, err = s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			receive(t, running)
			others := openPool(t, url)
			leaders := func() int {
				return scalar[int](t, others, `SELECT count(*) FROM river.river_leader WHERE expires_at > now()`)
			}
			eventually(t, "the process leads", func() bool { return leaders() == 1 })
			failing.Store(true)
			execSQL(t, others, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			close(release)
			pass(t, 6*time.Second) // longer than River waits between results, and between extensions of its term
			failing.Store(false)
			eventually(t, "the result is stored", func() bool {
				return scalar[string](t, others, `SELECT state::text FROM river.river_job`) == "completed"
			})
			execSQL(t, others, `UPDATE river.river_leader SET expires_at = now()`)
			eventually(t, "the process leads again", func() bool { return leaders() == 1 })
		})
	}
}
