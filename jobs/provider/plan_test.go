package provider_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

func at(t require.TestingT, text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	instant, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return instant
}

func every(t require.TestingT, interval time.Duration) jobs.Schedule {
	s, err := jobs.Every(interval)
	require.NoError(t, err)
	return s
}

func cron(t require.TestingT, pattern, zone string) jobs.Schedule {
	loc, err := time.LoadLocation(zone)
	require.NoError(t, err)
	s, err := jobs.ParseCron(pattern, loc)
	require.NoError(t, err)
	return s
}

// walked hides the Count method of a schedule.
type walked struct{ jobs.Schedule }

// fixed is a schedule with the given ticks, in ascending order.
type fixed []time.Time

func (f fixed) Next(t time.Time) time.Time {
	for _, tick := range f {
		if tick.After(t) {
			return tick
		}
	}
	return time.Time{}
}
func (fixed) String() string { return "fixed" }

// schedule is a function as a schedule.
type schedule func(time.Time) time.Time

func (s schedule) Next(t time.Time) time.Time { return s(t) }
func (schedule) String() string               { return "custom" }

func TestPlan(t *testing.T) {
	t.Parallel()
	const (
		noon = "2025-01-01T12:00:00Z"
		year = 365 * 24 * time.Hour
	)
	minute, hour := every(t, time.Minute), every(t, time.Hour)
	last := fixed{at(t, "2025-01-01T11:00:00Z"), at(t, noon)}
	type advance = provider.Advance
	for _, test := range []struct {
		rule     string
		schedule jobs.Schedule
		catchUp  jobs.CatchUpPolicy
		paused   bool
		next     string
		job      provider.Progress
		missed   int // ticks that the waiting run also covers
		now      string
		action   provider.Action
		tick     string
		want     int
		after    string
	}{
		{rule: "no tick is left", schedule: minute, now: noon, action: provider.None},
		{rule: "not due yet", schedule: minute, next: noon, now: "2025-01-01T11:59:59.999999999Z", action: provider.None, after: noon},
		{rule: "not due yet while paused", schedule: minute, paused: true, next: noon, now: "2025-01-01T11:59:59Z", action: provider.None, after: noon},
		{rule: "not due yet while the job runs", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, job: provider.Going, now: "2025-01-01T11:59:59Z", action: provider.None, after: noon},

		{rule: "due now", schedule: minute, next: noon, now: noon, action: provider.Insert, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "a little late", schedule: minute, next: noon, now: "2025-01-01T12:00:59.999999999Z", action: provider.Insert, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "one missed, the latest due now", schedule: minute, next: noon, now: "2025-01-01T12:01:00Z", action: provider.Insert, tick: "2025-01-01T12:01:00Z", want: 1, after: "2025-01-01T12:02:00Z"},
		{rule: "the latest covers all after days", schedule: minute, next: noon, now: "2025-01-03T12:00:30Z", action: provider.Insert, tick: "2025-01-03T12:00:00Z", want: 2880, after: "2025-01-03T12:01:00Z"},
		{rule: "the same for a schedule that cannot count", schedule: walked{minute}, next: noon, now: "2025-01-03T12:00:30Z", action: provider.Insert, tick: "2025-01-03T12:00:00Z", want: 2880, after: "2025-01-03T12:01:00Z"},
		{rule: "a running job holds up no tick", schedule: minute, next: noon, job: provider.Going, now: noon, action: provider.Insert, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "a waiting job takes the tick", schedule: minute, next: noon, job: provider.Waiting, now: noon, action: provider.Fold, tick: noon, want: 1, after: "2025-01-01T12:01:00Z"},
		{rule: "a waiting job takes all ticks", schedule: minute, next: noon, job: provider.Waiting, missed: 5, now: "2025-01-01T12:02:30Z", action: provider.Fold, tick: "2025-01-01T12:02:00Z", want: 8, after: "2025-01-01T12:03:00Z"},
		{rule: "counting ends at a million when folding", schedule: minute, next: noon, job: provider.Waiting, missed: 1_000_000, now: noon, action: provider.Fold, tick: noon, want: 1_000_000, after: "2025-01-01T12:01:00Z"},

		{rule: "All: due now", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, now: noon, action: provider.Insert, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "All: the first missed one, the next is due as well", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, now: "2025-01-01T12:05:30Z", action: provider.Insert, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "All: waits for a waiting job", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, job: provider.Waiting, now: "2025-01-01T12:05:30Z", action: provider.Hold, after: noon},
		{rule: "All: waits for a running job", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, job: provider.Going, now: "2025-01-01T12:05:30Z", action: provider.Hold, after: noon},
		{rule: "All: waits beyond the window too", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, job: provider.Going, now: "2025-01-03T12:00:00Z", action: provider.Hold, after: noon},
		{rule: "All: as old as the window", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, now: "2025-01-02T00:00:00Z", action: provider.Insert, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "All: a nanosecond older than the window", schedule: minute, catchUp: jobs.CatchUpAll, next: noon, now: "2025-01-02T00:00:00.000000001Z", action: provider.Insert, tick: "2025-01-01T12:01:00Z", want: 1, after: "2025-01-01T12:02:00Z"},
		{rule: "All: ticks older than the window are missed", schedule: hour, catchUp: jobs.CatchUpAll, next: noon, now: "2025-01-02T20:30:00Z", action: provider.Insert, tick: "2025-01-02T09:00:00Z", want: 21, after: "2025-01-02T10:00:00Z"},
		{rule: "All: the latest, if none is in the window", schedule: cron(t, "0 12 * * *", "UTC"), catchUp: jobs.CatchUpAll, next: noon, now: "2025-01-04T05:00:00Z", action: provider.Insert, tick: "2025-01-03T12:00:00Z", want: 2, after: "2025-01-04T12:00:00Z"},
		{rule: "All: the only one in the window", schedule: cron(t, "0 12 * * *", "UTC"), catchUp: jobs.CatchUpAll, next: noon, now: "2025-01-04T12:00:00Z", action: provider.Insert, tick: "2025-01-04T12:00:00Z", want: 3, after: "2025-01-05T12:00:00Z"},

		{rule: "paused", schedule: minute, paused: true, next: noon, now: noon, action: provider.Skip, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "paused for a while", schedule: minute, paused: true, next: noon, now: "2025-01-01T12:05:30Z", action: provider.Skip, tick: "2025-01-01T12:05:00Z", want: 5, after: "2025-01-01T12:06:00Z"},
		{rule: "paused while a job waits", schedule: minute, paused: true, next: noon, job: provider.Waiting, missed: 7, now: noon, action: provider.Skip, tick: noon, after: "2025-01-01T12:01:00Z"},
		{rule: "paused with All while a job runs", schedule: minute, catchUp: jobs.CatchUpAll, paused: true, next: noon, job: provider.Going, now: "2025-01-01T12:05:30Z", action: provider.Skip, tick: "2025-01-01T12:05:00Z", want: 5, after: "2025-01-01T12:06:00Z"},
		{rule: "paused with All beyond the window", schedule: hour, catchUp: jobs.CatchUpAll, paused: true, next: noon, now: "2025-01-03T12:00:00Z", action: provider.Skip, tick: "2025-01-03T12:00:00Z", want: 48, after: "2025-01-03T13:00:00Z"},

		{rule: "the last tick", schedule: last, next: noon, now: noon, action: provider.Insert, tick: noon},
		{rule: "the last tick after all the others", schedule: last, next: "2025-01-01T11:00:00Z", now: "2026-01-01T12:00:00Z", action: provider.Insert, tick: noon, want: 1},
		{rule: "the last tick folds", schedule: last, next: noon, job: provider.Waiting, now: noon, action: provider.Fold, tick: noon, want: 1},
		{rule: "the last tick is skipped", schedule: last, paused: true, next: noon, now: noon, action: provider.Skip, tick: noon},
		{rule: "All: the last tick but one", schedule: last, catchUp: jobs.CatchUpAll, next: "2025-01-01T11:00:00Z", now: noon, action: provider.Insert, tick: "2025-01-01T11:00:00Z", after: noon},
		{rule: "All: the last tick", schedule: last, catchUp: jobs.CatchUpAll, next: noon, now: noon, action: provider.Insert, tick: noon},
		{rule: "All: the last tick, before the window", schedule: last, catchUp: jobs.CatchUpAll, next: "2025-01-01T11:00:00Z", now: "2026-01-01T00:00:00Z", action: provider.Insert, tick: noon, want: 1},

		{rule: "a repeated hour ticks once", schedule: cron(t, "30 2 * * *", "Europe/Berlin"), next: "2025-10-25T00:30:00Z", now: "2025-10-26T01:30:00Z", action: provider.Insert, tick: "2025-10-26T00:30:00Z", want: 1, after: "2025-10-27T01:30:00Z"},
		{rule: "a skipped hour ticks after the gap", schedule: cron(t, "30 2 * * *", "Europe/Berlin"), next: "2025-03-29T01:30:00Z", now: "2025-03-30T12:00:00Z", action: provider.Insert, tick: "2025-03-30T01:00:00Z", want: 1, after: "2025-03-31T00:30:00Z"},
		{rule: "every hour when a clock is set back", schedule: cron(t, "0 * * * *", "Europe/Berlin"), next: "2025-10-25T22:00:00Z", now: "2025-10-26T03:00:00Z", action: provider.Insert, tick: "2025-10-26T03:00:00Z", want: 5, after: "2025-10-26T04:00:00Z"},
		{rule: "All: a repeated hour", schedule: cron(t, "30 2 * * *", "Europe/Berlin"), catchUp: jobs.CatchUpAll, next: "2025-10-26T00:30:00Z", now: "2025-10-26T01:30:00Z", action: provider.Insert, tick: "2025-10-26T00:30:00Z", after: "2025-10-27T01:30:00Z"},

		{rule: "a next tick that is not on the grid counts", schedule: hour, next: "2025-01-01T12:17:00Z", now: "2025-01-01T12:30:00Z", action: provider.Insert, tick: "2025-01-01T12:17:00Z", after: "2025-01-01T13:00:00Z"},
		{rule: "and counts as missed", schedule: hour, next: "2025-01-01T12:17:00Z", now: "2025-01-01T14:30:00Z", action: provider.Insert, tick: "2025-01-01T14:00:00Z", want: 2, after: "2025-01-01T15:00:00Z"},
		{rule: "the same for a schedule that cannot count", schedule: walked{hour}, next: "2025-01-01T12:17:00Z", now: "2025-01-01T14:30:00Z", action: provider.Insert, tick: "2025-01-01T14:00:00Z", want: 2, after: "2025-01-01T15:00:00Z"},
		{rule: "All: a next tick that is not on the grid", schedule: hour, catchUp: jobs.CatchUpAll, next: "2025-01-01T12:17:00Z", now: "2025-01-01T14:30:00Z", action: provider.Insert, tick: "2025-01-01T12:17:00Z", after: "2025-01-01T13:00:00Z"},
		{rule: "a next tick in another zone", schedule: hour, next: "2025-01-01T14:00:00+02:00", now: noon, action: provider.Insert, tick: noon, after: "2025-01-01T13:00:00Z"},

		{rule: "counting ends at a million", schedule: every(t, time.Second), next: "1995-01-01T00:00:00Z", now: "2025-01-01T00:00:00.5Z", action: provider.Insert, tick: "2025-01-01T00:00:00Z", want: 1_000_000, after: "2025-01-01T00:00:01Z"},
		{rule: "counting by walking ends at a million", schedule: walked{every(t, time.Second)}, next: "1995-01-01T00:00:00Z", now: "2025-01-01T00:00:00.5Z", action: provider.Insert, tick: "2025-01-01T00:00:00Z", want: 1_000_000, after: "2025-01-01T00:00:01Z"},
		{rule: "counting while paused ends at a million", schedule: every(t, time.Second), paused: true, next: "1995-01-01T00:00:00Z", now: "2025-01-01T00:00:00.5Z", action: provider.Skip, tick: "2025-01-01T00:00:00Z", want: 1_000_000, after: "2025-01-01T00:00:01Z"},
		{rule: "All: counting ends at a million", schedule: every(t, time.Second), catchUp: jobs.CatchUpAll, next: "1995-01-01T00:00:00Z", now: noon, action: provider.Insert, tick: "2025-01-01T00:00:00Z", want: 1_000_000, after: "2025-01-01T00:00:01Z"},
		{rule: "exactly a million", schedule: walked{every(t, time.Second)}, next: "2025-01-01T00:00:00Z", now: "2025-01-12T13:46:40Z", action: provider.Insert, tick: "2025-01-12T13:46:40Z", want: 1_000_000, after: "2025-01-12T13:46:41Z"},
		{rule: "an irregular schedule beyond a million", schedule: fixedEvery(time.Second, at(t, "2025-01-01T00:00:00Z"), at(t, "2026-01-01T00:00:00Z")), next: "2025-01-01T00:00:00Z", now: "2027-01-01T00:00:00Z", action: provider.Insert, tick: "2026-01-01T00:00:00Z", want: 1_000_000},

		{rule: "a schedule that panics waits", schedule: schedule(func(time.Time) time.Time { panic("boom") }), next: noon, now: "2026-01-01T00:00:00Z", action: provider.Stall, after: noon},
		{rule: "one that returns its argument waits", schedule: schedule(func(t time.Time) time.Time { return t }), next: noon, now: "2026-01-01T00:00:00Z", action: provider.Stall, after: noon},
		{rule: "one that goes back waits", schedule: schedule(func(t time.Time) time.Time { return t.Add(-time.Hour) }), next: noon, now: "2026-01-01T00:00:00Z", action: provider.Stall, after: noon},
		{rule: "All: one that goes back waits", schedule: schedule(func(t time.Time) time.Time { return t.Add(-time.Hour) }), catchUp: jobs.CatchUpAll, next: noon, now: "2026-01-01T00:00:00Z", action: provider.Stall, after: noon},
		{rule: "one that returns local times", schedule: schedule(func(t time.Time) time.Time { return t.Add(year).In(time.FixedZone("", 3600)) }), next: noon, now: noon, action: provider.Insert, tick: noon, after: "2026-01-01T12:00:00Z"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			row := provider.Row{Next: at(t, test.next), LastJob: test.job, LastMissed: test.missed}
			got := provider.Plan(test.schedule, provider.Policy{CatchUp: test.catchUp, Paused: test.paused}, row, at(t, test.now))
			require.Equal(t, test.action == provider.Stall, got.Err != nil, "%v", got.Err)
			require.Equal(t, advance{test.action, at(t, test.tick), test.want, at(t, test.after), got.Err}, got)
		})
	}
}

// fixedEvery has ticks every d from first to last.
func fixedEvery(d time.Duration, first, last time.Time) jobs.Schedule {
	return schedule(func(t time.Time) time.Time {
		if t.Before(first) {
			return first
		}
		if next := t.Truncate(d).Add(d); !next.After(last) {
			return next
		}
		return time.Time{}
	})
}

func TestPlan_TerminatesForAnInvalidSchedule(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		offsets := rapid.SliceOfN(rapid.Int64Range(-1000, 1<<rapid.IntRange(1, 50).Draw(t, "bits")), 1, 50).Draw(t, "offsets")
		calls := 0
		wild := schedule(func(now time.Time) time.Time {
			calls++
			return now.Add(time.Duration(offsets[calls%len(offsets)]))
		})
		now := at(t, "2025-01-01T12:00:00Z")
		policy := provider.Policy{CatchUp: jobs.CatchUpPolicy(rapid.IntRange(0, 1).Draw(t, "catch up"))}
		next := now.Add(-time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "late")))
		a := provider.Plan(wild, policy, provider.Row{Next: next}, now)
		require.Less(t, calls, 1_000_100)
		if a.Action == provider.Stall {
			require.Error(t, a.Err)
			require.Equal(t, next, a.Next, "the tick stays due")
			return
		}
		require.Equal(t, provider.Insert, a.Action)
		require.False(t, a.Tick.Before(next))
		require.False(t, a.Tick.After(now))
		require.True(t, a.Next.IsZero() || a.Next.After(a.Tick))
	})
}

// model is the row of a schedule, as a provider keeps it, with the fate of each tick.
type model struct {
	schedule jobs.Schedule
	policy   provider.Policy
	row      provider.Row
	now      time.Time
	ticks    []time.Time   // all up to now and some after, from a walk
	taken    int           // how many of them the row has passed
	inserted [][]time.Time // the ticks that each run covers
	skipped  []time.Time
}

// look does what a provider does when it checks the schedule.
func (m *model) look(t require.TestingT) {
	for {
		a := provider.Plan(m.schedule, m.policy, m.row, m.now)
		if a.Action == provider.None || a.Action == provider.Hold {
			require.Equal(t, m.row.Next, a.Next)
			require.Equal(t, a.Action == provider.None, m.row.Next.IsZero() || m.row.Next.After(m.now))
			return
		}
		// The ticks from the row's next to the plan's are taken, and no other.
		require.Equal(t, m.ticks[m.taken], m.row.Next)
		from := m.taken
		for m.taken < len(m.ticks) && !m.ticks[m.taken].After(a.Tick) {
			m.taken++
		}
		passed := m.ticks[from:m.taken]
		require.NotEmpty(t, passed)
		require.Equal(t, passed[len(passed)-1], a.Tick)
		require.False(t, a.Tick.After(m.now))
		if m.taken == len(m.ticks) {
			require.Zero(t, a.Next)
		} else {
			require.Equal(t, m.ticks[m.taken], a.Next)
		}
		m.row.Next = a.Next
		switch a.Action {
		case provider.Skip:
			require.True(t, m.policy.Paused)
			require.Equal(t, len(passed)-1, a.Missed)
			m.skipped = append(m.skipped, passed...)
			continue
		case provider.Insert:
			m.inserted = append(m.inserted, nil)
		case provider.Fold:
			require.Equal(t, provider.Waiting, m.row.LastJob)
		}
		require.False(t, m.policy.Paused)
		job := &m.inserted[len(m.inserted)-1]
		*job = append(*job, passed...)
		require.Equal(t, len(*job)-1, a.Missed, "ticks that the run covers besides its own")
		m.row.Last, m.row.LastMissed, m.row.LastJob = a.Tick, a.Missed, provider.Waiting
	}
}

// schedules generates schedules with a tick at least every few hours, or that end.
var schedules = rapid.Custom(func(t *rapid.T) jobs.Schedule {
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return every(t, time.Duration(rapid.Int64Range(20_000, 10_000_000).Draw(t, "ms"))*time.Millisecond)
	case 1:
		return walked{every(t, time.Duration(rapid.Int64Range(20_000, 10_000_000).Draw(t, "ms"))*time.Millisecond)}
	case 2:
		pattern := rapid.SampledFrom([]string{"*/7 * * * *", "0 3 * * *", "30 2,14 * * *", "15 * * * *", "0-5 2 * * *"}).Draw(t, "pattern")
		s, err := jobs.ParseCron(pattern, rapid.SampledFrom([]*time.Location{time.UTC, berlin}).Draw(t, "zone"))
		require.NoError(t, err)
		return s
	default:
		first := start.Add(time.Duration(rapid.Int64Range(0, 36).Draw(t, "first")) * time.Hour)
		return fixedEvery(13*time.Minute, first, first.Add(time.Duration(rapid.Int64Range(0, 36).Draw(t, "length"))*time.Hour))
	}
})

// start is the day before clocks in Berlin are set back.
var start = time.Date(2025, 10, 25, 12, 0, 0, 0, time.UTC)

func TestPlan_NeitherLosesATickNorRunsItTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := model{schedule: schedules.Draw(t, "schedule"), now: start}
		m.policy.CatchUp = jobs.CatchUpPolicy(rapid.IntRange(0, 1).Draw(t, "catch up"))
		m.row.Next = provider.Next(m.schedule, start)
		if m.row.Next.IsZero() {
			return
		}
		if rapid.Bool().Draw(t, "off the grid") {
			m.row.Next = m.row.Next.Add(-time.Duration(rapid.Int64Range(0, int64(m.row.Next.Sub(start))-1).Draw(t, "by")))
		}
		for tick := m.row.Next; !tick.IsZero() && tick.Sub(start) < 6*24*time.Hour; tick = m.schedule.Next(tick) {
			m.ticks = append(m.ticks, tick)
		}
		whole := m.ticks[len(m.ticks)-1] // later ones are not listed
		if !provider.Next(m.schedule, whole).IsZero() {
			m.ticks = append(m.ticks, provider.Next(m.schedule, whole))
		}
		late := false // a check was later than the window
		for range rapid.IntRange(1, 60).Draw(t, "looks") {
			step := time.Duration(rapid.Int64Range(0, int64(1)<<rapid.IntRange(1, 46).Draw(t, "bits")).Draw(t, "step"))
			if m.now.Add(step).After(whole) {
				break
			}
			m.now = m.now.Add(step)
			late = late || m.now.Sub(m.row.Next) > jobs.CatchUpWindow
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0:
				m.policy.Paused = !m.policy.Paused
			case 1, 2:
				if m.row.LastJob == provider.Waiting {
					m.row.LastJob = provider.Going
				}
			case 3:
				m.row.LastJob = provider.Over
			}
			m.look(t)
		}

		// Each tick up to now has one job or was skipped, except those that are held.
		fate := map[time.Time]int{}
		for _, job := range m.inserted {
			for _, tick := range job {
				fate[tick]++
			}
		}
		for _, tick := range m.skipped {
			fate[tick]++
		}
		var previous time.Time
		for i, tick := range m.ticks {
			if n := fate[tick]; n > 1 || (n == 1) != (i < m.taken) || n == 1 && tick.After(m.now) {
				require.Failf(t, "a tick is lost or inserted twice", "%v has %d jobs or skips at %v", tick, n, m.now)
			}
		}
		for _, job := range m.inserted {
			own := job[len(job)-1]
			require.True(t, own.After(previous), "ticks are inserted in order")
			previous = own
			if m.policy.CatchUp == jobs.CatchUpAll && !late {
				require.Len(t, job, 1, "with All each tick of the window has a job of its own")
			}
		}
		if m.policy.CatchUp == jobs.CatchUpOnce || m.policy.Paused {
			require.True(t, m.row.Next.IsZero() || m.row.Next.After(m.now), "the row advances")
		}
	})
}

// With CatchUpOnce, at most one tick waits, whatever the workers do.
func TestPlan_OnceLetsAtMostOneTickWait(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := every(t, time.Minute)
		row, now, waiting := provider.Row{Next: start}, start, 0
		for range rapid.IntRange(1, 100).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "seconds")) * time.Second)
			a := provider.Plan(s, provider.Policy{Paused: rapid.Bool().Draw(t, "paused")}, row, now)
			if a.Action == provider.Insert {
				waiting++
			}
			if a.Action == provider.Insert || a.Action == provider.Fold {
				row.Last, row.LastMissed, row.LastJob = a.Tick, a.Missed, provider.Waiting
			}
			row.Next = a.Next
			require.LessOrEqual(t, waiting, 1)
			if waiting == 1 && rapid.Bool().Draw(t, "a worker is free") {
				row.LastJob, waiting = rapid.SampledFrom([]provider.Progress{provider.Going, provider.Over}).Draw(t, "progress"), 0
			}
		}
	})
}

func TestCheckedNext(t *testing.T) {
	t.Parallel()
	noon := at(t, "2025-01-01T12:00:00Z")
	for _, test := range []struct {
		rule     string
		schedule jobs.Schedule
		want     string
		err      string
	}{
		{"the next tick", every(t, time.Hour), "2025-01-01T13:00:00Z", ""},
		{"none is left", fixed{noon}, "", ""},
		{"a panic", schedule(func(time.Time) time.Time { panic("boom") }), "", "its Next panicked: boom"},
		{"not after the argument", schedule(func(t time.Time) time.Time { return t }), "", "its Next(2025-01-01T12:00:00Z) is 2025-01-01T12:00:00Z, which is not after its argument"},
		{"the year 10,000", schedule(func(t time.Time) time.Time { return t.AddDate(8000, 0, 0) }), "", "is in the year 10025, at most 9999 is allowed"},
		{"in UTC", schedule(func(t time.Time) time.Time { return t.Add(1).In(time.FixedZone("", 3600)) }), "2025-01-01T12:00:00.000000001Z", ""},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			next, err := provider.CheckedNext(test.schedule, noon)
			require.Equal(t, at(t, test.want), next)
			require.Equal(t, next, provider.Next(test.schedule, noon))
			if test.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.err)
		})
	}
}

func BenchmarkPlan(b *testing.B) {
	now := at(b, "2025-01-01T12:00:00Z")
	for _, bench := range []struct {
		name     string
		schedule jobs.Schedule
		late     time.Duration
	}{
		{"interval on time", every(b, time.Second), 0},
		{"interval ten years late", every(b, time.Second), 10 * 365 * 24 * time.Hour},
		{"cron on time", cron(b, "*/5 * * * *", "Europe/Berlin"), 0},
		{"cron a day late", cron(b, "* * * * *", "Europe/Berlin"), 24 * time.Hour},
		{"cron ten years late", cron(b, "* * * * *", "Europe/Berlin"), 10 * 365 * 24 * time.Hour},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				provider.Plan(bench.schedule, provider.Policy{}, provider.Row{Next: now.Add(-bench.late)}, now)
			}
		})
	}
}
