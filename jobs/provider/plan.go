// Package provider contains the parts that providers of background jobs share. Applications use package jobs.
//
// A provider keeps a [Registry] in an unexported field and forwards registrations to it. The registry checks names,
// options and schedules. Its [Definition] of a job validates triggers, runs the handler for one attempt, and decides
// whether a failed attempt is retried.
//
// [Plan] decides what to do about a schedule that is due. It is a pure function that reads no clock, database or
// registry, so one table of tests covers all providers. A provider keeps a [Row] for each schedule, calls Plan when the
// next tick is due, and stores the new row together with the job to insert, atomically. Then no tick is lost and none
// is inserted twice, however late it happens and in whichever process.
package provider

import (
	"time"

	"github.com/everytick/everytick/jobs"
)

// A Row is the state of a schedule.
type Row struct {
	Next       time.Time // the next tick; zero if no tick is left
	Last       time.Time // the latest tick that was inserted; zero if none was
	LastMissed int       // how many earlier ticks the run of Last also covers
	LastJob    Progress  // the progress of that run
}

// Progress is the progress of a tick's run.
type Progress int

// The progress of a tick's run.
const (
	Over    Progress = iota // has ended, has failed at least once, or was deleted; it holds up no tick
	Waiting                 // waits for its first attempt
	Going                   // is running, or waits again after an interruption, and has never failed
)

// A Policy is set by the job's options and by operators.
type Policy struct {
	CatchUp jobs.CatchUpPolicy
	Paused  bool
}

// An Action is what to do about a schedule.
type Action int

// The actions of an [Advance].
const (
	None   Action = iota // nothing is due
	Insert               // insert a run for Tick
	Fold                 // set Tick and Missed of the waiting run instead of inserting another
	Skip                 // the job is paused: advance without inserting a run
	Hold                 // with CatchUpAll: wait for the run of the previous tick
)

// An Advance is a decision by [Plan].
type Advance struct {
	Action Action
	Tick   time.Time // the tick to insert, fold or skip; for Skip the latest that has passed
	Missed int       // how many earlier ticks it also covers
	Next   time.Time // the schedule's new next tick; unchanged for None and Hold
}

// maxMissed limits the counting of missed ticks, so that years of a schedule that ticks every second are not walked
// through.
const maxMissed = 1_000_000

// Plan decides what to do about schedule s at now. row.Next counts as a tick even if s no longer has it, for example
// because time zone data has changed.
//
// The caller sets row.Next to the new Next. After an Insert, it also sets Last to Tick, LastMissed to Missed and
// LastJob to Waiting. After a Fold, it sets Last and LastMissed. After a Skip, it sets neither: a waiting run keeps
// waiting, and the first tick after the pause folds into it. With CatchUpAll the new Next may be due already; the
// caller calls Plan again when the run has ended.
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
			if next.IsZero() || next.After(now) { // none is within the window
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

// Next returns the first tick of s after t, in UTC, or the zero time if there is none. If s panics or returns a time
// that is not after t, Next returns the zero time too, so that a schedule with such a bug ends instead of looping
// forever.
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

// latest returns the latest tick of s that is not after limit, how many ticks precede it starting with first, which is
// a tick itself, and the tick that follows, or the zero time.
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

// halve returns the latest tick that is not after limit, by bisecting the time from tick, which is a tick, to limit.
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
