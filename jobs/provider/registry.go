package provider

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/output"
	internal "github.com/everytick/everytick/jobs/internal/settings"
	"github.com/everytick/everytick/jobs/internal/verdict"
)

// A Definition is a registered job with its options applied. Providers must not modify it.
type Definition struct {
	// Name is the name of the job.
	Name string
	// Handler is the handler without middleware. Providers call Run instead.
	Handler jobs.Handler
	// Schedule determines the job's ticks. It is nil for a job that runs only when triggered.
	Schedule jobs.Schedule
	// Delay is how long after a trigger the job runs. It is 0 for a job with a schedule.
	Delay time.Duration

	// The options; see the functions of the same name in package jobs. MaxAttempts is MaxRetries + 1, Concurrency is
	// 0 for a job that shares the scheduler's workers, and StartWithin is 0 for no limit.
	MaxAttempts int
	RetryDelay  time.Duration
	Timeout     time.Duration
	Priority    int
	Concurrency int
	CatchUp     jobs.CatchUpPolicy
	Overlap     jobs.OverlapPolicy
	StartWithin time.Duration
	// Transactional is true for a job with [jobs.Transactional]. Providers call RunTx for it.
	Transactional bool

	// Data is the encoded data of the job's ticks, a JSON object. It must not be modified.
	Data json.RawMessage

	zone *time.Location // set by TimeZone, or nil
	site string         // file:line of the registration

	forCron, forTicks string // the first option, not of the defaults, that requires a cron pattern, or ticks

	middleware        []jobs.Middleware
	triggerMiddleware []jobs.TriggerMiddleware
	redact            func(string) string
	onSkipped         []func(context.Context, jobs.Run)
	onFailed          []func(context.Context, jobs.Run)
	run               jobs.Handler // the handler wrapped in its middleware
}

// A Registry is the part of a [jobs.Scheduler] that all providers share: names, options, schedules, the encoding of
// data, and the rules for duplicates and freezing. A provider keeps one in an unexported field and forwards
// registrations to it.
//
// All methods are safe for concurrent use.
type Registry struct {
	defaults []jobs.Option

	mu     sync.RWMutex
	jobs   map[string]*Definition
	frozen bool // registering is an error
}

var _ jobs.Registrar = (*Registry)(nil)

// NewRegistry returns an empty registry. The defaults are applied to every job before its own options. A default that
// is out of range is [jobs.ErrInvalidOption]; one that does not apply to a job is ignored for it.
func NewRegistry(defaults ...jobs.Option) (*Registry, error) {
	r := &Registry{defaults: slices.Clone(defaults), jobs: make(map[string]*Definition)}
	if _, err := r.define("defaults", "", func(context.Context, *jobs.Job) error { return nil }, nil); err != nil {
		return nil, fmt.Errorf("defaults: %w", err)
	}
	return r, nil
}

// RegisterCron implements [jobs.Registrar].
func (r *Registry) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	return r.register(name, h, opts, func(d *Definition) (err error) {
		d.Schedule, err = jobs.ParseCron(pattern, cmp.Or(d.zone, time.UTC))
		return err
	})
}

// RegisterInterval implements [jobs.Registrar].
func (r *Registry) RegisterInterval(name string, every time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return r.register(name, h, opts, func(d *Definition) (err error) {
		d.Schedule, err = jobs.Every(every)
		return errors.Join(err, d.refuseTickOptions(true))
	})
}

// RegisterSchedule implements [jobs.Registrar].
func (r *Registry) RegisterSchedule(name string, s jobs.Schedule, h jobs.Handler, opts ...jobs.Option) error {
	return r.register(name, h, opts, func(d *Definition) error {
		c, err := newCustom(s, name, time.Now())
		d.Schedule = c
		return errors.Join(err, d.refuseTickOptions(true))
	})
}

// RegisterDelayed implements [jobs.Registrar].
func (r *Registry) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return r.register(name, h, opts, func(d *Definition) error {
		if delay < 0 {
			return fmt.Errorf("%w: delay %s: must not be negative", jobs.ErrInvalidSchedule, delay)
		}
		if delay%time.Millisecond != 0 {
			return fmt.Errorf("%w: delay %s: must be whole milliseconds", jobs.ErrInvalidSchedule, delay)
		}
		d.Delay = delay
		return d.refuseTickOptions(false)
	})
}

func (r *Registry) register(name string, h jobs.Handler, opts []jobs.Option, schedule func(*Definition) error) error {
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
		return fmt.Errorf("%w: %q, at %s and at %s", jobs.ErrDuplicate, name, other.site, site)
	}
	if r.frozen {
		return fmt.Errorf("%w: %q cannot be registered at %s: register before Start", jobs.ErrStarted, name, site)
	}
	r.jobs[name] = d
	return nil
}

// settings is set by the options of a registration.
type settings = internal.Job[jobs.Middleware, jobs.TriggerMiddleware, jobs.Run]

func (r *Registry) define(name, site string, h jobs.Handler, opts []jobs.Option) (*Definition, error) {
	if h == nil {
		return nil, invalidOption("handler is nil")
	}
	set := internal.Defaults[jobs.Middleware, jobs.TriggerMiddleware, jobs.Run]()
	if err := apply(&set, r.defaults); err != nil {
		return nil, err
	}
	set.ForCron, set.ForTicks = "", "" // a default is for the jobs to which it applies
	if err := apply(&set, opts); err != nil {
		return nil, err
	}
	ticks, err := jobs.NewRequest(name, set.Data)
	if err != nil {
		return nil, err
	}
	return &Definition{
		Data: ticks.Data,
		Name: name, Handler: h, site: site,
		MaxAttempts: set.MaxRetries + 1, RetryDelay: set.RetryDelay, Timeout: set.Timeout, Priority: set.Priority,
		Concurrency: set.Concurrency, CatchUp: jobs.CatchUpPolicy(set.CatchUp), Overlap: jobs.OverlapPolicy(set.Overlap),
		StartWithin: set.StartWithin, Transactional: set.Transactional, zone: set.TimeZone, forCron: set.ForCron, forTicks: set.ForTicks,
		middleware: set.Use, triggerMiddleware: set.UseTrigger, redact: set.Redact,
		onSkipped: set.OnSkipped, onFailed: set.OnFailed,
	}, nil
}

func apply(set *settings, opts []jobs.Option) error {
	for _, opt := range opts {
		if opt == nil {
			return invalidOption("option is nil")
		}
		if err := opt.ApplyTo(set); err != nil {
			return err
		}
	}
	return nil
}

// refuseTickOptions returns [jobs.ErrInvalidOption] if the job's own options require a cron pattern, which it does not
// have, or ticks although it has none.
func (d *Definition) refuseTickOptions(ticks bool) error {
	switch {
	case d.forCron != "":
		return invalidOption("%s applies only to cron patterns", d.forCron)
	case d.forTicks != "" && !ticks:
		return invalidOption("%s applies only to ticks, and a job that runs only when triggered has none", d.forTicks)
	}
	return nil
}

func invalidOption(format string, args ...any) error {
	return fmt.Errorf("%w: %s", jobs.ErrInvalidOption, fmt.Sprintf(format, args...))
}

// maxNameBytes limits the length of a name. River's limit is 127 characters.
const maxNameBytes = 100

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$`)

// CheckName returns [jobs.ErrInvalidName] for an invalid job name.
func CheckName(name string) error {
	if len(name) > maxNameBytes {
		return fmt.Errorf("%w: %q has %d bytes, at most %d are allowed", jobs.ErrInvalidName, name[:maxNameBytes]+"…", len(name), maxNameBytes)
	}
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%w: %q, want two or more parts of a-z, 0-9, _ and - joined by dots, beginning with a letter, such as \"audit.retention\"",
			jobs.ErrInvalidName, name)
	}
	return nil
}

// registering matches functions that forward a registration, and their closures.
var registering = regexp.MustCompile(`/jobs\.Kind\[|\.Register(Cron|Interval|Schedule|Delayed)(\.|$)`)

// callSite returns the file and line of the code that registers a job, which is the first frame that is not itself a
// registering method.
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

// Freeze makes registering an error until [Registry.Thaw]. It returns [jobs.ErrStarted] if the registry is already
// frozen.
func (r *Registry) Freeze() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.frozen {
		return jobs.ErrStarted
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

// Job returns the definition of the named job, or [jobs.ErrUnknownJob].
func (r *Registry) Job(name string) (*Definition, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d, ok := r.jobs[name]; ok {
		return d, nil
	}
	return nil, fmt.Errorf("%w: %q, %d are registered%s", jobs.ErrUnknownJob, name, len(r.jobs), r.siblings(name))
}

// siblings lists the jobs of the module that name belongs to, for an error about an unknown name.
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
	return ", including " + strings.Join(names, ", ")
}

// maxSiblings is how many names siblings lists at most.
const maxSiblings = 10

// Undefined returns a definition with the defaults for a job that is registered only in other processes, or
// [jobs.ErrInvalidName]. Its handler does nothing.
func (r *Registry) Undefined(name string) (*Definition, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return r.define(name, "", func(context.Context, *jobs.Job) error { return nil }, nil)
}

// Request validates a trigger of the job. Unless an option sets them, the request has the delay and the priority of
// the registration. For the errors, see [jobs.NewRequest].
func (d *Definition) Request(data any, opts ...jobs.TriggerOption) (*jobs.Request, error) {
	all := opts
	if d.Delay != 0 {
		all = slices.Concat([]jobs.TriggerOption{jobs.Delay(d.Delay)}, opts)
	}
	req, err := jobs.NewRequest(d.Name, data, all...)
	if err == nil && req.IdempotencyKey != "" && d.Delay != 0 { // a repeat may come after the registration has changed
		var given *jobs.Request
		if given, err = jobs.NewRequest(d.Name, data, opts...); err == nil {
			req.Fingerprint = given.Fingerprint
		}
	}
	if err != nil {
		return nil, err
	}
	if req.Priority == 0 {
		req.Priority = d.Priority
	}
	return req, nil
}

// Requests returns a request for each element of data; see [Definition.Request]. [jobs.Unique], [jobs.UniqueWaiting]
// and [jobs.Latest] are [jobs.ErrInvalidOption], because all would have the same key. Options are checked even if data
// is empty.
func (d *Definition) Requests(data []any, opts ...jobs.TriggerOption) ([]*jobs.Request, error) {
	options, err := d.Request(nil, opts...)
	if err != nil {
		return nil, err
	}
	if options.IdempotencyKey != "" {
		return nil, fmt.Errorf("job %q: %w", d.Name, invalidOption("IdempotencyKey does not apply to TriggerMany and TriggerBulk"))
	}
	if options.Unique != "" {
		return nil, fmt.Errorf("job %q: %w", d.Name, invalidOption("%s does not apply to TriggerMany and TriggerBulk", options.UniqueMode))
	}
	reqs := make([]*jobs.Request, len(data))
	for i, v := range data {
		if reqs[i], err = d.Request(v, opts...); err != nil {
			return nil, fmt.Errorf("element %d of %d: %w", i+1, len(data), err)
		}
	}
	return reqs, nil
}

// Due returns when a request made at now is due. It is never before now.
func Due(r *jobs.Request, now time.Time) time.Time {
	due := r.At
	if due.IsZero() {
		due = now.Add(r.Delay)
	}
	if due.Before(now) {
		return now
	}
	return due
}

// loggerOf returns the logger for a handler: base with the attributes job, job_id and attempt. They are added when the
// handler logs, because most handlers of short jobs don't.
func loggerOf(j *jobs.Job, base *slog.Logger) *slog.Logger {
	return slog.New(&jobHandler{Handler: base.Handler(), name: j.Name, id: j.ID, attempt: j.Attempt})
}

// jobHandler adds a job's attributes.
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
var errGoexit = errors.New("jobs: handler exited its goroutine (runtime.Goexit, or t.FailNow in a test)")

// Run calls the handler, wrapped in its middleware, for one attempt. It applies the job's [jobs.Timeout] and sets
// job.Logger from base. A panic becomes a [*jobs.PanicError].
//
// Afterwards job.Output returns what the handler has set with [jobs.Job.SetOutput].
//
// The handler gets a copy of job and runs in a goroutine of its own, so that it cannot harm the provider. The methods
// of the error that Run returns never panic, even if those of the handler's error do. [errors.Is] and [errors.As]
// examine the handler's error; [errors.Unwrap] does not return it.
func (d *Definition) Run(ctx context.Context, job *jobs.Job, base *slog.Logger) error {
	job.Logger = loggerOf(job, base)
	a := &attempt{job: *job, handler: d.run, timedOut: timeoutError{d, context.DeadlineExceeded}, ended: make(chan error, 1)}
	var slot output.Slot
	output.Bind(&a.job, &slot)
	output.Bind(job, &slot)
	defer slot.Close()
	timedOut := &a.timedOut
	var cancel context.CancelFunc
	a.ctx, cancel = context.WithTimeoutCause(ctx, d.Timeout, timedOut)
	defer cancel()
	if a.handler == nil { // d does not come from a registry
		a.handler = d.guard(d.Handler)
	}
	go a.run()
	err := a.wait(job.Logger)
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, timedOut) && ctx.Err() == nil && errors.Is(context.Cause(a.ctx), timedOut) {
		return &timeoutError{d, err} // keeps the handler's text, and its Permanent or RetryAfter
	}
	return err
}

// timeoutError is the error of an attempt that took too long. err is the handler's error, or
// [context.DeadlineExceeded].
type timeoutError struct {
	job *Definition
	err error
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("jobs: %q timed out after %s: %s", e.job.Name, e.job.Timeout, e.err)
}
func (e *timeoutError) Unwrap() error { return e.err }

// stack returns the frames from the panicking function down to the handler, without those of the recovery.
func stack() string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	var b strings.Builder
	for {
		frame, more := frames.Next()
		if more && b.Len() == 0 && strings.HasPrefix(frame.Function, "runtime.") {
			continue // a panic of the runtime, such as a nil pointer or an index out of range
		}
		if strings.HasSuffix(frame.Function, "(*Definition).guard.func1") {
			return b.String() // the callers of the handler don't matter
		}
		fmt.Fprintf(&b, "%s\n\t%s:%d\n", frame.Function, frame.File, frame.Line)
		if !more {
			return b.String()
		}
	}
}

// Snooze reports whether an attempt that ended with err snoozes its run. If so, the run starts again after delay, and
// the attempt does not count. reason can be stored. Providers ask it before Retry.
func (d *Definition) Snooze(err error) (delay time.Duration, reason string, ok bool) {
	delay, reason, ok = jobs.Snoozed(err)
	return delay, storable(reason), ok
}

// Retry decides what follows an attempt that failed with err. If again is true, the next attempt starts after delay.
// Otherwise the job has failed for good.
func (d *Definition) Retry(job *jobs.Job, err error) (delay time.Duration, again bool) {
	if !job.Retries(err) {
		return 0, false
	}
	var after *verdict.RetryAfter
	if errors.As(err, &after) {
		return after.After, true
	}
	return d.Backoff(job.ID, job.Attempt), true
}

// Backoff returns the delay after an attempt, which starts at 1, of the run with that ID. It is RetryDelay, doubled for
// every earlier attempt, and at most 24 hours, times [Jitter]. A second or more is rounded to whole milliseconds.
func (d *Definition) Backoff(id string, attempt int) time.Duration {
	delay := d.RetryDelay
	for range attempt - 1 {
		if delay *= 2; delay >= internal.MaxBackoff || delay == 0 {
			delay = min(delay, internal.MaxBackoff)
			break
		}
	}
	if delay = time.Duration(float64(delay) * Jitter(id, attempt)); delay >= time.Second {
		delay = delay.Round(time.Millisecond)
	}
	return delay
}

// Jitter returns a factor from 0.9 to 1.1 for the delay after an attempt of the run with that ID, so that runs that
// fail together don't start again together. It is a pure function, which providers can compute in SQL: the first two
// bytes of the SHA-256 of "id/attempt", as a number from 0 to 65535, make up the range.
func Jitter(id string, attempt int) float64 {
	sum := sha256.Sum256([]byte(id + "/" + strconv.Itoa(attempt)))
	return 0.9 + 0.2*float64(binary.BigEndian.Uint16(sum[:]))/math.MaxUint16
}

// Skip returns why a run must be skipped, or "" if it may start. due is when the run was first due, which for a tick is
// the tick itself. overlapping is whether another run of the job is in progress. Neither retries, which would hide that
// the job fails, nor runs that were snoozed are skipped.
func (d *Definition) Skip(job *jobs.Job, due time.Time, overlapping bool) string {
	if job.Attempt > 1 || job.Snoozes > 0 {
		return ""
	}
	late := job.StartedAt.Sub(due)
	switch {
	case d.StartWithin > 0 && late > d.StartWithin:
		return fmt.Sprintf("skipped: %s late, StartWithin is %s", late.Round(time.Millisecond), d.StartWithin)
	case overlapping && d.Overlap == jobs.OverlapSkip && !job.Tick.IsZero():
		return "skipped: another run of this job is in progress"
	}
	return ""
}

// Skipped calls the functions of [jobs.OnSkipped] with run, whose Error is the reason. Providers call it outside of their
// locks, after the run, or a tick that has none, has been skipped. Skipped sets Name and State.
func (d *Definition) Skipped(ctx context.Context, log *slog.Logger, run jobs.Run) {
	run.Name, run.State = d.Name, jobs.StateSkipped
	log = log.With("job", d.Name)
	for _, f := range d.onSkipped {
		<-apart(ctx, log, "OnSkipped", func() {
			f(ctx, run)
		})
	}
}

// upcomingTicks is how many ticks Upcoming returns.
const upcomingTicks = 3

// Upcoming returns the next three ticks, starting with next, for [jobs.Status].Upcoming. It returns none if next is
// zero.
func (d *Definition) Upcoming(next time.Time) (ticks []time.Time) {
	for ; !next.IsZero() && len(ticks) < upcomingTicks; next = Next(d.Schedule, next) {
		ticks = append(ticks, next)
	}
	return ticks
}

// Spec returns the canonical text of the job's schedule, by which processes recognise it, or "" if it has none. A
// custom schedule never has that of a cron pattern or an interval.
func (d *Definition) Spec() string {
	if d.Schedule == nil {
		return ""
	}
	text, zone := d.Describe()
	_, isCustom := d.Schedule.(*custom)
	switch {
	case isCustom:
		return strings.TrimSpace("schedule " + text + " " + zone)
	case zone != "":
		return "cron " + text + " " + zone
	}
	return text
}

// Describe returns the values of [jobs.Status].Schedule and Zone.
func (d *Definition) Describe() (schedule, zone string) {
	switch {
	case d.Schedule == nil && d.Delay == 0:
		return "on demand", ""
	case d.Schedule == nil:
		return "after " + d.Delay.String(), ""
	}
	if in, ok := d.Schedule.(interface{ Zone() string }); ok {
		zone = in.Zone()
	}
	return d.Schedule.String(), zone
}
