package process

import (
	"maps"
	"slices"
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// A Watch decides which processes are dead, from the heartbeats that one process sees. The only rule: a process is
// dead if its counter has not changed for some time of the watcher's own monotonic clock, during which the watcher
// stored its own heartbeats without a gap. So neither an unreachable database nor a frozen watcher makes a process
// dead. A process that says it has stopped is dead at once.
//
// A Watch reads no clock and is not safe for concurrent use.
type Watch struct {
	deadAfter time.Duration
	maxGap    time.Duration // between two of the watcher's own beats
	last      time.Time     // the watcher's latest beat
	seen      map[string]sighting
}

// A sighting is what was last seen of a process.
type sighting struct {
	beat          int64
	since         time.Time // when this beat was first seen, without a gap since
	registrations string
}

// NewWatch returns a watch that has seen no process. If two beats of the watcher are more than maxGap apart, it may
// have missed beats of others. maxGap must be shorter than deadAfter.
func NewWatch(deadAfter, maxGap time.Duration) *Watch {
	return &Watch{deadAfter: deadAfter, maxGap: maxGap, seen: map[string]sighting{}}
}

// Observe records the heartbeats that the watcher saw when it stored its own at now.
func (w *Watch) Observe(now time.Time, all []store.Beat) {
	gap := now.Sub(w.last) > w.maxGap
	w.last = now
	seen := make(map[string]sighting, len(all))
	for _, b := range all {
		s, known := w.seen[b.ID]
		if !known || gap || s.beat != b.Count {
			s = sighting{since: now}
		}
		s.beat, s.registrations = b.Count, b.Registrations
		seen[b.ID] = s
	}
	w.seen = seen
}

// Dead returns the sorted IDs of the processes that were dead at the latest beat.
func (w *Watch) Dead() (dead []string) {
	for id, s := range w.seen {
		if w.isDead(s) {
			dead = append(dead, id)
		}
	}
	slices.Sort(dead)
	return dead
}

func (w *Watch) isDead(s sighting) bool {
	return s.beat == 0 || w.last.Sub(s.since) >= w.deadAfter
}

// Live returns the number of processes that are not dead and the set of their registrations.
func (w *Watch) Live() (n int, registrations map[string]bool) {
	registrations = map[string]bool{}
	for s := range maps.Values(w.seen) {
		if !w.isDead(s) {
			n++
			registrations[s.registrations] = true
		}
	}
	return n, registrations
}
