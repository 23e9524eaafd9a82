package river

import (
	"context"

	riverqueue "github.com/riverqueue/river"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// setRetention sets how long River keeps jobs. River knows one period for all that we call cancelled, skipped, or failed
// by a permanent error; those to be deleted sooner are deleted by sweeps.
func (c *Config) setRetention(cfg *riverqueue.Config) {
	cfg.CompletedJobRetentionPeriod = c.Retention
	cfg.DiscardedJobRetentionPeriod = c.FailedRetention
	cfg.CancelledJobRetentionPeriod = max(c.Retention, c.FailedRetention)
}

// retain returns a maintenance step that deletes what River keeps too long.
func (s *Scheduler) retain(ss *session) step {
	skipped := s.cfg.Retention < s.cfg.FailedRetention // otherwise the others, if they are to be deleted sooner
	sweep, age, names := &store.Sweep{Skipped: skipped}, min(s.cfg.Retention, s.cfg.FailedRetention), namesOf(s.reg.Jobs())
	return step{"retention", func(ctx context.Context) error { return sweep.Run(ctx, s.store, ss.pool, names, age) }}
}
