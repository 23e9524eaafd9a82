package jobs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The schedules in this file are made of others. They have two methods for jobs/provider beside those of Schedule:
// TryNext returns an error where Next would end the schedule, and For returns the schedule of the job with that name.

// Only returns the ticks of s that accept accepts. s has its other ticks for nobody: they count nowhere as missed or
// skipped. rule says in words which ticks are accepted, such as "on working days". It becomes part of the schedule's
// text, by which processes and versions recognise the schedule, since they cannot compare functions: give another rule
// when accept changes.
//
// accept must be a pure function of the tick, which it gets in UTC. It must accept at least one of any million ticks
// in a row.
func Only(s Schedule, rule string, accept func(tick time.Time) bool) Schedule {
	return only{s, rule, accept}
}

type only struct {
	Schedule
	rule   string
	accept func(time.Time) bool
}

// mostRefused is how many ticks in a row Only passes over. Without a limit, accept could make Next run forever.
const mostRefused = 1_000_000

func (o only) Next(t time.Time) time.Time { return orZero(o.TryNext(t)) }

func (o only) TryNext(t time.Time) (time.Time, error) {
	switch {
	case o.accept == nil:
		return time.Time{}, fmt.Errorf("%w: Only: the function is nil", ErrInvalidSchedule)
	case strings.TrimSpace(o.rule) == "":
		return time.Time{}, fmt.Errorf(`%w: Only: the rule is empty; want a text such as "on working days"`, ErrInvalidSchedule)
	}
	tick := t
	for range mostRefused {
		next, err := tryNext(o.Schedule, tick)
		if err != nil || next.IsZero() || o.accept(next) {
			return next, err
		}
		if !next.After(tick) {
			return time.Time{}, fmt.Errorf("%w: Only: Next(%s) of %q is %s", ErrInvalidSchedule, stamp(tick), describe(o.Schedule), stamp(next))
		}
		tick = next
	}
	return time.Time{}, fmt.Errorf("%w: Only %q: the function accepts none of %d ticks in a row, those from %s to %s",
		ErrInvalidSchedule, o.rule, mostRefused, stamp(t), stamp(tick))
}

func (o only) String() string { return describe(o.Schedule) + " " + o.rule }

func (o only) For(job string) Schedule { return only{bound(o.Schedule, job), o.rule, o.accept} }

// Spread returns the ticks of s, each later by the same time, which is at least zero and less than within. It is a hash
// of the job's name in whole seconds, so that jobs with the same pattern do not all start together, and a job always
// starts at the same time. within is in whole seconds, at least two. Until the schedule is registered, its ticks are
// those of s.
func Spread(s Schedule, within time.Duration) Schedule { return spread{Schedule: s, within: within} }

type spread struct {
	Schedule
	within, offset time.Duration
}

func (s spread) Next(t time.Time) time.Time { return orZero(s.TryNext(t)) }

func (s spread) TryNext(t time.Time) (time.Time, error) {
	if s.within < 2*time.Second || s.within%time.Second != 0 {
		return time.Time{}, fmt.Errorf("%w: Spread over %s: must be whole seconds, at least 2s", ErrInvalidSchedule, s.within)
	}
	next, err := tryNext(s.Schedule, t.Add(-s.offset))
	if err != nil || next.IsZero() {
		return next, err
	}
	return next.Add(s.offset), nil
}

func (s spread) String() string { return describe(s.Schedule) + " spread over " + s.within.String() }

func (s spread) For(job string) Schedule {
	s.Schedule = bound(s.Schedule, job)
	if seconds := uint64(s.within / time.Second); s.within > 0 && seconds > 0 {
		sum := sha256.Sum256([]byte(job))
		s.offset = time.Duration(binary.BigEndian.Uint64(sum[:])%seconds) * time.Second
	}
	return s
}

// AnyOf returns the ticks of all the schedules. A tick that several of them have is one tick.
func AnyOf(schedules ...Schedule) Schedule { return anyOf(slices.Clone(schedules)) }

type anyOf []Schedule

func (a anyOf) Next(t time.Time) time.Time { return orZero(a.TryNext(t)) }

func (a anyOf) TryNext(t time.Time) (first time.Time, err error) {
	if len(a) == 0 {
		return time.Time{}, fmt.Errorf("%w: AnyOf: want at least one schedule", ErrInvalidSchedule)
	}
	for _, s := range a {
		next, err := tryNext(s, t)
		if err != nil {
			return time.Time{}, err
		}
		if first.IsZero() || !next.IsZero() && next.Before(first) {
			first = next
		}
	}
	return first, nil
}

func (a anyOf) String() string {
	texts := make([]string, len(a))
	for i, s := range a {
		texts[i] = describe(s)
	}
	return "any of: " + strings.Join(texts, "; ")
}

func (a anyOf) For(job string) Schedule {
	all := make(anyOf, len(a))
	for i, s := range a {
		all[i] = bound(s, job)
	}
	return all
}

// tryNext returns the first tick of s after t, or why there is none.
func tryNext(s Schedule, t time.Time) (time.Time, error) {
	switch s := s.(type) {
	case nil:
		return time.Time{}, fmt.Errorf("%w: the schedule is nil", ErrInvalidSchedule)
	case interface {
		TryNext(t time.Time) (time.Time, error)
	}:
		return s.TryNext(t)
	}
	return s.Next(t).UTC(), nil
}

func orZero(next time.Time, err error) time.Time {
	if err != nil {
		return time.Time{}
	}
	return next
}

// bound returns s as the schedule of that job.
func bound(s Schedule, job string) Schedule {
	if b, ok := s.(interface{ For(job string) Schedule }); ok {
		return b.For(job)
	}
	return s
}

// describe returns the text of a schedule within another.
func describe(s Schedule) string {
	if s == nil {
		return "nil"
	}
	text := s.String()
	if in, ok := s.(interface{ Zone() string }); ok && in.Zone() != "" {
		text += " " + in.Zone()
	}
	return text
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
