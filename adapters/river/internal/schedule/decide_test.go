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

// faulty is a schedule whose ticks do not move on.
type faulty struct{}

func (faulty) Next(t time.Time) time.Time { return t }
func (faulty) String() string             { return "never" }

// Every minute; it is half past the fifth.
func TestDescribe(t *testing.T) {
	t.Parallel()
	now := at(5).Add(30 * time.Second)
	row := func(changes ...func(*store.Standing)) *store.Standing {
		r := &store.Standing{Spec: "every 1m0s", Schedule: store.Schedule{
			Next: at(6), Last: tick(5, 1, 15, jobs.StateRunning), Prev: tick(3, 0, 13, jobs.StateCompleted), Progress: provider.Going,
		}}
		for _, change := range changes {
			change(r)
		}
		return r
	}
	waits := func(r *store.Standing) {
		r.Progress, r.Last.State, r.LastDue = provider.Waiting, jobs.StateWaiting, at(4)
	}
	next := func(minute int) func(*store.Standing) { return func(r *store.Standing) { r.Next = at(minute) } }
	another := func(r *store.Standing) { r.Spec = "every 1h0m0s" }
	// runs and waiting are the statuses of row() and row(waits).
	runs := jobs.Status{PrevTick: at(5), PrevState: jobs.StateRunning, Missed: 1, NextTick: at(6)}
	waiting := jobs.Status{PrevTick: at(3), PrevState: jobs.StateCompleted, NextTick: at(5), OverdueBy: 90 * time.Second}
	nextAt := func(minute int) jobs.Status { st := runs; st.NextTick = at(minute); return st }
	late := func(minute int, why string) jobs.Status {
		st := nextAt(minute)
		st.OverdueBy, st.OverdueReason = now.Sub(at(minute)), why
		return st
	}
	because := func(st jobs.Status, why string) jobs.Status { st.OverdueReason = why; return st }
	free, busy, stopped := schedule.Here{Workers: 7, Taken: 6}, schedule.Here{Workers: 7, Taken: 7}, schedule.Here{Stopped: "not started"}
	const (
		bug      = "its schedule has a bug: "
		taken    = " are taken, 7 in this process, and no other process has one free"
		notTaken = "no worker has taken it, though some are free; see the log"
		missing  = "it has not been inserted; see the log"
		ahead    = "its next tick is later than its schedule says: the database's clock was set back, and the ticks until then have been inserted"
		nowhere  = "this scheduler is not started, and no other process has taken it: none that registers it is running, or all are busy"
	)
	skipped := runs
	skipped.Missed, skipped.PrevState = 2, jobs.StateSkipped
	paused := waiting
	paused.NextTick, paused.OverdueBy = at(6), 0
	for _, test := range []struct {
		name   string
		row    *store.Standing
		here   schedule.Here
		paused bool
		want   jobs.Status
		opts   []jobs.Option
	}{
		{"it runs", row(), free, false, runs, nil},
		{"it has no row", nil, free, false, jobs.Status{NextTick: at(6), OverdueReason: "its row is missing and will be written again within seconds"}, nil},
		{"it has no row, which nobody here writes", nil, stopped, false, jobs.Status{NextTick: at(6)}, nil},
		{"it waits, since the first tick that it stands for", row(waits), free, false, because(waiting, notTaken), nil},
		{"it waits, and all workers are taken", row(waits), busy, false, because(waiting, "all workers"+taken), nil},
		{"it waits for its own workers", row(waits), busy, false, because(waiting, "all worker slots of the job"+taken), []jobs.Option{jobs.Concurrency(7)}},
		{"it waits for those of its kind", row(waits), busy, false, because(waiting, "all worker slots of transactional jobs"+taken), []jobs.Option{jobs.Transactional()}},
		{"it waits, and nothing runs here", row(waits), stopped, false, because(waiting, nowhere), nil},
		{"it is paused, and a job waits", row(waits), free, true, paused, nil},
		{"it is due and not inserted", row(next(4)), free, false, late(4, missing), nil},
		{"it is due and not inserted, of another schedule", row(next(4), another), free, false, late(4, "a process that was started later has registered another schedule for it: every 1h0m0s"), nil},
		{"it is due and waits for a run", row(next(4)), busy, false, late(4, "the run of the previous tick has not ended"), []jobs.Option{jobs.CatchUp(jobs.CatchUpAll)}},
		{"it is due and has just become so", row(func(r *store.Standing) { r.Next = now.Add(-time.Second) }), free, false, jobs.Status{
			PrevTick: at(5), PrevState: jobs.StateRunning, Missed: 1, NextTick: now.Add(-time.Second), OverdueBy: time.Second, OverdueReason: "it is about to start",
		}, nil},
		{"it is due and paused", row(next(4)), free, true, nextAt(4), nil},
		{"a pause has skipped a later tick", row(func(r *store.Standing) { r.Last.At, r.Skipped = at(2), tick(5, 2, 0, "") }), free, true, skipped, nil},
		{"a pause has skipped an earlier tick", row(func(r *store.Standing) { r.Skipped = tick(4, 0, 0, "") }), free, false, runs, nil},
		{"the clock was set back", row(next(50)), free, false, because(nextAt(50), ahead), nil},
		{"another version's schedule is not ahead", row(next(50), another), free, false, nextAt(50), nil},
		{"no tick is left", row(func(r *store.Standing) { r.Next = time.Time{} }), free, false, jobs.Status{PrevTick: at(5), PrevState: jobs.StateRunning, Missed: 1}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			reg, err := provider.NewRegistry()
			require.NoError(t, err)
			require.NoError(t, reg.RegisterInterval("a.job", time.Minute, func(context.Context, *jobs.Job) error { return nil }, test.opts...))
			d, err := reg.Job("a.job")
			require.NoError(t, err)
			st := jobs.Status{}
			if test.paused {
				st.PausedSince, test.want.PausedSince = at(1), at(1)
			}
			got := st
			schedule.Describe(&got, d, test.row, test.here, now)
			require.Equal(t, test.want, got)

			d.Schedule = faulty{}
			schedule.Describe(&st, d, test.row, test.here, now)
			require.Contains(t, st.OverdueReason, bug)
			if test.row != nil {
				st.OverdueReason, test.want.OverdueReason = "", ""
				require.Equal(t, test.want, st)
			}
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
