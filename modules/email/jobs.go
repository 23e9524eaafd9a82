package email

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
)

// Send sends one message without waiting for the queue:
//
//	id, err := email.Send.Trigger(ctx, scheduler, email.Message{…})
//
// The message is sent once, however often its job runs; see [Service.SendJob]. It is stored in the job's data, so
// anyone who can view jobs can read it. [Service.Enqueue] stores it in the outbox only.
const Send jobs.Kind[Message] = "email.send"

// processEvery is the interval of email.process-queue.
const processEvery = 30 * time.Second

// RegisterEmailJobs registers the module's jobs:
//
//   - email.process-queue, every 30 seconds: calls [Service.ProcessQueue] and logs its counts as sent, failed and
//     postponed.
//   - email.send, on demand: see [Send].
func RegisterEmailJobs(r jobs.Registrar, s *Service) error {
	if s == nil {
		return errors.New("email: RegisterEmailJobs needs a service")
	}
	return errors.Join(
		// No retries: the next tick comes soon anyway.
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
		level = slog.LevelWarn // the scheduler logs the error itself
	case res == Result{}:
		level = slog.LevelDebug
	}
	job.Logger.Log(ctx, level, "email queue processed", "sent", res.Sent, "failed", res.Failed, "postponed", res.Postponed)
	return err
}
