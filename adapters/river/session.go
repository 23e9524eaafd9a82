package river

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/conns"
	"github.com/everytick/everytick/adapters/river/internal/failed"
	"github.com/everytick/everytick/adapters/river/internal/flow"
	"github.com/everytick/everytick/adapters/river/internal/fold"
	"github.com/everytick/everytick/adapters/river/internal/migrate"
	"github.com/everytick/everytick/adapters/river/internal/process"
	"github.com/everytick/everytick/adapters/river/internal/queues"
	"github.com/everytick/everytick/adapters/river/internal/schedule"
	"github.com/everytick/everytick/adapters/river/internal/stall"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/adapters/river/internal/wake"
	"github.com/everytick/everytick/adapters/river/internal/work"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// A session is what runs from one Start to the end of River's client, in the order in which it is started.
type session struct {
	pool    *pgxpool.Pool    // for fetching, completing and scheduling jobs
	process *process.Process // the heartbeat
	ticker  *schedule.Ticker
	client  *riverqueue.Client[pgx.Tx]
	failed  *failed.Caller
	workers queues.Workers
	flow    *flow.Flow // what the client fetches and stores
	stalls  *stall.Watch
	folded  *fold.Handler // of log
	log     *slog.Logger  // of what goes on in the background

	startedAt time.Time
	died      chan struct{} // holds a signal that a process has died
	stopping  chan struct{} // closed when running jobs are cancelled
	// stop ends what runs beside the client; background waits for it.
	stop       context.CancelFunc
	background sync.WaitGroup
	// returned is closed when the client has stopped and others have been notified of the jobs it gave back.
	returned chan struct{}
}

// Start implements [jobs.Scheduler]. It fails if the database does not answer or [Migrate] has not been run. If ctx ends
// when the first jobs run already, it cancels them, and waits for their handlers; they go back to the queue.
func (s *Scheduler) Start(ctx context.Context) (err error) {
	if err := s.takeTurn(ctx); err != nil {
		return fmt.Errorf("river: start: %w", err)
	}
	defer s.giveTurn()
	if err := s.reg.Freeze(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.reg.Thaw()
			err = fmt.Errorf("river: start: %w", err)
		}
	}()
	s.migrated.Store(false)
	if reason, err := s.checkMigrated(ctx); err != nil || reason != "" {
		return cmp.Or(err, errors.New(reason))
	}
	if err := migrate.CheckEncoding(ctx, s.store, s.pool); err != nil {
		return err
	}
	if len(s.reg.Jobs()) > 0 {
		if err := s.startSession(ctx); err != nil {
			return err
		}
	}
	s.started.Store(true)
	s.logSession(ctx, "scheduler started", s.session.Load())
	return nil
}

// logSession logs that ss has started or stopped; nil is a session that only triggers.
func (s *Scheduler) logSession(ctx context.Context, msg string, ss *session) {
	workers := 0
	if ss != nil {
		workers = ss.workers.Count()
	}
	s.log.InfoContext(ctx, msg, "schema", s.cfg.Schema, "jobs", len(s.reg.Jobs()), "workers", workers)
}

// takeTurn waits until no other Start or Shutdown is running, or ctx ends. It takes a free turn even if ctx has
// ended: Shutdown with such a ctx is the hard stop.
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
		return ctx.Err()
	}
}

func (s *Scheduler) giveTurn() { <-s.turn }

func (s *Scheduler) startSession(ctx context.Context) (err error) {
	now, err := s.clock.Now(ctx, nil)
	if err != nil {
		return err
	}
	if err := s.pauses.Start(ctx, s.pool, namesOf(s.reg.Jobs())); err != nil {
		return err
	}
	indexes, err := s.inspectIndexes(ctx)
	if err != nil {
		return err
	}
	ss := &session{startedAt: time.Now(), returned: make(chan struct{}), stopping: make(chan struct{}), died: make(chan struct{}, 1)}
	ss.folded = fold.New(s.log.Handler())
	ss.log = slog.New(ss.folded)
	if ss.pool, err = conns.Pool(ctx, s.own); err != nil {
		return err
	}
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ss.stop = stop
	defer func() {
		if err != nil {
			stop()
			if ss.process != nil {
				ss.process.Stop()
			}
			ss.pool.Close()
		}
	}()
	if ss.workers, err = s.queues.Workers(s.reg.Jobs(), s.cfg.MaxWorkers, int(s.pool.Config().MaxConns)); err != nil {
		return err
	}
	ss.ticker = s.newTicker(ss.pool, ss.log, s.schedules(), now, func() (int, map[string]bool) { return ss.process.Live() })
	self := process.Self()
	id := self.ID // of the client
	if ss.process, err = process.Start(ctx, s.processConfig(self, ss)); err != nil {
		return err
	}
	if err := ss.ticker.Register(ctx); err != nil {
		return err
	}
	ss.failed = failed.New(context.WithoutCancel(ctx), failed.Config{
		Store: s.store, Pool: ss.pool, Log: s.log, Client: id, Jobs: s.reg.Jobs(), Run: s.Run, Dead: ss.process.Dead,
	})
	live, err := s.store.RecentRegistrations(ctx, ss.pool, s.cfg.DeadAfter)
	if err != nil {
		return err
	}
	ss.flow = s.newFlow(id, ss)
	ss.stalls = stall.New(stall.Config{
		Store: s.store, Pool: ss.pool, Log: s.log, Client: id, Flow: ss.flow, Jobs: s.reg.Jobs(),
		Queues: s.queues, Workers: ss.workers, Notify: s.wake.Notify,
	})
	cfg, err := s.clientConfig(id, ss, indexes, len(live))
	if err != nil {
		return err
	}
	if ss.client, err = riverqueue.NewClient(ss.flow.Driver(ss.pool), cfg); err != nil {
		return err
	}
	events, unsubscribe := ss.client.SubscribeConfig(s.events())
	// River's jobs live as long as the context of its Start; ours bounds only the start.
	clientCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	interrupt := sync.OnceFunc(func() {
		close(ss.stopping)
		cancel(work.ErrStartFailed)
	})
	unbind := context.AfterFunc(ctx, interrupt)
	s.session.Store(ss)
	if err := ss.client.Start(clientCtx); err != nil {
		s.session.Store(nil)
		interrupt()
		unsubscribe()
		return err
	}
	go func() {
		defer close(ss.returned)
		all := s.namesOfAll()
		s.wake.Returned(events, ss.pool, func(event *riverqueue.Event) { // until the client has stopped
			if slices.Contains(all, event.Job.Kind) {
				ss.ticker.CheckNow() // a tick may have waited for the run
			}
			if state := event.Job.State; state == rivertype.JobStateDiscarded || state == rivertype.JobStateCancelled {
				ss.failed.Ended(event.Job.Kind)
			}
		})
	}()
	if !unbind() { // ctx ended meanwhile, and took the client with it
		<-ss.client.Stopped()
		s.session.Store(nil)
		return context.Cause(ctx)
	}
	ss.background.Go(func() { ss.ticker.Run(runCtx) })
	ss.background.Go(func() { s.maintain(runCtx, ss) })
	go ss.failed.Run()
	return nil
}

// processConfig configures the heartbeat of this process.
func (s *Scheduler) processConfig(self store.Process, ss *session) process.Config {
	self.Registrations, self.Jobs, self.Workers = schedule.HashOf(s.reg.Jobs()), namesOf(s.reg.Jobs()), ss.workers.Count()
	return process.Config{
		Self: self, DeadAfter: s.cfg.DeadAfter, Store: s.store, Log: ss.log, Clock: s.clock.Learn,
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return conns.Connect(ctx, s.own) }, Busy: ss.workers.Busy,
		Died: func() {
			select {
			case ss.died <- struct{}{}:
			default:
			}
		},
	}
}

// newFlow returns the flow of the client with this ID.
func (s *Scheduler) newFlow(id string, ss *session) *flow.Flow {
	failover := conns.NewFailover(ss.pool, s.log)
	return flow.New(flow.Config{
		Log: s.log, Suspect: ss.process.Suspect,
		Failed: func(err error) {
			s.failover.Check(err) // the application's connections lead to the same server
			if failover.Check(err) {
				ss.flow.Reset()
			}
		},
		Owned: func(ctx context.Context, ids []int64, attempts []int) ([]int64, error) {
			return s.store.OwnedAttempts(ctx, ss.pool, id, ids, attempts, true)
		},
	})
}

// schedules returns the jobs that have a schedule.
func (s *Scheduler) schedules() []*provider.Definition {
	return slices.DeleteFunc(s.reg.Jobs(), func(d *provider.Definition) bool { return d.Schedule == nil })
}

// namesOf returns the names of jobs, never nil, which would be NULL.
func namesOf(defs []*provider.Definition) []string {
	names := make([]string, len(defs))
	for i, d := range defs {
		names[i] = d.Name
	}
	return names
}

// newTicker returns a ticker for these schedules, in a process that started at now.
func (s *Scheduler) newTicker(
	pool *pgxpool.Pool, log *slog.Logger, defs []*provider.Definition, now time.Time, live func() (int, map[string]bool),
) *schedule.Ticker {
	return schedule.New(schedule.Config{
		Pool: pool, Store: s.store, Clock: s.clock, Log: log, Jobs: defs, QueueOf: s.queues.Of,
		Hash: schedule.HashOf(s.reg.Jobs()), Started: now, Live: live, Insert: s.inserts.Tx, Notify: s.wake.Notify,
	})
}

// The working client's pace, chosen by measurement (docs/scaling.md). A process fetches when it is notified, at most
// once per wake.Cooldown times the number of live processes at its start, up to River's own 100 ms, so that many
// processes do not all fetch for each job. The poll finds jobs whose notification was lost.
const (
	mostFetchCooldown = riverqueue.FetchCooldownDefault
	fetchPollInterval = 500 * time.Millisecond
	pollOnlyInterval  = 200 * time.Millisecond
	// riverNeverRescues disables River's rescuer. It goes by the leader's clock, so a leader whose clock is ahead
	// takes running jobs for dead; and if several services share a schema, it discards jobs that the leader has
	// not registered.
	riverNeverRescues = 100 * 365 * 24 * time.Hour
)

func (s *Scheduler) clientConfig(id string, ss *session, indexes []string, live int) (*riverqueue.Config, error) {
	cfg := &riverqueue.Config{
		ID:                  id,
		Logger:              riverLogger(ss.log),
		Schema:              s.cfg.Schema,
		PollOnly:            s.cfg.PollOnly,
		FetchCooldown:       min(wake.Cooldown*time.Duration(max(1, live)), mostFetchCooldown),
		FetchPollInterval:   fetchPollInterval,
		FetchOnlyKnownKinds: true,
		Queues:              make(map[string]riverqueue.QueueConfig),
		Workers:             riverqueue.NewWorkers(),
		// Definition.Run applies the job's own; River's would cost a goroutine per run.
		JobTimeout:           -1,
		RescueStuckJobsAfter: riverNeverRescues,
		ReindexerIndexNames:  indexes,
		// River knows one period for all that we call cancelled, skipped, or failed by a permanent error. Maintenance
		// deletes those to be deleted sooner.
		CompletedJobRetentionPeriod: s.cfg.Retention,
		DiscardedJobRetentionPeriod: s.cfg.FailedRetention,
		CancelledJobRetentionPeriod: max(s.cfg.Retention, s.cfg.FailedRetention),
	}
	if s.cfg.PollOnly {
		cfg.FetchPollInterval = pollOnlyInterval
	}
	env := &work.Env{
		Store: s.store, Log: s.log, App: s.pool, Own: ss.pool, Client: id, Stopping: ss.stopping,
		Paused: s.pauses.Has, Suspect: ss.process.Suspect, Succeeded: ss.ticker.Succeeded, Going: s.going,
		LastSuccess: ss.ticker.LastSuccess,
		Ended:       ss.flow.Ended,
		EndedRuns:   ss.flow.EndedRuns,
		Refused:     func(err error) { s.failover.Check(err) },
	}
	for queue, slots := range ss.workers {
		cfg.Queues[queue] = riverqueue.QueueConfig{MaxWorkers: slots.N}
	}
	for _, d := range s.reg.Jobs() {
		queue := s.queues.Of(d)
		work.Add(cfg.Workers, env, d, queue, ss.workers[queue])
		if d.Schedule != nil {
			cfg.PeriodicJobs = append(cfg.PeriodicJobs, schedule.Periodic(d.Schedule, s.clock.Offset, ss.ticker.Prompt))
		}
	}
	if err := s.configure(cfg); err != nil {
		return nil, err
	}
	// What only the leader does; ctx ends when the process stops leading.
	lead := func(ctx context.Context, _ *rivertype.HookPeriodicJobsStartParams) error {
		ss.ticker.CheckNow()
		ss.background.Go(func() { s.wake.Watch(ctx, ss.pool, ss.log) })
		return nil
	}
	cfg.Hooks = append(cfg.Hooks, riverqueue.HookPeriodicJobsStartFunc(lead))
	return cfg, nil
}

// events subscribes to what River has stored: jobs that return to the queue or fail for good, and, if ticks wait for
// runs, completed ones. River drops events that do not fit, so the channel holds more than River stores at once.
func (s *Scheduler) events() *riverqueue.SubscribeConfig {
	kinds := []riverqueue.EventKind{
		riverqueue.EventKindJobFailed, riverqueue.EventKindJobCancelled,
		riverqueue.EventKindJobSnoozed, riverqueue.EventKindJobInterrupted,
	}
	if len(s.namesOfAll()) > 0 {
		kinds = append(kinds, riverqueue.EventKindJobCompleted)
	}
	return &riverqueue.SubscribeConfig{Kinds: kinds, ChanSize: 20_000}
}

// namesOfAll returns the jobs with [jobs.CatchUp] of [jobs.CatchUpAll].
func (s *Scheduler) namesOfAll() []string {
	return namesOf(slices.DeleteFunc(s.schedules(), func(d *provider.Definition) bool { return d.CatchUp != jobs.CatchUpAll }))
}

// hardStopGrace is how long Shutdown waits for handlers and functions of OnFailed after cancelling them.
const hardStopGrace = 10 * time.Second

// Shutdown implements [jobs.Scheduler]. If a handler ignores its context for 10 seconds after it was cancelled,
// Shutdown returns without it and the error says so. Its job stays with this process while the process lives, and is
// rescued [Config].DeadAfter after its end. A job whose result could not be stored runs again: the error says how
// many, or that the database did not answer.
func (s *Scheduler) Shutdown(ctx context.Context) error {
	if err := s.takeTurn(ctx); err != nil {
		return fmt.Errorf("river: shutdown: another Start or Shutdown is in progress: %w", err)
	}
	defer s.giveTurn()
	if !s.started.Load() {
		return jobs.ErrNotStarted
	}
	defer s.reg.Thaw()
	s.ending.Store(true)
	defer s.ending.Store(false)
	s.started.Store(false)
	ss := s.session.Load()
	if ss == nil {
		s.logSession(ctx, "scheduler stopped", nil)
		return nil
	}
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx)) // ends hardStopGrace after ctx
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(hardStopGrace, cancel) })()
	err := s.stop(ctx, hard, ss)
	if ss.failed.Stop(ctx, hard) {
		err = errors.Join(err, fmt.Errorf("river: shutdown: OnFailed functions that were still running were cancelled and are called again: %w", ctx.Err()))
	}
	ss.background.Wait() // bounded: everything in it ends now or has a timeout
	s.session.Store(nil)
	end := func() {
		<-ss.client.Stopped()
		<-ss.returned
		ss.ticker.StoreSuccesses(context.WithoutCancel(ctx))
		ss.folded.Close()
		ss.process.Stop()
		ss.pool.Close()
	}
	select {
	case <-ss.client.Stopped():
		end()
	default: // handlers that ignore their context may still end, and River stores their results
		go end()
	}
	if err == nil {
		s.logSession(ctx, "scheduler stopped", ss)
	}
	return err
}

// stop stops the client. When ctx ends it cancels the handlers, and when hard ends it leaves them behind.
func (s *Scheduler) stop(ctx, hard context.Context, ss *session) error {
	ss.stop()
	ss.process.Drain()
	if err := ss.client.Stop(ctx); err == nil {
		return s.checkStored(ctx, ss)
	} else if ctx.Err() == nil {
		return err
	}
	close(ss.stopping)
	if err := ss.client.StopAndCancel(hard); err != nil {
		return fmt.Errorf("river: shutdown: %s after they were cancelled, handlers that ignore their context are still running, or results are not stored yet: %w", hardStopGrace, ctx.Err())
	}
	err := fmt.Errorf("river: shutdown: jobs that were still running were cancelled and return to the queue: %w", ctx.Err())
	return errors.Join(err, s.checkStored(ctx, ss))
}

// storedTimeout bounds how long Shutdown checks that all results are stored.
const storedTimeout = 5 * time.Second

// checkStored returns an error unless River has stored the last results of a client that has stopped. River gives up
// after a few tries without reporting it.
func (s *Scheduler) checkStored(ctx context.Context, ss *session) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storedTimeout) // ctx may be about to end
	defer cancel()
	// A job whose fetch was lost would wait until this process is taken for dead.
	lost, err := 0, ss.stalls.GiveBack(ctx, 0)
	if err == nil {
		lost, err = s.store.CountRunningBy(ctx, ss.pool, ss.client.ID())
	}
	switch {
	case err != nil:
		return fmt.Errorf("river: shutdown: could not confirm that the last results were stored; jobs without a stored result run again, or fail if it was their last attempt: %w", err)
	case lost > 0:
		return fmt.Errorf("river: shutdown: the results of %d jobs could not be stored; they run again, or fail if it was their last attempt", lost)
	}
	return nil
}
