package jobs

import (
	"cmp"
	"fmt"
	"time"

	internal "github.com/everytick/everytick/jobs/internal/settings"
)

// An Option changes how a registered job is run. The functions of this package that return one make them.
type Option interface {
	// ApplyTo sets what the option says. It is for providers.
	ApplyTo(*settings) error
}

// settings is what a registration's options come to. Package jobs/provider reads it.
type settings = internal.Job[Middleware, TriggerMiddleware]

// A TriggerOption changes how one triggered job is run.
type TriggerOption interface{ applyToRequest(*Request) error }

type option func(*settings) error

// ApplyTo implements [Option].
func (o option) ApplyTo(s *settings) error { return o(s) }

type triggerOption func(*Request) error

func (o triggerOption) applyToRequest(r *Request) error { return o(r) }

func invalidOption(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidOption, fmt.Sprintf(format, args...))
}

// maxRetries keeps the number of attempts within what River stores (a smallint).
const maxRetries = 30_000

// maxConcurrency is River's largest number of workers of a queue.
const maxConcurrency = 10_000

// MaxRetries sets how often a failed job is retried, from 0 to 30,000: it has
// n+1 attempts. Defaults to 2.
func MaxRetries(n int) Option {
	return option(func(s *settings) error {
		if n < 0 || n > maxRetries {
			return invalidOption("MaxRetries(%d): allowed is 0 to %d", n, maxRetries)
		}
		s.MaxRetries = n
		return nil
	})
}

// RetryDelay sets the wait before the first retry; it doubles with every further
// one, up to 24 hours. Defaults to 5 seconds.
func RetryDelay(delay time.Duration) Option {
	return option(func(s *settings) error {
		if delay < 0 || delay > internal.MaxBackoff {
			return invalidOption("RetryDelay(%s): allowed is 0 to %s", delay, internal.MaxBackoff)
		}
		s.RetryDelay = delay
		return nil
	})
}

// Timeout sets how long an attempt may take; then its context is cancelled. A handler
// that returns an error then has failed, one that returns nil all the same is done.
// Defaults to 5 minutes.
func Timeout(timeout time.Duration) Option {
	return option(func(s *settings) error {
		if timeout <= 0 {
			return invalidOption("Timeout(%s): must be positive", timeout)
		}
		s.Timeout = min(timeout, 1<<62) // so that nobody who adds to it overflows
		return nil
	})
}

// Priority sets which of the jobs that are due starts first: 1 (first) to 4.
// Defaults to 1.
func Priority(n int) PriorityOption { return PriorityOption{n} }

// A PriorityOption is what [Priority] returns: an [Option] of a registration and a [TriggerOption] of one job.
type PriorityOption struct{ n int }

func (p PriorityOption) check() error {
	if p.n < 1 || p.n > 4 {
		return invalidOption("Priority(%d): allowed is 1 (first) to 4", p.n)
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

// Concurrency gives the job n worker slots of its own in each process, from 1 to
// 10,000: at most n of it run at once there, and other jobs do not compete for
// them. By default a job shares the scheduler's workers and has no such limit.
func Concurrency(n int) Option {
	return option(func(s *settings) error {
		if n < 1 || n > maxConcurrency {
			return invalidOption("Concurrency(%d): allowed is 1 to %d", n, maxConcurrency)
		}
		s.Concurrency = n
		return nil
	})
}

// TimeZone sets the zone in which a cron pattern is read. Defaults to UTC. It
// applies to RegisterCron alone. [time.Local] is [ErrInvalidOption]: its meaning differs from
// process to process, and all have to agree. A zone given by its name is taken in every
// process, whatever the process's own zone is. A program that runs where the system has
// no zone files imports time/tzdata.
func TimeZone(loc *time.Location) Option {
	return option(func(s *settings) error {
		if loc == nil {
			return invalidOption("TimeZone(nil): want a *time.Location")
		}
		if isLocal(loc) {
			return invalidOption("TimeZone(time.Local): processes may differ in it; want a zone by its name, such as time.LoadLocation(%q)", "Europe/Berlin")
		}
		s.TimeZone = loc
		s.ForCron = cmp.Or(s.ForCron, "TimeZone")
		return nil
	})
}

// isLocal reports whether loc is time.Local, which some programs set to UTC. Its name tells nothing else:
// that of the process's zone under TZ, or "UTC" where TZ is empty.
func isLocal(loc *time.Location) bool {
	return loc != time.UTC && (loc == time.Local || loc.String() == "Local") //nolint:gosmopolitan // to refuse it
}

// CatchUpPolicy says what happens to ticks that pass before a run can start.
type CatchUpPolicy int

// The policies of [CatchUp].
const (
	CatchUpOnce CatchUpPolicy = iota // one run for all ticks that passed
	CatchUpAll                       // each tick of the last 12 hours runs, in order and one at a time
)

// CatchUpWindow is how far back missed ticks have runs of their own with [CatchUpAll].
const CatchUpWindow = 12 * time.Hour

// CatchUp sets what happens to ticks that pass before a run can start, because nothing
// was running or all workers were busy. Defaults to [CatchUpOnce]. It does not apply to
// RegisterDelayed.
//
// With [CatchUpOnce] a single run stands for all of them. Its [Job.Tick] is the latest, and
// [Job.Missed] is how many earlier ones it stands for. So at most one tick of a
// schedule waits for a worker: while it does, each further tick takes its place.
//
// With [CatchUpAll] each tick runs, in order and one at a time: a tick waits for the run of
// the one before, also when none was missed. Only a first attempt holds up the tick
// after it; a retry may run beside it. Ticks older than [CatchUpWindow] have no run of
// their own, and the first run after them counts them in Job.Missed.
func CatchUp(policy CatchUpPolicy) Option {
	return option(func(s *settings) error {
		if policy != CatchUpOnce && policy != CatchUpAll {
			return invalidOption("CatchUp(%d): allowed is CatchUpOnce or CatchUpAll", policy)
		}
		s.CatchUp = int(policy)
		s.ForTicks = cmp.Or(s.ForTicks, "CatchUp")
		return nil
	})
}

// OverlapPolicy says whether a tick may run beside an earlier run of its job.
type OverlapPolicy int

// The policies of [Overlap].
const (
	OverlapAllow OverlapPolicy = iota // ticks run whether or not an earlier run goes on
	OverlapSkip                       // a tick is skipped while another run of the job goes on anywhere; a retry is not
)

// Overlap sets what a tick does when another run of its job goes on as it starts.
// Defaults to [OverlapAllow]. A tick skipped is shown in the job's history with the
// reason. Triggered jobs are never skipped, and it does not apply to RegisterDelayed.
func Overlap(policy OverlapPolicy) Option {
	return option(func(s *settings) error {
		if policy != OverlapAllow && policy != OverlapSkip {
			return invalidOption("Overlap(%d): allowed is OverlapAllow or OverlapSkip", policy)
		}
		s.Overlap = int(policy)
		s.ForTicks = cmp.Or(s.ForTicks, "Overlap")
		return nil
	})
}

// StartWithin skips a tick or delayed job that could only start later than limit
// after it was due; its history tells. For a run that stands for several ticks, see
// [CatchUp], limit counts from the latest. Retries are not affected. Defaults to no
// limit.
func StartWithin(limit time.Duration) Option {
	return option(func(s *settings) error {
		if limit <= 0 {
			return invalidOption("StartWithin(%s): must be positive", limit)
		}
		s.StartWithin = limit
		return nil
	})
}

// Delay runs the triggered job that long from now, in place of the delay it was
// registered with. A delay that is negative or not whole milliseconds is
// [ErrInvalidSchedule].
func Delay(delay time.Duration) TriggerOption {
	return triggerOption(func(r *Request) error {
		if delay < 0 {
			return fmt.Errorf("%w: Delay(%s): must not be negative", ErrInvalidSchedule, delay)
		}
		if !isWhole(delay) {
			return fmt.Errorf("%w: Delay(%s): must be whole milliseconds", ErrInvalidSchedule, delay)
		}
		r.Delay, r.At = delay, time.Time{}
		return nil
	})
}

// At runs the triggered job at t, or at once when t has passed. The zero time is
// [ErrInvalidSchedule]. Of Delay and At the one given last counts.
func At(t time.Time) TriggerOption {
	return triggerOption(func(r *Request) error {
		utc := t.UTC()
		if utc.IsZero() || utc.Year() < 1 || utc.Year() > 9999 {
			return fmt.Errorf("%w: At(%v): want a time in the years 1 to 9999, in UTC", ErrInvalidSchedule, t)
		}
		r.Delay, r.At = 0, utc
		return nil
	})
}

// Unique makes Trigger return the ID of a live job (waiting, running or to be
// retried) of the same name and key, if there is one, instead of enqueueing a
// second. key is 1 to 1,000 bytes, and private to the name. A key that another open
// transaction has taken, by [TriggerTx], is waited for until that one ends: keep such
// transactions short, take several keys in one order, and give ctx a deadline. A job that
// TriggerTx finds ready to start starts after the commit; one that runs, or whose time is
// still to come, may have begun before.
func Unique(key string) TriggerOption {
	return triggerOption(func(r *Request) error {
		if key == "" || len(key) > 1000 {
			return invalidOption("Unique: key of %d bytes, allowed is 1 to 1,000", len(key))
		}
		r.Unique = key
		return nil
	})
}
