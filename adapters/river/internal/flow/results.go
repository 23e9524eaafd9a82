package flow

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// results is what a flow knows about storing results.
type results struct {
	limit   int // the most results of a statement; 0 means all that River sends
	failure Failure
	// stored has the jobs whose results were stored by a call that failed as a whole. River sends all of that call
	// again, when some of the jobs may be running another attempt.
	stored map[int64]bool
}

// JobSetStateIfRunningMany implements [riverdriver.Executor]. River sends the results of many jobs in one statement,
// and all of them again until it succeeds. So that one result, or their sheer size, cannot hold up all others forever,
// results that the database refuses are stored one by one, and fewer at a time after a statement that took too long.
func (e *executor) JobSetStateIfRunningMany(
	ctx context.Context, params *riverdriver.JobSetStateIfRunningManyParams,
) ([]*rivertype.JobRow, error) {
	began := time.Now()
	rows, err := e.storeAll(ctx, params)
	f := e.flow
	f.mu.Lock()
	f.results.failure.record(began, err)
	if err == nil {
		clear(f.results.stored)
	}
	f.mu.Unlock()
	if err != nil {
		f.cfg.Failed(err)
	}
	return rows, err
}

func (e *executor) storeAll(
	ctx context.Context, params *riverdriver.JobSetStateIfRunningManyParams,
) (rows []*rivertype.JobRow, err error) {
	b := e.flow.newBatch(params)
	if err := b.dropForeign(ctx); err != nil {
		return nil, err
	}
	for all := len(b.rest); len(b.rest) > 0; {
		n := len(b.rest)
		if limit := e.flow.resultsLimit(); limit > 0 {
			n = min(n, limit)
		}
		chunk := b.rest[:n]
		b.rest = b.rest[n:]
		began := time.Now()
		stored, chunkErr := e.store(ctx, b, chunk)
		e.flow.limitResults(Call{all, n, n, time.Since(began), chunkErr})
		rows = append(rows, stored...)
		if err = errors.Join(err, chunkErr); ctx.Err() != nil {
			break
		}
	}
	if len(b.rest) > 0 {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// store stores some results of a batch, in halves if the database refuses one of them.
func (e *executor) store(ctx context.Context, b *batch, some []int) ([]*rivertype.JobRow, error) {
	rows, err := e.Executor.JobSetStateIfRunningMany(ctx, b.pick(some))
	switch {
	case err == nil:
		b.markStored(some)
		return rows, nil
	case !refusesData(err):
		return nil, err
	case len(some) > 1:
		half := len(some) / 2
		rows, err := e.store(ctx, b, some[:half])
		others, otherErr := e.store(ctx, b, some[half:])
		return append(rows, others...), errors.Join(err, otherErr)
	case b.params.MetadataDoMerge[some[0]]:
		e.flow.cfg.Log.ErrorContext(ctx, "the database refuses a job's metadata; its result is stored without",
			"job_id", b.params.ID[some[0]], "error", err)
		b.params.MetadataDoMerge = slices.Clone(b.params.MetadataDoMerge) // River sends its own again
		b.params.MetadataDoMerge[some[0]] = false
		return e.store(ctx, b, some)
	}
	return nil, err
}

// refusesData reports whether the server refuses the values of a statement: by its SQLSTATE, the data, a constraint,
// or a program limit.
func refusesData(err error) bool {
	code := store.Code(err)
	return len(code) == 5 && slices.Contains([]string{"22", "23", "54"}, code[:2])
}

func (f *Flow) resultsLimit() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.results.limit
}

func (f *Flow) limitResults(latest Call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.results.limit = NextLimit(f.results.limit, latest)
}

// A batch has the results of one call, without those that an earlier call has stored.
type batch struct {
	flow   *Flow
	params riverdriver.JobSetStateIfRunningManyParams
	holds  []*hold
	rest   []int // what remains to be stored, as indexes
}

func (f *Flow) newBatch(params *riverdriver.JobSetStateIfRunningManyParams) *batch {
	b := &batch{flow: f, params: *params, holds: make([]*hold, len(params.ID))}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, id := range params.ID {
		h := f.held[id]
		if f.results.stored[id] && (h == nil || h.ended.IsZero()) {
			continue // the result of an earlier attempt
		}
		b.holds[i], b.rest = h, append(b.rest, i)
	}
	return b
}

// dropForeign drops the results of attempts that other processes may have taken over while these results could not be
// stored: River asks only whether the row is running, and would end the other attempt.
func (b *batch) dropForeign(ctx context.Context) error {
	var ids []int64
	var attempts []int
	for _, i := range b.rest {
		if h := b.holds[i]; h != nil && b.flow.cfg.Suspect(h.fetched) {
			ids, attempts = append(ids, b.params.ID[i]), append(attempts, h.attempt)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	owned, err := b.flow.cfg.Owned(ctx, ids, attempts)
	if err != nil {
		return err
	}
	foreign := map[int64]bool{}
	for _, id := range ids {
		foreign[id] = true
	}
	for _, id := range owned {
		delete(foreign, id)
	}
	if len(foreign) == 0 {
		return nil
	}
	b.flow.cfg.Log.WarnContext(ctx, "jobs were given to another process before their results could be stored: "+
		"these results are not stored", "jobs", len(foreign))
	isForeign := func(i int) bool { return foreign[b.params.ID[i]] }
	b.markStored(slices.DeleteFunc(slices.Clone(b.rest), func(i int) bool { return !isForeign(i) }))
	b.rest = slices.DeleteFunc(b.rest, isForeign)
	return nil
}

// markStored notes that nothing remains to be stored for these results.
func (b *batch) markStored(some []int) {
	b.flow.mu.Lock()
	defer b.flow.mu.Unlock()
	for _, i := range some {
		id := b.params.ID[i]
		b.flow.results.stored[id] = true
		if b.flow.held[id] == b.holds[i] { // not another attempt, fetched meanwhile
			delete(b.flow.held, id)
		}
	}
}

// pick returns the parameters of some results.
func (b *batch) pick(some []int) *riverdriver.JobSetStateIfRunningManyParams {
	p := &b.params
	if len(some) == len(p.ID) {
		return p
	}
	return &riverdriver.JobSetStateIfRunningManyParams{
		ID: at(p.ID, some), Attempt: at(p.Attempt, some), ErrData: at(p.ErrData, some),
		FinalizedAt: at(p.FinalizedAt, some), MetadataDoMerge: at(p.MetadataDoMerge, some),
		MetadataUpdates: at(p.MetadataUpdates, some), Now: p.Now, ScheduledAt: at(p.ScheduledAt, some),
		Schema: p.Schema, State: at(p.State, some),
	}
}

func at[T any](all []T, indexes []int) []T {
	picked := make([]T, len(indexes))
	for i, index := range indexes {
		picked[i] = all[index]
	}
	return picked
}
