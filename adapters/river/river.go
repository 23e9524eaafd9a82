// Package river runs everytick's jobs on River (https://riverqueue.com), a queue
// in PostgreSQL. It is the production provider.
//
//	if err := river.Migrate(ctx, pool, nil); err != nil { … }
//	s, err := river.New(pool, nil)
//	err = audit.RegisterAuditJobs(s)
//	err = s.Start(ctx)
//	defer s.Shutdown(shutdownCtx)
//
// Each job's River kind is its registered name, and the args of a triggered job are exactly its data, so River UI,
// metrics and River clients in other languages see the application's own jobs. Processes on one database and schema
// form one cluster: each may run any job it has registered.
//
// Cron and interval registrations become River periodic jobs. Each schedule is a row; advancing it and inserting its
// tick are one transaction. Handlers and callers use the pool given to [New]. While started, the scheduler uses its own
// pool of up to four connections for fetching, completing and scheduling jobs, one connection that listens, and one for
// its heartbeat.
//
// docs/architecture.md shows the parts, what River does and what this package adds.
package river

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/bulk"
	"github.com/everytick/everytick/adapters/river/internal/conns"
	"github.com/everytick/everytick/adapters/river/internal/dbclock"
	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/key"
	"github.com/everytick/everytick/adapters/river/internal/pause"
	"github.com/everytick/everytick/adapters/river/internal/process"
	"github.com/everytick/everytick/adapters/river/internal/queues"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/adapters/river/internal/wake"
	"github.com/everytick/everytick/adapters/river/internal/work"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// The defaults of [Config].
const (
	// DefaultSchema is the database schema that holds River's tables.
	DefaultSchema = "river"
	// DefaultMaxWorkers is how many jobs run at once in a process.
	DefaultMaxWorkers = 100
	// DefaultDeadAfter is how long after its last heartbeat a process is considered dead.
	DefaultDeadAfter = 30 * time.Second
	// DefaultRetention is how long completed and skipped jobs are kept after their end.
	DefaultRetention = 24 * time.Hour
	// DefaultFailedRetention is how long failed and cancelled jobs are kept after their end.
	DefaultFailedRetention = 7 * 24 * time.Hour
)

// Config configures a [Scheduler]. The zero value, and a nil *Config, mean the
// defaults.
type Config struct {
	// Logger receives the scheduler's messages and River's, and is the base of the loggers that handlers get. Unless
	// it takes debug messages, River's messages below warn are left out. Errors that repeat in an outage are logged
	// once a minute, with the number of lines left out. Defaults to [slog.Default].
	Logger *slog.Logger

	// Schema is the database schema of River's tables, as given to [Migrate]. It matches ^[a-zA-Z_][a-zA-Z0-9_]*$ and
	// has at most 46 characters. Defaults to [DefaultSchema].
	Schema string

	// Queue is the River queue of jobs that have no worker slots of their own. Services that share a schema fetch
	// faster with one queue each: each fetch reads past the rows that wait for other services. It matches
	// ^[a-z0-9_-]+$ and has at most 64 characters. Defaults to "default", as in River.
	Queue string

	// MaxWorkers is how many jobs run at once in this process, not counting jobs with worker slots of their own
	// ([jobs.Concurrency]) and transactional ones ([jobs.Transactional]), of which at most as many run. If handlers hold
	// a connection of the pool for long, choose fewer. From 1 to 10,000. Defaults to [DefaultMaxWorkers].
	MaxWorkers int

	// Defaults are applied to every job before its own options. Without any, a job has 3 attempts, 5 s before the first
	// retry, a timeout of 5 min, and priority 1.
	Defaults []jobs.Option

	// DeadAfter is how long after its last heartbeat a process is considered dead. Its jobs are then rescued by another
	// process at once, whatever their timeouts. A live process keeps its jobs, even while the database is away. Jobs of
	// a plain River client, which has no heartbeat, are rescued five minutes after their registered timeout. From 10 s
	// to 12 h. Defaults to [DefaultDeadAfter].
	DeadAfter time.Duration

	// Retention is how long jobs are kept after they completed or were skipped. A schedule remembers its latest runs
	// regardless. At least 1 minute. Defaults to [DefaultRetention].
	Retention time.Duration

	// FailedRetention is how long jobs are kept after they failed for good or were cancelled, and can be retried by
	// hand. At least 1 minute. Defaults to [DefaultFailedRetention].
	FailedRetention time.Duration

	// PollOnly does without LISTEN and NOTIFY, for PgBouncer in transaction mode or YugabyteDB. Set it in workers and in
	// processes that only trigger. Jobs then start within the poll interval of 200 ms instead of at once.
	PollOnly bool

	// TriggerOnly makes a scheduler that only inserts jobs that other processes have registered. It accepts every valid
	// name. The workers apply the registered retries and concurrency; a delay or priority must be given with the
	// trigger.
	TriggerOnly bool

	// River changes River's own configuration: hooks, middleware and plugins (logging, tracing, encryption), periods,
	// limits. It is called for each of the two clients: by New for the one that inserts triggered jobs and ticks, and by
	// each Start for the one that works. So hooks and middleware see every Trigger, TriggerTx, TriggerMany, TriggerBulk
	// and tick, and every run. The package's own come after them. Concurrent triggers share one insert, whose context
	// has none of their values. With an insert middleware or a plugin, each insert is a transaction, so that nothing is
	// stored if the middleware fails afterwards. Changing ID, Queues, Workers, PeriodicJobs, Schema,
	// LeaderElectionDisabled, RescueStuckJobsAfter, JobTimeout or SoftStopTimeout is an error of New or Start. Instead of
	// a SoftStopTimeout, give the context of Shutdown a deadline.
	River func(*riverqueue.Config)
}

var schemaPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// maxSchemaBytes is River's limit: the names of its notification channels begin with the schema.
const maxSchemaBytes = 46

func checkSchema(schema string) (string, error) {
	schema = cmp.Or(schema, DefaultSchema)
	if !schemaPattern.MatchString(schema) || len(schema) > maxSchemaBytes {
		return "", fmt.Errorf("river: schema name %q: want letters, digits and underscores, not beginning with a digit, %d at most", schema, maxSchemaBytes)
	}
	return schema, nil
}

var (
	errNilPool       = errors.New("river: the pool is nil")
	errOneConnection = errors.New("river: the pool allows 1 connection, at least 2 are needed: set pool_max_conns")
)

// withDefaults returns a copy with defaults filled in, or an error that says what is allowed.
func (c Config) withDefaults() (Config, error) {
	var err error
	if c.Schema, err = checkSchema(c.Schema); err != nil {
		return c, err
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.Queue = cmp.Or(c.Queue, riverqueue.QueueDefault)
	c.MaxWorkers = cmp.Or(c.MaxWorkers, DefaultMaxWorkers)
	c.DeadAfter = cmp.Or(c.DeadAfter, DefaultDeadAfter)
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.FailedRetention = cmp.Or(c.FailedRetention, DefaultFailedRetention)
	switch {
	case !queues.Valid(c.Queue) || c.Queue == store.PausedQueue:
		return c, fmt.Errorf("river: Queue %q: want 1 to 64 of a-z, 0-9, _ and -, and not %q", c.Queue, store.PausedQueue)
	case c.MaxWorkers < 1 || c.MaxWorkers > riverqueue.QueueNumWorkersMax:
		return c, fmt.Errorf("river: MaxWorkers %d: must be 1 to %d", c.MaxWorkers, riverqueue.QueueNumWorkersMax)
	case c.DeadAfter < process.MinDeadAfter || c.DeadAfter > process.MaxDeadAfter:
		return c, fmt.Errorf("river: DeadAfter %s: must be %s to %s", c.DeadAfter, process.MinDeadAfter, process.MaxDeadAfter)
	case c.Retention < time.Minute:
		return c, fmt.Errorf("river: Retention %s: must be at least 1m", c.Retention)
	case c.FailedRetention < time.Minute:
		return c, fmt.Errorf("river: FailedRetention %s: must be at least 1m", c.FailedRetention)
	}
	return c, nil
}

// Scheduler is a [jobs.Scheduler] on River. It is safe for concurrent use.
type Scheduler struct {
	cfg   Config
	log   *slog.Logger
	pool  *pgxpool.Pool
	reg   *provider.Registry
	store *store.Store
	clock *dbclock.Clock
	wake  *wake.Waker

	inserting *riverqueue.Client[pgx.Tx]
	inserts   *insert.Inserter
	keys      *key.Keys
	bulk      *bulk.Bulk

	own      *pgxpool.Config // of connections of the scheduler's own
	failover *conns.Failover // of pool
	queues   queues.Queues
	pauses   *pause.Pauses
	going    *work.Going
	turn     chan struct{}           // holds a token during Start and Shutdown
	session  atomic.Pointer[session] // nil when not started
	started  atomic.Bool
	ending   atomic.Bool // Shutdown is running
	migrated atomic.Bool // the schema has been found complete
}

var (
	_ jobs.Scheduler     = (*Scheduler)(nil)
	_ jobs.TxTriggerer   = (*Scheduler)(nil)
	_ jobs.BulkTriggerer = (*Scheduler)(nil)
)

// New returns a scheduler on pool. It sends no query. cfg may be nil. An invalid field of cfg is an error that says what
// is allowed. The pool must allow at least two connections, unless cfg is TriggerOnly.
func New(pool *pgxpool.Pool, cfg *Config) (*Scheduler, error) {
	if pool == nil {
		return nil, errNilPool
	}
	c, err := cmp.Or(cfg, &Config{}).withDefaults()
	if err != nil {
		return nil, err
	}
	if pool.Config().MaxConns < 2 && !c.TriggerOnly {
		return nil, errOneConnection
	}
	reg, err := provider.NewRegistry(c.Defaults...)
	if err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	s := &Scheduler{cfg: c, log: c.Logger, pool: pool, reg: reg, store: store.New(c.Schema), turn: make(chan struct{}, 1)}
	s.pauses, s.going, s.queues = pause.New(s.store), work.NewGoing(), queues.New(c.Queue)
	s.own, s.failover = conns.Config(pool, s.store, c.PollOnly), conns.NewFailover(pool, s.log)
	s.clock = dbclock.New(func(ctx context.Context, ask func(dbclock.Asker) error) error {
		return s.ownPool().AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return ask(conn) })
	}, time.Now)
	s.wake = wake.New(pool, s.store, s.clock, s.log, c.PollOnly)
	riverCfg := &riverqueue.Config{Logger: riverLogger(s.log), Schema: c.Schema, FetchCooldown: wake.Cooldown}
	if err := s.configure(riverCfg); err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	if s.inserting, err = riverqueue.NewClient(riverpgxv5.New(pool), riverCfg); err != nil {
		return nil, fmt.Errorf("river: %w", err)
	}
	s.inserts = insert.New(pool, s.inserting, s.clock, insertsInTx(riverCfg), s.wake)
	s.keys = key.New(key.Config{
		Pool: pool, Store: s.store, Inserts: s.inserts, Wake: s.wake, OwnPool: s.ownPool, Metadata: s.metadata,
		Paused: s.pauses.Has,
	})
	s.bulk = bulk.New(pool, s.store, s.cancelTx, s.wake.Notify)
	if linked := store.NewerRiver(); linked != "" {
		s.log.Warn("this program links a newer River than everytick was tested with; parts it relies on may have changed",
			"linked", linked, "tested", store.TestedRiver)
	}
	return s, nil
}

// configure applies Config.River to cfg, and adds the hook that every insert needs.
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
			"SoftStopTimeout":        cfg.SoftStopTimeout != before.SoftStopTimeout,
		} {
			if changed {
				return fmt.Errorf("Config.River has changed %s: it may change all of River's configuration but ID, Queues, Workers, "+
					"PeriodicJobs, Schema, LeaderElectionDisabled, RescueStuckJobsAfter, JobTimeout and SoftStopTimeout", field)
			}
		}
	}
	cfg.Hooks = append(slices.Clone(cfg.Hooks), &insert.Hook{Clock: s.clock})
	return nil
}

// insertsInTx reports whether cfg has an insert middleware, or a plugin that may have one.
func insertsInTx(cfg *riverqueue.Config) bool {
	return len(cfg.Plugins) > 0 || len(cfg.JobInsertMiddleware) > 0 || //nolint:staticcheck // deprecated, and still heeded
		slices.ContainsFunc(cfg.Middleware, func(m rivertype.Middleware) bool {
			_, ok := m.(rivertype.JobInsertMiddleware)
			return ok
		})
}

// riverLogger returns the logger for River.
func riverLogger(log *slog.Logger) *slog.Logger {
	if log.Enabled(context.Background(), slog.LevelDebug) {
		return log
	}
	return slog.New(warnHandler{log.Handler()})
}

// warnHandler drops messages below warn.
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

// RegisterSchedule implements [jobs.Registrar].
func (s *Scheduler) RegisterSchedule(name string, schedule jobs.Schedule, h jobs.Handler, opts ...jobs.Option) error {
	if err := s.mayRegister(name); err != nil {
		return err
	}
	return s.reg.RegisterSchedule(name, schedule, h, opts...)
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

// definition returns the job's definition, or with TriggerOnly a default one.
func (s *Scheduler) definition(name string) (*provider.Definition, error) {
	if s.cfg.TriggerOnly {
		return s.reg.Undefined(name)
	}
	return s.reg.Job(name)
}

// Client returns River's own client, for River UI and for River features that this package does not cover. While
// started, it is the client that works, a new one after each Start; otherwise one that only inserts.
func (s *Scheduler) Client() *riverqueue.Client[pgx.Tx] {
	if ss := s.session.Load(); ss != nil {
		return ss.client
	}
	return s.inserting
}

// ownPool returns the session's pool while there is one, otherwise that given to New.
func (s *Scheduler) ownPool() *pgxpool.Pool {
	if ss := s.session.Load(); ss != nil {
		return ss.pool
	}
	return s.pool
}
