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

// The name of a job and the type of its data stand in one place.
const Welcome jobs.Kind[WelcomeArgs] = "email.welcome"

// All of a scheduler's life: jobs are registered, it is started, one is triggered, it
// is shut down.
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
	check(scheduler.Shutdown(ctx)) // waits for what runs
	// Output:
	// email.welcome attempt 1 of 3
	// welcomed user 7
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
