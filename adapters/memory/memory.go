// Package memory is an in-process provider of background jobs for unit tests. It follows
// every rule of package jobs, but its jobs are lost when the process ends and cannot be
// shared with other processes.
//
// It uses only package time to read the clock and to wait, so tests can run it in a
// [testing/synctest] bubble, where an hour of back-off takes no time:
//
//	synctest.Test(t, func(t *testing.T) {
//		s, err := memory.New(nil)
//		…
//	})
//
// [Tx] is a transaction without a database, for tests of code that triggers jobs in a
// transaction.
package memory

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Config configures a [Scheduler]. The zero value is ready to use.
type Config struct {
	// Logger logs starts, stops, failures and skips, and is the base of the loggers that
	// handlers get. Defaults to discarding everything.
	Logger *slog.Logger
	// DB is passed to handlers as [jobs.Job.DB], and begins the transactions of jobs with
	// [jobs.Transactional]. Defaults to a DB whose methods return the error "memory: no DB was
	// configured"; the transactions are then a [Tx].
	DB jobs.DB
	// MaxWorkers is the most handlers running at once, apart from those of jobs with
	// [jobs.Concurrency]. Defaults to 1,000.
	MaxWorkers int
	// Retention is how long runs are kept after they completed or were skipped, for
	// [Scheduler.Runs], [Scheduler.Retry], [Scheduler.Activity] and [Scheduler.Health]. Defaults
	// to 24 hours.
	Retention time.Duration
	// FailedRetention is the same for runs that failed for good or were cancelled. Defaults to
	// 7 days.
	FailedRetention time.Duration
	// Defaults are applied to every job before its own options. Defaults to none.
	Defaults []jobs.Option
}

// hardStopGrace is how long Shutdown waits for handlers after cancelling them.
const hardStopGrace = 5 * time.Second

// A Scheduler runs jobs in this process. Make one with [New].
type Scheduler struct {
	registry *provider.Registry
	logger   *slog.Logger
	db       jobs.DB
	wake     chan struct{} // wakes the dispatcher; holds one signal
	turn     chan struct{} // holds a token during Start and Shutdown

	mu         sync.Mutex // never held while waiting for a handler, a logger or a channel
	session    *session   // nil while stopped
	starts     int        // how many sessions there have been
	running    int        // running handlers, including those that outlived their session
	idle       chan struct{}
	lastSeq    uint64
	rows       map[string]*row
	queues     map[string]*queue // by job name
	general    *slots            // of jobs without Concurrency
	txSlots    *slots            // of transactional ones; the general slots if the DB is not a pool
	slots      []*slots
	delayed    rowHeap // not yet due
	finished   finished
	failed     finished   // and those that were cancelled
	unreported []jobs.Run // failed, and OnFailed was interrupted
	totals     map[jobs.State]int
}

var (
	_ jobs.Scheduler        = (*Scheduler)(nil)
	_ jobs.TxTriggerer      = (*Scheduler)(nil)
	_ jobs.BulkTriggerer    = (*Scheduler)(nil)
	_ jobs.RunLister        = (*Scheduler)(nil)
	_ jobs.ActivityReporter = (*Scheduler)(nil)
	_ jobs.Canceller        = (*Scheduler)(nil)
	_ jobs.Retrier          = (*Scheduler)(nil)
	_ jobs.Pauser           = (*Scheduler)(nil)
	_ jobs.RunFinder        = (*Scheduler)(nil)
	_ jobs.BulkRetrier      = (*Scheduler)(nil)
	_ jobs.BulkCanceller    = (*Scheduler)(nil)
	_ jobs.ProcessLister    = (*Scheduler)(nil)
)

// session is the time from one Start to the Shutdown that ends it.
type session struct {
	id       string // of its process
	began    time.Time
	cancel   context.CancelFunc // ends the handlers' context: the hard stop
	stop     chan struct{}      // closed to end the dispatcher
	stopped  chan struct{}      // closed when the dispatcher has ended
	stopping bool
}

// New returns a scheduler that is not started. A nil cfg means the defaults. It returns an
// error if a value of cfg is out of range.
func New(cfg *Config) (*Scheduler, error) {
	c := *cmp.Or(cfg, &Config{})
	switch {
	case c.MaxWorkers < 0:
		return nil, fmt.Errorf("memory: MaxWorkers is %d, want 1 or more", c.MaxWorkers)
	case c.Retention < 0:
		return nil, fmt.Errorf("memory: Retention is %s, want more than 0", c.Retention)
	case c.FailedRetention < 0:
		return nil, fmt.Errorf("memory: FailedRetention is %s, want more than 0", c.FailedRetention)
	}
	registry, err := provider.NewRegistry(c.Defaults...)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	s := &Scheduler{
		registry: registry,
		logger:   cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
		db:       cmp.Or[jobs.DB](c.DB, errNoDB),
		finished: finished{kept: cmp.Or(c.Retention, 24*time.Hour)},
		failed:   finished{kept: cmp.Or(c.FailedRetention, 7*24*time.Hour)},
		wake:     make(chan struct{}, 1),
		turn:     make(chan struct{}, 1),
		rows:     make(map[string]*row),
		queues:   make(map[string]*queue),
		general:  newSlots(cmp.Or(c.MaxWorkers, 1000)),
		delayed:  rowHeap{less: dueFirst},
		totals:   make(map[jobs.State]int),
	}
	s.slots = []*slots{s.general}
	s.txSlots = s.general
	if _, ok := poolSize(s.db); ok {
		s.txSlots = newSlots(0)
		s.slots = append(s.slots, s.txSlots)
	}
	return s, nil
}

// RegisterCron implements [jobs.Registrar].
func (s *Scheduler) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	return s.registry.RegisterCron(name, pattern, h, opts...)
}

// RegisterInterval implements [jobs.Registrar].
func (s *Scheduler) RegisterInterval(name string, every time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return s.registry.RegisterInterval(name, every, h, opts...)
}

// RegisterSchedule implements [jobs.Registrar].
func (s *Scheduler) RegisterSchedule(name string, schedule jobs.Schedule, h jobs.Handler, opts ...jobs.Option) error {
	return s.registry.RegisterSchedule(name, schedule, h, opts...)
}

// RegisterDelayed implements [jobs.Registrar].
func (s *Scheduler) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return s.registry.RegisterDelayed(name, delay, h, opts...)
}

// Trigger implements [jobs.Triggerer].
func (s *Scheduler) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	return s.trigger(ctx, nil, name, data, opts)
}

// trigger inserts one run, in tx unless it is nil.
func (s *Scheduler) trigger(ctx context.Context, tx *Tx, name string, data any, opts []jobs.TriggerOption) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	d, err := s.registry.Job(name)
	if err != nil {
		return "", err
	}
	req, err := d.Request(data, opts...)
	if err != nil {
		return "", err
	}
	if err := d.Enqueue(ctx, []*jobs.Request{req}, s.storeIn(tx, d)); err != nil {
		return "", err
	}
	return req.ID, nil
}

// TriggerMany implements [jobs.Triggerer].
func (s *Scheduler) TriggerMany(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	return s.triggerMany(ctx, nil, name, data, opts)
}

// triggerMany inserts all runs or none, in tx unless it is nil.
func (s *Scheduler) triggerMany(ctx context.Context, tx *Tx, name string, data []any, opts []jobs.TriggerOption) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := s.registry.Job(name)
	if err != nil {
		return nil, err
	}
	reqs, err := d.Requests(data, opts...)
	if err != nil {
		return nil, err
	}
	if err := d.Enqueue(ctx, reqs, s.storeIn(tx, d)); err != nil {
		return nil, err
	}
	ids := make([]string, len(reqs))
	for i, req := range reqs {
		ids[i] = req.ID
	}
	return ids, nil
}

// TriggerBulk implements [jobs.BulkTriggerer].
func (s *Scheduler) TriggerBulk(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error) {
	ids, err := s.TriggerMany(ctx, name, data, opts...)
	return len(ids), err
}

// storeIn returns a [jobs.Enqueue] that inserts requests of d in tx, or at once if tx is nil.
func (s *Scheduler) storeIn(tx *Tx, d *provider.Definition) jobs.Enqueue {
	return func(ctx context.Context, reqs []*jobs.Request) error {
		defer s.notify()
		s.mu.Lock()
		defer s.mu.Unlock()
		now := clock()
		for _, req := range reqs {
			q := s.queue(d)
			if req.Unique != "" && req.UniqueMode != jobs.UniqueModeLive {
				r, err := s.storeKeyed(ctx, q, tx, req)
				if err != nil {
					return err
				}
				req.ID = r.id
				continue
			}
			key, fingerprint := keyOf(req)
			r, err := s.holder(ctx, q, key, tx)
			if err != nil {
				return err
			}
			if r != nil && r.fingerprint != fingerprint {
				return fmt.Errorf("memory: trigger %q: %w: run %s has other data, or another delay, time or priority",
					d.Name, jobs.ErrKeyReused, r.id)
			}
			if r != nil && req.Unique != "" && r.ended.IsZero() && r.state != jobs.StateRunning {
				if err := s.hold(q, tx, r); err != nil {
					return err
				}
			}
			if r == nil {
				r = s.newRow(q, row{
					data: req.Data, metadata: maps.Clone(req.Metadata), priority: req.Priority, due: provider.Due(req, now),
					unique: key, fingerprint: fingerprint,
				}, now)
				if tx == nil {
					s.add(r)
				} else if err := s.addIn(tx, r); err != nil {
					return err
				}
				q.claim(r)
			}
			req.ID = r.id
		}
		return nil
	}
}

// Start implements [jobs.Scheduler].
func (s *Scheduler) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.takeTurn(ctx); err != nil {
		return fmt.Errorf("memory: start: %w", err)
	}
	defer s.giveTurn()
	if err := s.registry.Freeze(); err != nil {
		return err
	}
	if err := s.sizeTxSlots(); err != nil {
		s.registry.Thaw()
		return fmt.Errorf("memory: start: %w", err)
	}
	s.begin(ctx)
	s.logSession(ctx, "memory: scheduler started")
	return nil
}

// begin starts a session.
func (s *Scheduler) begin(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	for _, d := range s.registry.Jobs() {
		// A next tick of an earlier session stays, so that missed ticks are caught up on.
		if q := s.queue(d); d.Schedule != nil && q.next.IsZero() {
			q.next = provider.Next(d.Schedule, now)
		}
	}
	// ctx bounds only the start.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.starts++
	s.session = &session{
		id: fmt.Sprintf("memory-process-%d", s.starts), began: now,
		cancel: cancel, stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	for _, failed := range s.unreported {
		s.running++
		go s.reportFailed(ctx, s.queues[failed.Name].def, failed)
	}
	s.unreported = nil
	go s.dispatch(ctx, s.session)
}

// logSession logs that a session has started or stopped.
func (s *Scheduler) logSession(ctx context.Context, msg string) {
	workers := 0
	s.mu.Lock()
	for _, group := range s.slots {
		workers += group.n
	}
	s.mu.Unlock()
	s.logger.InfoContext(ctx, msg, "jobs", len(s.registry.Jobs()), "workers", workers)
}

// takeTurn waits until no other Start or Shutdown is running, or ctx ends. It takes a free turn
// even if ctx has ended: Shutdown with such a ctx is the hard stop.
func (s *Scheduler) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another Start or Shutdown is in progress: %w", ctx.Err())
	}
}

func (s *Scheduler) giveTurn() { <-s.turn }

// Shutdown implements [jobs.Scheduler]. If a handler ignores its context for 5 seconds after
// it was cancelled, Shutdown returns without it, and the error says how many handlers are
// still running. They occupy their workers until they return.
func (s *Scheduler) Shutdown(ctx context.Context) error {
	if err := s.takeTurn(ctx); err != nil {
		return fmt.Errorf("memory: shutdown: %w", err)
	}
	defer s.giveTurn()
	s.mu.Lock()
	ss := s.session
	if ss == nil {
		s.mu.Unlock()
		return jobs.ErrNotStarted
	}
	ss.stopping = true
	s.mu.Unlock()

	close(ss.stop)
	<-ss.stopped // no run starts after this
	err := s.drain(ctx, ss)

	s.mu.Lock()
	s.session = nil
	s.mu.Unlock()
	s.registry.Thaw()
	if err == nil {
		s.logSession(ctx, "memory: scheduler stopped")
	}
	return err
}

func (s *Scheduler) drain(ctx context.Context, ss *session) error {
	defer ss.cancel()
	s.mu.Lock()
	if s.running == 0 {
		s.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	s.idle = idle
	s.mu.Unlock()

	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	ss.cancel()
	grace := time.NewTimer(hardStopGrace)
	defer grace.Stop()
	select {
	case <-idle:
		return fmt.Errorf("memory: shutdown: jobs that were still running were cancelled and return to the queue: %w", ctx.Err())
	case <-grace.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.idle = nil
		return fmt.Errorf("memory: shutdown: %s after they were cancelled, %d handlers are still running: %w",
			hardStopGrace, s.running, ctx.Err())
	}
}

// dispatch starts runs that are due until ss is stopped. It is the only goroutine apart from
// those of the handlers, whose contexts derive from ctx.
func (s *Scheduler) dispatch(ctx context.Context, ss *session) {
	defer close(ss.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ss.stop:
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.mu.Lock()
		now := clock()
		start := s.take(ctx, now)
		next := s.nextDue(now)
		s.mu.Unlock()
		for _, f := range start {
			f()
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(next.Sub(now))
		}
	}
}

// notify wakes the dispatcher, if there is one.
func (s *Scheduler) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take inserts the ticks that are due and claims the runs that are due and have a free worker.
// It returns functions that start handlers and write to the log, to be called without the
// mutex.
func (s *Scheduler) take(ctx context.Context, now time.Time) (start []func()) {
	for _, q := range s.queues {
		start = append(start, s.advance(ctx, q, now)...)
	}
	s.promote(now)
	for i := 0; i < len(s.slots); i++ {
		for group := s.slots[i]; group.free > 0 && group.ready.Len() > 0; {
			r := heap.Pop(&group.ready).(*row)
			overlapping := r.queue.running > 0
			s.move(r, jobs.StateRunning)
			r.attempt++
			job := r.job(now, s.db)
			due := cmp.Or(r.tick, r.due)
			if r.begun {
				due = now // the run started in time and was interrupted
			}
			reason := r.queue.def.Skip(job, due, overlapping)
			if r.overtaken != "" {
				reason = provider.Overtaken(r.overtaken)
			}
			if reason != "" {
				s.finish(r, jobs.StateSkipped, reason, now)
				r.attempt-- // the attempt was not made
				s.notify()  // the next tick may have waited for this run
				skipped := r.run()
				start = append(start, func() {
					s.logger.Warn("memory: job skipped", slog.Any("", job), slog.String("reason", reason))
					r.queue.def.Skipped(ctx, s.logger, skipped)
				})
				continue
			}
			if r.queue.passed(r); r.missed > 0 && r.attempt == 1 && r.snoozes == 0 {
				start = append(start, func() {
					s.logger.Warn("memory: late run: earlier ticks were missed and get no run of their own", slog.Any("", job))
				})
			}
			for _, earlier := range r.overtakes {
				if earlier.ended.IsZero() {
					earlier.overtaken = r.id
				}
			}
			r.overtakes = nil
			r.begun, r.started, r.process = true, now, s.session.id
			rowCtx, cancel := context.WithCancel(ctx)
			r.cancel = cancel
			group.free--
			s.running++
			start = append(start, func() { go s.work(ctx, rowCtx, r, job) })
		}
	}
	return start
}

// stalledEvery is how often a schedule whose code fails is tried and logged.
const stalledEvery = time.Minute

// advance inserts, folds or skips the ticks of q that are due. It returns functions that report
// it, to be called without the mutex.
func (s *Scheduler) advance(ctx context.Context, q *queue, now time.Time) (reports []func()) {
	for {
		a := q.plan(now)
		switch a.Action {
		case provider.Insert:
			q.last = s.add(s.newRow(q, row{
				data: q.def.Data, priority: q.def.Priority, due: a.Tick, tick: a.Tick, missed: a.Missed,
			}, now))
		case provider.Fold: // the run keeps the due time of its first tick, and so its place in the queue
			q.last.tick, q.last.missed = a.Tick, a.Missed
		case provider.Skip:
			q.passed(&row{tick: a.Tick, missed: a.Missed, state: jobs.StateSkipped})
			reports = append(reports, func() {
				s.logger.Info("memory: job skipped",
					"job", q.def.Name, "tick", a.Tick, "missed", a.Missed, "reason", provider.SkippedPaused)
				q.def.Skipped(ctx, s.logger, jobs.Run{Tick: a.Tick, EndedAt: now.UTC(), Error: provider.SkippedPaused})
			})
		case provider.Stall:
			if now.Sub(q.stalled) >= stalledEvery {
				q.stalled = now
				tick := q.next
				reports = append(reports, func() {
					s.logger.Error("memory: schedule has a bug; its ticks wait until a version without it is started",
						"job", q.def.Name, "tick", tick, "schedule", q.def.Spec(), "error", a.Err)
				})
			}
			return reports
		default:
			return reports
		}
		q.next = a.Next
	}
}

// nextDue returns when the next run or tick becomes due, or zero. A tick that waits for the
// run of the previous one does not count, since the end of that run wakes the dispatcher.
func (s *Scheduler) nextDue(now time.Time) (next time.Time) {
	if r := s.delayed.top(); r != nil {
		next = r.due
	}
	for _, q := range s.queues {
		if q.next.After(now) && (next.IsZero() || q.next.Before(next)) {
			next = q.next
		}
		if again := q.stalled.Add(stalledEvery); again.After(now) && (next.IsZero() || again.Before(next)) {
			next = again
		}
	}
	return next
}

// promote makes runs that are due ready to start, and deletes ended runs after their retention.
func (s *Scheduler) promote(now time.Time) {
	for r := s.delayed.top(); r != nil && !r.due.After(now); r = s.delayed.top() {
		heap.Pop(&s.delayed)
		s.move(r, jobs.StateWaiting)
		s.ready(r)
	}
	for _, f := range []*finished{&s.finished, &s.failed} {
		for len(f.rows) > 0 && now.Sub(f.rows[0].ended) >= f.kept {
			r := f.rows[0]
			f.rows[0], f.rows = nil, f.rows[1:]
			s.totals[r.state]--
			delete(s.rows, r.id)
			r.freeKey()
		}
	}
}

// work runs one attempt and stores its result. rowCtx is the attempt's context; ctx is the
// session's, from which it derives.
func (s *Scheduler) work(ctx, rowCtx context.Context, r *row, job *jobs.Job) {
	run := s.run
	if r.queue.def.Transactional {
		run = s.runTx
	}
	failed, ok := s.settle(ctx, r, job, run(rowCtx, r, job))
	if !ok {
		s.release(r.queue.slots)
		return
	}
	s.free(r.queue.slots) // Shutdown waits for the calls, but no run does
	s.reportFailed(ctx, r.queue.def, failed)
}

// reportFailed calls the functions of [jobs.OnFailed], now or, if the session is ended meanwhile,
// again in the next one.
func (s *Scheduler) reportFailed(ctx context.Context, d *provider.Definition, failed jobs.Run) {
	if !d.Failed(ctx, s.logger, failed) {
		s.mu.Lock()
		s.unreported = append(s.unreported, failed)
		s.mu.Unlock()
	}
	s.left()
}

func (s *Scheduler) run(ctx context.Context, r *row, job *jobs.Job) error {
	return r.queue.def.Run(ctx, job, s.logger)
}

// settle stores and logs the result of an attempt. ctx is the session's. If the run has failed
// for good and [jobs.OnFailed] applies to it, settle returns the run.
func (s *Scheduler) settle(ctx context.Context, r *row, job *jobs.Job, err error) (failed jobs.Run, ok bool) {
	level, msg, attrs := slog.LevelDebug, "memory: job completed", []any{slog.Any("", job)}
	text := ""
	if err != nil {
		text = err.Error()
		attrs = append(attrs, "error", err)
	}
	if panicked := (*jobs.PanicError)(nil); errors.As(err, &panicked) {
		text += "\n\n" + panicked.Stack
		attrs = append(attrs, "stack", panicked.Stack)
	}

	s.mu.Lock()
	now := clock()
	sleep, reason, snoozed := r.queue.def.Snooze(err)
	delay, again := r.queue.def.Retry(job, err)
	r.cancel()
	r.cancel = nil
	if output := job.Output(); output != nil {
		r.output = output
	}
	switch {
	case r.covered:
		level, msg = slog.LevelInfo, "memory: another run of the schedule has succeeded meanwhile; running again from its tick on"
		r.attempt--
		r.covered = false
		s.park(r, jobs.StateWaiting)
	case err == nil:
		s.finish(r, jobs.StateCompleted, "", now)
		r.queue.succeeded(r)
	case !r.cancelled.IsZero():
		level, msg = slog.LevelInfo, "memory: job cancelled"
		r.addError(text, now)
		s.finish(r, jobs.StateCancelled, text, now)
	case ctx.Err() != nil: // a hard stop interrupted the attempt, so it does not count
		level, msg = slog.LevelWarn, "memory: job interrupted by the shutdown; it goes back to the queue"
		r.attempt--
		s.park(r, jobs.StateWaiting)
	case snoozed:
		level, msg = slog.LevelInfo, "memory: job snoozed"
		attrs = []any{slog.Any("", job), "starts_in", sleep, "reason", reason}
		r.attempt--
		r.due, r.snoozes, r.snoozeReason, r.aside = now.Add(sleep), r.snoozes+1, reason, true
		s.park(r, r.snoozedState())
	case again:
		level, msg = slog.LevelWarn, "memory: job failed and will be retried"
		attrs = append(attrs, "retry_in", delay)
		r.addError(text, now)
		r.due, r.err, r.aside = now.Add(delay), text, true
		s.park(r, jobs.StateRetrying)
	default:
		level, msg = slog.LevelError, "memory: job failed for good"
		r.addError(text, now)
		s.finish(r, jobs.StateFailed, text, now)
		failed, ok = r.run(), r.queue.def.CallsOnFailed()
		failed.Errors = slices.Clone(r.errs)
	}
	s.mu.Unlock()
	s.logger.Log(ctx, level, msg, attrs...)
	return failed, ok
}

// release frees a worker whose goroutine is about to end. It is called after everything is
// logged: Shutdown waits for it, and nothing may write to a test's log after Shutdown.
func (s *Scheduler) release(group *slots) {
	s.free(group)
	s.left()
}

// free frees a worker.
func (s *Scheduler) free(group *slots) {
	s.mu.Lock()
	group.free++
	s.mu.Unlock()
	s.notify()
}

// left tells Shutdown that a worker's goroutine is about to end.
func (s *Scheduler) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running--; s.running == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// clock returns the time without a monotonic reading, so that it compares equal to ticks.
func clock() time.Time { return time.Now().UTC().Round(0) }
