package provider_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// written is a schedule as an application writes it.
type written struct {
	next func(time.Time) time.Time
	text func() string
}

func (w written) Next(t time.Time) time.Time { return w.next(t) }
func (w written) String() string             { return w.text() }

// named returns a schedule with that text, which has the ticks of next.
func named(text string, next func(time.Time) time.Time) jobs.Schedule {
	return written{next, func() string { return text }}
}

func TestRegistry_RefusesASchedule(t *testing.T) {
	t.Parallel()
	hourly := func(t time.Time) time.Time { return t.Truncate(time.Hour).Add(time.Hour) }
	calls := 0
	texts := 0
	for _, test := range []struct {
		rule     string
		schedule jobs.Schedule
		want     string
	}{
		{"nil", nil, "the schedule is nil"},
		{"a nil pointer", (*written)(nil), "its String panicked: "},
		{"without a text", named("", hourly), "its String is empty"},
		{"with a text of spaces", named(" ", hourly), "its String is empty"},
		{"with a long text", named(strings.Repeat("x", 1001), hourly), "its String has 1001 bytes, at most 1000 are allowed"},
		{"with two lines", named("a\nb", hourly), `its String is "a\nb", want one line of valid UTF-8`},
		{"with invalid UTF-8", named("a\xffb", hourly), "want one line of valid UTF-8"},
		{"with a changing text", written{hourly, func() string { texts++; return fmt.Sprint(texts) }}, `its String is "1" and then "2", want always the same`},
		{"that panics", named("x", func(time.Time) time.Time { panic("boom") }), "its Next panicked: boom"},
		{"that ends its goroutine", named("x", func(time.Time) time.Time { runtime.Goexit(); return time.Time{} }), "its Next exited its goroutine"},
		{"that stands still", named("x", func(t time.Time) time.Time { return t }), "which is not after its argument"},
		{"that counts from its argument", named("x", func(t time.Time) time.Time { return t.Truncate(time.Millisecond).Add(time.Minute) }), "it must return the first tick after its argument"},
		{"that skips ticks", named("x", func(t time.Time) time.Time {
			if t.Minute() == 0 {
				return hourly(hourly(t))
			}
			return hourly(t)
		}), "it must return the first tick after its argument"},
		{"that is not pure", named("x", func(t time.Time) time.Time { calls++; return hourly(t).Add(time.Duration(calls%2) * time.Minute) }), "the same each time"},
		{"finer than a millisecond", named("x", func(t time.Time) time.Time { return hourly(t.Add(-time.Microsecond)).Add(time.Microsecond) }), "want whole milliseconds"},
		{"denser than a second", named("x", func(t time.Time) time.Time { return t.Truncate(500 * time.Millisecond).Add(500 * time.Millisecond) }), "must be at least 1s apart"},
		{"beyond the year 9999", named("x", func(time.Time) time.Time { return time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) }), "at most 9999 is allowed"},
		{"that is invalid itself", jobs.Spread(every(t, time.Hour), -1), "Spread over -1ns"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			err := r.RegisterSchedule("a.b", test.schedule, nothing)
			require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, `job "a.b" at `)
			require.Equal(t, 1, strings.Count(err.Error(), "invalid schedule"), err.Error())
			require.Empty(t, r.Jobs())
		})
	}
}

func TestRegistry_RefusesAScheduleThatBlocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		defer close(block)
		err := newRegistry(t).RegisterSchedule("a.b", named("x", func(t time.Time) time.Time { <-block; return t.Add(time.Hour) }), nothing)
		require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
		require.ErrorContains(t, err, "has not returned within 1s")
	})
}

func TestRegistry_RegistersASchedule(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	daily, err := jobs.ParseCron("0 9 * * *", berlin)
	require.NoError(t, err)
	for _, test := range []struct {
		rule             string
		schedule         jobs.Schedule
		text, zone, spec string
		next, after      string // the first two ticks from 2025-01-01T12:00Z on
	}{
		{"a list that ends", fixed{at(t, "2025-01-01T13:00:00Z")}, "fixed", "", "schedule fixed", "2025-01-01T13:00:00Z", ""},
		{"a cron pattern", daily, "0 9 * * *", "Europe/Berlin", "schedule 0 9 * * * Europe/Berlin", "2025-01-02T08:00:00Z", "2025-01-03T08:00:00Z"},
		{"an interval", every(t, time.Hour), "every 1h0m0s", "", "schedule every 1h0m0s", "2025-01-01T13:00:00Z", "2025-01-01T14:00:00Z"},
		{
			"a spread one, which knows the job's name", jobs.Spread(every(t, time.Hour), time.Hour), "every 1h0m0s spread over 1h0m0s", "",
			"schedule every 1h0m0s spread over 1h0m0s", "2025-01-01T12:27:03Z", "2025-01-01T13:27:03Z",
		},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			require.NoError(t, r.RegisterSchedule("audit.sync", test.schedule, nothing, jobs.CatchUp(jobs.CatchUpAll), jobs.Data(map[string]int{"n": 1})))
			d, err := r.Job("audit.sync")
			require.NoError(t, err)
			text, zone := d.Describe()
			require.Equal(t, [3]string{test.text, test.zone, test.spec}, [3]string{text, zone, d.Spec()})
			first := d.Schedule.Next(at(t, "2025-01-01T12:00:00Z"))
			require.Equal(t, at(t, test.next), first)
			require.Equal(t, at(t, test.after), d.Schedule.Next(first))
		})
	}
	require.ErrorIs(t, newRegistry(t).RegisterSchedule("a.b", daily, nothing, jobs.TimeZone(berlin)), jobs.ErrInvalidOption)
}

func TestDefinition_Spec(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	require.NoError(t, r.RegisterCron("a.cron", "0 3 * * *", nothing, jobs.TimeZone(zone(t, "Europe/Berlin"))))
	require.NoError(t, r.RegisterInterval("a.interval", time.Minute, nothing))
	require.NoError(t, r.RegisterDelayed("a.delayed", time.Minute, nothing))
	for name, want := range map[string]string{"a.cron": "cron 0 3 * * * Europe/Berlin", "a.interval": "every 1m0s", "a.delayed": ""} {
		d, err := r.Job(name)
		require.NoError(t, err)
		require.Equal(t, want, d.Spec())
	}
}

// hatching is a schedule that ticks every hour, until its code fails.
type hatching struct {
	bug atomic.Pointer[func(t time.Time) time.Time]
}

func (h *hatching) Next(t time.Time) time.Time {
	if bug := h.bug.Load(); bug != nil {
		return (*bug)(t)
	}
	return t.Truncate(time.Hour).Add(time.Hour)
}
func (*hatching) String() string { return "hatching" }

// registered returns s as a provider gets it.
func registered(t *testing.T, s jobs.Schedule) jobs.Schedule {
	r := newRegistry(t)
	require.NoError(t, r.RegisterSchedule("a.b", s, nothing))
	d, err := r.Job("a.b")
	require.NoError(t, err)
	return d.Schedule
}

func TestPlan_WaitsWhileACustomScheduleFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hatching{}
		s := registered(t, h)
		noon := at(t, "2025-01-01T12:00:00Z")
		row := provider.Row{Next: noon}
		release := make(chan struct{})
		for _, test := range []struct {
			bug  func(time.Time) time.Time
			want string
			took time.Duration
		}{
			{func(time.Time) time.Time { panic("boom") }, "boom", 0},
			{func(t time.Time) time.Time { return t.Add(-time.Hour) }, "not after its argument", 0},
			{func(t time.Time) time.Time { <-release; return t.Add(time.Hour) }, "has not returned within 1s", time.Second},
			{nil, "an earlier call of its Next has not returned", 0},
		} {
			h.bug.Store(nil)
			if test.bug != nil {
				h.bug.Store(&test.bug)
			}
			began := time.Now()
			a := provider.Plan(s, provider.Policy{}, row, noon)
			require.Equal(t, provider.Stall, a.Action)
			require.ErrorContains(t, a.Err, test.want)
			require.Equal(t, noon, a.Next)
			require.Equal(t, test.took, time.Since(began))
		}
		close(release)
		synctest.Wait()
		a := provider.Plan(s, provider.Policy{}, row, noon.Add(90*time.Minute))
		require.Equal(t, provider.Advance{Action: provider.Insert, Tick: noon.Add(time.Hour), Missed: 1, Next: noon.Add(2 * time.Hour)}, a, "it works again")
	})
}

func TestPlan_LimitsTheTimeOfACustomSchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hatching{}
		s := registered(t, h)
		slow := func(now time.Time) time.Time {
			time.Sleep(300 * time.Millisecond)
			return now.Truncate(time.Hour).Add(time.Hour)
		}
		h.bug.Store(&slow)
		noon := at(t, "2025-01-01T12:00:00Z")
		began := time.Now()
		a := provider.Plan(s, provider.Policy{}, provider.Row{Next: noon}, noon.AddDate(1, 0, 0))
		require.Equal(t, provider.Stall, a.Action)
		require.ErrorContains(t, a.Err, "finding its ticks has taken longer than 2s")
		require.Less(t, time.Since(began), 3*time.Second)
	})
}
