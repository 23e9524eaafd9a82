// Package memory is a provider of background jobs that keeps them in this process:
// real enough to keep every rule of package jobs, and meant for unit tests. What is
// queued is gone with the process, and no other process takes part.
//
// It reads the clock and waits by package time alone, so a test may run it in a
// [testing/synctest] bubble, where an hour of back-off takes no time:
//
//	synctest.Test(t, func(t *testing.T) {
//		s, err := memory.New(nil)
//		…
//	})
//
// A [Tx] is a transaction for tests of code that triggers jobs in one.
package memory

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Config sets up a [Scheduler]. The zero value is ready to use.
type Config struct {
	// Logger is told of starts, stops, failures and skips, and is the base of the
	// loggers that handlers get. Defaults to one that discards everything.
	Logger *slog.Logger
	// DB is handed to handlers as [jobs.Job.DB]. Defaults to one whose methods return the
	// error "memory: no DB was configured".
	DB jobs.DB
	// MaxWorkers is how many jobs without [jobs.Concurrency] run at once. Defaults to
	// 1,000.
	MaxWorkers int
	// Retention is how long jobs are kept after their end, for [Scheduler.Runs],
	// [Scheduler.Retry] and what counts them. Defaults to 24 hours.
	Retention time.Duration
	// Defaults are applied to every job before its own options. Defaults to none.
	Defaults []jobs.Option
}

// hardStopGrace is how long a hard stop waits for handlers to notice that their
// context has ended.
const hardStopGrace = 5 * time.Second

// A Scheduler runs jobs in this process. Make one with [New].
type Scheduler struct {
	registry  *provider.Registry
	logger    *slog.Logger
	db        jobs.DB
	retention time.Duration
	wake      chan struct{} // tells the dispatcher to look again; holds one signal
	turn      chan struct{} // holds a token through Start and Shutdown

	mu       sync.Mutex // never held while a handler, a logger or a channel is waited for
	session  *session   // nil while stopped
	running  int        // handlers that run, including those that outlived their session
	idle     chan struct{}
	lastSeq  uint64
	rows     map[string]*row
	queues   map[string]*queue // by name of the job
	general  *slots
	slots    []*slots
	delayed  rowHeap // not yet due, the first due on top
	finished []*row  // in the order in which they ended
	totals   map[jobs.State]int
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
)

// session is the time from one Start to the Shutdown that ends it.
type session struct {
	cancel   context.CancelFunc // ends the handlers' context: the hard stop
	stop     chan struct{}      // closed to end the dispatcher
	stopped  chan struct{}      // closed when the dispatcher has ended
	stopping bool
}

// New returns a scheduler that is not started. A nil cfg means the defaults.
func New(cfg *Config) (*Scheduler, error) {
	c := *cmp.Or(cfg, &Config{})
	switch {
	case c.MaxWorkers < 0:
		return nil, fmt.Errorf("memory: MaxWorkers is %d, want 1 or more", c.MaxWorkers)
	case c.Retention < 0:
		return nil, fmt.Errorf("memory: Retention is %s, want more than 0", c.Retention)
	}
	registry, err := provider.NewRegistry(c.Defaults...)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	s := &Scheduler{
		registry:  registry,
		logger:    cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
		db:        cmp.Or[jobs.DB](c.DB, errNoDB),
		retention: cmp.Or(c.Retention, 24*time.Hour),
		wake:      make(chan struct{}, 1),
		turn:      make(chan struct{}, 1),
		rows:      make(map[string]*row),
		queues:    make(map[string]*queue),
		general:   newSlots(cmp.Or(c.MaxWorkers, 1000)),
		delayed:   rowHeap{less: dueFirst},
		totals:    make(map[jobs.State]int),
	}
	s.slots = []*slots{s.general}
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

// RegisterDelayed implements [jobs.Registrar].
func (s *Scheduler) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return s.registry.RegisterDelayed(name, delay, h, opts...)
}

// Trigger implements [jobs.Triggerer].
func (s *Scheduler) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	return s.trigger(ctx, nil, name, data, opts)
}

// trigger enqueues one job, in tx unless that is nil.
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
	if err := d.Enqueue(ctx, reqs, s.storeIn(nil, d)); err != nil {
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

// storeIn returns a [jobs.Enqueue] that stores requests of d in tx, or at once if that is nil.
func (s *Scheduler) storeIn(tx *Tx, d *provider.Definition) jobs.Enqueue {
	return func(ctx context.Context, reqs []*jobs.Request) error {
		defer s.look()
		s.mu.Lock()
		defer s.mu.Unlock()
		now := clock()
		for _, req := range reqs {
			q := s.queue(d)
			r, err := s.holder(ctx, q, req.Unique, tx)
			if err != nil {
				return err
			}
			if r == nil {
				r = s.draw(q, row{
					data: req.Data, metadata: maps.Clone(req.Metadata), priority: req.Priority, due: provider.Due(req, now), unique: req.Unique,
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
	s.begin(ctx)
	s.logSession(ctx, "memory: scheduler started")
	return nil
}

// begin begins a session.
func (s *Scheduler) begin(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	for _, d := range s.registry.Jobs() {
		// A next tick that is left from before may have passed: that is caught up on.
		if q := s.queue(d); d.Schedule != nil && q.next.IsZero() {
			q.next = provider.Next(d.Schedule, now)
		}
	}
	// Jobs outlive the start, and so may not end with its context.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.session = &session{cancel: cancel, stop: make(chan struct{}), stopped: make(chan struct{})}
	go s.dispatch(ctx, s.session)
}

// logSession says that a session has begun or ended.
func (s *Scheduler) logSession(ctx context.Context, msg string) {
	workers := 0
	s.mu.Lock()
	for _, group := range s.slots {
		workers += group.n
	}
	s.mu.Unlock()
	s.logger.InfoContext(ctx, msg, "jobs", len(s.registry.Jobs()), "workers", workers)
}

// takeTurn waits for a Shutdown that goes on, no longer than ctx. A free turn is taken even if
// ctx has ended: Shutdown with such a ctx is the hard stop.
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

// Shutdown implements [jobs.Scheduler]. When ctx has ended it waits 5 seconds more,
// at most, for handlers to return. Those that ignore their context even then go on,
// and the error tells how many; their slots stay taken until they return.
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
	<-ss.stopped // from here on nothing starts
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
		return fmt.Errorf("memory: shutdown cut short, running jobs were cancelled: %w", ctx.Err())
	case <-grace.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.idle = nil
		return fmt.Errorf("memory: shutdown cut short, %d handlers ignore the end of their context and still run: %w", s.running, ctx.Err())
	}
}

// dispatch starts what is due until ss is stopped. It is the only goroutine besides
// those of the handlers, which get ctx.
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
		begin := s.take(ctx, now)
		next := s.nextDue(now)
		s.mu.Unlock()
		for _, f := range begin {
			f()
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(next.Sub(now))
		}
	}
}

// look wakes the dispatcher, if there is one.
func (s *Scheduler) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take inserts the ticks that are due, claims what is due and has a free slot, and
// returns what to do about it once the mutex is released: start handlers, write to the
// log.
func (s *Scheduler) take(ctx context.Context, now time.Time) (begin []func()) {
	for _, q := range s.queues {
		begin = append(begin, s.advance(q, now)...)
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
				due = now // it did start in time, and was interrupted
			}
			if reason := r.queue.def.Skip(job, due, overlapping); reason != "" {
				s.finish(r, jobs.StateSkipped, reason, now)
				r.attempt-- // it never began
				s.look()    // the tick after it may have waited for its run
				begin = append(begin, func() { s.logger.Warn("memory: job skipped", slog.Any("", job), slog.String("reason", reason)) })
				continue
			}
			if r.queue.passed(r); r.missed > 0 && r.attempt == 1 {
				begin = append(begin, func() { s.logger.Warn("memory: job stands for missed ticks", slog.Any("", job)) })
			}
			r.begun, r.started = true, now
			rowCtx, cancel := context.WithCancel(ctx)
			r.cancel = cancel
			group.free--
			s.running++
			begin = append(begin, func() { go s.work(ctx, rowCtx, r, job) })
		}
	}
	return begin
}

// advance does what the plan says about the ticks of q that are due.
func (s *Scheduler) advance(q *queue, now time.Time) (begin []func()) {
	for {
		a := q.plan(now)
		switch a.Action {
		case provider.Insert:
			q.last = s.add(s.draw(q, row{data: []byte("{}"), priority: q.def.Priority, due: a.Tick, tick: a.Tick, missed: a.Missed}, now))
		case provider.Fold: // it stays due since its first tick, so that it keeps its place
			q.last.tick, q.last.missed = a.Tick, a.Missed
		case provider.Skip:
			q.passed(&row{tick: a.Tick, missed: a.Missed, state: jobs.StateSkipped})
			begin = append(begin, func() {
				s.logger.Info("memory: job skipped", "job", q.def.Name, "tick", a.Tick, "missed", a.Missed, "reason", provider.SkippedPaused)
			})
		default:
			return begin
		}
		q.next = a.Next
	}
}

// nextDue returns when something comes due that is not, or zero. A tick that is held
// waits for the end of a run instead.
func (s *Scheduler) nextDue(now time.Time) (next time.Time) {
	if r := s.delayed.top(); r != nil {
		next = r.due
	}
	for _, q := range s.queues {
		if q.next.After(now) && (next.IsZero() || q.next.Before(next)) {
			next = q.next
		}
	}
	return next
}

// promote makes what has come due ready to run, and forgets what ended long ago.
func (s *Scheduler) promote(now time.Time) {
	for r := s.delayed.top(); r != nil && !r.due.After(now); r = s.delayed.top() {
		heap.Pop(&s.delayed)
		s.move(r, jobs.StateWaiting)
		s.ready(r)
	}
	for len(s.finished) > 0 && now.Sub(s.finished[0].ended) >= s.retention {
		r := s.finished[0]
		s.finished[0], s.finished = nil, s.finished[1:]
		s.totals[r.state]--
		delete(s.rows, r.id)
	}
}

// work runs one attempt, which ends with ctx or with rowCtx, its own, and does what
// follows from it.
func (s *Scheduler) work(ctx, rowCtx context.Context, r *row, job *jobs.Job) {
	s.settle(ctx, r, job, r.queue.def.Run(rowCtx, job, s.logger))
	s.release(r.queue.slots)
}

// settle stores and logs how an attempt ended. ctx ends with the session.
func (s *Scheduler) settle(ctx context.Context, r *row, job *jobs.Job, err error) {
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
	delay, again := r.queue.def.Retry(job, err)
	r.cancel()
	r.cancel = nil
	switch {
	case err == nil:
		s.finish(r, jobs.StateCompleted, "", now)
		if q := r.queue; r.tick.After(q.lastSuccess) {
			q.lastSuccess = r.tick
		}
	case r.cancelled:
		level, msg = slog.LevelInfo, "memory: job cancelled"
		s.finish(r, jobs.StateCancelled, text, now)
	case ctx.Err() != nil: // interrupted by a hard stop, so the attempt does not count
		level, msg = slog.LevelWarn, "memory: job interrupted by shutdown, goes back to the queue"
		r.attempt--
		s.park(r, jobs.StateWaiting)
	case again:
		level, msg = slog.LevelWarn, "memory: job failed, will be retried"
		attrs = append(attrs, "retry_in", delay)
		r.due, r.err, r.aside = now.Add(delay), text, true
		s.park(r, jobs.StateRetrying)
	default:
		level, msg = slog.LevelError, "memory: job failed for good"
		s.finish(r, jobs.StateFailed, text, now)
	}
	s.mu.Unlock()
	s.logger.Log(ctx, level, msg, attrs...)
}

// release gives a worker back. It comes last, when all is logged: Shutdown waits
// for it, and nothing may write to a test's log after that.
func (s *Scheduler) release(group *slots) {
	s.mu.Lock()
	group.free++
	if s.running--; s.running == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
	s.mu.Unlock()
	s.look()
}

// clock returns the time without a monotonic reading, since ticks have none either.
func clock() time.Time { return time.Now().UTC().Round(0) }
