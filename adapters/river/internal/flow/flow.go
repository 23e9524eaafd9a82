// Package flow watches what passes between River's client and the database: the jobs that River fetches, and the
// results that it stores. When one of them fails, River logs a line and tries again, so only this package knows since
// when, and for which jobs. It also makes fetches smaller after one that took too long.
//
// A job is held from its fetch until its result is stored. A row that says it is running in this process, and that the
// process does not hold, was lost on its way from the database: nobody runs it.
package flow

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// Config configures a [Flow]. All fields are required.
type Config struct {
	Log *slog.Logger
	// Failed is called with each error of a fetch, and of storing results. It must not block.
	Failed func(error)
	// Suspect reports whether others may have taken this process for dead after since.
	Suspect func(since time.Time) bool
	// Owned returns those of these jobs whose attempts still belong to this process, or that have ended.
	Owned func(ctx context.Context, ids []int64, attempts []int) (owned []int64, err error)
}

// A Flow watches one client. Create one with [New].
type Flow struct {
	cfg Config

	mu      sync.Mutex
	queues  map[string]*queue
	held    map[int64]*hold     // by ID
	open    map[*time.Time]bool // the fetches in progress, by the address of their start
	results results

	resets atomic.Int64 // how often the client's connections were given up
}

type queue struct {
	limit   int       // the most jobs that a fetch asks for; 0 means as many as there are free workers
	fetched time.Time // when a fetch last returned jobs
	failure Failure
}

// A hold is an attempt between its fetch and the end of storing its result.
type hold struct {
	attempt int
	fetched time.Time
	ended   time.Time // when the handler returned
	report  Report
}

// A Report says what becomes of an attempt's result.
type Report int

// The values of [Report].
const (
	Stored  Report = iota // River stores it
	Foreign               // it is dropped, whatever River sends, because another process has the job now
	Left                  // it is dropped too, and the row is left to those who rescue the jobs of this process
)

// A Failure is a sequence of failed calls. The zero Failure means that the latest call succeeded.
type Failure struct {
	Since time.Time // the start of the first failed call
	Last  time.Time // the end of the latest one
	Err   error     // of the latest one
}

func (f *Failure) record(began time.Time, err error) {
	switch {
	case err == nil:
		*f = Failure{}
		return
	case f.Err == nil:
		f.Since = began
	}
	f.Last, f.Err = time.Now(), err
}

// New returns a flow.
func New(cfg Config) *Flow {
	return &Flow{cfg: cfg, queues: map[string]*queue{}, held: map[int64]*hold{}, open: map[*time.Time]bool{}, results: results{sent: map[int64]*sent{}}}
}

// Ended notes that the handler of an attempt has returned, and what becomes of its result.
func (f *Flow) Ended(id int64, attempt int, report Report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.held[id]; h != nil && h.attempt == attempt {
		h.ended, h.report = time.Now(), report
	}
}

// Held returns which jobs are held. It reports false if a fetch that began before the given time is in progress: its
// answer may bring more of them.
func (f *Flow) Held(fetchedBefore time.Time) (held map[int64]bool, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for began := range f.open {
		if began.Before(fetchedBefore) {
			return nil, false
		}
	}
	held = make(map[int64]bool, len(f.held))
	for id, h := range f.held {
		if h.report != Foreign {
			held[id] = true
		}
	}
	return held, true
}

// EndedRuns returns the jobs that have ended and whose results River is about to store. It is never nil.
func (f *Flow) EndedRuns() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	ended := []int64{}
	for id, h := range f.held {
		if !h.ended.IsZero() && h.report == Stored {
			ended = append(ended, id)
		}
	}
	return ended
}

// Unstored returns how many jobs ended before the given time and have no stored result, when the first of them ended,
// and the error that River got when it last tried to store results.
func (f *Flow) Unstored(before time.Time) (n int, first time.Time, failure error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.held {
		if h.ended.IsZero() || h.ended.After(before) || h.report == Foreign {
			continue
		}
		if n++; first.IsZero() || h.ended.Before(first) {
			first = h.ended
		}
	}
	return n, first, f.results.failure.Err
}

// Fetches returns when a fetch of a queue last returned jobs, and whether its fetches fail.
func (f *Flow) Fetches(name string) (last time.Time, failure Failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.queue(name)
	return q.fetched, q.failure
}

// Reset makes the client's listener connect again within seconds, for when the server of its connection has become
// read-only: nobody notifies there.
func (f *Flow) Reset() { f.resets.Add(1) }

// queue is called with f.mu locked.
func (f *Flow) queue(name string) *queue {
	q := f.queues[name]
	if q == nil {
		q = &queue{}
		f.queues[name] = q
	}
	return q
}

// Driver returns River's driver on pool, watched by f.
func (f *Flow) Driver(pool *pgxpool.Pool) *Driver {
	return &Driver{Driver: riverpgxv5.New(pool), flow: f}
}

// Driver is River's driver with a watched executor and listener.
type Driver struct {
	*riverpgxv5.Driver
	flow *Flow
}

// GetExecutor implements [riverdriver.Driver].
func (d *Driver) GetExecutor() riverdriver.Executor {
	return d.flow.Watch(d.Driver.GetExecutor())
}

// Watch returns e, watched by f.
func (f *Flow) Watch(e riverdriver.Executor) riverdriver.Executor {
	return &executor{Executor: e, flow: f}
}

// GetListener implements [riverdriver.Driver].
func (d *Driver) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &listener{Listener: d.Driver.GetListener(params), flow: d.flow}
}

type executor struct {
	riverdriver.Executor
	flow *Flow
}

// JobGetAvailable implements [riverdriver.Executor]. It asks for fewer jobs than River does after a fetch that took too
// long.
func (e *executor) JobGetAvailable(
	ctx context.Context, params *riverdriver.JobGetAvailableParams,
) (*riverdriver.JobGetAvailableResult, error) {
	f := e.flow
	asked := *params
	f.mu.Lock()
	if limit := f.queue(asked.Queue).limit; limit > 0 {
		asked.MaxToLock = min(asked.MaxToLock, limit)
	}
	began := time.Now()
	f.open[&began] = true
	f.mu.Unlock()
	res, err := e.Executor.JobGetAvailable(ctx, &asked)
	f.mu.Lock()
	delete(f.open, &began)
	q := f.queue(asked.Queue)
	q.failure.record(began, err)
	got := 0
	if err == nil {
		got = len(res.Jobs)
	}
	q.limit = NextLimit(q.limit, Call{params.MaxToLock, asked.MaxToLock, got, time.Since(began), err})
	if got > 0 {
		q.fetched = time.Now()
		for _, job := range res.Jobs {
			f.held[job.ID] = &hold{attempt: job.Attempt, fetched: began}
		}
	}
	f.mu.Unlock()
	if err != nil {
		f.cfg.Failed(err)
	}
	return res, err
}

// listener is River's listener. Its Ping fails after [Flow.Reset], so that River connects again.
type listener struct {
	riverdriver.Listener
	flow   *Flow
	resets int64 // at the latest Connect
}

// Connect implements [riverdriver.Listener].
func (l *listener) Connect(ctx context.Context) error {
	l.resets = l.flow.resets.Load()
	return l.Listener.Connect(ctx)
}

// Ping implements [riverdriver.Listener].
func (l *listener) Ping(ctx context.Context) error {
	if l.flow.resets.Load() != l.resets {
		return errReadOnly
	}
	return l.Listener.Ping(ctx)
}

var errReadOnly = errors.New("the server of this connection may have become read-only")
