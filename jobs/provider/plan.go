// Package provider is what providers of background jobs share; applications use package jobs.
//
// A provider keeps a [Registry] in an unexported field and forwards registrations to it.
// It knows names, options and schedules. A [Definition] from it validates triggers, runs
// the handler for an attempt, and says what follows from its error.
//
// [Plan] decides what becomes of a schedule that is due. It is a pure function: it reads no
// clock, no database and no registry, so one table of tests holds for all providers. A
// provider keeps a [Row] for each schedule, looks at it when its next tick is due, and stores
// what Plan says together with the job it asks for, in one step. Then no tick is lost and none
// is inserted twice, however late and by whomever the row is looked at.
package provider

import (
	"time"

	"github.com/everytick/everytick/jobs"
)

// A Row is what the plan knows of a schedule.
type Row struct {
	Next       time.Time // when its next tick is due; zero if no tick is left
	Last       time.Time // the latest tick that was inserted; zero if none was
	LastMissed int       // how many earlier ticks that one stands for
	LastJob    Progress  // how far its job has come
}

// Progress says how far the job of a tick has come.
type Progress int

// How far the job of a tick can have come.
const (
	Over    Progress = iota // ended, failed before, or gone: it holds nobody up
	Waiting                 // waits and was never attempted
	Going                   // was attempted (runs, or waits again after an interruption) and has never failed
)

// A Policy is what the registration and the operators ask for.
type Policy struct {
	CatchUp jobs.CatchUpPolicy
	Paused  bool
}

// An Action is what to do about a tick.
type Action int

// The actions of an [Advance].
const (
	None   Action = iota // nothing is due
	Insert               // insert a job for Tick
	Fold                 // give the waiting job Tick and Missed instead of inserting another
	Skip                 // the job is paused: advance, insert nothing
	Hold                 // with CatchUpAll: wait for the run of the tick before
)

// An Advance is what becomes of a schedule at one look.
type Advance struct {
	Action Action
	Tick   time.Time // to insert, fold or skip; for Skip the latest that passed
	Missed int       // how many earlier ticks that tick stands for
	Next   time.Time // the schedule's new next tick; unchanged for None and Hold
}

// maxMissed is where counting missed ticks stops, so that the years of a schedule of
// every second are not walked through.
const maxMissed = 1_000_000

// Plan decides what becomes of a schedule at now. row.Next counts as a tick even if s
// does not name it any more, as when the data of its time zone changed.
//
// After an Insert the new tick is the row's Last, its Missed is LastMissed, and its job
// is Waiting; a Fold changes Last and LastMissed alone. A Skip changes neither: a job
// that waits goes on waiting, and the first tick after the pause folds into it. With
// CatchUpAll the new Next may be due as well: look again when the run has ended.
func Plan(s jobs.Schedule, p Policy, row Row, now time.Time) Advance {
	if row.Next.IsZero() || row.Next.After(now) {
		return Advance{Next: row.Next}
	}
	first := row.Next.UTC()
	switch {
	case p.Paused:
		tick, missed, next := latest(s, first, now)
		return Advance{Skip, tick, missed, next}
	case p.CatchUp == jobs.CatchUpAll && row.LastJob != Over:
		return Advance{Action: Hold, Next: row.Next}
	case p.CatchUp == jobs.CatchUpAll:
		tick, missed, next := first, 0, time.Time{}
		if horizon := now.Add(-jobs.CatchUpWindow); tick.Before(horizon) {
			tick, missed, next = latest(s, tick, horizon.Add(-1))
			if next.IsZero() || next.After(now) { // none lies in the window
				return Advance{Insert, tick, missed, next}
			}
			tick, missed = next, min(missed+1, maxMissed)
		}
		return Advance{Insert, tick, missed, Next(s, tick)}
	}
	tick, missed, next := latest(s, first, now)
	if row.LastJob == Waiting {
		return Advance{Fold, tick, min(missed+1+row.LastMissed, maxMissed), next}
	}
	return Advance{Insert, tick, missed, next}
}

// Next returns the first tick of s after t, in UTC, or the zero time if there is none.
// There is none either if s panics or names an instant that is not after t, so that a
// schedule with such a bug ends instead of running without end.
func Next(s jobs.Schedule, t time.Time) (next time.Time) {
	defer func() {
		if recover() != nil {
			next = time.Time{}
		}
	}()
	if next = s.Next(t); !next.After(t) {
		return time.Time{}
	}
	return next.UTC()
}

// latest returns the latest tick up to limit, from first on, which is a tick itself;
// how many come before it; and the one after it, or zero.
func latest(s jobs.Schedule, first, limit time.Time) (tick time.Time, before int, next time.Time) {
	counter, _ := s.(interface {
		Count(after, upTo time.Time) int
	})
	for tick, next = first, Next(s, first); !next.IsZero() && !next.After(limit); tick, next = next, Next(s, next) {
		if counter == nil && before < maxMissed {
			before++
			continue
		}
		if tick = halve(s, next, limit); counter != nil {
			before = min(counter.Count(first, tick), maxMissed)
		}
		return tick, before, Next(s, tick)
	}
	return tick, before, next
}

// halve returns the latest tick up to limit by halving the time from tick, which is one
// of them, to limit.
func halve(s jobs.Schedule, tick, limit time.Time) time.Time {
	for end := limit; tick.Before(end); {
		middle := tick.Add(end.Sub(tick) / 2)
		if next := Next(s, middle); next.IsZero() || next.After(limit) {
			end = middle
		} else {
			tick = next
		}
	}
	return tick
}
