package schedule_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/schedule"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

func at(minute int) time.Time { return time.Date(2026, 1, 1, 12, minute, 0, 0, time.UTC) }

// This process is "mine", started at minute 10, and it is minute 30 now.
func TestView_Decide(t *testing.T) {
	t.Parallel()
	const hourly, daily = "every 1h0m0s", "every 24h0m0s"
	next := at(59)
	mine := store.Claim{Spec: hourly, By: "mine", At: at(10), Next: next}
	// keeps is a claim of mine whose row does not move.
	keeps := func(row store.Claim) store.Claim {
		return store.Claim{Spec: hourly, By: "mine", At: at(10), Next: row.Next}
	}
	row := func(spec, by string, minute int) *store.Claim {
		return &store.Claim{Spec: spec, By: by, At: at(minute), Next: at(20)} // a next tick in the past: an outage
	}
	for _, test := range []struct {
		name     string
		starting bool
		live     []string
		row      *store.Claim
		want     store.Claim
		write    bool
	}{
		{"no row, at the start", true, nil, nil, mine, true},
		{"no row, later: somebody has deleted it", false, nil, nil, mine, true},
		{"the same schedule, at the start", true, []string{"theirs"}, row(hourly, "theirs", 5), keeps(*row(hourly, "theirs", 5)), true},
		{"the same schedule, at the start of a process that is older", true, []string{"theirs"}, row(hourly, "theirs", 15), *row(hourly, "theirs", 15), false},
		{"the same schedule, ours, at a second start", true, nil, row(hourly, "mine", 5), keeps(*row(hourly, "mine", 5)), true},
		{"the same schedule, later", false, []string{"theirs"}, row(hourly, "theirs", 15), *row(hourly, "theirs", 15), false},
		{"the same schedule, ours, later", false, nil, row(hourly, "mine", 5), *row(hourly, "mine", 5), false},
		{"the same schedule, whose claimer is gone", false, nil, row(hourly, "theirs", 15), keeps(*row(hourly, "theirs", 15)), true},
		{"another schedule, at the start: the newest start wins", true, []string{"theirs"}, row(daily, "theirs", 5), mine, true},
		{"another schedule of a newer process that lives", false, []string{"theirs"}, row(daily, "theirs", 15), *row(daily, "theirs", 15), false},
		{"another schedule of a newer process that is gone: a rollback", false, []string{"others"}, row(daily, "theirs", 15), mine, true},
		{"another schedule of an older process: we were cut off, and it claimed the row", false, []string{"theirs"}, row(daily, "theirs", 5), mine, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			live := map[string]bool{}
			for _, by := range test.live {
				live[by] = true
			}
			v := schedule.View{Spec: hourly, By: "mine", At: at(10), Starting: test.starting, Live: live}
			got, write := v.Decide(test.row, func() time.Time { return next })
			require.Equal(t, test.want, got)
			require.Equal(t, test.write, write)
		})
	}
}

func tick(minute, missed int, job int64, state jobs.State) store.Tick {
	return store.Tick{At: at(minute), Missed: missed, JobID: job, State: state}
}

func TestStep(t *testing.T) {
	t.Parallel()
	row := store.Schedule{
		Name: "a.tick", Next: at(3), LastSuccess: at(0),
		Last: tick(2, 0, 12, jobs.StateRunning), Prev: tick(1, 0, 11, jobs.StateCompleted),
	}
	with := func(change func(*store.Schedule)) store.Schedule {
		changed := row
		change(&changed)
		return changed
	}
	for _, test := range []struct {
		name string
		row  store.Schedule
		a    provider.Advance
		want store.Schedule
	}{
		{
			"an insert moves the latest tick to the one before", row,
			provider.Advance{Action: provider.Insert, Tick: at(4), Missed: 1, Next: at(5)},
			with(func(r *store.Schedule) {
				r.Next, r.Prev, r.Last, r.LastSuccess = at(5), row.Last, store.Tick{At: at(4), Missed: 1}, at(1)
			}),
		},
		{
			"a fold changes the latest tick alone", row,
			provider.Advance{Action: provider.Fold, Tick: at(4), Missed: 2, Next: at(5)},
			with(func(r *store.Schedule) {
				r.Next, r.Last.At, r.Last.Missed, r.LastSuccess = at(5), at(4), 2, at(1)
			}),
		},
		{
			"a skip leaves the runs as they are", row,
			provider.Advance{Action: provider.Skip, Tick: at(4), Missed: 1, Next: at(5)},
			with(func(r *store.Schedule) {
				r.Next, r.Skipped, r.LastSuccess = at(5), store.Tick{At: at(4), Missed: 1, State: jobs.StateSkipped}, at(1)
			}),
		},
		{
			"the latest success counts",
			with(func(r *store.Schedule) { r.Last.State = jobs.StateCompleted }),
			provider.Advance{Action: provider.Insert, Tick: at(3), Next: at(4)},
			with(func(r *store.Schedule) {
				r.Next, r.Prev, r.Last, r.LastSuccess = at(4), tick(2, 0, 12, jobs.StateCompleted), store.Tick{At: at(3)}, at(2)
			}),
		},
		{
			"a success is not lost to an older one",
			with(func(r *store.Schedule) { r.LastSuccess = at(2) }),
			provider.Advance{Action: provider.Insert, Tick: at(3), Next: at(4)},
			with(func(r *store.Schedule) {
				r.Next, r.Prev, r.Last, r.LastSuccess = at(4), row.Last, store.Tick{At: at(3)}, at(2)
			}),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, schedule.Step(test.row, test.a))
		})
	}
}

// Every minute; it is half past the fifth.
func TestStands(t *testing.T) {
	t.Parallel()
	every, err := jobs.Every(time.Minute)
	require.NoError(t, err)
	now := at(5).Add(30 * time.Second)
	const spec = "every 1m0s"
	row := func(change func(*store.Standing)) store.Standing {
		r := store.Standing{Spec: spec, Schedule: store.Schedule{
			Next: at(6), Last: tick(5, 1, 15, jobs.StateRunning), Prev: tick(3, 0, 13, jobs.StateCompleted), Progress: provider.Going,
		}}
		if change != nil {
			change(&r)
		}
		return r
	}
	waits := func(r *store.Standing) {
		r.Progress, r.Last.State, r.LastDue = provider.Waiting, jobs.StateWaiting, at(4)
	}
	for _, test := range []struct {
		name   string
		row    store.Standing
		paused bool
		want   schedule.Standing
	}{
		{"it runs", row(nil), false, schedule.Standing{Prev: tick(5, 1, 15, jobs.StateRunning), Next: at(6)}},
		{
			"it waits, since the first tick that it stands for", row(waits), false,
			schedule.Standing{Prev: tick(3, 0, 13, jobs.StateCompleted), Next: at(5), OverdueBy: 90 * time.Second, Inserted: true},
		},
		{
			"it is paused, and a job waits", row(waits), true,
			schedule.Standing{Prev: tick(3, 0, 13, jobs.StateCompleted), Next: at(6)},
		},
		{
			"it is due and not inserted", row(func(r *store.Standing) { r.Next = at(4) }), false,
			schedule.Standing{Prev: tick(5, 1, 15, jobs.StateRunning), Next: at(4), OverdueBy: 90 * time.Second},
		},
		{
			"it is due and paused", row(func(r *store.Standing) { r.Next = at(4) }), true,
			schedule.Standing{Prev: tick(5, 1, 15, jobs.StateRunning), Next: at(4)},
		},
		{
			"a pause has skipped a later tick", row(func(r *store.Standing) { r.Last.At, r.Skipped = at(2), tick(5, 2, 0, "") }), true,
			schedule.Standing{Prev: tick(5, 2, 0, jobs.StateSkipped), Next: at(6)},
		},
		{
			"a pause has skipped an earlier tick", row(func(r *store.Standing) { r.Skipped = tick(4, 0, 0, "") }), false,
			schedule.Standing{Prev: tick(5, 1, 15, jobs.StateRunning), Next: at(6)},
		},
		{
			"the clock was set back", row(func(r *store.Standing) { r.Next = at(50) }), false,
			schedule.Standing{Prev: tick(5, 1, 15, jobs.StateRunning), Next: at(50), Ahead: true},
		},
		{
			"another version's schedule is not ahead", row(func(r *store.Standing) { r.Next, r.Spec = at(50), "every 1h0m0s" }), false,
			schedule.Standing{Prev: tick(5, 1, 15, jobs.StateRunning), Next: at(50)},
		},
		{
			"no tick is left", row(func(r *store.Standing) { r.Next = time.Time{} }), false,
			schedule.Standing{Prev: tick(5, 1, 15, jobs.StateRunning)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, schedule.Stands(every, spec, test.row, test.paused, now))
		})
	}
}

// A spec decides whose schedule a row has: a change of its form would move every row as a new version is deployed.
func TestSpecOf_IsPinned(t *testing.T) {
	t.Parallel()
	reg, err := provider.NewRegistry()
	require.NoError(t, err)
	handler := func(context.Context, *jobs.Job) error { return nil }
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	require.NoError(t, reg.RegisterCron("a.berlin", " 0 3 * * * ", handler, jobs.TimeZone(berlin), jobs.MaxRetries(7)))
	require.NoError(t, reg.RegisterCron("a.cron", "@daily", handler))
	require.NoError(t, reg.RegisterDelayed("a.delayed", time.Minute, handler))
	require.NoError(t, reg.RegisterInterval("a.interval", 90*time.Minute, handler))
	specs := map[string]string{}
	for _, d := range reg.Jobs() {
		specs[d.Name] = d.Spec()
	}
	require.Equal(t, map[string]string{
		"a.berlin": "cron 0 3 * * * Europe/Berlin", "a.cron": "cron @daily UTC", "a.delayed": "", "a.interval": "every 1h30m0s",
	}, specs)
}

func TestFitting_LimitsATransaction(t *testing.T) {
	t.Parallel()
	due := func(sizes ...int) (all []store.Due) {
		for _, n := range sizes {
			all = append(all, store.Due{Bytes: n})
		}
		return all
	}
	for _, test := range []struct {
		name string
		due  []store.Due
		want int
	}{
		{"none", nil, 0},
		{"all", due(2, 2, 2), 3},
		{"one too large for any", due(1<<20, 2), 1},
		{"up to one too large", due(2, 2, 1<<20, 2), 2},
		{"exactly 256 KiB", due(128<<10, 128<<10, 1), 2},
		{"500 rows", make([]store.Due, 501), 500},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, schedule.Fitting(test.due))
		})
	}
}
