package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A library is a queue written in Go, on an empty store. measure.mjs does the same measurements for Node.
type library interface {
	enqueue(ctx context.Context, n int) error
	enqueueAfter(ctx context.Context, n int, delay time.Duration) error
	// enqueueMany enqueues jobs 0 to n-1 in the library's fastest way, due at the given time, or now if it is zero.
	enqueueMany(ctx context.Context, n int, at time.Time) error
	// start starts the workers with the library's defaults or its best settings. They call handle with the number of
	// each job. stop waits for running jobs.
	start(ctx context.Context, tuned bool, handle func(n int)) (stop func() error, err error)
	unfinished(ctx context.Context) (int, error) // number of jobs still stored
	settle(ctx context.Context) error            // does what maintenance would do after a big insert
	close()
}

// tracker records when the handler of each job first started.
type tracker struct {
	at    []atomic.Int64
	count atomic.Int64
}

func newTracker(n int) *tracker { return &tracker{at: make([]atomic.Int64, n)} }

func (t *tracker) handle(n int) {
	if t.at[n].CompareAndSwap(0, time.Now().UnixNano()) {
		t.count.Add(1)
	}
}

func (t *tracker) started(n int) time.Time { return time.Unix(0, t.at[n].Load()) }

// wait waits until this many jobs have started or the time limit is reached.
func (t *tracker) wait(ctx context.Context, jobs int, limit time.Duration) bool {
	for end := time.Now().Add(limit); t.count.Load() < int64(jobs); {
		if ctx.Err() != nil || time.Now().After(end) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

// leadTime is how long before they are due jobs are enqueued in the step "due".
const leadTime = 10 * time.Second

const delay = 2 * time.Second

func measure(ctx context.Context, lib library, s step) (r result, err error) {
	defer lib.close()
	if s.Do == "enqueue" {
		return measureEnqueue(ctx, lib, s)
	}
	var due time.Time
	if s.Do == "due" {
		due = time.Now().Add(leadTime)
	}
	if s.Do == "drain" || s.Do == "due" {
		begin := time.Now()
		if err := lib.enqueueMany(ctx, s.Jobs, due); err != nil {
			return r, err
		}
		r.Fill = time.Since(begin).Seconds()
		if stored, err := lib.unfinished(ctx); err != nil || stored != s.Jobs {
			return r, errors.Join(err, fmt.Errorf("%d jobs enqueued, %d stored", s.Jobs, stored))
		}
		if err := lib.settle(ctx); err != nil {
			return r, err
		}
		if s.Do == "due" && time.Now().After(due) {
			return r, fmt.Errorf("enqueueing took longer than %s", leadTime)
		}
	}

	seen := newTracker(s.Jobs)
	sent := make([]time.Time, s.Jobs)
	limit := time.Duration(s.Seconds * float64(time.Second))
	begin := time.Now()
	stop, err := lib.start(ctx, s.Tuned, seen.handle)
	if err != nil {
		return r, err
	}
	switch s.Do {
	case "drain":
		seen.wait(ctx, s.Jobs, limit)
		// Jobs are finished only when the store says so.
		for time.Since(begin) < limit && err == nil {
			var left int
			if left, err = lib.unfinished(ctx); left == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		r.Jobs, r.Seconds = int(seen.count.Load()), time.Since(begin).Seconds()
	case "due":
		for n := range sent {
			sent[n] = due
		}
		seen.wait(ctx, s.Jobs, time.Until(due)+limit)
	case "idle", "delayed":
		time.Sleep(time.Second)
		for n := range s.Jobs {
			time.Sleep(rand.N(limit))
			sent[n] = time.Now()
			if s.Do == "delayed" {
				sent[n] = sent[n].Add(delay)
				err = errors.Join(err, lib.enqueueAfter(ctx, n, delay))
			} else {
				err = errors.Join(err, lib.enqueue(ctx, n))
			}
			seen.wait(ctx, n+1, delay+10*time.Second)
		}
	case "rate":
		time.Sleep(time.Second)
		err = sendAtRate(ctx, lib, s, sent)
		seen.wait(ctx, s.Jobs, limit)
	}
	if err = errors.Join(err, stop()); err != nil {
		return r, err
	}
	left, err := lib.unfinished(ctx)
	if err != nil {
		return r, err
	}
	// The sum may be greater: a job that ran while the workers stopped may be stored to run again.
	if started := int(seen.count.Load()); started+left < s.Jobs {
		return r, fmt.Errorf("of %d jobs, %d ran and %d are left", s.Jobs, started, left)
	}
	if s.Do != "drain" {
		r.percentiles(seen, sent)
	}
	return r, nil
}

func measureEnqueue(ctx context.Context, lib library, s step) (r result, err error) {
	var stored atomic.Int64
	errs := make([]error, s.Callers)
	enqueueFor := func(d time.Duration) int {
		var wg sync.WaitGroup
		before, end := stored.Load(), time.Now().Add(d)
		for c := range s.Callers {
			wg.Go(func() {
				for time.Now().Before(end) && errs[c] == nil {
					if errs[c] = lib.enqueue(ctx, 0); errs[c] == nil {
						stored.Add(1)
					}
				}
			})
		}
		wg.Wait()
		return int(stored.Load() - before)
	}
	d := time.Duration(s.Seconds * float64(time.Second))
	enqueueFor(d / 4) // opens the connections and warms up
	begin := time.Now()
	r.Jobs = enqueueFor(d)
	r.Seconds = time.Since(begin).Seconds()
	left, err := lib.unfinished(ctx)
	if left != int(stored.Load()) {
		errs = append(errs, fmt.Errorf("%d jobs enqueued, %d stored", stored.Load(), left))
	}
	return r, errors.Join(append(errs, err)...)
}

// sendAtRate enqueues jobs at a fixed rate without waiting for earlier ones.
func sendAtRate(ctx context.Context, lib library, s step, sent []time.Time) error {
	errs := make([]error, s.Jobs)
	var wg sync.WaitGroup
	begin := time.Now()
	for n := range s.Jobs {
		time.Sleep(time.Until(begin.Add(time.Duration(n) * time.Second / time.Duration(s.Rate))))
		sent[n] = time.Now()
		wg.Go(func() { errs[n] = lib.enqueue(ctx, n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// percentiles sets the percentiles of how late jobs started.
func (r *result) percentiles(seen *tracker, sent []time.Time) {
	var late []float64
	for n := range sent {
		if seen.at[n].Load() != 0 {
			late = append(late, float64(seen.started(n).Sub(sent[n]).Microseconds())/1000)
		}
	}
	if r.Jobs = len(late); r.Jobs == 0 {
		return
	}
	slices.Sort(late)
	r.P50, r.P99, r.Max = late[len(late)/2], late[len(late)*99/100], late[len(late)-1]
}
