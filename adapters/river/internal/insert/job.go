package insert

import (
	"context"
	"time"

	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
)

// A Job is a row to insert into River's table.
type Job struct {
	// Kind is the registered name of the job.
	Kind                  string
	Queue                 string
	Priority, MaxAttempts int
	// Data is a JSON object, the row's args.
	Data []byte
	// Metadata is a JSON object. Defaults to {}.
	Metadata []byte
	// Due is when the job is due. Zero means now, by the database's clock.
	Due time.Time
	// Passed says that Due has passed by the database's clock, whatever the process's clock says.
	Passed bool
	// UniqueKey belongs to the row while it is waiting or running, and no other row may have it then. nil means none.
	UniqueKey []byte
	// Once lets UniqueKey belong to the row as long as that is stored.
	Once bool
	// ID is the row's. An insert sets it unless it was drawn before.
	ID int64
	// Found is set by an insert that found another row with the job's unique key, whose ID it has then.
	Found bool

	// copied is the estimated time of the database in a COPY, which does not support zero times; otherwise nil.
	copied *time.Time
}

// Immediate reports whether workers can fetch the job at once.
func (j *Job) Immediate() bool { return j.Due.IsZero() }

func (j *Job) size() int { return len(j.Data) + len(j.Metadata) }

// liveStates is the value of River's column unique_states for a key that belongs to waiting and running rows: all
// states except cancelled, completed and discarded.
const liveStates = 0b1111_0001

// allStates is the value for a key that belongs to the row as long as that is stored.
const allStates = 0b1111_1111

// dueSoon is how far ahead a row is stored as available. River's leader makes scheduled rows available every 5
// seconds only, by its own clock, and not at all while no leader is elected. A fetch also compares scheduled_at with
// the database's clock. River does the same for short snoozes and retries.
const dueSoon = 5 * time.Second

// args is what River's client gets as the args of a job. As a single pointer it fits in an interface without memory
// of its own.
type args struct{ job *Job }

// Kind implements [riverqueue.JobArgs].
func (a args) Kind() string {
	if a.job == nil { // River calls it on the zero value
		return ""
	}
	return a.job.Kind
}

// MarshalJSON returns the job's data.
func (a args) MarshalJSON() ([]byte, error) { return a.job.Data, nil }

// params converts jobs to the parameters of River's client.
func params(jobs []*Job) []riverqueue.InsertManyParams {
	all, opts := make([]riverqueue.InsertManyParams, len(jobs)), make([]riverqueue.InsertOpts, len(jobs))
	for i, j := range jobs {
		opts[i] = riverqueue.InsertOpts{
			MaxAttempts: j.MaxAttempts, Metadata: j.Metadata, Priority: j.Priority, Queue: j.Queue, ScheduledAt: j.Due,
		}
		all[i] = riverqueue.InsertManyParams{Args: args{j}, InsertOpts: &opts[i]}
	}
	return all
}

// Hook sets what River's options cannot: the unique key, an ID that was drawn before, and times by the database's
// clock. River uses the clock of the process, by which a job that is due now could become due in an hour. The hook
// must come after the user's hooks.
type Hook struct {
	riverqueue.HookDefaults
	Clock *dbclock.Clock
}

var zeroTime time.Time

// InsertBegin implements [rivertype.HookInsertBegin].
func (h *Hook) InsertBegin(_ context.Context, p *rivertype.JobInsertParams) error {
	a, ours := p.Args.(args) // others use River's client directly
	now := &zeroTime         // means the database's now()
	switch {
	case !ours:
		t := h.Clock.Estimate()
		now = &t
	case a.job.copied != nil:
		now = a.job.copied
	}
	if p.CreatedAt == nil {
		p.CreatedAt = now
	}
	switch {
	case p.ScheduledAt == nil:
		p.ScheduledAt = now
	case p.State == rivertype.JobStateScheduled &&
		(ours && a.job.Passed || p.ScheduledAt.Sub(h.Clock.Estimate()) <= dueSoon):
		p.State = rivertype.JobStateAvailable
	}
	if !ours {
		return nil
	}
	if a.job.ID != 0 && a.job.copied == nil {
		p.ID = &a.job.ID
	}
	if a.job.UniqueKey != nil {
		if p.UniqueKey, p.UniqueStates = a.job.UniqueKey, liveStates; a.job.Once {
			p.UniqueStates = allStates
		}
	}
	return nil
}
