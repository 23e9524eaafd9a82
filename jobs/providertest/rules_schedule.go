package providertest

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// The schedules that applications write or compose.
var scheduleRules = []rule{
	{name: "a schedule that the application has written runs at its ticks, and is listed with its own text", check: writtenScheduleRuns},
	{name: "Only, Spread and AnyOf change and combine ticks", check: composedScheduleRuns},
	{name: "a schedule whose code fails stops no other, says why it stands still, and catches up once it works", check: failingScheduleWaits},
	{name: "a schedule that breaks the rules is refused", check: invalidScheduleIsRefused},
}

// A calendar ticks every second, except those at which the last digit is 5.
type calendar struct {
	text string
	bug  *atomic.Bool // makes Next panic
}

func (c calendar) Next(t time.Time) time.Time {
	if c.bug != nil && c.bug.Load() {
		panic("the calendar is lost")
	}
	for t = t.Truncate(time.Second).Add(time.Second); t.Second()%10 == 5; {
		t = t.Add(time.Second)
	}
	return t
}

func (c calendar) String() string { return c.text }

func writtenScheduleRuns(e *env) {
	c := calendar{text: "every second but 5"}
	p := e.probe(nil)
	e.noError(e.s.RegisterSchedule("test.calendar", c, p.handle, inOrder, jobs.Data(map[string]int{"n": 1})))
	e.start()
	last := p.next()
	for range 11 { // one of them is passed over
		r := p.next()
		require.Equal(e, "UTC", r.Tick.Location().String(), "location of Tick")
		require.NotEqual(e, 5, r.Tick.Second()%10, "a tick that the schedule does not have")
		want := last.Tick
		for range r.Missed + 1 {
			want = c.Next(want)
		}
		require.Equal(e, want, r.Tick, "Tick after %v, with %d missed", last.Tick, r.Missed)
		require.JSONEq(e, `{"n": 1}`, string(r.Data), "Data")
		last = r
	}
	st := e.status("test.calendar")
	require.Equal(e, "every second but 5", st.Schedule, "Schedule in the status")
	require.Empty(e, st.Zone, "Zone in the status")
	require.Len(e, st.Upcoming, 3, "Upcoming in the status")
	for i := range 2 {
		require.Equal(e, c.Next(st.Upcoming[i]), st.Upcoming[i+1], "Upcoming in the status")
	}
}

func composedScheduleRuns(e *env) {
	even := jobs.Only(e.every(time.Second), "at even seconds", func(t time.Time) bool { return t.Second()%2 == 0 })
	p, spread, both := e.probe(nil), e.probe(nil), e.probe(nil)
	e.noError(e.s.RegisterSchedule("test.even", even, p.handle, inOrder))
	e.noError(e.s.RegisterSchedule("test.spread", jobs.Spread(e.every(4*time.Second), 4*time.Second), spread.handle, inOrder))
	e.noError(e.s.RegisterSchedule("test.any", jobs.AnyOf(e.every(3*time.Second), even), both.handle, inOrder))
	e.start()
	for range 3 {
		require.Zero(e, p.next().Tick.Second()%2, "Tick with Only")
	}
	first := spread.next().Tick
	require.Equal(e, spreadOfTest, first.Sub(first.Truncate(4*time.Second)), "offset of tick %v with Spread, a hash of the name", first)
	require.Zero(e, spread.next().Tick.Sub(first)%(4*time.Second), "time between ticks with Spread")
	for range 5 {
		tick := both.next().Tick
		require.True(e, tick.Second()%2 == 0 || tick.Second()%3 == 0, "tick %v with AnyOf", tick)
	}
	require.Equal(e, "every 1s at even seconds", e.status("test.even").Schedule, "Schedule in the status")
	require.Equal(e, "every 4s spread over 4s", e.status("test.spread").Schedule, "Schedule in the status")
	require.Equal(e, "any of: every 3s; every 1s at even seconds", e.status("test.any").Schedule, "Schedule in the status")
}

// spreadOfTest is the offset of the job "test.spread" within four seconds.
const spreadOfTest = 3 * time.Second

func failingScheduleWaits(e *env) {
	bug := new(atomic.Bool)
	p, other := e.probe(nil), e.probe(nil)
	e.noError(e.s.RegisterSchedule("test.calendar", calendar{"every second but 5", bug}, p.handle, inOrder))
	e.noError(e.s.RegisterInterval("test.other", time.Second, other.handle))
	e.start()
	p.next()
	bug.Store(true)
	var st jobs.Status
	e.eventually("the schedule to stand still", func() (any, bool) {
		st = e.status("test.calendar")
		return st, st.OverdueBy > 2*time.Second
	})
	require.Contains(e, st.OverdueReason, "its schedule has a bug: its Next panicked: the calendar is lost", "OverdueReason")
	last := e.drain(p)
	e.drain(other)
	for range 3 {
		other.next()
	}
	p.none("the schedule stands still")
	bug.Store(false)
	r := p.nextWithin(2 * time.Minute)
	require.True(e, r.Tick.After(last.Tick), "tick %v ran after %v", r.Tick, last.Tick)
	require.Positive(e, r.Missed, "Missed of the run for the ticks that passed meanwhile")
	e.eventually("the schedule to be on time", func() (any, bool) {
		st := e.status("test.calendar")
		return st, st.OverdueReason == "" || !strings.Contains(st.OverdueReason, "bug")
	})
}

func invalidScheduleIsRefused(e *env) {
	h := func(context.Context, *jobs.Job) error { return nil }
	hour := e.every(time.Hour)
	for what, s := range map[string]jobs.Schedule{
		"nil":                     nil,
		"a schedule without text": calendar{},
		"a schedule that panics": calendar{"x", func() *atomic.Bool {
			b := new(atomic.Bool)
			b.Store(true)
			return b
		}()},
		"a time that counts from its argument": fromNow{},
		"Only without a rule":                  jobs.Only(hour, "", func(time.Time) bool { return true }),
		"Only without a function":              jobs.Only(hour, "x", nil),
		"Only that accepts nothing":            jobs.Only(hour, "never", func(time.Time) bool { return false }),
		"Spread over 0s":                       jobs.Spread(hour, 0),
		"AnyOf without schedules":              jobs.AnyOf(),
		"AnyOf with nil":                       jobs.AnyOf(hour, nil),
	} {
		require.ErrorIs(e, e.s.RegisterSchedule("test.job", s, h), jobs.ErrInvalidSchedule, what)
	}
	require.ErrorIs(e, e.s.RegisterSchedule("test.job", hour, h, jobs.TimeZone(time.UTC)), jobs.ErrInvalidOption, "TimeZone")
	require.ErrorIs(e, e.s.RegisterSchedule("test.job", hour, nil), jobs.ErrInvalidOption, "a nil handler")
	e.registered(0)
	e.noError(e.s.RegisterSchedule("test.job", hour, h))
	require.ErrorIs(e, e.s.RegisterSchedule("test.job", hour, h), jobs.ErrDuplicate, "the same name again")
}

// fromNow counts from the argument of Next.
type fromNow struct{}

func (fromNow) Next(t time.Time) time.Time { return t.Truncate(time.Millisecond).Add(time.Minute) }
func (fromNow) String() string             { return "a minute from now" }
