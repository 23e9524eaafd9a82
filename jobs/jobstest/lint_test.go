package jobstest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
)

func nothing(context.Context, *jobs.Job) error { return nil }

func location(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	require.NoError(t, err)
	return loc
}

func TestFindings(t *testing.T) {
	t.Parallel()
	berlin, havana, lordHowe := location(t, "Europe/Berlin"), location(t, "America/Havana"), location(t, "Australia/Lord_Howe")
	hourly, err := jobs.Every(time.Hour)
	require.NoError(t, err)
	cron := func(pattern string, opts ...jobs.Option) func(jobs.Registrar) error {
		return func(r jobs.Registrar) error { return r.RegisterCron("a.job", pattern, nothing, opts...) }
	}
	every := func(d time.Duration, opts ...jobs.Option) func(jobs.Registrar) error {
		return func(r jobs.Registrar) error { return r.RegisterInterval("a.job", d, nothing, opts...) }
	}
	many := func(n int, register func(r jobs.Registrar, name string) error) func(jobs.Registrar) error {
		return func(r jobs.Registrar) (err error) {
			for i := range n {
				err = errors.Join(err, register(r, fmt.Sprintf("a.job%d", i)))
			}
			return err
		}
	}
	daily := func(r jobs.Registrar, name string) error { return r.RegisterCron(name, "@daily", nothing) }
	for _, test := range []struct {
		name     string
		register func(jobs.Registrar) error
		want     []string // rule, job and the start of the text
	}{
		{"on demand", func(r jobs.Registrar) error { return r.RegisterDelayed("a.job", time.Second, nothing) }, nil},
		{"defaults, every hour", every(time.Hour), nil},

		{"a timeout longer than the interval", every(time.Minute), []string{"overlap a.job: the timeout of 5m0s is longer than the 1m0s between ticks"}},
		{"as long as the interval", every(5 * time.Minute), nil},
		{"OverlapSkip", every(time.Minute, jobs.Overlap(jobs.OverlapSkip)), nil},
		{"CatchUpAll", every(time.Minute, jobs.CatchUp(jobs.CatchUpAll)), nil},
		{"the shortest distance counts", cron("0,1 9 * * *"), []string{"overlap a.job: the timeout of 5m0s is longer than the 1m0s between ticks"}},
		{"a rare pattern", cron("0 0 29 2 *"), nil},
		{"a custom schedule", func(r jobs.Registrar) error {
			return r.RegisterSchedule("a.job", jobs.AnyOf(hourly, jobs.Spread(hourly, 10*time.Minute)), nothing, jobs.Timeout(time.Hour))
		}, []string{"overlap a.job: the timeout of 1h0m0s is longer than the 2m21s between ticks"}},
		{"a schedule with one tick", func(r jobs.Registrar) error {
			return r.RegisterSchedule("a.job", once(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)), nothing)
		}, nil},

		{"retries longer than the interval", every(10*time.Second, jobs.Timeout(time.Second)), []string{"retries a.job: the last of 2 retries comes more than 10s after the tick"}},
		{"as long as the interval", every(15*time.Second, jobs.Timeout(time.Second)), nil},
		{"no retries", every(10*time.Second, jobs.Timeout(time.Second), jobs.MaxRetries(0)), nil},
		{"very many retries", every(24*time.Hour, jobs.MaxRetries(30_000)), []string{"retries a.job: the last of 30000 retries comes more than 24h0m0s after the tick"}},

		{"a tick that the clock skips", cron("30 2 * * *", jobs.TimeZone(berlin)), []string{"clock-change a.job: it ticks at 02:30, between 02:00 and 03:00, which the clock of Europe/Berlin skips on 2026-03-29"}},
		{"a tick that only the autumn repeats", cron("30 2 * 10 *", jobs.TimeZone(berlin)), []string{"clock-change a.job: it ticks at 02:30, between 02:00 and 03:00, which the clock of Europe/Berlin repeats on 2026-10-25"}},
		{"at the end of the gap", cron("0 3 * * *", jobs.TimeZone(berlin)), nil},
		{"before the gap", cron("59 1 * * *", jobs.TimeZone(berlin)), nil},
		{"on other days", cron("30 2 * * mon", jobs.TimeZone(berlin)), nil},
		{"every hour", cron("30 * * * *", jobs.TimeZone(berlin)), nil},
		{"@hourly", cron("@hourly", jobs.TimeZone(berlin)), nil},
		{"in UTC", cron("30 2 * * *"), nil},
		{"midnight, which Havana skips", cron("@daily", jobs.TimeZone(havana)), []string{"clock-change a.job: it ticks at 00:00, between 00:00 and 01:00, which the clock of America/Havana skips on 2026-03-08"}},
		{"half an hour", cron("45 1 * * *", jobs.TimeZone(lordHowe)), []string{"clock-change a.job: it ticks at 01:45, between 01:30 and 02:00, which the clock of Australia/Lord_Howe repeats on 2026-04-05"}},

		{"four jobs together", many(4, daily), nil},
		{"five jobs together", many(5, daily), []string{"crowd a.job0,a.job1,a.job2,a.job3,a.job4: 5 jobs start together, first at 2026-01-01 00:00:00"}},
		{"five jobs that are spread", many(5, func(r jobs.Registrar, name string) error {
			return r.RegisterSchedule(name, jobs.Spread(hourly, time.Hour), nothing)
		}), nil},
		{"five frequent jobs", many(5, func(r jobs.Registrar, name string) error { return r.RegisterInterval(name, 10*time.Minute, nothing) }), nil},
		{"five that meet only on the first of May", many(5, func(r jobs.Registrar, name string) error {
			return r.RegisterCron(name, fmt.Sprintf("0 0 1 %d,5 *", 6+int(name[len(name)-1]-'0')), nothing)
		}), []string{"crowd a.job0,a.job1,a.job2,a.job3,a.job4: 5 jobs start together, first at 2026-05-01 00:00:00"}},
		{"two crowds", many(11, func(r jobs.Registrar, name string) error {
			return r.RegisterCron(name, map[bool]string{true: "0 1 * * *", false: "0 2 * * *"}[name < "a.job5"], nothing)
		}), []string{
			"crowd a.job0,a.job1,a.job10,a.job2,a.job3,a.job4: 6 jobs start together, first at 2026-01-01 01:00:00",
			"crowd a.job5,a.job6,a.job7,a.job8,a.job9: 5 jobs start together, first at 2026-01-01 02:00:00",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			found, err := jobstest.FindingsAt(test.register, time.Date(2026, 1, 20, 12, 0, 0, 0, time.UTC))
			require.NoError(t, err)
			require.Len(t, found, len(test.want), "%v", found)
			for i, want := range test.want {
				require.Contains(t, found[i].String(), want)
			}
		})
	}
}

// once is a schedule with one tick.
type once time.Time

func (o once) Next(t time.Time) time.Time {
	if t.Before(time.Time(o)) {
		return time.Time(o)
	}
	return time.Time{}
}

func (once) String() string { return "once" }

func TestFindings_ReturnsTheErrorsOfRegistering(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		register func(r jobs.Registrar) error
		want     error
	}{
		{func(r jobs.Registrar) error { return r.RegisterCron("a.job", "61 * * * *", nothing) }, jobs.ErrInvalidSchedule},
		{func(r jobs.Registrar) error { return r.RegisterInterval("a.job", 0, nothing) }, jobs.ErrInvalidSchedule},
		{func(r jobs.Registrar) error { return r.RegisterInterval("a.job", time.Hour, nothing, jobs.Timeout(-1)) }, jobs.ErrInvalidOption},
		{func(r jobs.Registrar) error { return r.RegisterDelayed("a.job", 0, nothing, nil) }, nil},
		{func(r jobs.Registrar) error { return r.RegisterSchedule("a.job", nil, nothing) }, nil},
		{func(jobs.Registrar) error { return context.Canceled }, context.Canceled},
	} {
		_, err := jobstest.Findings(test.register)
		require.Error(t, err)
		if test.want != nil {
			require.ErrorIs(t, err, test.want)
		}
		require.Len(t, failing(t, func(t testing.TB) { jobstest.Lint(t, test.register) }), 1)
	}
}

func TestLint_ReportsWhatIsNotAllowed(t *testing.T) {
	t.Parallel()
	register := func(r jobs.Registrar) error {
		return errors.Join(r.RegisterInterval("a.one", 10*time.Second, nothing), r.RegisterInterval("a.two", time.Minute, nothing))
	}
	const one, two, retries = `overlap a.one: the timeout`, `overlap a.two: the timeout`, `retries a.one: the last`
	for _, test := range []struct {
		allowed []string
		want    []string
	}{
		{nil, []string{one, two, retries}},
		{[]string{"overlap a.one"}, []string{two, retries}},
		{[]string{"overlap"}, []string{retries}},
		{[]string{"overlap", "retries a.one"}, nil},
		{[]string{"overlap", "retries a.two"}, []string{retries, `"retries a.two" is allowed, but was not found; remove it`}},
		{[]string{"overlap", "retries", "crowd"}, []string{`"crowd" is allowed, but was not found; remove it`}},
		{[]string{"overlap", "retries", "overlap a.one"}, nil},
	} {
		t.Run(fmt.Sprint(test.allowed), func(t *testing.T) {
			t.Parallel()
			failures := failuresOf(t, func(t testing.TB) { jobstest.Lint(t, register, test.allowed...) })
			require.Len(t, failures, len(test.want), "%v", failures)
			for i, want := range test.want {
				require.Contains(t, failures[i], want)
			}
		})
	}
}

func TestLint_TakesEachFunctionThatRegisters(t *testing.T) {
	t.Parallel()
	require.Empty(t, failuresOf(t, func(t testing.TB) {
		jobstest.Lint(t, func(r jobs.Registrar) error { return r.RegisterInterval("a.job", time.Hour, nothing) })
		jobstest.Lint(t, func(s jobs.Scheduler) error { return s.RegisterInterval("a.job", time.Hour, nothing) })
		jobstest.Lint(t, func(s interface {
			jobs.Registrar
			jobs.Triggerer
		},
		) error {
			return s.RegisterInterval("a.job", time.Hour, nothing)
		})
	}))
	require.Contains(t, failing(t, func(t testing.TB) {
		jobstest.Lint(t, func(r *jobstest.Recorder) error { return nil })
	})[0], "register takes a *jobstest.Recorder, want an interface that a jobs.Scheduler has")
	require.Contains(t, failing(t, func(t testing.TB) {
		jobstest.Lint(t, func(s jobs.Scheduler) error { return s.Start(context.Background()) })
	})[0], "Lint only registers jobs")
}
