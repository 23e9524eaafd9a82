package jobs

import (
	"fmt"
	"time"

	"github.com/everytick/everytick/jobs/internal/cron"
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

// ParseCron returns the schedule of a cron pattern, read in the zone loc; nil means UTC. The pattern has five fields
// (minute, hour, day of month, month, day of week), each '*', a value, a range a-b, a step */n or a-b/n, or a list of
// these joined by commas. Months and days may be three-letter names, and Sunday is 0 or 7, also at the end of a range:
// fri-sun and 5-0 are 5-7. @hourly, @daily or @midnight, @weekly, @monthly, and @yearly or @annually stand for patterns.
// If both day fields are restricted, a day that matches either one counts.
//
// At clock changes, a run at a fixed hour that the clock jumps over happens at the first instant after the gap, one run
// for all in that gap; a run in an hour that is repeated happens once, the first time. If the hour field begins with
// '*', runs follow real time instead. cronie differs in two cases. It follows real time for a minute that begins with
// '*' as well: there */15 2 * * * runs in both passes of a repeated hour, and not at all on the day of a gap; here it
// keeps to once per civil day. And it makes up for each of several runs in a gap.
//
// A pattern that is malformed or never fires is [ErrInvalidSchedule], and the error names the field.
func ParseCron(pattern string, loc *time.Location) (Schedule, error) {
	s, err := cron.Parse(pattern, loc)
	if err != nil {
		return nil, fmt.Errorf("%w: cron pattern %q: %w", ErrInvalidSchedule, pattern, err)
	}
	return s, nil
}
