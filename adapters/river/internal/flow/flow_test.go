package flow_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/flow"
)

// database stands for the database behind River's executor.
type database struct {
	riverdriver.Executor
	asked  []int     // by each fetch
	sent   [][]int64 // the jobs of each statement that stores results
	merge  []int64   // jobs whose metadata were stored
	errors [][]byte  // what was to be stored as errors
	fetch  func(n int) ([]*rivertype.JobRow, error)
	store  func(ctx context.Context, ids []int64) error
}

// JobGetAvailable implements [riverdriver.Executor].
func (d *database) JobGetAvailable(
	_ context.Context, p *riverdriver.JobGetAvailableParams,
) (*riverdriver.JobGetAvailableResult, error) {
	d.asked = append(d.asked, p.MaxToLock)
	rows, err := d.fetch(p.MaxToLock)
	if err != nil {
		return nil, err
	}
	return &riverdriver.JobGetAvailableResult{Jobs: rows}, nil
}

// JobSetStateIfRunningMany implements [riverdriver.Executor].
func (d *database) JobSetStateIfRunningMany(
	ctx context.Context, p *riverdriver.JobSetStateIfRunningManyParams,
) ([]*rivertype.JobRow, error) {
	d.sent, d.errors = append(d.sent, slices.Clone(p.ID)), append(d.errors, p.ErrData...)
	if err := cmp.Or(d.store(ctx, p.ID), ctx.Err()); err != nil {
		for i, id := range p.ID {
			if id != poisoned || p.MetadataDoMerge[i] || !errors.Is(err, errRefused) {
				return nil, err
			}
		}
	}
	var rows []*rivertype.JobRow
	for i, id := range p.ID {
		if p.MetadataDoMerge[i] {
			d.merge = append(d.merge, id)
		}
		rows = append(rows, &rivertype.JobRow{ID: id})
	}
	return rows, nil
}

var (
	errRefused  = &pgconn.PgError{Severity: "ERROR", Code: "22P05", Message: "unsupported Unicode escape sequence"}
	errDiskFull = &pgconn.PgError{Severity: "ERROR", Code: "53100", Message: "no space left on device"}
)

// poisoned is a job whose metadata the database refuses.
const poisoned = 4

func rows(ids ...int64) (all []*rivertype.JobRow) {
	for _, id := range ids {
		all = append(all, &rivertype.JobRow{ID: id, Attempt: 1})
	}
	return all
}

// harness is a flow over a database that works, with a log.
type harness struct {
	*flow.Flow
	db     *database
	exec   riverdriver.Executor
	log    *strings.Builder
	failed []error
	owned  []int64 // nil if nobody takes the process for dead
	owner  func(ids []int64, attempts []int) []int64
}

func newHarness() *harness {
	h := &harness{log: &strings.Builder{}, db: &database{}}
	h.db.fetch = func(int) ([]*rivertype.JobRow, error) { return nil, nil }
	h.db.store = func(context.Context, []int64) error { return nil }
	h.Flow = flow.New(flow.Config{
		Log:     slog.New(slog.NewTextHandler(h.log, nil)),
		Failed:  func(err error) { h.failed = append(h.failed, err) },
		Suspect: func(time.Time) bool { return h.owned != nil },
		Owned: func(_ context.Context, ids []int64, attempts []int) ([]int64, error) {
			switch {
			case h.owner != nil:
				return h.owner(ids, attempts), nil
			case h.owned != nil:
				return h.owned, nil
			}
			return ids, nil
		},
	})
	h.exec = h.Watch(h.db)
	return h
}

// get fetches these jobs.
func (h *harness) get(t testing.TB, ids ...int64) {
	t.Helper()
	h.db.fetch = func(int) ([]*rivertype.JobRow, error) { return rows(ids...), nil }
	_, err := h.exec.JobGetAvailable(t.Context(), &riverdriver.JobGetAvailableParams{Queue: "q", MaxToLock: 100})
	require.NoError(t, err)
}

// put ends these jobs and stores their results, with metadata of the poisoned one and of 1. It returns the IDs of the rows.
func (h *harness) put(ctx context.Context, ids ...int64) (stored []int64, err error) {
	for _, id := range ids {
		h.Ended(id, 1, flow.Stored)
	}
	return h.send(ctx, results(ids...))
}

func results(ids ...int64) *riverdriver.JobSetStateIfRunningManyParams {
	n := len(ids)
	p := &riverdriver.JobSetStateIfRunningManyParams{
		ID: ids, Attempt: make([]*int, n), ErrData: make([][]byte, n), FinalizedAt: make([]*time.Time, n),
		MetadataDoMerge: make([]bool, n), MetadataUpdates: make([][]byte, n), ScheduledAt: make([]*time.Time, n),
		State: make([]rivertype.JobState, n),
	}
	for i, id := range ids {
		p.MetadataDoMerge[i] = id == poisoned || id == 1
		p.FinalizedAt[i] = new(time.Now())
	}
	return p
}

// send is what River does with results.
func (h *harness) send(ctx context.Context, p *riverdriver.JobSetStateIfRunningManyParams) (stored []int64, err error) {
	found, err := h.exec.JobSetStateIfRunningMany(ctx, p)
	for _, row := range found {
		stored = append(stored, row.ID)
	}
	return stored, err
}

func (h *harness) held() []int64 {
	held, _ := h.Held(time.Time{})
	return slices.Sorted(maps.Keys(held))
}

func TestFlow_HoldsAJobFromItsFetchUntilItsResultIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness()
		h.get(t, 1, 2, 3)
		require.Equal(t, []int64{1, 2, 3}, h.held())
		h.Ended(3, 1, flow.Foreign) // another process has it
		require.Equal(t, []int64{1, 2}, h.held())
		stored, err := h.send(t.Context(), results(3))
		require.NoError(t, err)
		require.Empty(t, stored, "the result is dropped")
		require.Equal(t, []int64{1, 2}, h.held())

		n, _, err := h.Unstored(time.Now())
		require.Zero(t, n, "none has ended")
		require.NoError(t, err)
		h.db.store = func(context.Context, []int64) error { return errDiskFull }
		ended := time.Now()
		_, err = h.put(t.Context(), 1)
		require.ErrorIs(t, err, errDiskFull)
		time.Sleep(time.Second)
		_, err = h.put(t.Context(), 2)
		require.ErrorIs(t, err, errDiskFull)
		n, first, err := h.Unstored(time.Now())
		require.Equal(t, 2, n)
		require.Equal(t, ended, first)
		require.ErrorIs(t, err, errDiskFull)
		n, _, _ = h.Unstored(ended)
		require.Equal(t, 1, n)
		require.Len(t, h.failed, 2)

		h.db.store = func(context.Context, []int64) error { return nil }
		stored, err = h.put(t.Context(), 1, 2)
		require.NoError(t, err)
		require.Equal(t, []int64{1, 2}, stored)
		require.Empty(t, h.held())
		n, _, err = h.Unstored(time.Now())
		require.Zero(t, n)
		require.NoError(t, err)
	})
}

// The next attempt may be fetched before the statement that stored the result of this one returns.
func TestFlow_HoldsTheNextAttempt(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1)
	h.db.store = func(context.Context, []int64) error {
		h.get(t, 1)
		return nil
	}
	_, err := h.put(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, []int64{1}, h.held())
}

// What a fetch in progress brings is not lost.
func TestFlow_HeldWaitsForEarlierFetches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness()
		start := time.Now()
		h.db.fetch = func(int) ([]*rivertype.JobRow, error) {
			time.Sleep(time.Second)
			return rows(7), nil
		}
		go func() {
			_, _ = h.exec.JobGetAvailable(t.Context(), &riverdriver.JobGetAvailableParams{Queue: "q", MaxToLock: 5})
		}()
		synctest.Wait()
		_, ok := h.Held(start.Add(1))
		require.False(t, ok)
		held, ok := h.Held(start)
		require.True(t, ok, "it began later")
		require.Empty(t, held)
		time.Sleep(2 * time.Second)
		held, ok = h.Held(time.Now())
		require.True(t, ok)
		require.Equal(t, map[int64]bool{7: true}, held)
	})
}

func TestFlow_KnowsSinceWhenFetchesFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness()
		get := func() (time.Time, flow.Failure) {
			_, _ = h.exec.JobGetAvailable(t.Context(), &riverdriver.JobGetAvailableParams{Queue: "q", MaxToLock: 5})
			return h.Fetches("q")
		}
		last, failure := get()
		require.Zero(t, last, "no job was fetched")
		require.Zero(t, failure)
		h.db.fetch = func(int) ([]*rivertype.JobRow, error) { return rows(1), nil }
		start := time.Now()
		last, _ = get()
		require.Equal(t, start, last)
		h.db.fetch = func(int) ([]*rivertype.JobRow, error) {
			time.Sleep(time.Second)
			return nil, errDiskFull
		}
		for n := range 3 {
			last, failure = get()
			require.Equal(t, start, last)
			require.Equal(t, flow.Failure{Since: start, Last: start.Add(time.Duration(n+1) * time.Second), Err: errDiskFull}, failure)
		}
		_, other := h.Fetches("other")
		require.Zero(t, other)
		h.db.fetch = func(int) ([]*rivertype.JobRow, error) { return nil, nil }
		_, failure = get()
		require.Zero(t, failure)
	})
}

func TestFlow_FetchesFewerJobsAfterATimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness()
		// The link carries 20 jobs within the timeout.
		h.db.fetch = func(n int) ([]*rivertype.JobRow, error) {
			time.Sleep(time.Duration(min(n, 20)) * 500 * time.Millisecond)
			if n > 20 {
				return nil, context.DeadlineExceeded
			}
			return rows(make([]int64, n)...), nil
		}
		for range 4 {
			_, _ = h.exec.JobGetAvailable(t.Context(), &riverdriver.JobGetAvailableParams{Queue: "q", MaxToLock: 100})
		}
		require.Equal(t, []int{100, 25, 6, 6}, h.db.asked)
		_, _ = h.exec.JobGetAvailable(t.Context(), &riverdriver.JobGetAvailableParams{Queue: "other", MaxToLock: 100})
		require.Equal(t, 100, h.db.asked[4], "each queue has its own limit")
	})
}

func TestNextLimit(t *testing.T) {
	t.Parallel()
	const fast, slow = time.Second, 5 * time.Second
	timeout := fmt.Errorf("fetching: %w", context.DeadlineExceeded)
	for name, row := range map[string]struct {
		limit int
		call  flow.Call
		want  int
	}{
		"no limit, and no need":                {0, flow.Call{Wanted: 100, Asked: 100, Got: 100, Took: fast}, 0},
		"no limit, and slow":                   {0, flow.Call{Wanted: 100, Asked: 100, Got: 100, Took: slow}, 0},
		"a timeout":                            {0, flow.Call{Wanted: 100, Asked: 100, Took: slow, Err: timeout}, 25},
		"another":                              {25, flow.Call{Wanted: 100, Asked: 25, Took: slow, Err: timeout}, 6},
		"a timeout with few workers free":      {25, flow.Call{Wanted: 8, Asked: 8, Took: slow, Err: timeout}, 2},
		"at least one":                         {1, flow.Call{Wanted: 100, Asked: 1, Took: slow, Err: timeout}, 1},
		"the server's own timeout":             {0, flow.Call{Wanted: 100, Asked: 100, Err: &pgconn.PgError{Code: "57014"}}, 25},
		"any other error":                      {0, flow.Call{Wanted: 100, Asked: 100, Err: errDiskFull}, 0},
		"any other error with a limit":         {6, flow.Call{Wanted: 100, Asked: 6, Err: errors.New("refused")}, 6},
		"a full call, but slow":                {6, flow.Call{Wanted: 100, Asked: 6, Got: 6, Took: slow}, 6},
		"a full call, and quick":               {6, flow.Call{Wanted: 100, Asked: 6, Got: 6, Took: fast}, 24},
		"a quick call that is not full":        {6, flow.Call{Wanted: 100, Asked: 6, Got: 5, Took: fast}, 6},
		"a quick call, asked for less":         {6, flow.Call{Wanted: 4, Asked: 4, Got: 4, Took: fast}, 6},
		"the limit would not matter":           {25, flow.Call{Wanted: 100, Asked: 25, Got: 25, Took: fast}, 0},
		"one worker, and the row is too large": {0, flow.Call{Wanted: 1, Asked: 1, Err: timeout}, 1},
	} {
		require.Equal(t, row.want, flow.NextLimit(row.limit, row.call), name)
	}
}

func TestFlow_StoresWhatTheDatabaseDoesNotRefuse(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1, 2, 3, poisoned, 5, 6, 7, 8)
	h.db.store = func(_ context.Context, ids []int64) error {
		if slices.Contains(ids, poisoned) {
			return errRefused
		}
		return nil
	}
	stored, err := h.put(t.Context(), 1, 2, 3, poisoned, 5, 6, 7, 8)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 2, 3, poisoned, 5, 6, 7, 8}, stored)
	require.Equal(t, [][]int64{
		{1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4}, {1, 2}, {3, 4}, {3}, {4}, {4}, {5, 6, 7, 8},
	}, h.db.sent)
	require.Equal(t, []int64{1}, h.db.merge, "only the refused metadata are dropped")
	require.Contains(t, h.log.String(), `level=ERROR msg="the database refuses a job's metadata; its result is stored without" job_id=4`)
	require.Empty(t, h.held())
}

// A constraint of the application's own may refuse a result for good.
func TestFlow_ARefusedResultHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for name, ended := range map[string]bool{"the next attempt runs": false, "the next attempt has ended": true} {
		h := newHarness()
		h.get(t, 1, 2, 3)
		refusal := &pgconn.PgError{Severity: "ERROR", Code: "23514"}
		h.db.store = func(_ context.Context, ids []int64) error {
			if slices.Contains(ids, 2) {
				return refusal
			}
			return nil
		}
		for id := range int64(3) {
			h.Ended(id+1, 1, flow.Stored)
		}
		first := results(1, 2, 3)
		stored, err := h.send(t.Context(), first)
		require.ErrorIs(t, err, refusal, name)
		require.Empty(t, stored, "River sends all of them again")
		require.Equal(t, []int64{2}, h.held(), name)

		// Meanwhile job 3 was retried here. The result of its first attempt must not end the second.
		h.get(t, 3)
		if ended {
			h.Ended(3, 1, flow.Stored)
		}
		h.db.sent = nil
		h.db.store = func(context.Context, []int64) error { return nil }
		_, err = h.send(t.Context(), first)
		require.NoError(t, err)
		require.Equal(t, [][]int64{{2}}, h.db.sent, name)
		require.Equal(t, []int64{3}, h.held(), name)
		_, err = h.put(t.Context(), 3)
		require.NoError(t, err)
		require.Equal(t, [][]int64{{2}, {3}}, h.db.sent, name)
		require.Empty(t, h.held(), name)
	}
}

// The database has stored a result, and the answer was lost. When River sends it again, another attempt may be running.
func TestFlow_AResultIsNotStoredTwice(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1, 2)
	h.Ended(1, 1, flow.Stored)
	h.Ended(2, 1, flow.Stored)
	first := results(1, 2)
	h.db.store = func(context.Context, []int64) error { return errDiskFull }
	_, err := h.send(t.Context(), first)
	require.ErrorIs(t, err, errDiskFull)
	h.get(t, 1)
	h.owner = func(ids []int64, attempts []int) []int64 {
		require.Equal(t, []int64{1, 2}, ids)
		require.Equal(t, []int{1, 1}, attempts)
		return []int64{2}
	}
	h.db.sent = nil
	h.db.store = func(context.Context, []int64) error { return nil }
	stored, err := h.send(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, []int64{2}, stored)
	require.Equal(t, [][]int64{{2}}, h.db.sent)
	require.Equal(t, []int64{1}, h.held(), "the second attempt of 1")
	require.Empty(t, h.log.String(), "nothing was given to another process")
}

// River sends more than 5,000 results in parts. If a later part fails, it sends the earlier ones again, too.
func TestFlow_AResultWithoutAHoldIsNotStored(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1)
	_, err := h.put(t.Context(), 1)
	require.NoError(t, err)
	_, err = h.put(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, [][]int64{{1}}, h.db.sent)
}

func TestFlow_TheEndOfAnAttemptDoesNotEndTheHoldOfAnother(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1)
	h.Ended(1, 0, flow.Foreign)
	stored, err := h.send(t.Context(), results(1))
	require.NoError(t, err)
	require.Equal(t, []int64{1}, stored)
}

// Nobody else has the job, and its result must not be stored. So the row stays as it is.
func TestFlow_LeavesARowToThoseWhoRescue(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1)
	h.Ended(1, 1, flow.Left)
	stored, err := h.send(t.Context(), results(1))
	require.NoError(t, err)
	require.Empty(t, stored)
	require.Empty(t, h.db.sent)
	require.Equal(t, []int64{1}, h.held(), "it is not lost")
}

// PostgreSQL cannot store U+0000, which may be in an error of the application's hooks or middleware.
func TestFlow_StoresErrorsWithoutNUL(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1)
	p := results(1)
	text, err := json.Marshal(rivertype.AttemptError{Attempt: 1, Error: "a\x00b", Trace: "c\x00d"})
	require.NoError(t, err)
	p.ErrData[0] = text
	_, err = h.send(t.Context(), p)
	require.NoError(t, err)
	var e rivertype.AttemptError
	require.NoError(t, json.Unmarshal(h.db.errors[0], &e))
	require.Equal(t, rivertype.AttemptError{Attempt: 1, Error: `a\x00b`, Trace: `c\x00d`}, e)
	require.Equal(t, string(text), string(p.ErrData[0]), "River's own is unchanged")
}

// A transaction of the application has locked the row of job 1.
func TestFlow_ALockedRowHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for name, lockTimeout := range map[string]time.Duration{"without a lock_timeout": time.Hour, "with one": time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHarness()
				ids := make([]int64, 60)
				for i := range ids {
					ids[i] = int64(101 + i)
				}
				ids[30] = 1
				h.get(t, ids...)
				h.db.store = func(ctx context.Context, ids []int64) error {
					if !slices.Contains(ids, 1) {
						return nil
					}
					select {
					case <-time.After(lockTimeout):
						return &pgconn.PgError{Severity: "ERROR", Code: "55P03"}
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				for _, id := range ids {
					h.Ended(id, 1, flow.Stored)
				}
				p, began := results(ids...), time.Now()
				for len(h.held()) > 1 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					_, err := h.send(ctx, p)
					cancel()
					require.Error(t, err)
					require.Less(t, time.Since(began), time.Minute, "%d are left", len(h.held()))
				}
				require.Equal(t, []int64{1}, h.held())
			})
		})
	}
}

func TestFlow_StoresFewerResultsAfterATimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness()
		ids := make([]int64, 40)
		for i := range ids {
			ids[i] = int64(100 + i)
		}
		h.get(t, ids...)
		// The link carries 11 results within River's timeout.
		h.db.store = func(ctx context.Context, ids []int64) error {
			select {
			case <-time.After(time.Duration(len(ids)) * 900 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		calls := 0
		for left := len(ids); left > 0; calls++ {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			_, err := h.put(ctx, ids...)
			cancel()
			require.Equal(t, len(h.held()) == 0, err == nil)
			if calls > 0 {
				require.Less(t, len(h.held()), left, "each call after the first stores some")
			}
			left = len(h.held())
		}
		require.LessOrEqual(t, calls, 10)
		for n, sent := range h.db.sent[1:] {
			require.LessOrEqual(t, len(sent), 10, "statement %d", n+1)
		}
	})
}

// River's statement asks only whether a row is running, and another process may be running it.
func TestFlow_DropsResultsOfJobsThatWereGivenAway(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.get(t, 1, 2, 3)
	h.owned = []int64{2}
	stored, err := h.put(t.Context(), 1, 2, 3)
	require.NoError(t, err)
	require.Equal(t, []int64{2}, stored)
	require.Equal(t, [][]int64{{2}}, h.db.sent)
	require.Empty(t, h.held())
	require.Contains(t, h.log.String(), "jobs=2")
}

func TestQueue_Reason(t *testing.T) {
	t.Parallel()
	now := time.Now()
	failing := func(since, last time.Duration) flow.Failure {
		return flow.Failure{Since: now.Add(-since), Last: now.Add(-last), Err: errDiskFull}
	}
	const s = time.Second
	for name, row := range map[string]struct {
		queue flow.Queue
		want  string
	}{
		"all is well":                 {flow.Queue{Free: 3}, ""},
		"all workers taken":           {flow.Queue{Due: time.Hour, Paused: true, Failure: failing(time.Hour, 0)}, ""},
		"failing for a moment":        {flow.Queue{Free: 3, Failure: failing(9*s, 0)}, ""},
		"failing":                     {flow.Queue{Free: 3, Failure: failing(10*s, 0)}, `no job of queue "q" could be fetched for 10s: `},
		"failing, with a due job":     {flow.Queue{Free: 3, Due: 90 * s, Failure: failing(80*s, s)}, `no job of queue "q" could be fetched for 1m20s: `},
		"failed, and not tried since": {flow.Queue{Free: 3, Failure: failing(80*s, 40*s)}, ""},
		"due":                         {flow.Queue{Free: 3, Due: 10 * s}, `a job in queue "q" has been due for 10s, and none was fetched, though 3 of 7 workers are free: `},
		"due for a moment":            {flow.Queue{Free: 3, Due: 9 * s}, ""},
		"paused":                      {flow.Queue{Free: 3, Due: 10 * s, Paused: true}, `queue "q" is paused in River, and a job in it has been due for 10s: `},
		"own, and failing":            {flow.Queue{Own: true, Free: 3, Failure: failing(10*s, 0)}, "could not be fetched for 10s: "},
		"own, and due":                {flow.Queue{Own: true, Free: 3, Due: 10 * s}, "has been due for 10s, and was not fetched, though 3 of 7 workers are free: "},
		"own, and paused":             {flow.Queue{Own: true, Free: 3, Due: 10 * s, Paused: true}, `has been due for 10s, and its queue "q" is paused in River: `},
		"paused and empty":            {flow.Queue{Free: 3, Paused: true}, ""},
	} {
		row.queue.Name, row.queue.Workers = "q", 7
		got := row.queue.Reason(now)
		if row.want == "" {
			require.Empty(t, got, name)
		} else {
			require.True(t, strings.HasPrefix(got, row.want), "%s: %s", name, got)
		}
	}
}

func TestResultsReason(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, row := range map[string]struct {
		n    int
		age  time.Duration
		err  error
		want string
	}{
		"none":         {0, time.Hour, errDiskFull, ""},
		"for a moment": {5, 9 * time.Second, errDiskFull, ""},
		"failing":      {5, 10 * time.Second, errors.New("disk full"), "the results of 5 ended jobs could not be stored for 10s: disk full"},
		"one":          {1, 10 * time.Second, nil, "the result of 1 ended job could not be stored for 10s: see the log"},
		"no error":     {5, time.Minute, nil, "the results of 5 ended jobs could not be stored for 1m0s: see the log"},
	} {
		require.Equal(t, row.want, flow.ResultsReason(row.n, now.Add(-row.age), row.err, now), name)
	}
}
