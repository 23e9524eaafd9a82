package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// results is what a flow knows about storing results.
type results struct {
	limit   int // the most results of a statement; 0 means all that River sends
	failure Failure
	// sent has the results of calls that failed as a whole, by job. River sends all of a call again, also those that
	// were stored, when their jobs may be running another attempt.
	sent map[int64]*sent
}

// sent is a result that River will send again.
type sent struct {
	result result
	hold   *hold
	stored bool // or dropped
}

// A result is what tells a result from that of another attempt of its job.
type result struct {
	state                rivertype.JobState
	finalized, scheduled time.Time
}

func resultOf(p *riverdriver.JobSetStateIfRunningManyParams, i int) result {
	r := result{state: p.State[i]}
	if t := p.FinalizedAt[i]; t != nil {
		r.finalized = *t
	}
	if t := p.ScheduledAt[i]; t != nil {
		r.scheduled = *t
	}
	return r
}

// JobSetStateIfRunningMany implements [riverdriver.Executor]. River sends the results of many jobs in one statement,
// and all of them again until it succeeds. So that one result, or their sheer size, cannot hold up all others forever,
// results that the database refuses are stored one by one, and fewer at a time after a statement that took too long.
func (e *executor) JobSetStateIfRunningMany(
	ctx context.Context, params *riverdriver.JobSetStateIfRunningManyParams,
) ([]*rivertype.JobRow, error) {
	began := time.Now()
	b := e.flow.newBatch(params)
	rows, err := e.storeAll(ctx, b)
	f := e.flow
	f.mu.Lock()
	f.results.failure.record(began, err)
	b.remember(err != nil)
	f.mu.Unlock()
	if err != nil {
		f.cfg.Failed(err)
	}
	return rows, err
}

func (e *executor) storeAll(ctx context.Context, b *batch) ([]*rivertype.JobRow, error) {
	if err := b.dropForeign(ctx); err != nil {
		return nil, err
	}
	// Somebody may have locked a row. Its result must not hold up the others, so those that take long come last.
	rows, late, err := e.storeEach(ctx, b, b.rest, false)
	if len(late) > 0 {
		more, _, lateErr := e.storeEach(ctx, b, late, true)
		rows, err = append(rows, more...), errors.Join(err, lateErr)
	}
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// storeEach stores results in as many statements as the limit demands. If there is a limit, those whose statement takes
// longer than patience are returned as late, unless this is the last try.
func (e *executor) storeEach(ctx context.Context, b *batch, some []int, last bool) (
	rows []*rivertype.JobRow, late []int, err error,
) {
	for rest := some; len(rest) > 0; {
		if ctx.Err() != nil {
			return rows, append(late, rest...), errors.Join(err, ctx.Err())
		}
		n, bounded, cancel := len(rest), ctx, context.CancelFunc(func() {})
		if limit := e.flow.resultsLimit(); limit > 0 {
			n = min(n, limit)
			if !last {
				bounded, cancel = context.WithTimeout(ctx, patience)
			}
		}
		began := time.Now()
		stored, chunkErr := e.store(bounded, b, rest[:n])
		cancel()
		if !last && len(late) == 0 || chunkErr != nil { // what is not late says nothing about what is
			e.flow.limitResults(Call{len(some), n, n, time.Since(began), chunkErr})
		}
		if rows = append(rows, stored...); !last && timedOut(chunkErr) && ctx.Err() == nil {
			late = append(late, rest[:n]...)
		} else {
			err = errors.Join(err, chunkErr)
		}
		rest = rest[n:]
	}
	return rows, late, err
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

// A batch has the results of one call.
type batch struct {
	flow   *Flow
	params riverdriver.JobSetStateIfRunningManyParams
	holds  []*hold
	stored []bool       // or dropped
	again  map[int]bool // results that an earlier call has sent, as indexes
	rest   []int        // what remains to be stored, as indexes
}

func (f *Flow) newBatch(params *riverdriver.JobSetStateIfRunningManyParams) *batch {
	n := len(params.ID)
	b := &batch{
		flow: f, params: *params, holds: make([]*hold, n), stored: make([]bool, n), again: map[int]bool{}, rest: make([]int, 0, n),
	}
	b.storableErrors()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, id := range params.ID {
		h := f.held[id]
		if was := f.results.sent[id]; was != nil && was.result == resultOf(params, i) {
			h, b.stored[i], b.again[i] = was.hold, was.stored, true
		}
		switch b.holds[i] = h; {
		case b.stored[i]:
		case h == nil: // River sends more than 5,000 results in parts, and after a failure the earlier parts again
			b.stored[i] = true
		case h.report != Stored:
			b.stored[i] = true
			if h.report == Foreign {
				f.release(id, h)
			}
		default:
			b.rest = append(b.rest, i)
		}
	}
	return b
}

// release is called with f.mu locked. It ends a hold, unless another attempt has been fetched meanwhile.
func (f *Flow) release(id int64, h *hold) {
	if f.held[id] == h {
		delete(f.held, id)
	}
}

// remember is called with the flow locked. It keeps what is known of the results if River sends them again.
func (b *batch) remember(again bool) {
	for i, id := range b.params.ID {
		if again {
			b.flow.results.sent[id] = &sent{resultOf(&b.params, i), b.holds[i], b.stored[i]}
		} else {
			delete(b.flow.results.sent, id)
		}
	}
}

// storableErrors replaces U+0000 in the texts of errors, which PostgreSQL cannot store. Errors of handlers have none;
// those of the application's hooks and middleware may.
func (b *batch) storableErrors() {
	for i, data := range b.params.ErrData {
		if !bytes.Contains(data, []byte(`\u0000`)) {
			continue
		}
		var e rivertype.AttemptError
		if json.Unmarshal(data, &e) != nil {
			continue
		}
		e.Error, e.Trace = strings.ReplaceAll(e.Error, "\x00", `\x00`), strings.ReplaceAll(e.Trace, "\x00", `\x00`)
		if text, err := json.Marshal(e); err == nil {
			b.params.ErrData = slices.Clone(b.params.ErrData) // River keeps its own
			b.params.ErrData[i] = text
		}
	}
}

// dropForeign drops the results of attempts that other processes may have taken over while these results could not be
// stored, and of attempts whose results may have been stored though the answer was lost: River asks only whether the row
// is running, and would end another attempt.
func (b *batch) dropForeign(ctx context.Context) error {
	var ids []int64
	var attempts []int
	suspect := map[int64]bool{}
	for _, i := range b.rest {
		id, h := b.params.ID[i], b.holds[i]
		suspected := b.flow.cfg.Suspect(h.fetched)
		if suspected {
			suspect[id] = true
		}
		if suspected || b.again[i] {
			ids, attempts = append(ids, id), append(attempts, h.attempt)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	owned, err := b.flow.cfg.Owned(ctx, ids, attempts)
	if err != nil {
		return err
	}
	foreign, taken := map[int64]bool{}, 0
	for _, id := range ids {
		foreign[id] = true
	}
	for _, id := range owned {
		delete(foreign, id)
	}
	for id := range foreign {
		if suspect[id] {
			taken++
		}
	}
	if taken > 0 {
		b.flow.cfg.Log.WarnContext(ctx, "jobs were given to another process before their results could be stored: "+
			"these results are not stored", "jobs", taken)
	}
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
		b.stored[i] = true
		b.flow.release(b.params.ID[i], b.holds[i])
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
