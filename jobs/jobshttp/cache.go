package jobshttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// cached holds the latest good result of load. Concurrent callers share one call of it.
type cached[T any] struct {
	ttl  time.Duration
	load func(context.Context) (T, error)

	mu      sync.Mutex
	last    snapshot[T]
	checked time.Time     // when load last returned; zero after expire
	flight  chan struct{} // closed when the call of load in progress returns; nil if there is none
}

// snapshot is a result of load.
type snapshot[T any] struct {
	value T
	at    time.Time // when value was loaded; zero if never
	err   error     // why there is no newer value; nil if value is fresh
}

func newCached[T any](
	logger *slog.Logger, what string, ttl time.Duration, load func(context.Context) (T, error),
) *cached[T] {
	failing := false
	var mu sync.Mutex // guards failing: calls overlap after expire
	return &cached[T]{ttl: ttl, load: func(ctx context.Context) (value T, err error) {
		defer func() {
			if v := recover(); v != nil { // net/http recovers panics only in its own goroutines
				err = fmt.Errorf("panic: %v", v)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, errors.ErrUnsupported):
				return
			case err != nil && !failing:
				logger.Error("the scheduler does not answer", "query", what, "error", err)
			case err == nil && failing:
				logger.Info("the scheduler answers again", "query", what)
			}
			failing = err != nil
		}()
		return load(ctx)
	}}
}

// retryAfter bounds how long an error is cached.
const retryAfter = time.Second

// get returns a result no older than ttl. If ctx ends before there is one, it returns the
// previous value with an error.
func (c *cached[T]) get(ctx context.Context) snapshot[T] {
	for {
		done, last := c.begin()
		if done == nil {
			return last
		}
		select {
		case <-done:
		case <-ctx.Done():
			last.err = ctx.Err()
			return last
		}
	}
}

// begin calls load in a goroutine unless the result is fresh or a call is in progress. It
// returns a channel that is closed when the call returns, nil if the result is fresh.
func (c *cached[T]) begin() (<-chan struct{}, snapshot[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ttl := c.ttl
	if c.last.err != nil {
		ttl = min(ttl, retryAfter)
	}
	if !c.checked.IsZero() && time.Since(c.checked) < ttl {
		return nil, c.last
	}
	if c.flight == nil {
		c.flight = make(chan struct{})
		go c.refresh(c.flight)
	}
	return c.flight, c.last
}

// refresh does not use the context of a request, because others wait for the result too.
func (c *cached[T]) refresh(flight chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	value, err := c.load(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	close(flight)
	if c.flight != flight {
		return // expire was called meanwhile, so the result may be old
	}
	c.flight, c.checked = nil, time.Now()
	if c.last.err = err; err == nil {
		c.last.value, c.last.at = value, c.checked
	}
}

// peek returns the latest result without calling load.
func (c *cached[T]) peek() snapshot[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// expire makes the next get call load, even if a call is in progress.
func (c *cached[T]) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.flight = time.Time{}, nil
}
