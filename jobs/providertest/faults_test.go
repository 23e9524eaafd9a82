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
	"github.com/everytick/everytick/jobs/provider"
	"github.com/everytick/everytick/jobs/providertest"
)

func TestEveryRuleHasANameOfItsOwn(t *testing.T) {
	t.Parallel()
	names := providertest.RuleNames()
	slices.Sort(names)
	require.Equal(t, slices.Compact(slices.Clone(names)), names)
	require.NotContains(t, names, "")
}

// faulty is a scheduler with one fault: a function that is set takes the place of
// the method behind it, or of part of it.
type faulty struct {
	*memory.Scheduler

	handler  func(jobs.Handler) jobs.Handler
	options  []jobs.Option                        // come after those of the registration
	own      func([]jobs.Option) []jobs.Option    // changes those of the registration
	request  func(name string, req *jobs.Request) // changes what is asked with a trigger
	register func(error) error
	trigger  func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error)
	many     func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error)
	bulk     func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error)
	inTx     func(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error)
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

	broken atomic.Bool // the database is gone
}

var errBroken = errors.New("the database is gone")

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
		// A delay of -1 stands for none given: no option can set it.
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
			opts = append(opts, jobs.Unique(req.Unique))
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

// before is a fault in what handlers are given, after one in what they return.
func before(change func(*jobs.Job)) func(jobs.Handler) jobs.Handler {
	return func(h jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			change(job)
			return h(ctx, job)
		}
	}
}

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

// forgetting makes an error one that errors.Is and errors.As know nothing of.
func forgetting(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}

// Rules that several faults break.
const (
	oneForAll   = "after missed ticks one run stands for all of them: its tick is the latest, and Missed counts the others"
	oneWaits    = "ticks that pass while all workers are busy become one run, that of the latest"
	oneIsDue    = "a schedule that is due while stopped counts as one job that waits, and as overdue"
	lastSuccess = "Jobs tells the tick of the latest run that succeeded, through failures and a restart"
)

// faults are schedulers with one fault each, and the rule that is to tell.
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
	{"data of no trigger is null", "data is {} when Trigger is given none", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if string(job.Data) == "{}" {
				job.Data = json.RawMessage(`null`)
			}
		})
	}},
	{"attempts share their data", "what a handler does to its job ends with the attempt", func(f *faulty, _ providertest.Config) {
		var shared sync.Map
		f.handler = before(func(job *jobs.Job) {
			data, _ := shared.LoadOrStore(job.ID, job.Data)
			job.Data = data.(json.RawMessage)
		})
	}},
	{"the database is not handed on", "a handler is given every field of its job", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.DB = nil })
	}},
	{"the start is in local time", "a handler is given every field of its job", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.StartedAt = job.StartedAt.In(time.FixedZone("", 3600)) })
	}},
	{"the ID changes with the attempt", "a job keeps the ID that Trigger returned, and no other job has it", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.ID = fmt.Sprint(job.ID, "/", job.Attempt) })
	}},
	{"the logger lacks job_id", "the logger of a job carries job, job_id and attempt", func(f *faulty, cfg providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Logger = cfg.Logger.With("job", job.Name, "attempt", job.Attempt) })
	}},
	{"handlers run under the context of Start", "the context of Start and Trigger does not reach the handlers", func(f *faulty, _ providertest.Config) {
		var started context.Context
		f.start = func(ctx context.Context) error {
			started = ctx //nolint:fatcontext // that is the fault
			return f.Scheduler.Start(ctx)
		}
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(_ context.Context, job *jobs.Job) error { return h(started, job) }
		}
	}},
	{"the back-off is constant", "the wait before a retry doubles", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return jobs.RetryAfter(200*time.Millisecond, err) })
	}},
	{"there is one attempt fewer", "a job has three attempts unless set otherwise", func(f *faulty, _ providertest.Config) {
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
	{"the first retry comes at once", "the first retry comes after five seconds unless set otherwise", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.RetryDelay(0)}
	}},
	{"a Permanent error is retried", "a Permanent error ends the job with its attempt", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"RetryAfter is ignored", "RetryAfter sets the wait of one retry, and uses up an attempt", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"a panic passes for success", "a panic is a failed attempt, and the process lives", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				defer func() { _ = recover() }()
				return h(ctx, job)
			}
		}
	}},
	{"an error that panics is for good", "an error whose methods panic is a failed attempt, and the process lives", func(f *faulty, _ providertest.Config) {
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
	{"an error that panics has no text", "an error whose methods panic is a failed attempt, and the process lives", listing(func(r *jobs.Run) { r.Error = "" })},
	{"the timeout does not reach the handler", "a timeout cancels the context and is a failed attempt", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return h(context.WithoutCancel(ctx), job) }
		}
	}},
	{"data that does not decode is retried", "data that does not decode fails the job for good, and that job alone", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.MaxRetries(1000), jobs.RetryDelay(time.Minute)}
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"the delay of the registration is ignored", "a job runs the delay of its registration after its trigger", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Delay = 0 }
	}},
	{"Delay is ignored", "Delay takes the place of the delay of the registration", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Delay = -1 }
	}},
	{"At is ignored", "At sets when a job runs, and a time that has passed means now", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.At = time.Time{}; req.Delay = 0 }
	}},
	{"Priority is ignored", "of jobs that are due a lower priority number starts first", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Priority = 0 }
	}},
	{"the newest job is taken first", "of jobs with the same priority the one due longer starts first", func(f *faulty, _ providertest.Config) {
		priority := 5
		f.request = func(_ string, req *jobs.Request) { priority--; req.Priority = priority }
	}},
	{"Concurrency is ignored", "Concurrency limits how many of a job run at once", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Concurrency(50)}
	}},
	{"Unique is ignored", "Unique returns the live job of that key instead of a second one", func(f *faulty, _ providertest.Config) {
		f.request = func(_ string, req *jobs.Request) { req.Unique = "" }
	}},
	{"a Unique key is never free again", "a Unique key is free again when its job is done", func(f *faulty, _ providertest.Config) {
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
	{"a Unique key is that of all jobs", "a Unique key is private to the name of its job", func(f *faulty, _ providertest.Config) {
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
	{"a transaction is ignored", "a job triggered in a transaction exists once that commits, and never if it is rolled back", ignoresTx},
	{"a transaction within one is ignored", "jobs of a transaction within a transaction exist once both commit", ignoresTx},
	{"jobs of a transaction are lost", "a job triggered in a transaction exists once that commits, and never if it is rolled back", losesTx},
	{"jobs of a transaction within one are lost", "jobs of a transaction within a transaction exist once both commit", losesTx},
	{"no transaction is one too", "TriggerTx refuses what Trigger refuses, and leaves the transaction as it is", func(f *faulty, _ providertest.Config) {
		f.inTx = func(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if tx == nil {
				return f.Scheduler.Trigger(ctx, name, data, opts...)
			}
			return f.Scheduler.TriggerTx(ctx, tx, name, data, opts...)
		}
	}},
	{"a transaction that has ended is one too", "TriggerTx refuses what Trigger refuses, and leaves the transaction as it is", func(f *faulty, _ providertest.Config) {
		f.inTx = func(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.TriggerTx(ctx, tx, name, data, opts...)
			if errors.Is(err, pgx.ErrTxClosed) {
				return f.Scheduler.Trigger(ctx, name, data, opts...)
			}
			return id, err
		}
	}},
	{"Unique is ignored in a transaction", "Unique in a transaction finds a live job, and those of the transaction", forgetsOptionsInTx},
	{"a transaction takes no key", "a Unique key that an open transaction has taken is waited for", forgetsOptionsInTx},
	{"TriggerMany stops half-way", "TriggerMany enqueues all or none", func(f *faulty, _ providertest.Config) {
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
	}},
	{"TriggerBulk stops half-way", "TriggerBulk inserts all or none, and says how many", func(f *faulty, _ providertest.Config) {
		f.bulk = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) (int, error) {
			for i, v := range data {
				if _, err := f.Scheduler.Trigger(ctx, name, v, opts...); err != nil {
					return i, err
				}
			}
			return len(data), nil
		}
	}},
	{"TriggerBulk forgets its options", "TriggerBulk inserts all or none, and says how many", func(f *faulty, _ providertest.Config) {
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
	{"what is triggered before Start is dropped", "what is triggered before Start waits for it", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			if h, err := f.Scheduler.Health(ctx); err != nil || !h.Started {
				return "dropped", err
			}
			return f.Scheduler.Trigger(ctx, name, data, opts...)
		}
	}},
	{"Start is allowed twice", "a second Start is refused, and changes nothing", func(f *faulty, _ providertest.Config) {
		f.start = func(ctx context.Context) error { return accepting(jobs.ErrStarted)(f.Scheduler.Start(ctx)) }
	}},
	{"Shutdown is allowed twice", "a Shutdown of what is not started is refused", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error { return accepting(jobs.ErrNotStarted)(f.Scheduler.Shutdown(ctx)) }
	}},
	{"calls during a Shutdown are refused", "while a Shutdown goes on, Start and another Shutdown wait for its end, but no longer than their context", func(f *faulty, _ providertest.Config) {
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
	{"Shutdown does not wait", "a soft stop waits for the job that runs, and starts no other", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error {
			go func() { _ = f.Scheduler.Shutdown(context.WithoutCancel(ctx)) }()
			return nil
		}
	}},
	{"a hard stop uses up the attempt", "a hard stop gives the running job back, its attempt not used up", func(f *faulty, _ providertest.Config) {
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
	{"a hard stop drops the job", "a hard stop gives the running job back, its attempt not used up", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if err := h(ctx, job); ctx.Err() == nil {
					return err
				}
				return nil
			}
		}
	}},
	{"a hard stop hides its reason", "a Shutdown that is cut short stops nevertheless, and tells the error of its context", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error { return forgetting(f.Scheduler.Shutdown(ctx)) }
	}},
	{"the context of a call is ignored", "a call with a context that has ended returns its error, and does nothing", func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			return f.Scheduler.QueueSize(context.WithoutCancel(ctx), name)
		}
	}},
	{"the tick is the next one", "an interval runs at each multiple of it, with its tick", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.Add(time.Second) })
	}},
	{"the tick is the time of the start", "Late tells how long after its tick a run started", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.StartedAt })
	}},
	{"the tick is in local time", "a cron pattern runs at its instants, each with its tick", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.In(time.FixedZone("", 3600)) })
	}},
	{"a triggered run has a tick", "a triggered run of a scheduled job is beside its ticks", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Tick.IsZero() {
				job.Tick = job.StartedAt.Truncate(time.Second)
			}
		})
	}},
	{"missed ticks are dropped", oneForAll, func(f *faulty, _ providertest.Config) {
		losesFirstRun(f)
	}},
	{"missed ticks are all made up", oneForAll, func(f *faulty, _ providertest.Config) {
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
	{"a late run has the first missed tick", oneForAll, func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.Add(-time.Duration(job.Missed) * time.Second) })
	}},
	{"the status does not tell of missed ticks", oneForAll, telling(func(st *jobs.Status) { st.Missed = 0 })},
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
	{"a tick that takes the place of another is in time", oneWaits, telling(func(st *jobs.Status) { st.OverdueBy %= time.Second })},
	{"a late run is as late as its first tick", "with StartWithin a run that stands for several ticks is as late as the latest of them", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				if job.Late()+time.Duration(job.Missed)*time.Second > 5*time.Second {
					return nil // skipped
				}
				return h(ctx, job)
			}
		}
	}},
	{"StartWithin drops missed ticks", "with StartWithin a run that stands for several ticks is as late as the latest of them", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.StartWithin(100 * time.Millisecond)}
	}},
	{"CatchUpAll is ignored", "with CatchUpAll each missed tick runs, in order and one at a time", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.CatchUp(jobs.CatchUpOnce)}
	}},
	{"a tick that waits for the one before it counts for nothing", "with CatchUpAll a tick that waits for the one before it is overdue, and no run", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.OldestWaiting = 0 }
	}},
	{"a tick that waits for the one before it is called a run now and then", "with CatchUpAll a tick that waits for the one before it is overdue, and no run", func(f *faulty, _ providertest.Config) {
		n := 0
		f.status = func(all []jobs.Status) {
			if n++; n%10 == 0 {
				all[0].Running, all[0].Waiting = all[0].Running+all[0].Waiting, 0
			}
		}
	}},
	{"a retry beside another run is skipped", "with OverlapSkip a retry is not skipped", func(f *faulty, _ providertest.Config) {
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
	{"OverlapSkip is ignored", "with OverlapSkip a tick is skipped while another run goes on", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Overlap(jobs.OverlapAllow)}
	}},
	{"OverlapSkip delays the tick", "with OverlapSkip a tick is skipped while another run goes on", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Overlap(jobs.OverlapAllow), jobs.Concurrency(1)}
	}},
	{"StartWithin is ignored", "with StartWithin a tick that could only start later is skipped", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.StartWithin(time.Hour)}
	}},
	{"StartWithin is for ticks alone", "with StartWithin a job that could only start later is skipped", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.StartWithin(time.Hour)}
	}},
	{"QueueSize counts what runs", "QueueSize counts what is due, delayed or to be retried, and nothing else", func(f *faulty, _ providertest.Config) {
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
	{"QueueSize counts the next tick", "QueueSize counts what is due, delayed or to be retried, and nothing else", func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, err := f.Scheduler.QueueSize(ctx, name)
			if name == "test.hourly" {
				n++
			}
			return n, err
		}
	}},
	{"QueueSize of an unknown job is 0", "a job that nobody registered is refused", func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, _ := f.Scheduler.QueueSize(ctx, name)
			return n, nil
		}
	}},
	{"a late tick is not overdue", "a schedule that is due while stopped counts as one job that waits, and as overdue", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].OverdueBy = 0
			}
		}
	}},
	{"a due tick counts for nothing before it is inserted", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, err := f.Scheduler.QueueSize(ctx, name)
			if h, _ := f.Scheduler.Health(ctx); !h.Started {
				n = 0
			}
			return n, err
		}
	}},
	{"each tick that has passed counts as one that waits", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.size = func(ctx context.Context, name string) (int, error) {
			n, err := f.Scheduler.QueueSize(ctx, name)
			if h, _ := f.Scheduler.Health(ctx); !h.Started && n > 0 {
				n += int(h.OldestWaiting / time.Second)
			}
			return n, err
		}
	}},
	{"Jobs does not count a due tick before it is inserted", oneIsDue, telling(func(st *jobs.Status) { st.Waiting = 0 })},
	{"Health does not count a due tick before it is inserted", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { delete(h.Totals, jobs.StateWaiting) }
	}},
	{"a due tick has not waited before it is inserted", oneIsDue, func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.OldestWaiting = 0 }
	}},
	{"what is triggered is a success of the schedule", lastSuccess, telling(func(st *jobs.Status) {
		if st.LastSuccess.IsZero() {
			st.LastSuccess = time.Now().UTC()
		}
	})},
	{"a failure is a success", lastSuccess, telling(func(st *jobs.Status) { st.LastSuccess = st.PrevTick })},
	{"a failure makes the last success be forgotten", lastSuccess, telling(func(st *jobs.Status) {
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
	{"a stop makes the last success be forgotten", lastSuccess, func(f *faulty, _ providertest.Config) {
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
	{"a stop makes the previous tick be forgotten", lastSuccess, func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			if h, err := f.Scheduler.Health(context.Background()); err == nil && !h.Started {
				all[0].PrevTick, all[0].PrevState = time.Time{}, ""
			}
		}
	}},
	{"Jobs is in no order", "Jobs lists every registered job by name, before, during and after", func(f *faulty, _ providertest.Config) {
		f.status = slices.Reverse[[]jobs.Status]
	}},
	{"every previous tick is completed", "Jobs tells the previous tick and what became of it, and the next", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].PrevState = jobs.StateCompleted
			}
		}
	}},
	{"Health is always good", "Health is good while started, and says why when it is not", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Healthy, h.Reasons = true, nil }
	}},
	{"Health gives no reason", "Health is good while started, and says why when it is not", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Reasons = nil }
	}},
	{"Health counts nothing", "Health counts the jobs by state, and tells how long the oldest has been due", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Totals = nil }
	}},
	{"a duplicate is accepted", "a second registration of a name is refused, and the error names both places", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrDuplicate)
	}},
	{"the places of a duplicate are not named", "a second registration of a name is refused, and the error names both places", func(f *faulty, _ providertest.Config) {
		f.register = func(err error) error {
			if errors.Is(err, jobs.ErrDuplicate) {
				return fmt.Errorf("%w: test.job", jobs.ErrDuplicate)
			}
			return err
		}
	}},
	{"errors are text alone", "an option out of range is refused", func(f *faulty, _ providertest.Config) {
		f.register = forgetting
	}},
	{"bad data becomes no data", "data that is no JSON object or cannot be stored unchanged is refused, and nothing is enqueued", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			if errors.Is(err, jobs.ErrInvalidData) {
				id, err = f.Scheduler.Trigger(ctx, name, nil, opts...)
			}
			return id, err
		}
	}},
	{"a job that succeeds is run again", "a job that succeeds is done", func(f *faulty, _ providertest.Config) {
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
	{"the context has no deadline", "the context of a handler ends at the timeout", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return h(context.WithoutCancel(ctx), job) }
		}
	}},
	{"one job runs at a time", "jobs do not stand in each other's way", func(f *faulty, _ providertest.Config) {
		one := make(chan struct{}, 1)
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error {
				one <- struct{}{}
				defer func() { <-one }()
				return h(ctx, job)
			}
		}
	}},
	{"a hard stop fails what ended well", "a job that ends well in spite of a hard stop is done", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return errors.Join(h(ctx, job), ctx.Err()) }
		}
	}},
	{"a restart loses the first run", "a restart runs what waited", func(f *faulty, _ providertest.Config) {
		losesFirstRun(f)
	}},
	{"a restart loses a tick", "a restart neither loses a tick nor doubles one", func(f *faulty, _ providertest.Config) {
		losesFirstRun(f)
	}},
	{"the retry of a tick has another tick", "a tick that fails is retried as the same job, and the next one comes in time", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Tick = job.Tick.Add(time.Duration(job.Attempt-1) * time.Hour) })
	}},
	{"a tick is retried without its wait", "a tick that fails is retried as the same job, and the next one comes in time", func(f *faulty, _ providertest.Config) {
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
	{"TriggerMany of nothing is refused", "TriggerMany of nothing enqueues nothing", func(f *faulty, _ providertest.Config) {
		f.many = func(context.Context, string, []any, ...jobs.TriggerOption) ([]string, error) {
			return nil, errors.New("no jobs to insert")
		}
	}},
	{"Jobs does not see what runs", "Jobs counts what waits, what is to be retried and what runs", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].Running = 0
			}
		}
	}},
	{"Jobs takes what is delayed for what is to be retried", "Jobs counts what waits, what is to be retried and what runs", func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				all[i].Retrying = all[i].Waiting
			}
		}
	}},
	{"Health does not ask the database", "Health tells when the database is gone", func(f *faulty, _ providertest.Config) {
		f.health = func(h *jobs.Health) { h.Healthy, h.Reasons = true, nil }
	}},
	{"a name that breaks the rule is accepted", "a name that breaks the rule for names is refused", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrInvalidName)
	}},
	{"a pattern that never fires is accepted", "a cron pattern that is malformed or never fires is refused, and the error names the field", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrInvalidSchedule)
	}},
	{"an interval below a second is accepted", "an interval below a second is refused, and so is a negative delay, and either finer than a millisecond", func(f *faulty, _ providertest.Config) {
		f.register = accepting(jobs.ErrInvalidSchedule)
	}},
	{"intervals and delays are rounded", "an interval below a second is refused, and so is a negative delay, and either finer than a millisecond", func(f *faulty, _ providertest.Config) {
		f.register = func(err error) error {
			if err != nil && strings.Contains(err.Error(), "milliseconds") {
				return nil
			}
			return err
		}
	}},
	{"the delay of a trigger is rounded", "a trigger with a bad option is refused, and nothing is enqueued", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			if err != nil && strings.Contains(err.Error(), "milliseconds") {
				id, err = f.Scheduler.Trigger(ctx, name, data)
			}
			return id, err
		}
	}},
	{"a bad option of no job is ignored", "a trigger with a bad option is refused, and nothing is enqueued", func(f *faulty, _ providertest.Config) {
		f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			if len(data) == 0 {
				return nil, nil
			}
			return f.Scheduler.TriggerMany(ctx, name, data, opts...)
		}
	}},
	{"a bad trigger option is ignored", "a trigger with a bad option is refused, and nothing is enqueued", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			if errors.Is(err, jobs.ErrInvalidOption) {
				id, err = f.Scheduler.Trigger(ctx, name, data)
			}
			return id, err
		}
	}},

	// Middleware.
	{"the last Use is outermost", "middleware wraps a handler in the order given, that of the defaults outermost", func(f *faulty, _ providertest.Config) {
		f.own = func(opts []jobs.Option) []jobs.Option { slices.Reverse(opts); return opts }
	}},
	{"the defaults wrap a second time", "middleware wraps a handler in the order given, that of the defaults outermost", func(f *faulty, cfg providertest.Config) {
		f.options = cfg.Defaults
	}},
	{"middleware cannot change the context", "middleware wraps a handler in the order given, that of the defaults outermost", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(_ context.Context, job *jobs.Job) error { return h(context.Background(), job) }
		}
	}},
	{"a panic is a plain error", "middleware sees what the handler came to: a panic as a PanicError, with texts redacted", func(f *faulty, _ providertest.Config) {
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
	{"Redact comes too late for middleware", "middleware sees what the handler came to: a panic as a PanicError, with texts redacted", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Redact(func(text string) string { return text })}
	}},
	{"a redacted error is text alone", "middleware sees what the handler came to: a panic as a PanicError, with texts redacted", func(f *faulty, _ providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error { return forgetting(err) })
	}},
	{"middleware is left out", "what middleware returns is what the attempt comes to", func(f *faulty, _ providertest.Config) {
		f.own = func([]jobs.Option) []jobs.Option { return []jobs.Option{jobs.RetryDelay(0)} }
	}},
	{"middleware does not know the number of attempts", "Retries tells middleware whether another attempt follows", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.MaxAttempts = 0 })
	}},
	{"the log has the error as it was", "Redact keeps secrets in errors and panics out of the log and of what is kept", func(f *faulty, cfg providertest.Config) {
		f.handler = after(func(_ *jobs.Job, err error) error {
			cfg.Logger.Error("failed", "error", err)
			return err
		})
	}},
	{"Redact is ignored", "Redact keeps secrets in errors and panics out of the log and of what is kept", func(f *faulty, _ providertest.Config) {
		f.options = []jobs.Option{jobs.Redact(func(text string) string { return text })}
	}},
	{"the stored error is as it was", "Redact keeps secrets in errors and panics out of the log and of what is kept", listing(func(r *jobs.Run) { r.Error = "the password is hunter2" })},
	{"the last UseTrigger is outermost", "trigger middleware wraps a trigger in the order given, that of the defaults outermost", func(f *faulty, _ providertest.Config) {
		f.own = func(opts []jobs.Option) []jobs.Option { slices.Reverse(opts); return opts }
	}},
	{"the defaults wrap a trigger twice", "trigger middleware wraps a trigger in the order given, that of the defaults outermost", func(f *faulty, cfg providertest.Config) {
		f.options = cfg.Defaults
	}},
	{"retries have no metadata", "the metadata of a trigger reaches every attempt of its run, and no other", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Attempt > 1 {
				job.Metadata = nil
			}
		})
	}},
	{"attempts share their metadata", "the metadata of a trigger reaches every attempt of its run, and no other", func(f *faulty, _ providertest.Config) {
		var shared sync.Map
		f.handler = before(func(job *jobs.Job) {
			metadata, _ := shared.LoadOrStore(job.ID, job.Metadata)
			job.Metadata = metadata.(map[string]string)
		})
	}},
	{"no metadata is an empty map", "the metadata of a trigger reaches every attempt of its run, and no other", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) {
			if job.Metadata == nil {
				job.Metadata = map[string]string{}
			}
		})
	}},
	{"trigger middleware is left out", "what trigger middleware refuses is not enqueued", func(f *faulty, _ providertest.Config) {
		f.own = func([]jobs.Option) []jobs.Option { return nil }
	}},
	{"a refusal is kept from the caller", "what trigger middleware refuses is not enqueued", func(f *faulty, _ providertest.Config) {
		f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			ids, _ := f.Scheduler.TriggerMany(ctx, name, data, opts...)
			return ids, nil
		}
	}},
	{"TriggerMany passes through middleware one by one", "what trigger middleware refuses is not enqueued", func(f *faulty, _ providertest.Config) {
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
	}},
	{"Trigger returns another ID than middleware sees", "trigger middleware sees the IDs that the trigger returns", func(f *faulty, _ providertest.Config) {
		f.trigger = func(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
			id, err := f.Scheduler.Trigger(ctx, name, data, opts...)
			return "id-" + id, err
		}
	}},
	{"TriggerMany returns other IDs than middleware sees", "trigger middleware sees the IDs that the trigger returns", func(f *faulty, _ providertest.Config) {
		f.many = func(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
			ids, err := f.Scheduler.TriggerMany(ctx, name, data, opts...)
			slices.Reverse(ids)
			return ids, err
		}
	}},

	// What Jobs tells of schedules.
	{"Upcoming leaves out the next tick", "Jobs tells the next three ticks of a schedule", telling(func(st *jobs.Status) {
		if len(st.Upcoming) > 0 {
			st.Upcoming = st.Upcoming[1:]
		}
	})},
	{"Upcoming counts from NextTick in steps", "Jobs tells the next three ticks of a schedule", telling(func(st *jobs.Status) {
		if len(st.Upcoming) == 3 {
			st.Upcoming[2] = st.Upcoming[1].Add(st.Upcoming[1].Sub(st.Upcoming[0]))
		}
	})},
	{"a job without a schedule has ticks to come", "Jobs tells the next three ticks of a schedule", telling(func(st *jobs.Status) {
		if len(st.Upcoming) == 0 {
			st.Upcoming = make([]time.Time, 3)
		}
	})},
	{"a late tick has no reason", "a schedule that is due while stopped counts as one job that waits, and as overdue", telling(func(st *jobs.Status) { st.OverdueReason = "" })},
	{"a tick in time has a reason to be late", "a schedule that is due while stopped counts as one job that waits, and as overdue", telling(func(st *jobs.Status) { st.OverdueReason = "who knows" })},

	// Runs and Activity.
	{"the oldest run is listed first", "Runs lists the latest jobs of a name, the newest first", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			slices.Reverse(runs)
			return runs, err
		}
	}},
	{"the limit takes the oldest runs", "Runs lists the latest jobs of a name, the newest first", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, 1000)
			return runs[max(0, len(runs)-limit):], err
		}
	}},
	{"runs have no data", "Runs lists the latest jobs of a name, the newest first", listing(func(r *jobs.Run) { r.Data = nil })},
	{"runs are in local time", "Runs lists the latest jobs of a name, the newest first", listing(func(r *jobs.Run) { r.EndedAt = r.EndedAt.In(time.FixedZone("", 3600)) })},
	{"a run has a tick when it was triggered", "Runs lists the latest jobs of a name, the newest first", listing(func(r *jobs.Run) { r.Tick = r.DueAt })},
	{"a skipped run is cancelled", "Runs tells where each job stands, and its latest error", listing(func(r *jobs.Run) {
		if r.State == jobs.StateSkipped {
			r.State = jobs.StateCancelled
		}
	})},
	{"a run has an end before it has ended", "Runs tells where each job stands, and its latest error", listing(func(r *jobs.Run) { r.EndedAt = r.DueAt })},
	{"a panic is kept without its stack", "Runs tells of a panic and its stack", listing(func(r *jobs.Run) { r.Error, _, _ = strings.Cut(r.Error, "\n") })},
	{"runs have no error", "Runs tells where each job stands, and its latest error", listing(func(r *jobs.Run) { r.Error = "" })},
	{"a job that completed has never failed", "Runs tells where each job stands, and its latest error", listing(func(r *jobs.Run) {
		if r.State == jobs.StateCompleted {
			r.Error = ""
		}
	})},
	{"the run of a tick has none", "Runs lists a tick once it is inserted, with its instant", listing(func(r *jobs.Run) { r.Tick = time.Time{} })},
	{"to be skipped takes an attempt", "Runs tells where each job stands, and its latest error", listing(func(r *jobs.Run) {
		if r.State == jobs.StateSkipped {
			r.Attempt = 1
		}
	})},
	{"a job that was skipped stays so", "a job that was cancelled or skipped runs when it is retried", listing(func(r *jobs.Run) {
		if r.Name == "test.late" {
			r.Error = "skipped"
		}
	})},
	{"a tick is listed before it is due", "Runs lists a tick once it is inserted, with its instant", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			if name == "test.hourly" {
				runs = append(runs, jobs.Run{ID: "next", Name: name, State: jobs.StateScheduled, Tick: time.Now().Add(time.Hour).Truncate(time.Hour)})
			}
			return runs, err
		}
	}},
	{"a tick that waits is not listed", "Runs lists a tick once it is inserted, with its instant", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			return slices.DeleteFunc(runs, func(r jobs.Run) bool { return r.Attempt == 0 }), err
		}
	}},
	{"any limit will do", "Runs refuses a limit that is out of range, and a job that nobody registered", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			return f.Scheduler.Runs(ctx, name, max(1, min(limit, 1000)))
		}
	}},
	{"an unknown job has no runs", "Runs refuses a limit that is out of range, and a job that nobody registered", func(f *faulty, _ providertest.Config) {
		f.runs = func(ctx context.Context, name string, limit int) ([]jobs.Run, error) {
			runs, err := f.Scheduler.Runs(ctx, name, limit)
			return runs, accepting(jobs.ErrUnknownJob)(err)
		}
	}},
	{"what failed counts as completed", "Activity counts the jobs that ended, under their names", counting(func(a *jobs.Activity) {
		for _, steps := range a.Jobs {
			for i := range steps {
				steps[i].Completed, steps[i].Failed = steps[i].Completed+steps[i].Failed, 0
			}
		}
	})},
	{"the last step is the first", "Activity counts the jobs that ended, under their names", counting(func(a *jobs.Activity) {
		for _, steps := range a.Jobs {
			slices.Reverse(steps)
		}
	})},
	{"the steps end now", "Activity counts the jobs that ended, under their names", counting(func(a *jobs.Activity) {
		a.Start = a.Start.Add(time.Minute)
		a.CompleteSince = a.Start
	})},
	{"what is skipped is not counted", "Activity counts the jobs that ended, under their names", counting(func(a *jobs.Activity) { delete(a.Jobs, "test.late") })},
	{"any step will do", "Activity refuses steps that are too short or too many", func(f *faulty, _ providertest.Config) {
		f.activity = func(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
			return f.Scheduler.Activity(ctx, max(step, time.Second), n)
		}
	}},

	// What an operator does.
	{"Cancel does nothing to what waits", "a job that is cancelled while it waits never runs", func(f *faulty, _ providertest.Config) {
		f.cancel = func(context.Context, string, string) error { return nil }
	}},
	{"a cancelled job keeps its Unique key", "a job that is cancelled while it waits never runs", func(f *faulty, _ providertest.Config) {
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
	{"a cancelled job is listed as failed", "a job that is cancelled while it waits never runs", listing(func(r *jobs.Run) {
		if r.State == jobs.StateCancelled {
			r.State = jobs.StateFailed
		}
	})},
	{"Cancel does nothing to what runs", "a job that is cancelled while it runs has its context ended, and is not retried", func(f *faulty, _ providertest.Config) {
		f.cancel = func(context.Context, string, string) error { return nil }
	}},
	{"Cancel ends all runs of the job", "a job that is cancelled while it runs has its context ended, and is not retried", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, _ string) error {
			runs, err := f.Scheduler.Runs(ctx, name, 1000)
			for _, r := range runs {
				err = errors.Join(err, f.Scheduler.Cancel(ctx, name, r.ID))
			}
			return err
		}
	}},
	{"a job that ends well is cancelled nevertheless", "a job that ends well in spite of being cancelled is completed", func(f *faulty, _ providertest.Config) {
		f.handler = func(h jobs.Handler) jobs.Handler {
			return func(ctx context.Context, job *jobs.Job) error { return errors.Join(h(ctx, job), ctx.Err()) }
		}
	}},
	{"a cancelled tick ends its schedule", "a tick that is cancelled does not end its schedule", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			return errors.Join(f.Scheduler.Cancel(ctx, name, id), f.Scheduler.Pause(ctx, name))
		}
	}},
	{"a tick that waits cannot be cancelled", "a tick that is cancelled does not end its schedule", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			runs, err := f.Scheduler.Runs(ctx, name, 1000)
			if slices.ContainsFunc(runs, func(r jobs.Run) bool { return r.ID == id && r.State == jobs.StateWaiting }) {
				return err
			}
			return f.Scheduler.Cancel(ctx, name, id)
		}
	}},
	{"a job that has ended cannot be cancelled", "Cancel leaves a job that has ended as it is", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			runs, _ := f.Scheduler.Runs(ctx, name, 1000)
			for _, r := range runs {
				if r.ID == id && !r.EndedAt.IsZero() {
					return errors.New("it has ended")
				}
			}
			return f.Scheduler.Cancel(ctx, name, id)
		}
	}},
	{"a job that failed for good cannot be retried", "a job that failed for good runs again at once when it is retried, and can complete", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return jobs.ErrNotRetryable }
	}},
	{"Retry triggers another job", "a job that failed for good runs again at once when it is retried, and can complete", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, _ string) error {
			runs, err := f.Scheduler.Runs(ctx, name, 1)
			if err == nil {
				_, err = f.Scheduler.Trigger(ctx, name, runs[0].Data)
			}
			return err
		}
	}},
	{"a retry counts from one again", "a job that failed for good runs again at once when it is retried, and can complete", func(f *faulty, _ providertest.Config) {
		f.handler = before(func(job *jobs.Job) { job.Attempt = 1 + (job.Attempt-1)%2 })
	}},
	{"what was skipped cannot be retried", "a job that was cancelled or skipped runs when it is retried", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return nil }
	}},
	{"what was cancelled cannot be retried", "a job that was cancelled or skipped runs when it is retried", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			if name == "test.job" {
				return nil
			}
			return f.Scheduler.Retry(ctx, name, id)
		}
	}},
	{"a retry comes when it would have come", "a job that waits for its next attempt has it at once when it is retried", func(f *faulty, _ providertest.Config) {
		f.retry = func(context.Context, string, string) error { return nil }
	}},
	{"what is not retryable is no error", "a job that waits for its first attempt, runs or is completed cannot be retried", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			return accepting(jobs.ErrNotRetryable)(f.Scheduler.Retry(ctx, name, id))
		}
	}},
	{"a completed job can be retried", "a job that waits for its first attempt, runs or is completed cannot be retried", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			err := f.Scheduler.Retry(ctx, name, id)
			if runs, _ := f.Scheduler.Runs(ctx, name, 1000); len(runs) > 0 && runs[len(runs)-1].State == jobs.StateCompleted {
				return nil
			}
			return err
		}
	}},
	{"an ID of another name will do", "an operator's call for a job, or an ID, that is not known is refused", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			err := f.Scheduler.Retry(ctx, name, id)
			if other := f.Scheduler.Retry(ctx, "test.other", id); !errors.Is(other, jobs.ErrUnknownID) {
				return other
			}
			return err
		}
	}},
	{"an unknown ID is cancelled already", "an operator's call for a job, or an ID, that is not known is refused", func(f *faulty, _ providertest.Config) {
		f.cancel = func(ctx context.Context, name, id string) error {
			return accepting(jobs.ErrUnknownID)(f.Scheduler.Cancel(ctx, name, id))
		}
	}},
	{"an unknown job is not paused", "an operator's call for a job, or an ID, that is not known is refused", func(f *faulty, _ providertest.Config) {
		f.resume = func(ctx context.Context, name string) error {
			return accepting(jobs.ErrUnknownJob)(f.Scheduler.Resume(ctx, name))
		}
	}},
	{"a pause ignores its context", "an operator's call for a job, or an ID, that is not known is refused", func(f *faulty, _ providertest.Config) {
		f.pause = func(ctx context.Context, name string) error {
			return f.Scheduler.Pause(context.WithoutCancel(ctx), name)
		}
	}},

	// Pauses.
	{"Pause does nothing", "what is triggered while its job is paused waits until it is resumed, and other jobs go on", func(f *faulty, _ providertest.Config) {
		f.pause = func(context.Context, string) error { return nil }
	}},
	{"a pause is told, and that is all", "what is triggered while its job is paused waits until it is resumed, and other jobs go on", func(f *faulty, _ providertest.Config) {
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
	{"a second Pause begins anew", "what is triggered while its job is paused waits until it is resumed, and other jobs go on", func(f *faulty, _ providertest.Config) {
		f.pause = func(ctx context.Context, name string) error {
			return errors.Join(f.Scheduler.Resume(ctx, name), f.Scheduler.Pause(ctx, name))
		}
	}},
	{"a pause is that of all jobs", "what is triggered while its job is paused waits until it is resumed, and other jobs go on", func(f *faulty, _ providertest.Config) {
		f.pause = func(ctx context.Context, name string) error {
			return errors.Join(f.Scheduler.Pause(ctx, name), f.Scheduler.Pause(ctx, "test.other"))
		}
	}},
	{"Resume ends all pauses", "what is triggered while its job is paused waits until it is resumed, and other jobs go on", func(f *faulty, _ providertest.Config) {
		f.resume = func(ctx context.Context, _ string) error {
			return errors.Join(f.Scheduler.Resume(ctx, "test.job"), f.Scheduler.Resume(ctx, "test.own"))
		}
	}},
	{"a pause cancels what runs", "what is triggered while its job is paused waits until it is resumed, and other jobs go on", func(f *faulty, _ providertest.Config) {
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
	{"ticks run while their job is paused", "ticks that come due while their job is paused are skipped, and the schedule goes on", func(f *faulty, _ providertest.Config) {
		f.pause = func(context.Context, string) error { return nil }
	}},
	{"a tick that a pause skips is a run", "ticks that come due while their job is paused are skipped, and the schedule goes on", func(f *faulty, _ providertest.Config) {
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
	{"a tick that a pause skips is not in the status", "ticks that come due while their job is paused are skipped, and the schedule goes on", telling(func(st *jobs.Status) {
		if st.PrevState == jobs.StateSkipped {
			st.PrevTick, st.PrevState = st.LastSuccess, jobs.StateCompleted
		}
	})},
	{"a schedule stands still while its job is paused", "ticks that come due while their job is paused are skipped, and the schedule goes on", telling(func(st *jobs.Status) {
		if !st.PausedSince.IsZero() {
			st.NextTick = st.PausedSince.Truncate(time.Second).Add(time.Second)
		}
	})},
	{"a paused schedule is overdue", "ticks that come due while their job is paused are skipped, and the schedule goes on", telling(func(st *jobs.Status) {
		if !st.PausedSince.IsZero() {
			st.OverdueBy = time.Since(st.PausedSince)
		}
	})},
	{"the ticks of a pause are missed", "ticks that come due while their job is paused are skipped, and the schedule goes on", func(f *faulty, _ providertest.Config) {
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
	{"Resume does nothing", "ticks that come due while their job is paused are skipped, and the schedule goes on", func(f *faulty, _ providertest.Config) {
		f.resume = func(context.Context, string) error { return nil }
	}},
	{"a restart ends a pause", "a pause lasts over a restart", func(f *faulty, _ providertest.Config) {
		f.start = func(ctx context.Context) error {
			return errors.Join(f.Scheduler.Resume(ctx, "test.job"), f.Scheduler.Start(ctx))
		}
	}},
	{"a stop drops what is paused", "a pause lasts over a restart", func(f *faulty, _ providertest.Config) {
		f.shutdown = func(ctx context.Context) error {
			runs, err := f.Scheduler.Runs(ctx, "test.job", 1000)
			for _, r := range runs {
				err = errors.Join(err, f.Scheduler.Cancel(ctx, "test.job", r.ID))
			}
			return errors.Join(err, f.Scheduler.Shutdown(ctx))
		}
	}},
	{"a pause does not hold retries", "a retry waits while its job is paused, that of a tick too", func(f *faulty, _ providertest.Config) {
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
	{"Retry takes precedence over a pause", "a job that is retried by hand waits while it is paused", func(f *faulty, _ providertest.Config) {
		f.retry = func(ctx context.Context, name, id string) error {
			defer func() { _ = f.Scheduler.Pause(ctx, name) }()
			return errors.Join(f.Scheduler.Retry(ctx, name, id), f.Scheduler.Resume(ctx, name), pause(ctx))
		}
	}},
}

// pause lets others go on for a moment.
func pause(ctx context.Context) error {
	select {
	case <-time.After(time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listing is a fault in each run that Runs returns.
func listing(change func(*jobs.Run)) func(*faulty, providertest.Config) {
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

// telling is a fault in each status.
func telling(change func(*jobs.Status)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.status = func(all []jobs.Status) {
			for i := range all {
				change(&all[i])
			}
		}
	}
}

// counting is a fault in what Activity returns.
func counting(change func(*jobs.Activity)) func(*faulty, providertest.Config) {
	return func(f *faulty, _ providertest.Config) {
		f.activity = func(ctx context.Context, step time.Duration, n int) (jobs.Activity, error) {
			a, err := f.Scheduler.Activity(ctx, step, n)
			change(&a)
			return a, err
		}
	}
}

// ignoresTx makes f insert at once.
func ignoresTx(f *faulty, _ providertest.Config) {
	f.inTx = func(ctx context.Context, _ pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
		return f.Scheduler.Trigger(ctx, name, data, opts...)
	}
}

// losesTx makes f insert in another transaction, which does not commit.
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

// losesFirstRun makes f lose what it runs first after each start but the first.
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

// accepting is the fault to let pass what is to be refused with that error.
func accepting(refusal error) func(error) error {
	return func(err error) error {
		if errors.Is(err, refusal) {
			return nil
		}
		return err
	}
}

func TestTheSuiteFindsEachFault(t *testing.T) {
	t.Parallel()
	sound := func(f *faulty, _ providertest.Config) {}
	for _, tt := range faults {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			require.Empty(t, hold(t, tt.rule, sound), "failures of a scheduler without a fault")
			failures := hold(t, tt.rule, tt.seed)
			require.NotEmpty(t, failures, "the fault went unnoticed")
			require.Contains(t, failures[0], "rule broken: "+tt.rule)
		})
	}
}

// fakeDB is a database to tell from none.
type fakeDB struct{ jobs.DB }

func (*fakeDB) Begin(context.Context) (pgx.Tx, error) { return new(memory.Tx), nil }

// hold holds a scheduler with one fault against one rule, and returns the failures.
func hold(t *testing.T, rule string, seed func(*faulty, providertest.Config)) (failures []string) {
	synctest.Test(t, func(t *testing.T) {
		// A bubble ends when its goroutines have: give a faulty scheduler time for that.
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
		go func() { // a failure ends the goroutine it is in
			defer close(done)
			providertest.RunRule(c, rule, h)
		}()
		<-done
		failures = c.failures
	})
	return failures
}

// captured is a testing.TB whose failures are kept instead of failing the test.
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

// FailNow ends the goroutine, as that of a test does.
func (c *captured) FailNow() {
	c.add("ended")
	runtime.Goexit()
}
