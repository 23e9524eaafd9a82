// Package batch combines concurrent callers into one call. Callers that arrive while a call is in flight wait for the
// next one and share it. A caller that finds no call in flight makes its own at once, on its own goroutine and with
// its own context.
//
// If a call fails, did nothing for any item, and one item may be the cause, the batch is halved until that item is
// found. After any other error every caller gets the error, and no item is passed to another call. Each caller gets
// its result as soon as it is known, and none waits longer than [Config].Timeout.
package batch

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Config configures a [Batcher].
type Config[T any] struct {
	// Call does the work for all items or for none. Its context ends after Timeout. The context of a call for a lone
	// caller is derived from the caller's; that of a batch has none of its callers' values.
	Call func(ctx context.Context, items []T) error
	// Divisible reports whether an error proves that Call did nothing for any item, and one of them may be the cause.
	Divisible func(err error) bool
	// Size returns the size of an item, in the unit of MaxSize.
	Size func(item T) int
	// MaxItems and MaxSize bound one batch. A single item may be larger than MaxSize.
	MaxItems, MaxSize int
	// Patience is how long callers wait for a call to begin. After that, one begins beside those in flight, which may
	// hang on a dead connection.
	Patience time.Duration
	// Timeout bounds each call, and how long a caller waits in total.
	Timeout time.Duration
}

var (
	// ErrNotCalled means that the timeout passed before the item was passed to a call.
	ErrNotCalled = errors.New("batch: timed out before the call")
	// ErrNoAnswer means that the timeout passed, or the caller's context ended, before the call with the item returned.
	ErrNoAnswer = errors.New("batch: no answer of the call")

	errExited = errors.New("batch: the call exited its goroutine")
)

const (
	// overlapAtLeast is how many callers must wait before a second call begins beside the one in flight.
	overlapAtLeast = 8
	// maxStuck is how many stuck calls may be overtaken at the same time.
	maxStuck = 4
)

// A Batcher combines callers. Create one with [New].
type Batcher[T any] struct {
	cfg Config[T]

	mu      sync.Mutex
	waiting list.List          // of *entry[T]
	turns   map[*turn]struct{} // those in progress
	moving  int                // how many of them are not stuck
	began   time.Time          // when the latest call began
}

// A turn is the right to make calls, one after the other.
type turn struct{ stuck bool }

// An entry is a waiting caller.
type entry[T any] struct {
	item  T
	done  chan error    // receives the result; buffered
	place *list.Element // in waiting, or nil
	left  bool          // the caller has returned
}

// New returns a Batcher. All fields of cfg are required.
func New[T any](cfg Config[T]) *Batcher[T] {
	return &Batcher[T]{cfg: cfg, turns: map[*turn]struct{}{}}
}

// Do makes or joins a call with item and returns its error. If ctx ends first, Do returns the error of ctx at once, with
// [ErrNoAnswer] if a call with item has begun, which continues. If the call of a lone caller panics, Do panics.
func (b *Batcher[T]) Do(ctx context.Context, item T) error {
	b.mu.Lock()
	if b.moving == 0 {
		t := b.begin()
		b.mu.Unlock()
		defer func() {
			if !b.end(t) {
				go b.work(t)
			}
		}()
		return b.call(ctx, []T{item})
	}
	e := &entry[T]{item: item, done: make(chan error, 1)}
	e.place = b.waiting.PushBack(e)
	if b.moving == 1 && b.waiting.Len() >= overlapAtLeast {
		go b.work(b.begin())
	}
	b.mu.Unlock()
	return b.wait(ctx, e)
}

func (b *Batcher[T]) wait(ctx context.Context, e *entry[T]) error {
	began := time.Now()
	timer := time.NewTimer(b.cfg.Patience)
	defer timer.Stop()
	for {
		select {
		case err := <-e.done:
			return err
		case <-timer.C:
			left := b.cfg.Timeout - time.Since(began)
			if left <= 0 {
				return b.leave(e)
			}
			b.overtake()
			timer.Reset(min(b.cfg.Patience, left))
		case <-ctx.Done():
			switch err := b.leave(e); {
			case errors.Is(err, ErrNotCalled):
				return ctx.Err()
			case errors.Is(err, ErrNoAnswer):
				return fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
			default: // the call has just returned
				return err
			}
		}
	}
}

// leave removes a caller and returns what is known about its item.
func (b *Batcher[T]) leave(e *entry[T]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.left = true
	if e.place != nil {
		b.waiting.Remove(e.place)
		return ErrNotCalled
	}
	select {
	case err := <-e.done: // the call has just returned
		return err
	default:
		return ErrNoAnswer
	}
}

// begin begins a turn. The caller holds mu.
func (b *Batcher[T]) begin() *turn {
	t := &turn{}
	b.turns[t] = struct{}{}
	b.moving++
	b.began = time.Now()
	return t
}

// end ends a turn and reports true, unless callers wait and the other turn, if any, is not enough for them.
func (b *Batcher[T]) end(t *turn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !t.stuck {
		if n := b.waiting.Len(); n > 0 && (b.moving == 1 || n >= overlapAtLeast) {
			return false
		}
		b.moving--
	}
	delete(b.turns, t)
	return true
}

// overtake begins a turn beside stuck ones, if no call has begun for Patience.
func (b *Batcher[T]) overtake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting.Len() == 0 || len(b.turns)-b.moving >= maxStuck || time.Since(b.began) < b.cfg.Patience {
		return
	}
	for t := range b.turns {
		t.stuck = true
	}
	b.moving = 0
	go b.work(b.begin())
}

// work makes calls until the turn ends.
func (b *Batcher[T]) work(t *turn) {
	for b.gather(); !b.end(t); b.gather() {
		b.run(b.take())
	}
}

// gather yields until no more callers arrive. Callers that have just got their result often have the next item ready;
// without this the first of them would be called alone and the others would wait for it.
func (b *Batcher[T]) gather() {
	for before := -1; ; runtime.Gosched() {
		b.mu.Lock()
		n := b.waiting.Len()
		b.mu.Unlock()
		if n == before || n >= b.cfg.MaxItems {
			return
		}
		before = n
	}
}

// take returns as many waiting callers as fit into one call.
func (b *Batcher[T]) take() (batch []*entry[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.began = time.Now()
	size := 0
	for front := b.waiting.Front(); front != nil && len(batch) < b.cfg.MaxItems; front = b.waiting.Front() {
		e := front.Value.(*entry[T])
		if size += b.cfg.Size(e.item); len(batch) > 0 && size > b.cfg.MaxSize {
			break
		}
		b.waiting.Remove(front)
		e.place = nil
		batch = append(batch, e)
	}
	return batch
}

// run makes a call for a batch, in parts if necessary, and sends each caller its result.
func (b *Batcher[T]) run(batch []*entry[T]) {
	present, items := b.present(batch)
	if len(present) == 0 {
		return
	}
	err := b.callSafely(items)
	if err != nil && len(present) > 1 && b.cfg.Divisible(err) {
		half := len(present) / 2
		b.run(present[:half])
		b.run(present[half:])
		return
	}
	for _, e := range present {
		e.done <- err
	}
}

// present returns the callers that have not left, and their items.
func (b *Batcher[T]) present(batch []*entry[T]) (present []*entry[T], items []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range batch {
		if !e.left {
			present, items = append(present, e), append(items, e.item)
		}
	}
	return present, items
}

// callSafely turns a panic into an error, because this is not a caller's goroutine. Call has one of its own, which it may
// end.
func (b *Batcher[T]) callSafely(items []T) (err error) {
	ended := make(chan struct{})
	err = errExited
	go func() {
		defer close(ended)
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v\n\n%s", v, debug.Stack())
			}
		}()
		err = b.call(context.Background(), items)
	}()
	<-ended
	return err
}

func (b *Batcher[T]) call(ctx context.Context, items []T) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	return b.cfg.Call(ctx, items)
}
