package schedule

import (
	"context"
	"maps"
	"time"
)

// Succeeded records that the handler of a tick has succeeded.
func (t *Ticker) Succeeded(name string, tick time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tick.After(t.successes[name]) {
		t.successes[name] = tick
	}
}

// LastSuccess returns the latest tick whose run has succeeded, or the zero time. It knows successes in this process at
// once. Those in others it knows once River has stored them, or if two later ticks have been inserted, a few seconds
// later. So the tick may be too early, but never too late.
func (t *Ticker) LastSuccess(ctx context.Context, name string) (time.Time, error) {
	t.mu.Lock()
	here := t.successes[name] // first: once stored it is removed here
	t.mu.Unlock()
	stored, err := t.cfg.Store.LastSuccess(ctx, t.cfg.Pool, name)
	if here.After(stored) {
		return here, err
	}
	return stored, err
}

// StoreSuccesses stores the successes of this process. Run does so every few seconds, but runs may end after it.
func (t *Ticker) StoreSuccesses(ctx context.Context) {
	t.mu.Lock()
	ticks := maps.Clone(t.successes)
	t.mu.Unlock()
	if len(ticks) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkEvery)
	defer cancel()
	stored, err := t.cfg.Store.PutSuccesses(ctx, t.cfg.Pool, ticks)
	if err != nil {
		t.cfg.Log.DebugContext(ctx, "could not store the successes of schedules; retrying within seconds", "error", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range stored {
		if t.successes[name].Equal(ticks[name]) { // otherwise a later one has succeeded meanwhile
			delete(t.successes, name)
		}
	}
}
