package schedule

import (
	"context"
	"maps"
	"sync"
	"time"
)

// successes are the latest ticks whose runs succeeded, until they are stored in their rows.
type successes struct {
	mu    sync.Mutex
	ticks map[string]time.Time
}

func (s *successes) add(name string, tick time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ticks == nil {
		s.ticks = map[string]time.Time{}
	}
	if tick.After(s.ticks[name]) {
		s.ticks[name] = tick
	}
}

func (s *successes) get(name string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ticks[name]
}

func (s *successes) all() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ticks)
}

// stored removes a tick unless a later one has succeeded meanwhile.
func (s *successes) stored(name string, tick time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ticks[name].Equal(tick) {
		delete(s.ticks, name)
	}
}

// Succeeded records that the handler of a tick has succeeded.
func (t *Ticker) Succeeded(name string, tick time.Time) { t.successes.add(name, tick) }

// LastSuccess returns the latest tick whose run has succeeded, or the zero time. It knows successes in this process at
// once. Those in others it knows once River has stored them, or if two later ticks have been inserted, a few seconds
// later. So the tick may be too early, but never too late.
func (t *Ticker) LastSuccess(ctx context.Context, name string) (time.Time, error) {
	here := t.successes.get(name) // first: once stored it is removed here
	stored, err := t.cfg.Store.LastSuccess(ctx, t.cfg.Pool, name)
	if here.After(stored) {
		return here, err
	}
	return stored, err
}

// StoreSuccesses stores the successes of this process. Run does so every few seconds, but runs may end after it.
func (t *Ticker) StoreSuccesses(ctx context.Context) {
	ticks := t.successes.all()
	if len(ticks) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkEvery)
	defer cancel()
	stored, err := t.cfg.Store.PutSuccesses(ctx, t.cfg.Pool, ticks)
	if err != nil {
		t.cfg.Log.DebugContext(ctx, "could not store the successes of schedules; retrying within seconds", "error", err)
	}
	for _, name := range stored {
		t.successes.stored(name, ticks[name])
	}
}
