package memory_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

// Jobs triggered during a pause wait for its end.
func ExampleScheduler_Pause() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	ran := make(chan string)
	check(scheduler.RegisterDelayed("email.send", 0, func(_ context.Context, job *jobs.Job) error {
		ran <- job.Name
		return nil
	}))
	check(scheduler.Start(ctx))

	check(scheduler.Pause(ctx, "email.send"))
	_, err = scheduler.Trigger(ctx, "email.send", nil)
	check(err)
	all, err := scheduler.Jobs(ctx)
	check(err)
	fmt.Println("paused:", !all[0].PausedSince.IsZero(), "waiting:", all[0].Waiting)

	check(scheduler.Resume(ctx, "email.send"))
	fmt.Println(<-ran, "runs")
	check(scheduler.Shutdown(ctx))
	// Output:
	// paused: true waiting: 1
	// email.send runs
}

// Runs lists the runs of a job with their results and errors.
func ExampleScheduler_Runs() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	ended := make(chan struct{}, 2)
	check(scheduler.RegisterDelayed("email.send", 0, func(_ context.Context, job *jobs.Job) error {
		defer func() { ended <- struct{}{} }()
		var args struct{ To string }
		if err := job.Decode(&args); err != nil {
			return err
		}
		if args.To == "" {
			return jobs.Permanent(errors.New("no recipient")) // a retry would not help
		}
		return nil
	}, jobs.Concurrency(1)))
	_, err = scheduler.TriggerMany(ctx, "email.send", []any{map[string]string{"to": "ann@example.com"}, nil})
	check(err)
	check(scheduler.Start(ctx))
	<-ended
	<-ended
	check(scheduler.Shutdown(ctx))

	runs, err := scheduler.Runs(ctx, "email.send", 10)
	check(err)
	for _, run := range runs {
		fmt.Printf("%s, attempt %d of %d, %s %s\n", run.State, run.Attempt, run.MaxAttempts, run.Data, run.Error)
	}
	// Output:
	// failed, attempt 1 of 3, {} no recipient
	// completed, attempt 1 of 3, {"to":"ann@example.com"}
}

// Retry runs a job again at once that failed for good or waits for its next attempt.
func ExampleScheduler_Retry() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	up := make(chan bool, 2)
	ended := make(chan struct{})
	check(scheduler.RegisterDelayed("email.send", 0, func(context.Context, *jobs.Job) error {
		defer func() { ended <- struct{}{} }()
		if !<-up {
			return errors.New("mail server is down")
		}
		return nil
	}, jobs.RetryDelay(time.Hour)))
	id, err := scheduler.Trigger(ctx, "email.send", nil)
	check(err)
	up <- false
	check(scheduler.Start(ctx))
	<-ended
	check(scheduler.Shutdown(ctx)) // waits until the result is stored

	up <- true
	check(scheduler.Retry(ctx, "email.send", id)) // now, not in an hour
	check(scheduler.Start(ctx))
	<-ended
	check(scheduler.Shutdown(ctx))
	runs, err := scheduler.Runs(ctx, "email.send", 1)
	check(err)
	fmt.Println(runs[0].State, "at attempt", runs[0].Attempt)
	fmt.Println(errors.Is(scheduler.Retry(ctx, "email.send", id), jobs.ErrNotRetryable))
	// Output:
	// completed at attempt 2
	// true
}

// RetryMany runs all jobs again that failed in some time.
func ExampleScheduler_RetryMany() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	down := true // the mail server, in the first session
	ended := make(chan struct{}, 3)
	send := func(context.Context, *jobs.Job) error {
		defer func() { ended <- struct{}{} }()
		if down {
			return errors.New("mail server is down")
		}
		return nil
	}
	check(scheduler.RegisterDelayed("email.send", 0, send, jobs.MaxRetries(0)))
	check(scheduler.RegisterDelayed("email.digest", 0, send, jobs.MaxRetries(0)))
	night := time.Now()
	for _, name := range []string{"email.send", "email.send", "email.digest"} {
		_, err := scheduler.Trigger(ctx, name, nil)
		check(err)
	}
	run := func() {
		check(scheduler.Start(ctx))
		for range cap(ended) {
			<-ended
		}
		check(scheduler.Shutdown(ctx)) // waits until the results are stored
	}
	run()

	failed := jobs.RunQuery{States: []jobs.State{jobs.StateFailed}, Since: night}
	page, err := scheduler.FindRuns(ctx, failed)
	check(err)
	fmt.Println(len(page.Runs), "failed:", page.Runs[0].Error)

	down = false
	n, err := scheduler.RetryMany(ctx, failed)
	check(err)
	run()
	page, err = scheduler.FindRuns(ctx, failed)
	check(err)
	fmt.Println(n, "retried,", len(page.Runs), "failed")
	// Output:
	// 3 failed: mail server is down
	// 3 retried, 0 failed
}

// Cancel ends the context of a running job, which is then not retried.
func ExampleScheduler_Cancel() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	started := make(chan struct{})
	check(scheduler.RegisterDelayed("users.export", 0, func(ctx context.Context, _ *jobs.Job) error {
		close(started)
		<-ctx.Done() // as a query or an HTTP request would
		return ctx.Err()
	}))
	check(scheduler.Start(ctx))
	id, err := scheduler.Trigger(ctx, "users.export", nil)
	check(err)
	<-started

	check(scheduler.Cancel(ctx, "users.export", id))
	check(scheduler.Shutdown(ctx))
	runs, err := scheduler.Runs(ctx, "users.export", 1)
	check(err)
	fmt.Println(runs[0].State)
	// Output:
	// cancelled
}

// Health describes what is wrong.
func ExampleScheduler_Health() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	check(scheduler.RegisterDelayed("email.send", 0, done))
	_, err = scheduler.Trigger(ctx, "email.send", nil, jobs.Delay(time.Hour))
	check(err)

	health, err := scheduler.Health(ctx)
	check(err)
	fmt.Println(health.Healthy, health.Reasons, health.Totals)

	check(scheduler.Start(ctx))
	health, err = scheduler.Health(ctx)
	check(err)
	fmt.Println(health.Healthy, health.Reasons, health.Totals)
	check(scheduler.Shutdown(ctx))
	// Output:
	// false [the scheduler is not started] map[scheduled:1]
	// true [] map[scheduled:1]
}
