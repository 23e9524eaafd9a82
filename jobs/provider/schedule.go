package provider

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/everytick/everytick/jobs"
)

// CheckedNext returns the first tick of s after t, in UTC, or the zero time if there is none. The error says what s does
// wrong: it panics, does not return within a second, or returns a time that is no tick. Then the schedule has not
// ended: it works again with the next version of the program.
func CheckedNext(s jobs.Schedule, t time.Time) (next time.Time, err error) {
	defer func() {
		if v := recover(); v != nil {
			next, err = time.Time{}, fmt.Errorf("its Next panicked: %s", storable(fmt.Sprint(v)))
		}
	}()
	if c, ok := s.(interface {
		TryNext(t time.Time) (time.Time, error)
	}); ok {
		next, err = c.TryNext(t)
	} else {
		next = s.Next(t)
	}
	switch {
	case err != nil || next.IsZero():
		return time.Time{}, err
	case !next.After(t):
		return time.Time{}, fmt.Errorf("its Next(%s) is %s, which is not after its argument", stamp(t), stamp(next))
	case next.UTC().Year() > 9999:
		return time.Time{}, fmt.Errorf("its Next(%s) is in the year %d, at most 9999 is allowed", stamp(t), next.UTC().Year())
	}
	return next.UTC(), nil
}

// Next is [CheckedNext] where it does not matter why there is no tick.
func Next(s jobs.Schedule, t time.Time) time.Time {
	next, _ := CheckedNext(s, t)
	return next
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// A custom schedule is one that the application has written or composed. Whatever its code does, other schedules go on.
type custom struct {
	s     jobs.Schedule
	text  string
	stuck atomic.Int64 // calls that have not returned in time
}

// newCustom returns s as the schedule of a job, or [jobs.ErrInvalidSchedule] if it does not keep the rules of
// [jobs.Schedule], as far as some ticks after now and half a year later show.
func newCustom(s jobs.Schedule, job string, now time.Time) (*custom, error) {
	if s == nil {
		return nil, fmt.Errorf("%w: the schedule is nil", jobs.ErrInvalidSchedule)
	}
	if b, ok := s.(interface {
		For(job string) jobs.Schedule
	}); ok {
		s = b.For(job)
	}
	c := &custom{s: s}
	err := c.checkText()
	for _, from := range []time.Time{now, now.AddDate(0, 6, 0)} {
		if err == nil {
			err = c.checkTicks(from.UTC())
		}
	}
	if err != nil && !errors.Is(err, jobs.ErrInvalidSchedule) {
		err = fmt.Errorf("%w: %w", jobs.ErrInvalidSchedule, err)
	}
	return c, err
}

// maxScheduleText is how long the text of a schedule may be, in bytes.
const maxScheduleText = 1000

// checkText sets text and checks it.
func (c *custom) checkText() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("its String panicked: %s", storable(fmt.Sprint(v)))
		}
	}()
	c.text = c.s.String()
	switch again := c.s.String(); {
	case strings.TrimSpace(c.text) == "":
		return errors.New("its String is empty; want a text that says when it ticks")
	case len(c.text) > maxScheduleText:
		return fmt.Errorf("its String has %d bytes, at most %d are allowed", len(c.text), maxScheduleText)
	case !utf8.ValidString(c.text) || strings.ContainsFunc(c.text, unicode.IsControl):
		return fmt.Errorf("its String is %q, want one line of valid UTF-8", c.text)
	case again != c.text:
		return fmt.Errorf("its String is %q and then %q, want always the same", c.text, again)
	}
	return nil
}

// checkedTicks is how many ticks in a row are checked.
const checkedTicks = 50

func (c *custom) checkTicks(from time.Time) error {
	var last time.Time
	for range checkedTicks {
		t := from
		if !last.IsZero() {
			t = last
		}
		tick, err := CheckedNext(c, t)
		if err != nil || tick.IsZero() {
			return err
		}
		for _, earlier := range []time.Time{t, t.Add(tick.Sub(t) / 2), tick.Add(-1)} {
			again, err := CheckedNext(c, earlier)
			if err != nil {
				return err
			}
			if !again.Equal(tick) {
				return fmt.Errorf("its Next(%s) is %s, but its Next(%s) is %s: it must return the first tick after its argument, the same each time",
					stamp(t), stamp(tick), stamp(earlier), stamp(again))
			}
		}
		if !last.IsZero() && tick.Sub(last) < time.Second {
			return fmt.Errorf("it has ticks at %s and %s: must be at least 1s apart", stamp(last), stamp(tick))
		}
		last = tick
	}
	return nil
}

// planLimit is how long a plan may take: it may ask for very many ticks.
const planLimit = 2 * time.Second

// A limited schedule fails once its time is over.
type limited struct {
	*custom
	until time.Time
}

// TryNext is that of the custom schedule.
func (l limited) TryNext(t time.Time) (time.Time, error) {
	if time.Now().After(l.until) {
		return time.Time{}, fmt.Errorf("finding its ticks has taken longer than %s", planLimit)
	}
	return l.custom.TryNext(t)
}

// nextLimit is how long a schedule may take to find its next tick.
const nextLimit = time.Second

// TryNext calls the schedule's in a goroutine of its own. While one call is stuck, others fail at once.
func (c *custom) TryNext(t time.Time) (time.Time, error) {
	if c.stuck.Load() > 0 {
		return time.Time{}, errors.New("an earlier call of its Next has not returned")
	}
	type result struct {
		next time.Time
		err  error
	}
	returned := make(chan result, 1)
	var late atomic.Bool
	go func() {
		r := result{err: errors.New("its Next exited its goroutine (runtime.Goexit)")}
		defer func() {
			returned <- r
			if !late.CompareAndSwap(false, true) {
				c.stuck.Add(-1)
			}
		}()
		r.next, r.err = CheckedNext(c.s, t)
	}()
	limit := time.NewTimer(nextLimit)
	defer limit.Stop()
	var r result
	select {
	case r = <-returned:
	case <-limit.C:
		c.stuck.Add(1)
		if late.CompareAndSwap(false, true) {
			return time.Time{}, fmt.Errorf("its Next(%s) has not returned within %s", stamp(t), nextLimit)
		}
		c.stuck.Add(-1)
		r = <-returned
	}
	if r.err == nil && r.next.Nanosecond()%int(time.Millisecond) != 0 {
		r.err = fmt.Errorf("its Next(%s) is %s, want whole milliseconds", stamp(t), stamp(r.next))
	}
	return r.next, r.err
}

// Next implements [jobs.Schedule].
func (c *custom) Next(t time.Time) time.Time { return Next(c, t) }

// String implements [jobs.Schedule].
func (c *custom) String() string { return c.text }

// Zone returns the zone of a cron pattern, otherwise "".
func (c *custom) Zone() string {
	if in, ok := c.s.(interface{ Zone() string }); ok {
		return in.Zone()
	}
	return ""
}

// counterOf returns the method of a schedule that counts ticks t with after < t <= upTo, or nil.
func counterOf(s jobs.Schedule) func(after, upTo time.Time) int {
	if l, ok := s.(limited); ok {
		s = l.s
	}
	if counter, ok := s.(interface {
		Count(after, upTo time.Time) int
	}); ok {
		return counter.Count
	}
	return nil
}
