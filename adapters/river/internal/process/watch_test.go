package process_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/process"
	"github.com/everytick/everytick/adapters/river/internal/store"
)

// A look is what the watcher sees after some seconds: the counters of processes a and b.
type look struct {
	at   float64
	a, b int64 // -1: no row
}

func TestWatch_DecidesWhichProcessesAreDead(t *testing.T) {
	t.Parallel()
	const deadAfter, maxGap = 30 * time.Second, 10 * time.Second
	// steady returns looks every 2 s, in which a beats all the time and b until a given second.
	steady := func(until, to float64) (looks []look) {
		for at := 0.0; at <= to; at += 2 {
			looks = append(looks, look{at, int64(at) + 1, int64(min(at, until)) + 1})
		}
		return looks
	}
	for _, test := range []struct {
		name  string
		looks []look
		dead  []string
	}{
		{"both beat", steady(100, 100), nil},
		{"one is silent, but not long enough", steady(20, 48), nil},
		{"one is silent for DeadAfter", steady(20, 50), []string{"b"}},
		{"one has stopped", append(steady(20, 20), look{22, 23, 0}), []string{"b"}},
		{"one had stopped before the first look", []look{{0, 1, 0}}, []string{"b"}},
		{"one beats again", append(steady(20, 60), look{62, 63, 500}), nil},
		{"a deleted row counts as no process", append(steady(20, 60), look{62, 63, -1}), nil},
		{"silent since the first look, but not long enough", []look{{0, 1, 7}, {5, 2, 7}, {10, 3, 7}, {20, 4, 7}, {29, 5, 7}}, nil},
		{"silent since the first look", []look{{0, 1, 7}, {5, 2, 7}, {10, 3, 7}, {20, 4, 7}, {30, 5, 7}}, []string{"b"}},
		// The database was unreachable or the watcher frozen, so no beats could be seen.
		{"the watcher had a gap", append(steady(20, 40), look{100, 101, 21}), nil},
		{"the time starts again after a gap", append(steady(20, 40), look{100, 101, 21}, look{110, 102, 21}, look{120, 103, 21}, look{129, 104, 21}), nil},
		{"long enough after a gap", append(steady(20, 40), look{100, 101, 21}, look{110, 102, 21}, look{120, 103, 21}, look{130, 104, 21}), []string{"b"}},
		{"an interval just short of a gap", []look{{0, 1, 7}, {10, 2, 7}, {20, 3, 7}, {30, 4, 7}}, []string{"b"}},
		{"an interval just long enough for a gap", []look{{0, 1, 7}, {10, 2, 7}, {20.1, 3, 7}, {30, 4, 7}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := process.NewWatch(deadAfter, maxGap)
			start := time.Now()
			for _, l := range test.looks {
				var all []store.Beat
				if l.a >= 0 {
					all = append(all, store.Beat{ID: "a", Count: l.a, Registrations: "A"})
				}
				if l.b >= 0 {
					all = append(all, store.Beat{ID: "b", Count: l.b, Registrations: "B"})
				}
				w.Observe(start.Add(time.Duration(l.at*float64(time.Second))), all)
			}
			require.Equal(t, test.dead, w.Dead())
			n, registrations := w.Live()
			last := test.looks[len(test.looks)-1]
			want := 1
			if last.b >= 0 && test.dead == nil {
				want = 2
			}
			require.Equal(t, want, n)
			require.Equal(t, want == 2, registrations["B"])
			require.True(t, registrations["A"])
		})
	}
}
