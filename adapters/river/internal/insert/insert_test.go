package insert_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

// migrated provides each test with a migrated database.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error { return river.Migrate(ctx, pool, nil) })

// A fixture is an inserter and its parts.
type fixture struct {
	*insert.Inserter
	pool     *pgxpool.Pool
	client   *riverqueue.Client[pgx.Tx]
	inserted atomic.Int64 // jobs passed to the notifier
	attach   string       // a statement that is sent with each INSERT, if any
}

type options struct {
	configure func(cfg *riverqueue.Config)
	driver    func(d *riverpgxv5.Driver) riverdriver.Driver[pgx.Tx]
	inTx      bool
	ahead     time.Duration // of the process's clock
}

func newFixture(t testing.TB, pool *pgxpool.Pool, o options) *fixture {
	t.Helper()
	clock := dbclock.New(func(ctx context.Context, ask func(dbclock.Asker) error) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return ask(conn) })
	}, func() time.Time { return time.Now().Add(o.ahead) })
	require.NoError(t, clock.Measure(t.Context()))
	cfg := &riverqueue.Config{Schema: "river"}
	if o.configure != nil {
		o.configure(cfg)
	}
	cfg.Hooks = append(cfg.Hooks, &insert.Hook{Clock: clock})
	var driver riverdriver.Driver[pgx.Tx] = riverpgxv5.New(pool)
	if o.driver != nil {
		driver = o.driver(riverpgxv5.New(pool))
	}
	client, err := riverqueue.NewClient(driver, cfg)
	require.NoError(t, err)
	f := &fixture{pool: pool, client: client}
	f.Inserter = insert.New(pool, client, clock, o.inTx, notifier{f})
	return f
}

type notifier struct{ *fixture }

func (n notifier) Attach(batch *pgx.Batch, _ []*insert.Job) bool {
	if n.attach == "" {
		return false
	}
	batch.Queue(n.attach)
	return true
}

func (n notifier) Inserted(_ context.Context, jobs []*insert.Job, _ bool) {
	n.inserted.Add(int64(len(jobs)))
}

func newJob(n int) *insert.Job {
	return &insert.Job{Kind: "a.job", Queue: "default", Priority: 1, MaxAttempts: 3, Data: []byte(`{"n": ` + strconv.Itoa(n) + `}`)}
}

func scalar[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return v
}

func execSQL(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

// insertConcurrently inserts n jobs from as many callers while the table is locked, so that they share batches. It
// returns the error of each caller.
func (f *fixture) insertConcurrently(t testing.TB, n int) []error {
	t.Helper()
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), "LOCK TABLE river.river_job IN EXCLUSIVE MODE")
	require.NoError(t, err)
	errs := make([]error, n)
	var calling atomic.Int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			calling.Add(1)
			errs[i] = f.One(context.Background(), newJob(i))
		})
	}
	require.Eventually(t, func() bool {
		return calling.Load() == int64(n) && scalar[int](t, f.pool, `SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
			WHERE datname = current_database() AND relation = 'river.river_job'::regclass AND NOT granted`) >= 2
	}, 30*time.Second, 5*time.Millisecond, "callers wait for a batch")
	require.NoError(t, tx.Rollback(context.Background()))
	wg.Wait()
	return errs
}

func TestInserter_ConcurrentCallersGetTheIDsOfTheirOwnJobs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{})
	const callers = 200
	jobs := make([]*insert.Job, callers)
	var wg sync.WaitGroup
	for i := range callers {
		jobs[i] = newJob(i)
		wg.Go(func() {
			if err := f.One(context.Background(), jobs[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, j := range jobs {
		require.Equal(t, i, scalar[int](t, f.pool, `SELECT (args->>'n')::int FROM river.river_job WHERE id = $1`, j.ID))
	}
	require.Equal(t, callers, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job`))
	require.EqualValues(t, callers, f.inserted.Load())
}

func TestInserter_ARefusedJobFailsAlone(t *testing.T) {
	t.Parallel()
	errHook := errors.New("thirteen has no key")
	hook := riverqueue.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) error {
		if string(p.EncodedArgs) == `{"n":13}` {
			return errHook
		}
		return nil
	})
	for _, inTx := range []bool{false, true} {
		t.Run(fmt.Sprint("in a transaction ", inTx), func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			f := newFixture(t, pool, options{inTx: inTx, configure: func(cfg *riverqueue.Config) { cfg.Hooks = []rivertype.Hook{hook} }})
			execSQL(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.args->>'n' = '7' THEN RAISE 'seven is refused'; END IF; RETURN NEW; END $$`)
			execSQL(t, pool, `CREATE TRIGGER refuse BEFORE INSERT ON river.river_job FOR EACH ROW EXECUTE FUNCTION refuse()`)
			for i, err := range f.insertConcurrently(t, 40) {
				switch i {
				case 7:
					require.ErrorContains(t, err, "seven is refused")
					require.NotContains(t, err.Error(), "may or may not")
				case 13:
					require.ErrorIs(t, err, errHook)
				default:
					require.NoError(t, err, "caller %d", i)
				}
			}
			require.Equal(t, 38, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
		})
	}
}

// The notification is part of the INSERT's transaction.
func TestInserter_LosesNoJobToItsNotification(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	for _, test := range []struct {
		name, attach string
		wantErr      string
		stored       int
	}{
		{name: "sent", attach: `SELECT pg_notify('a', 'b')`, stored: 1},
		{name: "refused", attach: `SELECT 1 / 0`, stored: 1},
		{name: "lost", attach: `SELECT pg_terminate_backend(pg_backend_pid())`, wantErr: "may or may not have been stored"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, pool, options{})
			f.attach = test.attach
			j := newJob(1)
			j.Kind = "a." + test.name
			err := f.One(t.Context(), j)
			if test.wantErr == "" {
				require.NoError(t, err)
				require.NotZero(t, j.ID)
			} else {
				require.ErrorContains(t, err, test.wantErr)
			}
			stored := scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = $1`, j.Kind)
			require.Equal(t, test.stored, stored)
			require.EqualValues(t, test.stored, f.inserted.Load())
		})
	}
}

// A pooler may report an error for an INSERT that the server committed.
func TestInserter_NeverInsertsAgainAfterAnUncertainAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ severity, code string }{
		{"FATAL", "08P01"}, // PgBouncer: the server went away
		{"ERROR", "08P01"},
		{"FATAL", "57P01"},
		{"ERROR", "58000"},
		{"ERROR", "53100"},
		{"", ""}, // the connection breaks
	} {
		t.Run(test.severity+test.code, func(t *testing.T) {
			t.Parallel()
			cfg, err := pgxpool.ParseConfig(migrated.URL(t))
			require.NoError(t, err)
			cfg.MaxConns = 10
			direct, err := pgxpool.NewWithConfig(t.Context(), cfg)
			require.NoError(t, err)
			defer direct.Close()
			p, port := newPooler(t, &cfg.ConnConfig.Copy().Config)
			through := cfg.Copy()
			through.ConnConfig.Host, through.ConnConfig.Port, through.ConnConfig.TLSConfig, through.ConnConfig.Fallbacks = "127.0.0.1", port, nil, nil
			through.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // poolers do not support cached statements
			pool, err := pgxpool.NewWithConfig(t.Context(), through)
			require.NoError(t, err)
			defer pool.Close()
			f := newFixture(t, pool, options{})
			require.NoError(t, f.One(t.Context(), newJob(1000)))
			if test.code == "" {
				p.dropped.Store(true)
			} else {
				p.answers.Store(&pgproto3.ErrorResponse{Severity: test.severity, SeverityUnlocalized: test.severity, Code: test.code, Message: "by the pooler"})
			}
			f.pool = direct // for the lock and the counts
			for i, err := range f.insertConcurrently(t, 40) {
				require.ErrorContains(t, err, "may or may not have been stored", "caller %d", i)
			}
			require.Error(t, f.One(t.Context(), newJob(40)), "alone")
			require.Equal(t, 42, scalar[int](t, direct, `SELECT count(*) FROM river.river_job`))
			require.Equal(t, 42, scalar[int](t, direct, `SELECT count(DISTINCT args->>'n') FROM river.river_job`))
			require.EqualValues(t, 1, f.inserted.Load())
			p.answers.Store(nil)
			p.dropped.Store(false)
			require.NoError(t, f.One(t.Context(), newJob(2000)))
		})
	}
}

// A trigger on River's table can silently drop rows.
func TestInserter_FewerRowsThanJobsIsAnError(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	f := newFixture(t, pool, options{})
	execSQL(t, pool, `CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.args->>'n' = '7' THEN RETURN NULL; END IF; RETURN NEW; END $$`)
	execSQL(t, pool, `CREATE TRIGGER drop_row BEFORE INSERT ON river.river_job FOR EACH ROW EXECUTE FUNCTION drop_row()`)
	const want = "is there a trigger on River's table?"
	require.ErrorContains(t, f.One(t.Context(), newJob(7)), want)
	unique := newJob(7)
	unique.UniqueKey = []byte("key")
	require.ErrorContains(t, f.One(t.Context(), unique), want)
	require.ErrorContains(t, f.Many(t.Context(), []*insert.Job{newJob(1), newJob(7)}), want)
	require.ErrorContains(t, f.Bulk(t.Context(), []*insert.Job{newJob(1), newJob(7)}), want)
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`), "nothing is stored")
	errs := f.insertConcurrently(t, 20)
	for i, err := range errs {
		if i == 7 {
			require.ErrorContains(t, err, want)
		}
	}
	require.NoError(t, f.One(t.Context(), newJob(8)))
}

// aborting is an insert middleware that fails after the INSERT.
type aborting struct {
	riverqueue.MiddlewareDefaults
	after func() // called after the INSERT, unless it is nil
}

var errAborted = errors.New("aborted")

func (a *aborting) InsertMany(
	ctx context.Context, _ []*rivertype.JobInsertParams,
	doInner func(context.Context) ([]*rivertype.JobInsertResult, error),
) ([]*rivertype.JobInsertResult, error) {
	if _, err := doInner(ctx); err != nil {
		return nil, err
	}
	if a.after != nil {
		a.after()
	}
	return nil, errAborted
}

func TestInserter_StoresNothingIfAMiddlewareFailsAfterTheInsert(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{inTx: true, configure: func(cfg *riverqueue.Config) {
		cfg.Middleware = []rivertype.Middleware{&aborting{}}
	}})
	err := f.One(t.Context(), newJob(1))
	require.ErrorIs(t, err, errAborted)
	require.NotContains(t, err.Error(), "may or may not")
	require.Zero(t, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job`))
	require.Zero(t, f.inserted.Load())
}

// mute is a connection whose network drops everything that is sent while silent is set.
type mute struct {
	net.Conn
	silent *atomic.Bool
}

func (m mute) Write(p []byte) (int, error) {
	if m.silent.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

func TestInserter_WaitsNotForeverForARollback(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(f *fixture) error{
		"One":  func(f *fixture) error { return f.One(t.Context(), newJob(1)) },
		"Bulk": func(f *fixture) error { return f.Bulk(t.Context(), numbered(2)) },
		"ManyTx": func(f *fixture) error {
			return pgx.BeginFunc(t.Context(), f.pool, func(tx pgx.Tx) error { return f.ManyTx(t.Context(), tx, numbered(2)) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var silent atomic.Bool
			cfg, err := pgxpool.ParseConfig(migrated.URL(t))
			require.NoError(t, err)
			dial, dialed := cfg.ConnConfig.DialFunc, make(chan net.Conn, 10)
			cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if silent.Load() {
					return nil, errors.New("the network is down")
				}
				conn, err := dial(ctx, network, addr)
				if err == nil {
					dialed <- conn
				}
				return mute{conn, &silent}, err
			}
			pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
			require.NoError(t, err)
			t.Cleanup(func() {
				for len(dialed) > 0 { // pgx waits for the server
					_ = (<-dialed).Close()
				}
				pool.Close()
			})
			f := newFixture(t, pool, options{inTx: true, configure: func(cfg *riverqueue.Config) {
				cfg.Middleware = []rivertype.Middleware{&aborting{after: func() { silent.Store(true) }}}
			}})
			returned := make(chan error, 1)
			go func() { returned <- call(f) }()
			select {
			case err := <-returned:
				require.ErrorIs(t, err, errAborted)
			case <-time.After(30 * time.Second):
				t.Fatal("it waits for the rollback")
			}
		})
	}
}

// nested is a driver that begins a nested transaction, as River's driver may do one day.
type nested struct{ *riverpgxv5.Driver }

type nestedExecutor struct {
	riverdriver.ExecutorTx
	tx     pgx.Tx
	driver *riverpgxv5.Driver
}

func (d nested) UnwrapExecutor(tx pgx.Tx) riverdriver.ExecutorTx {
	return nestedExecutor{d.Driver.UnwrapExecutor(tx), tx, d.Driver}
}

func (e nestedExecutor) JobInsertFastMany(ctx context.Context, params *riverdriver.JobInsertFastManyParams) (results []*riverdriver.JobInsertFastResult, err error) {
	err = pgx.BeginFunc(ctx, e.tx, func(tx pgx.Tx) error {
		results, err = e.driver.UnwrapExecutor(tx).JobInsertFastMany(ctx, params)
		return err
	})
	return results, err
}

func TestInserter_FallsBackToATransactionForUnsupportedCalls(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{driver: func(d *riverpgxv5.Driver) riverdriver.Driver[pgx.Tx] { return nested{d} }})
	for i := range 3 {
		require.NoError(t, f.One(t.Context(), newJob(i)))
	}
	require.Equal(t, 3, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job`))
}

func TestInserter_AHookThatInsertsDoesNotWaitForItsOwnBatch(t *testing.T) {
	t.Parallel()
	var f *fixture
	hook := riverqueue.HookInsertBeginFunc(func(ctx context.Context, p *rivertype.JobInsertParams) error {
		if p.Kind == "a.job" {
			j := newJob(0)
			j.Kind = "an.audit"
			return f.One(ctx, j)
		}
		return nil
	})
	// One connection is enough, because none is held while hooks run.
	f = newFixture(t, poolOf(t, 1), options{configure: func(cfg *riverqueue.Config) { cfg.Hooks = []rivertype.Hook{hook} }})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := f.One(context.Background(), newJob(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 20, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job WHERE kind = 'an.audit'`))
}

func poolOf(t testing.TB, conns int32) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(migrated.URL(t))
	require.NoError(t, err)
	cfg.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// Jobs are due now by the database's clock, also those inserted with River's client directly.
func TestHook_UsesTheDatabasesClock(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{ahead: 90 * time.Second})
	require.NoError(t, f.One(t.Context(), newJob(1)))
	require.NoError(t, f.Many(t.Context(), []*insert.Job{newJob(2), newJob(3)}))
	require.NoError(t, f.Bulk(t.Context(), []*insert.Job{newJob(4), newJob(5)}))
	require.NoError(t, pgx.BeginFunc(t.Context(), f.pool, func(tx pgx.Tx) error { return f.Tx(t.Context(), tx, newJob(6)) }))
	_, err := f.client.Insert(t.Context(), foreign{}, nil)
	require.NoError(t, err)
	_, err = f.client.InsertManyFast(t.Context(), []riverqueue.InsertManyParams{{Args: foreign{}}})
	require.NoError(t, err)
	require.Equal(t, 8, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job WHERE state = 'available'
		AND scheduled_at BETWEEN now() - interval '1 minute' AND now() + interval '1 second'
		AND created_at BETWEEN now() - interval '1 minute' AND now() + interval '1 second'`))
}

// foreign is the args of a job inserted with River's client directly.
type foreign struct{}

func (foreign) Kind() string { return "foreign" }

func TestHook_JobsDueSoonAreAvailable(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{ahead: time.Hour})
	now := scalar[time.Time](t, f.pool, `SELECT now()`)
	soon, later := newJob(1), newJob(2)
	soon.Due, later.Due = now.Add(2*time.Second), now.Add(time.Minute)
	require.NoError(t, f.One(t.Context(), soon))
	require.NoError(t, f.One(t.Context(), later))
	for j, state := range map[*insert.Job]string{soon: "available", later: "scheduled"} {
		require.Equal(t, state, scalar[string](t, f.pool, `SELECT state::text FROM river.river_job WHERE id = $1`, j.ID))
		require.WithinDuration(t, j.Due, scalar[time.Time](t, f.pool, `SELECT scheduled_at FROM river.river_job WHERE id = $1`, j.ID), time.Millisecond)
	}
}

func TestInserter_KeepsAnIDDrawnBefore(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{})
	j := newJob(1)
	j.ID = 4711
	require.NoError(t, f.One(t.Context(), j))
	require.Equal(t, 1, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job WHERE id = 4711`))
}

func TestInserter_ACancelledCallerAffectsNoOther(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{})
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE river.river_job IN EXCLUSIVE MODE")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	left, stayed := make(chan error, 10), make(chan error, 10)
	for i := range 20 {
		ctx, done := ctx, left
		if i%2 == 0 {
			ctx, done = context.Background(), stayed
		}
		go func() { done <- f.One(ctx, newJob(i)) }()
	}
	require.Eventually(t, func() bool {
		return scalar[int](t, f.pool, `SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
			WHERE datname = current_database() AND relation = 'river.river_job'::regclass AND NOT granted`) >= 1
	}, 30*time.Second, 5*time.Millisecond)
	cancel()
	for range 10 {
		require.ErrorIs(t, <-left, context.Canceled, "before the insert is done")
	}
	require.NoError(t, tx.Rollback(context.Background()))
	for range 10 {
		require.NoError(t, <-stayed)
	}
}

func numbered(n int) []*insert.Job {
	jobs := make([]*insert.Job, n)
	for i := range jobs {
		jobs[i] = newJob(i)
	}
	return jobs
}

func TestInserter_ManyIsAllOrNothingAcrossParts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{})
	jobs := numbered(10_001)
	require.NoError(t, f.Many(t.Context(), jobs))
	for _, i := range []int{0, 1, 9_999, 10_000} {
		require.Equal(t, i, scalar[int](t, f.pool, `SELECT (args->>'n')::int FROM river.river_job WHERE id = $1`, jobs[i].ID))
	}
	jobs = numbered(10_001)
	jobs[10_000].Data = []byte(`{"n": "\u0000"}`) // PostgreSQL refuses it
	require.Error(t, f.Many(t.Context(), jobs))
	require.Equal(t, 10_001, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job`))
}

func TestInserter_BulkKeepsTheOrderAcrossParts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrated.Pool(t), options{})
	require.NoError(t, f.Bulk(t.Context(), numbered(25_000)))
	require.Equal(t, 25_000, scalar[int](t, f.pool, `SELECT count(*) FROM (
		SELECT args->>'n' AS n, row_number() OVER (ORDER BY id) - 1 AS place FROM river.river_job
	) AS row WHERE n::int = place`))
	require.EqualValues(t, 25_000, f.inserted.Load())
}

func TestInserter_BulkIsAllOrNothingAcrossParts(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]struct {
		hook func()
		want string
	}{
		"a row":            {nil, "unsupported Unicode escape sequence"},
		"a hook panics":    {func() { panic("a bug") }, "panic: a bug"},
		"a hook goes away": {runtime.Goexit, "stored"},
	} {
		for _, at := range []int{0, 10_000, 24_999} {
			t.Run(fmt.Sprintf("%s at %d", name, at), func(t *testing.T) {
				t.Parallel()
				bad := fmt.Sprintf(`{"n":%d}`, at)
				f := newFixture(t, migrated.Pool(t), options{configure: func(cfg *riverqueue.Config) {
					cfg.Hooks = []rivertype.Hook{riverqueue.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) error {
						if refuse.hook != nil && string(p.EncodedArgs) == bad {
							refuse.hook()
						}
						return nil
					})}
				}})
				jobs := numbered(25_000)
				if refuse.hook == nil {
					jobs[at].Data = []byte(`{"n": "\u0000"}`)
				}
				require.ErrorContains(t, f.Bulk(t.Context(), jobs), refuse.want)
				require.Zero(t, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job`))
				require.Zero(t, f.inserted.Load())
			})
		}
	}
}

func TestInserter_BulkStopsAtAFailureOrTheEndOfItsContext(t *testing.T) {
	t.Parallel()
	errBug := errors.New("a bug")
	for name, test := range map[string]struct {
		at   int
		hook func(cancel func()) error
		want error
	}{
		"a hook fails":                      {0, func(func()) error { return errBug }, errBug},
		"a hook fails in the second part":   {10_000, func(func()) error { return errBug }, errBug},
		"its context ends in the first":     {0, func(cancel func()) error { cancel(); return nil }, context.Canceled},
		"its context ends while one copies": {19_999, func(cancel func()) error { cancel(); return nil }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var calls atomic.Int64
			f := newFixture(t, migrated.Pool(t), options{configure: func(cfg *riverqueue.Config) {
				cfg.Hooks = []rivertype.Hook{riverqueue.HookInsertBeginFunc(func(_ context.Context, p *rivertype.JobInsertParams) error {
					calls.Add(1)
					if string(p.EncodedArgs) == fmt.Sprintf(`{"n":%d}`, test.at) {
						return test.hook(cancel)
					}
					return nil
				})}
			}})
			require.ErrorIs(t, f.Bulk(ctx, numbered(100_000)), test.want)
			require.LessOrEqual(t, calls.Load(), int64(40_000))
			require.Zero(t, scalar[int](t, f.pool, `SELECT count(*) FROM river.river_job`))
		})
	}
}
