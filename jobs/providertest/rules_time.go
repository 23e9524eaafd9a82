package providertest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Delays, times and priorities.
var timeRules = []rule{
	{name: "a job runs the registered delay after its trigger", check: registeredDelay},
	{name: "Delay replaces the registered delay", check: delayReplacesTheRegisteredDelay},
	{name: "At sets when a job runs, and a time that has passed means now", check: atSetsTheTime},
	{name: "of the runs that are due, those with the lowest priority number start first", check: priorityStartsFirst},
	{name: "of the runs with the same priority, the one due longest starts first", check: longestDueStartsFirst},
}

func registeredDelay(e *env) {
	const delay = 700 * time.Millisecond
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", delay, p.handle))
	e.start()
	at := time.Now()
	e.trigger("test.job", nil)
	_, err := e.s.TriggerMany(e.ctx, "test.job", []any{nil})
	e.noError(err)
	for range 2 {
		require.GreaterOrEqual(e, p.next().at.Sub(at), delay-slack, "time from trigger to run")
	}
}

func delayReplacesTheRegisteredDelay(e *env) {
	const delay = 700 * time.Millisecond
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.now", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.later", time.Hour, p.handle))
	e.start()
	for _, name := range []string{"test.now", "test.later"} {
		at := time.Now()
		e.trigger(name, nil, jobs.Delay(delay))
		require.GreaterOrEqual(e, p.next().at.Sub(at), delay-slack, "time from trigger to run of %s", name)
	}
	at := time.Now()
	e.trigger("test.later", nil, jobs.Delay(0))
	require.Less(e, p.next().at.Sub(at), time.Hour, "time from trigger to run with Delay(0)")
}

func atSetsTheTime(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", time.Hour, p.handle))
	e.start()
	at := time.Now().Add(700 * time.Millisecond)
	e.trigger("test.job", nil, jobs.At(at.In(time.FixedZone("", 3600))))
	r := p.next()
	require.False(e, r.StartedAt.Before(at.Add(-slack)), "started at %v, was due at %v", r.StartedAt, at)
	e.trigger("test.job", nil, jobs.At(time.Now().Add(-24*time.Hour)))
	p.next()
}

func priorityStartsFirst(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Concurrency(1), jobs.Priority(3)))
	for _, trigger := range []struct {
		label string
		opts  []jobs.TriggerOption
	}{
		{"4", []jobs.TriggerOption{jobs.Priority(4)}},
		{"3, of the registration", nil},
		{"2", []jobs.TriggerOption{jobs.Priority(2)}},
		{"1", []jobs.TriggerOption{jobs.Priority(1)}},
	} {
		e.trigger("test.job", map[string]string{"priority": trigger.label}, trigger.opts...)
	}
	e.start()
	var order []string
	for range 4 {
		order = append(order, e.decode(p.next())["priority"])
	}
	require.Equal(e, []string{"1", "2", "3, of the registration", "4"}, order, "order of the runs, by their priority")
}

func longestDueStartsFirst(e *env) {
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.Concurrency(1)))
	// At, because with Delay it would matter how long a trigger takes. If the triggers take so long that the first run
	// is already due, start over with more time.
	const step = 100 * time.Millisecond
	var first time.Time
	var round string
	for wait := time.Second; ; wait *= 2 {
		first, round = time.Now().Add(wait), wait.String()
		for _, job := range []struct {
			due   string
			after time.Duration
		}{{"first", 0}, {"second", step}, {"third", 2 * step}, {"between", step * 3 / 2}} {
			e.trigger("test.job", map[string]string{"due": job.due, "round": round}, jobs.At(first.Add(job.after)))
		}
		if time.Now().Before(first) {
			break
		}
	}
	e.until(first.Add(3 * step))
	e.start()
	var order []string
	for len(order) < 4 {
		if data := e.decode(p.next()); data["round"] == round {
			order = append(order, data["due"])
		}
	}
	require.Equal(e, []string{"first", "second", "between", "third"}, order, "order of the runs")
}

// decode returns the data of a run, whose values are strings.
func (e *env) decode(r run) (data map[string]string) {
	e.Helper()
	e.noError(r.Decode(&data))
	return data
}
