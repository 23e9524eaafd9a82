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

// Middleware sees every attempt from outside. Given in a provider's Config.Defaults
// it does so for all jobs.
func ExampleUse() {
	report := func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			err := next(ctx, job)
			fmt.Printf("%s, attempt %d: %v\n", job.Name, job.Attempt, err)
			return err
		}
	}

	registry, err := provider.NewRegistry(jobs.Use(report)) // a provider makes one of its Defaults
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

// What an error says is stored with the job and logged. Redact keeps addresses out of
// both.
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

// With Skip a tick is left out while an earlier run goes on. The job's history keeps
// the reason.
func ExampleOverlap() {
	registry, err := provider.NewRegistry()
	if err != nil {
		fmt.Println(err)
		return
	}
	err = registry.RegisterInterval("audit.sync", 5*time.Minute, func(context.Context, *jobs.Job) error {
		return nil // takes longer than five minutes at times
	}, jobs.Overlap(jobs.OverlapSkip))
	if err != nil {
		fmt.Println(err)
		return
	}

	// What a provider asks before each run.
	sync, err := registry.Job("audit.sync")
	if err != nil {
		fmt.Println(err)
		return
	}
	tick := time.Date(2026, 3, 7, 12, 5, 0, 0, time.UTC)
	job := &jobs.Job{Name: "audit.sync", Tick: tick, StartedAt: tick, Attempt: 1}
	fmt.Println("another run goes on:", sync.Skip(job, tick, true))
	fmt.Println("no other run goes on:", sync.Skip(job, tick, false))
	// Output:
	// another run goes on: skipped: another run of this job is in progress
	// no other run goes on:
}

// runOnce does what a provider does with one attempt.
func runOnce(registry *provider.Registry, name string) error {
	definition, err := registry.Job(name)
	if err != nil {
		return err
	}
	return definition.Run(context.Background(), &jobs.Job{Name: name, Data: []byte(`{}`), Attempt: 1, MaxAttempts: 3}, slog.Default())
}
