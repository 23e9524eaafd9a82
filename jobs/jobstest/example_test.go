package jobstest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
)

// RegisterSignupJobs is exported by a module. One of its jobs triggers the other.
func RegisterSignupJobs(s interface {
	jobs.Registrar
	jobs.Triggerer
},
) error {
	return errors.Join(
		s.RegisterDelayed("signup.confirm", 0, func(ctx context.Context, job *jobs.Job) error {
			var args struct{ Email string }
			if err := job.Decode(&args); err != nil {
				return err
			}
			if job.Attempt == 1 {
				return errors.New("mail server is busy")
			}
			_, err := s.Trigger(ctx, "signup.remind", map[string]string{"email": args.Email})
			return err
		}, jobs.RetryDelay(0)),
		s.RegisterDelayed("signup.remind", 0, func(context.Context, *jobs.Job) error { return nil }),
	)
}

func ExampleRecord() {
	t := new(testing.T) // in a test, the test's own
	ctx := context.Background()

	s, err := memory.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	rec := jobstest.Record(s)
	if err := RegisterSignupJobs(rec); err != nil {
		t.Fatal(err)
	}
	if err := rec.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rec.Shutdown(ctx) }()

	outcome := rec.TriggerAndWait(t, "signup.confirm", map[string]string{"email": "ann@example.com"})
	fmt.Println("attempts:", outcome.Attempts, "error:", outcome.Err)

	reminder := rec.RequireEnqueued(t, "signup.remind", jobstest.DataWith("email", "ann@example.com"))
	fmt.Println("reminder:", string(reminder.Data))

	outcome = rec.TriggerAndWait(t, "signup.confirm", map[string]int{"email": 7})
	fmt.Println("attempts:", outcome.Attempts, "failed:", outcome.Err != nil)

	// Output:
	// attempts: 2 error: <nil>
	// reminder: {"email":"ann@example.com"}
	// attempts: 1 failed: true
}
