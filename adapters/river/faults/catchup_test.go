//go:build unix

package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// A run is one that a handler recorded, of a first attempt.
type run struct{ tick, started time.Time }

// firstRuns returns the first attempts of a job in the order in which they started.
func (c *cluster) firstRuns(name string) []run {
	c.t.Helper()
	rows, err := c.pool.Query(c.t.Context(), `SELECT tick, started FROM runs WHERE name = $1 AND attempt = 1 ORDER BY started`, name)
	require.NoError(c.t, err)
	var (
		all []run
		r   run
	)
	_, err = pgx.ForEachRow(rows, []any{&r.tick, &r.started}, func() error {
		all = append(all, run{r.tick.UTC(), r.started.UTC()})
		return nil
	})
	require.NoError(c.t, err)
	return all
}

func ticksOf(runs []run) []time.Time {
	all := make([]time.Time, len(runs))
	for i, r := range runs {
		all[i] = r.tick
	}
	return all
}

// skipNative skips what River's own periodic jobs have nothing like.
func skipNative(t *testing.T) {
	t.Helper()
	if provider == native {
		t.Skip("of everytick alone")
	}
}

// catchUpAll takes everything down, and then asks that each missed tick has run
// once, in order, and the next ones on time.
func catchUpAll(t *testing.T, s *server, every, down time.Duration) outcome {
	c := newCluster(t, s, false)
	j := job{Name: "all.ticks", Every: every, All: true}
	for range processesPerService {
		c.launch([]job{j})
	}
	c.awaitRun(j.Name, anyNode)
	from := c.now()
	takeEverythingDown(c, down)
	var to time.Time
	until(t, time.Minute, "on time again", func() bool {
		to = c.now().Add(-lateAfter)
		last := c.measure(j, to.Add(-2*every), to)
		return last.lost == 0 && last.late == 0
	})
	c.settle(to)

	o := c.measure(j, from, to)
	o.fault = fmt.Sprintf("everything down %s, CatchUp(All)", down)
	t.Log(o)
	require.Zero(t, o.lost, o.String())
	require.Zero(t, o.doubled, o.String())
	require.GreaterOrEqual(t, o.late, int(down/every)-1, "the missed ticks run late")
	c.requireNoneDoubled()
	ticks := ticksOf(c.firstRuns(j.Name))
	for i := 1; i < len(ticks); i++ {
		require.Equal(t, ticks[i-1].Add(every), ticks[i], "in order, each once: %s", ticks)
	}
	return o
}

func TestCatchUpAllRunsEachMissedTickOnceInOrder(t *testing.T) {
	t.Parallel()
	skipNative(t)
	catchUpAll(t, sharedServer(t), time.Second, 5*time.Second)
}

var skippedTicks = regexp.MustCompile(`msg="late run: .* job=all\.ticks .* ticks_skipped=(\d+)`)

// What passed longer ago than the window is skipped, counted and said.
func TestWhatLiesBeyondTheCatchUpWindowIsCountedAndSaid(t *testing.T) {
	t.Parallel()
	skipNative(t)
	c := newCluster(t, sharedServer(t), true)
	const every = time.Hour
	j := job{Name: "all.ticks", Every: every, All: true}
	n := c.launch([]job{j})
	until(t, time.Minute, "stored", func() bool { return scalar[int](t, c.pool, `SELECT count(*) FROM river.river_job`) == 1 })
	first := scalar[time.Time](t, c.pool, `SELECT scheduled_at FROM river.river_job`).UTC()
	n.kill()
	// All is down for 15 hours. The leader of that time would have made the row available.
	const down = 15 * time.Hour
	c.putClockAhead(time.Until(first.Add(down + time.Minute)))
	execSQL(t, c.pool, `UPDATE river.river_job SET state = 'available'`)
	n = c.launch([]job{j})
	last := first.Add(down)
	until(t, 30*time.Second, "caught up", func() bool {
		ticks := ticksOf(c.firstRuns(j.Name))
		return len(ticks) > 0 && ticks[len(ticks)-1].Equal(last)
	})

	ticks := ticksOf(c.firstRuns(j.Name))
	require.Equal(t, first, ticks[0], "the row that waited runs in any case")
	for i := 2; i < len(ticks); i++ {
		require.Equal(t, ticks[i-1].Add(every), ticks[i], "in order, each once: %s", ticks)
	}
	oldest := last.Sub(ticks[1])
	require.LessOrEqual(t, oldest, jobs.CatchUpWindow)
	require.Greater(t, oldest, jobs.CatchUpWindow-every-time.Minute, "up to the window they are made up")
	said := 0
	for _, match := range skippedTicks.FindAllStringSubmatch(n.readLog(t), -1) {
		n, err := strconv.Atoi(match[1])
		require.NoError(t, err)
		said += n
	}
	require.Equal(t, int(ticks[1].Sub(ticks[0])/every)-1, said, "each skipped tick is counted")
	c.requireNoneDoubled()
}

// An interval counted from each start would never be over: https://github.com/riverqueue/river/issues/791.
func TestAWeeklyIntervalRunsWeeklyThoughProcessesRestartDaily(t *testing.T) {
	t.Parallel()
	skipNative(t)
	const week, day = 7 * 24 * time.Hour, 24 * time.Hour
	c := newCluster(t, sharedServer(t), true)
	j := job{Name: "weekly.report", Every: week}
	// From a day and a bit before a tick on, for three weeks and a day.
	begin := time.Now().UTC().Truncate(week).Add(week - day - 2*time.Second)
	var want []time.Time
	for n := range 3*7 + 1 {
		today := begin.Add(time.Duration(n) * day)
		c.putClockAhead(time.Until(today))
		// The leader of the days that are not waited for would have made the row available.
		execSQL(t, c.pool, `UPDATE river.river_job SET state = 'available' WHERE scheduled_at < now() + interval '1 minute' AND state = 'scheduled'`)
		s, err := newScheduler(c.pool, []job{j}, quiet)
		require.NoError(t, err)
		require.NoError(t, s.Start(t.Context()))
		require.Equal(t, 1, scalar[int](t, c.pool, `SELECT count(*) FROM river.river_job WHERE state IN ('available', 'scheduled')`), "on day %d", n)
		if tick := today.Add(2 * time.Second); tick.Truncate(week).Equal(tick) {
			want = append(want, tick)
			until(t, 10*time.Second, "run "+tick.String(), func() bool { return len(c.firstRuns(j.Name)) == len(want) })
		}
		shutdown(t, s)
	}
	runs := c.firstRuns(j.Name)
	require.Len(t, want, 3)
	require.Equal(t, want, ticksOf(runs))
	for _, r := range runs {
		require.Less(t, r.started.Sub(r.tick), 10*time.Second) // a day, if it were counted from the start
	}
	c.requireNoneDoubled()
}

// Starts and shutdowns race with ticks, elections and each other.
func TestSchedulersThatStartAndStopAllTheTimeDoubleNothing(t *testing.T) {
	t.Parallel()
	skipNative(t)
	length := 6 * time.Second
	if *faultsFlag {
		length = time.Minute
	}
	c := newCluster(t, sharedServer(t), false)
	all := jobsOf("stress", time.Second, 2*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		pool := newPool(t, c.pool.Config().ConnString())
		wg.Go(func() {
			s, err := newScheduler(pool, all, quiet)
			if err != nil {
				t.Error(err)
				return
			}
			for ctx.Err() == nil {
				if err := s.Start(t.Context()); err != nil {
					t.Error(err)
					return
				}
				select { // how long it lives
				case <-time.After(rand.N(1500 * time.Millisecond)):
				case <-ctx.Done():
				}
				stopCtx, stop := context.WithTimeout(t.Context(), 10*time.Second)
				err := s.Shutdown(stopCtx)
				stop()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	// One that stays sees to what is due.
	s, err := newScheduler(newPool(t, c.pool.Config().ConnString()), all, quiet)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	to := c.now().Add(3 * time.Second)
	pass(t, to.Sub(c.now()))
	c.settle(to)
	shutdown(t, s)
	c.requireNoneDoubled()
	for _, j := range all {
		ticks := ticksOf(c.firstRuns(j.Name))
		slices.SortFunc(ticks, time.Time.Compare)
		require.GreaterOrEqual(t, len(ticks), int(length/j.Every)/2)
		o := c.measure(j, ticks[0], to)
		t.Log(o)
		told := scalar[int](t, c.pool, `SELECT coalesce(sum((metadata->>'everytick_missed')::int), 0)::int FROM river.river_job WHERE kind = $1`, j.Name)
		require.LessOrEqual(t, o.lost, told, "what is missed has a late run that stands for it: %s", o)
	}
}

func shutdown(t testing.TB, s interface{ Shutdown(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	require.NoError(t, s.Shutdown(ctx))
}
