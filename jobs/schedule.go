package jobs

import (
	"fmt"
	"time"

	"github.com/everytick/everytick/jobs/internal/cron"
)

// A Schedule determines the instants at which a job runs, its ticks. [ParseCron] and [Every] return one, and [Only],
// [Spread] and [AnyOf] change and combine them. An application may write its own for [Registrar].RegisterSchedule, such
// as one for a calendar.
//
// A schedule is a pure function of time, so that every process gets the same ticks. It is called from several
// goroutines, often for times years away, and should take microseconds: it must not ask a database or the network. If
// its code fails later on, because it panics, takes longer than a second or goes back in time, its ticks wait, and the
// log and [Status].OverdueReason say why. They are not lost: the next version of the program catches up on them. Other
// schedules are not affected.
type Schedule interface {
	// Next returns the first tick after t, or the zero time if there is none. Ticks are in whole milliseconds, at
	// least a second apart, and before the year 10,000.
	Next(t time.Time) time.Time
	// String returns the definition in one line of at most 1,000 bytes: the cron pattern, "every 5m0s", or for
	// example "the last working day of the month, 18:00, TARGET calendar of 2026". Processes recognise a schedule by
	// it. A version that changes the ticks should change it, and then the time before its start is not caught up on.
	String() string
}

// Every returns a schedule whose ticks are the multiples of interval since the zero time, as in [time.Time.Truncate].
// An interval that divides a day has the same ticks every day, and an interval of a week ticks on Mondays at 00:00 UTC.
// An interval shorter than one second or not in whole milliseconds is [ErrInvalidSchedule].
func Every(interval time.Duration) (Schedule, error) {
	if interval < time.Second {
		return nil, fmt.Errorf("%w: interval %s: must be at least 1s", ErrInvalidSchedule, interval)
	}
	if !isWhole(interval) {
		return nil, fmt.Errorf("%w: interval %s: must be whole milliseconds", ErrInvalidSchedule, interval)
	}
	return every(interval), nil
}

// isWhole reports whether d is in whole milliseconds. Not every provider can store finer times; PostgreSQL keeps
// microseconds.
func isWhole(d time.Duration) bool { return d%time.Millisecond == 0 }

type every time.Duration

func (e every) Next(t time.Time) time.Time {
	d := time.Duration(e)
	return t.UTC().Truncate(d).Add(d)
}

func (e every) String() string { return "every " + time.Duration(e).String() }

// Count returns how many ticks t have after < t <= upTo. Without it, jobs/provider would visit each of them.
func (e every) Count(after, upTo time.Time) int {
	d := time.Duration(e)
	return int(upTo.UTC().Truncate(d).Sub(after.UTC().Truncate(d)) / d)
}

// ParseCron parses a cron pattern in the time zone loc; nil means UTC. The pattern has five fields (minute, hour, day
// of month, month, day of week), each '*', a value, a range a-b, a step */n or a-b/n, or a comma-separated list of
// these. Months and days may be three-letter names. Sunday is 0 or 7, also at the end of a range: fri-sun and 5-0 mean
// 5-7. The aliases @hourly, @daily (or @midnight), @weekly, @monthly and @yearly (or @annually) are supported. If both
// day fields are restricted, a day has to match only one of them.
//
// When clocks change, ticks at a fixed hour that the clock skips happen once, at the first instant after the gap, and
// ticks in an hour that repeats happen only the first time. If the hour field starts with '*', ticks follow elapsed
// time instead. cronie differs in two ways. It also follows elapsed time if the minute field starts with '*':
// "*/15 2 * * *" then runs in both passes of a repeated hour and not at all on the day of a gap, whereas here its ticks
// happen once per calendar day. And cronie runs a job once for each tick in a gap.
//
// A pattern that is malformed or never fires is [ErrInvalidSchedule], and the error names the field.
func ParseCron(pattern string, loc *time.Location) (Schedule, error) {
	s, err := cron.Parse(pattern, loc)
	if err != nil {
		return nil, fmt.Errorf("%w: cron pattern %q: %w", ErrInvalidSchedule, pattern, err)
	}
	return s, nil
}
