package schedule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	riverqueue "github.com/riverqueue/river"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// HashOf hashes what decides how a process inserts ticks: the schedules, options and data of its
// registrations.
func HashOf(defs []*provider.Definition) string {
	sum := sha256.New()
	for _, d := range defs {
		fmt.Fprintf(sum, "%s\x00%s\x00%d\x00%d\x00%s\x00", d.Name, d.Spec(), d.Priority, d.MaxAttempts, d.Data)
	}
	return hex.EncodeToString(sum.Sum(nil)[:12])
}

// Periodic returns a registration as a River periodic job. In the leader, River's clock calls prompt at each tick,
// and River inserts nothing. offset is how far the database's clock is ahead of the process's.
func Periodic(s jobs.Schedule, offset func() time.Duration, prompt func()) *riverqueue.PeriodicJob {
	return riverqueue.NewPeriodicJob(dbSchedule{s, offset}, func() (riverqueue.JobArgs, *riverqueue.InsertOpts) {
		prompt()
		return nil, nil
	}, nil)
}

// dbSchedule has the ticks of a schedule by the database's clock.
type dbSchedule struct {
	jobs.Schedule
	offset func() time.Duration
}

// Next implements [riverqueue.PeriodicSchedule], in the process's own time.
func (d dbSchedule) Next(t time.Time) time.Time {
	offset := d.offset()
	switch tick, err := provider.CheckedNext(d.Schedule, t.Add(offset)); {
	case err != nil:
		return t.Add(fullEvery) // the ticker reports it
	case tick.IsZero():
		return riverqueue.NeverSchedule().Next(t)
	default:
		return tick.Add(-offset)
	}
}
