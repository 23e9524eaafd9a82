package stall

import (
	"time"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// seenFor is how long before a run is taken for stalled it was first seen waiting.
const seenFor = 2 * time.Second

// Sightings are the runs that were seen waiting though workers were free, by queue.
type Sightings map[string]sighting

type sighting struct {
	id    int64
	first time.Time
}

// Confirm keeps those of the stalls in these queues whose run was first seen long enough ago.
func (s Sightings) Confirm(queues []string, found []store.Stall, now time.Time) map[string]store.Stall {
	confirmed, present := map[string]store.Stall{}, map[string]bool{}
	for _, f := range found {
		present[f.Queue] = true
		if seen := s[f.Queue]; seen.id != f.ID {
			s[f.Queue] = sighting{f.ID, now}
		} else if now.Sub(seen.first) >= seenFor {
			confirmed[f.Queue] = f
		}
	}
	for _, q := range queues {
		if !present[q] {
			delete(s, q)
		}
	}
	return confirmed
}
