package stall_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/stall"
	"github.com/everytick/everytick/adapters/river/internal/store"
)

func TestSightings_ConfirmARunSeenForLong(t *testing.T) {
	t.Parallel()
	// A look is what the database reports after some seconds: the waiting run of queue q, if that is idle. The run of
	// queue other waits all the time.
	type look struct {
		at   float64
		idle bool
		id   int64 // 0: none
		want bool
	}
	for name, looks := range map[string][]look{
		"seen once":                       {{0, true, 1, false}},
		"seen again, but soon":            {{0, true, 1, false}, {1.9, true, 1, false}},
		"seen for long":                   {{0, true, 1, false}, {1, true, 1, false}, {2, true, 1, true}, {9, true, 1, true}},
		"another one each time":           {{0, true, 1, false}, {5, true, 2, false}, {9, true, 3, false}},
		"another one, then for long":      {{0, true, 1, false}, {5, true, 2, false}, {7, true, 2, true}},
		"gone meanwhile":                  {{0, true, 1, false}, {1, true, 0, false}, {3, true, 1, false}, {5, true, 1, true}},
		"its workers were busy meanwhile": {{0, true, 1, false}, {1, false, 0, false}, {3, true, 1, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen, start := stall.Sightings{}, time.Now()
			for _, l := range looks {
				queues, found := []string{"other"}, []store.Stall{{Queue: "other", ID: 99}}
				if l.idle {
					queues = append(queues, "q")
				}
				if l.id != 0 {
					found = append(found, store.Stall{Queue: "q", ID: l.id})
				}
				var want []string
				if l.at >= 2 {
					want = append(want, "other")
				}
				if l.want {
					want = append(want, "q")
				}
				confirmed := seen.Confirm(queues, found, start.Add(time.Duration(l.at*float64(time.Second))))
				require.Equal(t, want, slices.Sorted(maps.Keys(confirmed)), "after %v s", l.at)
				if l.want {
					require.Equal(t, l.id, confirmed["q"].ID)
				}
			}
		})
	}
}
