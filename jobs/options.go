package jobs

import (
	"fmt"
	"time"
)

// An Option changes how a registered job is run.
type Option interface{ applyToJob(*Definition) error }

// A TriggerOption changes how one triggered job is run.
type TriggerOption interface{ applyToRequest(*Request) error }

type option func(*Definition) error

func (o option) applyToJob(d *Definition) error { return o(d) }

type triggerOption func(*Request) error

func (o triggerOption) applyToRequest(r *Request) error { return o(r) }

// A tickOption is an [Option] about ticks. Where a job has none it could do nothing, and is
// refused among its own options; as a default it is for the others.
type tickOption struct {
	option
	name     string
	cronOnly bool
}

// refuseTickOptions refuses those options that do nothing for a job without a cron pattern,
// which has ticks or not.
func refuseTickOptions(own []Option, ticks bool) error {
	for _, opt := range own {
		switch o, ok := opt.(tickOption); {
		case ok && o.cronOnly:
			return invalidOption("%s applies to cron patterns alone", o.name)
		case ok && !ticks:
			return invalidOption("%s applies to ticks alone, and a job that only runs when triggered has none", o.name)
		}
	}
	return nil
}

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
	return option(func(d *Definition) error {
		if n < 0 || n > maxRetries {
			return invalidOption("MaxRetries(%d): allowed is 0 to %d", n, maxRetries)
		}
		d.MaxAttempts = n + 1
		return nil
	})
}

// RetryDelay sets the wait before the first retry; it doubles with every further
// one, up to 24 hours. Defaults to 5 seconds.
func RetryDelay(delay time.Duration) Option {
	return option(func(d *Definition) error {
		if delay < 0 || delay > maxBackoff {
			return invalidOption("RetryDelay(%s): allowed is 0 to %s", delay, maxBackoff)
		}
		d.RetryDelay = delay
		return nil
	})
}

// Timeout sets how long an attempt may take; then its context is cancelled. A handler
// that returns an error then has failed, one that returns nil all the same is done.
// Defaults to 5 minutes.
func Timeout(timeout time.Duration) Option {
	return option(func(d *Definition) error {
		if timeout <= 0 {
			return invalidOption("Timeout(%s): must be positive", timeout)
		}
		d.Timeout = min(timeout, 1<<62) // so that nobody who adds to it overflows
		return nil
	})
}

// Priority sets which of the jobs that are due starts first: 1 (first) to 4.
// Defaults to 1. It is both an [Option] and, for one job, a [TriggerOption].
func Priority(n int) interface {
	Option
	TriggerOption
} {
	return priority(n)
}

type priority int

func (p priority) check() error {
	if p < 1 || p > 4 {
		return invalidOption("Priority(%d): allowed is 1 (first) to 4", p)
	}
	return nil
}

func (p priority) applyToJob(d *Definition) error {
	d.Priority = int(p)
	return p.check()
}

func (p priority) applyToRequest(r *Request) error {
	r.Priority = int(p)
	return p.check()
}

// Concurrency gives the job n worker slots of its own in each process, from 1 to
// 10,000: at most n of it run at once there, and other jobs do not compete for
// them. By default a job shares the scheduler's workers and has no such limit.
func Concurrency(n int) Option {
	return option(func(d *Definition) error {
		if n < 1 || n > maxConcurrency {
			return invalidOption("Concurrency(%d): allowed is 1 to %d", n, maxConcurrency)
		}
		d.Concurrency = n
		return nil
	})
}

// TimeZone sets the zone in which a cron pattern is read. Defaults to UTC. It
// applies to RegisterCron alone. [time.Local] is [ErrInvalidOption]: its meaning differs from
// process to process, and all have to agree. A zone given by its name is taken in every
// process, whatever the process's own zone is.
func TimeZone(loc *time.Location) Option {
	return tickOption{name: "TimeZone", cronOnly: true, option: func(d *Definition) error {
		if loc == nil {
			return invalidOption("TimeZone(nil): want a *time.Location")
		}
		if isLocal(loc) {
			return invalidOption("TimeZone(time.Local): processes may differ in it; want a zone by its name, such as time.LoadLocation(%q)", "Europe/Berlin")
		}
		d.zone = loc
		return nil
	}}
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
	Once CatchUpPolicy = iota // one run for all ticks that passed
	All                       // each tick of the last 12 hours runs, in order and one at a time
)

// CatchUp sets what happens to ticks that pass before a run can start, because nothing
// was running or all workers were busy. Defaults to [Once]. It does not apply to
// RegisterDelayed.
//
// With [Once] a single run stands for all of them. Its [Job.Tick] is the latest, and
// [Job.Missed] is how many earlier ones it stands for. So at most one tick of a
// schedule waits for a worker: while it does, each further tick takes its place.
//
// With [All] each tick runs, in order and one at a time: a tick waits for the run of
// the one before, also when none was missed. Only a first attempt holds up the tick
// after it; a retry may run beside it. Ticks older than [CatchUpWindow] have no run of
// their own, and the first run after them counts them in Job.Missed.
func CatchUp(policy CatchUpPolicy) Option {
	return tickOption{name: "CatchUp", option: func(d *Definition) error {
		if policy != Once && policy != All {
			return invalidOption("CatchUp(%d): allowed is Once or All", policy)
		}
		d.CatchUp = policy
		return nil
	}}
}

// OverlapPolicy says whether a tick may run beside an earlier run of its job.
type OverlapPolicy int

// The policies of [Overlap].
const (
	Allow OverlapPolicy = iota // ticks run whether or not an earlier run goes on
	Skip                       // a tick is skipped while another run of the job goes on anywhere
)

// Overlap sets what a tick does when another run of its job goes on as it starts.
// Defaults to [Allow]. A tick skipped is shown in the job's history with the
// reason. Triggered jobs are never skipped, and it does not apply to RegisterDelayed.
func Overlap(policy OverlapPolicy) Option {
	return tickOption{name: "Overlap", option: func(d *Definition) error {
		if policy != Allow && policy != Skip {
			return invalidOption("Overlap(%d): allowed is Allow or Skip", policy)
		}
		d.Overlap = policy
		return nil
	}}
}

// StartWithin skips a tick or delayed job that could only start later than limit
// after it was due; its history tells. For a run that stands for several ticks, see
// [CatchUp], limit counts from the latest. Retries are not affected. Defaults to no
// limit.
func StartWithin(limit time.Duration) Option {
	return option(func(d *Definition) error {
		if limit <= 0 {
			return invalidOption("StartWithin(%s): must be positive", limit)
		}
		d.StartWithin = limit
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
