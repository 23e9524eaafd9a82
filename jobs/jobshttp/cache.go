package jobshttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// cached keeps the last good answer of the scheduler's to one question, and asks it
// again once at a time, however many look.
type cached[T any] struct {
	ttl  time.Duration
	load func(context.Context) (T, error)

	mu      sync.Mutex
	last    snapshot[T]
	checked time.Time     // when last.err was found out; zero when it must be again
	flight  chan struct{} // closed when the question is answered; nil while none is asked
}

// snapshot is an answer.
type snapshot[T any] struct {
	value T
	at    time.Time // when it was given; zero when there has been none
	err   error     // why there is no newer one; nil when value is fresh
}

func newCached[T any](logger *slog.Logger, what string, ttl time.Duration, load func(context.Context) (T, error)) *cached[T] {
	failing := false // flights do not overlap unless by expire, and then it is read under the lock
	var mu sync.Mutex
	return &cached[T]{ttl: ttl, load: func(ctx context.Context) (value T, err error) {
		defer func() {
			if v := recover(); v != nil { // nobody else would catch it here
				err = fmt.Errorf("panic: %v", v)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, errors.ErrUnsupported):
				return
			case err != nil && !failing:
				logger.Error("the scheduler does not answer", "question", what, "error", err)
			case err == nil && failing:
				logger.Info("the scheduler answers again", "question", what)
			}
			failing = err != nil
		}()
		return load(ctx)
	}}
}

// retryAfter is how long an error stands.
const retryAfter = time.Second

// get returns an answer that is not older than the time to live, or, when there is none
// by the end of ctx, the last one with an error.
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

// begin asks the question if need be and returns what is closed when it is answered, or
// nil and the answer.
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
		go c.ask(c.flight)
	}
	return c.flight, c.last
}

// ask does not use the context of a request: others wait for the answer too.
func (c *cached[T]) ask(flight chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	value, err := c.load(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	close(flight)
	if c.flight != flight {
		return // the answer is from before a change
	}
	c.flight, c.checked = nil, time.Now()
	if c.last.err = err; err == nil {
		c.last.value, c.last.at = value, c.checked
	}
}

// peek returns the last answer without asking.
func (c *cached[T]) peek() snapshot[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// expire makes the next get ask again, even if the question is being asked.
func (c *cached[T]) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.flight = time.Time{}, nil
}
