package email

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
)

// Send sends one mail without waiting for the queue:
//
//	id, err := email.Send.Trigger(ctx, scheduler, email.Message{…})
//
// However often its job is run, the mail is sent once; see [Service.SendJob]. The
// message is then part of the job's data, which whoever may look at the jobs can
// read. [Service.Enqueue] keeps it to the outbox.
const Send jobs.Kind[Message] = "email.send"

// processEvery is the interval of the job that sends what is in the outbox.
const processEvery = 30 * time.Second

// RegisterEmailJobs registers the module's jobs:
//
//   - email.process-queue, every 30 seconds: [Service.ProcessQueue]; its counts are
//     logged as sent, failed and postponed.
//   - email.send, on demand: see [Send].
func RegisterEmailJobs(r jobs.Registrar, s *Service) error {
	if s == nil {
		return errors.New("email: RegisterEmailJobs needs a service")
	}
	return errors.Join(
		// No retries: the next tick is soon enough, and would come on top of them.
		r.RegisterInterval("email.process-queue", processEvery, s.processQueue, jobs.MaxRetries(0), jobs.Timeout(lease)),
		Send.Register(r, func(ctx context.Context, job *jobs.Job, m Message) error {
			return s.SendJob(ctx, job.DB, job.Logger, job.ID, m)
		}, jobs.Timeout(lease)),
	)
}

func (s *Service) processQueue(ctx context.Context, job *jobs.Job) error {
	res, err := s.ProcessQueue(ctx, job.DB, job.Logger)
	level := slog.LevelInfo
	switch {
	case err != nil:
		level = slog.LevelWarn // the reason is the job's error, logged by the scheduler
	case res == Result{}:
		level = slog.LevelDebug
	}
	job.Logger.Log(ctx, level, "email queue processed", "sent", res.Sent, "failed", res.Failed, "postponed", res.Postponed)
	return err
}
