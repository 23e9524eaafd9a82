// Package failed calls the functions of jobs.OnFailed once a run has failed for good, whichever process found out.
//
// The worker or the rescue that ends a run stores first that a call is due. A process that registers the job claims the
// call, makes it and deletes it. If the process dies before that, another one claims it again, so it is made at least
// once, and only once unless a process dies or is interrupted.
package failed

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

const (
	// calls is how many runs a process makes calls for at once.
	calls = 10
	// checkEvery is how often a process looks for calls that other processes left behind.
	checkEvery = 10 * time.Second
	// timeout bounds each query.
	timeout = 10 * time.Second
)

// Config configures a [Caller]. All fields are required.
type Config struct {
	Store *store.Store
	Pool  *pgxpool.Pool
	Log   *slog.Logger
	// Client is the ID of River's client.
	Client string
	// Jobs are those of the process. Calls are made for those with jobs.OnFailed.
	Jobs []*provider.Definition
	// Run returns a run, as jobs.RunFinder does.
	Run func(ctx context.Context, id string) (jobs.Run, error)
	// Dead returns the IDs of dead processes.
	Dead func() []string
}

// A Caller makes the calls for the jobs of a process. Create one with [New].
type Caller struct {
	cfg    Config
	byName map[string]*provider.Definition
	names  []string
	wake   chan struct{} // holds a signal that a run has failed or a call has ended
	slots  chan struct{} // holds a token for each call in progress
	group  sync.WaitGroup
	undone atomic.Int64 // calls that were cancelled

	mu      sync.Mutex
	current map[int64]bool         // jobs whose calls are in progress
	made    map[store.Failure]bool // calls that were made, and could not be deleted

	calling context.Context //nolint:containedctx // of the calls; ends with cancel
	cancel  context.CancelFunc
	stop    chan struct{} // closed by Stop
	stopped chan struct{} // closed when Run has returned
}

// New returns a caller that does nothing until Run. ctx is the parent of the calls' contexts.
func New(ctx context.Context, cfg Config) *Caller {
	c := &Caller{
		cfg: cfg, byName: map[string]*provider.Definition{}, wake: make(chan struct{}, 1), slots: make(chan struct{}, calls),
		stop: make(chan struct{}), stopped: make(chan struct{}),
		current: map[int64]bool{}, made: map[store.Failure]bool{},
	}
	c.calling, c.cancel = context.WithCancel(ctx)
	for _, d := range cfg.Jobs {
		if d.CallsOnFailed() {
			c.byName[d.Name], c.names = d, append(c.names, d.Name)
		}
	}
	return c
}

// Ended wakes the caller if the job is one of its own.
func (c *Caller) Ended(name string) {
	if c.byName[name] != nil {
		c.Wake()
	}
}

// Wake makes the caller look for runs that have failed.
func (c *Caller) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run makes calls until Stop.
func (c *Caller) Run() {
	defer close(c.stopped)
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for stop := c.stop; ; {
		all := c.sweep()
		if all && stop == nil {
			return
		}
		select {
		case <-stop:
			stop = nil // once more, for the last runs
		case <-c.wake:
		case <-ticker.C:
		}
	}
}

// Stop makes the last calls and waits until all have returned. When ctx ends, it cancels them, and when hard ends, it
// leaves them behind. A call that was cancelled is made again, by this or another process. Stop returns whether there is one.
func (c *Caller) Stop(ctx, hard context.Context) (undone bool) {
	defer c.cancel()
	close(c.stop)
	done := make(chan struct{})
	go func() {
		<-c.stopped
		c.group.Wait()
		close(done)
	}()
	select {
	case <-done:
		return false
	case <-ctx.Done():
	}
	c.cancel()
	select {
	case <-done:
		return c.undone.Load() > 0
	case <-hard.Done():
		return true
	}
}

// sweep claims as many calls as there are free slots, and starts them. It returns false if there may be more. Then the
// end of a call wakes the caller.
func (c *Caller) sweep() (all bool) {
	for c.calling.Err() == nil {
		free := cap(c.slots) - len(c.slots)
		if free == 0 {
			return false
		}
		ctx, cancel := context.WithTimeout(c.calling, timeout)
		c.mu.Lock()
		current := slices.Collect(maps.Keys(c.current))
		c.mu.Unlock()
		// The answer to an earlier claim may have been lost.
		claimed, err := c.cfg.Store.ClaimFailed(ctx, c.cfg.Pool, c.names, c.cfg.Client, c.cfg.Dead(), current, free)
		cancel()
		if err != nil {
			if c.calling.Err() == nil {
				c.cfg.Log.WarnContext(ctx, "could not look for failed runs; OnFailed is called for them within seconds", "error", err)
			}
			return true
		}
		for _, f := range claimed {
			c.slots <- struct{}{}
			c.setCurrent(f.JobID, true)
			c.group.Go(func() {
				c.call(f)
				c.setCurrent(f.JobID, false)
				<-c.slots
				c.Wake()
			})
		}
		if len(claimed) < free {
			return true
		}
	}
	return true
}

func (c *Caller) setCurrent(id int64, current bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if current {
		c.current[id] = true
	} else {
		delete(c.current, id)
	}
}

// call makes one call, unless it has been made, and stores that it has.
func (c *Caller) call(f store.Failure) {
	c.mu.Lock()
	made := c.made[f]
	c.mu.Unlock()
	var err error
	if !made {
		if made, err = c.makeCall(f); !made && c.calling.Err() != nil {
			c.undone.Add(1)
		}
	}
	// The call has been made, whatever happens to its context.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.calling), timeout)
	defer cancel()
	store := c.cfg.Store.ReleaseFailed
	if made {
		store = c.cfg.Store.DeleteFailed
	}
	storeErr := store(ctx, c.cfg.Pool, f, c.cfg.Client)
	c.mu.Lock()
	if delete(c.made, f); made && storeErr != nil {
		c.made[f] = true
	}
	c.mu.Unlock()
	if err = cmp.Or(err, storeErr); err != nil {
		c.cfg.Log.WarnContext(ctx, "could not store that OnFailed was called; it may be called again for the same run",
			"job", f.Name, "job_id", strconv.FormatInt(f.JobID, 10), "error", err)
	}
}

// makeCall reports whether the call has been made, or is not to be made.
func (c *Caller) makeCall(f store.Failure) (made bool, err error) {
	ctx, cancel := context.WithTimeout(c.calling, timeout)
	run, err := c.cfg.Run(ctx, strconv.FormatInt(f.JobID, 10))
	cancel()
	switch {
	case errors.Is(err, jobs.ErrUnknownID): // deleted meanwhile
		return true, nil
	case err != nil:
		return false, err
	}
	return c.byName[f.Name].Failed(c.calling, c.cfg.Log, run), nil
}
