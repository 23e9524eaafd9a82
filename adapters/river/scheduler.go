// Package river runs everytick's jobs on River (https://riverqueue.com), a queue
// in PostgreSQL. It is the production provider.
//
//	if err := river.Migrate(ctx, pool, ""); err != nil { … }
//	s, err := river.New(pool, nil)
//	err = audit.RegisterAuditJobs(s)
//	err = s.Start(ctx)
//	defer s.Shutdown(shutdownCtx)
//
// Each job's River kind is its registered name, and the args of a triggered job
// are exactly its data, so River UI, metrics and River clients of other languages
// see the application's own jobs. Processes on one database and schema form one
// cluster: any of them may run any job it has registered.
//
// Cron and interval registrations become River periodic jobs whose next tick is
// always stored; see the file ticks.go. Handlers and callers use the pool given to [New].
// What goes on between jobs has a pool of its own while started, of the same configuration,
// with up to four connections, and one more that listens.
package river

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/internal/batch"
	"github.com/everytick/everytick/jobs"
)

// DefaultSchema is the database schema that holds River's tables unless
// [Config].Schema names another.
const DefaultSchema = "river"

// DefaultMaxWorkers is how many jobs run at once in a process unless [Config].MaxWorkers
// says otherwise.
const DefaultMaxWorkers = 100

// Config configures a [Scheduler]. The zero value, and a nil *Config, mean the
// defaults.
type Config struct {
	// Logger receives the scheduler's messages and River's, and is the base of the
	// loggers that handlers get. River's below warn are left out, as the scheduler
	// says what matters of them, unless the logger takes debug messages. Defaults to
	// [slog.Default].
	Logger *slog.Logger

	// Schema is the database schema of River's tables, as given to [Migrate]. It
	// matches ^[a-zA-Z_][a-zA-Z0-9_]*$ and has 46 characters at most. Defaults to "river".
	Schema string

	// MaxWorkers is how many jobs run at once in this process, beside those that
	// have workers of their own by [jobs.Concurrency]. From 1 to 10,000. Defaults to
	// [DefaultMaxWorkers]. Handlers that keep a connection of the pool for long want fewer.
	MaxWorkers int

	// Defaults are applied to every job before its own options. Without any, a job
	// has 3 attempts, 5 s before the first retry, 5 min of time, and priority 1.
	Defaults []jobs.Option

	// RescueAfter is how long after its timeout a job whose process died is given
	// to another. At least 1 s. Defaults to 5 minutes.
	RescueAfter time.Duration

	// Retention is how long jobs that completed, failed or were cancelled are kept.
	// At least 13 hours, so that every tick of [jobs.CatchUpWindow] that ran is
	// known to have run. Defaults to 24 hours.
	Retention time.Duration

	// PollOnly does without LISTEN and NOTIFY, for PgBouncer in transaction mode or
	// YugabyteDB, in workers and in processes that only trigger: a job then starts
	// within the poll interval of 200 ms instead of at once.
	PollOnly bool

	// TriggerOnly makes a scheduler that enqueues jobs which other processes have
	// registered: it registers nothing and works nothing, and takes every valid name.
	// The workers apply the retries and the concurrency the job is registered with; a
	// delay or priority is only known here if it is given with the trigger.
	TriggerOnly bool

	// River changes River's own configuration, for what this package has no name for: hooks,
	// middleware and plugins (logging, tracing, encryption), periods, limits. It is called afresh for
	// each of the two clients, with the configuration of that client: by New for the one that inserts
	// what is triggered, and by each Start for the one that works. So hooks and middleware see every
	// Trigger, TriggerTx, TriggerMany, TriggerBulk and tick, and every run. The package's own come
	// after them. Triggers that come at the same time share one insert, whose context has none of
	// their values. With an insert middleware or a plugin each insert is a transaction, so that nothing
	// is stored when one fails afterwards. To change ID, Queues, Workers, PeriodicJobs, Schema,
	// LeaderElectionDisabled, RescueStuckJobsAfter or JobTimeout is an error of New or Start.
	River func(*riverqueue.Config)
}

// These are the working client's pace, chosen by measurement (docs/scaling.md). A fetch
// follows an insert's notification at once, at most every fetchCooldown: with River's
// 100 ms a job at a bad moment waits that long, and 100 workers do 1,000 jobs a second;
// with 5 ms a notification that comes just after a poll costs 5 ms at most, and fewer
// bring no more. The poll finds what no notification told of, so that a tick starts within
// a second also while nobody leads; each process asks so often when idle, for each queue.
// With PollOnly it finds all, and a job is half of the interval late.
const (
	fetchCooldown     = 5 * time.Millisecond
	fetchPollInterval = 500 * time.Millisecond
	pollOnlyInterval  = 200 * time.Millisecond
)

// hardStopGrace is how long Shutdown waits for handlers after cancelling them.
const hardStopGrace = 10 * time.Second

// Scheduler is a [jobs.Scheduler] on River. Its methods may be called from several
// goroutines at once.
type Scheduler struct {
	reg    *jobs.Registry
	pool   *pgxpool.Pool
	cfg    Config
	log    *slog.Logger
	clock  *dbclock.Clock
	store  *store.Store
	table  string // river_job, qualified and quoted
	leader string // river_leader, likewise
	// inBitmask is River's function river_job_state_in_bitmask, likewise.
	inBitmask string
	state     string // River's type river_job_state, likewise
	pauses    string // our table of paused jobs, likewise

	insertOnly *riverqueue.Client[pgx.Tx]
	inserts    *insert.Inserter
	ticks      *batch.Batcher[riverqueue.InsertManyParams]
	notifier   *notifier
	background sync.WaitGroup // the seeder's insertions, and what runs while this process leads

	paused pauseSet
	// analyzeAgain is the time before which a failed ANALYZE is not repeated, in Unix
	// nanoseconds.
	analyzeAgain atomic.Int64

	own     atomic.Pointer[pgxpool.Pool]       // see startOwn; nil when not started
	workers atomic.Pointer[map[string]*worker] // by name, of the latest start

	busy chan struct{} // holds a token through Start and Shutdown
	// stopKeeping is set by Start and called by Shutdown.
	stopKeeping context.CancelFunc
	// returned is closed when the client has stopped and others know of the jobs it gave back.
	returned chan struct{}

	ledSince  atomic.Int64 // when this process last became leader, by the database's clock, in Unix nanoseconds
	migrated  atomic.Bool  // the schema has been found complete
	working   atomic.Pointer[riverqueue.Client[pgx.Tx]]
	started   atomic.Bool
	startedAt atomic.Int64 // Unix nanoseconds
	// watchedSince is when this process began to look after its schedules, by the database's clock.
	watchedSince atomic.Int64
	ending       atomic.Bool // a Shutdown goes on
	stopping     atomic.Bool // running jobs are being cancelled
}

var (
	_ jobs.Scheduler     = (*Scheduler)(nil)
	_ jobs.TxTriggerer   = (*Scheduler)(nil)
	_ jobs.BulkTriggerer = (*Scheduler)(nil)
)

var errNilPool = errors.New("river: the pool is nil")

var errOneConnection = errors.New("river: the pool allows 1 connection, at least 2 are needed: set pool_max_conns")

var schemaPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// maxSchemaBytes is River's limit: the names of its notifications begin with the schema's.
const maxSchemaBytes = 46

func checkSchema(schema string) (string, error) {
	schema = cmp.Or(schema, DefaultSchema)
	if !schemaPattern.MatchString(schema) || len(schema) > maxSchemaBytes {
		return "", fmt.Errorf("river: schema name %q: want letters, digits and underscores, not beginning with a digit, %d at most", schema, maxSchemaBytes)
	}
	return schema, nil
}

// New returns a scheduler on pool, not started. It sends no query. cfg may be nil.
// An invalid field of cfg is an error that says what is allowed. The pool must
// allow two connections at least.
func New(pool *pgxpool.Pool, cfg *Config) (*Scheduler, error) {
	if pool == nil {
		return nil, errNilPool
	}
	c := Config{}
	if cfg != nil {
		c = *cfg
	}
	var err error
	if c.Schema, err = checkSchema(c.Schema); err != nil {
		return nil, err
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.MaxWorkers = cmp.Or(c.MaxWorkers, DefaultMaxWorkers)
	c.RescueAfter = min(cmp.Or(c.RescueAfter, 5*time.Minute), 1<<61) // a timeout is added to it
	c.Retention = cmp.Or(c.Retention, 24*time.Hour)
	switch {
	case c.MaxWorkers < 1 || c.MaxWorkers > riverqueue.QueueNumWorkersMax:
		return nil, fmt.Errorf("river: MaxWorkers %d: allowed is 1 to %d", c.MaxWorkers, riverqueue.QueueNumWorkersMax)
	case c.RescueAfter < time.Second:
		return nil, fmt.Errorf("river: RescueAfter %s: at least 1s is allowed", c.RescueAfter)
	case c.Retention < jobs.CatchUpWindow+time.Hour:
		return nil, fmt.Errorf("river: Retention %s: at least %s is allowed", c.Retention, jobs.CatchUpWindow+time.Hour)
	case pool.Config().MaxConns < 2 && !c.TriggerOnly:
		return nil, errOneConnection
	}
	reg, err := jobs.NewRegistry(c.Defaults...)
	if err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	s := &Scheduler{
		reg: reg, pool: pool, cfg: c, log: c.Logger, busy: make(chan struct{}, 1),
		table:     pgx.Identifier{c.Schema, "river_job"}.Sanitize(),
		leader:    pgx.Identifier{c.Schema, "river_leader"}.Sanitize(),
		inBitmask: pgx.Identifier{c.Schema, "river_job_state_in_bitmask"}.Sanitize(),
		state:     pgx.Identifier{c.Schema, "river_job_state"}.Sanitize(),
		pauses:    pgx.Identifier{c.Schema, pauseTable}.Sanitize(),
		store:     store.New(c.Schema),
	}
	s.clock = dbclock.New(func(ctx context.Context, ask func(dbclock.Asker) error) error {
		return s.ownPool().AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return ask(conn) })
	}, time.Now)
	cfgInsert := &riverqueue.Config{
		Logger: riverLogger(c.Logger),
		Schema: c.Schema,
		// Of what somebody inserts by the client itself; of ours the notifier tells.
		FetchCooldown: fetchCooldown,
	}
	if err := s.configure(cfgInsert); err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	s.insertOnly, err = riverqueue.NewClient(riverpgxv5.New(pool), cfgInsert)
	if err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	s.notifier = &notifier{pool: pool, log: c.Logger, schema: c.Schema, pollOnly: c.PollOnly}
	s.inserts = insert.New(pool, s.insertOnly, insertsInTx(cfgInsert), s.inserted)
	s.ticks = batch.New(batch.Config[riverqueue.InsertManyParams]{
		Call: s.storeTicks, Divisible: func(error) bool { return false }, Size: func(riverqueue.InsertManyParams) int { return 0 },
		MaxItems: 1000, MaxSize: 1, Patience: 250 * time.Millisecond, Timeout: 10 * time.Second,
	})
	return s, nil
}

// inserted has workers told of jobs that were inserted.
func (s *Scheduler) inserted(ctx context.Context, all []*insert.Job) {
	s.tellWhenDue(all...)
	s.notifier.notify(ctx, s.pool, queuesOf(all...))
}

// configure lets the user change cfg, and adds the hooks that every insert needs.
func (s *Scheduler) configure(cfg *riverqueue.Config) error {
	if s.cfg.River != nil {
		before := *cfg
		before.Queues, before.PeriodicJobs = maps.Clone(cfg.Queues), slices.Clone(cfg.PeriodicJobs)
		s.cfg.River(cfg)
		for field, changed := range map[string]bool{
			"ID": cfg.ID != before.ID, "Schema": cfg.Schema != before.Schema, "Workers": cfg.Workers != before.Workers,
			"Queues":                 !maps.Equal(cfg.Queues, before.Queues),
			"PeriodicJobs":           !slices.Equal(cfg.PeriodicJobs, before.PeriodicJobs),
			"LeaderElectionDisabled": cfg.LeaderElectionDisabled != before.LeaderElectionDisabled,
			"RescueStuckJobsAfter":   cfg.RescueStuckJobsAfter != before.RescueStuckJobsAfter,
			"JobTimeout":             cfg.JobTimeout != before.JobTimeout,
		} {
			if changed {
				return fmt.Errorf("Config.River has changed %s: all else of River's configuration may be changed, but not ID, Queues, Workers, "+
					"PeriodicJobs, Schema, LeaderElectionDisabled, RescueStuckJobsAfter and JobTimeout", field)
			}
		}
	}
	cfg.Hooks = append(slices.Clone(cfg.Hooks), &insert.Hook{Clock: s.clock}, &tickHook{})
	return nil
}

// insertsInTx reports whether somebody's insert middleware, or a plugin that may have one, sees inserts.
func insertsInTx(cfg *riverqueue.Config) bool {
	return len(cfg.Plugins) > 0 || len(cfg.JobInsertMiddleware) > 0 || slices.ContainsFunc(cfg.Middleware, func(m rivertype.Middleware) bool {
		_, ok := m.(rivertype.JobInsertMiddleware)
		return ok
	})
}

// riverLogger is the logger given to River.
func riverLogger(log *slog.Logger) *slog.Logger {
	if log.Enabled(context.Background(), slog.LevelDebug) {
		return log
	}
	return slog.New(warnHandler{log.Handler()})
}

// warnHandler leaves out messages below warn.
type warnHandler struct{ slog.Handler }

func (h warnHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

func (h warnHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnHandler{h.Handler.WithAttrs(attrs)}
}

func (h warnHandler) WithGroup(name string) slog.Handler {
	return warnHandler{h.Handler.WithGroup(name)}
}

// RegisterCron implements [jobs.Registrar].
func (s *Scheduler) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	if err := s.mayRegister(name); err != nil {
		return err
	}
	return s.reg.RegisterCron(name, pattern, h, opts...)
}

// RegisterInterval implements [jobs.Registrar].
func (s *Scheduler) RegisterInterval(name string, every time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	if err := s.mayRegister(name); err != nil {
		return err
	}
	return s.reg.RegisterInterval(name, every, h, opts...)
}

// RegisterDelayed implements [jobs.Registrar].
func (s *Scheduler) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	if err := s.mayRegister(name); err != nil {
		return err
	}
	return s.reg.RegisterDelayed(name, delay, h, opts...)
}

func (s *Scheduler) mayRegister(name string) error {
	if s.cfg.TriggerOnly {
		return fmt.Errorf("river: job %q cannot be registered: this scheduler is TriggerOnly", name)
	}
	return nil
}

// Client returns River's own client, for River UI and for what this package has
// no name for: the working one while started, else one that only inserts. It is a
// new one after each Start.
func (s *Scheduler) Client() *riverqueue.Client[pgx.Tx] {
	if c := s.working.Load(); c != nil {
		return c
	}
	return s.insertOnly
}

// Start implements [jobs.Scheduler]. It fails when the database does not answer or
// [Migrate] has not been run.
func (s *Scheduler) Start(ctx context.Context) (err error) {
	if err := s.acquire(ctx); err != nil {
		return fmt.Errorf("river: start: %w", err)
	}
	defer s.release()
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
		if err := s.startClient(ctx); err != nil {
			return err
		}
	}
	s.startedAt.Store(time.Now().UnixNano())
	s.started.Store(true)
	return nil
}

// acquire waits for its turn among Start and Shutdown, no longer than ctx. A free turn
// is taken even if ctx has ended: Shutdown with such a ctx is the hard stop.
func (s *Scheduler) acquire(ctx context.Context) error {
	select {
	case s.busy <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Scheduler) release() { <-s.busy }

func (s *Scheduler) startClient(ctx context.Context) (err error) {
	since, err := s.clock.Now(ctx, nil)
	if err != nil {
		return err
	}
	s.watchedSince.Store(since.UnixNano())
	if err := s.reconcile(ctx, false); err != nil {
		return err
	}
	if err := s.startPauses(ctx); err != nil {
		return err
	}
	indexes, err := s.inspectIndexes(ctx)
	if err != nil {
		return err
	}
	own, err := s.startOwn(ctx)
	if err != nil {
		return err
	}
	keepCtx, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			stopKeeping()
			s.own.Store(nil)
			own.Close()
		}
	}()
	cfg, err := s.clientConfig(indexes)
	if err != nil {
		return err
	}
	client, err := riverqueue.NewClient(riverpgxv5.New(own), cfg)
	if err != nil {
		return err
	}
	s.stopping.Store(false)
	// River ties the life of the jobs to the context of its Start; ours bounds the
	// start alone.
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	events, unsubscribe := client.SubscribeConfig(&returnEvents)
	if err := client.Start(runCtx); err != nil {
		cancel()
		unsubscribe()
		return err
	}
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		s.tellOfReturned(events, own) // until the client has stopped
	}()
	if !stop() { // ctx ended meanwhile, and took the client with it
		<-client.Stopped()
		return context.Cause(ctx)
	}
	s.working.Store(client)
	s.stopKeeping = stopKeeping
	s.returned = returned
	s.background.Go(func() { s.keep(keepCtx) })
	return nil
}

// ownConns is how many connections a started scheduler may have beside those of the pool
// that it was given. Two cores do no more with 20.
const ownConns = 4

// startOwn makes a pool for what goes on between jobs: taking them, storing what became of
// them, ticks. Handlers and the rest of the application may use up theirs, and all of that
// would stand in line behind them.
func (s *Scheduler) startOwn(ctx context.Context) (*pgxpool.Pool, error) {
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
	own, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
	if err == nil {
		s.own.Store(own)
	}
	return own, err
}

// ownPool returns the pool of startOwn while there is one, else that given to New.
func (s *Scheduler) ownPool() *pgxpool.Pool {
	if own := s.own.Load(); own != nil {
		return own
	}
	return s.pool
}

// newClientID returns an ID for River's client that no other has, with the host and process ID in it.
func newClientID() string {
	host, _ := os.Hostname() // may be unknown
	return fmt.Sprintf("%.60s_%d_%s", host, os.Getpid(), rand.Text()[:8])
}

func (s *Scheduler) clientConfig(indexes []string) (*riverqueue.Config, error) {
	cfg := &riverqueue.Config{
		ID:                          newClientID(),
		Logger:                      riverLogger(s.log),
		Schema:                      s.cfg.Schema,
		PollOnly:                    s.cfg.PollOnly,
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           fetchPollInterval,
		FetchOnlyKnownKinds:         true,
		Queues:                      map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: s.cfg.MaxWorkers}},
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
	short := &shortcut{workers: map[string]*worker{}}
	general := &slots{}
	for _, d := range s.reg.Jobs() {
		w := &worker{s: s, job: d, queue: queueOf(d), slots: general}
		short.workers[d.Name] = w
		riverqueue.AddWorkerArgs(cfg.Workers, rowArgs{&rowData{kind: d.Name}}, w)
		if d.Concurrency > 0 {
			w.slots = &slots{}
			cfg.Queues[w.queue] = riverqueue.QueueConfig{MaxWorkers: d.Concurrency}
		}
		if d.Schedule != nil {
			w.spec = specOf(d)
			cfg.PeriodicJobs = append(cfg.PeriodicJobs, s.periodicJobs(d)...)
		}
	}
	if err := s.configure(cfg); err != nil {
		return nil, err
	}
	theirs := len(cfg.Hooks) > 2 || len(cfg.Plugins) > 0
	cfg.Hooks = append(cfg.Hooks, &leaderHook{s: s})
	cfg.Middleware = append(slices.Clone(cfg.Middleware), &seederMiddleware{s: s})
	for _, w := range short.workers {
		w.slots.n = cfg.Queues[w.queue].MaxWorkers
	}
	s.workers.Store(&short.workers)
	if !theirs { // others may be about runs
		cfg.Middleware = append(cfg.Middleware, short) // the innermost
	}
	return cfg, nil
}

// Shutdown implements [jobs.Scheduler]. A handler that ignores its context for 10
// seconds after it was cancelled is left behind, and the error says so; its job is
// given to another process once its timeout and [Config].RescueAfter have passed. So is one
// whose end could not be stored: an error says how many, or that the database does not say.
func (s *Scheduler) Shutdown(ctx context.Context) error {
	if err := s.acquire(ctx); err != nil {
		return fmt.Errorf("river: shutdown: another call goes on: %w", err)
	}
	defer s.release()
	if !s.started.Load() {
		return jobs.ErrNotStarted
	}
	defer s.reg.Thaw()
	s.ending.Store(true)
	defer s.ending.Store(false)
	s.started.Store(false)
	client := s.working.Swap(nil)
	if client == nil {
		return nil
	}
	defer func() {
		s.background.Wait() // not for long: what is in it has a limit, or ends now
		own, returned := s.own.Swap(nil), s.returned
		closeOwn := func() {
			<-client.Stopped()
			<-returned
			own.Close()
		}
		select {
		case <-client.Stopped():
			closeOwn()
		default: // handlers that ignore their context may end yet, and River stores what became of them
			go closeOwn()
		}
	}()
	s.stopKeeping()
	if err := client.Stop(ctx); err == nil {
		return s.checkStored(ctx, client.ID())
	} else if ctx.Err() == nil {
		return err
	}
	s.stopping.Store(true)
	hardCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hardStopGrace)
	defer cancel()
	if err := client.StopAndCancel(hardCtx); err != nil {
		return fmt.Errorf("river: shutdown: %s after they were cancelled handlers that ignore their context still run, or what became of jobs is not stored yet: %w", hardStopGrace, ctx.Err())
	}
	err := fmt.Errorf("river: shutdown: the jobs that still ran, if any, were cancelled, and go back to the queue unless they were done: %w", ctx.Err())
	return errors.Join(err, s.checkStored(ctx, client.ID()))
}

// storedTimeout bounds how long Shutdown asks whether all is stored.
const storedTimeout = 5 * time.Second

// checkStored says whether River could store what became of the last jobs of a client that has
// stopped: it gives up after some tries, and reports nothing.
func (s *Scheduler) checkStored(ctx context.Context, clientID string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storedTimeout) // it may end just now
	defer cancel()
	var lost int
	err := s.ownPool().QueryRow(ctx, `SELECT count(*) FROM `+s.table+`
		WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = $1`, clientID).Scan(&lost)
	switch {
	case err != nil:
		return fmt.Errorf("river: shutdown: the database does not say whether it has stored what became of the last jobs; those of which it has not are run again, or fail if it was their last attempt: %w", err)
	case lost > 0:
		return fmt.Errorf("river: shutdown: what became of %d jobs could not be stored: they are run again, or fail if it was their last attempt", lost)
	}
	return nil
}
