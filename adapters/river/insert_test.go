package river_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// stalled holds up insertions until release is called, so that callers gather.
func stalled(t *testing.T, s *river.Scheduler) (release func()) {
	t.Helper()
	s.WaitFor(time.Hour)
	pool := s.Pool()
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), "LOCK TABLE river.river_job IN EXCLUSIVE MODE")
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback(context.Background())) }
}

// gathered waits until the statement of a caller on its own is on its way, and beside it one of
// many callers.
func gathered(t *testing.T, s *river.Scheduler) {
	t.Helper()
	eventually(t, "callers gather", func() bool { return s.Inserting() == 2 })
}

// blocked waits until that many insertions wait for the lock of stalled, and returns how many do.
func blocked(t *testing.T, pool *pgxpool.Pool, atLeast int) (n int) {
	t.Helper()
	eventually(t, "insertions are sent", func() bool {
		n = scalar[int](t, pool, `SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
			WHERE datname = current_database() AND relation = 'river.river_job'::regclass AND NOT granted`)
		return n >= atLeast
	})
	return n
}

func TestTriggersThatGatherAreEachStoredOnce(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	release := stalled(t, s)
	const callers = 200
	ids := make([]string, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			var err error
			if ids[i], err = s.Trigger(context.Background(), "a.job", map[string]int{"n": i}); err != nil {
				t.Error(err)
			}
		})
	}
	gathered(t, s)
	require.Equal(t, 2, blocked(t, pool, 2), "however many callers there are")
	release()
	wg.Wait()
	for i, id := range ids {
		require.Equal(t, i, scalar[int](t, pool, `SELECT (args->>'n')::int FROM river.river_job WHERE id = $1::text::bigint`, id), "each caller gets the ID of its own job")
	}
	require.Equal(t, callers, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestUniqueHoldsAmongTriggersAtOnce(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.RegisterDelayed("b.job", 0, noop))
	release := stalled(t, s)
	type call struct{ name, key string }
	ids := map[call]map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 60 {
		c := call{[]string{"a.job", "b.job"}[i%2], fmt.Sprint("key", i%3)}
		wg.Go(func() {
			id, err := s.Trigger(context.Background(), c.name, nil, jobs.Unique(c.key))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if ids[c] == nil {
				ids[c] = map[string]bool{}
			}
			ids[c][id] = true
		})
	}
	release()
	wg.Wait()
	require.Len(t, ids, 6)
	for c, of := range ids {
		require.Len(t, of, 1, "all callers of %v got one job", c)
	}
	require.Equal(t, 6, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestATriggerThatIsRefusedFailsAlone(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	execSQL(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.args->>'n' = '7' THEN RAISE 'seven is refused'; END IF; RETURN NEW; END $$`)
	execSQL(t, pool, `CREATE TRIGGER refuse BEFORE INSERT ON river.river_job FOR EACH ROW EXECUTE FUNCTION refuse()`)
	release := stalled(t, s)
	errs := make([]error, 20)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.Trigger(context.Background(), "a.job", map[string]int{"n": i}) })
	}
	gathered(t, s)
	release()
	wg.Wait()
	for i, err := range errs {
		if i == 7 {
			require.ErrorContains(t, err, "seven is refused")
			continue
		}
		require.NoError(t, err, "caller %d", i)
	}
	require.Equal(t, 19, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestACallerThatLeavesHurtsNobody(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	release := stalled(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	left, stayed := make(chan error, 10), make(chan error, 10)
	for i := range 20 {
		ctx, done := ctx, left
		if i%2 == 0 {
			ctx, done = context.Background(), stayed
		}
		go func() {
			_, err := s.Trigger(ctx, "a.job", nil)
			done <- err
		}()
	}
	gathered(t, s)
	cancel()
	for range 10 {
		require.ErrorIs(t, receive(t, left), context.Canceled, "while the insertion is still held up")
	}
	release()
	for range 10 {
		require.NoError(t, receive(t, stayed))
	}
}

// dead is a tracer that makes the first insertion of its pool hang, or panic.
type dead struct {
	panics bool
	died   atomic.Bool
	hung   chan struct{}
	revive chan struct{}
}

func (d *dead) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (d *dead) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (d *dead) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	switch {
	case d.died.Swap(true):
	case d.panics:
		panic("traced")
	default:
		close(d.hung)
		<-d.revive
	}
	return ctx
}
func (d *dead) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (d *dead) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func tracedPool(t *testing.T, d *dead) *pgxpool.Pool {
	t.Helper()
	return poolWith(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = d })
}

func TestAStatementThatIsStuckHoldsUpNoOtherTrigger(t *testing.T) {
	t.Parallel()
	d := &dead{hung: make(chan struct{}), revive: make(chan struct{})}
	s := newScheduler(t, tracedPool(t, d), river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	stuck := make(chan error, 1)
	go func() {
		_, err := s.Trigger(context.Background(), "a.job", nil)
		stuck <- err
	}()
	receive(t, d.hung)
	for range 3 {
		_, err := s.Trigger(t.Context(), "a.job", nil)
		require.NoError(t, err)
	}
	require.Empty(t, stuck)
	close(d.revive)
	require.NoError(t, receive(t, stuck))
	require.Equal(t, 4, scalar[int](t, s.Pool(), `SELECT count(*) FROM river.river_job`))
	require.Zero(t, s.Inserting())
}

func TestAPanicOfOneTriggerHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, tracedPool(t, &dead{panics: true}), river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.PanicsWithValue(t, "traced", func() { _, _ = s.Trigger(t.Context(), "a.job", nil) })
	_, err := s.Trigger(t.Context(), "a.job", nil)
	require.NoError(t, err)
}

func TestTriggerTxWithoutATransactionIsRefused(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	_, err := s.TriggerTx(t.Context(), nil, "a.job", nil)
	require.ErrorContains(t, err, "the transaction is nil")
	require.Zero(t, scalar[int](t, s.Pool(), `SELECT count(*) FROM river.river_job`))
}

func TestTriggersGoOnAfterANetworkThatSwallowedEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var swallows atomic.Bool
		trigger := river.Insert(func(ctx context.Context) error {
			if swallows.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		swallows.Store(true)
		failed := make(chan error, 100)
		for range 20 { // each alone, and patient
			go func() { failed <- trigger(context.Background()) }()
			time.Sleep(12 * time.Second) // by the clock of the bubble: it takes no time
		}
		swallows.Store(false)
		for range 20 {
			require.ErrorContains(t, <-failed, "no answer within 10s, so it may be stored or not")
		}
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			require.NoError(t, trigger(ctx))
			cancel()
		}
	})
}

func TestStatementsThatAreStuckTakeFewConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running, most int
		var mu sync.Mutex
		trigger := river.Insert(func(ctx context.Context) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			running--
			mu.Unlock()
			return ctx.Err()
		})
		failed := make(chan error, 100)
		for range 30 {
			go func() { failed <- trigger(context.Background()) }()
			time.Sleep(300 * time.Millisecond) // by the clock of the bubble: it takes no time
		}
		for range 30 {
			require.Error(t, <-failed)
		}
		synctest.Wait()
		require.LessOrEqual(t, most, 6, "two beside the four that may be stuck")
		require.Greater(t, most, 1)
	})
}
