package notifs

import (
	"context"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
)

// RegisterNotifsJobs registers the module's job:
//
//   - notifs.cleanup, every hour: calls [Service.CleanUp] and logs its count as deleted.
func RegisterNotifsJobs(r jobs.Registrar) error {
	return r.RegisterInterval("notifs.cleanup", time.Hour, cleanUp)
}

func cleanUp(ctx context.Context, job *jobs.Job) error {
	deleted, err := New(job.DB).CleanUp(ctx)
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn // the scheduler logs the error itself
	}
	job.Logger.Log(ctx, level, "notifications cleaned up", "deleted", deleted)
	return err
}
