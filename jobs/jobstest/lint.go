package jobstest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/internal/settings"
)

// The rules of [Lint].
const (
	// RuleOverlap finds a job whose attempts may take longer than the shortest time between its ticks, so that two of
	// its runs may execute at once. [jobs.OverlapSkip] and [jobs.CatchUpAll] prevent that, and so does a shorter
	// [jobs.Timeout].
	RuleOverlap = "overlap"
	// RuleRetries finds a job whose retries may come after its next tick, beside which they then run. A smaller
	// [jobs.RetryDelay] or [jobs.MaxRetries] prevents that.
	RuleRetries = "retries"
	// RuleClockChange finds a cron pattern with a tick at a time of day that clocks skip or repeat within a year, in
	// its zone. Such a tick moves or could be ambiguous to people; another time of day is clearer.
	RuleClockChange = "clock-change"
	// RuleCrowd finds five or more jobs that start at the same instant, such as on the hour. [jobs.Spread] moves them
	// apart. Jobs with more than four ticks an hour do not count.
	RuleCrowd = "crowd"
)

// A Finding is what [Findings] found.
type Finding struct {
	// Rule is one of the rules of [Lint].
	Rule string
	// Job is the name of the job, or for RuleCrowd those of the jobs, in order and separated by commas.
	Job string
	// Text says what was found and what helps.
	Text string
}

// String returns the rule, the job and the text.
func (f Finding) String() string { return f.Rule + " " + f.Job + ": " + f.Text }

// Lint reports each [Finding] about the jobs that register registers as an error of t. Register the jobs of the whole
// application to find crowds. register takes a [jobs.Registrar], or a [jobs.Scheduler] or a part of one that registers.
// It gets one that runs nothing and whose other methods return an error.
//
// Findings that are intended are allowed by their rule and job, such as "overlap audit.sync", or by the rule alone for
// all jobs. An entry of allowed that allows nothing is an error too, so that the list stays short.
func Lint[R jobs.Registrar](t testing.TB, register func(r R) error, allowed ...string) {
	t.Helper()
	found, err := Findings(register)
	if err != nil {
		t.Fatalf("jobstest: Lint: registering: %s", err)
	}
	used := map[string]bool{}
	for _, f := range found {
		one := f.Rule + " " + f.Job
		if slices.Contains(allowed, one) || slices.Contains(allowed, f.Rule) {
			used[one], used[f.Rule] = true, true
			continue
		}
		t.Errorf("jobstest: Lint: %s\n\tIf that is intended, allow %q.", f, one)
	}
	for _, entry := range allowed {
		if !used[entry] {
			t.Errorf("jobstest: Lint: %q is allowed, but was not found; remove it", entry)
		}
	}
}

// Findings returns what [Lint] reports, ordered by rule and job. The error is that of register.
func Findings[R jobs.Registrar](register func(r R) error) ([]Finding, error) {
	l := &linted{}
	r, ok := any(l).(R)
	if !ok {
		return nil, fmt.Errorf("register takes a %T, want an interface that a jobs.Scheduler has", *new(R))
	}
	if err := register(r); err != nil {
		return nil, err
	}
	return l.findings(time.Now()), nil
}

func (l *linted) findings(now time.Time) []Finding {
	found := crowds(l.jobs, now)
	for _, j := range l.jobs {
		j.gap = shortestGap(j.schedule, now)
		found = append(found, slices.Concat(j.overlap(), j.retries(), j.clockChange(now))...)
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Rule, b.Rule), strings.Compare(a.Job, b.Job))
	})
	return found
}

// linted is a [jobs.Scheduler] that collects jobs with ticks, and does nothing else.
type linted struct{ jobs []*lintedJob }

var _ jobs.Scheduler = (*linted)(nil)

var errLinted = errors.New("jobstest: Lint only registers jobs")

// Trigger implements [jobs.Triggerer].
func (*linted) Trigger(context.Context, string, any, ...jobs.TriggerOption) (string, error) {
	return "", errLinted
}

// TriggerMany implements [jobs.Triggerer].
func (*linted) TriggerMany(context.Context, string, []any, ...jobs.TriggerOption) ([]string, error) {
	return nil, errLinted
}

// Health implements [jobs.Monitor].
func (*linted) Health(context.Context) (jobs.Health, error) { return jobs.Health{}, errLinted }

// Jobs implements [jobs.Monitor].
func (*linted) Jobs(context.Context) ([]jobs.Status, error) { return nil, errLinted }

// QueueSize implements [jobs.Monitor].
func (*linted) QueueSize(context.Context, string) (int, error) { return 0, errLinted }

// Start implements [jobs.Scheduler].
func (*linted) Start(context.Context) error { return errLinted }

// Shutdown implements [jobs.Scheduler].
func (*linted) Shutdown(context.Context) error { return errLinted }

type jobSettings = settings.Job[jobs.Middleware, jobs.TriggerMiddleware, jobs.Run]

type lintedJob struct {
	jobSettings
	name, pattern string // pattern is "" unless it is a cron pattern
	schedule      jobs.Schedule
	gap           time.Duration // the shortest time between ticks; 0 if there are fewer than two
}

func (l *linted) add(name, pattern string, opts []jobs.Option, schedule func(s *jobSettings) (jobs.Schedule, error)) error {
	j := &lintedJob{name: name, pattern: pattern, jobSettings: settings.Defaults[jobs.Middleware, jobs.TriggerMiddleware, jobs.Run]()}
	for _, opt := range opts {
		if opt == nil {
			return fmt.Errorf("job %q: option is nil", name)
		}
		if err := opt.ApplyTo(&j.jobSettings); err != nil {
			return fmt.Errorf("job %q: %w", name, err)
		}
	}
	var err error
	if j.schedule, err = schedule(&j.jobSettings); err != nil {
		return fmt.Errorf("job %q: %w", name, err)
	}
	if j.schedule != nil {
		l.jobs = append(l.jobs, j)
	}
	return nil
}

// RegisterCron implements [jobs.Registrar].
func (l *linted) RegisterCron(name, pattern string, _ jobs.Handler, opts ...jobs.Option) error {
	return l.add(name, pattern, opts, func(s *jobSettings) (jobs.Schedule, error) { return jobs.ParseCron(pattern, s.TimeZone) })
}

// RegisterInterval implements [jobs.Registrar].
func (l *linted) RegisterInterval(name string, every time.Duration, _ jobs.Handler, opts ...jobs.Option) error {
	return l.add(name, "", opts, func(*jobSettings) (jobs.Schedule, error) { return jobs.Every(every) })
}

// RegisterSchedule implements [jobs.Registrar].
func (l *linted) RegisterSchedule(name string, s jobs.Schedule, _ jobs.Handler, opts ...jobs.Option) error {
	return l.add(name, "", opts, func(*jobSettings) (jobs.Schedule, error) {
		if s == nil {
			return nil, errors.New("the schedule is nil")
		}
		if named, ok := s.(interface {
			For(job string) jobs.Schedule
		}); ok {
			s = named.For(name)
		}
		return s, nil
	})
}

// RegisterDelayed implements [jobs.Registrar].
func (l *linted) RegisterDelayed(name string, _ time.Duration, _ jobs.Handler, opts ...jobs.Option) error {
	return l.add(name, "", opts, func(*jobSettings) (jobs.Schedule, error) { return nil, nil })
}

// thisYear returns the calendar year of now, so that most findings do not depend on the day of the test.
func thisYear(now time.Time) (start, end time.Time) {
	start = time.Date(now.UTC().Year(), 1, 1, 0, 0, 0, 0, time.UTC)
	return start, start.AddDate(1, 0, 0)
}

// gapTicks is how many ticks shortestGap looks at.
const gapTicks = 3000

// shortestGap returns the shortest time between two ticks of a year, or 0.
func shortestGap(s jobs.Schedule, now time.Time) (shortest time.Duration) {
	tick, end := thisYear(now)
	tick = s.Next(tick.Add(-1))
	for range gapTicks {
		next := s.Next(tick)
		if tick.IsZero() || next.IsZero() || next.After(end.AddDate(1, 0, 0)) {
			break
		}
		if gap := next.Sub(tick); shortest == 0 || gap < shortest {
			shortest = gap
		}
		tick = next
	}
	return shortest
}

func (j *lintedJob) overlap() []Finding {
	if j.gap == 0 || j.Timeout <= j.gap || jobs.OverlapPolicy(j.Overlap) == jobs.OverlapSkip || jobs.CatchUpPolicy(j.CatchUp) == jobs.CatchUpAll {
		return nil
	}
	return []Finding{{RuleOverlap, j.name, fmt.Sprintf(
		"the timeout of %s is longer than the %s between ticks, so a run may overlap the next; use Timeout or Overlap(OverlapSkip)", j.Timeout, j.gap)}}
}

func (j *lintedJob) retries() []Finding {
	total, delay := time.Duration(0), j.RetryDelay
	for range j.MaxRetries {
		if total += delay; j.gap == 0 || total > j.gap {
			break
		}
		delay = min(delay*2, settings.MaxBackoff)
	}
	if j.gap == 0 || total <= j.gap {
		return nil
	}
	return []Finding{{RuleRetries, j.name, fmt.Sprintf(
		"the last of %d retries comes more than %s after the tick, which is the time between ticks, so it may run beside the next; use MaxRetries or RetryDelay",
		j.MaxRetries, j.gap)}}
}

// clockChange evaluates the pattern by the clock on the wall, as if in UTC, around each change of the clock.
func (j *lintedJob) clockChange(now time.Time) []Finding {
	fields := strings.Fields(j.pattern)
	if len(fields) != 5 && !strings.HasPrefix(j.pattern, "@") || len(fields) == 5 && strings.HasPrefix(fields[1], "*") ||
		j.pattern == "@hourly" || j.TimeZone == nil {
		return nil // no cron pattern, or one that follows elapsed time
	}
	wall, err := jobs.ParseCron(j.pattern, time.UTC)
	if err != nil {
		return nil
	}
	for _, change := range changes(j.TimeZone, now, now.AddDate(1, 0, 0)) {
		what := "skips"
		from, to := change.before, change.after
		if to.Before(from) {
			what, from, to = "repeats", to, from
		}
		if tick := wall.Next(from.Add(-1)); !tick.IsZero() && tick.Before(to) {
			return []Finding{{RuleClockChange, j.name, fmt.Sprintf(
				"it ticks at %s, between %s and %s, which the clock of %s %s on %s; choose another time of day",
				tick.Format("15:04"), from.Format("15:04"), to.Format("15:04"), j.TimeZone, what, from.Format(time.DateOnly))}}
		}
	}
	return nil
}

// A change is an instant at which a clock is changed, as the clock shows it before and after, in UTC.
type change struct{ before, after time.Time }

func changes(loc *time.Location, from, to time.Time) (all []change) {
	offset := func(t time.Time) int { _, o := t.In(loc).Zone(); return o }
	for t := from.Truncate(time.Hour); t.Before(to); t = t.Add(time.Hour) {
		low, high := t, t.Add(time.Hour)
		if offset(low) == offset(high) {
			continue
		}
		for high.Sub(low) > time.Second {
			if middle := low.Add(high.Sub(low) / 2).Truncate(time.Second); offset(middle) == offset(low) {
				low = middle
			} else {
				high = middle
			}
		}
		at := high.UTC()
		all = append(all, change{
			at.Add(time.Duration(offset(low)) * time.Second), at.Add(time.Duration(offset(high)) * time.Second),
		})
	}
	return all
}

// crowd is how many jobs may start at the same instant, and frequent how close the ticks of jobs that do not count are.
const (
	crowd    = 5
	frequent = 15 * time.Minute
)

// crowds returns the largest crowd of a year, without the jobs in it those of the rest, and so on.
func crowds(all []*lintedJob, now time.Time) (found []Finding) {
	start, end := thisYear(now)
	at := map[int64][]string{}
	for _, j := range all {
		if gap := shortestGap(j.schedule, now); gap > 0 && gap < frequent {
			continue
		}
		for tick := j.schedule.Next(start.Add(-1)); !tick.IsZero() && tick.Before(end); tick = j.schedule.Next(tick) {
			at[tick.UnixMilli()] = append(at[tick.UnixMilli()], j.name)
		}
	}
	for {
		var most []string
		var when int64
		for instant, names := range at {
			if len(names) > len(most) || len(names) == len(most) && instant < when {
				most, when = names, instant
			}
		}
		if len(most) < crowd {
			return found
		}
		slices.Sort(most)
		found = append(found, Finding{RuleCrowd, strings.Join(most, ","), fmt.Sprintf(
			"%d jobs start together, first at %s; Spread moves each by its own time", len(most), time.UnixMilli(when).UTC().Format(time.DateTime))})
		crowded := slices.Clone(most)
		for instant, names := range at {
			at[instant] = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(crowded, name) })
		}
	}
}
