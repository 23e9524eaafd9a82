package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/jobs"
)

// A Process is what a process stores about itself.
type Process struct {
	ID            string // River's client ID
	Host          string
	PID           int
	Version       string // of the program
	Registrations string // hash of all its registrations
	Jobs          []string
	Workers, Busy int
}

// A Beat is what other processes see of a process.
type Beat struct {
	ID            string
	Count         int64 // increases while the process lives; 0 once it has stopped
	Registrations string
}

// Beat stores a heartbeat of p and returns those of all processes, with the database's time.
func (s *Store) Beat(ctx context.Context, conn *pgx.Conn, p Process) (all []Beat, now time.Time, err error) {
	var batch pgx.Batch
	batch.Queue(s.sql("Beat"), p.ID, p.Host, p.PID, p.Version, p.Registrations, p.Jobs, p.Workers, p.Busy)
	batch.Queue(s.sql("Processes")).Query(func(rows pgx.Rows) error {
		var b Beat
		_, err := pgx.ForEachRow(rows, []any{&b.ID, &b.Count, &b.Registrations, (*instant)(&now)}, func() error {
			all = append(all, b)
			return nil
		})
		return err
	})
	err = conn.SendBatch(ctx, &batch).Close()
	return all, now, err
}

// ListProcesses returns the processes that have not stopped, ordered by start. A process is alive if it was last seen
// within the given time, by the database's clock.
func (s *Store) ListProcesses(ctx context.Context, db DB, within time.Duration) ([]jobs.Process, error) {
	return collect(ctx, s, db, "ListProcesses", func(row pgx.CollectableRow) (p jobs.Process, err error) {
		err = row.Scan(&p.ID, &p.Host, &p.PID, &p.Version, (*instant)(&p.StartedAt), (*instant)(&p.SeenAt), &p.Alive,
			&p.Leader, &p.Jobs, &p.Workers, &p.Busy)
		return p, err
	}, within.Seconds())
}

// RecentRegistrations returns the registrations of each process that has not stopped and was last seen within the given
// time, by the database's clock. This is good enough for tuning, but does not decide which processes are dead.
func (s *Store) RecentRegistrations(ctx context.Context, db DB, within time.Duration) ([]string, error) {
	return collect(ctx, s, db, "RecentRegistrations", pgx.RowTo[string], within.Seconds())
}

// EndProcess marks a process as stopped.
func (s *Store) EndProcess(ctx context.Context, db DB, id string) error {
	return s.exec(ctx, db, "EndProcess", id)
}

// ForgetProcesses deletes processes that stopped an hour ago or were last seen a day ago.
func (s *Store) ForgetProcesses(ctx context.Context, db DB) error {
	return s.exec(ctx, db, "ForgetProcesses")
}

// A Rescuable is a job whose runs are rescued.
type Rescuable struct {
	Name, Queue string
	RetryDelay  time.Duration
	// After is the age at which an attempt of a process without a heartbeat is rescued.
	After time.Duration
	// MaxAttempts is that of the registration, for runs whose inserter did not know it.
	MaxAttempts int
	// OnFailed says that a run that fails for good is noted, as by [Store.NoteFailed].
	OnFailed bool
}

// A Rescued is a run whose process died.
type Rescued struct {
	ID                   int64
	Name                 string
	State                rivertype.JobState // available, cancelled, or discarded after its last attempt
	Attempt, MaxAttempts int
}

// Rescue gives runs of these jobs another attempt if their process is in dead, or has no heartbeat and took longer
// than [Rescuable].After. The attempt fails with reason, and the next one waits as after any failure.
func (s *Store) Rescue(ctx context.Context, db DB, own []Rescuable, dead []string, reason string) ([]Rescued, error) {
	var names, queues []string
	var delay, after []float64
	var onFailed []bool
	var attempts []int
	for _, r := range own {
		names, queues = append(names, r.Name), append(queues, r.Queue)
		delay, after = append(delay, r.RetryDelay.Seconds()), append(after, r.After.Seconds())
		onFailed, attempts = append(onFailed, r.OnFailed), append(attempts, r.MaxAttempts)
	}
	if dead == nil {
		dead = []string{} // nil would be NULL
	}
	return collect(ctx, s, db, "Rescue", pgx.RowToStructByPos[Rescued],
		names, queues, delay, after, PausedQueue, dead, reason, onFailed, attempts)
}
