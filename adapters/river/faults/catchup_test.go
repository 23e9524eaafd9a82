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

// A run is a first attempt, as its handler recorded it.
type run struct {
	tick, started time.Time
	missed        int
}

// firstRuns returns the first attempts of a job in the order in which they started.
func (c *cluster) firstRuns(name string) []run {
	c.t.Helper()
	rows, err := c.pool.Query(c.t.Context(), `SELECT tick, started, missed FROM runs WHERE name = $1 AND attempt = 1 ORDER BY started`, name)
	require.NoError(c.t, err)
	var (
		all []run
		r   run
	)
	_, err = pgx.ForEachRow(rows, []any{&r.tick, &r.started, &r.missed}, func() error {
		all = append(all, run{r.tick.UTC(), r.started.UTC(), r.missed})
		return nil
	})
	require.NoError(c.t, err)
	return all
}

// nextTick returns the next tick in a schedule's row.
func (c *cluster) nextTick(name string) time.Time {
	c.t.Helper()
	return scalar[time.Time](c.t, c.pool, `SELECT next_tick FROM river.everytick_schedule WHERE name = $1`, name).UTC()
}

func ticksOf(runs []run) []time.Time {
	all := make([]time.Time, len(runs))
	for i, r := range runs {
		all[i] = r.tick
	}
	return all
}

// skipNative skips tests of what River's own periodic jobs do not have.
func skipNative(t *testing.T) {
	t.Helper()
	if provider == native {
		t.Skip("does not apply to native jobs")
	}
}

// catchUpAll takes every process down, and then checks that each missed tick runs once, in order, and the next ones on
// time.
func catchUpAll(t *testing.T, s *server, every, down time.Duration) outcome {
	c := newCluster(t, s, false)
	j := job{Name: "all.ticks", Every: every, All: true}
	for range processesPerService {
		c.launch([]job{j})
	}
	c.awaitRun(j.Name, c.now(), anyNode)
	from := c.now()
	takeEverythingDown(c, down)
	var to time.Time
	until(t, time.Minute, "ticks run on time again", func() bool {
		to = c.now().Add(-lateAfter)
		last := c.measure(j, to.Add(-2*every), to)
		return last.lost == 0 && last.late == 0
	})
	c.settle(to)

	o := c.measure(j, from, to)
	o.fault = fmt.Sprintf("every process down for %s, CatchUpAll", down)
	t.Log(o)
	require.Zero(t, o.lost, o.String())
	require.Zero(t, o.doubled, o.String())
	require.GreaterOrEqual(t, o.late, int(down/every)-1, "missed ticks run late")
	c.requireNoneDoubled()
	ticks := ticksOf(c.firstRuns(j.Name))
	for i := 1; i < len(ticks); i++ {
		require.Equal(t, ticks[i-1].Add(every), ticks[i], "in order, each once: %s", ticks)
	}
	return o
}

func TestCatchUpAll_RunsEachMissedTickOnceInOrder(t *testing.T) {
	t.Parallel()
	skipNative(t)
	catchUpAll(t, sharedServer(t), time.Second, 5*time.Second)
}

var missedTicks = regexp.MustCompile(`msg="late run: .* job=all\.ticks .* ticks_missed=(\d+)`)

// Ticks older than the window get no run of their own.
func TestCatchUpAll_CountsAndLogsTicksBeyondTheWindow(t *testing.T) {
	t.Parallel()
	skipNative(t)
	c := newCluster(t, sharedServer(t), true)
	const every = time.Hour
	j := job{Name: "all.ticks", Every: every, All: true}
	n := c.launch([]job{j})
	first := c.nextTick(j.Name)
	n.kill()
	// The process is down for 15 hours.
	const down = 15 * time.Hour
	c.setClockAhead(time.Until(first.Add(down + time.Minute)))
	n = c.launch([]job{j})
	last := first.Add(down)
	until(t, 30*time.Second, "the schedule has caught up", func() bool {
		ticks := ticksOf(c.firstRuns(j.Name))
		return len(ticks) > 0 && ticks[len(ticks)-1].Equal(last)
	})

	runs := c.firstRuns(j.Name)
	ticks := ticksOf(runs)
	for i := 1; i < len(ticks); i++ {
		require.Equal(t, ticks[i-1].Add(every), ticks[i], "in order, each once: %s", ticks)
	}
	oldest := last.Sub(ticks[0])
	require.LessOrEqual(t, oldest, jobs.CatchUpWindow)
	require.Greater(t, oldest, jobs.CatchUpWindow-every-time.Minute, "every tick within the window runs")
	missed := int(ticks[0].Sub(first) / every)
	require.Equal(t, []int{missed, 0}, []int{runs[0].missed, runs[1].missed}, "the first run counts the missed ticks")
	logged := 0
	for _, match := range missedTicks.FindAllStringSubmatch(n.readLog(t), -1) {
		n, err := strconv.Atoi(match[1])
		require.NoError(t, err)
		logged += n
	}
	require.Equal(t, missed, logged, "the log counts them")
	c.requireNoneDoubled()
}

// An interval counted from each start would never end: https://github.com/riverqueue/river/issues/791.
func TestInterval_RunsWeeklyDespiteDailyRestarts(t *testing.T) {
	t.Parallel()
	skipNative(t)
	const week, day = 7 * 24 * time.Hour, 24 * time.Hour
	c := newCluster(t, sharedServer(t), true)
	j := job{Name: "weekly.report", Every: week}
	// Three weeks and a day, from just over a day before a tick.
	begin := time.Now().UTC().Truncate(week).Add(week - day - 2*time.Second)
	var want []time.Time
	for n := range 3*7 + 1 {
		today := begin.Add(time.Duration(n) * day)
		c.setClockAhead(time.Until(today))
		s, err := newScheduler(c.pool, []job{j}, quiet, 0)
		require.NoError(t, err)
		require.NoError(t, s.Start(t.Context()))
		require.Equal(t, today.Truncate(week).Add(week), c.nextTick(j.Name), "on day %d", n)
		if tick := today.Add(2 * time.Second); tick.Truncate(week).Equal(tick) {
			want = append(want, tick)
			until(t, 10*time.Second, "tick "+tick.String()+" has run", func() bool {
				return len(c.firstRuns(j.Name)) == len(want)
			})
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
func TestScheduler_ConcurrentStartsAndShutdownsDoubleNothing(t *testing.T) {
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
			s, err := newScheduler(pool, all, quiet, 0)
			if err != nil {
				t.Error(err)
				return
			}
			for ctx.Err() == nil {
				if err := s.Start(t.Context()); err != nil {
					t.Error(err)
					return
				}
				select { // the lifetime of this start
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
	// A scheduler that stays up runs what is due.
	s, err := newScheduler(newPool(t, c.pool.Config().ConnString()), all, quiet, 0)
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
		require.Equal(t, o.stoodFor, o.lost, "a late run stands for each missed tick: %s", o)
		require.Zero(t, o.doubled, o.String())
	}
}

func shutdown(t testing.TB, s interface{ Shutdown(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	require.NoError(t, s.Shutdown(ctx))
}
