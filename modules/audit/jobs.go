package audit

import (
	"context"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
)

// retentionTimeout is ample for the nights. A first run on a table of many years
// may outlive it; what it has done by then stays done, and the retry goes on.
const retentionTimeout = 30 * time.Minute

// RegisterAuditJobs registers the module's job:
//
//   - audit.retention, daily at 03:00 UTC: [Service.Retain]; its counts are logged
//     as archived and purged.
func RegisterAuditJobs(r jobs.Registrar) error {
	return r.RegisterCron("audit.retention", "0 3 * * *", retain, jobs.Timeout(retentionTimeout))
}

func retain(ctx context.Context, job *jobs.Job) error {
	archived, purged, err := New(job.DB).Retain(ctx)
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn // the reason is the job's error, logged by the scheduler
	}
	job.Logger.Log(ctx, level, "audit retention", "archived", archived, "purged", purged)
	return err
}
