package memory_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

// A cron pattern follows the clock of its time zone, in summer and in winter.
func ExampleScheduler_RegisterCron() {
	ctx := context.Background()
	berlin, err := time.LoadLocation("Europe/Berlin")
	check(err)
	scheduler, err := memory.New(nil)
	check(err)
	check(scheduler.RegisterCron("reports.send", "30 7 * * *", done, jobs.TimeZone(berlin)))
	check(scheduler.Start(ctx))

	all, err := scheduler.Jobs(ctx)
	check(err)
	report := all[0]
	fmt.Println(report.Name, report.Schedule, report.Zone)
	for _, tick := range report.Upcoming {
		fmt.Println(tick.In(berlin).Format("15:04"))
	}
	check(scheduler.Shutdown(ctx))
	// Output:
	// reports.send 30 7 * * * Europe/Berlin
	// 07:30
	// 07:30
	// 07:30
}

// The registered delay applies to triggers without a delay or time of their own.
func ExampleScheduler_Trigger() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	check(scheduler.RegisterDelayed("users.remind", 24*time.Hour, done))

	for _, when := range [][]jobs.TriggerOption{
		nil,
		{jobs.Delay(time.Hour)},
		{jobs.At(time.Date(2100, 1, 1, 9, 0, 0, 0, time.UTC))},
		{jobs.At(time.Now().Add(-time.Hour))}, // in the past, so at once
	} {
		_, err := scheduler.Trigger(ctx, "users.remind", map[string]int{"user": 7}, when...)
		check(err)
		runs, err := scheduler.Runs(ctx, "users.remind", 1) // the latest one
		check(err)
		run := runs[0]
		if wait := run.DueAt.Sub(run.CreatedAt); wait <= 24*time.Hour {
			fmt.Println(run.State, "in", wait)
		} else {
			fmt.Println(run.State, "at", run.DueAt)
		}
	}
	// Output:
	// scheduled in 24h0m0s
	// scheduled in 1h0m0s
	// scheduled at 2100-01-01 09:00:00 +0000 UTC
	// waiting in 0s
}

// With a unique key, a user who clicks twice gets one export.
func ExampleScheduler_Trigger_unique() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	check(scheduler.RegisterDelayed("users.export", 0, done))

	trigger := func(key string) string {
		id, err := scheduler.Trigger(ctx, "users.export", nil, jobs.Unique(key))
		check(err)
		return id
	}
	first, second, other := trigger("user 7"), trigger("user 7"), trigger("user 8")
	fmt.Println("the same job:", first == second)
	fmt.Println("a different job:", first != other)
	waiting, err := scheduler.QueueSize(ctx, "users.export")
	check(err)
	fmt.Println("waiting:", waiting)
	// Output:
	// the same job: true
	// a different job: true
	// waiting: 2
}

// A caller that does not know whether an order was placed sends it again with the same key.
func ExampleScheduler_Trigger_idempotencyKey() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	check(scheduler.RegisterDelayed("orders.place", 0, done))

	place := func(articles int) (string, error) {
		order := map[string]int{"articles": articles}
		return scheduler.Trigger(ctx, "orders.place", order, jobs.IdempotencyKey("8e03978e"))
	}
	first, err := place(2)
	check(err)
	again, err := place(2)
	check(err)
	fmt.Println("the same run:", first == again)
	_, err = place(3) // a mistake: another order with the same key
	fmt.Println("refused:", errors.Is(err, jobs.ErrKeyReused))
	// Output:
	// the same run: true
	// refused: true
}

// TriggerMany inserts all jobs or none.
func ExampleScheduler_TriggerMany() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	check(scheduler.RegisterDelayed("users.welcome", 0, done))

	users := []any{map[string]int{"user": 1}, map[string]int{"user": 2}, map[string]int{"user": 3}}
	ids, err := scheduler.TriggerMany(ctx, "users.welcome", users, jobs.Priority(4))
	fmt.Println(len(ids), err)

	_, err = scheduler.TriggerMany(ctx, "users.welcome", append(users, "not an object"))
	fmt.Println(errors.Is(err, jobs.ErrInvalidData))
	waiting, err := scheduler.QueueSize(ctx, "users.welcome")
	check(err)
	fmt.Println("waiting:", waiting)
	// Output:
	// 3 <nil>
	// true
	// waiting: 3
}

type requestID struct{}

// Trigger middleware passes values from the caller to the run, here a request ID, without
// adding them to the job's data.
func Example_metadata() {
	send := func(next jobs.Enqueue) jobs.Enqueue {
		return func(ctx context.Context, reqs []*jobs.Request) error {
			for _, req := range reqs {
				req.Metadata = map[string]string{"request": ctx.Value(requestID{}).(string)}
			}
			return next(ctx, reqs)
		}
	}
	receive := func(next jobs.Handler) jobs.Handler {
		return func(ctx context.Context, job *jobs.Job) error {
			job.Logger = job.Logger.With("request", job.Metadata["request"])
			return next(context.WithValue(ctx, requestID{}, job.Metadata["request"]), job)
		}
	}
	scheduler, err := memory.New(&memory.Config{Defaults: []jobs.Option{jobs.UseTrigger(send), jobs.Use(receive)}})
	check(err)
	seen := make(chan any)
	check(scheduler.RegisterDelayed("users.export", 0, func(ctx context.Context, _ *jobs.Job) error {
		seen <- ctx.Value(requestID{})
		return nil
	}))
	check(scheduler.Start(context.Background()))

	ctx := context.WithValue(context.Background(), requestID{}, "req-42") // the context of an HTTP request
	_, err = scheduler.Trigger(ctx, "users.export", nil)
	check(err)
	fmt.Println("triggered by", <-seen)
	check(scheduler.Shutdown(context.Background()))
	// Output:
	// triggered by req-42
}
