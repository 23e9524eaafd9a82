// Package batch gathers concurrent callers into one call. While a call is in flight, callers that arrive
// wait for the next one, so many share the cost of one. Nobody waits for others to come: a caller that
// finds no call in flight makes its own at once, on its own goroutine and with its own context.
//
// It knows nothing of what the call does but whether a failure can be the fault of one item, with nothing
// done for the others. Then the batch is halved until that item is found. Otherwise every caller gets the
// error, and no item is passed to a call again. Each caller gets its answer as soon as its outcome is known, and none
// waits longer than [Config].Timeout.
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
	// Call does the work for all items or for none. Its context ends after Timeout; that of a lone
	// caller is derived from the caller's, that of a batch has none of its callers' values.
	Call func(ctx context.Context, items []T) error
	// Divisible reports whether an error of Call proves that nothing was done for any of its items, and one
	// of them may be the reason.
	Divisible func(err error) bool
	// Size returns the size of an item, in the unit of MaxSize.
	Size func(item T) int
	// MaxItems and MaxSize bound one batch. A single item may be larger than MaxSize.
	MaxItems, MaxSize int
	// Patience is how long callers wait while no call begins. Then one begins beside those in flight,
	// which may hang on a dead connection.
	Patience time.Duration
	// Timeout bounds each call, and how long a caller waits in total.
	Timeout time.Duration
}

var (
	// ErrNotCalled says that an item was in no call when its caller's time was over.
	ErrNotCalled = errors.New("no turn came in time")
	// ErrNoAnswer says that the call an item was in had not returned when its caller's time was over.
	ErrNoAnswer = errors.New("no answer came in time")
)

const (
	// overlapAtLeast is how many callers have to wait for a second call beside the one in flight.
	overlapAtLeast = 12
	// maxStuck is how many calls that hang others may pass.
	maxStuck = 4
)

// A Batcher gathers callers. Make one with [New].
type Batcher[T any] struct {
	cfg Config[T]

	mu      sync.Mutex
	waiting list.List          // of *entry[T]
	turns   map[*turn]struct{} // the calls in flight
	moving  int                // how many of them are not stuck
	began   time.Time          // when the latest of them did
}

// A turn is the right to make calls, one after the other.
type turn struct{ stuck bool }

// An entry is a caller that waits.
type entry[T any] struct {
	item  T
	done  chan error    // gets the outcome; has room for it
	place *list.Element // in waiting, or nil
	left  bool          // the caller has gone
}

// New returns a Batcher. All fields of cfg have to be set.
func New[T any](cfg Config[T]) *Batcher[T] {
	return &Batcher[T]{cfg: cfg, turns: map[*turn]struct{}{}}
}

// Do returns when a call with item has ended, with its error. If ctx ends first Do returns its error at
// once, and the item may be done or not, unless it had no turn yet. It panics if the call of a lone caller does.
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
			_ = b.leave(e)
			return ctx.Err()
		}
	}
}

// leave takes a caller out, and says what is known of its item.
func (b *Batcher[T]) leave(e *entry[T]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.left = true
	if e.place != nil {
		b.waiting.Remove(e.place)
		return ErrNotCalled
	}
	select {
	case err := <-e.done: // just now
		return err
	default:
		return ErrNoAnswer
	}
}

func (b *Batcher[T]) begin() *turn {
	t := &turn{}
	b.turns[t] = struct{}{}
	b.moving++
	b.began = time.Now()
	return t
}

// end gives a turn back if nobody waits, or so few that the other turn will do.
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

// overtake begins a turn beside those that are stuck.
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

// work makes calls until nobody waits.
func (b *Batcher[T]) work(t *turn) {
	for b.gather(); !b.end(t); b.gather() {
		b.run(b.take())
	}
}

// gather lets those who are about to call do so. Callers that have just got their answer often have the
// next item ready: without this the first of them would go alone, and the others wait for it.
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

// take returns as many of those that wait as go into one call.
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

// run makes a call for a batch, in parts if need be, and tells each of its callers.
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

// present returns those that have not left, and their items.
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

// callSafely makes a panic an error of the callers, whose goroutine this is not.
func (b *Batcher[T]) callSafely(items []T) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n\n%s", v, debug.Stack())
		}
	}()
	return b.call(context.Background(), items)
}

func (b *Batcher[T]) call(ctx context.Context, items []T) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	return b.cfg.Call(ctx, items)
}
