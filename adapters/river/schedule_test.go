package river_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// lastTick returns the latest tick of an interval. If the next one is so near that it might come during the test, it
// waits for that one.
func lastTick(every time.Duration) time.Time {
	if left := every - time.Since(time.Now().Truncate(every)); left < 30*time.Second {
		<-time.After(left)
	}
	return time.Now().UTC().Truncate(every)
}

// registered starts a scheduler and shuts it down, so that its schedules have rows.
func registered(t testing.TB, s *river.Scheduler) {
	t.Helper()
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, shutdown(s))
}

// setNext sets the next tick of a schedule.
func setNext(t testing.TB, pool *pgxpool.Pool, name string, tick time.Time) {
	t.Helper()
	require.EqualValues(t, 1, execSQL(t, pool, `UPDATE river.everytick_schedule SET next_tick = $2 WHERE name = $1`, name, tick))
}

func nextOf(t testing.TB, pool *pgxpool.Pool, name string) time.Time {
	t.Helper()
	return scalar[time.Time](t, pool, `SELECT next_tick FROM river.everytick_schedule WHERE name = $1`, name).UTC()
}

func statusOf(t testing.TB, s *river.Scheduler, name string) jobs.Status {
	t.Helper()
	all, err := s.Jobs(t.Context())
	require.NoError(t, err)
	for _, st := range all {
		if st.Name == name {
			return st
		}
	}
	require.FailNow(t, "no such job", name)
	panic("unreachable")
}

func TestSchedule_StoresTheTickInTheMetadata(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran), jobs.Priority(3), jobs.MaxRetries(6)))
	registered(t, s)
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`), "no tick is stored before it is due")
	grid := lastTick(time.Hour)
	require.Equal(t, grid.Add(time.Hour), nextOf(t, pool, "a.tick"))
	setNext(t, pool, "a.tick", grid.Add(-time.Hour))
	require.NoError(t, s.Start(t.Context()))
	job := receive(t, ran)
	require.Equal(t, [3]any{grid, 1, "{}"}, [3]any{job.Tick, job.Missed, string(job.Data)}, "the later of two ticks")
	row, err := s.Client().JobGet(t.Context(), idOf(t, job.ID))
	require.NoError(t, err)
	require.Equal(t, [3]any{3, 7, grid}, [3]any{row.Priority, row.MaxAttempts, row.ScheduledAt.UTC()})
	var metadata map[string]any
	require.NoError(t, json.Unmarshal(row.Metadata, &metadata))
	require.Equal(t, grid.Format(time.RFC3339), metadata["everytick_tick"])
	require.EqualValues(t, 1, metadata["everytick_missed"])
	eventually(t, "the run has completed", func() bool { return statusOf(t, s, "a.tick").PrevState == jobs.StateCompleted })
	st := statusOf(t, s, "a.tick")
	require.Equal(t, [4]any{grid, 1, grid, grid.Add(time.Hour)}, [4]any{st.PrevTick, st.Missed, st.LastSuccess, st.NextTick})
}

func TestTrigger_DataThatLooksLikeATickIsData(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", map[string]any{"tick": "2026-01-01T00:00:00Z", "everytick_tick": true})
	require.NoError(t, err)
	job := receive(t, ran)
	require.Zero(t, job.Tick)
	require.Contains(t, string(job.Data), "2026-01-01")
}

// The row of a schedule does not depend on rows of jobs.
func TestSchedule_ContinuesAfterJobsAreTruncated(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	// A tick that waits for a worker is a job, and truncated with the others.
	truncate := func() {
		eventually(t, "no tick waits", func() bool {
			_, err := pool.Exec(t.Context(), `DO $$ BEGIN
				LOCK TABLE river.river_job;
				IF EXISTS (SELECT FROM river.river_job WHERE state = 'available') THEN RAISE 'a tick waits'; END IF;
				TRUNCATE river.river_job;
			END $$`)
			return err == nil
		})
	}
	last := receive(t, ran)
	for range 3 {
		truncate()
		next := receive(t, ran)
		require.Equal(t, last.Tick.Add(time.Duration(next.Missed+1)*time.Second), next.Tick)
		last = next
	}
	truncate()
	require.False(t, statusOf(t, s, "a.tick").LastSuccess.IsZero())
}

func TestSchedule_RestoresADeletedRow(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", 3*time.Second, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	last := receive(t, ran)
	for range 2 {
		require.EqualValues(t, 1, execSQL(t, pool, `DELETE FROM river.everytick_schedule`))
		next := receive(t, ran)
		require.Equal(t, last.Tick.Add(time.Duration(next.Missed+1)*3*time.Second), next.Tick)
		last = next
	}
}

func TestSchedule_ChangeMovesTheNextTickWithoutCatchUp(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	next := func(d time.Duration) time.Time { return time.Now().UTC().Truncate(d).Add(d) }
	before := newScheduler(t, pool, river.Config{})
	require.NoError(t, before.RegisterInterval("a.tick", 24*time.Hour, noop))
	registered(t, before)
	require.Equal(t, next(24*time.Hour), nextOf(t, pool, "a.tick"))
	setNext(t, pool, "a.tick", time.Now().Add(-time.Hour))

	after := newScheduler(t, pool, river.Config{})
	require.NoError(t, after.RegisterInterval("a.tick", 23*time.Hour, noop))
	registered(t, after)
	require.Equal(t, next(23*time.Hour), nextOf(t, pool, "a.tick"))
	registered(t, before) // and back
	require.Equal(t, next(24*time.Hour), nextOf(t, pool, "a.tick"))
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

// A tick passes while Start, with a changed option, waits for another process that is registering.
func TestStart_LosesNoTickWhileItWaits(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	old := newScheduler(t, pool, river.Config{})
	require.NoError(t, old.RegisterInterval("a.tick", 2*time.Second, noop))
	registered(t, old)
	tick := nextOf(t, pool, "a.tick")

	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended('everytick schedules river', 0))`)
	require.NoError(t, err)
	s := newScheduler(t, pool, river.Config{})
	ticks := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", 2*time.Second, forward(ticks), jobs.MaxRetries(7)))
	started := make(chan error, 1)
	go func() { started <- s.Start(context.Background()) }()
	eventually(t, "Start waits", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
			WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted`) == 1
	})
	eventually(t, "the tick passes", func() bool { return scalar[bool](t, pool, `SELECT clock_timestamp() > $1`, tick) })
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, receive(t, started))
	first := receive(t, ticks)
	require.Equal(t, tick, first.Tick.Add(-time.Duration(first.Missed)*2*time.Second))
	second := receive(t, ticks)
	require.Equal(t, first.Tick.Add(time.Duration(second.Missed+1)*2*time.Second), second.Tick)
}

func TestStart_IgnoresTheRolesTimeouts(t *testing.T) {
	t.Parallel()
	pool := poolWith(t, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.RuntimeParams["lock_timeout"] = "10ms"
		cfg.ConnConfig.RuntimeParams["statement_timeout"] = "400ms"
	})
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	other, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	tx, err := other.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended('everytick schedules river', 0))`)
	require.NoError(t, err)
	started := make(chan error, 1)
	go func() { started <- s.Start(context.Background()) }()
	eventually(t, "Start waits for longer than the role allows", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event = 'advisory' AND query_start < now() - interval '600ms'`) == 1
	})
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, receive(t, started))
}

// frozen is a tracer that blocks the first statement that contains at, until thawed is closed.
type frozen struct {
	at           string
	hung, thawed chan struct{}
	once         sync.Once
}

func (f *frozen) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, f.at) {
		f.once.Do(func() {
			close(f.hung)
			<-f.thawed
		})
	}
	return ctx
}

func (*frozen) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestStart_AFrozenProcessBlocksNoOtherForLong(t *testing.T) {
	t.Parallel()
	f := &frozen{at: `everytick_schedule AS s (name, spec`, hung: make(chan struct{}), thawed: make(chan struct{})}
	pool := poolWith(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = f })
	first := newScheduler(t, pool, river.Config{})
	require.NoError(t, first.RegisterInterval("a.tick", time.Hour, noop))
	t.Cleanup(func() { close(f.thawed) }) // before first is shut down
	go func() { _ = first.Start(context.Background()) }()
	receive(t, f.hung)
	second := newScheduler(t, openPool(t, pool.Config().ConnString()), river.Config{})
	require.NoError(t, second.RegisterInterval("a.tick", time.Hour, noop))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, second.Start(ctx))
}

func TestSchedule_FollowsTheDatabasesClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-90 * time.Second, 90 * time.Second} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			s := newScheduler(t, pool, river.Config{})
			var shift atomic.Int64
			shift.Store(int64(off))
			s.ShiftWallClock(&shift)
			ran := make(chan jobs.Job, 100)
			const every = 3 * time.Second
			require.NoError(t, s.RegisterInterval("a.tick", every, forward(ran)))
			require.NoError(t, s.Start(t.Context()))
			prev := receive(t, ran)
			for i := range 4 {
				if i == 2 {
					shift.Store(0) // the clock is corrected
				}
				job := receive(t, ran)
				require.Equal(t, prev.Tick.Add(time.Duration(job.Missed+1)*every), job.Tick, "off by %s", off)
				prev = job
			}
			require.NoError(t, shutdown(s))
			require.Empty(t, ran)
			require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE created_at < scheduled_at`), "no tick is inserted early")
		})
	}
}

// awaitInRow waits for the runs of n ticks of a one-second schedule without a gap.
func awaitInRow(t testing.TB, ran <-chan jobs.Job, n int) {
	t.Helper()
	for last, inRow := receive(t, ran), 1; inRow < n; inRow++ {
		job := receive(t, ran)
		if !job.Tick.Equal(last.Tick.Add(time.Second)) {
			inRow = 0
		}
		last = job
	}
}

// Until the next heartbeat, two seconds later at most, the process takes the time for an hour later than it is.
func TestSchedule_IsOnTimeAfterTheProcesssClockWasSet(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	var shift atomic.Int64
	s.ShiftWallClock(&shift)
	ran := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	last := receive(t, ran)
	for range 3 {
		last = receive(t, ran)
		pass(t, time.Until(last.Tick.Add(980*time.Millisecond))) // so that a check comes before the heartbeat
		shift.Add(int64(time.Hour))
	}
	pass(t, 3*time.Second)
	for len(ran) > 0 {
		<-ran
	}
	awaitInRow(t, ran, 5)
}

func TestTrigger_DelayFollowsTheDatabasesClock(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	var shift atomic.Int64
	s.ShiftWallClock(&shift)
	for _, off := range []time.Duration{3 * time.Hour, -3 * time.Hour, 0, -time.Hour} {
		shift.Store(int64(off)) // the clock is set
		id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(10*time.Hour))
		require.NoError(t, err)
		due := scalar[float64](t, pool, `SELECT extract(epoch FROM scheduled_at - now())::float8 FROM river.river_job WHERE id = $1::text::bigint`, id)
		require.InDelta(t, (10 * time.Hour).Seconds(), due, 600, "off by %s", off)
	}
}

func TestSchedule_ContinuesWhileAnotherServiceLeads(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	service := func(name string, every time.Duration) (s *river.Scheduler, ran chan jobs.Job) {
		s, ran = newScheduler(t, openPool(t, url), river.Config{}), make(chan jobs.Job, 100)
		require.NoError(t, s.RegisterInterval(name, every, forward(ran)))
		return s, ran
	}
	leader, ran := service("one.tick", time.Second)
	require.NoError(t, leader.Start(t.Context()))
	receive(t, ran)
	eventually(t, "the first service leads", func() bool { return scalar[int](t, leader.Pool(), `SELECT count(*) FROM river.river_leader`) == 1 })
	const every = 3 * time.Second
	follower, other := service("two.tick", every)
	require.NoError(t, follower.Start(t.Context()))
	last := receive(t, other)
	for range 2 {
		next := receive(t, other)
		require.Equal(t, last.Tick.Add(time.Duration(next.Missed+1)*every), next.Tick)
		last = next
	}
}

func TestSchedule_RetriesAFailedTickBesideTheNext(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, func(ctx context.Context, job *jobs.Job) error {
		if err := forward(ran)(ctx, job); err != nil || job.Attempt > 1 {
			return err
		}
		return errors.New("first attempt")
	}, jobs.RetryDelay(1500*time.Millisecond)))
	require.NoError(t, s.Start(t.Context()))
	first := receive(t, ran)
	next := 0
	for range 60 { // retries that are due together start in any order
		job := receive(t, ran)
		if job.Attempt == 1 {
			next++
		}
		if job.Attempt == 2 && job.ID == first.ID {
			require.Equal(t, first.Tick, job.Tick)
			require.NotZero(t, next, "ticks continued meanwhile")
			return
		}
	}
	require.FailNow(t, "the tick was not retried")
}

func TestCatchUpAll_DoesNotWaitForRetries(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	retried, finish := make(chan jobs.Job, 10), make(chan struct{})
	t.Cleanup(func() { close(finish) })
	ran := make(chan jobs.Job, 1000)
	grid := lastTick(time.Hour)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, func(ctx context.Context, job *jobs.Job) error {
		switch {
		case !job.Tick.Equal(grid.Add(-time.Hour)):
			return forward(ran)(ctx, job)
		case job.Attempt == 1:
			return jobs.RetryAfter(0, errAgain)
		}
		retried <- *job
		select {
		case <-finish:
		case <-ctx.Done():
		}
		return nil
	}, jobs.CatchUp(jobs.CatchUpAll)))
	registered(t, s)
	setNext(t, pool, "a.tick", grid.Add(-time.Hour))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, 2, receive(t, retried).Attempt)
	require.Equal(t, grid, receive(t, ran).Tick, "while the retry is running")
}

// The ticks of ten schedules wait for a run.
func TestCatchUpAll_HeldTicksCostNoUpdates(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	release := make(chan struct{})
	open := sync.OnceFunc(func() { close(release) })
	t.Cleanup(open)
	started := make(chan jobs.Job, 1000)
	names := []string{"a.one", "a.two", "a.three", "a.four", "a.five", "a.six", "a.seven", "a.eight", "a.nine", "a.ten"}
	for _, name := range names {
		require.NoError(t, s.RegisterInterval(name, time.Second, func(ctx context.Context, job *jobs.Job) error {
			started <- *job
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil
		}, jobs.CatchUp(jobs.CatchUpAll)))
	}
	require.NoError(t, s.Start(t.Context()))
	first := map[string]jobs.Job{}
	for range names {
		job := receive(t, started)
		first[job.Name] = job
	}
	const updates = `SELECT coalesce(sum(n_tup_upd), 0)::int FROM pg_stat_user_tables WHERE relname IN ('river_job', 'everytick_schedule')`
	before := scalar[int](t, pool, updates)
	eventually(t, "four ticks wait", func() bool {
		return scalar[bool](t, pool, `SELECT now() > $1`, first["a.one"].Tick.Add(5*time.Second))
	})
	require.Less(t, scalar[int](t, pool, updates)-before, 60)
	require.Empty(t, started)
	for _, name := range names {
		n, err := s.QueueSize(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, 1, n, "the held ticks of a schedule count as one waiting job")
	}
	open()
	for range 3 * len(names) { // in order, for each job
		job := receive(t, started)
		require.Equal(t, first[job.Name].Tick.Add(time.Second), job.Tick)
		first[job.Name] = job
	}
}

func TestSchedule_AFailedInsertStopsNoOther(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	ran := make(chan jobs.Job, 100)
	for _, name := range []string{"a.bad", "a.good", "a.other"} {
		require.NoError(t, s.RegisterInterval(name, time.Second, forward(ran)))
	}
	execSQL(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.kind = 'a.bad' THEN RAISE 'bad is refused'; END IF; RETURN NEW; END $$`)
	execSQL(t, pool, `CREATE TRIGGER refuse BEFORE INSERT ON river.river_job FOR EACH ROW EXECUTE FUNCTION refuse()`)
	require.NoError(t, s.Start(t.Context()))
	seen := map[string]int{}
	for seen["a.good"] < 3 || seen["a.other"] < 3 {
		seen[receive(t, ran).Name]++
	}
	require.Zero(t, seen["a.bad"])
	require.Equal(t, 1, strings.Count(logged.String(), `level=ERROR msg="could not insert a tick that is due`), "not every second")
	execSQL(t, pool, `DROP TRIGGER refuse ON river.river_job`)
	for receive(t, ran).Name != "a.bad" {
	}
}

func TestSchedule_SkipsTicksOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran)))
	insertRows(t, pool, 1, `kind, state, args, metadata`, `'a.tick', 'available', '{"schedule": "a.tick", "tick": "2026-01-01T00:00:00Z", "spec": ""}', '{"everytick_tick": true}'`)
	insertRows(t, pool, 1, `kind, state, args, metadata, scheduled_at`, `'a.tick', 'scheduled', '{"schedule": "a.tick", "tick": "2126-01-01T00:00:00Z", "spec": ""}', '{"everytick_tick": true}', '2126-01-01T00:00:00Z'`)
	require.NoError(t, river.Migrate(t.Context(), pool, nil))
	require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`), "Migrate deletes ticks that are not due")
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "the tick is skipped", func() bool {
		runs, err := s.Runs(t.Context(), "a.tick", 10)
		require.NoError(t, err)
		return len(runs) == 1 && runs[0].State == jobs.StateSkipped
	})
	require.Empty(t, ran)
}

func TestSchedule_KeepsAnUnregisteredRowAndLogsItOnce(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := newScheduler(t, pool, river.Config{})
	require.NoError(t, before.RegisterInterval("a.gone", time.Hour, noop))
	registered(t, before)
	setNext(t, pool, "a.gone", time.Now().Add(-time.Hour))
	log, logged := loud()
	after := newScheduler(t, pool, river.Config{Logger: log})
	require.NoError(t, after.RegisterInterval("a.tick", time.Hour, noop))
	registered(t, after)
	require.Equal(t, 1, strings.Count(logged.String(), "it runs only if another service registers it"))
	require.Contains(t, logged.String(), "job=a.gone")
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
	health, err := after.Health(t.Context())
	require.NoError(t, err)
	require.Zero(t, health.OldestWaiting)
}

// The fetch that begins first may commit last.
func TestOverlapSkip_KeepsOneOfTwoRunsFetchedTogether(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	running := make(chan jobs.Job, 10)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	require.NoError(t, s.RegisterInterval("a.tick", 24*time.Hour, func(ctx context.Context, job *jobs.Job) error {
		running <- *job
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	}, jobs.Overlap(jobs.OverlapSkip)))
	for _, tick := range []string{"2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"} {
		insertRows(t, pool, 1, `kind, state, metadata`, `'a.tick', 'available', '{"everytick_tick": "`+tick+`"}'`)
	}
	require.NoError(t, s.Start(t.Context()))
	one := receive(t, running)
	eventually(t, "the other run is skipped", func() bool {
		runs, err := s.Runs(t.Context(), "a.tick", 10)
		require.NoError(t, err)
		for _, run := range runs {
			if run.ID != one.ID && run.State == jobs.StateSkipped {
				return true
			}
		}
		return false
	})
	require.Empty(t, running)
}

// River stores the result of a run up to 250 ms after its end.
func TestOverlapSkip_RunsATickRightAfterTheEndOfAnotherRun(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	ran := make(chan jobs.Job, 1000)
	for range 2 {
		s := newScheduler(t, openPool(t, url), river.Config{})
		require.NoError(t, s.RegisterInterval("a.tick", time.Second, func(ctx context.Context, job *jobs.Job) error {
			ran <- *job
			select {
			case <-time.After(time.Until(job.Tick.Add(930 * time.Millisecond))):
			case <-ctx.Done():
			}
			return nil
		}, jobs.Overlap(jobs.OverlapSkip)))
		require.NoError(t, s.Start(t.Context()))
	}
	awaitInRow(t, ran, 5)
}

// At any instant, some triggered run has ended and its result is not stored.
func TestOverlapSkip_RunsTicksOfAJobThatIsTriggeredOften(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ticks := make(chan jobs.Job, 1000)
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, func(_ context.Context, job *jobs.Job) error {
		if !job.Tick.IsZero() {
			ticks <- *job
		}
		return nil
	}, jobs.Overlap(jobs.OverlapSkip)))
	require.NoError(t, s.Start(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; ctx.Err() == nil; pass(t, 20*time.Millisecond) {
			if _, err := s.Trigger(ctx, "a.tick", nil); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	awaitInRow(t, ticks, 3)
	stop()
	wg.Wait()
}

func TestSchedule_RacingProcessesInsertEachTickOnce(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	ran := make(chan jobs.Job, 1000)
	for range 4 {
		s := newScheduler(t, openPool(t, url), river.Config{})
		for _, name := range []string{"a.one", "a.two", "a.three"} {
			require.NoError(t, s.RegisterInterval(name, time.Second, forward(ran)))
		}
		require.NoError(t, s.Start(t.Context()))
	}
	seen := map[string]map[time.Time]bool{"a.one": {}, "a.two": {}, "a.three": {}}
	for range 18 {
		job := receive(t, ran)
		require.False(t, seen[job.Name][job.Tick], "tick %s of %s ran twice", job.Tick, job.Name)
		seen[job.Name][job.Tick] = true
	}
}

func TestSchedule_AdvancesLargeDataInParts(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	names := []string{"a.b", "a.a", "a-c.a", "a_d.a"} // PostgreSQL may sort them differently
	for _, name := range names {
		data := map[string]string{"name": name, "text": strings.Repeat("x", 150_000)}
		require.NoError(t, s.RegisterInterval(name, time.Hour, forward(ran), jobs.Data(data)))
	}
	registered(t, s)
	grid := lastTick(time.Hour)
	execSQL(t, pool, `UPDATE river.everytick_schedule SET next_tick = $1`, grid)
	require.NoError(t, s.Start(t.Context()))
	for range names {
		job := receive(t, ran)
		var data struct{ Name, Text string }
		require.NoError(t, job.Decode(&data))
		require.Equal(t, job.Name, data.Name)
		require.Len(t, data.Text, 150_000)
	}
	require.Empty(t, ran)
}

// In a rollback, the new version drains while the old one still runs.
func TestShutdown_LeavesSchedulesToOthersWhileDraining(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	version := func(every time.Duration, h jobs.Handler) *river.Scheduler {
		s := newScheduler(t, openPool(t, url), river.Config{})
		require.NoError(t, s.RegisterInterval("a.tick", every, noop))
		require.NoError(t, s.RegisterDelayed("a.job", 0, h))
		require.NoError(t, s.Start(t.Context()))
		return s
	}
	release := make(chan struct{})
	open := sync.OnceFunc(func() { close(release) })
	t.Cleanup(open)
	slow := func(context.Context, *jobs.Job) error {
		<-release
		return nil
	}
	before := version(24*time.Hour, slow)
	after := version(23*time.Hour, slow)
	spec := func() string {
		return scalar[string](t, before.Pool(), `SELECT spec FROM river.everytick_schedule`)
	}
	require.Equal(t, "every 23h0m0s", spec())
	eventually(t, "the new version runs a job", func() bool {
		_, err := after.Trigger(t.Context(), "a.job", nil) // either version may take it
		require.NoError(t, err)
		return scalar[bool](t, before.Pool(), `SELECT EXISTS (SELECT FROM river.river_job WHERE state = 'running' AND attempted_by[1] = $1)`, after.Client().ID())
	})
	pass(t, 5*time.Second)
	require.Equal(t, "every 23h0m0s", spec(), "the old version leaves the row to the new one")
	stopped := make(chan error, 1)
	go func() { stopped <- after.Shutdown(context.Background()) }()
	eventually(t, "the old version takes the row back", func() bool { return spec() == "every 24h0m0s" })
	require.Empty(t, stopped, "while the new version drains")
	open()
	require.NoError(t, receive(t, stopped))
}
