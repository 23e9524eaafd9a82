package memory_test

import (
	"context"
	"fmt"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

// A change made while a job runs may come too late for that run, so UniqueWaiting inserts one more, and only one.
func ExampleScheduler_Trigger_uniqueWaiting() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	started, goOn := make(chan string), make(chan bool)
	check(scheduler.RegisterDelayed("docs.reindex", 0, func(_ context.Context, job *jobs.Job) error {
		started <- job.ID
		<-goOn
		return nil
	}, jobs.Concurrency(1)))
	trigger := func() string {
		id, err := scheduler.Trigger(ctx, "docs.reindex", nil, jobs.UniqueWaiting("doc 7"))
		check(err)
		return id
	}

	first := trigger()
	fmt.Println("found while it waits:", trigger() == first)
	check(scheduler.Start(ctx))
	<-started
	second := trigger()
	fmt.Println("found while it runs:", second == first)
	fmt.Println("found while the next one waits:", trigger() == second)
	goOn <- true
	fmt.Println("the next one runs:", <-started == second)
	goOn <- true
	check(scheduler.Shutdown(ctx))
	// Output:
	// found while it waits: true
	// found while it runs: false
	// found while the next one waits: true
	// the next one runs: true
}

// Latest gives the waiting job the newest data.
func ExampleScheduler_Trigger_latest() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	sent := make(chan string)
	check(scheduler.RegisterDelayed("drafts.preview", 0, func(_ context.Context, job *jobs.Job) error {
		sent <- string(job.Data)
		return nil
	}))
	for _, text := range []string{"D", "De", "Dear"} {
		_, err := scheduler.Trigger(ctx, "drafts.preview", map[string]string{"text": text}, jobs.Latest("draft 7"))
		check(err)
	}
	waiting, err := scheduler.QueueSize(ctx, "drafts.preview")
	check(err)
	fmt.Println("waiting:", waiting)
	check(scheduler.Start(ctx))
	fmt.Println(<-sent)
	check(scheduler.Shutdown(ctx))
	// Output:
	// waiting: 1
	// {"text":"Dear"}
}
