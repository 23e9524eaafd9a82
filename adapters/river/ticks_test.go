package river_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
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
	"github.com/everytick/everytick/jobs"
)

// tickRows returns the stored ticks of a job, with their states.
func tickRows(t testing.TB, pool *pgxpool.Pool, name string) map[string]string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT args->>'tick', state::text FROM river.river_job WHERE kind = $1 AND metadata ? 'everytick_tick'`, name)
	require.NoError(t, err)
	ticks := map[string]string{}
	var tick, state string
	_, err = pgx.ForEachRow(rows, []any{&tick, &state}, func() error {
		ticks[tick] = state
		return nil
	})
	require.NoError(t, err)
	return ticks
}

// lastTick returns the last instant of an interval, and waits where the next is so near that it
// might come during the test.
func lastTick(every time.Duration) time.Time {
	if left := every - time.Since(time.Now().Truncate(every)); left < 30*time.Second {
		<-time.After(left)
	}
	return time.Now().UTC().Truncate(every)
}

// insertTick stores a tick as another process with the same registration would.
func insertTick(t testing.TB, s *river.Scheduler, name string, tick time.Time) *rivertype.JobInsertResult {
	t.Helper()
	args, opts := s.TickRow(name, tick)
	res, err := s.Client().Insert(t.Context(), args, opts)
	require.NoError(t, err)
	return res
}

// The key decides which rows are the same tick: a change of it would double the
// ticks that are stored as a new version is deployed.
func TestTheKeyOfATickIsPinned(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("audit.sync", time.Hour, noop))
	insertTick(t, s, "audit.sync", time.Date(2126, 3, 8, 7, 0, 0, 0, time.UTC))
	require.Equal(t, "47486b8c14b39ccc94c5de462de321d44ac86a8fc80979cd859f53ab02d6ee71",
		hex.EncodeToString(scalar[[]byte](t, pool, `SELECT unique_key FROM river.river_job`)))
	require.Equal(t, "11111111", scalar[string](t, pool, `SELECT unique_states::text FROM river.river_job`), "it holds in every state")
}

func TestATickIsOneRowHoweverManyStoreIt(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	tick := time.Date(2126, 3, 8, 7, 0, 0, 0, time.UTC)
	var wg sync.WaitGroup
	for range 4 {
		pool, err := pgxpool.New(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		s := newScheduler(t, pool, river.Config{})
		require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
		for range 4 {
			wg.Go(func() {
				args, opts := s.TickRow("a.tick", tick)
				for range 5 {
					if _, err := s.Client().Insert(t.Context(), args, opts); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestATickThatRanIsNotStoredAgain(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	tick := lastTick(time.Hour)
	insertTick(t, s, "a.tick", tick)
	for _, state := range []string{"completed", "cancelled", "discarded"} {
		execSQL(t, pool, `UPDATE river.river_job SET state = $1::text::river.river_job_state, finalized_at = now()`, state)
		require.True(t, insertTick(t, s, "a.tick", tick).UniqueSkippedAsDuplicate, state)
	}
}

func TestTriggeredAndUniqueJobsNeverMergeWithATick(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	tick := time.Date(2126, 3, 8, 7, 0, 0, 0, time.UTC)
	insertTick(t, s, "a.tick", tick)
	// Data as a tick's args, at a tick's time, under a key of the user's own.
	data := map[string]string{"schedule": "a.tick", "tick": tick.Format(time.RFC3339), "spec": ""}
	_, err := s.Trigger(t.Context(), "a.tick", data, jobs.At(tick), jobs.Unique("a.tick"))
	require.NoError(t, err)
	// A unique job of River's own API, by period.
	type custom struct{ riverqueue.JobArgs }
	args, _ := s.TickRow("a.tick", tick)
	_, err = s.Client().Insert(t.Context(), custom{args}, &riverqueue.InsertOpts{
		ScheduledAt: tick, UniqueOpts: riverqueue.UniqueOpts{ByPeriod: time.Hour},
	})
	require.NoError(t, err)
	require.Equal(t, 3, scalar[int](t, pool, `SELECT count(*) FROM river.river_job`))
}

func TestDataThatLooksLikeATickIsData(t *testing.T) {
	t.Parallel()
	s := newScheduler(t, migrated.Pool(t), river.Config{})
	ran := make(chan jobs.Job, 1)
	require.NoError(t, s.RegisterDelayed("a.job", 0, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	_, err := s.Trigger(t.Context(), "a.job", map[string]any{"schedule": "a.job", "tick": "2026-01-01T00:00:00Z", "everytick_tick": true})
	require.NoError(t, err)
	job := receive(t, ran)
	require.Zero(t, job.Tick)
	require.Contains(t, string(job.Data), "2026-01-01")
}

func TestTheSuccessorIsStoredBeforeTheHandlerRuns(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ticks := make(chan map[string]string, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, func(ctx context.Context, job *jobs.Job) error {
		ticks <- tickRows(t, pool, "a.tick")
		return nil
	}))
	now := lastTick(time.Hour)
	late, next := now.Add(-5*time.Hour), now.Add(time.Hour)
	insertTick(t, s, "a.tick", late)
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, map[string]string{
		late.Format(time.RFC3339): "running",
		next.Format(time.RFC3339): "available",
	}, receive(t, ticks), "one late run stands for five ticks, and the next is in the future")
	var all []jobs.Status
	eventually(t, "the late run is over", func() bool {
		var err error
		all, err = s.Jobs(t.Context())
		require.NoError(t, err)
		return all[0].PrevState == jobs.StateCompleted
	})
	require.Equal(t, late, all[0].PrevTick)
	require.Equal(t, 5, all[0].Missed)
	require.Equal(t, next, all[0].NextTick)
}

func TestATickWhoseSuccessorCannotBeStoredIsPutOffUnused(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran)))
	tick := lastTick(time.Hour)
	insertTick(t, s, "a.tick", tick)
	// The tick starts only once the start has stored the next one, that one is
	// deleted, and no other can be inserted, as on a full disk.
	execSQL(t, pool, `UPDATE river.river_job SET scheduled_at = now() + interval '2 seconds'`)
	require.NoError(t, s.Start(t.Context()))
	execSQL(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$`)
	execSQL(t, pool, `CREATE TRIGGER refuse BEFORE INSERT ON river.river_job EXECUTE FUNCTION refuse()`)
	execSQL(t, pool, `DELETE FROM river.river_job WHERE args->>'tick' <> $1`, tick.Format(time.RFC3339))
	eventually(t, "the tick was tried and put off", func() bool {
		return scalar[bool](t, pool, `SELECT coalesce(bool_and(attempt = 0 AND (metadata->>'snoozes')::int >= 1), false) FROM river.river_job`)
	})
	require.Empty(t, ran, "the handler does not run without a successor")
	execSQL(t, pool, `DROP TRIGGER refuse ON river.river_job`)
	job := receive(t, ran)
	require.Equal(t, tick, job.Tick)
	require.Equal(t, 1, job.Attempt, "being put off used no attempt")
}

func TestAChangedScheduleReplacesTheNextTickAndMakesUpNothing(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	next := func(d time.Duration) string {
		return time.Now().UTC().Truncate(d).Add(d).Format(time.RFC3339)
	}
	before := newScheduler(t, pool, river.Config{})
	require.NoError(t, before.RegisterInterval("a.tick", 24*time.Hour, noop))
	require.NoError(t, before.Start(t.Context()))
	require.Equal(t, map[string]string{next(24 * time.Hour): "available"}, tickRows(t, pool, "a.tick"))
	require.NoError(t, shutdown(before))

	after := newScheduler(t, pool, river.Config{})
	require.NoError(t, after.RegisterInterval("a.tick", 23*time.Hour, noop))
	require.NoError(t, after.Start(t.Context()))
	require.Equal(t, map[string]string{next(23 * time.Hour): "available"}, tickRows(t, pool, "a.tick"))
	require.NoError(t, shutdown(after))

	require.NoError(t, before.Start(t.Context()), "and back")
	require.Equal(t, map[string]string{next(24 * time.Hour): "available"}, tickRows(t, pool, "a.tick"))
}

func TestATickThatIsDueOutlivesItsScheduleThoughItIsPutOff(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := newScheduler(t, pool, river.Config{})
	require.NoError(t, before.RegisterInterval("a.tick", 24*time.Hour, noop))
	due := lastTick(24 * time.Hour)
	insertTick(t, before, "a.tick", due)
	execSQL(t, pool, `UPDATE river.river_job SET scheduled_at = now() + interval '1 second'`)
	after := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, after.RegisterInterval("a.tick", 23*time.Hour, forward(ran)))
	require.NoError(t, after.Start(t.Context()))
	require.Equal(t, due, receive(t, ran).Tick)
}

func TestAHoleLeftByADeadProcessIsFilled(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran)))
	grid := lastTick(time.Hour)
	// The last tick ran four hours ago and stored no successor.
	insertTick(t, s, "a.tick", grid.Add(-4*time.Hour))
	markRan(t, pool)
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, grid.Add(-3*time.Hour), receive(t, ran).Tick, "the first missed tick stands for all")
	eventually(t, "the late run is done", func() bool {
		return len(tickRows(t, pool, "a.tick")) == 3 && tickRows(t, pool, "a.tick")[grid.Add(-3*time.Hour).Format(time.RFC3339)] == "completed"
	})
	require.Contains(t, tickRows(t, pool, "a.tick"), grid.Add(time.Hour).Format(time.RFC3339))
}

// markRan marks all ticks as done.
func markRan(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	execSQL(t, pool, `UPDATE river.river_job SET state = 'completed', finalized_at = now(), attempt = 1`)
}

func TestATickOfAnotherVersionCountsAsTheNextOneWhereItIs(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", 24*time.Hour, noop))
	other := newScheduler(t, pool, river.Config{})
	require.NoError(t, other.RegisterInterval("a.tick", 24*time.Hour, noop, jobs.MaxRetries(9)))
	broken := func() int {
		n, err := s.Broken(t.Context())
		require.NoError(t, err)
		return n
	}
	next := lastTick(24 * time.Hour).Add(24 * time.Hour)
	insertTick(t, other, "a.tick", next.Add(24*time.Hour))
	require.Equal(t, 1, broken())
	insertTick(t, other, "a.tick", next)
	require.Zero(t, broken())
}

func TestALateRunTellsOfTicksMissedThoughThoseOfAnotherVersionRan(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran)))
	other := newScheduler(t, pool, river.Config{})
	require.NoError(t, other.RegisterInterval("a.tick", 30*time.Minute, noop))
	grid := lastTick(time.Hour)
	insertTick(t, other, "a.tick", grid.Add(-90*time.Minute)) // no instant of this schedule
	insertTick(t, other, "a.tick", grid.Add(-time.Hour))
	markRan(t, pool)
	insertTick(t, s, "a.tick", grid.Add(-3*time.Hour))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, grid.Add(-3*time.Hour), receive(t, ran).Tick)
	missed := `SELECT (metadata->>'everytick_missed')::int FROM river.river_job WHERE args->>'tick' = $1`
	require.Equal(t, 2, scalar[int](t, pool, missed, grid.Add(-3*time.Hour).Format(time.RFC3339)))
}

func TestWithCatchUpAllTicksAreRunBetweenThoseThatAnotherVersionRan(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran), jobs.CatchUp(jobs.All)))
	other := newScheduler(t, pool, river.Config{})
	require.NoError(t, other.RegisterInterval("a.tick", time.Hour, noop, jobs.MaxRetries(9)))
	grid := lastTick(time.Hour)
	for _, hours := range []int{5, 4, 2} {
		insertTick(t, other, "a.tick", grid.Add(-time.Duration(hours)*time.Hour))
	}
	markRan(t, pool)
	insertTick(t, s, "a.tick", grid.Add(-6*time.Hour))
	require.NoError(t, s.Start(t.Context()))
	for _, hours := range []int{6, 3, 1, 0} {
		require.Equal(t, grid.Add(-time.Duration(hours)*time.Hour), receive(t, ran).Tick)
	}
}

func TestATickIsMadeUpBetweenThoseOfAnotherVersionThatRunsBesideThisOne(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	log, logged := loud()
	s := newScheduler(t, pool, river.Config{Logger: log})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	other := newScheduler(t, pool, river.Config{})
	require.NoError(t, other.RegisterInterval("a.tick", time.Hour, noop, jobs.MaxRetries(9)))
	grid := lastTick(time.Hour)
	insertTick(t, s, "a.tick", grid.Add(-3*time.Hour))
	insertTick(t, other, "a.tick", grid.Add(-2*time.Hour))
	insertTick(t, other, "a.tick", grid)
	markRan(t, pool)
	insertTick(t, other, "a.tick", grid.Add(time.Hour)) // the next one of both
	require.NoError(t, s.Mend(t.Context(), grid.Add(-30*time.Minute)))
	require.Len(t, tickRows(t, pool, "a.tick"), 4, "before this process started that was the other's matter")
	require.NoError(t, s.Mend(t.Context(), grid.Add(-5*time.Hour)))
	rows := tickRows(t, pool, "a.tick")
	require.Len(t, rows, 5)
	require.Equal(t, "available", rows[grid.Add(-time.Hour).Format(time.RFC3339)])
	require.Contains(t, logged.String(), "a missed tick is made up")
}

func TestATickThatALateRunOfAnotherVersionStandsForIsNotMadeUp(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	other := newScheduler(t, pool, river.Config{})
	require.NoError(t, other.RegisterInterval("a.tick", 30*time.Minute, noop))
	grid := lastTick(time.Hour)
	insertTick(t, s, "a.tick", grid.Add(-5*time.Hour))
	insertTick(t, other, "a.tick", grid.Add(-4*time.Hour))
	markRan(t, pool)
	execSQL(t, pool, `UPDATE river.river_job SET metadata = metadata || jsonb_build_object('everytick_missed', 5, 'everytick_next', $2::text)
		WHERE args->>'tick' = $1`, grid.Add(-4*time.Hour).Format(time.RFC3339), grid.Add(-90*time.Minute).Format(time.RFC3339))
	require.NoError(t, s.Mend(t.Context(), grid.Add(-6*time.Hour)))
	rows := tickRows(t, pool, "a.tick")
	require.Len(t, rows, 4)
	require.Equal(t, "available", rows[grid.Add(-time.Hour).Format(time.RFC3339)], "nobody stands for this one")
}

func TestARollbackMakesUpNothing(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	other := newScheduler(t, pool, river.Config{})
	require.NoError(t, other.RegisterInterval("a.tick", 24*time.Hour, noop))
	grid := lastTick(time.Hour)
	insertTick(t, s, "a.tick", grid.Add(-5*time.Hour)) // then the other version was deployed
	markRan(t, pool)
	insertTick(t, other, "a.tick", grid.Add(24*time.Hour))
	require.NoError(t, s.Start(t.Context()))
	rows := tickRows(t, pool, "a.tick")
	require.Len(t, rows, 2)
	require.Contains(t, rows, grid.Add(time.Hour).Format(time.RFC3339))
}

func TestATickIsMadeUpHoweverLongAgoTheOneBeforeItWas(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	tick := lastTick(time.Hour).Add(-time.Hour)
	require.NoError(t, s.RegisterCron("a.tick", fmt.Sprintf("0 %d * * *", tick.Hour()), noop, jobs.TimeZone(time.UTC)))
	insertTick(t, s, "a.tick", tick.Add(-24*time.Hour))
	markRan(t, pool)
	require.NoError(t, s.Mend(t.Context(), tick))
	require.Contains(t, tickRows(t, pool, "a.tick"), tick.Format(time.RFC3339))
}

func TestABrokenChainIsMendedThoughTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	var shift atomic.Int64
	s.ShiftWallClock(&shift)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, noop))
	grid := lastTick(time.Hour)
	insertTick(t, s, "a.tick", grid)
	markRan(t, pool)
	shift.Store(-int64(time.Hour)) // its next tick is one that has a row
	require.NoError(t, s.Mend(t.Context(), grid))
	require.Contains(t, tickRows(t, pool, "a.tick"), grid.Add(time.Hour).Format(time.RFC3339))
}

// An interval of no whole number of microseconds, which PostgreSQL's timestamps are.
func TestAnOddIntervalHasOneLateRun(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	const every = time.Hour / 7
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", every, forward(ran)))
	tick := lastTick(every).Add(-4 * every)
	for tick.Round(time.Microsecond).Before(tick) { // so that it would be rounded up
		tick = tick.Add(-every)
	}
	insertTick(t, s, "a.tick", tick)
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, tick, receive(t, ran).Tick)
	eventually(t, "its successor is stored", func() bool { return len(tickRows(t, pool, "a.tick")) > 1 })
	require.Len(t, tickRows(t, pool, "a.tick"), 2, "the late one and the next one")
}

func TestAnOddIntervalsRetriedTickStandsForNoneThatRan(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	const every = time.Hour / 7
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", every, forward(ran)))
	now := lastTick(every)
	for ago := range 3 {
		insertTick(t, s, "a.tick", now.Add(-time.Duration(ago)*every))
	}
	execSQL(t, pool, `UPDATE river.river_job SET attempt = 1, attempted_at = scheduled_at, state = 'completed', finalized_at = now()`)
	execSQL(t, pool, `UPDATE river.river_job SET state = 'available', finalized_at = NULL WHERE args->>'tick' = $1`, now.Add(-2*every).Format(time.RFC3339Nano))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, 2, receive(t, ran).Attempt)
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE metadata ? 'everytick_missed'`))
}

func TestABrokenChainIsMendedThoughAnotherServiceLeads(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	var pools [2]*pgxpool.Pool
	var ran [2]chan jobs.Job
	for i, name := range []string{"leads.tick", "follows.tick"} {
		var err error
		pools[i], err = pgxpool.New(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(pools[i].Close)
		ran[i] = make(chan jobs.Job, 1000)
		s := newScheduler(t, pools[i], river.Config{})
		require.NoError(t, s.RegisterInterval(name, time.Second, forward(ran[i])))
		require.NoError(t, s.Start(t.Context()))
		if i == 0 {
			leads(t, pools[0], ran[0])
		}
	}
	last := receive(t, ran[1])
	// Retried until it hits the moment at which one waits and none is about to be stored.
	// A tick that is made up is stored with the one after it, so both go: with that one the chain is whole.
	eventually(t, "the chain is broken", func() bool {
		execSQL(t, pools[0], `DELETE FROM river.river_job WHERE state IN ('available', 'scheduled') AND kind = 'follows.tick'`)
		for len(ran[1]) > 0 { // two that start together may do so in any order
			if job := <-ran[1]; job.Tick.After(last.Tick) {
				last = job
			}
		}
		return time.Since(last.Tick) > 3*time.Second
	})
	missed := last.Tick.Add(time.Second)
	for missed.Before(last.StartedAt) { // it was late, and stands for these
		missed = missed.Add(time.Second)
	}
	// It may be taken together with the next one, and these two start in any order.
	late, next := receive(t, ran[1]), receive(t, ran[1])
	require.Contains(t, []time.Time{late.Tick, next.Tick}, missed, "the first tick that was missed has a late run")
	require.Less(t, next.Late(), 10*time.Second)
}

func TestADeletedTickRunsAllTheSame(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", 3*time.Second, forward(ran)))
	require.NoError(t, s.Start(t.Context()))
	first := receive(t, ran).Tick // by now a process leads
	second := receive(t, ran).Tick
	require.Equal(t, first.Add(3*time.Second), second)
	third := second.Add(3 * time.Second)
	// After the seeder's turn, so that nobody but the guard can notice.
	<-time.After(time.Until(second.Add(1500 * time.Millisecond)))
	require.EqualValues(t, 1, execSQL(t, pool, `DELETE FROM river.river_job WHERE state IN ('available', 'scheduled')`))
	require.Equal(t, third, receive(t, ran).Tick)
	require.Equal(t, third.Add(3*time.Second), receive(t, ran).Tick)
}

func TestATickThatALateOneStandsForIsNotStoredAfterwards(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	runs, finish := make(chan jobs.Job), make(chan struct{})
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, func(_ context.Context, job *jobs.Job) error {
		runs <- *job
		<-finish
		return nil
	}))
	now := lastTick(time.Hour)
	late, passed := now.Add(-5*time.Hour), []time.Time{now.Add(-4 * time.Hour), now}
	insertTick(t, s, "a.tick", late)
	for _, tick := range passed {
		require.False(t, s.StoodFor(t, "a.tick", tick), "the late one has not said so yet")
	}
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, late, receive(t, runs).Tick)
	check := func() {
		for _, tick := range passed {
			require.True(t, s.StoodFor(t, "a.tick", tick), tick)
		}
		require.False(t, s.StoodFor(t, "a.tick", late))
		require.False(t, s.StoodFor(t, "a.tick", now.Add(2*time.Hour)))
	}
	check()
	close(finish)
	eventually(t, "it is over", func() bool { return tickRows(t, pool, "a.tick")[late.Format(time.RFC3339)] == "completed" })
	check()
}

func TestALateTickTellsWhatItStandsForThoughItsFirstProcessDied(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{RescueAfter: time.Second})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran), jobs.Timeout(time.Second), jobs.RetryDelay(0)))
	insertTick(t, s, "a.tick", lastTick(time.Hour).Add(-5*time.Hour))
	execSQL(t, pool, `UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = now()`)
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, 2, receive(t, ran).Attempt)
	require.Equal(t, 5, scalar[int](t, pool, `SELECT (metadata->>'everytick_missed')::int FROM river.river_job WHERE attempt = 2`))
}

func TestARetriedTickStandsForNoneThatRan(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran)))
	now := lastTick(time.Hour)
	for ago := range 3 {
		insertTick(t, s, "a.tick", now.Add(-time.Duration(ago)*time.Hour))
	}
	execSQL(t, pool, `UPDATE river.river_job SET attempt = 1, attempted_at = scheduled_at, state = 'completed', finalized_at = now()`)
	execSQL(t, pool, `UPDATE river.river_job SET state = 'available', finalized_at = NULL WHERE args->>'tick' = $1`, now.Add(-2*time.Hour).Format(time.RFC3339))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, 2, receive(t, ran).Attempt)
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE metadata ? 'everytick_missed'`))
}

func TestTicksOfJobsThatNobodyRegistersAreRemovedAfterAWeek(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	old := newScheduler(t, pool, river.Config{})
	require.NoError(t, old.RegisterInterval("gone.long-ago", time.Hour, noop))
	require.NoError(t, old.RegisterInterval("gone.recently", time.Hour, noop))
	now := lastTick(time.Hour)
	insertTick(t, old, "gone.long-ago", now.Add(-8*24*time.Hour))
	insertTick(t, old, "gone.recently", now.Add(-6*24*time.Hour))
	_, err := old.Trigger(t.Context(), "gone.long-ago", nil, jobs.At(now.Add(time.Hour)))
	require.NoError(t, err)
	execSQL(t, pool, `UPDATE river.river_job SET scheduled_at = now() - interval '8 days' WHERE NOT metadata ? 'everytick_tick'`)

	s := newScheduler(t, pool, river.Config{})
	require.NoError(t, s.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, s.Start(t.Context()))
	eventually(t, "the leader has removed the orphan", func() bool { return len(tickRows(t, pool, "gone.long-ago")) == 0 })
	require.Len(t, tickRows(t, pool, "gone.recently"), 1)
	require.Equal(t, 1, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'gone.long-ago'`), "a triggered job is kept")
}

func TestTicksFollowTheDatabasesClockWhateverOursSays(t *testing.T) {
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
			const every = 5 * time.Second // a tick that is as late stands for the next one, too
			require.NoError(t, s.RegisterInterval("a.tick", every, forward(ran)))
			require.NoError(t, s.Start(t.Context()))
			prev := receive(t, ran)
			for i := range 4 {
				if i == 2 {
					shift.Store(0) // somebody sets the clock right
				}
				job := receive(t, ran)
				require.Equal(t, prev.Tick.Add(every), job.Tick, "off by %s", off)
				require.Less(t, job.Late(), every)
				prev = job
			}
			require.NoError(t, shutdown(s))
			require.Empty(t, ran)
			// The guard's ticks, and the successor of a run that was late itself, may have just passed.
			require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE created_at > scheduled_at + interval '4 seconds'`),
				"no tick was stored that had long passed")
		})
	}
}

func TestAScheduleThatWasTakenAwayLeavesNoTick(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	before := newScheduler(t, pool, river.Config{})
	require.NoError(t, before.RegisterInterval("a.job", time.Hour, noop))
	require.NoError(t, before.Start(t.Context()))
	require.Len(t, tickRows(t, pool, "a.job"), 1)
	require.NoError(t, shutdown(before))
	after := newScheduler(t, pool, river.Config{})
	require.NoError(t, after.RegisterDelayed("a.job", 0, noop))
	require.NoError(t, after.Start(t.Context()))
	require.Empty(t, tickRows(t, pool, "a.job"))
}

func TestStartSeedsItsSchedulesThoughAnotherServiceLeads(t *testing.T) {
	t.Parallel()
	url := migrated.URL(t)
	one, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(one.Close)
	two, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(two.Close)
	ran := make(chan jobs.Job, 100)
	leader := newScheduler(t, one, river.Config{})
	require.NoError(t, leader.RegisterInterval("one.tick", time.Second, forward(ran)))
	require.NoError(t, leader.Start(t.Context()))
	eventually(t, "one leads", func() bool { return scalar[int](t, one, `SELECT count(*) FROM river.river_leader`) == 1 })
	receive(t, ran)

	other := make(chan jobs.Job, 100)
	follower := newScheduler(t, two, river.Config{})
	const every = 3 * time.Second // a run that starts later than that stands for two ticks
	require.NoError(t, follower.RegisterInterval("two.tick", every, forward(other)))
	require.NoError(t, follower.Start(t.Context()))
	first := receive(t, other).Tick
	for i := range 2 {
		require.Equal(t, first.Add(time.Duration(i+1)*every), receive(t, other).Tick)
	}
}

func TestATickThatFailsIsRetriedBesideTheNext(t *testing.T) {
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
			require.NotZero(t, next, "ticks went on meanwhile")
			return
		}
	}
	require.FailNow(t, "it was not retried")
}

func TestWithCatchUpAllATickWaitsForNoRetryOfAnEarlierOne(t *testing.T) {
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
	}, jobs.CatchUp(jobs.All)))
	insertTick(t, s, "a.tick", grid.Add(-time.Hour))
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, 2, receive(t, retried).Attempt)
	require.Equal(t, grid, receive(t, ran).Tick, "while the retry goes on")
}

func TestATickDoesNotHeedARunThatHasLostItsProcess(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{RescueAfter: 24 * time.Hour})
	ran := make(chan jobs.Job, 10)
	grid := lastTick(time.Hour)
	for name, option := range map[string]jobs.Option{"a.all": jobs.CatchUp(jobs.All), "a.skip": jobs.Overlap(jobs.Skip)} {
		require.NoError(t, s.RegisterInterval(name, time.Hour, forward(ran), option, jobs.Timeout(time.Second)))
		insertTick(t, s, name, grid.Add(-time.Hour))
	}
	execSQL(t, pool, `UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 minute'`)
	insertTick(t, s, "a.all", grid)
	insertTick(t, s, "a.skip", grid)
	require.NoError(t, s.Start(t.Context()))
	one, two := receive(t, ran), receive(t, ran)
	require.ElementsMatch(t, []string{"a.all", "a.skip"}, []string{one.Name, two.Name})
	require.Equal(t, [2]time.Time{grid, grid}, [2]time.Time{one.Tick, two.Tick})
}

func TestANextTickHasThePriorityAndTheAttemptsOfTheNewRegistration(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	stored := func(options ...jobs.Option) string {
		s := newScheduler(t, pool, river.Config{})
		require.NoError(t, s.RegisterInterval("a.tick", 24*time.Hour, noop, options...))
		require.NoError(t, s.Start(t.Context()))
		require.NoError(t, shutdown(s))
		return scalar[string](t, pool, `SELECT priority || ' ' || max_attempts FROM river.river_job`)
	}
	require.Equal(t, "1 3", stored())
	require.Equal(t, "4 3", stored(jobs.Priority(4)))
	require.Equal(t, "4 8", stored(jobs.Priority(4), jobs.MaxRetries(7)))
}

func TestARetriedTickOfLongAgoDoesNotTellWhatItStandsFor(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran)))
	// Those that ran since have been removed.
	insertTick(t, s, "a.tick", lastTick(time.Hour).Add(-30*time.Hour))
	execSQL(t, pool, `UPDATE river.river_job SET attempt = 1, attempted_at = scheduled_at, errors = '{"{}"}'`)
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, 2, receive(t, ran).Attempt)
	require.Zero(t, scalar[int](t, pool, `SELECT count(*) FROM river.river_job WHERE metadata ? 'everytick_missed'`))
}

func TestAHoleIsFilledThoughItsLastTickPassesForRunning(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 10)
	require.NoError(t, s.RegisterInterval("a.tick", time.Hour, forward(ran)))
	grid := lastTick(time.Hour)
	// Its process died before it stored the successor, and nobody has found out yet.
	insertTick(t, s, "a.tick", grid.Add(-4*time.Hour))
	execSQL(t, pool, `UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 minute'`)
	require.NoError(t, s.Start(t.Context()))
	require.Equal(t, grid.Add(-3*time.Hour), receive(t, ran).Tick)
}

func TestAHoleOlderThanTheWindowIsFilledWithCatchUpAllAlone(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{})
	ran := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.once", time.Hour, forward(ran)))
	require.NoError(t, s.RegisterInterval("a.all", time.Hour, forward(ran), jobs.CatchUp(jobs.All)))
	grid := lastTick(time.Hour)
	insertTick(t, s, "a.once", grid.Add(-20*time.Hour))
	insertTick(t, s, "a.all", grid.Add(-20*time.Hour))
	markRan(t, pool)
	require.NoError(t, s.Start(t.Context()))
	for i := range 12 {
		job := receive(t, ran)
		require.Equal(t, "a.all", job.Name)
		require.WithinDuration(t, grid.Add(time.Duration(i-11)*time.Hour), job.Tick, time.Hour)
	}
	require.Len(t, tickRows(t, pool, "a.once"), 2, "the last one and the next one")
}

func TestADelayedTriggerIsDueByTheDatabasesClockWhateverOursSays(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{TriggerOnly: true})
	var shift atomic.Int64
	s.ShiftWallClock(&shift)
	for _, off := range []time.Duration{3 * time.Hour, -3 * time.Hour, 0, -time.Hour} {
		shift.Store(int64(off)) // somebody sets the clock
		id, err := s.Trigger(t.Context(), "a.job", nil, jobs.Delay(10*time.Hour))
		require.NoError(t, err)
		due := scalar[float64](t, pool, `SELECT extract(epoch FROM scheduled_at - now())::float8 FROM river.river_job WHERE id = $1::text::bigint`, id)
		require.InDelta(t, (10 * time.Hour).Seconds(), due, 600, "off by %s", off)
	}
}

// frozen stops whoever sends a statement that begins with that, until it is thawed.
type frozen struct {
	at           string
	hung, thawed chan struct{}
	once         sync.Once
}

func (f *frozen) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(data.SQL, f.at) {
		f.once.Do(func() {
			close(f.hung)
			<-f.thawed
		})
	}
	return ctx
}

func (*frozen) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestAProcessThatFreezesAsItReconcilesHoldsUpNoOtherForLong(t *testing.T) {
	t.Parallel()
	f := &frozen{at: `DELETE FROM "river"."river_job" AS row`, hung: make(chan struct{}), thawed: make(chan struct{})}
	pool := poolWith(t, func(cfg *pgxpool.Config) { cfg.ConnConfig.Tracer = f })
	first := newScheduler(t, pool, river.Config{})
	require.NoError(t, first.RegisterInterval("a.tick", time.Hour, noop))
	t.Cleanup(func() { close(f.thawed) }) // before the first one is shut down
	go func() { _ = first.Start(context.Background()) }()
	receive(t, f.hung)
	other, err := pgxpool.New(t.Context(), pool.Config().ConnString())
	require.NoError(t, err)
	t.Cleanup(other.Close)
	second := newScheduler(t, other, river.Config{})
	require.NoError(t, second.RegisterInterval("a.tick", time.Hour, noop))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, second.Start(ctx))
}

func TestThatTicksCannotBeStoredIsSaidOnceAMinute(t *testing.T) {
	t.Parallel()
	log, logged := loud()
	pool := migrated.Pool(t)
	s := newScheduler(t, pool, river.Config{Logger: log})
	require.NoError(t, s.RegisterInterval("a.tick", time.Second, noop))
	pool.Close()
	s.Seed(t, "a.tick", time.Now(), 3)
	require.Equal(t, 1, strings.Count(logged.String(), "could not be stored"))
}

// A tick passes while the start of a process with a changed option waits for another that mends schedules.
func TestStart_LosesNoTickThatPassesMeanwhile(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	old := newScheduler(t, pool, river.Config{})
	require.NoError(t, old.RegisterInterval("a.tick", 2*time.Second, noop))
	require.NoError(t, old.Start(t.Context()))
	require.NoError(t, old.Shutdown(t.Context()))
	tick := scalar[time.Time](t, pool, `SELECT max((args->>'tick')::timestamptz) FROM river.river_job WHERE state = 'available'`)

	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended('everytick reconcile river', 0))`)
	require.NoError(t, err)
	s := newScheduler(t, pool, river.Config{})
	ticks := make(chan jobs.Job, 100)
	require.NoError(t, s.RegisterInterval("a.tick", 2*time.Second, forward(ticks), jobs.MaxRetries(7)))
	started := make(chan error, 1)
	go func() { started <- s.Start(context.Background()) }()
	eventually(t, "the start waits", func() bool {
		return scalar[int](t, pool, `SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
			WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted`) == 1
	})
	eventually(t, "the tick passes", func() bool { return scalar[bool](t, pool, `SELECT clock_timestamp() > $1`, tick) })
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, receive(t, started))
	require.Equal(t, tick.UTC(), receive(t, ticks).Tick)
	require.Equal(t, tick.Add(2*time.Second).UTC(), receive(t, ticks).Tick)
}
