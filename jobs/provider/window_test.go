package provider_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

func TestPrevSuccess(t *testing.T) {
	t.Parallel()
	const noon, one, two = "2025-01-01T12:00:00Z", "2025-01-01T13:00:00Z", "2025-01-01T14:00:00Z"
	for _, test := range []struct{ rule, last, tick, want string }{
		{"none has succeeded", "", noon, ""},
		{"the tick before has succeeded", noon, one, noon},
		{"the tick before has failed", noon, two, noon},
		{"the same tick is repeated", one, one, one},
		{"a later tick has succeeded", two, one, one},
		{"triggered", noon, "", ""},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, at(t, test.want), provider.PrevSuccess(at(t, test.last), at(t, test.tick)))
		})
	}
}

// windowRun is a run of a modelled schedule.
type windowRun struct {
	tick     time.Time
	waits    bool // for its first attempt
	retries  bool // waits for another attempt
	running  bool
	failed   bool // at least once
	prev     time.Time
	started  int // step in which the attempt started
	attempts int
}

// A window is that of an attempt that succeeded.
type window struct {
	from, to        time.Time
	started, stored int // steps; stored is never if the success was lost
}

const never = 1 << 30

// windowModel is a schedule as a provider keeps it, whose runs succeed, fail and repeat in any order.
type windowModel struct {
	schedule jobs.Schedule
	policy   provider.Policy
	row      provider.Row
	now      time.Time
	step     int
	runs     []*windowRun
	last     *windowRun // the latest tick
	success  time.Time  // as stored
	windows  []*window
	pending  map[*windowRun]*window // succeeded, not stored yet
	// transactional runs store their success at once, or run again if they were overtaken.
	transactional bool
}

func (m *windowModel) advance() {
	for range 1000 {
		m.row.LastJob = provider.Over
		switch {
		case m.last == nil || m.last.failed:
		case m.last.waits:
			m.row.LastJob = provider.Waiting
		case m.last.running || m.pending[m.last] != nil:
			m.row.LastJob = provider.Going
		}
		a := provider.Plan(m.schedule, m.policy, m.row, m.now)
		switch a.Action {
		case provider.Insert:
			m.last = &windowRun{tick: a.Tick, waits: true}
			m.runs = append(m.runs, m.last)
			m.row.Last, m.row.LastMissed = a.Tick, a.Missed
		case provider.Fold:
			m.last.tick, m.row.Last, m.row.LastMissed = a.Tick, a.Tick, a.Missed
		case provider.Skip:
		default:
			return
		}
		m.row.Next = a.Next
	}
}

func (m *windowModel) start(r *windowRun) {
	r.waits, r.retries, r.running = false, false, true
	r.attempts++
	r.prev, r.started = provider.PrevSuccess(m.success, r.tick), m.step
}

// succeed ends a run. Its success is stored later.
func (m *windowModel) succeed(r *windowRun) {
	r.running = false
	if m.transactional && provider.Covered(r.prev, r.tick, m.success) {
		r.retries = true
		return
	}
	w := &window{from: r.prev, to: r.tick, started: r.started, stored: never}
	m.windows = append(m.windows, w)
	m.pending[r] = w
	if m.transactional {
		m.store(r)
	}
}

func (m *windowModel) store(r *windowRun) {
	if w := m.pending[r]; w.to.After(m.success) {
		m.success = w.to
	}
	m.pending[r].stored = m.step
	delete(m.pending, r)
}

// repeat loses a success that was not stored: the process has died.
func (m *windowModel) repeat(r *windowRun) {
	delete(m.pending, r)
	r.retries, r.failed = true, true
}

func (m *windowModel) check(t require.TestingT) {
	covered := time.Time{}
	for _, w := range m.windows { // in the order in which they succeeded
		require.False(t, w.from.After(covered), "a gap from %v to %v", covered, w.from)
		require.False(t, w.from.After(w.to), "a window from %v to %v", w.from, w.to)
		if w.to.After(covered) {
			covered = w.to
		}
	}
	for i, a := range m.windows {
		for _, b := range m.windows[:i] {
			first, second := a, b
			if b.started < a.started {
				first, second = b, a
			}
			from, to := a.from, a.to
			if b.from.After(from) {
				from = b.from
			}
			if b.to.Before(to) {
				to = b.to
			}
			overlap := from.Before(to)
			require.False(t, overlap && m.transactional, "windows of transactional runs overlap from %v to %v", from, to)
			require.False(t, overlap && second.started > first.stored,
				"the window [%v, %v) was stored before [%v, %v) began", first.from, first.to, second.from, second.to)
		}
	}
}

func TestPrevSuccess_WindowsHaveNoGap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &windowModel{
			schedule: every(t, time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes"))*time.Minute),
			policy:   provider.Policy{CatchUp: jobs.CatchUpPolicy(rapid.IntRange(0, 1).Draw(t, "policy"))},
			now:      at(t, "2025-01-01T12:00:00Z"), pending: map[*windowRun]*window{},
			transactional: rapid.Bool().Draw(t, "transactional"),
		}
		m.row.Next = m.schedule.Next(m.now)
		pick := func(which func(*windowRun) bool) *windowRun {
			i := slices.IndexFunc(m.runs, which)
			if i < 0 {
				t.Skip("no such run")
			}
			found := []*windowRun{}
			for _, r := range m.runs[i:] {
				if which(r) {
					found = append(found, r)
				}
			}
			return rapid.SampledFrom(found).Draw(t, "run")
		}
		running := func(r *windowRun) bool { return r.running }
		stopped := func(r *windowRun) bool { return r.waits || r.retries }
		pending := func(r *windowRun) bool { return m.pending[r] != nil }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { m.step++; m.check(t) },
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "minutes")) * time.Minute)
				m.advance()
			},
			"an outage": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 50).Draw(t, "hours")) * time.Hour)
				m.advance()
			},
			"a pause begins or ends": func(*rapid.T) { m.policy.Paused = !m.policy.Paused },
			"start":                  func(*rapid.T) { m.start(pick(stopped)) },
			"succeed":                func(*rapid.T) { m.succeed(pick(running)) },
			"succeed and store": func(*rapid.T) {
				r := pick(running)
				m.succeed(r)
				if m.pending[r] != nil {
					m.store(r)
				}
				m.advance()
			},
			"store":              func(*rapid.T) { m.store(pick(pending)); m.advance() },
			"fail":               func(*rapid.T) { r := pick(running); r.running, r.failed, r.retries = false, true, true; m.advance() },
			"fail for good":      func(*rapid.T) { r := pick(running); r.running, r.failed = false, true; m.advance() },
			"die before storing": func(*rapid.T) { m.repeat(pick(pending)); m.advance() },
			"die during the run": func(*rapid.T) { r := pick(running); r.running, r.failed, r.retries = false, true, true; m.advance() },
		})
	})
}

func TestCovered(t *testing.T) {
	t.Parallel()
	const noon, one, two, three = "2025-01-01T12:00:00Z", "2025-01-01T13:00:00Z", "2025-01-01T14:00:00Z", "2025-01-01T15:00:00Z"
	for _, test := range []struct {
		rule, prev, tick, last string
		want                   bool
	}{
		{"none has succeeded", "", one, "", false},
		{"none since", noon, two, noon, false},
		{"the row does not have the success yet", one, two, noon, false},
		{"a part of the window", noon, two, one, true},
		{"all of it, by a later tick", noon, two, three, true},
		{"all of it, by the same tick", noon, two, two, true},
		{"the first window", "", two, one, true},
		{"an empty window", two, two, three, false},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, provider.Covered(at(t, test.prev), at(t, test.tick), at(t, test.last)))
		})
	}
}
