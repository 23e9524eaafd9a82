package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"
)

// A Process is what a process says of itself.
type Process struct {
	ID            string // River's client ID
	Host          string
	PID           int
	Version       string // of the program
	Registrations string // hash of all its registrations
	Jobs          []string
	Workers, Busy int
}

// A Beat is what others see of a process.
type Beat struct {
	ID            string
	Count         int64 // increases while the process lives; 0 once it has stopped
	Registrations string
}

// Beat stores that a process lives, and returns all there are, with the database's time.
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

// CountLiveProcesses counts the processes that were seen within that time, for what need not be exact.
func (s *Store) CountLiveProcesses(ctx context.Context, db DB, within time.Duration) (int, error) {
	return one[int](ctx, s, db, "CountLiveProcesses", within.Seconds())
}

// RecentRegistrations returns the registrations of the processes that have not stopped and were seen within that time.
func (s *Store) RecentRegistrations(ctx context.Context, db DB, within time.Duration) ([]string, error) {
	return collect(ctx, s, db, "RecentRegistrations", pgx.RowTo[string], within.Seconds())
}

// EndProcess stores that a process has stopped.
func (s *Store) EndProcess(ctx context.Context, db DB, id string) error {
	_, err := s.exec(ctx, db, "EndProcess", id)
	return err
}

// ForgetProcesses deletes processes that stopped an hour ago, or were last seen a day ago.
func (s *Store) ForgetProcesses(ctx context.Context, db DB) error {
	_, err := s.exec(ctx, db, "ForgetProcesses")
	return err
}

// A Rescuable is a name whose jobs are rescued.
type Rescuable struct {
	Name, Queue string
	RetryDelay  time.Duration
	// After is how long after it began an attempt of a process without a heartbeat is given up.
	After time.Duration
}

// A Rescued is a job whose process is dead.
type Rescued struct {
	ID                   int64
	Name                 string
	State                rivertype.JobState // available, cancelled, or discarded after its last attempt
	Attempt, MaxAttempts int
}

// Rescue gives jobs of these names whose process is among the dead, or has no heartbeat and is silent for too
// long, another attempt, with that error. They wait as after a failure.
func (s *Store) Rescue(ctx context.Context, db DB, own []Rescuable, dead []string, reason string) ([]Rescued, error) {
	var names, queues []string
	var delay, after []float64
	for _, r := range own {
		names, queues = append(names, r.Name), append(queues, r.Queue)
		delay, after = append(delay, r.RetryDelay.Seconds()), append(after, r.After.Seconds())
	}
	if dead == nil {
		dead = []string{}
	}
	return collect(ctx, s, db, "Rescue", pgx.RowToStructByPos[Rescued], names, queues, delay, after, PausedQueue, dead, reason)
}
