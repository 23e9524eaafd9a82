//go:build unix

package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// A childConfig configures a child process.
type childConfig struct {
	Provider string
	ID       string // begins the ID of a native process's River client
	URL      string
	Jobs     []job
	// Retention is [river.Config].Retention.
	Retention time.Duration
}

// A job is an interval job whose handler records each attempt in the table runs.
type job struct {
	Name  string
	Every time.Duration
	All   bool          // CatchUpAll
	Hold  time.Duration // how long the handler takes
	// Timeout defaults to defaultTimeout.
	Timeout time.Duration
	// Count is the number of jobs, whose names begin with Name. 0 means one job of that name.
	Count int
	// Effects makes it a transactional job without a schedule, whose attempts also write effects; see addEffects.
	Effects bool
	// Updates makes it a job without a schedule that applies updates; see registerUpdates.
	Updates bool
}

func (j job) names() []string {
	if j.Count == 0 {
		return []string{j.Name}
	}
	names := make([]string, j.Count)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%05d", j.Name, i)
	}
	return names
}

func (j job) timeout() time.Duration {
	if j.Timeout == 0 {
		return defaultTimeout
	}
	return j.Timeout
}

const (
	defaultTimeout = 5 * time.Second
	deadAfter      = 10 * time.Second
	retryDelay     = time.Second
	// rescueWithin is the longest time from the death of a process to the next attempt of its job.
	rescueWithin = deadAfter + 10*time.Second
)

// startRetry is the wait before a failed start is repeated, as by a supervisor, while there is no database.
const startRetry = 300 * time.Millisecond

// runChild is the main function of a child process. It runs schedules until SIGTERM, and writes to standard output once
// it has started.
func runChild(encoded string) (exitCode int) {
	// Standard input is a leash: its other end closes when the test's process dies, in whatever way.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	fail := func(err error) int {
		log.Error("child failed", "error", err)
		return 1
	}
	counts := make(chan os.Signal, 1)
	signal.Notify(counts, syscall.SIGUSR1)
	go func() {
		for range counts {
			debug.FreeOSMemory()
			log.Warn("footprint", "goroutines", runtime.NumGoroutine())
		}
	}()
	var cfg childConfig
	if err := json.Unmarshal([]byte(encoded), &cfg); err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	poolConfig, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return fail(err)
	}
	// Otherwise a handler that gets a connection which the network has dropped waits on it until its timeout, and a
	// job uses up an attempt for each.
	poolConfig.PingTimeout = time.Second
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return fail(err)
	}
	start := startEverytick
	if cfg.Provider == native {
		start = startNative
	}
	for {
		shutdown, err := start(ctx, pool, cfg, log)
		if err == nil {
			fmt.Println("started")
			<-ctx.Done()
			shutdownCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if err := shutdown(shutdownCtx); err != nil {
				return fail(err)
			}
			return 0
		}
		log.Warn("start failed", "error", err)
		select {
		case <-time.After(startRetry):
		case <-ctx.Done():
			return 0
		}
	}
}

func startEverytick(ctx context.Context, pool *pgxpool.Pool, cfg childConfig, log *slog.Logger) (shutdown func(context.Context) error, err error) {
	s, err := newScheduler(pool, cfg.Jobs, log, cfg.Retention)
	if err != nil {
		return nil, err
	}
	return s.Shutdown, s.Start(ctx)
}

func newScheduler(pool *pgxpool.Pool, all []job, log *slog.Logger, retention time.Duration) (*river.Scheduler, error) {
	s, err := river.New(pool, &river.Config{
		Logger:    log,
		DeadAfter: deadAfter,
		Retention: retention,
	})
	if err != nil {
		return nil, err
	}
	for _, j := range all {
		if j.Effects {
			if err := registerEffects(s, pool, j); err != nil {
				return nil, err
			}
			continue
		}
		if j.Updates {
			if err := registerUpdates(s, j); err != nil {
				return nil, err
			}
			continue
		}
		policy := jobs.CatchUpOnce
		if j.All {
			policy = jobs.CatchUpAll
		}
		for _, name := range j.names() {
			err := s.RegisterInterval(name, j.Every, func(ctx context.Context, run *jobs.Job) error {
				id, err := strconv.ParseInt(run.ID, 10, 64)
				if err != nil {
					return jobs.Permanent(err)
				}
				return j.run(ctx, run.DB, record{job: id, name: name, tick: run.Tick, missed: run.Missed, attempt: run.Attempt})
			}, jobs.CatchUp(policy), jobs.Timeout(j.timeout()), jobs.RetryDelay(retryDelay))
			if err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// nativeArgs are the args of one of River's own periodic jobs.
type nativeArgs struct{ kind string }

// Kind implements [riverqueue.JobArgs].
func (a nativeArgs) Kind() string { return a.kind }

type nativeWorker struct {
	riverqueue.WorkerDefaults[nativeArgs]
	job  job
	pool *pgxpool.Pool
}

// Work implements [riverqueue.Worker].
func (w *nativeWorker) Work(ctx context.Context, run *riverqueue.Job[nativeArgs]) error {
	return w.job.run(ctx, w.pool, record{job: run.ID, name: w.job.Name, tick: run.ScheduledAt, attempt: run.Attempt})
}

// Timeout implements [riverqueue.Worker].
func (w *nativeWorker) Timeout(*riverqueue.Job[nativeArgs]) time.Duration { return w.job.timeout() }

// NextRetry implements [riverqueue.Worker].
func (w *nativeWorker) NextRetry(*riverqueue.Job[nativeArgs]) time.Time {
	return time.Now().Add(retryDelay)
}

func startNative(ctx context.Context, pool *pgxpool.Pool, cfg childConfig, log *slog.Logger) (shutdown func(context.Context) error, err error) {
	c := &riverqueue.Config{
		ID:      fmt.Sprintf("%s_%d_", cfg.ID, os.Getpid()),
		Logger:  log,
		Schema:  river.DefaultSchema,
		Queues:  map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: 100}},
		Workers: riverqueue.NewWorkers(),
		// Two services in one schema need this.
		FetchOnlyKnownKinds: true,
	}
	for _, j := range cfg.Jobs {
		riverqueue.AddWorkerArgs(c.Workers, nativeArgs{kind: j.Name}, &nativeWorker{job: j, pool: pool})
		c.PeriodicJobs = append(c.PeriodicJobs, riverqueue.NewPeriodicJob(riverqueue.PeriodicInterval(j.Every),
			func() (riverqueue.JobArgs, *riverqueue.InsertOpts) { return nativeArgs{kind: j.Name}, nil }, nil))
		c.JobTimeout = max(c.JobTimeout, j.timeout())
		c.RescueStuckJobsAfter = c.JobTimeout + time.Second
	}
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), c)
	if err != nil {
		return nil, err
	}
	return client.Stop, client.Start(context.WithoutCancel(ctx))
}

// A record is what a handler records of an attempt.
type record struct {
	job     int64
	name    string
	tick    time.Time
	missed  int
	attempt int
}

// run is the handler. The statement calls clock_timestamp by name, because a column's default would bypass the function
// that shifts the clock.
func (j job) run(ctx context.Context, db jobs.DB, r record) error {
	_, err := db.Exec(ctx, `INSERT INTO runs (job, name, tick, missed, started, pid, attempt) VALUES ($1, $2, $3, $4, clock_timestamp(), $5, $6)`,
		r.job, r.name, r.tick, r.missed, os.Getpid(), r.attempt)
	if err != nil || j.Hold == 0 {
		return err
	}
	select {
	case <-time.After(j.Hold):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
