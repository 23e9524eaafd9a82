package jobs

import (
	"cmp"
	"context"
	"fmt"
	"time"

	internal "github.com/everytick/everytick/jobs/internal/settings"
)

// An Option configures a registered job. Functions such as [MaxRetries] return one.
type Option interface {
	// ApplyTo applies the option. Only providers call it.
	ApplyTo(*settings) error
}

// settings is the result of a registration's options. Package jobs/provider reads it.
type settings = internal.Job[Middleware, TriggerMiddleware, Run]

// A TriggerOption configures one trigger. Functions such as [Delay] return one.
type TriggerOption interface{ applyToRequest(*Request) error }

type option func(*settings) error

// ApplyTo implements [Option].
func (o option) ApplyTo(s *settings) error { return o(s) }

type triggerOption func(*Request) error

func (o triggerOption) applyToRequest(r *Request) error { return o(r) }

func invalidOption(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidOption, fmt.Sprintf(format, args...))
}

// maxRetries keeps the number of attempts within River's column, a smallint.
const maxRetries = 30_000

// maxConcurrency is the largest number of workers that River allows for a queue.
const maxConcurrency = 10_000

// MaxRetries sets how many times a failed job is retried, 0 to 30,000. The job has n+1 attempts. Defaults to 2.
func MaxRetries(n int) Option {
	return option(func(s *settings) error {
		if n < 0 || n > maxRetries {
			return invalidOption("MaxRetries(%d): must be 0 to %d", n, maxRetries)
		}
		s.MaxRetries = n
		return nil
	})
}

// RetryDelay sets the delay before the first retry, 0 to 24 hours. It doubles with each further retry, up to 24 hours.
// So that runs that fail together are not retried together, each delay is up to a tenth shorter or longer, depending on
// the run's ID and the attempt. Defaults to 5 seconds.
func RetryDelay(delay time.Duration) Option {
	return option(func(s *settings) error {
		if delay < 0 || delay > internal.MaxBackoff {
			return invalidOption("RetryDelay(%s): must be 0 to %s", delay, internal.MaxBackoff)
		}
		s.RetryDelay = delay
		return nil
	})
}

// Timeout sets how long an attempt may take before its context ends. A handler that then returns an error is retried;
// one that still returns nil is done, unless the job is [Transactional]. Defaults to 5 minutes.
func Timeout(timeout time.Duration) Option {
	return option(func(s *settings) error {
		if timeout <= 0 {
			return invalidOption("Timeout(%s): must be positive", timeout)
		}
		s.Timeout = min(timeout, 1<<62) // adding to it must not overflow
		return nil
	})
}

// Priority sets which of the jobs that are due starts first, from 1 (first) to 4. Defaults to 1, or for a trigger to
// the job's own priority.
func Priority(n int) PriorityOption { return PriorityOption{n} }

// A PriorityOption is both an [Option] and a [TriggerOption]. [Priority] returns one.
type PriorityOption struct{ n int }

func (p PriorityOption) check() error {
	if p.n < 1 || p.n > 4 {
		return invalidOption("Priority(%d): must be 1 (first) to 4", p.n)
	}
	return nil
}

// ApplyTo implements [Option].
func (p PriorityOption) ApplyTo(s *settings) error {
	s.Priority = p.n
	return p.check()
}

func (p PriorityOption) applyToRequest(r *Request) error {
	r.Priority = p.n
	return p.check()
}

// Concurrency gives the job its own n worker slots in each process, 1 to 10,000. At most n runs of it execute at once
// in a process, and other jobs don't compete for its slots. By default a job shares the scheduler's workers and has no
// limit of its own.
func Concurrency(n int) Option {
	return option(func(s *settings) error {
		if n < 1 || n > maxConcurrency {
			return invalidOption("Concurrency(%d): must be 1 to %d", n, maxConcurrency)
		}
		s.Concurrency = n
		return nil
	})
}

// TimeZone sets the time zone of a cron pattern. Defaults to UTC. It applies only to RegisterCron. [time.Local] is
// [ErrInvalidOption], because processes may differ in it and all must agree on the ticks; load the zone by its name
// instead. Programs that run without the system's zone files import time/tzdata.
func TimeZone(loc *time.Location) Option {
	return option(func(s *settings) error {
		if loc == nil {
			return invalidOption("TimeZone(nil): want a *time.Location")
		}
		if isLocal(loc) {
			return invalidOption("TimeZone(time.Local): processes may differ in it; use a named zone, such as time.LoadLocation(%q)",
				"Europe/Berlin")
		}
		s.TimeZone = loc
		s.ForCron = cmp.Or(s.ForCron, "TimeZone")
		return nil
	})
}

// isLocal reports whether loc is time.Local, which some programs set to UTC. Apart from "Local", its name doesn't show
// that it is: under TZ it is the name of the process's zone, or "UTC" if TZ is empty.
func isLocal(loc *time.Location) bool {
	return loc != time.UTC && (loc == time.Local || loc.String() == "Local") //nolint:gosmopolitan // to reject it
}

// A CatchUpPolicy decides what happens to ticks that pass before a run can start; see [CatchUp].
type CatchUpPolicy int

// The policies of [CatchUp].
const (
	CatchUpOnce CatchUpPolicy = iota // one run for all missed ticks
	CatchUpAll                       // one run for each tick of the last 12 hours, in order and one at a time
)

// CatchUpWindow is how far back missed ticks get their own runs with [CatchUpAll].
const CatchUpWindow = 12 * time.Hour

// CatchUp sets what happens to ticks that pass before a run can start, because no process was running or all workers
// were busy. Defaults to [CatchUpOnce]. It does not apply to RegisterDelayed.
//
// With [CatchUpOnce], a single run covers all of them. Its [Job.Tick] is the latest, and [Job.Missed] counts the
// earlier ones. At most one tick of a schedule waits for a worker; while it waits, each further tick replaces it.
//
// With [CatchUpAll], each tick gets its own run, in order and one at a time. A tick waits for the previous run even if
// none was missed. Only first attempts hold up the next tick; a retry may run beside it, and so may a run that was
// snoozed. Ticks older than [CatchUpWindow] get no run, and Job.Missed of the first run after them counts them.
func CatchUp(policy CatchUpPolicy) Option {
	return option(func(s *settings) error {
		if policy != CatchUpOnce && policy != CatchUpAll {
			return invalidOption("CatchUp(%d): must be CatchUpOnce or CatchUpAll", policy)
		}
		s.CatchUp = int(policy)
		s.ForTicks = cmp.Or(s.ForTicks, "CatchUp")
		return nil
	})
}

// An OverlapPolicy decides whether a tick may run beside another run of its job; see [Overlap].
type OverlapPolicy int

// The policies of [Overlap].
const (
	OverlapAllow OverlapPolicy = iota // ticks run beside other runs of the job
	OverlapSkip                       // a tick is skipped while another run of the job is in progress in any process
)

// Overlap sets what happens to a tick when another run of its job is in progress. Defaults to [OverlapAllow]. A
// skipped tick is listed among the job's runs with the reason. Triggered runs, retries and runs that were
// snoozed are never skipped. Overlap does not apply to RegisterDelayed.
func Overlap(policy OverlapPolicy) Option {
	return option(func(s *settings) error {
		if policy != OverlapAllow && policy != OverlapSkip {
			return invalidOption("Overlap(%d): must be OverlapAllow or OverlapSkip", policy)
		}
		s.Overlap = int(policy)
		s.ForTicks = cmp.Or(s.ForTicks, "Overlap")
		return nil
	})
}

// StartWithin skips a run, of a tick or triggered, that could only start more than limit after it was due. It is listed
// among the job's runs with the reason. If a run covers several ticks (see [CatchUp]), limit counts from the latest.
// Retries and runs that were snoozed are not affected. Defaults to no limit.
func StartWithin(limit time.Duration) Option {
	return option(func(s *settings) error {
		if limit <= 0 {
			return invalidOption("StartWithin(%s): must be positive", limit)
		}
		s.StartWithin = limit
		return nil
	})
}

// Data sets the data that the ticks of the job give their handler, by the rules of [Triggerer]: v is encoded as JSON and
// must be an object. It is encoded when the job is registered, and v that breaks the rules is [ErrInvalidData]. Defaults
// to {}. Data does not apply to RegisterDelayed, nor to triggered runs, which have the data of their trigger.
//
// When a new version of the program changes the data, it applies to the ticks inserted from the start of that version
// on, in whichever process. A run that waits keeps its data, even if it then also covers a later tick.
//
// [Kind] has methods that register ticks with data of its type.
func Data(v any) Option {
	return option(func(s *settings) error {
		s.Data = v
		s.ForTicks = cmp.Or(s.ForTicks, "Data")
		return nil
	})
}

// OnSkipped calls f for each run of the job that is skipped (see [Overlap], [StartWithin] and [Latest]) and each tick
// that comes due while the job is paused, in the process that skips it. Run.Error is the reason. A tick that a pause
// skips has no run of its own: its Run has Tick and EndedAt, but no ID. f must be fast. It is for counting and notifying:
// if the process dies at that moment, f is called twice or not at all. A panic of f, and a call of runtime.Goexit, is
// logged. Several OnSkipped options add up, those in a provider's Config.Defaults first. Defaults to none.
func OnSkipped(f func(ctx context.Context, skipped Run)) Option {
	return option(func(s *settings) error {
		if f == nil {
			return invalidOption("OnSkipped: the function is nil")
		}
		s.OnSkipped = append(s.OnSkipped, f)
		return nil
	})
}

// OnFailed calls f when a run of the job has failed for good: in its last attempt, by a [Permanent] error, or because
// its process died during its last attempt. f is called once for each such run, by a process that has registered the
// job with this option, and again if the run is retried by hand and fails again. If that process dies or is shut down
// before f has returned, another one calls f again. f is not called for runs that were cancelled or skipped, that
// failed before the option existed, or that were retried by hand before their call. Run.Errors has the errors of its attempts.
//
// ctx ends after 30 seconds, or when the time given to Shutdown is over, which waits for f until then. A panic of f is
// logged. Several OnFailed options add up, those in a provider's Config.Defaults first. Defaults to none.
func OnFailed(f func(ctx context.Context, failed Run)) Option {
	return option(func(s *settings) error {
		if f == nil {
			return invalidOption("OnFailed: the function is nil")
		}
		s.OnFailed = append(s.OnFailed, f)
		return nil
	})
}

// Delay runs the triggered job after delay instead of the registered one. A delay that is negative or not in whole
// milliseconds is [ErrInvalidSchedule]. Of Delay and At, the last one given applies.
func Delay(delay time.Duration) TriggerOption {
	return triggerOption(func(r *Request) error {
		if delay < 0 {
			return fmt.Errorf("%w: Delay(%s): must not be negative", ErrInvalidSchedule, delay)
		}
		if !isWhole(delay) {
			return fmt.Errorf("%w: Delay(%s): must be whole milliseconds", ErrInvalidSchedule, delay)
		}
		r.Delay, r.At, r.delayed = delay, time.Time{}, true
		return nil
	})
}

// At runs the triggered job at t, or at once if t has passed. The zero time, and a time outside the years 1 to 9999,
// is [ErrInvalidSchedule]. Of Delay and At, the last one given applies.
func At(t time.Time) TriggerOption {
	return triggerOption(func(r *Request) error {
		utc := t.UTC()
		if utc.IsZero() || utc.Year() < 1 || utc.Year() > 9999 {
			return fmt.Errorf("%w: At(%v): want a time in the years 1 to 9999, in UTC", ErrInvalidSchedule, t)
		}
		r.Delay, r.At, r.delayed = 0, utc, false
		return nil
	})
}
