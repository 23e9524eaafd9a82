package memory

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// key is a key of [jobs.UniqueWaiting] and [jobs.Latest].
type key struct {
	live    []*row        // its rows that have not ended, including those of tx
	tx      *Tx           // outermost open transaction that has triggered the key; nil if none
	settled chan struct{} // closed when tx no longer holds the key
}

// latest returns the row that was triggered last, or nil. A row that will be skipped does not count.
func (k *key) latest() (latest *row) {
	for _, r := range k.live {
		if r.overtaken == "" && (latest == nil || r.seq > latest.seq) {
			latest = r
		}
	}
	return latest
}

// key returns the key of that name.
func (q *queue) key(name string) *key {
	k := q.keys[name]
	if k == nil {
		k = &key{}
		q.keys[name] = k
	}
	return k
}

// dropKey takes r's key away, if it has one.
func (q *queue) dropKey(r *row) {
	if r.key != "" {
		k := q.key(r.key)
		k.live = slices.DeleteFunc(k.live, func(other *row) bool { return other == r })
		q.forgetKey(r.key)
	}
}

// forgetKey deletes the key of that name if nothing has it.
func (q *queue) forgetKey(name string) {
	if k := q.keys[name]; k != nil && k.tx == nil && len(k.live) == 0 {
		delete(q.keys, name)
	}
}

// storeKeyed inserts a row for a request with a key, or finds or replaces the row that waits with it, in tx unless that
// is nil. If another open transaction has triggered the key, it waits with the mutex released.
func (s *Scheduler) storeKeyed(ctx context.Context, q *queue, tx *Tx, req *jobs.Request) (*row, error) {
	k := q.key(req.Unique)
	for k.tx != nil && (tx == nil || k.tx != tx.outermost()) {
		if err := s.await(ctx, q, k.settled); err != nil {
			return nil, err
		}
		k = q.key(req.Unique)
	}
	if tx != nil && k.tx == nil {
		if err := s.lockKey(q, tx, req.Unique); err != nil {
			return nil, err
		}
	}
	now := clock()
	latest := k.latest()
	state := jobs.State("")
	switch {
	case latest == nil:
	case latest.tx != nil: // of this transaction
		state = jobs.StateScheduled
	default:
		state = latest.state
	}
	var overtakes []*row
	if req.UniqueMode == jobs.UniqueModeLatest {
		overtakes = slices.Clone(k.live)
	}
	switch provider.DecideKey(req.UniqueMode, state) {
	case provider.KeyReturn:
		return latest, s.hold(q, tx, latest)
	case provider.KeyReplace:
		overtakes = slices.DeleteFunc(overtakes, func(r *row) bool { return r == latest })
		replace := func() { s.replace(latest, req, provider.Due(req, now), overtakes) }
		if tx == nil {
			replace()
			return latest, nil
		}
		if err := s.hold(q, tx, latest); err != nil {
			return nil, err
		}
		return latest, s.addTo(q, tx, func(committed bool) {
			if committed && latest.ended.IsZero() {
				replace()
			}
		})
	}
	r := s.newRow(q, row{
		data: req.Data, metadata: maps.Clone(req.Metadata), priority: req.Priority, due: provider.Due(req, now),
		key: req.Unique, overtakes: overtakes,
	}, now)
	if tx == nil {
		s.add(r)
	} else if err := s.addIn(tx, r); err != nil {
		return nil, err
	}
	q.claim(r)
	return r, nil
}

// lockKey makes other triggers of the key wait until tx has ended.
func (s *Scheduler) lockKey(q *queue, tx *Tx, name string) error {
	k, settled := q.key(name), make(chan struct{})
	err := tx.addLock(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		k.tx = nil
		close(settled)
		q.forgetKey(name)
	})
	if err != nil {
		q.forgetKey(name)
		return txError(q, err)
	}
	k.tx, k.settled = tx.outermost(), settled
	return nil
}

// hold keeps r from starting before everything that tx does has been done. It does nothing without a transaction.
func (s *Scheduler) hold(q *queue, tx *Tx, r *row) error {
	if tx == nil {
		return nil
	}
	err := tx.addLock(func() {
		defer s.notify()
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.held--; r.held == 0 && r.ended.IsZero() && s.rows[r.id] == r { // not of a transaction that has not committed
			s.park(r, r.state)
		}
	})
	if err != nil {
		return txError(q, err)
	}
	r.held++
	s.unpark(r)
	return nil
}

// addTo calls f with the mutex locked when tx has ended.
func (s *Scheduler) addTo(q *queue, tx *Tx, f func(committed bool)) error {
	err := tx.add(func(committed bool) {
		defer s.notify()
		s.mu.Lock()
		defer s.mu.Unlock()
		f(committed)
	})
	return txError(q, err)
}

// replace gives r, which waits, the data, metadata, priority and due time of a later trigger.
func (s *Scheduler) replace(r *row, req *jobs.Request, due time.Time, overtakes []*row) {
	s.unpark(r)
	r.data, r.metadata, r.priority, r.overtakes = req.Data, maps.Clone(req.Metadata), req.Priority, overtakes
	r.due = provider.ReplacedDue(!r.started.IsZero(), r.due, due)
	state := jobs.StateScheduled
	if r.attempt > 0 {
		state = jobs.StateRetrying
	}
	s.park(r, state)
}
