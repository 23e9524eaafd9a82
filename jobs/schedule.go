package jobs

import (
	"fmt"
	"time"
)

// A Schedule tells at which instants, its ticks, a job runs. It is a pure function
// of time: every process that has the same definition names the same ticks.
type Schedule interface {
	// Next returns the first tick after t, in UTC, or the zero time if there is none.
	Next(t time.Time) time.Time
	// String returns the definition: the cron pattern, or "every 5m0s".
	String() string
}

// Every returns the schedule whose ticks are the multiples of interval since the
// zero time, as [time.Time.Truncate] counts them: an interval that divides a day
// runs at the same times every day, one of a week on Mondays at 00:00 UTC. An
// interval below one second, or one that is not whole milliseconds, is
// [ErrInvalidSchedule].
func Every(interval time.Duration) (Schedule, error) {
	if interval < time.Second {
		return nil, fmt.Errorf("%w: interval %s: at least 1s is allowed", ErrInvalidSchedule, interval)
	}
	if !isWhole(interval) {
		return nil, fmt.Errorf("%w: interval %s: must be whole milliseconds", ErrInvalidSchedule, interval)
	}
	return every(interval), nil
}

// isWhole reports whether d is whole milliseconds. Anything finer would lead to times
// that not every provider can store: PostgreSQL keeps microseconds.
func isWhole(d time.Duration) bool { return d%time.Millisecond == 0 }

type every time.Duration

func (e every) Next(t time.Time) time.Time {
	d := time.Duration(e)
	return t.UTC().Truncate(d).Add(d)
}

func (e every) String() string { return "every " + time.Duration(e).String() }

// Count returns how many ticks lie after the first instant and not after the second,
// for jobs/provider, which would visit each of them otherwise.
func (e every) Count(after, upTo time.Time) int {
	d := time.Duration(e)
	return int(upTo.UTC().Truncate(d).Sub(after.UTC().Truncate(d)) / d)
}
