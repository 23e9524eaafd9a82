//go:build unix

package bench

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// kind is the kind of all jobs if there is only one.
const kind = "bench.job"

// kindName returns the kind of job i.
func kindName(i, kinds int) string {
	if kinds <= 1 {
		return kind
	}
	return kind + "-" + strconv.Itoa(i%kinds)
}

// args is the data of every job, for all contenders.
type args struct {
	N    int `json:"n"`
	kind string
}

// Kind implements [riverqueue.JobArgs].
func (a args) Kind() string { return a.kind }

// settings configures a queue. Zero fields mean the contender's defaults.
type settings struct {
	workers  int
	cooldown time.Duration // between fetches
	kinds    int           // number of kinds; defaults to 1
	// enqueueOnly is for a process that runs no jobs.
	enqueueOnly bool
}

// equal has the same fast settings for both.
var equal = settings{workers: 2000, cooldown: 5 * time.Millisecond}

// equalPoll is the poll interval if settings have a cooldown.
const equalPoll = 200 * time.Millisecond

// queue is a process of a contender. Job n has the kind n modulo the number of kinds.
type queue interface {
	// insert enqueues job n, due at the given time, or now if it is zero.
	insert(ctx context.Context, n int, at time.Time) error
	// insertMany enqueues n jobs numbered from first.
	insertMany(ctx context.Context, first, n int, at time.Time) error
	start(ctx context.Context) error
	stop(ctx context.Context) error
}

// opener returns a queue that is not started and calls work with the number of each job.
type opener func(b *testing.B, pool *pgxpool.Pool, set settings, work func(n int)) queue

// contender is one of the clients to compare.
type contender struct {
	name string
	open opener
}

var (
	native  = contender{"river", openNative}
	typed   = contender{"everytick", openTyped}
	dynamic = contender{"everytick", openDynamic}
)

// nativeQueue is River's own client.
type nativeQueue struct {
	client *riverqueue.Client[pgx.Tx]
	kinds  int
	fast   bool // by COPY
}

func openNative(b *testing.B, pool *pgxpool.Pool, set settings, work func(n int)) queue {
	b.Helper()
	cfg := &riverqueue.Config{Logger: logger, Schema: river.DefaultSchema}
	if !set.enqueueOnly {
		worker := riverqueue.WorkFunc(func(_ context.Context, job *riverqueue.Job[args]) error {
			work(job.Args.N)
			return nil
		})
		cfg.Workers = riverqueue.NewWorkers()
		for i := range max(1, set.kinds) {
			riverqueue.AddWorkerArgs(cfg.Workers, args{kind: kindName(i, set.kinds)}, worker)
		}
		cfg.Queues = map[string]riverqueue.QueueConfig{riverqueue.QueueDefault: {MaxWorkers: cmp.Or(set.workers, 100)}}
		pace(cfg, set)
	}
	client, err := riverqueue.NewClient(riverpgxv5.New(pool), cfg)
	require.NoError(b, err)
	return &nativeQueue{client: client, kinds: set.kinds}
}

// openFast returns a nativeQueue whose insertMany uses COPY.
func openFast(b *testing.B, pool *pgxpool.Pool, set settings, work func(n int)) queue {
	b.Helper()
	q := openNative(b, pool, set, work).(*nativeQueue)
	q.fast = true
	return q
}

// pace applies settings to River's configuration.
func pace(cfg *riverqueue.Config, set settings) {
	if set.cooldown > 0 {
		cfg.FetchCooldown, cfg.FetchPollInterval = set.cooldown, equalPoll
	}
}

func (q *nativeQueue) args(n int) args { return args{N: n, kind: kindName(n, q.kinds)} }

func (q *nativeQueue) insert(ctx context.Context, n int, at time.Time) error {
	_, err := q.client.Insert(ctx, q.args(n), &riverqueue.InsertOpts{ScheduledAt: at})
	return err
}

// insertMany inserts in batches of 10,000.
func (q *nativeQueue) insertMany(ctx context.Context, first, n int, at time.Time) error {
	opts := &riverqueue.InsertOpts{ScheduledAt: at}
	params := make([]riverqueue.InsertManyParams, n)
	for i := range params {
		params[i] = riverqueue.InsertManyParams{Args: q.args(first + i), InsertOpts: opts}
	}
	for batch := range slices.Chunk(params, 10_000) {
		var err error
		if q.fast {
			_, err = q.client.InsertManyFast(ctx, batch)
		} else {
			_, err = q.client.InsertMany(ctx, batch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (q *nativeQueue) start(ctx context.Context) error { return q.client.Start(ctx) }
func (q *nativeQueue) stop(ctx context.Context) error  { return q.client.Stop(ctx) }

// typedQueue is everytick with a [jobs.Kind] for each kind.
type typedQueue struct {
	*river.Scheduler
	kinds int
}

func openTyped(b *testing.B, pool *pgxpool.Pool, set settings, work func(n int)) queue {
	b.Helper()
	s := newScheduler(b, pool, set)
	for i := range max(1, set.kinds) {
		if set.enqueueOnly {
			break
		}
		require.NoError(b, typedKind(i, set.kinds).Register(s, func(_ context.Context, _ *jobs.Job, a args) error {
			work(a.N)
			return nil
		}))
	}
	return typedQueue{s, set.kinds}
}

// bulkQueue is everytick with TriggerBulk, which does not return IDs.
type bulkQueue struct{ typedQueue }

func openBulk(b *testing.B, pool *pgxpool.Pool, set settings, work func(n int)) queue {
	b.Helper()
	return bulkQueue{openTyped(b, pool, set, work).(typedQueue)}
}

func (q bulkQueue) insertMany(ctx context.Context, first, n int, at time.Time) error {
	data := make([]any, n)
	for i := range data {
		data[i] = args{N: first + i}
	}
	_, err := q.TriggerBulk(ctx, kindName(first, q.kinds), data, runAt(at)...)
	return err
}

func typedKind(i, kinds int) jobs.Kind[args] { return jobs.Kind[args](kindName(i, kinds)) }

func newScheduler(b *testing.B, pool *pgxpool.Pool, set settings) *river.Scheduler {
	b.Helper()
	s, err := river.New(pool, &river.Config{
		Logger: logger, MaxWorkers: set.workers, TriggerOnly: set.enqueueOnly,
		River: func(cfg *riverqueue.Config) { pace(cfg, set) },
	})
	require.NoError(b, err)
	return s
}

// runAt returns no option if at is zero.
func runAt(at time.Time) []jobs.TriggerOption {
	if at.IsZero() {
		return nil
	}
	return []jobs.TriggerOption{jobs.At(at)}
}

func (q typedQueue) insert(ctx context.Context, n int, at time.Time) error {
	_, err := typedKind(n, q.kinds).Trigger(ctx, q, args{N: n}, runAt(at)...)
	return err
}

func (q typedQueue) insertMany(ctx context.Context, first, n int, at time.Time) error {
	data := make([]any, n)
	for i := range data {
		data[i] = args{N: first + i}
	}
	_, err := q.TriggerMany(ctx, kind, data, runAt(at)...)
	return err
}

func (q typedQueue) start(ctx context.Context) error { return q.Start(ctx) }
func (q typedQueue) stop(ctx context.Context) error  { return q.Shutdown(ctx) }

// dynamicQueue is everytick with a name and untyped data.
type dynamicQueue struct{ typedQueue }

func openDynamic(b *testing.B, pool *pgxpool.Pool, set settings, work func(n int)) queue {
	b.Helper()
	s := newScheduler(b, pool, set)
	require.NoError(b, s.RegisterDelayed(kind, 0, func(_ context.Context, job *jobs.Job) error {
		var data map[string]int
		if err := job.Decode(&data); err != nil {
			return err
		}
		work(data["n"])
		return nil
	}))
	return dynamicQueue{typedQueue{Scheduler: s}}
}

func (q dynamicQueue) insert(ctx context.Context, n int, at time.Time) error {
	_, err := q.Trigger(ctx, kind, map[string]int{"n": n}, runAt(at)...)
	return err
}
