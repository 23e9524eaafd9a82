package work

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertest"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/migrate"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// migrated is a database with River's tables, copied for each test.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := migrate.New(pool, store.New("river"), nil)
	if err != nil {
		return err
	}
	return m.Run(ctx)
})

// newWorker returns the worker of a job "a.job" in queue "home", in a process that is not in doubt.
func newWorker(t testing.TB, pool *pgxpool.Pool, h jobs.Handler, opts ...jobs.Option) *Worker {
	t.Helper()
	reg, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, reg.RegisterInterval("a.job", time.Hour, h, opts...))
	d, err := reg.Job("a.job")
	require.NoError(t, err)
	return &Worker{job: d, queue: "home", slots: &Slots{N: 1}, env: &Env{
		Store: store.New("river"), Log: slog.New(slog.DiscardHandler), App: pool, Own: pool, Client: "self",
		Paused:    func(string) bool { return false },
		Suspect:   func(time.Time) bool { return false },
		Succeeded: func(string, time.Time) {},
		Stopping:  make(chan struct{}),
	}}
}

// insertRow inserts a job of which attempts have been made already, and returns its ID.
func insertRow(t testing.TB, pool *pgxpool.Pool, state, metadata string, attempts int) (id int64) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `INSERT INTO river.river_job (kind, args, state, queue, metadata, attempt, max_attempts, attempted_by, scheduled_at)
		VALUES ('a.job', '{"n": 1}', $1, 'home', $2, $3, 3, array['self'], '2026-01-02 03:04:05Z') RETURNING id`, state, metadata, attempts).Scan(&id))
	return id
}

func TestWork_SaysInRiversTermsWhatFollows(t *testing.T) {
	t.Parallel()
	failed := errors.New("it failed")
	const tick = `{"everytick_tick": "2026-01-02T03:04:05Z", "everytick_missed": 2}`
	for _, test := range []struct {
		name     string
		metadata string // {} unless set
		attempts int
		opts     []jobs.Option
		handler  func(job *jobs.Job) error
		ran      bool
		event    riverqueue.EventKind
		state    rivertype.JobState
		says     string // the last error
	}{
		{name: "done", ran: true, event: riverqueue.EventKindJobCompleted, state: rivertype.JobStateCompleted},
		{
			name: "a tick that is done", metadata: tick, ran: true,
			handler: func(job *jobs.Job) error {
				if job.Missed != 2 || !job.Tick.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || string(job.Data) != `{"n": 1}` {
					return errors.New("it is another tick")
				}
				return nil
			},
			event: riverqueue.EventKindJobCompleted, state: rivertype.JobStateCompleted,
		},
		{
			name: "failed", handler: func(*jobs.Job) error { return failed }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateRetryable, says: "it failed",
		},
		{
			name: "failed at the last attempt", attempts: 2, handler: func(*jobs.Job) error { return failed }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateDiscarded, says: "it failed",
		},
		{
			name: "failed for good", handler: func(*jobs.Job) error { return jobs.Permanent(failed) }, ran: true,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "it failed",
		},
		{
			name: "panicked", handler: func(*jobs.Job) error { panic("help") }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateRetryable, says: "work_test.go",
		},
		{
			name: "an error that PostgreSQL could not store", handler: func(*jobs.Job) error { return errors.New("a\x00b") }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateRetryable, says: `a\x00b`,
		},
		{
			name: "metadata that does not decode", metadata: `{"everytick_missed": "many"}`,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "metadata does not decode",
		},
		{
			name: "a tick that does not decode", metadata: `{"everytick_tick": "tomorrow"}`,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "tick does not decode",
		},
		{
			name: "a tick of an older form", metadata: `{"everytick_tick": true}`,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "skipped: the tick was stored by an older version",
		},
		{
			name: "a tick too late", metadata: tick, opts: []jobs.Option{jobs.StartWithin(time.Minute)},
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "allowed is a start within 1m0s",
		},
		{
			name: "a tick that began in time, and was interrupted", opts: []jobs.Option{jobs.StartWithin(time.Minute)},
			metadata: `{"everytick_tick": "2026-01-02T03:04:05Z", "everytick_started": true}`, ran: true,
			event: riverqueue.EventKindJobCompleted, state: rivertype.JobStateCompleted,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			metadata := test.metadata
			if metadata == "" {
				metadata = `{}`
			}
			id := insertRow(t, pool, "available", metadata, test.attempts)
			ran := false
			w := newWorker(t, pool, func(_ context.Context, job *jobs.Job) error {
				ran = true
				if test.handler == nil {
					return nil
				}
				return test.handler(job)
			}, append(test.opts, jobs.RetryDelay(time.Hour))...)
			var succeeded time.Time
			w.env.Succeeded = func(_ string, tick time.Time) { succeeded = tick }

			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			cfg := &riverqueue.Config{Schema: "river", ID: "self", JobTimeout: -1, Logger: w.env.Log}
			result, _ := rivertest.NewWorker(t, riverpgxv5.New(pool), cfg, w).WorkJob(t.Context(), t, tx, &rivertype.JobRow{ID: id, Attempt: test.attempts})
			require.NoError(t, tx.Rollback(t.Context()))

			require.Equal(t, test.ran, ran)
			require.Equal(t, test.event, result.EventKind)
			require.Equal(t, test.state, result.Job.State)
			require.Zero(t, w.slots.Taken())
			says := ""
			if n := len(result.Job.Errors); n > 0 {
				says = result.Job.Errors[n-1].Error + result.Job.Errors[n-1].Trace
			}
			require.Contains(t, says, test.says)
			require.Equal(t, test.metadata != "" && test.ran, !succeeded.IsZero(), "the success of a tick is noted")
		})
	}
}

func TestNextRetry(t *testing.T) {
	t.Parallel()
	w := newWorker(t, nil, func(context.Context, *jobs.Job) error { return nil }, jobs.RetryDelay(time.Hour))
	in := func(args Args) time.Duration {
		job := &riverqueue.Job[Args]{JobRow: &rivertype.JobRow{Attempt: 2}, Args: args}
		return time.Until(w.NextRetry(job)).Round(time.Minute)
	}
	require.Equal(t, 2*time.Hour, in(Args{}), "doubled after the second attempt")
	minute := time.Minute
	require.Equal(t, time.Minute, in(Args{&rowData{retryAfter: &minute}}), "as the handler said")
}

func TestPlace(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		queue        string
		paused, open bool
		attempt      int
		wantQueue    string
		wantAttempts int
		givenBack    bool
	}{
		{name: "where it belongs", queue: "home", attempt: 1, wantQueue: "home", wantAttempts: 3},
		{name: "in another queue", queue: "elsewhere", attempt: 1, wantQueue: "home", wantAttempts: 3, givenBack: true},
		{name: "paused", queue: "home", paused: true, attempt: 1, wantQueue: store.PausedQueue, wantAttempts: 3, givenBack: true},
		{name: "inserted by one who does not know its attempts", queue: "home", open: true, attempt: 1, wantQueue: "home", wantAttempts: 8},
		{name: "the same, later", queue: "home", open: true, attempt: 2, wantQueue: "home", wantAttempts: 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			id := insertRow(t, pool, "running", `{}`, test.attempt)
			_, err := pool.Exec(t.Context(), `UPDATE river.river_job SET queue = $1`, test.queue)
			require.NoError(t, err)
			w := newWorker(t, pool, func(context.Context, *jobs.Job) error { return nil }, jobs.MaxRetries(7))
			w.env.Paused = func(string) bool { return test.paused }
			a := &attempt{
				Worker: w, meta: Meta{Open: test.open}, run: &jobs.Job{},
				row: &rivertype.JobRow{ID: id, Queue: test.queue, Attempt: test.attempt, MaxAttempts: 3, ScheduledAt: time.Now().Add(time.Hour)},
			}
			err = a.place(t.Context())
			if test.givenBack {
				var snooze *riverqueue.JobSnoozeError
				require.ErrorAs(t, err, &snooze)
				require.LessOrEqual(t, snooze.Duration, time.Duration(0), "it is due, whatever this process's clock says")
			} else {
				require.NoError(t, err)
			}
			var (
				queue    string
				attempts int
			)
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT queue, max_attempts FROM river.river_job`).Scan(&queue, &attempts))
			require.Equal(t, test.wantQueue, queue)
			require.Equal(t, test.wantAttempts, attempts)
		})
	}
}

func TestOwn(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	id := insertRow(t, pool, "running", `{}`, 2)
	w := newWorker(t, pool, func(context.Context, *jobs.Job) error { return nil })
	failed := errors.New("it failed")
	began := time.Now()
	own := func(attemptNumber int) error {
		a := &attempt{Worker: w, row: &rivertype.JobRow{ID: id, Attempt: attemptNumber}, began: began}
		return a.own(t.Context(), failed)
	}
	require.Equal(t, failed, own(1), "nobody doubts it")
	w.env.Suspect = func(since time.Time) bool { return since.Equal(began) }
	require.Equal(t, failed, own(2), "it is this process's still")
	require.Equal(t, notOurs{}, own(1), "another attempt goes on")
	w.env.Client = "another"
	require.Equal(t, notOurs{}, own(2), "another process has it")
}
