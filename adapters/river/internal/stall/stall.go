// Package stall finds runs that do not move in a process that could run them: due ones that no worker takes though some
// are free, and ones whose fetch was lost. It reports the former and gives back the latter.
//
// A run counts as stalled only when it was seen twice, because one that was inserted in a long transaction is old as
// soon as it can be fetched. A run is given back only if this process surely does not hold it.
package stall

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/flow"
	"github.com/everytick/everytick/adapters/river/internal/queues"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// LostAfter is how old an attempt must be to be lost on its way to this process. River's timeout of a fetch is 10 s, so
// younger ones need no look.
const LostAfter = 30 * time.Second

// Config configures a [Watch]. All fields are required.
type Config struct {
	Store *store.Store
	Pool  *pgxpool.Pool
	Log   *slog.Logger
	// Client is the ID of River's client.
	Client string
	// Flow is what the client fetches and stores.
	Flow    *flow.Flow
	Jobs    []*provider.Definition
	Queues  queues.Queues
	Workers queues.Workers
	// Notify tells the workers of queues that there are jobs.
	Notify func(ctx context.Context, queues []string)
}

// A Watch looks for such runs in a process. Create one with [New].
type Watch struct {
	cfg     Config
	started time.Time
	names   []string // of the jobs

	mu   sync.Mutex
	seen Sightings
}

// New returns a watch in a process that has just started.
func New(cfg Config) *Watch {
	names, _ := cfg.Queues.Homes(cfg.Jobs)
	return &Watch{cfg: cfg, started: time.Now(), names: names, seen: Sightings{}}
}

// Find returns the oldest run in each queue that has been due for long though workers have been free.
func (w *Watch) Find(ctx context.Context) (map[string]store.Stall, error) {
	now := time.Now()
	var idle []string
	for queue, slots := range w.cfg.Workers {
		busy := w.started
		fetched, _ := w.cfg.Flow.Fetches(queue)
		for _, t := range []time.Time{fetched, slots.Full()} {
			if t.After(busy) {
				busy = t
			}
		}
		if slots.Taken() < slots.N && now.Sub(busy) >= flow.Grace {
			idle = append(idle, queue)
		}
	}
	if len(idle) == 0 {
		return nil, nil
	}
	found, err := w.cfg.Store.Stalls(ctx, w.cfg.Pool, idle, w.names, flow.Grace)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.Confirm(idle, found, now), nil
}

// Reasons returns why jobs do not move in this process: results that are not stored, and jobs that are not fetched.
// found is what Find has found, nil if the database does not answer.
func (w *Watch) Reasons(found map[string]store.Stall) (reasons []jobs.Reason) {
	now := time.Now()
	add := func(job, text string) {
		if text != "" {
			reasons = append(reasons, jobs.Reason{Job: job, Text: text})
		}
	}
	n, first, err := w.cfg.Flow.Unstored(now)
	add("", flow.ResultsReason(n, first, err, now))
	queue := func(name string, own bool) flow.Queue {
		slots, stalled := w.cfg.Workers[name], found[name]
		_, failure := w.cfg.Flow.Fetches(name)
		return flow.Queue{
			Name: name, Own: own, Workers: slots.N, Free: max(0, slots.N-slots.Taken()), Failure: failure,
			Due: time.Duration(stalled.Due * float64(time.Second)), Paused: stalled.Paused,
		}
	}
	for _, name := range []string{w.cfg.Queues.Main, w.cfg.Queues.Tx} {
		if w.cfg.Workers[name] != nil {
			add("", queue(name, false).Reason(now))
		}
	}
	for _, d := range w.cfg.Jobs {
		if d.Concurrency > 0 {
			add(d.Name, queue(w.cfg.Queues.Of(d), true).Reason(now))
		}
	}
	return reasons
}

// GiveBack returns runs to the queue that the database has marked as running here for some time, when the connection
// broke before this process heard of them. Nobody would run them while this process lives.
func (w *Watch) GiveBack(ctx context.Context, after time.Duration) error {
	running, err := w.cfg.Store.RunningBy(ctx, w.cfg.Pool, w.cfg.Client, after)
	if err != nil || len(running) == 0 {
		return err
	}
	// In this order: once their fetches have ended, all of these that are not lost are held or have ended. A process
	// may be frozen at any point.
	held, ok := w.cfg.Flow.Held(time.Now())
	lost := slices.DeleteFunc(running, func(a store.Attempt) bool { return held[a.ID] })
	if !ok || len(lost) == 0 {
		return nil
	}
	queues, err := w.cfg.Store.GiveBack(ctx, w.cfg.Pool, w.cfg.Client, lost)
	if n := len(queues); n > 0 {
		w.cfg.Log.WarnContext(ctx, "jobs whose fetch was lost on the way to this process return to the queue", "jobs", n)
		w.cfg.Notify(ctx, queues)
	}
	return err
}
