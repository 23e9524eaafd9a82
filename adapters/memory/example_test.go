package memory_test

import (
	"context"
	"fmt"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

type WelcomeArgs struct {
	User int `json:"user"`
}

// Welcome ties the name of a job to the type of its data.
const Welcome jobs.Kind[WelcomeArgs] = "email.welcome"

// The life of a scheduler: register jobs, start, trigger a job, shut down.
func Example() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	welcomed := make(chan int)
	check(Welcome.Register(scheduler, func(_ context.Context, job *jobs.Job, args WelcomeArgs) error {
		fmt.Println(job.Name, "attempt", job.Attempt, "of", job.MaxAttempts)
		welcomed <- args.User
		return nil
	}))

	check(scheduler.Start(ctx))
	_, err = Welcome.Trigger(ctx, scheduler, WelcomeArgs{User: 7})
	check(err)
	fmt.Println("welcomed user", <-welcomed)
	check(scheduler.Shutdown(ctx)) // waits for running jobs
	// Output:
	// email.welcome attempt 1 of 3
	// welcomed user 7
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
