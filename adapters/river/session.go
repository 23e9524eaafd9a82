package river

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/process"
	"github.com/everytick/everytick/adapters/river/internal/schedule"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/adapters/river/internal/wake"
	"github.com/everytick/everytick/adapters/river/internal/work"
	"github.com/everytick/everytick/jobs"
)

// A session is the time from one Start to the end of River's client: the parts that run, in the order in which
// they are started.
type session struct {
	pool    *pgxpool.Pool    // for what goes on between jobs
	process *process.Process // the heartbeat
	ticker  *schedule.Ticker
	client  *riverqueue.Client[pgx.Tx]
	slots   map[string]*work.Slots // by queue

	startedAt time.Time
	died      chan struct{} // gets a signal when a process has
	stopping  chan struct{} // closed when running jobs are cancelled
	// stop ends what runs beside the client, and background waits for it.
	stop       context.CancelFunc
	background sync.WaitGroup
	// returned is closed when the client has stopped and others know of the jobs it gave back.
	returned chan struct{}
}

// Start implements [jobs.Scheduler]. It fails when the database does not answer or
// [Migrate] has not been run.
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
	if len(s.reg.Jobs()) > 0 {
		if err := s.startSession(ctx); err != nil {
			return err
		}
	}
	s.started.Store(true)
	s.logSession(ctx, "scheduler started", s.session.Load())
	return nil
}

// logSession says that ss has started or stopped; nil is one that only triggers.
func (s *Scheduler) logSession(ctx context.Context, msg string, ss *session) {
	workers := 0
	if ss != nil {
		for _, slots := range ss.slots {
			workers += slots.N
		}
	}
	s.log.InfoContext(ctx, msg, "schema", s.cfg.Schema, "jobs", len(s.reg.Jobs()), "workers", workers)
}

// takeTurn waits for its turn among Start and Shutdown, no longer than ctx. A free turn
// is taken even if ctx has ended: Shutdown with such a ctx is the hard stop.
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
	ss := &session{startedAt: time.Now(), returned: make(chan struct{}), stopping: make(chan struct{}), died: make(chan struct{}, 1), slots: map[string]*work.Slots{}}
	if ss.pool, err = s.newOwnPool(ctx); err != nil {
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
	ss.slots[s.cfg.Queue] = &work.Slots{N: s.cfg.MaxWorkers}
	for _, d := range s.reg.Jobs() {
		if d.Concurrency > 0 {
			ss.slots[s.queueOf(d)] = &work.Slots{N: d.Concurrency}
		}
	}
	ss.ticker = s.newTicker(ss.pool, s.schedules(), now, func() (int, map[string]bool) { return ss.process.Live() })
	id := newClientID()
	if ss.process, err = process.Start(ctx, s.processConfig(id, ss)); err != nil {
		return err
	}
	if err := ss.ticker.Register(ctx); err != nil {
		return err
	}
	live, err := s.store.CountLiveProcesses(ctx, ss.pool, s.cfg.DeadAfter)
	if err != nil {
		return err
	}
	cfg, err := s.clientConfig(id, ss, indexes, live)
	if err != nil {
		return err
	}
	if ss.client, err = riverqueue.NewClient(riverpgxv5.New(ss.pool), cfg); err != nil {
		return err
	}
	events, unsubscribe := ss.client.SubscribeConfig(s.events())
	// River ties the life of the jobs to the context of its Start; ours bounds the
	// start alone.
	clientCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unbind := context.AfterFunc(ctx, cancel)
	s.session.Store(ss)
	if err := ss.client.Start(clientCtx); err != nil {
		s.session.Store(nil)
		cancel()
		unsubscribe()
		return err
	}
	go func() {
		defer close(ss.returned)
		all := s.namesOfAll()
		s.wake.Returned(events, ss.pool, func(event *riverqueue.Event) { // until the client has stopped
			if slices.Contains(all, event.Job.Kind) {
				ss.ticker.Look() // a tick may wait for the run
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
	return nil
}

// newClientID returns an ID for River's client that no other has, with the host and process ID in it.
func newClientID() string {
	return fmt.Sprintf("%.60s_%d_%s", hostname(), os.Getpid(), rand.Text()[:8])
}

func hostname() string {
	host, _ := os.Hostname() // may be unknown
	return host
}

// ownConns is how many connections a started scheduler may have beside those of the pool
// that it was given. Two cores do no more with 20.
const ownConns = 4

// newOwnPool makes a pool for what goes on between jobs: fetching them, storing what became of
// them, ticks. Handlers and the rest of the application may use up theirs, and all of that
// would wait behind them.
func (s *Scheduler) newOwnPool(ctx context.Context) (*pgxpool.Pool, error) {
	cfg := s.pool.Config()
	cfg.MaxConns, cfg.MinConns, cfg.MinIdleConns = min(ownConns, cfg.MaxConns), 0, 0
	if !s.cfg.PollOnly { // where a pooler may give the session to others
		configured := cfg.AfterConnect
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			if configured != nil {
				if err := configured(ctx, conn); err != nil {
					return err
				}
			}
			// River's statements and ours expect to see what others have committed meanwhile.
			_, err := conn.Exec(ctx, `SET default_transaction_isolation = 'read committed'`)
			return err
		}
	}
	return pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
}

// processConfig is that of this process's heartbeat.
func (s *Scheduler) processConfig(id string, ss *session) process.Config {
	version := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	workers := s.cfg.MaxWorkers
	for _, d := range s.reg.Jobs() {
		workers += d.Concurrency
	}
	return process.Config{
		Self: store.Process{
			ID: id, Host: hostname(), PID: os.Getpid(), Version: version, Registrations: schedule.HashOf(s.reg.Jobs()),
			Jobs: namesOf(s.reg.Jobs()), Workers: workers,
		},
		DeadAfter: s.cfg.DeadAfter, Store: s.store, Log: s.log, Clock: s.clock.Learn,
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return s.connect(ctx) },
		Busy:    ss.busy,
		Died: func() {
			select {
			case ss.died <- struct{}{}:
			default:
			}
		},
	}
}

// connect opens a connection as the pool does.
func (s *Scheduler) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg := s.pool.Config()
	if cfg.BeforeConnect != nil {
		if err := cfg.BeforeConnect(ctx, cfg.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err == nil && cfg.AfterConnect != nil {
		if err = cfg.AfterConnect(ctx, conn); err != nil {
			_ = conn.Close(ctx)
		}
	}
	return conn, err
}

// busy returns how many jobs run.
func (ss *session) busy() (n int) {
	for _, slots := range ss.slots {
		n += slots.Taken()
	}
	return n
}

// schedules returns the jobs that have one.
func (s *Scheduler) schedules() []*jobs.Definition {
	return slices.DeleteFunc(s.reg.Jobs(), func(d *jobs.Definition) bool { return d.Schedule == nil })
}

func namesOf(defs []*jobs.Definition) []string {
	names := make([]string, len(defs))
	for i, d := range defs {
		names[i] = d.Name
	}
	return names
}

// newTicker returns a ticker of these schedules, for a process that started at now.
func (s *Scheduler) newTicker(pool *pgxpool.Pool, defs []*jobs.Definition, now time.Time, live func() (int, map[string]bool)) *schedule.Ticker {
	registrations := make([]schedule.Registration, len(defs))
	for i, d := range defs {
		registrations[i] = schedule.Registration{
			Name: d.Name, Schedule: d.Schedule, Spec: schedule.SpecOf(d), CatchUp: d.CatchUp,
			Queue: s.queueOf(d), Priority: d.Priority, MaxAttempts: d.MaxAttempts,
		}
	}
	return schedule.New(schedule.Config{
		Pool: pool, Store: s.store, Clock: s.clock, Log: s.log, Registrations: registrations,
		Hash: schedule.HashOf(s.reg.Jobs()), Started: now, Live: live, Insert: s.inserts.Tx, Notify: s.wake.Notify,
	})
}

// These are the working client's pace, chosen by measurement (docs/scaling.md). A fetch
// follows a notification at once, at most every wake.Cooldown times the number of processes that
// live as this one starts, up to River's own 100 ms, so that many processes do not ask for each
// job at once. The poll finds what no notification told of.
const (
	mostFetchCooldown = riverqueue.FetchCooldownDefault
	fetchPollInterval = 500 * time.Millisecond
	pollOnlyInterval  = 200 * time.Millisecond
	// riverNeverRescues puts River's rescuer out of work. It goes by the leader's clock, so that one that is
	// ahead takes what runs for dead; and where several services share a schema it discards the jobs that the
	// leader has not registered.
	riverNeverRescues = 100 * 365 * 24 * time.Hour
)

func (s *Scheduler) clientConfig(id string, ss *session, indexes []string, live int) (*riverqueue.Config, error) {
	cfg := &riverqueue.Config{
		ID:                          id,
		Logger:                      riverLogger(s.log),
		Schema:                      s.cfg.Schema,
		PollOnly:                    s.cfg.PollOnly,
		FetchCooldown:               min(wake.Cooldown*time.Duration(max(1, live)), mostFetchCooldown),
		FetchPollInterval:           fetchPollInterval,
		FetchOnlyKnownKinds:         true,
		Queues:                      map[string]riverqueue.QueueConfig{s.cfg.Queue: {MaxWorkers: s.cfg.MaxWorkers}},
		Workers:                     riverqueue.NewWorkers(),
		CancelledJobRetentionPeriod: s.cfg.Retention,
		CompletedJobRetentionPeriod: s.cfg.Retention,
		DiscardedJobRetentionPeriod: s.cfg.Retention,
		// jobs.Definition.Run keeps the job's own; River's would cost each run a goroutine.
		JobTimeout:           -1,
		RescueStuckJobsAfter: riverNeverRescues,
		ReindexerIndexNames:  indexes,
	}
	if s.cfg.PollOnly {
		cfg.FetchPollInterval = pollOnlyInterval
	}
	env := &work.Env{
		Store: s.store, Log: s.log, App: s.pool, Own: ss.pool, Client: id, Stopping: ss.stopping,
		Paused: s.pauses.Has, Suspect: ss.process.Suspect, Succeeded: ss.ticker.Succeeded,
	}
	for _, d := range s.reg.Jobs() {
		queue := s.queueOf(d)
		if d.Concurrency > 0 {
			cfg.Queues[queue] = riverqueue.QueueConfig{MaxWorkers: d.Concurrency}
		}
		work.Add(cfg.Workers, env, d, queue, ss.slots[queue])
		if d.Schedule != nil {
			cfg.PeriodicJobs = append(cfg.PeriodicJobs, schedule.Periodic(d.Schedule, s.clock.Offset, ss.ticker.Prompt))
		}
	}
	if err := s.configure(cfg); err != nil {
		return nil, err
	}
	cfg.Hooks = append(cfg.Hooks, &leaderHook{s: s, session: ss})
	return cfg, nil
}

// leaderHook begins what only the leader does.
type leaderHook struct {
	riverqueue.HookDefaults
	s       *Scheduler
	session *session
}

// Start implements [rivertype.HookPeriodicJobsStart]. Its context ends when the process leads no more.
func (h *leaderHook) Start(ctx context.Context, _ *rivertype.HookPeriodicJobsStartParams) error {
	h.session.ticker.Look()
	h.session.background.Go(func() { h.s.wake.Watch(ctx, h.session.pool) })
	return nil
}

// events are what River says once it is stored: of jobs that go back to the queue, and of runs that ended if
// ticks wait for runs. River drops what does not fit, so all may be in there that it stores at once.
func (s *Scheduler) events() *riverqueue.SubscribeConfig {
	kinds := []riverqueue.EventKind{riverqueue.EventKindJobFailed, riverqueue.EventKindJobSnoozed, riverqueue.EventKindJobInterrupted}
	if len(s.namesOfAll()) > 0 {
		kinds = append(kinds, riverqueue.EventKindJobCompleted, riverqueue.EventKindJobCancelled)
	}
	return &riverqueue.SubscribeConfig{Kinds: kinds, ChanSize: 20_000}
}

// namesOfAll returns the jobs whose ticks all run, one after the other.
func (s *Scheduler) namesOfAll() []string {
	return namesOf(slices.DeleteFunc(s.schedules(), func(d *jobs.Definition) bool { return d.CatchUp != jobs.All }))
}

// hardStopGrace is how long Shutdown waits for handlers after cancelling them.
const hardStopGrace = 10 * time.Second

// Shutdown implements [jobs.Scheduler]. A handler that ignores its context for 10
// seconds after it was cancelled is left behind, and the error says so; its job stays this process's
// while that lives, and goes to another [Config].DeadAfter after its end. If what became of a job could not be
// stored it runs again: an error says how many, or that the database does not say.
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
	err := s.stop(ctx, ss)
	ss.background.Wait() // not for long: what is in it has a limit, or ends now
	s.session.Store(nil)
	end := func() {
		<-ss.client.Stopped()
		<-ss.returned
		ss.process.Stop()
		ss.pool.Close()
	}
	select {
	case <-ss.client.Stopped():
		end()
	default: // handlers that ignore their context may end yet, and River stores what became of them
		go end()
	}
	if err == nil {
		s.logSession(ctx, "scheduler stopped", ss)
	}
	return err
}

func (s *Scheduler) stop(ctx context.Context, ss *session) error {
	ss.stop()
	ss.process.Drain()
	if err := ss.client.Stop(ctx); err == nil {
		return s.checkStored(ctx, ss)
	} else if ctx.Err() == nil {
		return err
	}
	close(ss.stopping)
	hardCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hardStopGrace)
	defer cancel()
	if err := ss.client.StopAndCancel(hardCtx); err != nil {
		return fmt.Errorf("river: shutdown: %s after they were cancelled, handlers that ignore their context still run, or the results of jobs are not stored yet: %w", hardStopGrace, ctx.Err())
	}
	err := fmt.Errorf("river: shutdown: the jobs that still ran, if any, were cancelled, and go back to the queue unless they were done: %w", ctx.Err())
	return errors.Join(err, s.checkStored(ctx, ss))
}

// storedTimeout bounds how long Shutdown asks whether all is stored.
const storedTimeout = 5 * time.Second

// checkStored says whether River could store what became of the last jobs of a client that has
// stopped: it gives up after some tries, and reports nothing.
func (s *Scheduler) checkStored(ctx context.Context, ss *session) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storedTimeout) // it may end just now
	defer cancel()
	lost, err := s.store.CountRunningBy(ctx, ss.pool, ss.client.ID())
	switch {
	case err != nil:
		return fmt.Errorf("river: shutdown: could not confirm that the last results were stored; jobs without a stored result run again, or fail if it was their last attempt: %w", err)
	case lost > 0:
		return fmt.Errorf("river: shutdown: the results of %d jobs could not be stored: they run again, or fail if it was their last attempt", lost)
	}
	return nil
}
