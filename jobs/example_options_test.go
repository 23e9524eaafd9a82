package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// Middleware wraps every attempt. In a provider's Config.Defaults it wraps those of all jobs.
func ExampleUse() {
	report := func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			err := next(ctx, job)
			fmt.Printf("%s, attempt %d: %v\n", job.Name, job.Attempt, err)
			return err
		}
	}

	registry, err := provider.NewRegistry(jobs.Use(report)) // providers pass their Config.Defaults
	if err != nil {
		fmt.Println(err)
		return
	}
	err = registry.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error {
		panic("no template")
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	runOnce(registry, "email.welcome")
	// Output:
	// email.welcome, attempt 1: panic: no template
}

// A handler that cannot do its work yet postpones its run. This is no failure, and no attempt is used up.
func ExampleSnooze() {
	registry, err := provider.NewRegistry()
	if err != nil {
		fmt.Println(err)
		return
	}
	err = registry.RegisterDelayed("report.send", 0, func(_ context.Context, job *jobs.Job) error {
		if job.Snoozes == 100 {
			return jobs.Permanent(errors.New("the data has not arrived"))
		}
		return jobs.Snooze(time.Minute, "the data has not arrived")
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(jobs.Snoozed(runOnce(registry, "report.send")))
	// Output:
	// 1m0s the data has not arrived true
}

// OnFailed is called when a job has failed for good. Providers call it after they have stored the failure.
func ExampleOnFailed() {
	registry, err := provider.NewRegistry(jobs.OnFailed(func(_ context.Context, run jobs.Run) {
		fmt.Printf("%s has failed after %d attempts: %s\n", run.Name, run.Attempt, run.Error)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	err = registry.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error {
		return errors.New("no mail server")
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	job, err := registry.Job("email.welcome")
	if err != nil {
		fmt.Println(err)
		return
	}
	job.Failed(context.Background(), slog.Default(), jobs.Run{Name: job.Name, Attempt: 3, Error: "no mail server"})
	// Output:
	// email.welcome has failed after 3 attempts: no mail server
}

// The result of a run is listed with it. In a test, Output returns what the handler has set.
func ExampleJob_SetOutput() {
	count := func(_ context.Context, job *jobs.Job) error {
		return job.SetOutput(map[string]int{"deleted": 17})
	}
	job := &jobs.Job{Name: "audit.retention", Attempt: 1, MaxAttempts: 3}
	fmt.Println(count(context.Background(), job))
	fmt.Println(string(job.Output()))
	// Output:
	// <nil>
	// {"deleted":17}
}

// The text of an error is stored with the run and logged. Redact keeps addresses out of both.
func ExampleRedact() {
	address := regexp.MustCompile(`[^ ]+@[^ ]+`)
	registry, err := provider.NewRegistry()
	if err != nil {
		fmt.Println(err)
		return
	}
	err = registry.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error {
		return errors.New("550 no mailbox for ann@example.com here")
	}, jobs.Redact(func(text string) string { return address.ReplaceAllString(text, "(address)") }))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(runOnce(registry, "email.welcome"))
	// Output:
	// 550 no mailbox for (address) here
}

// With OverlapSkip, a tick is skipped while another run is in progress. It is listed among the job's runs with the
// reason.
func ExampleOverlap() {
	registry, err := provider.NewRegistry()
	if err != nil {
		fmt.Println(err)
		return
	}
	err = registry.RegisterInterval("audit.sync", 5*time.Minute, func(context.Context, *jobs.Job) error {
		return nil // sometimes takes longer than five minutes
	}, jobs.Overlap(jobs.OverlapSkip))
	if err != nil {
		fmt.Println(err)
		return
	}

	// Providers do this before each run.
	sync, err := registry.Job("audit.sync")
	if err != nil {
		fmt.Println(err)
		return
	}
	tick := time.Date(2026, 3, 7, 12, 5, 0, 0, time.UTC)
	job := &jobs.Job{Name: "audit.sync", Tick: tick, StartedAt: tick, Attempt: 1}
	fmt.Println("another run is in progress:", sync.Skip(job, tick, true))
	fmt.Println("no other run is in progress:", sync.Skip(job, tick, false))
	// Output:
	// another run is in progress: skipped: another run of this job is in progress
	// no other run is in progress:
}

// A run copies what has changed since the last run that succeeded, however many have failed in between.
func ExampleJob_prevSuccess() {
	changes := func(_ context.Context, job *jobs.Job) error {
		fmt.Printf("from %s to %s\n", job.PrevSuccess.Format(time.TimeOnly), job.Tick.Format(time.TimeOnly))
		return nil
	}
	registry, err := provider.NewRegistry()
	if err != nil {
		fmt.Println(err)
		return
	}
	err = registry.RegisterInterval("audit.export", time.Hour, changes)
	if err != nil {
		fmt.Println(err)
		return
	}
	export, err := registry.Job("audit.export")
	if err != nil {
		fmt.Println(err)
		return
	}

	// The provider remembers that the run of 9:00 has succeeded. Those of 10:00 and 11:00 have failed.
	nine := time.Date(2026, 3, 7, 9, 0, 0, 0, time.UTC)
	noon := nine.Add(3 * time.Hour)
	job := &jobs.Job{Name: "audit.export", Tick: noon, PrevSuccess: provider.PrevSuccess(nine, noon), Attempt: 1, MaxAttempts: 3}
	if err := export.Run(context.Background(), job, slog.Default()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// from 09:00:00 to 12:00:00
}

// Schedules can be combined. The text says what each part does.
func ExampleOnly() {
	nine, err := jobs.ParseCron("0 9 * * *", time.UTC)
	if err != nil {
		fmt.Println(err)
		return
	}
	weekdays := jobs.Only(nine, "on weekdays", func(t time.Time) bool {
		return t.Weekday() != time.Saturday && t.Weekday() != time.Sunday
	})
	friday := time.Date(2026, 3, 6, 0, 0, 0, 0, time.UTC)
	for tick := friday; tick.Before(friday.AddDate(0, 0, 4)); {
		tick = weekdays.Next(tick)
		fmt.Println(tick.Format("Mon 15:04"))
	}
	fmt.Println(weekdays)
	// Output:
	// Fri 09:00
	// Mon 09:00
	// Tue 09:00
	// 0 9 * * * UTC on weekdays
}

// Each job gets its own time within the ten minutes, always the same.
func ExampleSpread() {
	hourly, err := jobs.ParseCron("0 * * * *", time.UTC)
	if err != nil {
		fmt.Println(err)
		return
	}
	registry, err := provider.NewRegistry() // a Scheduler is a Registrar too
	if err != nil {
		fmt.Println(err)
		return
	}
	noon := time.Date(2026, 3, 7, 12, 0, 0, 0, time.UTC)
	for _, name := range []string{"audit.sync", "users.sync"} {
		err := registry.RegisterSchedule(name, jobs.Spread(hourly, 10*time.Minute), func(context.Context, *jobs.Job) error { return nil })
		if err != nil {
			fmt.Println(err)
			return
		}
		job, err := registry.Job(name)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(name, job.Schedule.Next(noon).Format(time.TimeOnly))
	}
	// Output:
	// audit.sync 12:07:03
	// users.sync 12:04:23
}

// A tick that several schedules have is one tick.
func ExampleAnyOf() {
	working, err := jobs.ParseCron("0 8-18 * * mon-fri", time.UTC)
	if err != nil {
		fmt.Println(err)
		return
	}
	daily, err := jobs.ParseCron("0 18 * * *", time.UTC)
	if err != nil {
		fmt.Println(err)
		return
	}
	both := jobs.AnyOf(working, daily)
	for tick := time.Date(2026, 3, 6, 16, 30, 0, 0, time.UTC); tick.Day() < 9; {
		tick = both.Next(tick)
		fmt.Println(tick.Format("Mon 15:04"))
	}
	// Output:
	// Fri 17:00
	// Fri 18:00
	// Sat 18:00
	// Sun 18:00
	// Mon 08:00
}

// runOnce runs one attempt, as a provider does.
func runOnce(registry *provider.Registry, name string) error {
	definition, err := registry.Job(name)
	if err != nil {
		return err
	}
	return definition.Run(context.Background(), &jobs.Job{Name: name, Data: []byte(`{}`), Attempt: 1, MaxAttempts: 3}, slog.Default())
}
