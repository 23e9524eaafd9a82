package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Definition is a registered job with its options folded in. Providers read it;
// they do not change it.
type Definition struct {
	// Name is the name it was registered under.
	Name string
	// Handler does the work.
	Handler Handler
	// Schedule tells its ticks. It is nil for a job that only runs when triggered.
	Schedule Schedule
	// Delay is how long after a trigger a job without a schedule runs.
	Delay time.Duration

	// The options; see the functions of the same name. MaxAttempts is MaxRetries + 1,
	// Concurrency is 0 for a job that shares the scheduler's workers, and StartWithin
	// is 0 for no limit.
	MaxAttempts int
	RetryDelay  time.Duration
	Timeout     time.Duration
	Priority    int
	Concurrency int
	CatchUp     CatchUpPolicy
	Overlap     OverlapPolicy
	StartWithin time.Duration

	zone *time.Location // as set by TimeZone, nil if not
	site string         // file:line of the registration

	middleware        []Middleware
	triggerMiddleware []TriggerMiddleware
	redact            func(string) string
	run               Handler // the handler inside its middleware
}

// A Request is a validated trigger: what to enqueue, with the options folded in.
type Request struct {
	// Job is the definition of the job to run.
	Job *Definition
	// Data is the encoded JSON object.
	Data []byte
	// Delay is how long from now the job is due; 0 means now. It is not used when At
	// is set.
	Delay time.Duration
	// At is the time at which the job is due, or zero.
	At time.Time
	// Priority is from 1 (first) to 4.
	Priority int
	// Unique is the key given with [Unique], or "".
	Unique string
	// Metadata is set by [TriggerMiddleware] for [Job.Metadata]: UTF-8 without U+0000.
	Metadata map[string]string
	// ID is the job's, set once it is stored.
	ID string
}

// Due returns when the job is due if it is enqueued at now. Times in the past mean now.
func (r *Request) Due(now time.Time) time.Time {
	due := r.At
	if due.IsZero() {
		due = now.Add(r.Delay)
	}
	if due.Before(now) {
		return now
	}
	return due
}

// maxBackoff is the longest wait that doubling leads to.
const maxBackoff = 24 * time.Hour

// CatchUpWindow is how far back missed ticks have runs of their own with [All].
const CatchUpWindow = 12 * time.Hour

// A Registry is the portable half of a [Scheduler]: names, options, schedules,
// the encoding of data, and the rules about duplicates and freezing. A provider
// keeps one in an unexported field and forwards its registrations to it.
//
// All methods may be called from several goroutines at once.
type Registry struct {
	defaults []Option

	mu     sync.RWMutex
	jobs   map[string]*Definition
	frozen bool // registrations are refused
}

var _ Registrar = (*Registry)(nil)

// NewRegistry returns an empty registry. The defaults are applied to every job
// before its own options. An option out of range is [ErrInvalidOption].
func NewRegistry(defaults ...Option) (*Registry, error) {
	r := &Registry{defaults: slices.Clone(defaults), jobs: make(map[string]*Definition)}
	if _, err := r.define("defaults", "", func(context.Context, *Job) error { return nil }, nil); err != nil {
		return nil, fmt.Errorf("defaults: %w", err)
	}
	return r, nil
}

// RegisterCron implements [Registrar].
func (r *Registry) RegisterCron(name, pattern string, h Handler, opts ...Option) error {
	return r.register(name, h, opts, func(d *Definition) (err error) {
		d.Schedule, err = ParseCron(pattern, cmp.Or(d.zone, time.UTC))
		return err
	})
}

// RegisterInterval implements [Registrar].
func (r *Registry) RegisterInterval(name string, every time.Duration, h Handler, opts ...Option) error {
	return r.register(name, h, opts, func(d *Definition) (err error) {
		d.Schedule, err = Every(every)
		return errors.Join(err, refuseTickOptions(opts, true))
	})
}

// RegisterDelayed implements [Registrar].
func (r *Registry) RegisterDelayed(name string, delay time.Duration, h Handler, opts ...Option) error {
	return r.register(name, h, opts, func(d *Definition) error {
		if delay < 0 {
			return fmt.Errorf("%w: delay %s: must not be negative", ErrInvalidSchedule, delay)
		}
		if !isWhole(delay) {
			return fmt.Errorf("%w: delay %s: must be whole milliseconds", ErrInvalidSchedule, delay)
		}
		d.Delay = delay
		return refuseTickOptions(opts, false)
	})
}

func (r *Registry) register(name string, h Handler, opts []Option, schedule func(*Definition) error) error {
	site := callSite()
	if err := CheckName(name); err != nil {
		return fmt.Errorf("job at %s: %w", site, err)
	}
	d, err := r.define(name, site, h, opts)
	if err == nil {
		err = schedule(d)
	}
	if err == nil {
		err = d.wrap()
	}
	if err != nil {
		return fmt.Errorf("job %q at %s: %w", name, site, err)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if other, ok := r.jobs[name]; ok {
		return fmt.Errorf("%w: %q, at %s and at %s", ErrDuplicate, name, other.site, site)
	}
	if r.frozen {
		return fmt.Errorf("%w: %q cannot be registered at %s: register before Start", ErrStarted, name, site)
	}
	r.jobs[name] = d
	return nil
}

func (r *Registry) define(name, site string, h Handler, opts []Option) (*Definition, error) {
	if h == nil {
		return nil, invalidOption("the handler is nil")
	}
	d := &Definition{
		Name: name, Handler: h, site: site,
		MaxAttempts: 3, RetryDelay: 5 * time.Second, Timeout: 5 * time.Minute, Priority: 1,
	}
	for _, opt := range slices.Concat(r.defaults, opts) {
		if opt == nil {
			return nil, invalidOption("an option is nil")
		}
		if err := opt.applyToJob(d); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// maxNameBytes is the longest name; River stores fewer than 128 characters.
const maxNameBytes = 100

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$`)

// CheckName returns [ErrInvalidName] for a name that no job can have.
func CheckName(name string) error {
	if len(name) > maxNameBytes {
		return fmt.Errorf("%w: %q has %d bytes, allowed are %d", ErrInvalidName, name[:maxNameBytes]+"…", len(name), maxNameBytes)
	}
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%w: %q, want two or more parts of a-z, 0-9, _ and - joined by dots, beginning with a letter, such as \"audit.retention\"",
			ErrInvalidName, name)
	}
	return nil
}

// registering matches the functions that forward a registration, and closures in them.
var registering = regexp.MustCompile(`/jobs\.Kind\[|\.Register(Cron|Interval|Delayed)(\.|$)`)

// callSite returns the file and line of the code that registers: the first frame
// that is not itself a registering method.
func callSite() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		frame, more := frames.Next()
		if !registering.MatchString(frame.Function) {
			return frame.File + ":" + strconv.Itoa(frame.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

// Freeze refuses registrations from now on, until [Registry.Thaw]. It returns
// [ErrStarted] if the registry is frozen already.
func (r *Registry) Freeze() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frozen {
		return ErrStarted
	}
	r.frozen = true
	return nil
}

// Thaw allows registrations again.
func (r *Registry) Thaw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = false
}

// Jobs returns all definitions, ordered by name.
func (r *Registry) Jobs() []*Definition {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*Definition, 0, len(r.jobs))
	for _, d := range r.jobs {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *Definition) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Job returns the definition of that name, or [ErrUnknownJob].
func (r *Registry) Job(name string) (*Definition, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d, ok := r.jobs[name]; ok {
		return d, nil
	}
	return nil, fmt.Errorf("%w: %q, %d are registered%s", ErrUnknownJob, name, len(r.jobs), r.siblings(name))
}

// siblings lists the names of a module, for an error about one that it does not have.
func (r *Registry) siblings(name string) string {
	module, _, _ := strings.Cut(name, ".")
	var names []string
	for other := range r.jobs {
		if strings.HasPrefix(other, module+".") {
			names = append(names, other)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	if len(names) > maxSiblings {
		names = append(names[:maxSiblings], "…")
	}
	return ", among them " + strings.Join(names, ", ")
}

// maxSiblings is how many names siblings lists.
const maxSiblings = 10

// Undefined returns a definition with the defaults for a job that another
// process registers. It returns [ErrInvalidName] for a name no job can have.
func (r *Registry) Undefined(name string) (*Definition, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return r.define(name, "", func(context.Context, *Job) error { return nil }, nil)
}

// Request validates a trigger of the job d and folds its options.
func (d *Definition) Request(data any, opts ...TriggerOption) (*Request, error) {
	req := &Request{}
	if err := d.request(req, data, opts); err != nil {
		return nil, err
	}
	return req, nil
}

// request fills in what [Definition.Request] returns.
func (d *Definition) request(req *Request, data any, opts []TriggerOption) (err error) {
	*req = Request{Job: d, Delay: d.Delay, Priority: d.Priority}
	for _, opt := range opts {
		if opt == nil {
			return fmt.Errorf("job %q: %w", d.Name, invalidOption("an option is nil"))
		}
		if err := opt.applyToRequest(req); err != nil {
			return fmt.Errorf("job %q: %w", d.Name, err)
		}
	}
	req.Data, err = encodeData(d.Name, data)
	return err
}

// Requests does for many what [Definition.Request] does for one. [Unique] is
// [ErrInvalidOption] here: it would make one job of them all. Options are checked
// without any data too.
func (d *Definition) Requests(data []any, opts ...TriggerOption) ([]*Request, error) {
	var options Request
	if err := d.request(&options, nil, opts); err != nil {
		return nil, err
	}
	if options.Unique != "" {
		return nil, fmt.Errorf("job %q: %w", d.Name, invalidOption("Unique does not apply to TriggerMany"))
	}
	reqs := make([]*Request, len(data))
	all := make([]Request, len(data))
	for i, v := range data {
		reqs[i] = &all[i]
		if err := d.request(reqs[i], v, opts); err != nil {
			return nil, fmt.Errorf("element %d of %d: %w", i+1, len(data), err)
		}
	}
	return reqs, nil
}

// logger returns the logger a handler is given: base with job, job_id and attempt. Most
// handlers of short jobs log nothing, so the attributes wait until one does.
func (j *Job) logger(base *slog.Logger) *slog.Logger {
	return slog.New(&jobHandler{Handler: base.Handler(), name: j.Name, id: j.ID, attempt: j.Attempt})
}

// jobHandler adds a job's attributes to what is logged.
type jobHandler struct {
	slog.Handler
	name, id string
	attempt  int
}

func (h *jobHandler) full() slog.Handler {
	return h.Handler.WithAttrs([]slog.Attr{slog.String("job", h.name), slog.String("job_id", h.id), slog.Int("attempt", h.attempt)})
}

// Handle implements [slog.Handler].
func (h *jobHandler) Handle(ctx context.Context, r slog.Record) error { return h.full().Handle(ctx, r) }

// WithAttrs implements [slog.Handler].
func (h *jobHandler) WithAttrs(attrs []slog.Attr) slog.Handler { return h.full().WithAttrs(attrs) }

// WithGroup implements [slog.Handler].
func (h *jobHandler) WithGroup(name string) slog.Handler { return h.full().WithGroup(name) }

// errGoexit is the error of an attempt whose handler did not return.
var errGoexit = errors.New("jobs: the handler ended its goroutine (runtime.Goexit, or t.FailNow in a test)")

// Run calls the handler for one attempt, under the job's [Timeout], with
// job.Logger set from base. A panic becomes an error that carries the stack. The
// handler gets a copy of job and another goroutine than the caller's, so that whatever it
// does to either, the provider goes on. The methods of the error that Run returns do not
// panic, whatever those of the handler's do: [errors.Is] and [errors.As] see that one, but
// [errors.Unwrap] does not.
func (d *Definition) Run(ctx context.Context, job *Job, base *slog.Logger) error {
	job.Logger = job.logger(base)
	a := &attempt{job: *job, handler: d.run, timedOut: timeoutError{d, context.DeadlineExceeded}, ended: make(chan error, 1)}
	timedOut := &a.timedOut
	var cancel context.CancelFunc
	a.ctx, cancel = context.WithTimeoutCause(ctx, d.Timeout, timedOut)
	defer cancel()
	if a.handler == nil { // not of a registry
		a.handler = d.guard(d.Handler)
	}
	go a.run()
	err := a.wait(job.Logger)
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, timedOut) && ctx.Err() == nil && errors.Is(context.Cause(a.ctx), timedOut) {
		return &timeoutError{d, err} // keeps what the handler says, and its Permanent or RetryAfter
	}
	return err
}

// timeoutError is the error of an attempt that took too long: err is what its handler
// returned, or the cause of its context's end.
type timeoutError struct {
	job *Definition
	err error
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("jobs: %q timed out after %s: %s", e.job.Name, e.job.Timeout, e.err)
}
func (e *timeoutError) Unwrap() error { return e.err }

// PanicError is the error of an attempt whose handler panicked.
type PanicError struct {
	Value any    // what was given to panic
	Stack string // the goroutine's stack, beginning with the panicking function
}

// Error tells the value. The stack is not part of it.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// stack returns the frames below the panic, without those of the recovery.
func stack() string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	var b strings.Builder
	for {
		frame, more := frames.Next()
		if more && b.Len() == 0 && strings.HasPrefix(frame.Function, "runtime.") {
			continue // raised by the runtime: a nil pointer, an index out of range
		}
		if strings.HasSuffix(frame.Function, "(*Definition).guard.func1") {
			return b.String() // what called the handler is of no interest
		}
		fmt.Fprintf(&b, "%s\n\t%s:%d\n", frame.Function, frame.File, frame.Line)
		if !more {
			return b.String()
		}
	}
}

// Retry tells what follows an attempt that failed with err: a retry after delay,
// or, when again is false, nothing: the job has failed for good.
func (d *Definition) Retry(job *Job, err error) (delay time.Duration, again bool) {
	if !job.Retries(err) {
		return 0, false
	}
	var after *retryAfterError
	if errors.As(err, &after) {
		return after.after, true
	}
	return d.Backoff(job.Attempt), true
}

// Backoff returns the wait after that attempt, counted from 1: RetryDelay,
// doubled for every attempt before it, at most 24 hours.
func (d *Definition) Backoff(attempt int) time.Duration {
	delay := d.RetryDelay
	for range attempt - 1 {
		if delay *= 2; delay >= maxBackoff || delay == 0 {
			return min(delay, maxBackoff)
		}
	}
	return delay
}

// Skip tells why a run is not to start, or "" when it is. due is when the attempt
// was first due (for a tick, the tick), overlapping whether another run of the job goes
// on.
func (d *Definition) Skip(job *Job, due time.Time, overlapping bool) string {
	late := job.StartedAt.Sub(due)
	switch {
	case d.StartWithin > 0 && job.Attempt == 1 && late > d.StartWithin:
		return fmt.Sprintf("skipped: %s late, allowed is a start within %s", late.Round(time.Millisecond), d.StartWithin)
	case overlapping && d.Overlap == Skip && !job.Tick.IsZero():
		return "skipped: another run of this job goes on"
	}
	return ""
}

// upcomingTicks is how many ticks [Status.Upcoming] tells.
const upcomingTicks = 3

// Upcoming returns the ticks from next on for [Status.Upcoming]; none if next is zero.
func (d *Definition) Upcoming(next time.Time) (ticks []time.Time) {
	for ; !next.IsZero() && len(ticks) < upcomingTicks; next = d.Schedule.Next(next) {
		ticks = append(ticks, next)
	}
	return ticks
}

// Describe returns the schedule in words for [Status.Schedule], and its zone.
func (d *Definition) Describe() (schedule, zone string) {
	switch {
	case d.Schedule == nil && d.Delay == 0:
		return "on demand", ""
	case d.Schedule == nil:
		return "after " + d.Delay.String(), ""
	}
	if c, ok := d.Schedule.(*cron); ok {
		zone = c.zone
	}
	return d.Schedule.String(), zone
}
