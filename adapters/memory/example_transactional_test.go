package memory_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
)

// What a transactional job triggers in its transaction exists once the job has completed. Here the first attempt fails
// after the trigger, which leaves nothing.
func Example_transactional() {
	ctx := context.Background()
	scheduler, err := memory.New(nil)
	check(err)
	receipts := make(chan string, 2)
	check(scheduler.RegisterDelayed("billing.receipt", 0, func(_ context.Context, job *jobs.Job) error {
		receipts <- string(job.Data)
		return nil
	}))
	check(scheduler.RegisterDelayed("billing.charge", 0, func(ctx context.Context, job *jobs.Job) error {
		// On a database, job.DB is the same transaction.
		_, err := jobs.TriggerTx(ctx, scheduler, job.Tx, "billing.receipt", map[string]int{"of attempt": job.Attempt})
		if err == nil && job.Attempt == 1 {
			err = errors.New("the account is locked")
		}
		return err
	}, jobs.Transactional(), jobs.RetryDelay(0)))

	check(scheduler.Start(ctx))
	_, err = scheduler.Trigger(ctx, "billing.charge", nil)
	check(err)
	fmt.Println("receipt", <-receipts)
	check(scheduler.Shutdown(ctx))
	fmt.Println(len(receipts), "more")
	// Output:
	// receipt {"of attempt":2}
	// 0 more
}
