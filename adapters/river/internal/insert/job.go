// Package insert puts jobs into River's table, through River's client alone, so that River encodes,
// validates, runs hooks and insert middleware, and stores.
//
// Callers that insert at the same time share one INSERT, as package batch gathers them. A failure that proves
// that nothing was stored is taken apart until the job that caused it is found. After any other, each caller
// is told that its job may be stored or not, and no job is inserted again.
package insert

import (
	"context"
	"time"

	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
)

// A Job is what is put into River's table.
type Job struct {
	// Kind is the registered name of the job.
	Kind                  string
	Queue                 string
	Priority, MaxAttempts int
	// Data is a JSON object, the row's args.
	Data []byte
	// Metadata is a JSON object. Defaults to {}.
	Metadata []byte
	// Due is when the job is due; zero means now, by the database's clock.
	Due time.Time
	// Passed says that Due has passed by the database's clock, whatever ours says.
	Passed bool
	// UniqueKey is the row's, held while the job has a run before it or in progress. nil means none.
	UniqueKey []byte
	// ID is the row's. It is set once the job is inserted, unless it was drawn before.
	ID int64

	found bool // the row was there already, of the same unique key
}

// Immediate reports whether workers can take the job at once.
func (j *Job) Immediate() bool { return j.Due.IsZero() }

// liveStates are those in which a job has a run before it or in progress, all but cancelled, completed and
// discarded, as River's column unique_states has them.
const liveStates = 0b1111_0001

// The leader makes scheduled rows available when they are due, but does so only every 5 seconds, by its own
// clock, and not while none is elected. The fetch itself looks at the time too, by the database's clock, so
// a row that is due sooner is stored as available. River does the same for short snoozes and retries.
const dueSoon = 5 * time.Second

// args are the args of a job to River's client.
type args struct {
	job *Job
	// now is the database's time, as estimated, for a COPY, which takes no zero times; otherwise nil.
	now *time.Time
}

// Kind implements [riverqueue.JobArgs].
func (a args) Kind() string {
	if a.job == nil { // River asks of a zero value
		return ""
	}
	return a.job.Kind
}

// MarshalJSON returns the job's data.
func (a args) MarshalJSON() ([]byte, error) { return a.job.Data, nil }

// params says in River's terms what jobs say in ours.
func params(jobs []*Job, now *time.Time) []riverqueue.InsertManyParams {
	all := make([]riverqueue.InsertManyParams, len(jobs))
	var opts *riverqueue.InsertOpts
	for i, j := range jobs {
		if i == 0 || !j.hasOptionsOf(jobs[i-1]) { // most have
			opts = &riverqueue.InsertOpts{
				MaxAttempts: j.MaxAttempts, Metadata: j.Metadata, Priority: j.Priority, Queue: j.Queue, ScheduledAt: j.Due,
			}
		}
		all[i] = riverqueue.InsertManyParams{Args: args{j, now}, InsertOpts: opts}
	}
	return all
}

func (j *Job) hasOptionsOf(o *Job) bool {
	return j.Metadata == nil && o.Metadata == nil && j.Queue == o.Queue && j.Priority == o.Priority && j.MaxAttempts == o.MaxAttempts && j.Due.Equal(o.Due)
}

// Hook sets what River's options cannot: the key of a unique job, the ID where it was drawn before, and the
// clock. River stamps rows with the process's, by which a job that is due now could be due in an hour. It
// has to come after the user's hooks.
type Hook struct {
	riverqueue.HookDefaults
	Clock *dbclock.Clock
}

var zeroTime time.Time

// InsertBegin implements [rivertype.HookInsertBegin].
func (h *Hook) InsertBegin(_ context.Context, p *rivertype.JobInsertParams) error {
	a, ours := p.Args.(args)
	now := &zeroTime // the database's now()
	switch {
	case !ours:
		t := h.Clock.Estimate()
		now = &t
	case a.now != nil:
		now = a.now
	}
	if p.CreatedAt == nil {
		p.CreatedAt = now
	}
	switch {
	case p.ScheduledAt == nil:
		p.ScheduledAt = now
	case p.State == rivertype.JobStateScheduled && (ours && a.job.Passed || p.ScheduledAt.Sub(h.Clock.Estimate()) <= dueSoon):
		p.State = rivertype.JobStateAvailable
	}
	if !ours {
		return nil // of somebody who uses River's client itself
	}
	if a.job.ID != 0 && a.now == nil {
		p.ID = &a.job.ID
	}
	if a.job.UniqueKey != nil {
		p.UniqueKey, p.UniqueStates = a.job.UniqueKey, liveStates
	}
	return nil
}
