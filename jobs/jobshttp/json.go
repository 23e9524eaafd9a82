package jobshttp

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
)

// The JSON forms of the types of package jobs. Durations are in seconds. Optional fields are omitted if zero.

type healthJSON struct {
	Healthy       bool               `json:"healthy"`
	Reasons       []reasonJSON       `json:"reasons,omitempty"`
	Started       bool               `json:"started"`
	OldestWaiting float64            `json:"oldest_waiting_seconds"`
	Totals        map[jobs.State]int `json:"totals,omitempty"`
	AtLeast       []jobs.State       `json:"at_least,omitempty"` // states with possibly more jobs than totals counts
}

type reasonJSON struct {
	Job  string `json:"job,omitempty"`
	Text string `json:"text"`
}

func healthOf(h jobs.Health) healthJSON {
	out := healthJSON{Healthy: h.Healthy, Started: h.Started, OldestWaiting: h.OldestWaiting.Seconds()}
	out.Totals = map[jobs.State]int{}
	for _, r := range h.Reasons {
		out.Reasons = append(out.Reasons, reasonJSON(r))
	}
	for state, count := range h.Totals {
		out.Totals[state] = count.N
		if count.AtLeast {
			out.AtLeast = append(out.AtLeast, state)
		}
	}
	slices.Sort(out.AtLeast)
	return out
}

type statusJSON struct {
	Name          string       `json:"name"`
	Schedule      string       `json:"schedule"`
	Zone          string       `json:"zone,omitempty"`
	PrevTick      time.Time    `json:"previous_tick,omitzero"`
	PrevState     jobs.State   `json:"previous_state,omitempty"`
	Missed        int          `json:"missed,omitempty"`
	LastSuccess   time.Time    `json:"last_success,omitzero"`
	NextTick      time.Time    `json:"next_tick,omitzero"`
	Upcoming      []time.Time  `json:"upcoming,omitempty"`
	OverdueBy     float64      `json:"overdue_seconds,omitzero"`
	OverdueReason string       `json:"overdue_reason,omitempty"`
	PausedSince   time.Time    `json:"paused_since,omitzero"`
	Waiting       int          `json:"waiting"`
	Running       int          `json:"running"`
	Retrying      int          `json:"retrying"`
	Options       *optionsJSON `json:"options,omitempty"` // nil if the scheduler does not report them
}

type optionsJSON struct {
	MaxAttempts int     `json:"max_attempts"`
	RetryDelay  float64 `json:"retry_delay_seconds"`
	Timeout     float64 `json:"timeout_seconds"`
	Priority    int     `json:"priority"`
	Concurrency int     `json:"concurrency,omitempty"`
	CatchUp     string  `json:"catch_up"`
	Overlap     string  `json:"overlap"`
	StartWithin float64 `json:"start_within_seconds,omitzero"`
	InTx        bool    `json:"transactional,omitempty"`
}

func optionsJSONOf(o jobs.JobOptions) *optionsJSON {
	if o.MaxAttempts == 0 {
		return nil
	}
	catchUp := map[jobs.CatchUpPolicy]string{jobs.CatchUpOnce: "once", jobs.CatchUpAll: "all"}
	overlap := map[jobs.OverlapPolicy]string{jobs.OverlapAllow: "allow", jobs.OverlapSkip: "skip"}
	return &optionsJSON{
		o.MaxAttempts, o.RetryDelay.Seconds(), o.Timeout.Seconds(), o.Priority, o.Concurrency,
		catchUp[o.CatchUp], overlap[o.Overlap], o.StartWithin.Seconds(), o.Transactional,
	}
}

func statusOf(s jobs.Status) statusJSON {
	return statusJSON{
		s.Name, s.Schedule, s.Zone, s.PrevTick, s.PrevState, s.Missed, s.LastSuccess, s.NextTick, s.Upcoming,
		s.OverdueBy.Seconds(), s.OverdueReason, s.PausedSince, s.Waiting, s.Running, s.Retrying, optionsJSONOf(s.Options),
	}
}

type runJSON struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	State        jobs.State      `json:"state"`
	Tick         time.Time       `json:"tick,omitzero"`
	Attempt      int             `json:"attempt"`
	MaxAttempts  int             `json:"max_attempts"`
	CreatedAt    time.Time       `json:"created_at,omitzero"`
	DueAt        time.Time       `json:"due_at,omitzero"`
	StartedAt    time.Time       `json:"started_at,omitzero"`
	EndedAt      time.Time       `json:"ended_at,omitzero"`
	CancelledAt  time.Time       `json:"cancelled_at,omitzero"`
	Error        string          `json:"error,omitempty"`
	Errors       []errorJSON     `json:"errors,omitempty"`
	Omitted      int             `json:"errors_omitted,omitempty"` // earlier errors that Errors lacks
	Process      string          `json:"process,omitempty"`
	Snoozes      int             `json:"snoozes,omitempty"`
	SnoozeReason string          `json:"snooze_reason,omitempty"`
	Output       json.RawMessage `json:"output,omitempty"`
	Data         json.RawMessage `json:"data,omitempty"`
}

type errorJSON struct {
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Text    string    `json:"text"`
}

// maxErrors is the most bytes of the errors of one run.
const maxErrors = 1 << 20

func runOf(r jobs.Run) runJSON {
	first, size := len(r.Errors), 0
	for first > 0 && size+len(r.Errors[first-1].Text) <= maxErrors {
		first--
		size += len(r.Errors[first].Text)
	}
	var errs []errorJSON
	for _, e := range r.Errors[first:] {
		errs = append(errs, errorJSON(e))
	}
	return runJSON{
		r.ID, r.Name, r.State, r.Tick, r.Attempt, r.MaxAttempts,
		r.CreatedAt, r.DueAt, r.StartedAt, r.EndedAt, r.CancelledAt, r.Error, errs, first, r.Process,
		r.Snoozes, r.SnoozeReason, r.Output, r.Data,
	}
}

// maxRunsBytes bounds a list of runs in an answer. A single run may be larger.
const maxRunsBytes = 4 << 20

// fitting returns how many of the first runs fit into an answer, at least one if there are any.
func fitting(runs []runJSON) int {
	size := 0
	for i, run := range runs {
		body, _ := json.MarshalIndent(run, "    ", "  ") // the answer reports an error
		if size += len(body); i > 0 && size > maxRunsBytes {
			return i
		}
	}
	return len(runs)
}

type processJSON struct {
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Version   string    `json:"version,omitempty"`
	StartedAt time.Time `json:"started_at"`
	SeenAt    time.Time `json:"seen_at"`
	Alive     bool      `json:"alive"`
	Leader    bool      `json:"leader"`
	Self      bool      `json:"self"`
	Jobs      []string  `json:"jobs"`
	Workers   int       `json:"workers"`
	Busy      int       `json:"busy"`
}

func processOf(p jobs.Process) processJSON {
	return processJSON{
		p.ID, p.Host, p.PID, p.Version, p.StartedAt, p.SeenAt, p.Alive, p.Leader, p.Self, append([]string{}, p.Jobs...),
		p.Workers, p.Busy,
	}
}

type activityJSON struct {
	Start         time.Time                 `json:"start"`
	Step          float64                   `json:"step_seconds"`
	CompleteSince time.Time                 `json:"complete_since"`
	Jobs          map[string][]outcomesJSON `json:"jobs"`
}

type outcomesJSON struct {
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	Other     int `json:"other"`
}

func activityOf(a jobs.Activity) activityJSON {
	out := activityJSON{a.Start, a.Step.Seconds(), a.CompleteSince, map[string][]outcomesJSON{}}
	for name, steps := range a.Jobs {
		out.Jobs[name] = each(steps, func(o jobs.Outcomes) outcomesJSON { return outcomesJSON(o) })
	}
	return out
}

// each applies form to all elements. Unlike a nil slice, its result is never null in JSON.
func each[T, J any](all []T, form func(T) J) []J {
	out := make([]J, len(all))
	for i, v := range all {
		out[i] = form(v)
	}
	return out
}
