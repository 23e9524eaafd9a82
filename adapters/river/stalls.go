package river

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/everytick/everytick/adapters/river/internal/flow"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/jobs"
)

// newFlow returns the flow of the client with this ID.
func (s *Scheduler) newFlow(id string, ss *session) *flow.Flow {
	return flow.New(flow.Config{
		Log:     s.log,
		Failed:  func(err error) { s.leaveReadOnly(ss.pool, err) },
		Suspect: func(since time.Time) bool { return ss.process.Suspect(since) },
		Owned: func(ctx context.Context, ids []int64, attempts []int) ([]int64, error) {
			return s.store.OwnedAttempts(ctx, ss.pool, id, ids, attempts)
		},
	})
}

// stallSeen is how long before a job is taken for stalled it was first seen waiting. A job that was inserted in a long
// transaction is old as soon as it can be fetched.
const stallSeen = 2 * time.Second

// stalls remembers the jobs that were seen waiting though workers were free, by queue.
type stalls struct {
	mu   sync.Mutex
	seen map[string]sighting
}

type sighting struct {
	id    int64
	first time.Time
}

// confirm keeps those of the stalls in these queues whose job was first seen long enough ago.
func (st *stalls) confirm(queues []string, found []store.Stall, now time.Time) map[string]store.Stall {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.seen == nil {
		st.seen = map[string]sighting{}
	}
	confirmed, present := map[string]store.Stall{}, map[string]bool{}
	for _, f := range found {
		present[f.Queue] = true
		if seen := st.seen[f.Queue]; seen.id != f.ID {
			st.seen[f.Queue] = sighting{f.ID, now}
		} else if now.Sub(seen.first) >= stallSeen {
			confirmed[f.Queue] = f
		}
	}
	for _, q := range queues {
		if !present[q] {
			delete(st.seen, q)
		}
	}
	return confirmed
}

// findStalls returns the jobs that have been due for long though workers of their queues have been free, by queue.
func (s *Scheduler) findStalls(ctx context.Context, ss *session) (map[string]store.Stall, error) {
	now := time.Now()
	var idle []string
	for queue, slots := range ss.slots {
		fetched, _ := ss.flow.Fetches(queue)
		busy := later(later(fetched, slots.Full()), ss.startedAt)
		if slots.Taken() < slots.N && now.Sub(busy) >= flow.Grace {
			idle = append(idle, queue)
		}
	}
	if len(idle) == 0 {
		return nil, nil
	}
	found, err := s.store.Stalls(ctx, ss.pool, idle, namesOf(s.reg.Jobs()), flow.Grace)
	if err != nil {
		return nil, err
	}
	return ss.stalls.confirm(idle, found, now), nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// watchStalls looks for stalled jobs, so that the next Health need not wait until it has seen one twice.
func (s *Scheduler) watchStalls(ctx context.Context, ss *session) error {
	_, err := s.findStalls(ctx, ss)
	return err
}

// flowReasons returns why jobs do not move in this process: results that are not stored, jobs that are not fetched, and
// a heartbeat that others cannot see. stalled has the jobs that could be fetched, nil if the database does not answer.
func (s *Scheduler) flowReasons(ss *session, stalled map[string]store.Stall) (reasons []jobs.Reason) {
	now := time.Now()
	n, first, err := ss.flow.Unstored(now)
	if text := flow.ResultsReason(n, first, err, now); text != "" {
		reasons = append(reasons, jobs.Reason{Text: text})
	}
	if since, err := ss.process.Failing(); err != nil && now.Sub(since) >= s.cfg.DeadAfter {
		reasons = append(reasons, jobs.Reason{Text: fmt.Sprintf(
			"the heartbeat of this process could not be stored for %s, so others may take its jobs: %v", now.Sub(since).Round(time.Second), err)})
	}
	add := func(queue, job string) {
		slots := ss.slots[queue]
		_, failure := ss.flow.Fetches(queue)
		q := flow.Queue{
			Name: queue, Own: job != "", Workers: slots.N, Free: max(0, slots.N-slots.Taken()), Failure: failure,
			Due: time.Duration(stalled[queue].Due * float64(time.Second)), Paused: stalled[queue].Paused,
		}
		if text := q.Reason(now); text != "" {
			reasons = append(reasons, jobs.Reason{Job: job, Text: text})
		}
	}
	add(s.cfg.Queue, "")
	for _, d := range s.reg.Jobs() {
		if d.Concurrency > 0 {
			add(s.queueOf(d), d.Name)
		}
	}
	return reasons
}

// lostFetchAfter is how old an attempt must be to be lost on its way to this process. River's timeout of a fetch is
// 10 s, so younger ones need no look.
const lostFetchAfter = 30 * time.Second

// giveBack returns jobs to the queue that the database has marked as running here for some time, when the connection
// broke before this process heard of them. Nobody would run them while this process lives.
func (s *Scheduler) giveBack(ctx context.Context, ss *session, after time.Duration) error {
	running, err := s.store.RunningBy(ctx, ss.pool, ss.client.ID(), after)
	if err != nil || len(running) == 0 {
		return err
	}
	// In this order: once their fetches have ended, all of these that are not lost are held or have ended. A process
	// may be frozen at any point.
	held, ok := ss.flow.Held(time.Now())
	lost := slices.DeleteFunc(running, func(a store.Attempt) bool { return held[a.ID] })
	if !ok || len(lost) == 0 {
		return nil
	}
	queues, err := s.store.GiveBack(ctx, ss.pool, ss.client.ID(), lost)
	if n := len(queues); n > 0 {
		s.log.WarnContext(ctx, "jobs whose fetch was lost on the way to this process return to the queue", "jobs", n)
		s.wake.Notify(ctx, queues)
	}
	return err
}

// resetEvery bounds how often connections to a read-only server are given up: there may be no other server yet.
const resetEvery = 5 * time.Second

// readOnlyCode is the SQLSTATE of a write on a standby, or in a session that is read-only by default.
const readOnlyCode = "25006"

// leaveReadOnly closes the connections of a pool whose server has become read-only, so that the next ones go to the
// server that is primary now. After some failovers the old primary keeps its connections open.
func (s *Scheduler) leaveReadOnly(pool *pgxpool.Pool, err error) {
	if store.Code(err) != readOnlyCode {
		return
	}
	last := &s.resets.app
	ss := s.session.Load()
	if ss != nil && pool == ss.pool {
		last = &s.resets.own
	}
	now := time.Now().UnixNano()
	if previous := last.Load(); now-previous < int64(resetEvery) || !last.CompareAndSwap(previous, now) {
		return
	}
	s.log.Warn("the server refuses writes; closing the connections to it", "error", err)
	pool.Reset()
	if last == &s.resets.own {
		ss.flow.Reset()
	}
}

// resets has when the connections of the application's pool and of the scheduler's own were last given up.
type resets struct{ app, own atomic.Int64 }

// checkEncoding returns an error unless the database can store every text.
func checkEncoding(ctx context.Context, st *store.Store, db store.DB) error {
	encoding, err := st.Encoding(ctx, db)
	if err == nil && encoding != "UTF8" {
		err = fmt.Errorf("the database's encoding is %s: it must be UTF8, or an error text that it cannot store would stop "+
			"all jobs; create the database with ENCODING 'UTF8' TEMPLATE template0", encoding)
	}
	return err
}
