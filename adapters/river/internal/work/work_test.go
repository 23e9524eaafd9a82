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

	"github.com/everytick/everytick/adapters/river/internal/flow"
	"github.com/everytick/everytick/adapters/river/internal/migrate"
	"github.com/everytick/everytick/adapters/river/internal/queues"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// migrated provides each test with a migrated database.
var migrated = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := migrate.New(pool, store.New("river"), nil)
	if err != nil {
		return err
	}
	return m.Run(ctx)
})

// newWorker returns the worker of job "a.job" in queue "home", in a process that nobody takes for dead.
func newWorker(t testing.TB, pool *pgxpool.Pool, h jobs.Handler, opts ...jobs.Option) *worker {
	t.Helper()
	reg, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, reg.RegisterInterval("a.job", time.Hour, h, opts...))
	d, err := reg.Job("a.job")
	require.NoError(t, err)
	return &worker{job: d, queue: "home", slots: &queues.Slots{N: 1}, env: &Env{
		Store: store.New("river"), Log: slog.New(slog.DiscardHandler), App: pool, Own: pool, Client: "self",
		Paused:    func(string) bool { return false },
		Suspect:   func(time.Time) bool { return false },
		Succeeded: func(string, time.Time) {}, LastSuccess: func(context.Context, string) (time.Time, error) { return time.Time{}, nil },
		Ended:    func(int64, int, flow.Report) {},
		Refused:  func(error) {},
		Stopping: make(chan struct{}),
		Going:    NewGoing(),
	}}
}

// insertRow inserts a run with a number of earlier attempts and returns its ID.
func insertRow(t testing.TB, pool *pgxpool.Pool, state, metadata string, attempts int) (id int64) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `INSERT INTO river.river_job (kind, args, state, queue, metadata, attempt, max_attempts, attempted_by, scheduled_at)
		VALUES ('a.job', '{"n": 1}', $1, 'home', $2, $3, 3, array['self'], '2026-01-02 03:04:05Z') RETURNING id`, state, metadata, attempts).Scan(&id))
	return id
}

func TestWorker_ReportsTheResultOfAnAttempt(t *testing.T) {
	t.Parallel()
	failed := errors.New("some failure")
	const tick = `{"everytick_tick": "2026-01-02T03:04:05Z", "everytick_missed": 2}`
	for _, test := range []struct {
		name      string
		metadata  string // {} unless set
		triggered bool   // the job has no schedule
		attempts  int
		opts      []jobs.Option
		handler   func(job *jobs.Job) error
		ran       bool
		event     riverqueue.EventKind
		state     rivertype.JobState
		says      string // in the last error
	}{
		{name: "success", ran: true, event: riverqueue.EventKindJobCompleted, state: rivertype.JobStateCompleted},
		{
			name: "success of a tick", metadata: tick, ran: true,
			handler: func(job *jobs.Job) error {
				if job.Missed != 2 || !job.Tick.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || string(job.Data) != `{"n": 1}` {
					return errors.New("unexpected tick")
				}
				return nil
			},
			event: riverqueue.EventKindJobCompleted, state: rivertype.JobStateCompleted,
		},
		{
			name: "failure", handler: func(*jobs.Job) error { return failed }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateRetryable, says: "some failure",
		},
		{
			name: "failure of the last attempt", attempts: 2, handler: func(*jobs.Job) error { return failed }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateDiscarded, says: "some failure",
		},
		{
			name: "permanent failure", handler: func(*jobs.Job) error { return jobs.Permanent(failed) }, ran: true,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "some failure",
		},
		{
			name: "a snooze of the last attempt", attempts: 2, handler: func(*jobs.Job) error { return jobs.Snooze(time.Hour, "not yet") }, ran: true,
			event: riverqueue.EventKindJobSnoozed, state: rivertype.JobStateScheduled,
		},
		{
			name: "a late tick that was snoozed", opts: []jobs.Option{jobs.StartWithin(time.Minute)},
			metadata: `{"everytick_tick": "2026-01-02T03:04:05Z", "everytick_snoozed": {"count": 3, "reason": "not yet"}}`, ran: true,
			handler: func(job *jobs.Job) error {
				return map[bool]error{false: errors.New("unexpected snoozes")}[job.Snoozes == 3]
			},
			event: riverqueue.EventKindJobCompleted, state: rivertype.JobStateCompleted,
		},
		{
			name: "panic", handler: func(*jobs.Job) error { panic("help") }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateRetryable, says: "work_test.go",
		},
		{
			name: "an error with U+0000", handler: func(*jobs.Job) error { return errors.New("a\x00b") }, ran: true,
			event: riverqueue.EventKindJobFailed, state: rivertype.JobStateRetryable, says: `a\x00b`,
		},
		{
			name: "invalid metadata", metadata: `{"everytick_missed": "many"}`,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "metadata does not decode",
		},
		{
			name: "an invalid tick", metadata: `{"everytick_tick": "tomorrow"}`,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "tick does not decode",
		},
		{
			name: "a tick of an older version", metadata: `{"everytick_tick": true}`,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "skipped: the tick was stored by an older version",
		},
		{
			name: "a tick of a job that has no schedule", metadata: tick, triggered: true,
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "skipped: the job has no schedule",
		},
		{
			name: "a late tick with StartWithin", metadata: tick, opts: []jobs.Option{jobs.StartWithin(time.Minute)},
			event: riverqueue.EventKindJobCancelled, state: rivertype.JobStateCancelled, says: "StartWithin is 1m0s",
		},
		{
			name: "a late tick whose first attempt started in time", opts: []jobs.Option{jobs.StartWithin(time.Minute)},
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
			if test.triggered {
				w.job.Schedule = nil
			}
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
			require.Equal(t, test.metadata != "" && test.ran, !succeeded.IsZero(), "Succeeded is called for ticks that succeeded")
		})
	}
}

func TestWorker_GivesATickTheBeginningOfItsWindow(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name, metadata string
		last           time.Time
		err            error
		want           time.Time
		asked, ran     bool
	}{
		{name: "an earlier success", metadata: `{"everytick_tick": "2026-01-02T03:04:05Z"}`, last: tick.Add(-time.Hour), want: tick.Add(-time.Hour), asked: true, ran: true},
		{name: "no success", metadata: `{"everytick_tick": "2026-01-02T03:04:05Z"}`, asked: true, ran: true},
		{name: "a later success", metadata: `{"everytick_tick": "2026-01-02T03:04:05Z"}`, last: tick.Add(time.Hour), want: tick, asked: true, ran: true},
		{name: "triggered", metadata: `{}`, last: tick, ran: true},
		{name: "the database fails", metadata: `{"everytick_tick": "2026-01-02T03:04:05Z"}`, err: errors.New("no answer"), asked: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := migrated.Pool(t)
			id := insertRow(t, pool, "available", test.metadata, 0)
			asked, ran := false, false
			w := newWorker(t, pool, func(_ context.Context, job *jobs.Job) error {
				ran = true
				require.Equal(t, test.want, job.PrevSuccess)
				return nil
			})
			w.env.LastSuccess = func(_ context.Context, name string) (time.Time, error) {
				asked = true
				require.Equal(t, "a.job", name)
				return test.last, test.err
			}
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			cfg := &riverqueue.Config{Schema: "river", ID: "self", JobTimeout: -1, Logger: w.env.Log}
			result, _ := rivertest.NewWorker(t, riverpgxv5.New(pool), cfg, w).WorkJob(t.Context(), t, tx, &rivertype.JobRow{ID: id})
			require.NoError(t, tx.Rollback(t.Context()))
			require.Equal(t, [2]bool{test.asked, test.ran}, [2]bool{asked, ran})
			if test.err != nil {
				require.Equal(t, riverqueue.EventKindJobSnoozed, result.EventKind, "the attempt does not count")
			}
		})
	}
}

func TestWorker_NextRetryFollowsTheHandlerOrTheBackoff(t *testing.T) {
	t.Parallel()
	w := newWorker(t, nil, func(context.Context, *jobs.Job) error { return nil }, jobs.RetryDelay(time.Hour))
	in := func(a args) time.Duration {
		job := &riverqueue.Job[args]{JobRow: &rivertype.JobRow{ID: 7, Attempt: 2}, Args: a}
		return time.Until(w.NextRetry(job)).Round(time.Minute)
	}
	doubled := time.Duration(float64(2*time.Hour) * provider.Jitter("7", 2)).Round(time.Minute)
	require.Equal(t, doubled, in(args{}), "the delay doubles with each attempt")
	minute := time.Minute
	require.Equal(t, time.Minute, in(args{&rowData{retryAfter: &minute}}), "the handler's wait")
}

func TestAttempt_PlaceMovesARunToItsQueue(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		queue        string
		paused, open bool
		attempt      int
		wantQueue    string
		wantAttempts int
		snoozed      bool
	}{
		{name: "in its queue", queue: "home", attempt: 1, wantQueue: "home", wantAttempts: 3},
		{name: "in another queue", queue: "elsewhere", attempt: 1, wantQueue: "home", wantAttempts: 3, snoozed: true},
		{name: "paused", queue: "home", paused: true, attempt: 1, wantQueue: store.PausedQueue, wantAttempts: 3, snoozed: true},
		{name: "inserted without knowing its attempts", queue: "home", open: true, attempt: 1, wantQueue: "home", wantAttempts: 8},
		{name: "inserted without knowing its attempts, second attempt", queue: "home", open: true, attempt: 2, wantQueue: "home", wantAttempts: 3},
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
				worker: w, meta: Meta{Open: test.open}, run: &jobs.Job{},
				row: &rivertype.JobRow{ID: id, Queue: test.queue, Attempt: test.attempt, MaxAttempts: 3, ScheduledAt: time.Now().Add(time.Hour)},
			}
			err = a.place(t.Context())
			if test.snoozed {
				var snooze *riverqueue.JobSnoozeError
				require.ErrorAs(t, err, &snooze)
				require.LessOrEqual(t, snooze.Duration, time.Duration(0), "due, whatever this process's clock says")
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

func TestAttempt_OwnReportsNothingForAnAttemptOfAnotherProcess(t *testing.T) {
	t.Parallel()
	pool := migrated.Pool(t)
	id := insertRow(t, pool, "running", `{}`, 2)
	w := newWorker(t, pool, func(context.Context, *jobs.Job) error { return nil })
	began := time.Now()
	own := func(attemptNumber int) flow.Report {
		a := &attempt{worker: w, row: &rivertype.JobRow{ID: id, Attempt: attemptNumber}, began: began}
		return a.own(t.Context(), errors.New("some failure"))
	}
	require.Equal(t, flow.Stored, own(1), "no gap in the heartbeats")
	w.env.Suspect = func(since time.Time) bool { return since.Equal(began) }
	require.Equal(t, flow.Stored, own(2), "the attempt is still its own")
	require.Equal(t, flow.Foreign, own(1), "there is a later attempt")
	w.env.Client = "another"
	require.Equal(t, flow.Foreign, own(2), "another process runs it")
}
