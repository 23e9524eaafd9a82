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
	Stall                // the schedule's code fails; wait until a version in which it does not
)

// An Advance is a decision by [Plan].
type Advance struct {
	Action Action
	Tick   time.Time // the tick to insert, fold or skip; for Skip the latest that has passed
	Missed int       // how many earlier ticks it also covers
	Next   time.Time // the schedule's new next tick; unchanged for None, Hold and Stall
	Err    error     // what the schedule does wrong; nil except for Stall
}

// maxMissed limits the counting of missed ticks, so that years of a schedule that ticks every second are not walked
// through.
const maxMissed = 1_000_000

// Plan decides what to do about schedule s at now. It is a pure function, apart from its limit on the time that a custom
// schedule takes.
// row.Next counts as a tick even if s no longer has it, for example
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
	if c, ok := s.(*custom); ok {
		s = limited{c, time.Now().Add(planLimit)}
	}
	a, err := plan(s, p, row, now)
	if err != nil {
		return Advance{Action: Stall, Next: row.Next, Err: err}
	}
	return a
}

// plan is Plan for a row that is due.
func plan(s jobs.Schedule, p Policy, row Row, now time.Time) (a Advance, err error) {
	first := row.Next.UTC()
	switch {
	case p.Paused:
		a.Action = Skip
		a.Tick, a.Missed, a.Next, err = latest(s, first, now)
		return a, err
	case p.CatchUp == jobs.CatchUpAll && row.LastJob != Over:
		return Advance{Action: Hold, Next: row.Next}, nil
	case p.CatchUp == jobs.CatchUpAll:
		a = Advance{Action: Insert, Tick: first}
		if horizon := now.Add(-jobs.CatchUpWindow); first.Before(horizon) {
			a.Tick, a.Missed, a.Next, err = latest(s, first, horizon.Add(-1))
			if err != nil || a.Next.IsZero() || a.Next.After(now) { // none is within the window
				return a, err
			}
			a.Tick, a.Missed = a.Next, min(a.Missed+1, maxMissed)
		}
		a.Next, err = CheckedNext(s, a.Tick)
		return a, err
	}
	a.Action = Insert
	a.Tick, a.Missed, a.Next, err = latest(s, first, now)
	if row.LastJob == Waiting {
		a.Action, a.Missed = Fold, min(a.Missed+1+row.LastMissed, maxMissed)
	}
	return a, err
}

// latest returns the latest tick of s that is not after limit, how many ticks precede it starting with first, which is
// a tick itself, and the tick that follows, or the zero time.
func latest(s jobs.Schedule, first, limit time.Time) (tick time.Time, before int, next time.Time, err error) {
	count := counterOf(s)
	tick = first
	for next, err = CheckedNext(s, first); err == nil && !next.IsZero() && !next.After(limit); next, err = CheckedNext(s, next) {
		if count == nil && before < maxMissed {
			before++
			tick = next
			continue
		}
		if tick, err = halve(s, next, limit); err != nil {
			break
		}
		if count != nil {
			before = min(count(first, tick), maxMissed)
		}
		next, err = CheckedNext(s, tick)
		break
	}
	return tick, before, next, err
}

// halve returns the latest tick that is not after limit, by bisecting the time from tick, which is a tick, to limit.
func halve(s jobs.Schedule, tick, limit time.Time) (time.Time, error) {
	for end := limit; tick.Before(end); {
		middle := tick.Add(end.Sub(tick) / 2)
		next, err := CheckedNext(s, middle)
		if err != nil {
			return tick, err
		}
		if next.IsZero() || next.After(limit) {
			end = middle
		} else {
			tick = next
		}
	}
	return tick, nil
}
