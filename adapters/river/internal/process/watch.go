package process

import (
	"maps"
	"slices"
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// A Watch decides which processes are dead, by what one process sees of the others' heartbeats. It is the one
// rule there is: a process is dead if its counter has not changed for a while of the watcher's own monotonic
// clock, during which the watcher has stored its own without a gap. So a database that was away, or a watcher
// that was frozen, makes no process dead. A process that has stopped says so, and is dead at once.
//
// It reads no clock and is not safe for concurrent use.
type Watch struct {
	deadAfter time.Duration
	maxGap    time.Duration // between two beats of our own
	last      time.Time     // of our own latest beat
	seen      map[string]sighting
}

// A sighting is what was last seen of a process.
type sighting struct {
	beat          int64
	since         time.Time // when it was first seen with that beat, in a time without gaps
	registrations string
}

// NewWatch returns a watch that has seen nothing. A gap of maxGap between beats is one in which others may have
// beaten without being seen; it is shorter than deadAfter.
func NewWatch(deadAfter, maxGap time.Duration) *Watch {
	return &Watch{deadAfter: deadAfter, maxGap: maxGap, seen: map[string]sighting{}}
}

// Observe takes what the watcher saw as it stored its own heartbeat, which is at now.
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

// Dead returns the IDs of processes that are dead at the latest beat, sorted.
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

// Live returns how many processes are not dead, and all their registrations.
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
