package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/modules/email"
)

// flaky is a job that shows retries.
const flaky jobs.Kind[flakyArgs] = "demo.flaky"

type flakyArgs struct {
	FailTimes int `json:"fail_times"`
}

// importArgs is the data of demo.import, which shows failures. The job has one worker, so a
// long run makes its ticks overdue. It fails for good on request and at every even minute.
type importArgs struct {
	Seconds float64 `json:"seconds"` // duration of the run
	Fail    bool    `json:"fail"`
}

func runImport(ctx context.Context, job *jobs.Job) error {
	args := importArgs{Seconds: 0.2}
	if err := job.Decode(&args); err != nil {
		return err
	}
	if args.Seconds > 1 {
		job.Logger.InfoContext(ctx, "importing", "seconds", args.Seconds)
	}
	select {
	case <-time.After(time.Duration(args.Seconds * float64(time.Second))):
	case <-ctx.Done():
		return ctx.Err()
	}
	if args.Fail || !job.Tick.IsZero() && job.Tick.Truncate(2*time.Minute).Equal(job.Tick) {
		return jobs.Permanent(errors.New("on purpose, to show a job that fails without a retry: line 17: no account for eve@example.com"))
	}
	return nil
}

var mailbox = regexp.MustCompile(`[\w.+-]+@`)

// hideMailboxes removes the local part of email addresses from errors. See [jobs.Redact].
func hideMailboxes(text string) string { return mailbox.ReplaceAllString(text, "…@") }

func registerDemoJobs(r jobs.Registrar) error {
	return errors.Join(
		flaky.Register(r, func(ctx context.Context, job *jobs.Job, args flakyArgs) error {
			if job.Attempt <= args.FailTimes {
				job.Logger.WarnContext(ctx, "failing on purpose", "max_attempts", job.MaxAttempts)
				return fmt.Errorf("on purpose: attempt %d with fail_times %d", job.Attempt, args.FailTimes)
			}
			job.Logger.InfoContext(ctx, "succeeded", "failures", args.FailTimes)
			return nil
		}, jobs.RetryDelay(time.Second)),
		r.RegisterInterval("demo.heartbeat", 5*time.Second, func(ctx context.Context, job *jobs.Job) error {
			job.Logger.InfoContext(ctx, "tick", "tick", job.Tick, "late", job.Late().Round(time.Millisecond))
			return nil
		}, jobs.Timeout(5*time.Second), jobs.MaxRetries(0)),
		r.RegisterInterval("demo.import", 10*time.Second, runImport, jobs.Concurrency(1)),
	)
}

// seed inserts sample rows for every job to work on and triggers a few jobs, so that the log
// soon shows what they do. It does nothing if an earlier demo has seeded the database.
func seed(ctx context.Context, pool *pgxpool.Pool, s jobs.Scheduler, mails *email.Service, log *slog.Logger) error {
	seeded := false
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Demos that start together wait for the first one.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('everytick demo', 0))`); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM audit_entries WHERE actor LIKE 'user-%' AND action = 'login')
			OR EXISTS (SELECT FROM audit_archive WHERE actor LIKE 'user-%' AND action = 'login')`).Scan(&seeded)
		if err != nil || seeded {
			return err
		}
		for _, sql := range []string{
			`INSERT INTO audit_entries (occurred_at, actor, action, target)
				SELECT now() - n * interval '1 day', 'user-' || n % 7, 'login', 'session-' || n FROM generate_series(1, 500) AS n`,
			`INSERT INTO audit_archive (id, occurred_at, actor, action, target, detail)
				SELECT -n - (SELECT count(*) FROM audit_archive), now() - (2500 + n) * interval '1 day', 'user-' || n % 7, 'login', '', '{}'
				FROM generate_series(1, 100) AS n`,
			`INSERT INTO notifications (user_id, title, created_at, expires_at)
				SELECT 'user-' || n % 7, 'Notice ' || n, now() - n * interval '1 day', now() + (30 - n) * interval '1 day' FROM generate_series(1, 120) AS n`,
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		// The messages and the job that sends them are committed together.
		for _, to := range []string{"ann@example.com", "bob@example.com", "eve@example.com"} {
			if _, err := mails.Enqueue(ctx, tx, email.Message{To: []string{to}, Subject: "Welcome", Text: "Welcome to the demo."}); err != nil {
				return err
			}
		}
		_, err = jobs.TriggerTx(ctx, s, tx, "email.process-queue", nil)
		return err
	})
	if err != nil {
		return err
	}
	if seeded {
		log.InfoContext(ctx, "sample rows already exist from an earlier demo on this database")
		return nil
	}
	log.InfoContext(ctx, "sample rows inserted: 500 audit entries, 100 archived entries, 120 notifications, 3 email messages")

	if _, err := email.Send.Trigger(ctx, s, email.Message{To: []string{"ops@example.com"}, Subject: "The demo is up", Text: "The demo is running."},
		jobs.Delay(2*time.Second)); err != nil {
		return err
	}
	if _, err := flaky.Trigger(ctx, s, flakyArgs{FailTimes: 2}); err != nil {
		return err
	}
	if _, err := s.Trigger(ctx, "demo.import", importArgs{Seconds: 0.5, Fail: true}); err != nil {
		return err
	}
	for _, name := range []string{"audit.retention", "notifs.cleanup"} {
		if _, err := s.Trigger(ctx, name, nil, jobs.Unique("seed")); err != nil {
			return err
		}
	}
	return nil
}

// mailSink is an SMTP server in the process that logs and discards every message.
type mailSink struct {
	addr   string
	server *smtp.Server
}

func newMailSink(ctx context.Context, log *slog.Logger) (*mailSink, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("mail sink: %w", err)
	}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &mailSession{log: log}, nil }))
	server.Domain = "localhost"
	go func() { _ = server.Serve(l) }() // returns after close
	log.InfoContext(ctx, "email goes to a sink in this process; set SMTP_ADDR to send it", "addr", l.Addr().String())
	return &mailSink{l.Addr().String(), server}, nil
}

func (m *mailSink) close() { _ = m.server.Close() }

type mailSession struct {
	log *slog.Logger
	to  []string
}

func (s *mailSession) Mail(string, *smtp.MailOptions) error { return nil }

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	n, err := io.Copy(io.Discard, r)
	if err == nil {
		s.log.Info("mail sink received a message", "to", s.to, "bytes", n)
	}
	return err
}

func (s *mailSession) Reset()        { s.to = nil }
func (s *mailSession) Logout() error { return nil }
