package audit

import (
	"context"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
)

// retentionTimeout is ample for a daily run. A first run on a table of many years may exceed it; finished batches
// stay committed, and the retry continues with the rest.
const retentionTimeout = 30 * time.Minute

// RegisterAuditJobs registers the module's job:
//
//   - audit.retention, daily at 03:00 UTC: calls [Service.Retain] and logs its counts as archived and purged.
func RegisterAuditJobs(r jobs.Registrar) error {
	return r.RegisterCron("audit.retention", "0 3 * * *", retain, jobs.Timeout(retentionTimeout))
}

func retain(ctx context.Context, job *jobs.Job) error {
	archived, purged, err := New(job.DB).Retain(ctx)
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn // the scheduler logs the error itself
	}
	job.Logger.Log(ctx, level, "audit retention", "archived", archived, "purged", purged)
	return err
}
