package providertest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/settings"
	"github.com/everytick/everytick/jobs/provider"
	"github.com/everytick/everytick/jobs/providertest"
)

func TestRuleNames_AreUnique(t *testing.T) {
	t.Parallel()
	names := providertest.RuleNames()
	slices.Sort(names)
	require.Equal(t, slices.Compact(slices.Clone(names)), names)
	require.NotContains(t, names, "")
}

// faulty is a scheduler with one fault. A function that is set replaces a method of the scheduler, or part of it.
type faulty struct {
	*memory.Scheduler

	handler  func(jobs.Handler) jobs.Handler
	options  []jobs.Option                        // applied after those of the registration
	own      func([]jobs.Option) []jobs.Option    // replaces the options of the registration
	request  func(name string, req *jobs.Request) // changes the request of a trigger
	schedule func(jobs.Schedule) jobs.Schedule    // replaces a custom schedule
	register func(error) error
	trigger  func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error)
	many     func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error)
	bulk     func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error)
	inTx     func(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error)
	manyInTx func(ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption) ([]string, error)
	start    func(context.Context) error
	shutdown func(context.Context) error
	size     func(ctx context.Context, name string) (int, error)
	status   func([]jobs.Status)
	health   func(*jobs.Health)
	runs     func(ctx context.Context, name string, limit int) ([]jobs.Run, error)
	activity func(ctx context.Context, step time.Duration, n int) (jobs.Activity, error)
	cancel   func(ctx context.Context, name, id string) error
	retry    func(ctx context.Context, name, id string) error
	pause    func(ctx context.Context, name string) error
	resume   func(ctx context.Context, name string) error

	finding

	broken atomic.Bool // the database is unreachable
}

var errBroken = errors.New("the database is unreachable")

func (f *faulty) handle(h jobs.Handler) jobs.Handler {
	if f.handler == nil || h == nil {
		return h
	}
	return f.handler(h)
}

func (f *faulty) with(opts []jobs.Option) []jobs.Option {
	if f.own != nil {
		opts = f.own(opts)
	}
	return slices.Concat(opts, f.options)
}

func (f *faulty) registered(err error) error {
	if f.register == nil {
		return err
	}
	return f.register(err)
}

func (f *faulty) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	return f.registered(f.Scheduler.RegisterCron(name, pattern, f.handle(h), f.with(opts)...))
}

func (f *faulty) RegisterInterval(name string, every time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return f.registered(f.Scheduler.RegisterInterval(name, every, f.handle(h), f.with(opts)...))
}

func (f *faulty) RegisterSchedule(name string, s jobs.Schedule, h jobs.Handler, opts ...jobs.Option) error {
	if f.schedule != nil {
		s = f.schedule(s)
	}
	return f.registered(f.Scheduler.RegisterSchedule(name, s, f.handle(h), f.with(opts)...))
}

func (f *faulty) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return f.registered(f.Scheduler.RegisterDelayed(name, delay, f.handle(h), f.with(opts)...))
}

func (f *faulty) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	if _, err := f.Scheduler.QueueSize(ctx, name); f.broken.Load() {
		return "", cmp.Or(err, errBroken)
	}
	if f.trigger != nil {
		return f.trigger(ctx, name, data, opts...)
	}
	if f.request != nil {
		// A delay of -1, which no option can set, means that none was given.
		const none = 123_456_789 * time.Millisecond
		req, err := jobs.NewRequest(name, data, slices.Concat([]jobs.TriggerOption{jobs.Delay(none)}, opts)...)
		if err != nil {
			return "", err
		}
		if req.Delay == none {
			req.Delay = -1
		}
		f.request(name, req)
		opts = nil
		if req.Delay >= 0 && req.At.IsZero() {
			opts = append(opts, jobs.Delay(req.Delay))
		}
		if !req.At.IsZero() {
			opts = append(opts, jobs.At(req.At))
		}
		if req.Priority > 0 {
			opts = append(opts, jobs.Priority(req.Priority))
		}
		if req.Unique != "" {
			opts = append(opts, keyOf(req))
		}
		if req.IdempotencyKey != "" {
			opts = append(opts, jobs.IdempotencyKey(req.IdempotencyKey))
		}
	}
	return f.Scheduler.Trigger(ctx, name, data, opts...)
}

func (f *faulty) TriggerMany(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	if f.many != nil {
		return f.many(ctx, name, data, opts...)
	}
	return f.Scheduler.TriggerMany(ctx, name, data, opts...)
}

func (f *faulty) TriggerBulk(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error) {
	if f.bulk != nil {
		return f.bulk(ctx, name, data, opts...)
	}
	return f.Scheduler.TriggerBulk(ctx, name, data, opts...)
}

func (f *faulty) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	if f.inTx != nil {
		return f.inTx(ctx, tx, name, data, opts...)
	}
	return f.Scheduler.TriggerTx(ctx, tx, name, data, opts...)
}

func (f *faulty) TriggerManyTx(
	ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption,
) ([]string, error) {
	if f.manyInTx != nil {
		return f.manyInTx(ctx, tx, name, data, opts...)
	}
	return f.Scheduler.TriggerManyTx(ctx, tx, name, data, opts...)
}

func (f *faulty) Start(ctx context.Context) error {
	if f.start != nil {
		return f.start(ctx)
	}
	return f.Scheduler.Start(ctx)
}

func (f *faulty) Shutdown(ctx context.Context) error {
	if f.shutdown != nil {
		return f.shutdown(ctx)
	}
	return f.Scheduler.Shutdown(ctx)
}

func (f *faulty) QueueSize(ctx context.Context, name string) (int, error) {
	if f.broken.Load() {
		return 0, errBroken
	}
	if f.size != nil {
		return f.size(ctx, name)
	}
	return f.Scheduler.QueueSize(ctx, name)
}

func (f *faulty) Jobs(ctx context.Context) ([]jobs.Status, error) {
	all, err := f.Scheduler.Jobs(ctx)
	if f.status != nil {
		f.status(all)
	}
	return all, err
}

func (f *faulty) Health(ctx context.Context) (jobs.Health, error) {
	h, err := f.Scheduler.Health(ctx)
	if f.broken.Load() {
		h.Healthy, h.Reasons = false, []jobs.Reason{{Text: errBroken.Error()}}
	}
	if f.health != nil {
		f.health(&h)
	}
	return h, err
}

func (f *faulty) Runs(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
	if f.runs != nil {
		return f.runs(ctx, name, limit)
	}
	return f.Scheduler.Runs(ctx, name, limit)
}

func (f *faulty) Activity(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
	if f.activity != nil {
		return f.activity(ctx, step, n)
	}
	return f.Scheduler.Activity(ctx, step, n)
}

func (f *faulty) Cancel(ctx context.Context, name, id string) error {
	if f.cancel != nil {
		return f.cancel(ctx, name, id)
	}
	return f.Scheduler.Cancel(ctx, name, id)
}

func (f *faulty) Retry(ctx context.Context, name, id string) error {
	if f.retry != nil {
		return f.retry(ctx, name, id)
	}
	return f.Scheduler.Retry(ctx, name, id)
}

func (f *faulty) Pause(ctx context.Context, name string) error {
	if f.pause != nil {
		return f.pause(ctx, name)
	}
	return f.Scheduler.Pause(ctx, name)
}

func (f *faulty) Resume(ctx context.Context, name string) error {
	if f.resume != nil {
		return f.resume(ctx, name)
	}
	return f.Scheduler.Resume(ctx, name)
}

// keyOf returns the option that gave a request its key.
func keyOf(req *jobs.Request) jobs.TriggerOption {
	switch req.UniqueMode {
	case jobs.UniqueModeWaiting:
		return jobs.UniqueWaiting(req.Unique)
	case jobs.UniqueModeLatest:
		return jobs.Latest(req.Unique)
	default:
		return jobs.Unique(req.Unique)
	}
}

// before changes the job given to handlers.
func before(change func(*jobs.Job)) func(jobs.Handler) jobs.Handler {
	return func(h jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			change(job)
			return h(ctx, job)
		}
	}
}

// after changes the errors that handlers return.
func after(change func(*jobs.Job, error) error) func(jobs.Handler) jobs.Handler {
	return func(h jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			if err := h(ctx, job); err != nil {
				return change(job, err)
			}
			return nil
		}
	}
}

// forgetting hides err from errors.Is and errors.As.
func forgetting(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}

// A disguised schedule has another text or other ticks.
type disguised struct {
	next func(time.Time) time.Time
	text string
}

func (d disguised) Next(t time.Time) time.Time { return d.next(t) }
func (d disguised) String() string             { return d.text }

// Rules that several faults break.
const (
	oneForAll    = "after missed ticks, one run covers all of them: its tick is the latest, and Missed counts the others"
	oneWaits     = "ticks that pass while all workers are busy become one run, for the latest"
	oneIsDue     = "a schedule that is due while stopped counts as one waiting run and as overdue"
	repeated     = "a repeated trigger returns the run of its idempotency key, even after that has ended"
	privateKey   = "an idempotency key is private to its job and apart from Unique keys"
	idempotentTx = "an idempotency key in a transaction is taken once that commits"
	lastSuccess  = "Jobs returns the tick of the latest successful run, despite later failures and a restart"
	tickData     = "a tick has the data of its registration, in each attempt and after a restart"
	failing      = "a schedule whose code fails stops no other, says why it stands still, and catches up once it works"
	noGap        = "the windows from PrevSuccess to Tick of the runs that succeed have no gap, despite failures, outages and pauses"
)

const (
	uniqueWaiting = "UniqueWaiting returns the waiting run, and inserts another once that has started"
	noneLost      = "no trigger with UniqueWaiting or Latest is lost, and at most one run waits, while workers fetch"
	replacesAll   = "Latest replaces data, metadata, priority and due time of the waiting run"
	debounces     = "Latest with a delay debounces: the job runs that long after the last trigger"
	retriesCount  = "a run that waits for a retry counts as waiting for UniqueWaiting and Latest"
)

// keyed returns a fault of triggers with a key of [jobs.UniqueWaiting] or [jobs.Latest].
func keyed(trigger func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			req, err := jobs.NewRequest(name, data, opts...)
			if err != nil || req.UniqueMode == jobs.UniqueModeLive {
				return f.Scheduler.Trigger(ctx, name, data, opts...)
			}
			return trigger(f, ctx, name, data, req)
		}
	}
}

// forgetsRunsInProgress lets a trigger during a run know nothing of it.
func forgetsRunsInProgress(f *faulty, cfg providertest.Config) {
	keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		if all, err := f.Scheduler.Jobs(ctx); err == nil && all[0].Running > 0 {
			return f.Scheduler.Trigger(ctx, name, data)
		}
		return f.Scheduler.Trigger(ctx, name, data, keyOf(req))
	})(f, cfg)
}

// faults lists schedulers with one fault each, and the rule that detects it.
var faults = []struct {
	fault, rule string
	seed        func(f *faulty, cfg providertest.Config)
}{
	{"the data is lost", "data arrives unchanged", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Data = json.RawMessage(`{}`) })
	}},
	{"large numbers are rounded", "data arrives unchanged", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			var v any
			_ = json.Unmarshal(job.Data, &v)
			job.Data, _ = json.Marshal(v)
		})
	}},
	{"data is cut at 1,000,000 bytes", "data of any size below 1 MiB arrives", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if len(job.Data) > 1_000_000 {
				job.Data = append(job.Data[:999_998:999_998], '"', '}')
			}
		})
	}},
	{"nil data becomes null", "data is {} if Trigger gets none", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if string(job.Data) == "{}" {
				job.Data = json.RawMessage(`null`)
			}
		})
	}},
	{"attempts share their data", "changes that a handler makes to its job end with the attempt", func(f *faulty, _ providertest.Config) {
		var shared sync.Map
		f.handler = before(func(job *jobs.Job) {
			data, _ := shared.LoadOrStore(job.ID, job.Data)
			job.Data = data.(json.RawMessage)
		})
	}},
	{"the database is not passed on", "a handler gets every field of its job", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.DB = nil })
	}},
	{"StartedAt is in local time", "a handler gets every field of its job", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.StartedAt = job.StartedAt.In(time.FixedZone("", 3600)) })
	}},
	{"the ID changes with the attempt", "a run keeps the ID that Trigger returned, and no other run has it", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.ID = fmt.Sprint(job.ID, "/", job.Attempt) })
	}},
	{"the logger lacks job_id", "a job's logger has the attributes job, job_id and attempt", func(f *faulty, cfg providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Logger = cfg.Logger.With("job", job.Name, "attempt", job.Attempt) })
	}},
	{"handlers run under the context of Start", "the contexts of Start and Trigger don't reach handlers", func(f *faulty, _ providertest.Config) {
		var started context.Context
		f.start = func(ctx context.Context) error {
			started = ctx //nolint:fatcontext // the fault
			return f.Scheduler.Start(ctx)
		}
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(_ context.Context, job *jobs.Job) error { return h(started, job) }
		}
	}},
	{
		"custom schedules lose their text", "a schedule that the application has written runs at its ticks, and is listed with its own text",
		func(f *faulty, _ providertest.Config) {
			f.schedule = func(s jobs.Schedule) jobs.Schedule { return disguised{s.Next, "custom"} }
		},
	},
	{
		"custom schedules run on a grid", "a schedule that the application has written runs at its ticks, and is listed with its own text",
		func(f *faulty, _ providertest.Config) {
			f.schedule = func(s jobs.Schedule) jobs.Schedule {
				return disguised{func(t time.Time) time.Time { return t.Truncate(time.Second).Add(time.Second) }, s.String()}
			}
		},
	},
	{"Spread does not learn the name of its job", "Only, Spread and AnyOf change and combine ticks", func(f *faulty, _ providertest.Config) {
		f.schedule = func(s jobs.Schedule) jobs.Schedule { return disguised{s.Next, s.String()} }
	}},
	{"a schedule that panics ends", failing, func(f *faulty, _ providertest.Config) {
		f.schedule = func(s jobs.Schedule) jobs.Schedule {
			return disguised{func(t time.Time) (next time.Time) {
				defer func() { _ = recover() }()
				return s.Next(t)
			}, s.String()}
		}
	}},
	{"a schedule that panics does not say so", failing, changingStatus(func(st *jobs.Status) { st.OverdueReason = "" })},
	{"a schedule that panics stops the others", failing, func(f *faulty, _ providertest.Config) {
		var bug atomic.Bool
		f.schedule = func(s jobs.Schedule) jobs.Schedule {
			return disguised{func(t time.Time) (next time.Time) {
				bug.Store(true)
				next = s.Next(t)
				bug.Store(false)
				return next
			}, s.String()}
		}
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if bug.Load() {
					<-ctx.Done()
				}
				return h(ctx, job)
			}
		}
	}},
	{"invalid schedules are accepted", "a schedule that breaks the rules is refused", func(f *faulty, _ providertest.Config) {
		f.schedule = func(jobs.Schedule) jobs.Schedule {
			return disguised{func(t time.Time) time.Time { return t.Truncate(time.Hour).Add(time.Hour) }, "hourly"}
		}
	}},
	{"ticks have no data", tickData, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if !job.Tick.IsZero() {
				job.Data = json.RawMessage(`{}`)
			}
		})
	}},
	{"retries of ticks have no data", tickData, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if !job.Tick.IsZero() && job.Attempt > 1 {
				job.Data = json.RawMessage(`{}`)
			}
		})
	}},
	{"triggered runs have the data of ticks", tickData, func(f *faulty, _ providertest.Config) {
		var data atomic.Pointer[json.RawMessage]
		f.handler = before(func(job *jobs.Job) {
			if job.Name != "test.tick" {
				return
			}
			if !job.Tick.IsZero() {
				data.CompareAndSwap(nil, &job.Data)
			} else if ticks := data.Load(); ticks != nil && string(job.Data) == "{}" {
				job.Data = *ticks
			}
		})
	}},
	{"the data of ticks is encoded after the registration", tickData, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			job.Data = json.RawMessage(strings.Replace(string(job.Data), "día ✓", "changed after the registration", 1))
		})
	}},
	{"Data of ticks is not checked", "data of ticks that cannot be stored is refused, and Data of a job without ticks", func(f *faulty, _ providertest.Config) {
		f.own = func([]jobs.Option) []jobs.Option { return nil }
	}},
	{"PrevSuccess is not set", noGap, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.PrevSuccess = time.Time{} })
	}},
	{"PrevSuccess is the previous tick, whatever its outcome", noGap, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.PrevSuccess = job.Tick.Add(-time.Duration(job.Missed+1) * time.Second) })
	}},
	{"PrevSuccess is as of the first attempt", noGap, func(f *faulty, _ providertest.Config) {
		var first sync.Map
		f.handler = before(func(job *jobs.Job) {
			at, _ := first.LoadOrStore(job.ID, job.PrevSuccess)
			job.PrevSuccess = at.(time.Time)
		})
	}},
	{"PrevSuccess is forgotten by a restart", noGap, func(f *faulty, _ providertest.Config) {
		var starts atomic.Int32
		f.start = func(ctx context.Context) error {
			starts.Add(1)
			return f.Scheduler.Start(ctx)
		}
		f.handler = before(func(job *jobs.Job) {
			if starts.Load() > 1 {
				job.PrevSuccess = time.Time{}
			}
		})
	}},
	{"PrevSuccess is the latest tick that has started", "the window of a run does not begin after that of a run still in progress", func(f *faulty, _ providertest.Config) {
		var latest atomic.Pointer[time.Time]
		f.handler = before(func(job *jobs.Job) {
			if before := latest.Swap(&job.Tick); before != nil {
				job.PrevSuccess = *before
			}
		})
	}},
	{
		"windows of transactional runs overlap", "a Transactional run whose window another has covered meanwhile runs again with the rest",
		func(f *faulty, _ providertest.Config) {
			f.own = func([]jobs.Option) []jobs.Option { return nil }
		},
	},
	{"the retry delay is constant", "the delay before a retry doubles", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return jobs.RetryAfter(200*time.Millisecond, err) })
	}},
	{"there is one attempt fewer", "a job has three attempts by default", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(job *jobs.Job, err error) error {
			if job.Attempt == job.MaxAttempts-1 {
				return jobs.Permanent(err)
			}
			return err
		})
	}},
	{"MaxRetries is ignored", "MaxRetries sets the number of attempts", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.MaxRetries(3)}
	}},
	{"the first retry comes at once", "the first retry comes after five seconds by default, more or less a tenth", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.RetryDelay(0)}
	}},
	{"all runs are retried together", "runs that fail together are retried up to a tenth earlier or later", changingRuns(func(r *jobs.Run) {
		r.DueAt = r.StartedAt.Add(10 * time.Hour)
	})},
	{"the retries of runs are spread too far", "runs that fail together are retried up to a tenth earlier or later", changingRuns(func(r *jobs.Run) {
		r.DueAt = r.DueAt.Add(time.Hour)
	})},
	{"the delay of RetryAfter is spread", "the delay of RetryAfter is exact", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(job *jobs.Job, err error) error {
			return jobs.RetryAfter(time.Duration(float64(10*time.Hour)*provider.Jitter(job.ID, job.Attempt)), forgetting(err))
		})
	}},
	{"a Permanent error is retried", "a Permanent error fails the job with its attempt", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"RetryAfter is ignored", "RetryAfter sets the delay of one retry, and the attempt counts", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"a panic counts as success", "a panic is a failed attempt, and the process survives", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				defer func() { _ = recover() }()
				return h(ctx, job)
			}
		}
	}},
	{"an error whose methods panic is permanent", "an error whose methods panic is a failed attempt, and the process survives", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) (after error) {
			defer func() {
				if recover() != nil {
					after = jobs.Permanent(errors.New("a hostile error"))
				}
			}()
			if errors.Is(err, jobs.ErrUnknownJob) {
				return nil
			}
			return err
		})
	}},
	{"an error whose methods panic has no text", "an error whose methods panic is a failed attempt, and the process survives", changingRuns(func(r *jobs.Run) { r.Error = "" })},
	{"the timeout does not reach the handler", "a timeout ends the context and is a failed attempt", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return h(context.WithoutCancel(ctx), job) }
		}
	}},
	{"a handler that ignores its timeout is called again", "a handler that ignores its timeout is not called again beside itself, and completes its run", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				context.AfterFunc(ctx, func() { time.AfterFunc(10*time.Second, func() { _ = h(ctx, job) }) })
				return h(ctx, job)
			}
		}
	}},
	{"the run of a handler that ignores its timeout fails", "a handler that ignores its timeout is not called again beside itself, and completes its run", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				err := h(ctx, job)
				return cmp.Or(err, jobs.Permanent(ctx.Err()))
			}
		}
	}},
	{"a handler that ignores its timeout is forgotten", "with OverlapSkip, no tick runs beside a handler that ignores its timeout", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Overlap(jobs.OverlapAllow)}
	}},
	{"a snooze uses up an attempt", "a snoozed run starts again after the delay, and no attempt is used up, not even the last one", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error {
			d, _, _ := jobs.Snoozed(err)
			return jobs.RetryAfter(d, forgetting(err))
		})
	}},
	{"a snoozed run starts again at once", "a snoozed run starts again after the delay, and no attempt is used up, not even the last one", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error {
			if _, reason, ok := jobs.Snoozed(err); ok {
				return jobs.Snooze(0, reason)
			}
			return err
		})
	}},
	{"snoozes are not counted", "a snoozed run starts again after the delay, and no attempt is used up, not even the last one", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Snoozes = 0 })
	}},
	{"the reason of a snooze is its error", "a snooze is listed with its reason, and is no failure", changingRuns(func(r *jobs.Run) {
		r.Error, r.SnoozeReason = r.SnoozeReason, ""
	})},
	{"a snoozed run is retrying", "a snooze is listed with its reason, and is no failure", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].Retrying = all[i].Waiting
			}
		}
	}},
	{"a failure after a snooze is not counted", "a snoozed run counts the failures of its attempts, and no snoozes", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(job *jobs.Job, err error) error {
			if job.Snoozes > 0 && job.Attempt == 1 {
				return jobs.Snooze(0, err.Error())
			}
			return err
		})
	}},
	{"a snoozed run cannot be retried", "a snoozed run can be started at once by Retry, and cancelled", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return jobs.ErrNotRetryable }
	}},
	{"cancelling ignores snoozed runs", "a snoozed run can be started at once by Retry, and cancelled", func(f *faulty, _ providertest.Config) {
		f.cancel = func(context.Context, string, string) error { return nil }
	}},
	{"a snoozed tick is lost", "a snoozed tick is skipped neither for being late nor for an overlap", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return jobs.Permanent(err) })
	}},
	{"a snoozed tick holds up the next", "a snoozed tick holds up no later tick", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				err := h(ctx, job)
				d, _, _ := jobs.Snoozed(err)
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
				return err
			}
		}
		f.options = []jobs.Option{jobs.Timeout(24 * time.Hour)}
	}},
	{"data that does not decode is retried", "data that does not decode fails its run for good, and no other", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.MaxRetries(1000), jobs.RetryDelay(time.Minute)}
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"the registered delay is ignored", "a job runs the registered delay after its trigger", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Delay = 0 }
	}},
	{"Delay is ignored", "Delay replaces the registered delay", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Delay = -1 }
	}},
	{"At is ignored", "At sets when a job runs, and a time that has passed means now", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.At = time.Time{}; req.Delay = 0 }
	}},
	{"Priority is ignored", "of the runs that are due, those with the lowest priority number start first", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Priority = 0 }
	}},
	{"the newest job is taken first", "of the runs with the same priority, the one due longest starts first", func(f *faulty, _ providertest.Config) {
		priority := 5
		f.request = func(_ string, req *jobs.Request) { priority--; req.Priority = priority }
	}},
	{"Concurrency is ignored", "Concurrency limits how many runs of a job execute at once", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Concurrency(50)}
	}},
	{"Unique is ignored", "Unique returns the live run with that key instead of inserting another", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Unique = "" }
	}},
	{"a Unique key is never free again", "a Unique key is free again when its run has ended", func(f *faulty, _ providertest.Config) {
		taken := map[string]string{}
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if taken[name] != "" {
				return taken[name], nil
			}
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			taken[name] = id
			return id, err
		}
	}},
	{"a Unique key is shared by all jobs", "a Unique key is private to its job", func(f *faulty, _ providertest.Config) {
		taken := map[string]string{}
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			req, err := jobs.NewRequest(name, data, opts...)
			if err == nil && taken[req.Unique] != "" {
				return taken[req.Unique], nil
			}
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			if req.Unique != "" {
				taken[req.Unique] = id
			}
			return id, err
		}
	}},
	{"UniqueWaiting finds a run in progress", uniqueWaiting, keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		req.UniqueMode = jobs.UniqueModeLive
		return f.Scheduler.Trigger(ctx, name, data, keyOf(req))
	})},
	{"UniqueWaiting is ignored", uniqueWaiting, keyed(func(f *faulty, ctx context.Context, name string, data any, _ *jobs.Request) (string, error) {
		return f.Scheduler.Trigger(ctx, name, data)
	})},
	{"UniqueWaiting replaces the data", uniqueWaiting, keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		req.UniqueMode = jobs.UniqueModeLatest
		return f.Scheduler.Trigger(ctx, name, data, keyOf(req))
	})},
	{"a trigger during a run is lost", noneLost, keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		req.UniqueMode = jobs.UniqueModeLive
		return f.Scheduler.Trigger(ctx, name, data, keyOf(req))
	})},
	{"each trigger inserts a run", noneLost, keyed(func(f *faulty, ctx context.Context, name string, data any, _ *jobs.Request) (string, error) {
		return f.Scheduler.Trigger(ctx, name, data)
	})},
	{"Latest keeps the data", replacesAll, keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		req.UniqueMode = jobs.UniqueModeWaiting
		return f.Scheduler.Trigger(ctx, name, data, keyOf(req), jobs.Delay(req.Delay), jobs.Priority(cmp.Or(req.Priority, 1)))
	})},
	{"Latest keeps the priority", replacesAll, keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		return f.Scheduler.Trigger(ctx, name, data, keyOf(req), jobs.Delay(req.Delay), jobs.Priority(4))
	})},
	{"Latest keeps the metadata", replacesAll, func(f *faulty, _ providertest.Config) {
		first := map[string]map[string]string{}
		f.handler = before(func(job *jobs.Job) { job.Metadata = first[job.ID] })
		f.options = []jobs.Option{jobs.UseTrigger(func(next jobs.Enqueue) jobs.Enqueue {
			return func(ctx context.Context, reqs []*jobs.Request) error {
				err := next(ctx, reqs)
				if first[reqs[0].ID] == nil {
					first[reqs[0].ID] = reqs[0].Metadata
				}
				return err
			}
		})}
	}},
	{"Latest keeps the due time", debounces, func(f *faulty, _ providertest.Config) {
		var due time.Time // of the first trigger without a delay of its own
		keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
			if due.IsZero() {
				due = time.Now().Add(time.Second)
			}
			return f.Scheduler.Trigger(ctx, name, data, keyOf(req), jobs.At(due))
		})(f, providertest.Config{})
	}},
	{"Latest brings nothing forward", debounces, func(f *faulty, _ providertest.Config) {
		var latest time.Time
		keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
			if due := time.Now().Add(max(req.Delay, time.Second)); due.After(latest) {
				latest = due
			}
			return f.Scheduler.Trigger(ctx, name, data, keyOf(req), jobs.At(latest))
		})(f, providertest.Config{})
	}},
	{"a retry does not count as waiting", retriesCount, keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		if all, err := f.Scheduler.Jobs(ctx); err == nil && all[0].Retrying > 0 {
			return f.Scheduler.Trigger(ctx, name, data)
		}
		return f.Scheduler.Trigger(ctx, name, data, keyOf(req))
	})},
	{"a retry keeps its data", retriesCount, func(f *faulty, _ providertest.Config) {
		var first sync.Map
		f.handler = before(func(job *jobs.Job) {
			data, _ := first.LoadOrStore(job.ID, job.Data)
			job.Data = data.(json.RawMessage)
		})
	}},
	{"a trigger hurries a retry", retriesCount, keyed(func(f *faulty, ctx context.Context, name string, data any, req *jobs.Request) (string, error) {
		id, err := f.Scheduler.Trigger(ctx, name, data, keyOf(req))
		if all, statusErr := f.Scheduler.Jobs(ctx); statusErr == nil && all[0].Retrying > 0 && err == nil {
			err = f.Scheduler.Retry(ctx, name, id)
		}
		return id, err
	})},
	{"old data come after new ones", "a retry is skipped if a run with newer data for its key has started", forgetsRunsInProgress},
	{"a retry is skipped before the later run", "a retry comes before a later run of its key that has not started", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if job.Attempt > 1 {
					return nil
				}
				return h(ctx, job)
			}
		}
	}},
	{"Unique shares the keys of UniqueWaiting", "UniqueWaiting and Latest share their keys, apart from those of Unique and of other jobs", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) {
			if req.UniqueMode == jobs.UniqueModeLive {
				req.UniqueMode = jobs.UniqueModeWaiting
			}
		}
	}},
	{"UniqueWaiting and Latest have keys of their own", "UniqueWaiting and Latest share their keys, apart from those of Unique and of other jobs", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) {
			if req.Unique != "" {
				req.Unique += req.UniqueMode.String()
			}
		}
	}},
	{"a cancelled run keeps its key of UniqueWaiting", "a cancelled run no longer has its key of UniqueWaiting", func(f *faulty, _ providertest.Config) {
		kept := ""
		f.cancel = func(ctx context.Context, name, id string) error {
			kept = id
			return f.Scheduler.Cancel(ctx, name, id)
		}
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if kept != "" {
				return kept, nil
			}
			return f.Scheduler.Trigger(ctx, name, data, opts...)
		}
	}},
	{"a run retried by hand stays skipped", "a run with a key that is retried by hand runs and has its key again", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return nil }
	}},
	{"a run retried by hand has no key", "a run with a key that is retried by hand runs and has its key again", func(f *faulty, _ providertest.Config) {
		var retried atomic.Bool
		f.retry = func(ctx context.Context, name, id string) error {
			retried.Store(true)
			return f.Scheduler.Retry(ctx, name, id)
		}
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if retried.Load() {
				opts = nil
			}
			return f.Scheduler.Trigger(ctx, name, data, opts...)
		}
	}},
	{"a run found in a transaction starts before its end", "a waiting run found in a transaction starts after the commit", func(f *faulty, _ providertest.Config) {
		f.inTx = func(ctx context.Context, _ pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			return f.Scheduler.Trigger(ctx, name, data, opts...)
		}
	}},
	{"Latest takes effect although the transaction is rolled back", "a waiting run found in a transaction starts after the commit", func(f *faulty, _ providertest.Config) {
		f.inTx = func(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if req, err := jobs.NewRequest(name, data, opts...); err == nil && req.UniqueMode == jobs.UniqueModeLatest {
				_, _ = f.Scheduler.Trigger(ctx, name, data, opts...)
			}
			return f.Scheduler.TriggerTx(ctx, tx, name, nil, append(slices.Clone(opts), jobs.UniqueWaiting("key"))...)
		}
	}},
	{"a trigger in a transaction finds a run in progress", "a trigger in a transaction during a run of its key inserts another", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, _ ...jobs.TriggerOption) (string, error) {
			return f.Scheduler.Trigger(ctx, name, data, jobs.Unique("key"))
		}
		f.inTx = func(ctx context.Context, tx pgx.Tx, name string, data any, _ ...jobs.TriggerOption) (string, error) {
			return f.Scheduler.TriggerTx(ctx, tx, name, data, jobs.Unique("key"))
		}
	}},
	{"a trigger in a transaction starts before its end", "a trigger in a transaction during a run of its key inserts another", ignoresTx},
	{"a transaction does not hold its key of UniqueWaiting", "Trigger waits for a key of UniqueWaiting or Latest taken by an open transaction", forgetsOptionsInTx},
	{"a transaction is ignored", "a run triggered in a transaction exists once it commits, and never if it is rolled back", ignoresTx},
	{"a nested transaction is ignored", "runs triggered in a nested transaction exist once both transactions commit", ignoresTx},
	{"runs of a transaction are lost", "a run triggered in a transaction exists once it commits, and never if it is rolled back", losesTx},
	{"runs of a nested transaction are lost", "runs triggered in a nested transaction exist once both transactions commit", losesTx},
	{"a nil transaction is accepted", "TriggerTx refuses what Trigger refuses, and leaves the transaction usable", func(f *faulty, _ providertest.Config) {
		f.inTx = func(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if tx == nil {
				return f.Scheduler.Trigger(ctx, name, data, opts...)
			}
			return f.Scheduler.TriggerTx(ctx, tx, name, data, opts...)
		}
	}},
	{"a transaction that has ended is accepted", "TriggerTx refuses what Trigger refuses, and leaves the transaction usable", func(f *faulty, _ providertest.Config) {
		f.inTx = func(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.TriggerTx(ctx, tx, name, data, opts...)
			if errors.Is(err, pgx.ErrTxClosed) {
				return f.Scheduler.Trigger(ctx, name, data, opts...)
			}
			return id, err
		}
	}},
	{"TriggerManyTx ignores its transaction", "runs of TriggerManyTx exist once the transaction commits, and never if it is rolled back", func(f *faulty, _ providertest.Config) {
		f.manyInTx = func(ctx context.Context, _ pgx.Tx, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			return f.Scheduler.TriggerMany(ctx, name, data, opts...)
		}
	}},
	{"TriggerManyTx returns the IDs in reverse", "runs of TriggerManyTx exist once the transaction commits, and never if it is rolled back", func(f *faulty, _ providertest.Config) {
		f.manyInTx = func(ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			ids, err := f.Scheduler.TriggerManyTx(ctx, tx, name, data, opts...)
			slices.Reverse(ids)
			return ids, err
		}
	}},
	{"TriggerManyTx stops half-way", "TriggerManyTx inserts all or none, and leaves the transaction usable", func(f *faulty, _ providertest.Config) {
		f.manyInTx = func(ctx context.Context, tx pgx.Tx, name string, data []any, opts ...jobs.TriggerOption) (ids []string, err error) {
			for _, v := range data {
				id, err := f.Scheduler.TriggerTx(ctx, tx, name, v, opts...)
				if err != nil {
					return ids, err
				}
				ids = append(ids, id)
			}
			return ids, nil
		}
	}},
	{"idempotency keys are ignored", repeated, func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.IdempotencyKey = "" }
	}},
	{"an idempotency key is free when its run has ended", repeated, func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Unique, req.IdempotencyKey = req.IdempotencyKey, "" }
	}},
	{"a different trigger gets the ID of the first", "an idempotency key of a different trigger is refused", func(f *faulty, _ providertest.Config) {
		ids := map[string]string{}
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			req, err := jobs.NewRequest(name, data, opts...)
			if id := ids[req.IdempotencyKey]; err == nil && id != "" {
				return id, nil
			}
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			ids[req.IdempotencyKey] = id
			return id, err
		}
	}},
	{"the options of a repeat are not compared", "an idempotency key of a different trigger is refused", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Priority, req.Delay, req.At = 1, -1, time.Time{} }
	}},
	{"the data of a repeat are not compared", "an idempotency key of a different trigger is refused", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, _ any, opts ...jobs.TriggerOption) (string, error) {
			return f.Scheduler.Trigger(ctx, name, nil, opts...)
		}
	}},
	{"an idempotency key is shared by all jobs", privateKey, func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if req, err := jobs.NewRequest(name, data, opts...); err == nil && req.IdempotencyKey != "" {
				name = "test.job"
			}
			return f.Scheduler.Trigger(ctx, name, data, opts...)
		}
	}},
	{"idempotency keys are Unique keys", privateKey, func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) {
			if req.IdempotencyKey != "" {
				req.Unique, req.IdempotencyKey = req.IdempotencyKey, ""
			}
		}
	}},
	{"concurrent repeats are not compared", "concurrent triggers with one idempotency key insert one run", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Unique, req.IdempotencyKey = req.IdempotencyKey, "" }
	}},
	{"each concurrent trigger inserts a run", "concurrent triggers with one idempotency key insert one run", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.IdempotencyKey = "" }
	}},
	{"a run retried by hand loses its idempotency key", "a run retried by hand keeps its idempotency key", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Unique, req.IdempotencyKey = req.IdempotencyKey, "" }
	}},
	{"a transaction ignores idempotency keys", idempotentTx, forgetsOptionsInTx},
	{"a rolled back transaction keeps its idempotency key", idempotentTx, ignoresTx},
	{"Unique is ignored in a transaction", "Unique in a transaction finds live runs, including those of the transaction", forgetsOptionsInTx},
	{"a transaction does not hold its key", "Trigger waits for a Unique key taken by an open transaction", forgetsOptionsInTx},
	{"TriggerMany stops half-way", "TriggerMany inserts all or none", triggersOneByOne},
	{"TriggerBulk stops half-way", "TriggerBulk inserts all or none, and returns how many", func(f *faulty, _ providertest.Config) {
		f.bulk = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error) {
			for i, v := range data {
				if _, err := f.Scheduler.Trigger(ctx, name, v, opts...); err != nil {
					return i, err
				}
			}
			return len(data), nil
		}
	}},
	{"TriggerBulk forgets its options", "TriggerBulk inserts all or none, and returns how many", func(f *faulty, _ providertest.Config) {
		f.bulk = func(ctx context.Context, name string, data []any, _ ...jobs.TriggerOption) (int, error) {
			return f.Scheduler.TriggerBulk(ctx, name, data)
		}
	}},
	{"TriggerMany returns the IDs in reverse", "TriggerMany returns the IDs in the order of the data", func(f *faulty, _ providertest.Config) {
		f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			ids, err := f.Scheduler.TriggerMany(ctx, name, data, opts...)
			slices.Reverse(ids)
			return ids, err
		}
	}},
	{"runs triggered before Start are dropped", "a run triggered before Start waits for it", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if h, err := f.Scheduler.Health(ctx); err != nil || !h.Started {
				return "dropped", err
			}
			return f.Scheduler.Trigger(ctx, name, data, opts...)
		}
	}},
	{"Start is allowed twice", "a second Start is refused and changes nothing", func(f *faulty, _ providertest.Config) {
		f.start = func(ctx context.Context) error { return accepting(jobs.ErrStarted)(f.Scheduler.Start(ctx)) }
	}},
	{"Shutdown is allowed twice", "Shutdown is refused if the scheduler is not started", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error { return accepting(jobs.ErrNotStarted)(f.Scheduler.Shutdown(ctx)) }
	}},
	{"calls during a Shutdown are refused", "during a Shutdown, Start and another Shutdown wait for it to finish, but no longer than their context", func(f *faulty, _ providertest.Config) {
		var stopping atomic.Bool
		f.shutdown = func(ctx context.Context) error {
			if !stopping.CompareAndSwap(false, true) {
				return jobs.ErrNotStarted
			}
			defer stopping.Store(false)
			return f.Scheduler.Shutdown(ctx)
		}
	}},
	{"registering while started is ignored", "registering is refused while started, and allowed before and after", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrStarted)
	}},
	{"Shutdown does not wait", "a soft stop waits for running jobs and starts no others", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error {
			go func() { _ = f.Scheduler.Shutdown(context.WithoutCancel(ctx)) }()
			return nil
		}
	}},
	{"a hard stop uses up the attempt", "a hard stop returns running jobs to the queue, and the attempt doesn't count", func(f *faulty, _ providertest.Config) {
		var mu sync.Mutex
		used := map[string]int{}
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				mu.Lock()
				job.Attempt += used[job.ID]
				mu.Unlock()
				id, err := job.ID, h(ctx, job)
				if ctx.Err() != nil {
					mu.Lock()
					used[id]++
					mu.Unlock()
				}
				return err
			}
		}
	}},
	{"a hard stop drops the job", "a hard stop returns running jobs to the queue, and the attempt doesn't count", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if err := h(ctx, job); ctx.Err() == nil {
					return err
				}
				return nil
			}
		}
	}},
	{"a hard stop hides the error of its context", "a Shutdown whose context ends still stops, and returns the context's error", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error { return forgetting(f.Scheduler.Shutdown(ctx)) }
	}},
	{"the context of a call is ignored", "a call whose context has ended returns its error and does nothing", func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			return f.Scheduler.QueueSize(context.WithoutCancel(ctx), name)
		}
	}},
	{"the tick is the next one", "an interval runs at each of its multiples", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.Add(time.Second) })
	}},
	{"the tick is the time of the start", "Late returns how long after its tick a run started", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.StartedAt })
	}},
	{"the tick is in local time", "a cron pattern runs at its ticks", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.In(time.FixedZone("", 3600)) })
	}},
	{"a triggered run has a tick", "triggering a scheduled job does not affect its ticks", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Tick.IsZero() {
				job.Tick = job.StartedAt.Truncate(time.Second)
			}
		})
	}},
	{"missed ticks are dropped", oneForAll, func(f *faulty, _ providertest.Config) {
		losesFirstRun(f)
	}},
	{"missed ticks all run", oneForAll, func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.CatchUp(jobs.CatchUpAll)}
	}},
	{"missed ticks are not counted", oneForAll, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Missed = 0 })
	}},
	{"a late run counts its own tick as missed", oneForAll, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Missed > 0 {
				job.Missed++
			}
		})
	}},
	{"the tick of a late run is the first missed one", oneForAll, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.Add(-time.Duration(job.Missed) * time.Second) })
	}},
	{"the status does not count missed ticks", oneForAll, changingStatus(func(st *jobs.Status) { st.Missed = 0 })},
	{"each tick waits for the busy worker", oneWaits, func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			if st, _ := f.Scheduler.Jobs(ctx); len(st) > 0 && st[0].OverdueBy >= time.Second {
				runs = append(runs[:1], runs...)
			}
			return runs, err
		}
	}},
	{"each tick runs when the worker is free", oneWaits, func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.CatchUp(jobs.CatchUpAll)}
	}},
	{"the run that waited has the first tick", oneWaits, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			job.Tick, job.Missed = job.Tick.Add(-time.Duration(job.Missed)*time.Second), 0
		})
	}},
	{"a tick that replaces another is on time", oneWaits, changingStatus(func(st *jobs.Status) { st.OverdueBy %= time.Second })},
	{"a late run is as late as its first tick", "StartWithin counts from the latest of the ticks that a run covers", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if job.Late()+time.Duration(job.Missed)*time.Second > 5*time.Second {
					return nil // skipped
				}
				return h(ctx, job)
			}
		}
	}},
	{"StartWithin drops missed ticks", "StartWithin counts from the latest of the ticks that a run covers", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.StartWithin(100 * time.Millisecond)}
	}},
	{"CatchUpAll is ignored", "with CatchUpAll, each missed tick runs, in order and one at a time", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.CatchUp(jobs.CatchUpOnce)}
	}},
	{"a tick that waits for the previous one does not count", "with CatchUpAll, a tick that waits for the previous one is overdue, and not a run", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.OldestWaiting = 0 }
	}},
	{"a tick that waits for the previous one sometimes counts as running", "with CatchUpAll, a tick that waits for the previous one is overdue, and not a run", func(f *faulty, _ providertest.Config) {
		n := 0
		f.status = func(all []jobs.Status) {
			if n++; n%10 == 0 {
				all[0].Running, all[0].Waiting = all[0].Running+all[0].Waiting, 0
			}
		}
	}},
	{"a retry beside another run is skipped", "with OverlapSkip, a retry is not skipped", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if job.Attempt > 1 && !job.Tick.IsZero() {
					return nil
				}
				return h(ctx, job)
			}
		}
	}},
	{"ticks never overlap", "ticks run beside an earlier run of their job", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Overlap(jobs.OverlapSkip)}
	}},
	{"OverlapSkip is ignored", "with OverlapSkip, a tick is skipped while another run is in progress", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Overlap(jobs.OverlapAllow)}
	}},
	{"OverlapSkip delays the tick", "with OverlapSkip, a tick is skipped while another run is in progress", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Overlap(jobs.OverlapAllow), jobs.Concurrency(1)}
	}},
	{"output is not listed", "a run has the output that its handler set last, whether or not the attempt succeeded", changingRuns(func(r *jobs.Run) { r.Output = nil })},
	{"output of transactional jobs is lost", "output of a transactional job is stored, and so are its snoozes and failures", changingRuns(func(r *jobs.Run) { r.Output = nil })},
	{"runs without output have null", "a run has the output that its handler set last, whether or not the attempt succeeded", changingRuns(func(r *jobs.Run) {
		if r.Output == nil {
			r.Output = json.RawMessage(`null`)
		}
	})},
	{"output of failed attempts is lost", "a run has the output that its handler set last, whether or not the attempt succeeded", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				own := jobs.Job{Name: job.Name, Data: job.Data, Attempt: job.Attempt}
				err := h(ctx, &own)
				if output := own.Output(); err == nil && output != nil {
					return job.SetOutput(output)
				}
				return err
			}
		}
	}},
	{"output that is refused replaces the one before", "output that cannot be stored is refused, and the output before it stays", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				err := h(ctx, job)
				return errors.Join(err, job.SetOutput(nil))
			}
		}
	}},
	{"output gets lost in copies of the job", "middleware may replace the job and still sees and keeps its output", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return h(ctx, &jobs.Job{Name: job.Name}) }
		}
	}},
	{"Run returns no output", "Await returns a completed run with its output, after retries and snoozes", changingRun(func(r *jobs.Run) { r.Output = nil })},
	{"a run ends with its first attempt", "Await returns a completed run with its output, after retries and snoozes", changingRun(func(r *jobs.Run) {
		if r.Attempt > 0 && r.State != jobs.StateRunning && r.EndedAt.IsZero() {
			r.State, r.EndedAt = jobs.StateFailed, r.DueAt
		}
	})},
	{"runs that ended otherwise count as completed", "Await returns a run that failed, was cancelled or skipped with ErrNotCompleted", changingRun(func(r *jobs.Run) {
		if !r.EndedAt.IsZero() {
			r.State = jobs.StateCompleted
		}
	})},
	{"the error of a run that failed is lost", "Await returns a run that failed, was cancelled or skipped with ErrNotCompleted", changingRun(func(r *jobs.Run) { r.Error = "" })},
	{"an unknown ID is not told from a run that waits", "Await ends with its context, and at once for an unknown ID", func(f *faulty, _ providertest.Config) {
		f.run = func(ctx context.Context, id string) (jobs.Run, error) {
			run, err := f.Scheduler.Run(ctx, id)
			if errors.Is(err, jobs.ErrUnknownID) {
				return jobs.Run{ID: id, State: jobs.StateWaiting}, nil
			}
			return run, err
		}
	}},
	{"Run says that a delayed run is running", "Await ends with its context, and at once for an unknown ID", changingRun(func(r *jobs.Run) { r.State = jobs.StateRunning })},
	{"OnFailed is called twice", "OnFailed is called once for a run that failed in its last attempt, with that run", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{onFailed(func(all []failedFunc) []failedFunc { return slices.Concat(all, all) })}
	}},
	{"OnFailed gets a run without its error", "OnFailed is called once for a run that failed in its last attempt, with that run", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{eachFailed(func(ctx context.Context, run jobs.Run, call failedFunc) {
			run.Error = ""
			call(ctx, run)
		})}
	}},
	{"OnFailed has no time limit", "OnFailed is called once for a run that failed in its last attempt, with that run", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{eachFailed(func(ctx context.Context, run jobs.Run, call failedFunc) {
			call(context.WithoutCancel(ctx), run)
		})}
	}},
	{"OnFailed is only called after the last attempt", "OnFailed is called for a Permanent error, and for no run that ended otherwise", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{eachFailed(func(ctx context.Context, run jobs.Run, call failedFunc) {
			if run.Attempt == run.MaxAttempts {
				call(ctx, run)
			}
		})}
	}},
	{"OnFailed is called for cancelled runs", "OnFailed is called for a Permanent error, and for no run that ended otherwise", func(f *faulty, _ providertest.Config) {
		var call failedFunc
		f.options = []jobs.Option{onFailed(func(all []failedFunc) []failedFunc { call = all[0]; return all })}
		f.cancel = func(ctx context.Context, name, id string) error {
			call(ctx, jobs.Run{ID: id, Name: name, State: jobs.StateCancelled})
			return f.Scheduler.Cancel(ctx, name, id)
		}
	}},
	{"OnFailed is called once for each ID", "OnFailed is called again if a run that was retried by hand fails again", func(f *faulty, _ providertest.Config) {
		var called sync.Map
		f.options = []jobs.Option{eachFailed(func(ctx context.Context, run jobs.Run, call failedFunc) {
			if _, before := called.LoadOrStore(run.ID, true); !before {
				call(ctx, run)
			}
		})}
	}},
	{"only the first OnFailed is called", "an OnFailed function that panics or exits its goroutine stops no other", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{onFailed(func(all []failedFunc) []failedFunc { return all[:1] })}
	}},
	{"Shutdown does not wait for OnFailed", "Shutdown waits for OnFailed, and cancels it when its context ends", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{eachFailed(func(ctx context.Context, run jobs.Run, call failedFunc) { go call(ctx, run) })}
	}},
	{"a cancelled OnFailed is not called again", "Shutdown waits for OnFailed, and cancels it when its context ends", func(f *faulty, _ providertest.Config) {
		called := false
		f.options = []jobs.Option{eachFailed(func(ctx context.Context, run jobs.Run, call failedFunc) {
			if !called {
				called = true
				call(ctx, run)
			}
		})}
	}},
	{"OnSkipped is not called", "OnSkipped is called for a skipped run with its reason, and for no other", func(f *faulty, _ providertest.Config) {
		f.own = func([]jobs.Option) []jobs.Option { return []jobs.Option{jobs.StartWithin(1)} }
	}},
	{"OnSkipped is called for runs that fail", "OnSkipped is called for a skipped run with its reason, and for no other", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.StartWithin(1)}
	}},
	{"OnSkipped is not called during a pause", "OnSkipped is called for each tick that a pause skips", func(f *faulty, _ providertest.Config) {
		f.own = func([]jobs.Option) []jobs.Option { return nil }
	}},
	{"StartWithin is ignored", "StartWithin skips a tick that could only start later", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.StartWithin(time.Hour)}
	}},
	{"StartWithin applies only to ticks", "StartWithin skips a triggered run that could only start later", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.StartWithin(time.Hour)}
	}},
	{"QueueSize counts running runs", "QueueSize counts runs that are due, delayed or to be retried, and no others", func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			all, err := f.Scheduler.Jobs(ctx)
			for _, st := range all {
				if st.Name == name {
					return st.Waiting + st.Running, err
				}
			}
			return 0, err
		}
	}},
	{"QueueSize counts the next tick", "QueueSize counts runs that are due, delayed or to be retried, and no others", func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, err := f.Scheduler.QueueSize(ctx, name)
			if name == "test.hourly" {
				n++
			}
			return n, err
		}
	}},
	{"QueueSize of an unknown job is 0", "a job that is not registered is refused", func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, _ := f.Scheduler.QueueSize(ctx, name)
			return n, nil
		}
	}},
	{"a late tick is not overdue", "a schedule that is due while stopped counts as one waiting run and as overdue", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].OverdueBy = 0
			}
		}
	}},
	{"a due tick does not count before it is inserted", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, err := f.Scheduler.QueueSize(ctx, name)
			if h, _ := f.Scheduler.Health(ctx); !h.Started {
				n = 0
			}
			return n, err
		}
	}},
	{"each tick that has passed counts as waiting", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, err := f.Scheduler.QueueSize(ctx, name)
			if h, _ := f.Scheduler.Health(ctx); !h.Started && n > 0 {
				n += int(h.OldestWaiting / time.Second)
			}
			return n, err
		}
	}},
	{"Jobs does not count a due tick before it is inserted", oneIsDue, changingStatus(func(st *jobs.Status) { st.Waiting = 0 })},
	{"Health does not count a due tick before it is inserted", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { delete(h.Totals, jobs.StateWaiting) }
	}},
	{"a due tick has not waited before it is inserted", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.OldestWaiting = 0 }
	}},
	{"a triggered run counts as a success of the schedule", lastSuccess, changingStatus(func(st *jobs.Status) {
		if st.LastSuccess.IsZero() {
			st.LastSuccess = time.Now().UTC()
		}
	})},
	{"a failure counts as a success", lastSuccess, changingStatus(func(st *jobs.Status) { st.LastSuccess = st.PrevTick })},
	{"a failure resets the last success", lastSuccess, changingStatus(func(st *jobs.Status) {
		if st.PrevState == jobs.StateFailed {
			st.LastSuccess = time.Time{}
		}
	})},
	{"the first success stays the last", lastSuccess, func(f *faulty, _ providertest.Config) {
		var first time.Time
		f.status = func(all []jobs.Status) {
			if first.IsZero() {
				first = all[0].LastSuccess
			}
			all[0].LastSuccess = first
		}
	}},
	{"a stop resets the last success", lastSuccess, func(f *faulty, _ providertest.Config) {
		var stopped atomic.Bool
		f.shutdown = func(ctx context.Context) error {
			stopped.Store(true)
			return f.Scheduler.Shutdown(ctx)
		}
		f.status = func(all []jobs.Status) {
			if stopped.Load() {
				all[0].LastSuccess = time.Time{}
			}
		}
	}},
	{"a stop resets the previous tick", lastSuccess, func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			if h, err := f.Scheduler.Health(context.Background()); err == nil && !h.Started {
				all[0].PrevTick, all[0].PrevState = time.Time{}, ""
			}
		}
	}},
	{"Jobs is not sorted", "Jobs lists every registered job by name before Start, while started and after Shutdown", func(f *faulty, _ providertest.Config) {
		f.status = slices.Reverse[[]jobs.Status]
	}},
	{"every previous tick is completed", "Jobs returns the previous tick with its state, and the next tick", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].PrevState = jobs.StateCompleted
			}
		}
	}},
	{"Health is always good", "Health is good while started, and otherwise says why not", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Healthy, h.Reasons = true, nil }
	}},
	{"Health gives no reason", "Health is good while started, and otherwise says why not", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Reasons = nil }
	}},
	{"Health counts nothing", "Health counts runs by state, and reports how long the oldest has been due", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Totals = nil }
	}},
	{"a duplicate is accepted", "a duplicate name is refused, and the error names both call sites", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrDuplicate)
	}},
	{"the call sites of a duplicate are not named", "a duplicate name is refused, and the error names both call sites", func(f *faulty, _ providertest.Config) {
		f.register = func(err error) error {
			if errors.Is(err, jobs.ErrDuplicate) {
				return fmt.Errorf("%w: test.job", jobs.ErrDuplicate)
			}
			return err
		}
	}},
	{"errors are only text", "an option out of range is refused", func(f *faulty, _ providertest.Config) {
		f.register = forgetting
	}},
	{"invalid data becomes no data", "data that is not a JSON object or cannot be stored unchanged is refused, and nothing is inserted", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			if errors.Is(err, jobs.ErrInvalidData) {
				id, err = f.Scheduler.Trigger(ctx, name, nil, opts...)
			}
			return id, err
		}
	}},
	{"a job that succeeds runs again", "a job that succeeds is done", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.MaxRetries(5)}
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if err := h(ctx, job); err != nil || job.Attempt > 2 {
					return err
				}
				return errors.New("lost")
			}
		}
	}},
	{"the context has no deadline", "a handler's context ends at the timeout", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return h(context.WithoutCancel(ctx), job) }
		}
	}},
	{"one job runs at a time", "jobs don't block each other", func(f *faulty, _ providertest.Config) {
		one := make(chan struct{}, 1)
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				one <- struct{}{}
				defer func() { <-one }()
				return h(ctx, job)
			}
		}
	}},
	{"a hard stop fails a run that succeeded", "a job that succeeds despite a hard stop is done", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return errors.Join(h(ctx, job), ctx.Err()) }
		}
	}},
	{"a restart loses the first run", "a restart runs what waited", func(f *faulty, _ providertest.Config) {
		losesFirstRun(f)
	}},
	{"a restart loses a tick", "a restart neither loses a tick nor runs it twice", func(f *faulty, _ providertest.Config) {
		losesFirstRun(f)
	}},
	{"the retry of a tick has another tick", "a tick that fails is retried as the same run, and the next tick is on time", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.Add(time.Duration(job.Attempt-1) * time.Hour) })
	}},
	{"a tick is retried without delay", "a tick that fails is retried as the same run, and the next tick is on time", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if job.Attempt > 1 || h(ctx, job) == nil {
					return nil
				}
				time.Sleep(10 * time.Millisecond)
				job.Attempt++
				return h(ctx, job)
			}
		}
	}},
	{"TriggerMany without data is refused", "TriggerMany without data inserts nothing", func(f *faulty, _ providertest.Config) {
		f.many = func(context.Context, string, []any, ...jobs.TriggerOption) ([]string, error) {
			return nil, errors.New("no jobs to insert")
		}
	}},
	{"Jobs does not count running runs", "Jobs counts waiting, retrying and running runs", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].Running = 0
			}
		}
	}},
	{"Jobs counts delayed runs as retrying", "Jobs counts waiting, retrying and running runs", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].Retrying = all[i].Waiting
			}
		}
	}},
	{"Health does not check the database", "Health reports an unreachable database", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Healthy, h.Reasons = true, nil }
	}},
	{"an invalid name is accepted", "an invalid name is refused", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrInvalidName)
	}},
	{"a pattern that never fires is accepted", "a cron pattern that is malformed or never fires is refused, and the error names the field", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrInvalidSchedule)
	}},
	{"an interval below a second is accepted", "intervals below a second, negative delays, and either finer than a millisecond are refused", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrInvalidSchedule)
	}},
	{"intervals and delays are rounded", "intervals below a second, negative delays, and either finer than a millisecond are refused", func(f *faulty, _ providertest.Config) {
		f.register = func(err error) error {
			if err != nil && strings.Contains(err.Error(), "milliseconds") {
				return nil
			}
			return err
		}
	}},
	{"the delay of a trigger is rounded", "a trigger with an invalid option is refused, and nothing is inserted", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			if err != nil && strings.Contains(err.Error(), "milliseconds") {
				id, err = f.Scheduler.Trigger(ctx, name, data)
			}
			return id, err
		}
	}},
	{"an invalid option is ignored if there is no data", "a trigger with an invalid option is refused, and nothing is inserted", func(f *faulty, _ providertest.Config) {
		f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			if len(data) == 0 {
				return nil, nil
			}
			return f.Scheduler.TriggerMany(ctx, name, data, opts...)
		}
	}},
	{"an invalid trigger option is ignored", "a trigger with an invalid option is refused, and nothing is inserted", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			if errors.Is(err, jobs.ErrInvalidOption) {
				id, err = f.Scheduler.Trigger(ctx, name, data)
			}
			return id, err
		}
	}},

	// Middleware.
	{"the last Use is outermost", "middleware wraps a handler in the order given, with the defaults outermost", func(f *faulty, _ providertest.Config) {
		f.own = func(opts []jobs.Option) []jobs.Option { slices.Reverse(opts); return opts }
	}},
	{"the defaults wrap a second time", "middleware wraps a handler in the order given, with the defaults outermost", func(f *faulty, cfg providertest.Config) {
		f.options = cfg.Defaults
	}},
	{"middleware cannot change the context", "middleware wraps a handler in the order given, with the defaults outermost", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(_ context.Context, job *jobs.Job) error { return h(context.Background(), job) }
		}
	}},
	{"a panic is a plain error", "middleware sees the handler's result: a panic as a PanicError, with texts redacted", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) (err error) {
				defer func() {
					if v := recover(); v != nil {
						err = fmt.Errorf("panic: %v", v)
					}
				}()
				return h(ctx, job)
			}
		}
	}},
	{"Redact runs after middleware", "middleware sees the handler's result: a panic as a PanicError, with texts redacted", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Redact(func(text string) string { return text })}
	}},
	{"a redacted error is only text", "middleware sees the handler's result: a panic as a PanicError, with texts redacted", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"middleware is omitted", "the result of middleware is the result of the attempt", func(f *faulty, _ providertest.Config) {
		f.own = func([]jobs.Option) []jobs.Option { return []jobs.Option{jobs.RetryDelay(0)} }
	}},
	{"middleware does not know the number of attempts", "Retries reports to middleware whether another attempt follows", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.MaxAttempts = 0 })
	}},
	{"the log has the original error", "Redact keeps secrets in errors and panics out of the log and the stored runs", func(f *faulty, cfg providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error {
			cfg.Logger.Error("failed", "error", err)
			return err
		})
	}},
	{"Redact is ignored", "Redact keeps secrets in errors and panics out of the log and the stored runs", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Redact(func(text string) string { return text })}
	}},
	{"the stored error is the original", "Redact keeps secrets in errors and panics out of the log and the stored runs", changingRuns(func(r *jobs.Run) { r.Error = "the password is hunter2" })},
	{"the last UseTrigger is outermost", "trigger middleware wraps a trigger in the order given, with the defaults outermost", func(f *faulty, _ providertest.Config) {
		f.own = func(opts []jobs.Option) []jobs.Option { slices.Reverse(opts); return opts }
	}},
	{"the defaults wrap a trigger twice", "trigger middleware wraps a trigger in the order given, with the defaults outermost", func(f *faulty, cfg providertest.Config) {
		f.options = cfg.Defaults
	}},
	{"retries have no metadata", "the metadata of a trigger reaches every attempt of its run, and no other run", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Attempt > 1 {
				job.Metadata = nil
			}
		})
	}},
	{"attempts share their metadata", "the metadata of a trigger reaches every attempt of its run, and no other run", func(f *faulty, _ providertest.Config) {
		var shared sync.Map
		f.handler = before(func(job *jobs.Job) {
			metadata, _ := shared.LoadOrStore(job.ID, job.Metadata)
			job.Metadata = metadata.(map[string]string)
		})
	}},
	{"no metadata is an empty map", "the metadata of a trigger reaches every attempt of its run, and no other run", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Metadata == nil {
				job.Metadata = map[string]string{}
			}
		})
	}},
	{"trigger middleware is omitted", "a trigger that middleware refuses inserts nothing", func(f *faulty, _ providertest.Config) {
		f.own = func([]jobs.Option) []jobs.Option { return nil }
	}},
	{"a refusal is hidden from the caller", "a trigger that middleware refuses inserts nothing", func(f *faulty, _ providertest.Config) {
		f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			ids, _ := f.Scheduler.TriggerMany(ctx, name, data, opts...)
			return ids, nil
		}
	}},
	{"TriggerMany passes through middleware one by one", "a trigger that middleware refuses inserts nothing", triggersOneByOne},
	{"Trigger returns a different ID than middleware sees", "trigger middleware sees the IDs that the trigger returns", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			return "id-" + id, err
		}
	}},
	{"TriggerMany returns different IDs than middleware sees", "trigger middleware sees the IDs that the trigger returns", func(f *faulty, _ providertest.Config) {
		f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			ids, err := f.Scheduler.TriggerMany(ctx, name, data, opts...)
			slices.Reverse(ids)
			return ids, err
		}
	}},

	// What Jobs reports about schedules.
	{"Upcoming omits the next tick", "Jobs returns the next three ticks of a schedule", changingStatus(func(st *jobs.Status) {
		if len(st.Upcoming) > 0 {
			st.Upcoming = st.Upcoming[1:]
		}
	})},
	{"Upcoming assumes equal distances", "Jobs returns the next three ticks of a schedule", changingStatus(func(st *jobs.Status) {
		if len(st.Upcoming) == 3 {
			st.Upcoming[2] = st.Upcoming[1].Add(st.Upcoming[1].Sub(st.Upcoming[0]))
		}
	})},
	{"a job without a schedule has upcoming ticks", "Jobs returns the next three ticks of a schedule", changingStatus(func(st *jobs.Status) {
		if len(st.Upcoming) == 0 {
			st.Upcoming = make([]time.Time, 3)
		}
	})},
	{"a late tick has no reason", "a schedule that is due while stopped counts as one waiting run and as overdue", changingStatus(func(st *jobs.Status) { st.OverdueReason = "" })},
	{"a tick on time has a reason to be late", "a schedule that is due while stopped counts as one waiting run and as overdue", changingStatus(func(st *jobs.Status) { st.OverdueReason = "who knows" })},

	// Runs and Activity.
	{"the oldest run is listed first", "Runs lists the latest runs of a job, newest first", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			slices.Reverse(runs)
			return runs, err
		}
	}},
	{"the limit takes the oldest runs", "Runs lists the latest runs of a job, newest first", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, 1000)
			return runs[max(0, len(runs)-limit):], err
		}
	}},
	{"runs have no data", "Runs lists the latest runs of a job, newest first", changingRuns(func(r *jobs.Run) { r.Data = nil })},
	{"runs are in local time", "Runs lists the latest runs of a job, newest first", changingRuns(func(r *jobs.Run) { r.EndedAt = r.EndedAt.In(time.FixedZone("", 3600)) })},
	{"a triggered run is listed with a tick", "Runs lists the latest runs of a job, newest first", changingRuns(func(r *jobs.Run) { r.Tick = r.DueAt })},
	{"a skipped run is listed as cancelled", "Runs returns each run's state and latest error", changingRuns(func(r *jobs.Run) {
		if r.State == jobs.StateSkipped {
			r.State = jobs.StateCancelled
		}
	})},
	{"a run has EndedAt before it has ended", "Runs returns each run's state and latest error", changingRuns(func(r *jobs.Run) { r.EndedAt = r.DueAt })},
	{"a panic is stored without its stack", "Runs returns the stack of a panic", changingRuns(func(r *jobs.Run) { r.Error, _, _ = strings.Cut(r.Error, "\n") })},
	{"runs have no error", "Runs returns each run's state and latest error", changingRuns(func(r *jobs.Run) { r.Error = "" })},
	{"a completed run loses its error", "Runs returns each run's state and latest error", changingRuns(func(r *jobs.Run) {
		if r.State == jobs.StateCompleted {
			r.Error = ""
		}
	})},
	{"the run of a tick is listed without it", "Runs lists a tick once it is inserted", changingRuns(func(r *jobs.Run) { r.Tick = time.Time{} })},
	{"skipping counts as an attempt", "Runs returns each run's state and latest error", changingRuns(func(r *jobs.Run) {
		if r.State == jobs.StateSkipped {
			r.Attempt = 1
		}
	})},
	{"a retried run stays skipped", "Retry starts a run that was cancelled or skipped", changingRuns(func(r *jobs.Run) {
		if r.Name == "test.late" {
			r.Error = "skipped"
		}
	})},
	{"a tick is listed before it is due", "Runs lists a tick once it is inserted", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			if name == "test.hourly" {
				runs = append(runs, jobs.Run{ID: "next", Name: name, State: jobs.StateScheduled, Tick: time.Now().Add(time.Hour).Truncate(time.Hour)})
			}
			return runs, err
		}
	}},
	{"a waiting tick is not listed", "Runs lists a tick once it is inserted", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			return slices.DeleteFunc(runs, func(r jobs.Run) bool { return r.Attempt == 0 }), err
		}
	}},
	{"any limit is accepted", "Runs refuses a limit out of range and an unknown job", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			return f.Scheduler.Runs(ctx, name, max(1, min(limit, 1000)))
		}
	}},
	{"an unknown job has no runs", "Runs refuses a limit out of range and an unknown job", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			return runs, accepting(jobs.ErrUnknownJob)(err)
		}
	}},
	{"failed runs count as completed", "Activity counts the runs that have ended, by job", changingActivity(func(a *jobs.Activity) {
		for _, steps := range a.Jobs {
			for i := range steps {
				steps[i].Completed, steps[i].Failed = steps[i].Completed+steps[i].Failed, 0
			}
		}
	})},
	{"the steps are in reverse", "Activity counts the runs that have ended, by job", changingActivity(func(a *jobs.Activity) {
		for _, steps := range a.Jobs {
			slices.Reverse(steps)
		}
	})},
	{"the steps are not aligned", "Activity counts the runs that have ended, by job", changingActivity(func(a *jobs.Activity) {
		a.Start = a.Start.Add(time.Minute)
		a.CompleteSince = a.Start
	})},
	{"skipped runs are not counted", "Activity counts the runs that have ended, by job", changingActivity(func(a *jobs.Activity) { delete(a.Jobs, "test.late") })},
	{"any step is accepted", "Activity refuses steps that are too short or too many", func(f *faulty, _ providertest.Config) {
		f.activity = func(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
			return f.Scheduler.Activity(ctx, max(step, time.Second), n)
		}
	}},

	// Operators' calls.
	{"Cancel ignores waiting runs", "a run cancelled while it waits never starts", func(f *faulty, _ providertest.Config) {
		f.cancel = func(context.Context, string, string) error { return nil }
	}},
	{"a cancelled run keeps its Unique key", "a run cancelled while it waits never starts", func(f *faulty, _ providertest.Config) {
		var kept string
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			req, err := jobs.NewRequest(name, data, opts...)
			if err == nil && req.Unique != "" && kept != "" {
				return kept, nil
			}
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			kept = id
			return id, err
		}
	}},
	{"a cancelled run is listed as failed", "a run cancelled while it waits never starts", changingRuns(func(r *jobs.Run) {
		if r.State == jobs.StateCancelled {
			r.State = jobs.StateFailed
		}
	})},
	{"Cancel ignores running runs", "a run cancelled while running has its context ended and is not retried", func(f *faulty, _ providertest.Config) {
		f.cancel = func(context.Context, string, string) error { return nil }
	}},
	{"Cancel ends all runs of the job", "a run cancelled while running has its context ended and is not retried", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, _ string) error {
			runs, err := f.Scheduler.Runs(ctx, name, 1000)
			for _, r := range runs {
				err = errors.Join(err, f.Scheduler.Cancel(ctx, name, r.ID))
			}
			return err
		}
	}},
	{"a run that succeeds is cancelled nevertheless", "a run that succeeds despite being cancelled is completed", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return errors.Join(h(ctx, job), ctx.Err()) }
		}
	}},
	{"a cancelled tick ends its schedule", "cancelling a tick does not end its schedule", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			return errors.Join(f.Scheduler.Cancel(ctx, name, id), f.Scheduler.Pause(ctx, name))
		}
	}},
	{"a waiting tick cannot be cancelled", "cancelling a tick does not end its schedule", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			runs, err := f.Scheduler.Runs(ctx, name, 1000)
			if slices.ContainsFunc(runs, func(r jobs.Run) bool { return r.ID == id && r.State == jobs.StateWaiting }) {
				return err
			}
			return f.Scheduler.Cancel(ctx, name, id)
		}
	}},
	{"a status has the default options", "a status has the options of its job", changingStatus(func(st *jobs.Status) {
		st.Options = jobs.JobOptions{MaxAttempts: 3, RetryDelay: 5 * time.Second, Timeout: 5 * time.Minute, Priority: 1}
	})},
	{"a running run does not say that it was cancelled", "a run says when it was cancelled, until it is retried", changingRuns(func(r *jobs.Run) {
		if r.State == jobs.StateRunning {
			r.CancelledAt = time.Time{}
		}
	})},
	{"a retried run is still cancelled", "a run says when it was cancelled, until it is retried", changingRuns(func(r *jobs.Run) {
		if r.State == jobs.StateCompleted {
			r.CancelledAt = r.CreatedAt
		}
	})},
	{"cancelling a run that has ended is an error", "Cancel does nothing to a run that has ended", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			runs, _ := f.Scheduler.Runs(ctx, name, 1000)
			for _, r := range runs {
				if r.ID == id && !r.EndedAt.IsZero() {
					return errors.New("already ended")
				}
			}
			return f.Scheduler.Cancel(ctx, name, id)
		}
	}},
	{"a failed run cannot be retried", "Retry starts a failed run at once, and it can complete", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return jobs.ErrNotRetryable }
	}},
	{"Retry triggers another run", "Retry starts a failed run at once, and it can complete", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, _ string) error {
			runs, err := f.Scheduler.Runs(ctx, name, 1)
			if err == nil {
				_, err = f.Scheduler.Trigger(ctx, name, runs[0].Data)
			}
			return err
		}
	}},
	{"a retried run starts again at attempt 1", "Retry starts a failed run at once, and it can complete", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Attempt = 1 + (job.Attempt-1)%2 })
	}},
	{"a skipped run cannot be retried", "Retry starts a run that was cancelled or skipped", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return nil }
	}},
	{"a cancelled run cannot be retried", "Retry starts a run that was cancelled or skipped", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			if name == "test.job" {
				return nil
			}
			return f.Scheduler.Retry(ctx, name, id)
		}
	}},
	{"Retry does not start the next attempt earlier", "Retry starts the next attempt of a waiting run at once", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return nil }
	}},
	{"Retry ignores runs that cannot be retried", "Retry refuses a run that waits for its first attempt, is running or has completed", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			return accepting(jobs.ErrNotRetryable)(f.Scheduler.Retry(ctx, name, id))
		}
	}},
	{"a completed run can be retried", "Retry refuses a run that waits for its first attempt, is running or has completed", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			err := f.Scheduler.Retry(ctx, name, id)
			if runs, _ := f.Scheduler.Runs(ctx, name, 1000); len(runs) > 0 && runs[len(runs)-1].State == jobs.StateCompleted {
				return nil
			}
			return err
		}
	}},
	{"the ID of another job is accepted", "operators' calls refuse unknown jobs and IDs", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			err := f.Scheduler.Retry(ctx, name, id)
			if other := f.Scheduler.Retry(ctx, "test.other", id); !errors.Is(other, jobs.ErrUnknownID) {
				return other
			}
			return err
		}
	}},
	{"cancelling an unknown ID is not an error", "operators' calls refuse unknown jobs and IDs", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			return accepting(jobs.ErrUnknownID)(f.Scheduler.Cancel(ctx, name, id))
		}
	}},
	{"resuming an unknown job is not an error", "operators' calls refuse unknown jobs and IDs", func(f *faulty, _ providertest.Config) {
		f.resume = func(ctx context.Context, name string) error {
			return accepting(jobs.ErrUnknownJob)(f.Scheduler.Resume(ctx, name))
		}
	}},
	{"a pause ignores its context", "operators' calls refuse unknown jobs and IDs", func(f *faulty, _ providertest.Config) {
		f.pause = func(ctx context.Context, name string) error {
			return f.Scheduler.Pause(context.WithoutCancel(ctx), name)
		}
	}},

	// Pauses.
	{"Pause does nothing", "runs triggered while their job is paused wait until it is resumed, and other jobs continue", func(f *faulty, _ providertest.Config) {
		f.pause = func(context.Context, string) error { return nil }
	}},
	{"Pause only changes the status", "runs triggered while their job is paused wait until it is resumed, and other jobs continue", func(f *faulty, _ providertest.Config) {
		since := map[string]time.Time{}
		f.pause = func(_ context.Context, name string) error {
			if since[name].IsZero() {
				since[name] = time.Now().UTC()
			}
			return nil
		}
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].PausedSince = since[all[i].Name]
			}
		}
	}},
	{"a second Pause starts over", "runs triggered while their job is paused wait until it is resumed, and other jobs continue", func(f *faulty, _ providertest.Config) {
		f.pause = func(ctx context.Context, name string) error {
			return errors.Join(f.Scheduler.Resume(ctx, name), f.Scheduler.Pause(ctx, name))
		}
	}},
	{"Pause pauses another job too", "runs triggered while their job is paused wait until it is resumed, and other jobs continue", func(f *faulty, _ providertest.Config) {
		f.pause = func(ctx context.Context, name string) error {
			return errors.Join(f.Scheduler.Pause(ctx, name), f.Scheduler.Pause(ctx, "test.other"))
		}
	}},
	{"Resume resumes another job too", "runs triggered while their job is paused wait until it is resumed, and other jobs continue", func(f *faulty, _ providertest.Config) {
		f.resume = func(ctx context.Context, _ string) error {
			return errors.Join(f.Scheduler.Resume(ctx, "test.job"), f.Scheduler.Resume(ctx, "test.own"))
		}
	}},
	{"Pause cancels running runs", "runs triggered while their job is paused wait until it is resumed, and other jobs continue", func(f *faulty, _ providertest.Config) {
		f.pause = func(ctx context.Context, name string) error {
			runs, err := f.Scheduler.Runs(ctx, name, 1000)
			for _, r := range runs {
				err = errors.Join(err, f.Scheduler.Cancel(ctx, name, r.ID))
			}
			return errors.Join(err, f.Scheduler.Pause(ctx, name))
		}
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				ended := make(chan error, 1)
				go func() { ended <- h(ctx, job) }()
				select {
				case err := <-ended:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
	}},
	{"ticks run while their job is paused", "ticks that come due while their job is paused are skipped, and the schedule continues", func(f *faulty, _ providertest.Config) {
		f.pause = func(context.Context, string) error { return nil }
	}},
	{"a tick skipped by a pause is listed", "ticks that come due while their job is paused are skipped, and the schedule continues", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			all, _ := f.Scheduler.Jobs(ctx)
			for _, st := range all {
				if st.Name == name && st.PrevState == jobs.StateSkipped {
					runs = append(runs, jobs.Run{ID: "skipped", Name: name, State: jobs.StateSkipped, Tick: st.PrevTick, Error: provider.SkippedPaused})
				}
			}
			return runs, err
		}
	}},
	{"a tick skipped by a pause is not in the status", "ticks that come due while their job is paused are skipped, and the schedule continues", changingStatus(func(st *jobs.Status) {
		if st.PrevState == jobs.StateSkipped {
			st.PrevTick, st.PrevState = st.LastSuccess, jobs.StateCompleted
		}
	})},
	{"a schedule stops while its job is paused", "ticks that come due while their job is paused are skipped, and the schedule continues", changingStatus(func(st *jobs.Status) {
		if !st.PausedSince.IsZero() {
			st.NextTick = st.PausedSince.Truncate(time.Second).Add(time.Second)
		}
	})},
	{"a paused schedule is overdue", "ticks that come due while their job is paused are skipped, and the schedule continues", changingStatus(func(st *jobs.Status) {
		if !st.PausedSince.IsZero() {
			st.OverdueBy = time.Since(st.PausedSince)
		}
	})},
	{"ticks skipped by a pause count as missed", "ticks that come due while their job is paused are skipped, and the schedule continues", func(f *faulty, _ providertest.Config) {
		var skipped atomic.Int64
		f.resume = func(ctx context.Context, name string) error {
			all, _ := f.Scheduler.Jobs(ctx)
			for _, st := range all {
				if st.Name == name {
					skipped.Store(int64(time.Since(st.PausedSince) / time.Second))
				}
			}
			return f.Scheduler.Resume(ctx, name)
		}
		f.handler = before(func(job *jobs.Job) {
			if job.Name == "test.tick" {
				job.Missed += int(skipped.Swap(0))
			}
		})
	}},
	{"Resume does nothing", "ticks that come due while their job is paused are skipped, and the schedule continues", func(f *faulty, _ providertest.Config) {
		f.resume = func(context.Context, string) error { return nil }
	}},
	{"a restart ends a pause", "a pause outlasts a restart", func(f *faulty, _ providertest.Config) {
		f.start = func(ctx context.Context) error {
			return errors.Join(f.Scheduler.Resume(ctx, "test.job"), f.Scheduler.Start(ctx))
		}
	}},
	{"a stop drops runs of a paused job", "a pause outlasts a restart", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error {
			runs, err := f.Scheduler.Runs(ctx, "test.job", 1000)
			for _, r := range runs {
				err = errors.Join(err, f.Scheduler.Cancel(ctx, "test.job", r.ID))
			}
			return errors.Join(err, f.Scheduler.Shutdown(ctx))
		}
	}},
	{"a pause does not hold back retries", "retries wait while their job is paused, including those of ticks", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if job.Attempt > 1 || h(ctx, job) == nil {
					return nil
				}
				job.Attempt++
				return h(ctx, job)
			}
		}
	}},
	{"Retry overrides a pause", "a run retried by an operator waits while its job is paused", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			defer func() { _ = f.Scheduler.Pause(ctx, name) }()
			return errors.Join(f.Scheduler.Retry(ctx, name, id), f.Scheduler.Resume(ctx, name), pause(ctx))
		}
	}},
}

// pause lets other goroutines run for a moment.
func pause(ctx context.Context) error {
	select {
	case <-time.After(time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failedFunc is a function of jobs.OnFailed.
type failedFunc = func(context.Context, jobs.Run)

// onFailed is an option that changes the functions of jobs.OnFailed, of which there may be none.
type onFailed func([]failedFunc) []failedFunc

func (o onFailed) ApplyTo(s *settings.Job[jobs.Middleware, jobs.TriggerMiddleware, jobs.Run]) error {
	if len(s.OnFailed) > 0 {
		s.OnFailed = o(s.OnFailed)
	}
	return nil
}

// eachFailed wraps each function of jobs.OnFailed.
func eachFailed(wrapper func(ctx context.Context, run jobs.Run, call failedFunc)) onFailed {
	return func(all []failedFunc) (wrapped []failedFunc) {
		for _, call := range all {
			wrapped = append(wrapped, func(ctx context.Context, run jobs.Run) { wrapper(ctx, run, call) })
		}
		return wrapped
	}
}

// changingRuns changes each run that Runs returns.
func changingRuns(change func(*jobs.Run)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			for i := range runs {
				change(&runs[i])
			}
			return runs, err
		}
	}
}

// changingStatus changes each status that Jobs returns.
func changingStatus(change func(*jobs.Status)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				change(&all[i])
			}
		}
	}
}

// changingActivity changes the result of Activity.
func changingActivity(change func(*jobs.Activity)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.activity = func(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
			a, err := f.Scheduler.Activity(ctx, step, n)
			change(&a)
			return a, err
		}
	}
}

// triggersOneByOne makes TriggerMany of f a Trigger for each job.
func triggersOneByOne(f *faulty, _ providertest.Config) {
	f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (ids []string, err error) {
		for _, v := range data {
			id, err := f.Scheduler.Trigger(ctx, name, v, opts...)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		return ids, nil
	}
}

// ignoresTx makes TriggerTx insert at once.
func ignoresTx(f *faulty, _ providertest.Config) {
	f.inTx = func(ctx context.Context, _ pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
		return f.Scheduler.Trigger(ctx, name, data, opts...)
	}
}

// losesTx makes TriggerTx insert in another transaction, which is never committed.
func losesTx(f *faulty, _ providertest.Config) {
	f.inTx = func(ctx context.Context, _ pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
		return f.Scheduler.TriggerTx(ctx, new(memory.Tx), name, data, opts...)
	}
}

func forgetsOptionsInTx(f *faulty, _ providertest.Config) {
	f.inTx = func(ctx context.Context, tx pgx.Tx, name string, data any, _ ...jobs.TriggerOption) (string, error) {
		return f.Scheduler.TriggerTx(ctx, tx, name, data)
	}
}

// losesFirstRun makes f drop the first run after each restart.
func losesFirstRun(f *faulty) {
	var lose atomic.Bool
	f.shutdown = func(ctx context.Context) error {
		lose.Store(true)
		return f.Scheduler.Shutdown(ctx)
	}
	f.handler = func(h jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			if lose.CompareAndSwap(true, false) {
				return nil
			}
			return h(ctx, job)
		}
	}
}

// accepting hides the error with which a call must be refused.
func accepting(refusal error) func(error) error {
	return func(err error) error {
		if errors.Is(err, refusal) {
			return nil
		}
		return err
	}
}

func TestRun_FindsEachFault(t *testing.T) {
	t.Parallel()
	sound := func(f *faulty, _ providertest.Config) {}
	for _, tt := range slices.Concat(faults, findFaults, effectFaults) {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			require.Empty(t, hold(t, tt.rule, sound), "failures of a scheduler without a fault")
			failures := hold(t, tt.rule, tt.seed)
			require.NotEmpty(t, failures, "the fault was not detected")
			require.Contains(t, failures[0], "rule broken: "+tt.rule)
		})
	}
}

// fakeDB is a database that differs from nil.
type fakeDB struct{ jobs.DB }

func (*fakeDB) Begin(context.Context) (pgx.Tx, error) { return new(memory.Tx), nil }

// hold tests a scheduler with one fault against one rule, and returns the failures.
func hold(t *testing.T, rule string, seed func(*faulty, providertest.Config)) (failures []string) {
	synctest.Test(t, func(t *testing.T) {
		// A bubble ends with its last goroutine, for which a faulty scheduler needs time.
		t.Cleanup(func() { time.Sleep(time.Hour) })
		c := &captured{TB: t}
		db := &fakeDB{}
		h := providertest.Harness{
			Bubble: true,
			DB:     func(jobs.Scheduler) jobs.DB { return db },
			BreakDB: func(_ testing.TB, s jobs.Scheduler) {
				s.(*faulty).broken.Store(true)
			},
			New: func(t testing.TB, cfg providertest.Config) jobs.Scheduler {
				s, err := memory.New(&memory.Config{Logger: cfg.Logger, Defaults: cfg.Defaults, DB: db})
				require.NoError(t, err)
				f := &faulty{Scheduler: s}
				seed(f, cfg)
				return f
			},
		}
		done := make(chan struct{})
		go func() { // a failure ends its goroutine
			defer close(done)
			providertest.RunRule(c, rule, h)
		}()
		<-done
		failures = c.failures
	})
	return failures
}

// captured is a testing.TB that records failures instead of failing the test.
type captured struct {
	testing.TB
	mu       sync.Mutex
	failures []string
}

func (c *captured) add(message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, message)
}

func (c *captured) Error(args ...any)                 { c.add(fmt.Sprint(args...)) }
func (c *captured) Errorf(format string, args ...any) { c.add(fmt.Sprintf(format, args...)) }
func (c *captured) Fail()                             { c.add("failed") }
func (c *captured) Fatal(args ...any)                 { c.Error(args...); c.FailNow() }
func (c *captured) Fatalf(format string, args ...any) { c.Errorf(format, args...); c.FailNow() }
func (c *captured) Failed() bool                      { c.mu.Lock(); defer c.mu.Unlock(); return len(c.failures) > 0 }
func (c *captured) Log(...any)                        {}
func (c *captured) Logf(string, ...any)               {}

// FailNow ends the goroutine, like that of a testing.T.
func (c *captured) FailNow() {
	c.add("ended")
	runtime.Goexit()
}
