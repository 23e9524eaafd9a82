package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The pace of Await: it asks often at first, for runs that take no time, and then less and less often.
const (
	awaitFirst = 10 * time.Millisecond
	awaitMost  = time.Second
)

// Await waits until the run with that ID has ended, in whatever process, and returns it, with its output (see
// [Job.SetOutput]) and the errors of its attempts. t must have the role [RunFinder] (see [As]); otherwise the error
// wraps [errors.ErrUnsupported].
//
// The error is nil if the run completed. If it failed for good, was cancelled or skipped, Await returns the run and an
// error that wraps [ErrNotCompleted]. An ID that no stored run of a registered job has is [ErrUnknownID], also if the
// run is deleted while Await waits: runs are kept for a time after they ended. When ctx ends, Await returns the run as
// it is, if it is known, and the error of ctx; give it a deadline. Any other error is returned at once, and the call can
// be repeated.
//
// A run whose attempt has failed and that waits for the next one, or that was snoozed, has not ended. Await asks for the
// run after 10 ms, and then less and less often, up to once a second. A handler that awaits other runs occupies its
// worker meanwhile; if all workers do so, those runs never start.
func Await(ctx context.Context, t Triggerer, id string) (Run, error) {
	finder, ok := As[RunFinder](t)
	if !ok {
		return Run{}, fmt.Errorf("jobs: %T cannot find runs to wait for: %w", t, errors.ErrUnsupported)
	}
	var run Run
	for wait := awaitFirst; ; wait = min(wait*3/2, awaitMost) {
		found, err := finder.Run(ctx, id)
		switch {
		case err != nil && ctx.Err() != nil:
			return run, awaitError(run, id, ctx.Err())
		case err != nil:
			return run, awaitError(run, id, err)
		}
		switch run = found; {
		case run.State == StateCompleted:
			return run, nil
		case !run.EndedAt.IsZero():
			err := fmt.Errorf("%w: run %s of %q is %s", ErrNotCompleted, id, run.Name, run.State)
			if text, _, _ := strings.Cut(run.Error, "\n"); text != "" { // a stack may follow
				err = fmt.Errorf("%w: %s", err, text)
			}
			return run, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return run, awaitError(run, id, ctx.Err())
		}
	}
}

func awaitError(run Run, id string, err error) error {
	if run.State == "" {
		return fmt.Errorf("jobs: await run %.100q: %w", id, err)
	}
	return fmt.Errorf("jobs: await run %s of %q, which was %s: %w", id, run.Name, run.State, err)
}
