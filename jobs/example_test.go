package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

type WelcomeArgs struct {
	User int `json:"user"`
}

// Welcome combines the name of the job and the type of its data.
const Welcome jobs.Kind[WelcomeArgs] = "email.welcome"

type RetentionArgs struct {
	Days int `json:"days"`
}

// Retention runs every night. By hand it can be triggered with other data.
const Retention jobs.Kind[RetentionArgs] = "audit.retention"

func ExampleKind_RegisterCron() {
	registry, err := provider.NewRegistry() // a Scheduler is a Registrar too
	if err != nil {
		fmt.Println(err)
		return
	}
	err = Retention.RegisterCron(registry, "0 3 * * *", RetentionArgs{Days: 90}, func(_ context.Context, job *jobs.Job, args RetentionArgs) error {
		fmt.Println("deleting what is older than", args.Days, "days")
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	// A scheduler then gives each tick this data.
	retention, err := registry.Job("audit.retention")
	if err != nil {
		fmt.Println(err)
		return
	}
	job := &jobs.Job{Name: "audit.retention", Data: retention.Data, Attempt: 1, Tick: time.Now()}
	fmt.Println(retention.Run(context.Background(), job, slog.Default()))
	// Output:
	// deleting what is older than 90 days
	// <nil>
}

// printer stands in for the application's scheduler.
type printer struct{ jobs.Triggerer }

func (printer) Trigger(_ context.Context, name string, data any, _ ...jobs.TriggerOption) (string, error) {
	fmt.Printf("triggered %s %+v\n", name, data)
	return "1", nil
}

func ExampleKind() {
	registry, err := provider.NewRegistry() // a Scheduler is a Registrar too
	if err != nil {
		fmt.Println(err)
		return
	}
	err = Welcome.Register(registry, func(_ context.Context, _ *jobs.Job, args WelcomeArgs) error {
		fmt.Println("welcome, user", args.User)
		return nil
	}, jobs.Timeout(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}

	id, err := Welcome.Trigger(context.Background(), printer{}, WelcomeArgs{User: 7})
	fmt.Println(id, err)

	// A scheduler then runs it.
	welcome, err := registry.Job("email.welcome")
	if err != nil {
		fmt.Println(err)
		return
	}
	job := &jobs.Job{Name: "email.welcome", Data: []byte(`{"user":7}`), Attempt: 1}
	fmt.Println(welcome.Run(context.Background(), job, slog.Default()))
	// Output:
	// triggered email.welcome {User:7}
	// 1 <nil>
	// welcome, user 7
	// <nil>
}

// A job at 02:30 runs at 03:00 on the day on which the clock goes from 02:00 to 03:00.
func ExampleParseCron() {
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		fmt.Println(err)
		return
	}
	schedule, err := jobs.ParseCron("30 2 * * *", newYork)
	if err != nil {
		fmt.Println(err)
		return
	}
	tick := time.Date(2026, 3, 7, 0, 0, 0, 0, newYork)
	for range 3 {
		tick = schedule.Next(tick)
		fmt.Println(tick.In(newYork))
	}
	// Output:
	// 2026-03-07 02:30:00 -0500 EST
	// 2026-03-08 03:00:00 -0400 EDT
	// 2026-03-09 02:30:00 -0400 EDT
}

func ExampleParseCron_invalid() {
	_, err := jobs.ParseCron("*/100 * * * *", nil)
	fmt.Println(err)
	fmt.Println(errors.Is(err, jobs.ErrInvalidSchedule))
	// Output:
	// jobs: invalid schedule: cron pattern "*/100 * * * *": field minute: step "100", want 1 to 59
	// true
}

func ExamplePermanent() {
	errNoSuchUser := errors.New("no such user")
	handler := func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 {
			return errors.New("connection refused") // retried
		}
		return jobs.Permanent(fmt.Errorf("user 7: %w", errNoSuchUser))
	}

	welcome := provider.Definition{Handler: handler, Timeout: time.Minute, RetryDelay: 5 * time.Second}
	for attempt := 1; attempt <= 2; attempt++ {
		job := &jobs.Job{Attempt: attempt, MaxAttempts: 3}
		err := welcome.Run(context.Background(), job, slog.Default())
		_, again := welcome.Retry(job, err)
		fmt.Println(err, "- again:", again)
	}
	// Output:
	// connection refused - again: true
	// user 7: no such user - again: false
}

func ExampleRetryAfter() {
	err := jobs.RetryAfter(time.Minute, errors.New("the server is busy"))
	fmt.Println(err)
	// Output:
	// the server is busy (retry after 1m0s)
}
