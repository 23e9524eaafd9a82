package process

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

var errDead = errors.New("the process that ran the job is dead")

// SilentAfter is how long after its timeout an attempt of a process without a heartbeat is rescued.
const SilentAfter = 5 * time.Minute

// Rescue gives runs of dead processes another attempt and logs the results. It returns the number of rescued runs.
func Rescue(
	ctx context.Context, s *store.Store, db store.DB, log *slog.Logger, own []store.Rescuable, dead []string,
) (int, error) {
	rescued, err := s.Rescue(ctx, db, own, dead, errDead.Error())
	again := map[string]int{}
	for _, r := range rescued {
		log := log.With("job", r.Name, "job_id", strconv.FormatInt(r.ID, 10), "attempt", r.Attempt)
		switch r.State {
		case rivertype.JobStateDiscarded:
			log.ErrorContext(ctx, "job failed for good", "error", errDead, "max_attempts", r.MaxAttempts)
		case rivertype.JobStateCancelled:
			log.WarnContext(ctx, "job was cancelled", "error", errDead)
		default:
			again[r.Name]++
		}
	}
	for name, n := range again {
		log.WarnContext(ctx, "jobs of a dead process get another attempt", "job", name, "jobs", n)
	}
	return len(rescued), err
}
