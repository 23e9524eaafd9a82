package provider_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var onDemand = &provider.Definition{Name: "a.b"}

type text struct {
	Text string `json:"text"`
}

func zone(t require.TestingT, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	require.NoError(t, err)
	return loc
}

func nothing(context.Context, *jobs.Job) error { return nil }

func newRegistry(t require.TestingT, defaults ...jobs.Option) *provider.Registry {
	r, err := provider.NewRegistry(defaults...)
	require.NoError(t, err)
	return r
}

// here returns the file:line that is the given number of lines after the call.
func here(after int) string {
	_, file, line, _ := runtime.Caller(1)
	return fmt.Sprintf("%s:%d", file, line+after)
}

func TestRegistry_AppliesDefaults(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	require.NoError(t, r.RegisterDelayed("a.b", 2*time.Second, nothing))
	d, err := r.Job("a.b")
	require.NoError(t, err)
	require.Equal(t, "a.b", d.Name)
	require.Nil(t, d.Schedule)
	require.Equal(t, 2*time.Second, d.Delay)
	require.Equal(t, 3, d.MaxAttempts)
	require.Equal(t, 5*time.Second, d.RetryDelay)
	require.Equal(t, 5*time.Minute, d.Timeout)
	require.Equal(t, 1, d.Priority)
	require.Zero(t, d.Concurrency)
	require.Equal(t, jobs.CatchUpOnce, d.CatchUp)
	require.Equal(t, jobs.OverlapAllow, d.Overlap)
	require.Zero(t, d.StartWithin)
	require.Equal(t, "{}", string(d.Data))
	require.NotNil(t, d.Handler)
}

func TestRegistry_AppliesItsDefaultsBeforeAJobsOwnOptions(t *testing.T) {
	t.Parallel()
	defaults := []jobs.Option{jobs.MaxRetries(7), jobs.Timeout(time.Hour), jobs.Priority(3)}
	r := newRegistry(t, defaults...)
	defaults[0], defaults[1] = nil, jobs.Timeout(1) // the registry must not keep the caller's slice
	require.NoError(t, r.RegisterInterval("a.b", time.Minute, nothing, jobs.Timeout(time.Second), jobs.Timeout(2*time.Second)))
	d, err := r.Job("a.b")
	require.NoError(t, err)
	require.Equal(t, 8, d.MaxAttempts)
	require.Equal(t, 2*time.Second, d.Timeout, "the last one applies")
	require.Equal(t, 3, d.Priority)

	undefined, err := r.Undefined("c.d")
	require.NoError(t, err)
	require.Equal(t, "c.d", undefined.Name)
	require.Equal(t, 8, undefined.MaxAttempts)
	require.Equal(t, time.Hour, undefined.Timeout)
	require.NotNil(t, undefined.Handler)
	_, err = r.Job("c.d")
	require.ErrorIs(t, err, jobs.ErrUnknownJob, "Undefined does not register the job")
	_, err = r.Undefined("C")
	require.ErrorIs(t, err, jobs.ErrInvalidName)
}

func TestRegistry_AppliesOptions(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	r := newRegistry(t)
	require.NoError(t, r.RegisterCron("a.b", "0 3 * * *", nothing, jobs.MaxRetries(0), jobs.RetryDelay(0), jobs.Timeout(1), jobs.Priority(4),
		jobs.Concurrency(2), jobs.TimeZone(berlin), jobs.CatchUp(jobs.CatchUpAll), jobs.Overlap(jobs.OverlapSkip), jobs.StartWithin(time.Minute), jobs.Data(map[string]int{"n": 1})))
	d, err := r.Job("a.b")
	require.NoError(t, err)
	require.Equal(t, 1, d.MaxAttempts)
	require.Zero(t, d.RetryDelay)
	require.Equal(t, time.Duration(1), d.Timeout)
	require.Equal(t, 4, d.Priority)
	require.Equal(t, 2, d.Concurrency)
	require.Equal(t, jobs.CatchUpAll, d.CatchUp)
	require.Equal(t, jobs.OverlapSkip, d.Overlap)
	require.Equal(t, time.Minute, d.StartWithin)
	require.JSONEq(t, `{"n": 1}`, string(d.Data))
	schedule, zone := d.Describe()
	require.Equal(t, "0 3 * * *", schedule)
	require.Equal(t, "Europe/Berlin", zone)
	require.Equal(t, at(t, "2025-01-01T02:00:00Z"), d.Schedule.Next(at(t, "2025-01-01T00:00:00Z")))
}

func TestRegistry_AcceptsOptionsUpToTheirLimits(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for i, opt := range []jobs.Option{
		jobs.MaxRetries(0), jobs.MaxRetries(30_000), jobs.RetryDelay(0), jobs.RetryDelay(24 * time.Hour), jobs.Timeout(1), jobs.Timeout(math.MaxInt64),
		jobs.Priority(1), jobs.Priority(4), jobs.Concurrency(1), jobs.Concurrency(10_000), jobs.TimeZone(time.FixedZone("", 3600)),
		jobs.CatchUp(jobs.CatchUpOnce), jobs.Overlap(jobs.OverlapAllow), jobs.StartWithin(1),
	} {
		require.NoError(t, r.RegisterCron(fmt.Sprintf("a.b%d", i), "@daily", nothing, opt))
	}
}

func TestRegistry_RefusesOptionsOutOfRange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		opt  jobs.Option
		want string
	}{
		{jobs.MaxRetries(-1), "MaxRetries(-1): must be 0 to 30000"},
		{jobs.MaxRetries(30_001), "MaxRetries(30001): must be 0 to 30000"},
		{jobs.MaxRetries(math.MaxInt), "MaxRetries(9223372036854775807): must be 0 to 30000"},
		{jobs.RetryDelay(-1), "RetryDelay(-1ns): must be 0 to 24h0m0s"},
		{jobs.RetryDelay(24*time.Hour + 1), "RetryDelay(24h0m0.000000001s): must be 0 to 24h0m0s"},
		{jobs.Timeout(0), "Timeout(0s): must be positive"},
		{jobs.Timeout(-1), "Timeout(-1ns): must be positive"},
		{jobs.Priority(0), "Priority(0): must be 1 (first) to 4"},
		{jobs.Priority(5), "Priority(5): must be 1 (first) to 4"},
		{jobs.Concurrency(0), "Concurrency(0): must be 1 to 10000"},
		{jobs.Concurrency(10_001), "Concurrency(10001): must be 1 to 10000"},
		{jobs.TimeZone(nil), "TimeZone(nil): want a *time.Location"},
		{jobs.TimeZone(time.Local), `TimeZone(time.Local): processes may differ in it; use a named zone, such as time.LoadLocation("Europe/Berlin")`}, //nolint:gosmopolitan // is refused
		{jobs.CatchUp(-1), "CatchUp(-1): must be CatchUpOnce or CatchUpAll"},
		{jobs.CatchUp(2), "CatchUp(2): must be CatchUpOnce or CatchUpAll"},
		{jobs.Overlap(-1), "Overlap(-1): must be OverlapAllow or OverlapSkip"},
		{jobs.Overlap(2), "Overlap(2): must be OverlapAllow or OverlapSkip"},
		{jobs.StartWithin(0), "StartWithin(0s): must be positive"},
		{jobs.StartWithin(-1), "StartWithin(-1ns): must be positive"},
		{nil, "option is nil"},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			for _, err := range []error{
				r.RegisterCron("a.b", "@daily", nothing, test.opt),
				r.RegisterInterval("a.b", time.Minute, nothing, test.opt),
				r.RegisterDelayed("a.b", 0, nothing, jobs.MaxRetries(1), test.opt),
			} {
				require.ErrorIs(t, err, jobs.ErrInvalidOption)
				require.ErrorContains(t, err, test.want)
				require.ErrorContains(t, err, `job "a.b" at `)
			}
			require.Empty(t, r.Jobs(), "nothing is registered")

			none, err := provider.NewRegistry(test.opt)
			require.ErrorIs(t, err, jobs.ErrInvalidOption)
			require.ErrorContains(t, err, "defaults: ")
			require.ErrorContains(t, err, test.want)
			require.Nil(t, none)
		})
	}
}

func TestRegistry_RefusesANilHandler(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for _, err := range []error{
		r.RegisterCron("a.b", "@daily", nil), r.RegisterInterval("a.b", time.Minute, nil), r.RegisterDelayed("a.b", 0, nil),
	} {
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, "handler is nil")
	}
	require.Empty(t, r.Jobs())
}

func TestRegistry_RefusesInvalidSchedules(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule     string
		register func(*provider.Registry) error
		want     string
	}{
		{"a bad pattern", func(r *provider.Registry) error { return r.RegisterCron("a.b", "*/100 * * * *", nothing) }, "field minute"},
		{"a short interval", func(r *provider.Registry) error { return r.RegisterInterval("a.b", time.Second-1, nothing) }, "must be at least 1s"},
		{"a negative interval", func(r *provider.Registry) error { return r.RegisterInterval("a.b", -time.Minute, nothing) }, "interval -1m0s"},
		{"an interval finer than a millisecond", func(r *provider.Registry) error {
			return r.RegisterInterval("a.b", time.Second+time.Microsecond, nothing)
		}, "interval 1.000001s: must be whole milliseconds"},
		{"a negative delay", func(r *provider.Registry) error { return r.RegisterDelayed("a.b", -1, nothing) }, "delay -1ns: must not be negative"},
		{"a delay finer than a millisecond", func(r *provider.Registry) error {
			return r.RegisterDelayed("a.b", time.Second+999*time.Microsecond, nothing)
		}, "delay 1.000999s: must be whole milliseconds"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			site := here(1)
			err := test.register(r)
			require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, `job "a.b" at `)
			require.ErrorContains(t, err, strings.Split(site, ":")[0])
			require.Empty(t, r.Jobs())
		})
	}
}

func TestRegistry_DefaultTimeZoneAppliesOnlyToCronPatterns(t *testing.T) {
	t.Parallel()
	r, err := provider.NewRegistry(jobs.TimeZone(zone(t, "Europe/Berlin")))
	require.NoError(t, err)
	require.NoError(t, r.RegisterInterval("a.interval", time.Minute, nothing))
	require.NoError(t, r.RegisterDelayed("a.delayed", 0, nothing))
	require.NoError(t, r.RegisterCron("a.cron", "0 3 * * *", nothing))
	d, err := r.Job("a.cron")
	require.NoError(t, err)
	_, zone := d.Describe()
	require.Equal(t, "Europe/Berlin", zone)
}

func TestRegistry_ZonesWithTheSameNameShowTheSameTime(t *testing.T) {
	t.Parallel()
	for want, zone := range map[string]*time.Location{
		"UTC":                     time.UTC,
		"Europe/Berlin":           zone(t, "Europe/Berlin"),
		"UTC+02:00":               time.FixedZone("", 2*60*60),
		"office UTC-03:30":        time.FixedZone("office", -(3*60+30)*60),
		"Europe/Berlin UTC+01:00": time.FixedZone("Europe/Berlin", 60*60),
	} {
		r, err := provider.NewRegistry()
		require.NoError(t, err)
		require.NoError(t, r.RegisterCron("a.job", "0 3 * * *", nothing, jobs.TimeZone(zone)))
		_, got := r.Jobs()[0].Describe()
		require.Equal(t, want, got)
	}
}

func TestRegistry_RefusesTimeZoneWithoutACronPattern(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	zone := jobs.TimeZone(time.UTC)
	for _, err := range []error{r.RegisterInterval("a.b", time.Minute, nothing, zone), r.RegisterDelayed("a.b", 0, nothing, zone)} {
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, "TimeZone applies only to cron patterns")
	}
	err := r.RegisterInterval("a.b", 0, nothing, zone)
	require.ErrorIs(t, err, jobs.ErrInvalidOption, "both errors are reported")
	require.ErrorIs(t, err, jobs.ErrInvalidSchedule, "both errors are reported")
	require.NoError(t, r.RegisterCron("a.b", "@daily", nothing, zone))
}

func TestRegistry_RefusesCatchUpAndOverlapWithoutASchedule(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, jobs.CatchUp(jobs.CatchUpAll), jobs.Overlap(jobs.OverlapSkip))
	for name, opt := range map[string]jobs.Option{
		"CatchUp": jobs.CatchUp(jobs.CatchUpAll), "Overlap": jobs.Overlap(jobs.OverlapSkip),
	} {
		err := r.RegisterDelayed("a.b", 0, nothing, opt)
		require.ErrorIs(t, err, jobs.ErrInvalidOption)
		require.ErrorContains(t, err, name+" applies only to ticks")
		err = r.RegisterInterval("a.b", 0, nothing, opt)
		require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
		require.NotErrorIs(t, err, jobs.ErrInvalidOption)
	}
	require.NoError(t, r.RegisterDelayed("a.b", 0, nothing), "as defaults they apply only to schedules")
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	long := "a." + strings.Repeat("b", 98)
	for _, name := range []string{"audit.retention", "a.b", "a1.b", "a-b_c.d-e_f", "a.b.c.d", "a.1", "a._", "a.-", "z9.0", long} {
		require.NoError(t, provider.CheckName(name))
		require.NoError(t, newRegistry(t).RegisterDelayed(name, 0, nothing))
	}
	for _, name := range []string{
		"", ".", "a", "audit", "a.", ".a", "a..b", "a.b.", "1a.b", "_a.b", "-a.b", "A.b", "a.B", "a b.c", "a.b c", " a.b", "a.b ", "a.b\n", "\na.b",
		"a.b\x00", "a/b.c", "a.b:c", "a,b.c", "ä.b", "a.ö", "a.b\xff", "a.٣", "a。b", long + "b", strings.Repeat("é.", 60), strings.Repeat("a.", 1<<20) + "a",
	} {
		err := provider.CheckName(name)
		require.ErrorIs(t, err, jobs.ErrInvalidName, "%.50q", name)
		require.Less(t, len(err.Error()), 600)
		if len(name) > 100 {
			require.ErrorContains(t, err, fmt.Sprintf("has %d bytes, at most 100 are allowed", len(name)))
		} else {
			require.ErrorContains(t, err, fmt.Sprintf("%q", name))
			require.ErrorContains(t, err, "two or more parts of a-z, 0-9, _ and - joined by dots")
		}
		r := newRegistry(t)
		site := here(0)
		err = r.RegisterCron(name, "@daily", nothing)
		require.ErrorIs(t, err, jobs.ErrInvalidName)
		require.ErrorContains(t, err, strings.Split(site, ":")[0]+":", "where it was registered")
		require.ErrorIs(t, r.RegisterInterval(name, time.Minute, nothing), jobs.ErrInvalidName)
		require.ErrorIs(t, r.RegisterDelayed(name, 0, nothing), jobs.ErrInvalidName)
		require.ErrorIs(t, jobs.Kind[text](name).Register(r, func(context.Context, *jobs.Job, text) error { return nil }), jobs.ErrInvalidName)
	}
}

// forwarding forwards registrations, as providers do.
type forwarding struct{ registry *provider.Registry }

func (p *forwarding) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	return p.registry.RegisterCron(name, pattern, h, opts...)
}

func (p *forwarding) RegisterInterval(name string, every time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return p.registry.RegisterInterval(name, every, h, opts...)
}

func (p *forwarding) RegisterSchedule(name string, s jobs.Schedule, h jobs.Handler, opts ...jobs.Option) error {
	return p.registry.RegisterSchedule(name, s, h, opts...)
}

func (p *forwarding) RegisterDelayed(name string, delay time.Duration, h jobs.Handler, opts ...jobs.Option) error {
	return p.registry.RegisterDelayed(name, delay, h, opts...)
}

// closing forwards in a closure.
type closing struct{ forwarding }

func (c *closing) RegisterCron(name, pattern string, h jobs.Handler, opts ...jobs.Option) error {
	return func() error { return c.forwarding.RegisterCron(name, pattern, h, opts...) }()
}

// Applications may embed a registry or an interface.
type embedding struct{ *provider.Registry }

type embeddingInterface struct{ jobs.Registrar }

func TestRegistry_RefusesADuplicateAndNamesBothCallSites(t *testing.T) {
	t.Parallel()
	const kind jobs.Kind[text] = "a.b"
	handle := func(context.Context, *jobs.Job, text) error { return nil }
	for _, test := range []struct {
		rule     string
		register func(r *provider.Registry) (site string, err error)
	}{
		{"cron", func(r *provider.Registry) (string, error) {
			return here(0), r.RegisterCron("a.b", "@daily", nothing)
		}},
		{"interval", func(r *provider.Registry) (string, error) {
			return here(0), r.RegisterInterval("a.b", time.Minute, nothing)
		}},
		{"schedule", func(r *provider.Registry) (string, error) {
			return here(0), r.RegisterSchedule("a.b", every(t, time.Hour), nothing)
		}},
		{"through a provider with a schedule", func(r *provider.Registry) (string, error) {
			return here(0), (&forwarding{r}).RegisterSchedule("a.b", every(t, time.Hour), nothing)
		}},
		{"delayed", func(r *provider.Registry) (string, error) {
			return here(0), r.RegisterDelayed("a.b", 0, nothing)
		}},
		{"through a Kind", func(r *provider.Registry) (string, error) {
			return here(0), kind.Register(r, handle)
		}},
		{"through the method value of a Kind", func(r *provider.Registry) (string, error) {
			register := kind.Register
			return here(0), register(r, handle)
		}},
		{"through a provider", func(r *provider.Registry) (string, error) {
			return here(0), (&forwarding{r}).RegisterCron("a.b", "@daily", nothing)
		}},
		{"through a provider that forwards in a closure", func(r *provider.Registry) (string, error) {
			return here(0), (&closing{forwarding{r}}).RegisterCron("a.b", "@daily", nothing)
		}},
		{"through a Kind and a provider", func(r *provider.Registry) (string, error) {
			return here(0), kind.Register(&forwarding{r}, handle)
		}},
		{"through an embedding type", func(r *provider.Registry) (string, error) {
			return here(0), embedding{r}.RegisterInterval("a.b", time.Minute, nothing)
		}},
		{"through a pointer to an embedding type in an interface", func(r *provider.Registry) (string, error) {
			var registrar jobs.Registrar = &embedding{r}
			return here(0), registrar.RegisterCron("a.b", "@daily", nothing)
		}},
		{"through embedded interfaces", func(r *provider.Registry) (string, error) {
			var registrar jobs.Registrar = &embeddingInterface{embeddingInterface{&forwarding{r}}}
			return here(0), registrar.RegisterDelayed("a.b", 0, nothing)
		}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			first, err := test.register(r)
			require.NoError(t, err)
			second := here(1)
			err = r.RegisterDelayed("a.b", 0, nothing)
			require.ErrorIs(t, err, jobs.ErrDuplicate)
			require.EqualError(t, err, fmt.Sprintf(`jobs: name is already registered: "a.b", at %s and at %s`, first, second))

			r = newRegistry(t)
			first = here(1)
			require.NoError(t, r.RegisterDelayed("a.b", 0, nothing))
			second, err = test.register(r)
			require.EqualError(t, err, fmt.Sprintf(`jobs: name is already registered: "a.b", at %s and at %s`, first, second))
		})
	}
}

func TestRegistry_KeepsTheFirstOfDuplicates(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	require.NoError(t, r.RegisterDelayed("a.b", time.Second, nothing))
	require.ErrorIs(t, r.RegisterDelayed("a.b", time.Hour, nothing), jobs.ErrDuplicate)
	d, err := r.Job("a.b")
	require.NoError(t, err)
	require.Equal(t, time.Second, d.Delay)
	require.Len(t, r.Jobs(), 1)
}

func TestRegistry_RefusesRegistrationsWhileFrozen(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.Thaw() // does nothing
	require.NoError(t, r.RegisterDelayed("a.b", 0, nothing))
	require.NoError(t, r.Freeze())
	require.Equal(t, jobs.ErrStarted, r.Freeze())

	site := here(1)
	err := r.RegisterDelayed("c.d", 0, nothing)
	require.ErrorIs(t, err, jobs.ErrStarted)
	require.ErrorContains(t, err, `"c.d" cannot be registered at `+site)
	require.ErrorIs(t, r.RegisterCron("c.d", "@daily", nothing), jobs.ErrStarted)
	require.ErrorIs(t, r.RegisterInterval("c.d", time.Minute, nothing), jobs.ErrStarted)
	require.Len(t, r.Jobs(), 1, "registered jobs can be read")

	r.Thaw()
	require.NoError(t, r.RegisterDelayed("c.d", 0, nothing))
	require.NoError(t, r.Freeze())
	require.Len(t, r.Jobs(), 2)
}

func TestRegistry_JobsReturnsASortedCopy(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	require.Empty(t, r.Jobs())
	require.NotNil(t, r.Jobs())
	want := []string{"a-b.c", "a.b", "a.b.c", "a.c", "a0.b", "b.a"}
	for _, name := range []string{"b.a", "a.b.c", "a.c", "a0.b", "a.b", "a-b.c"} {
		require.NoError(t, r.RegisterDelayed(name, 0, nothing))
	}
	for range 2 {
		all := r.Jobs()
		var names []string
		for _, d := range all {
			names = append(names, d.Name)
		}
		require.Equal(t, want, names)
		clear(all)
	}
}

func TestRegistry_JobNamesSiblingsOfAnUnknownJob(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	require.NoError(t, r.RegisterDelayed("a.b", 0, nothing))
	for _, name := range []string{"", "c.d", "A.B", "a.b ", "a"} {
		d, err := r.Job(name)
		require.ErrorIs(t, err, jobs.ErrUnknownJob)
		require.ErrorContains(t, err, fmt.Sprintf("%q, 1 are registered", name))
		require.Nil(t, d)
	}
	for i := range 11 {
		require.NoError(t, r.RegisterDelayed(fmt.Sprintf("c.job%02d", i), 0, nothing))
	}
	_, err := r.Job("a.c")
	require.ErrorContains(t, err, `"a.c", 12 are registered, including a.b`, "jobs of its module are named")
	_, err = r.Job("c.job")
	require.ErrorContains(t, err, "c.job08, c.job09, …", "ten at most")
	_, err = r.Job("b.b")
	require.NotContains(t, err.Error(), "including")
}

func TestRegistry_IsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, jobs.MaxRetries(1))
	const goroutines, names = 8, 50
	var registered, duplicates, frozen atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range names {
				for {
					err := r.RegisterInterval(fmt.Sprintf("a.b%d", i), time.Minute, nothing)
					if errors.Is(err, jobs.ErrStarted) {
						frozen.Add(1)
						runtime.Gosched()
						continue
					}
					if err == nil {
						registered.Add(1)
					} else if errors.Is(err, jobs.ErrDuplicate) {
						duplicates.Add(1)
					}
					break
				}
				if d, err := r.Job(fmt.Sprintf("a.b%d", i)); err == nil {
					_, _ = d.Request(nil)
				}
			}
		})
		wg.Go(func() {
			for range names {
				if r.Freeze() == nil {
					r.Thaw()
				}
				all := r.Jobs()
				if !slices.IsSortedFunc(all, func(a, b *provider.Definition) int { return strings.Compare(a.Name, b.Name) }) {
					t.Error("not sorted")
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, names, registered.Load(), "each name once")
	require.EqualValues(t, (goroutines-1)*names, duplicates.Load())
	require.Len(t, r.Jobs(), names)
}

func TestDefinition_RequestAppliesTriggerOptions(t *testing.T) {
	t.Parallel()
	now := at(t, "2025-01-01T12:00:00Z")
	d := &provider.Definition{Name: "a.b", Delay: time.Minute, Priority: 2}
	zone := time.FixedZone("", 3600)
	for _, test := range []struct {
		rule string
		opts []jobs.TriggerOption
		want jobs.Request
		due  string
	}{
		{"no options", nil, jobs.Request{Delay: time.Minute, Priority: 2}, "2025-01-01T12:01:00Z"},
		{"Delay replaces the job's", []jobs.TriggerOption{jobs.Delay(time.Hour)}, jobs.Request{Delay: time.Hour, Priority: 2}, "2025-01-01T13:00:00Z"},
		{"Delay of 0", []jobs.TriggerOption{jobs.Delay(0)}, jobs.Request{Priority: 2}, "2025-01-01T12:00:00Z"},
		{"At replaces the delay, in UTC", []jobs.TriggerOption{jobs.At(now.Add(time.Hour).In(zone))}, jobs.Request{At: now.Add(time.Hour), Priority: 2}, "2025-01-01T13:00:00Z"},
		{"At a past time is now", []jobs.TriggerOption{jobs.At(now.Add(-time.Hour))}, jobs.Request{At: now.Add(-time.Hour), Priority: 2}, "2025-01-01T12:00:00Z"},
		{"At then Delay", []jobs.TriggerOption{jobs.At(now), jobs.Delay(time.Hour)}, jobs.Request{Delay: time.Hour, Priority: 2}, "2025-01-01T13:00:00Z"},
		{"Delay then At", []jobs.TriggerOption{jobs.Delay(time.Minute), jobs.At(now.Add(time.Hour))}, jobs.Request{At: now.Add(time.Hour), Priority: 2}, "2025-01-01T13:00:00Z"},
		{"the last possible time", []jobs.TriggerOption{jobs.At(at(t, "9999-12-31T23:59:59Z"))}, jobs.Request{At: at(t, "9999-12-31T23:59:59Z"), Priority: 2}, "9999-12-31T23:59:59Z"},
		{"Priority replaces the job's", []jobs.TriggerOption{jobs.Priority(4)}, jobs.Request{Delay: time.Minute, Priority: 4}, "2025-01-01T12:01:00Z"},
		{"Unique", []jobs.TriggerOption{jobs.Unique("k")}, jobs.Request{Delay: time.Minute, Priority: 2, Unique: "k"}, "2025-01-01T12:01:00Z"},
		{"the longest key", []jobs.TriggerOption{jobs.Unique(strings.Repeat("k", 1000))}, jobs.Request{Delay: time.Minute, Priority: 2, Unique: strings.Repeat("k", 1000)}, "2025-01-01T12:01:00Z"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			req, err := d.Request(nil, test.opts...)
			require.NoError(t, err)
			test.want.Name, test.want.Data = "a.b", []byte(`{}`)
			require.Equal(t, &test.want, req)
			require.Equal(t, at(t, test.due), provider.Due(req, now))
		})
	}
}

func TestDefinition_RequestRefusesInvalidTriggerOptions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule string
		opt  jobs.TriggerOption
		is   error
		want string
	}{
		{"a negative delay", jobs.Delay(-1), jobs.ErrInvalidSchedule, "Delay(-1ns): must not be negative"},
		{"a delay finer than a millisecond", jobs.Delay(time.Millisecond + 1), jobs.ErrInvalidSchedule, "Delay(1.000001ms): must be whole milliseconds"},
		{"the zero time", jobs.At(time.Time{}), jobs.ErrInvalidSchedule, "want a time in the years 1 to 9999"},
		{"a year too early", jobs.At(time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC)), jobs.ErrInvalidSchedule, "years 1 to 9999"},
		{"a year too late", jobs.At(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)), jobs.ErrInvalidSchedule, "years 1 to 9999"},
		{"a year too early in UTC", jobs.At(time.Date(1, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600))), jobs.ErrInvalidSchedule, "years 1 to 9999"},
		{"a year too late in UTC", jobs.At(time.Date(9999, 12, 31, 23, 30, 0, 0, time.FixedZone("", -3600))), jobs.ErrInvalidSchedule, "years 1 to 9999"},
		{"a priority too low", jobs.Priority(0), jobs.ErrInvalidOption, "Priority(0): must be 1 (first) to 4"},
		{"a priority too high", jobs.Priority(5), jobs.ErrInvalidOption, "Priority(5): must be 1 (first) to 4"},
		{"an empty idempotency key", jobs.IdempotencyKey(""), jobs.ErrInvalidOption, "IdempotencyKey: key of 0 bytes, must be 1 to 1,000"},
		{"an empty key", jobs.Unique(""), jobs.ErrInvalidOption, "Unique: key of 0 bytes, must be 1 to 1,000"},
		{"a key too long", jobs.Unique(strings.Repeat("k", 1001)), jobs.ErrInvalidOption, "Unique: key of 1001 bytes, must be 1 to 1,000"},
		{"nil", nil, jobs.ErrInvalidOption, "option is nil"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			_, err := onDemand.Request(nil, test.opt)
			require.ErrorIs(t, err, test.is)
			require.ErrorContains(t, err, `job "a.b": `)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestDefinition_RequestsReturnsOnePerElement(t *testing.T) {
	t.Parallel()
	reqs, err := onDemand.Requests([]any{nil, text{"x"}, json.RawMessage(`{"a":1}`)}, jobs.Priority(3), jobs.Delay(time.Second))
	require.NoError(t, err)
	require.Len(t, reqs, 3)
	for i, want := range []string{`{}`, `{"text":"x"}`, `{"a":1}`} {
		require.Equal(t, want, string(reqs[i].Data))
		require.Equal(t, 3, reqs[i].Priority)
		require.Equal(t, time.Second, reqs[i].Delay)
		require.Equal(t, "a.b", reqs[i].Name)
	}
	reqs, err = onDemand.Requests(nil)
	require.NoError(t, err)
	require.Empty(t, reqs)
}

func TestDefinition_RequestsRefusesAllIfOneIsInvalid(t *testing.T) {
	t.Parallel()
	reqs, err := onDemand.Requests([]any{nil, 7, nil})
	require.ErrorIs(t, err, jobs.ErrInvalidData)
	require.ErrorContains(t, err, "element 2 of 3: ")
	require.Nil(t, reqs)

	reqs, err = onDemand.Requests([]any{nil, nil}, jobs.Unique("k"))
	require.ErrorIs(t, err, jobs.ErrInvalidOption)
	require.ErrorContains(t, err, `job "a.b": `)
	require.ErrorContains(t, err, "Unique does not apply to TriggerMany")
	_, err = onDemand.Requests([]any{nil, nil}, jobs.IdempotencyKey("k"))
	require.ErrorIs(t, err, jobs.ErrInvalidOption)
	require.ErrorContains(t, err, "IdempotencyKey does not apply to TriggerMany")
	require.Nil(t, reqs)
}
