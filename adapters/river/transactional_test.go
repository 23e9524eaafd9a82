package river_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// effects returns a pool on a database with the table effect.
func effects(t testing.TB, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	if change != nil {
		change(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	execSQL(t, pool, `CREATE TABLE parent (id int PRIMARY KEY)`)
	execSQL(t, pool, `CREATE TABLE effect (job text, attempt int, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)`)
	return pool
}

// addEffect is a handler that writes an effect.
func addEffect(ctx context.Context, job *jobs.Job) error {
	_, err := job.DB.Exec(ctx, `INSERT INTO effect (job, attempt) VALUES ($1, $2)`, job.ID, job.Attempt)
	return err
}

// awaitEnd waits until a run of a.job has ended or waits for a retry.
func awaitEnd(t testing.TB, s *river.Scheduler, id string, want jobs.State) jobs.Run {
	t.Helper()
	eventually(t, "the run is "+string(want), func() bool { return stateOf(t, s, "a.job", id) == want })
	return runOf(t, s, "a.job", id)
}

func TestTransactional_CommitsTogetherWithTheCompletion(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := effects(t, func(cfg *pgxpool.Config) {
				var err error
				cfg.ConnConfig.DefaultQueryExecMode, err = queryMode(mode)
				require.NoError(t, err)
				// A transaction reads what others have committed meanwhile, whatever the role's default.
				cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = "serializable"
			})
			s := newScheduler(t, pool, river.Config{PollOnly: mode != "cache_statement"})
			isolation := make(chan string, 1)
			require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
				var level string
				err := job.Tx.QueryRow(ctx, `SHOW transaction_isolation`).Scan(&level)
				isolation <- level
				return errors.Join(err, addEffect(ctx, job))
			}, jobs.Transactional(), jobs.MaxRetries(0)))
			require.NoError(t, s.Start(t.Context()))
			id, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			awaitEnd(t, s, id, jobs.StateCompleted)
			require.Equal(t, "read committed", receive(t, isolation))
			pass(t, 400*time.Millisecond) // River's completer has seen the run too
			require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM effect`))
			require.True(t, scalar[bool](t, pool, `SELECT e.xmin::text = j.xmin::text FROM effect AS e JOIN river.river_job AS j ON j.id::text = e.job`),
				"one transaction wrote both rows, and nothing has changed the job since")
			require.Empty(t, runOf(t, s, "a.job", id).Error)
		})
	}
}

func queryMode(name string) (pgx.QueryExecMode, error) {
	cfg, err := pgx.ParseConfig("default_query_exec_mode=" + name)
	if err != nil {
		return 0, err
	}
	return cfg.DefaultQueryExecMode, nil
}

func TestTransactional_FailsIfTheTransactionCannotCommit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		spoil   func(ctx context.Context, job *jobs.Job) error
		says    string
		effects int // besides that of the successful attempt
	}{
		{name: "a failed statement that the handler ignores", spoil: func(ctx context.Context, job *jobs.Job) error {
			_, _ = job.DB.Exec(ctx, `SELECT 1/0`)
			return nil
		}, says: "the handler returned nil although a statement had failed"},
		{name: "a constraint checked at the commit", spoil: func(ctx context.Context, job *jobs.Job) error {
			_, err := job.DB.Exec(ctx, `UPDATE effect SET parent = 7`)
			return err
		}, says: "the commit failed: ERROR: insert or update on table \"effect\" violates foreign key constraint"},
		{name: "the handler's own COMMIT", spoil: func(ctx context.Context, job *jobs.Job) error {
			if _, err := job.Tx.Exec(ctx, `COMMIT`); err == nil {
				return errors.New("not noticed")
			}
			return nil
		}, says: "the handler has ended the transaction", effects: 1},
		{name: "the handler's own ROLLBACK on the connection", spoil: func(ctx context.Context, job *jobs.Job) error {
			_, err := job.Tx.Conn().Exec(ctx, `ROLLBACK`)
			return err
		}, says: "the handler has ended the transaction"},
		{name: "rows that the handler has not closed", spoil: func(ctx context.Context, job *jobs.Job) error {
			_, err := job.DB.Query(ctx, `SELECT 1`) //nolint:sqlclosecheck // the fault
			return err
		}, says: "rows of a query were open"},
		{name: "a connection that the server has closed", spoil: func(ctx context.Context, job *jobs.Job) error {
			_, _ = job.DB.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
			return nil
		}, says: "the job's row could not be locked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := effects(t, nil)
			s := newScheduler(t, pool, river.Config{})
			require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
				if err := addEffect(ctx, job); err != nil || job.Attempt == 2 {
					return err
				}
				return test.spoil(ctx, job)
			}, jobs.Transactional(), jobs.RetryDelay(0), jobs.MaxRetries(1)))
			require.NoError(t, s.Start(t.Context()))
			id, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			run := awaitEnd(t, s, id, jobs.StateCompleted)
			require.Contains(t, run.Error, test.says, "the error of the first attempt")
			require.Equal(t, 2, run.Attempt)
			require.Equal(t, 1+test.effects, scalar[int](t, pool, `SELECT count(*) FROM effect`))
		})
	}
}

func TestTransactional_DoesNotCommitARunThatIsNoLongerItsOwn(t *testing.T) {
	t.Parallel()
	for change, want := range map[string]string{
		`UPDATE river.river_job SET attempt = 2, attempted_by = attempted_by || 'other'::text`:                      "running 2",
		`UPDATE river.river_job SET attempted_by = attempted_by || 'other'::text`:                                   "running 1",
		`UPDATE river.river_job SET state = 'retryable', scheduled_at = now() + interval '1 hour'`:                  "retryable 1",
		`UPDATE river.river_job SET state = 'completed', attempt = 2, finalized_at = now(), attempted_by = '{"x"}'`: "completed 2",
		`DELETE FROM river.river_job`: "none",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			pool := effects(t, nil)
			log, logged := loud()
			s := newScheduler(t, pool, river.Config{Logger: log})
			require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
				// As another process does after it has taken this one for dead. The heartbeats had no gap.
				_, err := pool.Exec(ctx, change)
				return errors.Join(err, addEffect(ctx, job))
			}, jobs.Transactional()))
			require.NoError(t, s.Start(t.Context()))
			_, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			eventually(t, "the attempt has ended", func() bool { return logsContain(logged, "given to another process") })
			pass(t, 400*time.Millisecond) // River's completer would have stored a result
			require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM effect`))
			require.Equal(t, want, scalar[string](t, pool, `SELECT coalesce((SELECT state || ' ' || attempt FROM river.river_job), 'none')`))
			require.Equal(t, 0, scalar[int](t, pool, `SELECT coalesce((SELECT cardinality(errors) FROM river.river_job), 0)`), "nothing is reported")
		})
	}
}

// A fate is what happens to a COMMIT.
type fate int32

const (
	arrives      fate = iota
	neverArrives      // the connection breaks before
	answerLost        // the connection breaks after
	arrivesLate       // as after, but the server gets it a second later
)

// fateful is a connection that decides the fate of the next COMMIT.
type fateful struct {
	net.Conn
	fate   atomic.Int32
	broken atomic.Bool
}

func (c *fateful) Write(p []byte) (int, error) {
	if c.broken.Load() {
		return 0, errDown
	}
	if !bytes.Contains(p, []byte("commit\x00")) {
		return c.Conn.Write(p)
	}
	switch fate(c.fate.Load()) {
	case neverArrives:
		_ = c.Conn.Close()
	case answerLost:
		_, _ = c.Conn.Write(p)
		_ = c.Conn.Close()
	case arrivesLate:
		late := bytes.Clone(p)
		time.AfterFunc(time.Second, func() {
			_, _ = c.Conn.Write(late)
			_ = c.Conn.Close()
		})
	default:
		return c.Conn.Write(p)
	}
	c.broken.Store(true)
	return 0, errDown
}

var errDown = errors.New("the network is down")

// Close leaves a COMMIT on its way that arrives late.
func (c *fateful) Close() error {
	if fate(c.fate.Load()) == arrivesLate {
		return nil
	}
	return c.Conn.Close()
}

func TestTransactional_AsksForTheOutcomeOfABrokenCommit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		fate     fate
		attempts int // 1 if the first attempt has committed
	}{
		{"the COMMIT arrives", arrives, 1},
		{"it never arrives", neverArrives, 2},
		{"its answer is lost", answerLost, 1},
		{"it arrives a second late", arrivesLate, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := effects(t, func(cfg *pgxpool.Config) {
				cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
					return &fateful{Conn: c}, err
				}
			})
			log, logged := loud()
			s := newScheduler(t, pool, river.Config{Logger: log})
			require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
				if job.Attempt == 1 {
					job.Tx.Conn().PgConn().Conn().(*fateful).fate.Store(int32(test.fate))
				}
				return addEffect(ctx, job)
			}, jobs.Transactional(), jobs.RetryDelay(0)))
			require.NoError(t, s.Start(t.Context()))
			id, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			run := awaitEnd(t, s, id, jobs.StateCompleted)
			pass(t, 400*time.Millisecond)
			require.Equal(t, test.attempts, run.Attempt)
			require.Equal(t, test.attempts, scalar[int](t, pool, `SELECT sum(attempt) FROM effect`), "one effect, of the attempt that has committed")
			require.Equal(t, test.fate != arrives, logsContain(logged, "connection lost during a commit"))
			require.Equal(t, test.attempts == 2, logsContain(logged, "job failed and will be retried"))
			if test.attempts == 2 {
				require.Contains(t, run.Error, "the commit failed: ")
			}
		})
	}
}

func TestTransactional_LeavesTwoConnectionsOfThePool(t *testing.T) {
	t.Parallel()
	pool := effects(t, func(cfg *pgxpool.Config) { cfg.MaxConns = 4 })
	s := newScheduler(t, pool, river.Config{})
	running, release := make(chan string, 10), make(chan struct{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
		running <- job.ID
		_, err := s.Trigger(ctx, "b.job", nil) // which uses a connection of the pool
		<-release
		return errors.Join(err, addEffect(ctx, job))
	}, jobs.Transactional(), jobs.MaxRetries(0)))
	require.NoError(t, s.RegisterDelayed("b.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	ids, err := s.TriggerMany(t.Context(), "a.job", make([]any, 5))
	require.NoError(t, err)
	receive(t, running)
	receive(t, running)
	pass(t, time.Second)
	require.Empty(t, running, "two run at once, on a pool of four")
	size, err := s.QueueSize(t.Context(), "a.job")
	require.NoError(t, err)
	require.Equal(t, 3, size, "the others wait")
	require.Equal(t, "default-tx", scalar[string](t, pool, `SELECT DISTINCT queue FROM river.river_job WHERE kind = 'a.job'`))
	close(release)
	for _, id := range ids {
		awaitEnd(t, s, id, jobs.StateCompleted)
	}
	require.Equal(t, 5, scalar[int](t, pool, `SELECT count(DISTINCT job) FROM effect`))
}

func TestStart_RefusesAPoolTooSmallForTransactionalJobs(t *testing.T) {
	t.Parallel()
	pool := openPool(t, migrated.URL(t)+"&pool_max_conns=2")
	s := newScheduler(t, pool, river.Config{Queue: strings.Repeat("q", 64)})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop, jobs.Transactional()))
	require.ErrorContains(t, s.Start(t.Context()),
		"river: start: transactional jobs (a.job) need a pool of at least 3 connections, and it allows 2: ")
	larger := openPool(t, migrated.URL(t)+"&pool_max_conns=3")
	s = newScheduler(t, larger, river.Config{Queue: strings.Repeat("q", 64)})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Transactional()))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	receive(t, ran)
	require.Regexp(t, `^q{48}-[0-9a-f]{8}$`, scalar[string](t, larger, `SELECT queue FROM river.river_job`))
}

func TestTransactional_WaitsForAConnectionBeforeTheAttemptStarts(t *testing.T) {
	t.Parallel()
	pool := effects(t, func(cfg *pgxpool.Config) { cfg.MaxConns = 3 })
	watch := openPool(t, pool.Config().ConnString())
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	ran := make(chan jobs.Job, 1)
	left := make(chan time.Duration, 1)
	const timeout = time.Second
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		ran <- *job
		return addEffect(ctx, job)
	}, jobs.Transactional(), jobs.Timeout(timeout)))
	require.NoError(t, s.Start(t.Context()))
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(time.Second))
	require.NoError(t, err)
	var held []*pgxpool.Conn
	for range 3 {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, conn)
	}
	eventually(t, "the run was fetched", func() bool {
		return scalar[int](t, watch, `SELECT count(*) FROM river.river_job WHERE state = 'running'`) == 1
	})
	fetched := time.Now()
	pass(t, 2*timeout)
	require.Empty(t, ran)
	for _, conn := range held {
		conn.Release()
	}
	job := receive(t, ran)
	require.Greater(t, receive(t, left), timeout/2, "the timeout starts with the attempt")
	require.Equal(t, 1, job.Attempt)
	require.WithinDuration(t, fetched.Add(2*timeout), job.StartedAt, timeout)
	awaitEnd(t, s, id, jobs.StateCompleted)
	require.Contains(t, logged.String(), `level=WARN msg="job waited for a connection of the pool" job=a.job`)
}

func TestTransactional_LimitsHowLongTheServerKeepsAnIdleTransaction(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{"0": "40s", "2h": "40s", "25s": "25s"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			pool := effects(t, func(cfg *pgxpool.Config) {
				cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = setting
			})
			s := newScheduler(t, pool, river.Config{})
			limits := make(chan string, 1)
			require.NoError(t, s.RegisterDelayed("a.job", 0, func(ctx context.Context, job *jobs.Job) error {
				var limit string
				err := job.DB.QueryRow(ctx, `SHOW idle_in_transaction_session_timeout`).Scan(&limit)
				limits <- limit
				return err
			}, jobs.Transactional(), jobs.Timeout(30*time.Second)))
			require.NoError(t, s.Start(t.Context()))
			_, err := s.Trigger(t.Context(), "a.job", nil)
			require.NoError(t, err)
			require.Equal(t, want, receive(t, limits))
		})
	}
}

// As TestTrigger_LeavesAServerThatHasBecomeReadOnly, for a process that only works, with a transactional job.
func TestTransactional_LeavesAServerThatHasBecomeReadOnly(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	pool, direct := openPool(t, url), openPool(t, url)
	s, client := newScheduler(t, pool, river.Config{}), newScheduler(t, direct, river.Config{TriggerOnly: true})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.Transactional(), jobs.RetryDelay(3*time.Second), jobs.MaxRetries(5)))
	require.NoError(t, s.Start(t.Context()))
	makeReadOnly(t, pool)
	id, err := client.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)
	eventually(t, "the job has completed", func() bool { return stateOf(t, client, "a.job", id) == jobs.StateCompleted })
}

// The connection that a transactional job gets from the pool is broken. Its handler is not called, so that is no attempt.
func TestTransactional_ATransactionThatCannotBeginUsesUpNoAttempt(t *testing.T) {
	t.Parallel()
	db := migrated.URL(t)
	pool := openPool(t, db)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran), jobs.MaxRetries(0), jobs.Transactional()))
	require.NoError(t, s.Start(t.Context()))
	direct := openPool(t, db)
	id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(2*time.Second))
	require.NoError(t, err)
	due := time.Now().Add(2 * time.Second)
	// The application has just used its connections, so that the pool does not ping them, when a firewall drops them.
	pass(t, time.Until(due.Add(-100*time.Millisecond)))
	var conns []uint32
	var held []interface{ Release() }
	for range pool.Config().MaxConns {
		c, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		_, err = c.Exec(t.Context(), `SELECT 1`)
		require.NoError(t, err)
		conns, held = append(conns, c.Conn().PgConn().PID()), append(held, c)
	}
	for _, c := range held {
		c.Release()
	}
	_, err = direct.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid`, conns)
	require.NoError(t, err)
	require.Equal(t, id, receive(t, ran).ID)
}
