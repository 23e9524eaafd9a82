package batch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/internal/batch"
)

var (
	errRefused = errors.New("refused")
	errUnknown = errors.New("unknown outcome")
)

const timeout = 10 * time.Second

func newBatcher(call func(ctx context.Context, items []int) error) *batch.Batcher[int] {
	return batch.New(batch.Config[int]{
		Call: call, Divisible: func(err error) bool { return errors.Is(err, errRefused) },
		Size: func(int) int { return 1 }, MaxItems: 1000, MaxSize: 1 << 20,
		Patience: 250 * time.Millisecond, Timeout: timeout,
	})
}

// gathered makes n callers wait while another one holds the turn, and returns the error of each.
func gathered(b *batch.Batcher[int], hold, release chan struct{}, n int) []error {
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Do(context.Background(), -1) })
	<-hold
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = b.Do(context.Background(), i) })
	}
	synctest.Wait()
	close(release)
	wg.Wait()
	return errs
}

// holding wraps call so that the one with item -1 closes hold, and that one and those beside it block until release is
// closed.
func holding(call func(ctx context.Context, items []int) error) (do func(context.Context, []int) error, hold, release chan struct{}) {
	hold, release = make(chan struct{}), make(chan struct{})
	return func(ctx context.Context, items []int) error {
		if items[0] == -1 {
			close(hold)
		}
		if <-release; items[0] == -1 {
			return nil
		}
		return call(ctx, items)
	}, hold, release
}

func TestBatcher_CallersThatArriveDuringACallShareTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes, all []int
		call, hold, release := holding(func(_ context.Context, items []int) error {
			mu.Lock()
			defer mu.Unlock()
			sizes, all = append(sizes, len(items)), append(all, items...)
			return nil
		})
		for _, err := range gathered(newBatcher(call), hold, release, 7) { // an eighth would begin a second call
			require.NoError(t, err)
		}
		require.Equal(t, []int{7}, sizes)
		slices.Sort(all)
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6}, all)
	})
}

func TestBatcher_HalvesARefusedBatchUntilTheItemIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		done := make([]atomic.Int64, 1000)
		call, hold, release := holding(func(_ context.Context, items []int) error {
			calls.Add(1)
			if slices.Contains(items, 77) {
				return errRefused
			}
			for _, i := range items {
				done[i].Add(1)
			}
			return nil
		})
		for i, err := range gathered(newBatcher(call), hold, release, 1000) {
			if i == 77 {
				require.ErrorIs(t, err, errRefused)
				continue
			}
			require.NoError(t, err)
			require.EqualValues(t, 1, done[i].Load(), "item %d", i)
		}
		require.LessOrEqual(t, calls.Load(), int64(24), "two calls for each halving, and a few more")
	})
}

func TestBatcher_OtherErrorsGoToAllCallersOfTheBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var passed atomic.Int64
		call, hold, release := holding(func(_ context.Context, items []int) error {
			passed.Add(int64(len(items)))
			return errUnknown
		})
		for _, err := range gathered(newBatcher(call), hold, release, 40) {
			require.ErrorIs(t, err, errUnknown)
		}
		require.EqualValues(t, 40, passed.Load(), "each item is in one call")
	})
}

// Each call takes 9 seconds, and every item is refused.
func TestBatcher_NoCallerWaitsLongerThanTheTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		call, hold, release := holding(func(ctx context.Context, _ []int) error {
			select {
			case <-time.After(9 * time.Second):
				return errRefused
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		began := time.Now()
		errs := gathered(newBatcher(call), hold, release, 101)
		require.LessOrEqual(t, time.Since(began), timeout)
		for _, err := range errs {
			require.Error(t, err)
		}
		time.Sleep(time.Minute) // until the last calls have ended
	})
}

func TestBatcher_ReportsWhetherAnItemWasInACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBatcher(func(context.Context, []int) error {
			time.Sleep(time.Hour) // ignores the end of its context
			return nil
		})
		errs := make(chan error, 100)
		for range 30 {
			go func() { errs <- b.Do(context.Background(), 1) }()
			synctest.Wait()
			time.Sleep(300 * time.Millisecond)
		}
		var never, unanswered int
		for range 29 { // the first is still in its own call
			switch err := <-errs; {
			case errors.Is(err, batch.ErrNotCalled):
				never++
			case errors.Is(err, batch.ErrNoAnswer):
				unanswered++
			default:
				require.NoError(t, err)
			}
		}
		require.Positive(t, never)
		require.Positive(t, unanswered)
		time.Sleep(2 * time.Hour)
	})
}

func TestBatcher_OvertakesAFewStuckCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		var hangs atomic.Bool
		b := newBatcher(func(ctx context.Context, _ []int) error {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		hangs.Store(true)
		failed := make(chan error, 100)
		for range 30 {
			go func() { failed <- b.Do(context.Background(), 1) }()
			time.Sleep(300 * time.Millisecond)
		}
		for range 30 {
			require.Error(t, <-failed)
		}
		synctest.Wait()
		require.LessOrEqual(t, most.Load(), int64(6), "two beside the four that may be stuck")
		require.Greater(t, most.Load(), int64(1))
		hangs.Store(false)
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			require.NoError(t, b.Do(ctx, 1))
			cancel()
		}
		time.Sleep(timeout) // until the stuck calls have ended
	})
}

func TestBatcher_ReturnsWhenTheCallersContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var passed atomic.Int64
		call, hold, release := holding(func(_ context.Context, items []int) error {
			passed.Add(int64(len(items)))
			return nil
		})
		b := newBatcher(call)
		go func() { _ = b.Do(context.Background(), -1) }()
		<-hold
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- b.Do(ctx, 1) }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
		close(release)
		synctest.Wait()
		require.Zero(t, passed.Load(), "the caller had left before the call")
	})
}

func TestBatcher_PanicsInALoneCallerAndReturnsErrorsInABatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		panics := newBatcher(func(context.Context, []int) error { panic("at the disco") })
		require.PanicsWithValue(t, "at the disco", func() { _ = panics.Do(t.Context(), 1) })
		require.PanicsWithValue(t, "at the disco", func() { _ = panics.Do(t.Context(), 1) }, "the turn has ended")
		call, hold, release := holding(func(context.Context, []int) error { panic("at the disco") })
		for _, err := range gathered(newBatcher(call), hold, release, 3) {
			require.ErrorContains(t, err, "panic: at the disco")
		}
	})
}

func TestBatcher_OutlivesCallsThatExitTheirGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var call func(context.Context, []int) error
		b := newBatcher(func(ctx context.Context, items []int) error { return call(ctx, items) })
		for range 6 { // more than may be stuck at the same time
			began := time.Now()
			var hold, release chan struct{}
			call, hold, release = holding(func(context.Context, []int) error {
				runtime.Goexit()
				return nil
			})
			for _, err := range gathered(b, hold, release, 3) {
				require.ErrorContains(t, err, "exited its goroutine")
			}
			require.Zero(t, time.Since(began))
			synctest.Wait()
		}
	})
}

func TestBatcher_BoundsBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []int
		call, hold, release := holding(func(_ context.Context, items []int) error {
			mu.Lock()
			defer mu.Unlock()
			sizes = append(sizes, len(items))
			return nil
		})
		b := batch.New(batch.Config[int]{
			Call: call, Divisible: func(error) bool { return false }, Size: func(i int) int { return max(1, i) },
			MaxItems: 4, MaxSize: 10, Patience: time.Second, Timeout: timeout,
		})
		for _, err := range gathered(b, hold, release, 7) {
			require.NoError(t, err)
		}
		for _, n := range sizes {
			require.LessOrEqual(t, n, 4)
		}
	})
}

func TestBatcher_FreesTheItemsOfABurst(t *testing.T) { //nolint:paralleltest // measures the heap
	const callers, size = 700, 100 << 10
	hold, release := make(chan struct{}), make(chan struct{})
	b := batch.New(batch.Config[[]byte]{
		Call: func(_ context.Context, items [][]byte) error {
			if len(items[0]) == 0 {
				close(hold)
				<-release
			}
			return nil
		},
		Divisible: func(error) bool { return false }, Size: func(d []byte) int { return len(d) },
		MaxItems: 1000, MaxSize: 4 << 20, Patience: time.Hour, Timeout: time.Hour,
	})
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Do(context.Background(), nil) })
	<-hold
	for range callers {
		wg.Go(func() { _ = b.Do(context.Background(), make([]byte, size)) })
	}
	close(release)
	wg.Wait()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	require.Less(t, m.HeapAlloc, uint64(callers*size/4), "of %d bytes", callers*size)
	runtime.KeepAlive(b)
}

// Callers leave in constant time, so 50,000 can leave at once.
func BenchmarkBatcher_Leave(bench *testing.B) {
	for _, n := range []int{1_000, 50_000} {
		bench.Run(fmt.Sprint(n), func(bench *testing.B) {
			for range bench.N {
				call, hold, release := holding(func(context.Context, []int) error { return nil })
				b := newBatcher(call)
				go func() { _ = b.Do(context.Background(), -1) }()
				<-hold
				ctx, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				for range n {
					wg.Go(func() { _ = b.Do(ctx, 1) })
				}
				cancel()
				wg.Wait()
				close(release)
			}
		})
	}
}
