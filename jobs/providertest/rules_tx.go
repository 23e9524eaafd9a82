package providertest

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Triggers in the caller's transaction, for providers that implement [jobs.TxTriggerer].
var txRules = []rule{
	{name: "a run triggered in a transaction exists once it commits, and never if it is rolled back", needs: needsDB, check: txJobExistsOnceCommitted},
	{name: "runs triggered in a nested transaction exist once both transactions commit", needs: needsDB, check: nestedTxJobsExistOnceBothCommit},
	{name: "TriggerTx refuses what Trigger refuses, and leaves the transaction usable", needs: needsDB, check: triggerTxRefusesWhatTriggerRefuses},
	{name: "runs of TriggerManyTx exist once the transaction commits, and never if it is rolled back", needs: needsDB, check: manyTxJobsExistOnceCommitted},
	{name: "TriggerManyTx inserts all or none, and leaves the transaction usable", needs: needsDB, check: triggerManyTxIsAllOrNone},
	{name: "Unique in a transaction finds live runs, including those of the transaction", needs: needsDB, check: uniqueInTxFindsLiveJobs},
	{name: "Trigger waits for a Unique key taken by an open transaction", needs: needsDB, check: triggerWaitsForAKeyOfAnOpenTx},
}

func txJobExistsOnceCommitted(e *env) {
	tt := e.txTriggerer()
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	lost := e.begin()
	_, err := tt.TriggerTx(e.ctx, lost, "test.job", nil)
	e.noError(err)
	require.Zero(e, e.queueSize("test.job"), "QueueSize before a Rollback")
	e.noError(lost.Rollback(e.ctx))
	require.Zero(e, e.queueSize("test.job"), "QueueSize after a Rollback")

	tx := e.begin()
	first, err := tt.TriggerTx(e.ctx, tx, "test.job", map[string]int{"n": 1})
	e.noError(err)
	second, err := jobs.TriggerTx(e.ctx, e.s, tx, "test.job", nil)
	e.noError(err)
	later, err := tt.TriggerTx(e.ctx, tx, "test.job", nil, jobs.Delay(time.Hour))
	e.noError(err)
	require.Len(e, map[string]bool{first: true, second: true, later: true}, 3, "IDs of three jobs")
	e.until(time.Now().Add(10 * slack))
	p.none("the transaction is open")
	require.Zero(e, e.queueSize("test.job"), "QueueSize before a Commit")
	e.noError(tx.Commit(e.ctx))
	runs := map[string]string{}
	for range 2 {
		r := p.next()
		runs[r.ID] = string(r.Data)
	}
	require.Contains(e, runs, second, "IDs that ran")
	require.JSONEq(e, `{"n": 1}`, runs[first], "data of the first job")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize after a Commit, with one run delayed")
	e.total(jobs.StateCompleted, 2)
	p.none("of the other runs, one was rolled back and one is not due")
}

func nestedTxJobsExistOnceBothCommit(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	in := func(tx pgx.Tx) {
		e.Helper()
		_, err := tt.TriggerTx(e.ctx, tx, "test.job", nil)
		e.noError(err)
	}
	within := func(tx pgx.Tx) pgx.Tx {
		e.Helper()
		inner, err := tx.Begin(e.ctx)
		e.noError(err)
		in(inner)
		return inner
	}
	tx := e.begin()
	in(tx)
	e.noError(within(tx).Rollback(e.ctx))
	e.noError(within(tx).Commit(e.ctx))
	in(tx)
	require.Zero(e, e.queueSize("test.job"), "QueueSize before the outer Commit")
	e.noError(tx.Commit(e.ctx))
	require.Equal(e, 3, e.queueSize("test.job"), "QueueSize after the outer Commit")

	tx = e.begin()
	in(tx)
	e.noError(within(tx).Commit(e.ctx))
	e.noError(tx.Rollback(e.ctx))
	require.Equal(e, 3, e.queueSize("test.job"), "QueueSize after an outer Rollback")
}

func triggerTxRefusesWhatTriggerRefuses(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	tx := e.begin()
	for what, c := range map[string]struct {
		name string
		data any
		opt  jobs.TriggerOption
		want error
	}{
		"an unknown job":      {"test.unknown", nil, jobs.Priority(1), jobs.ErrUnknownJob},
		"a string":            {"test.job", "text", jobs.Priority(1), jobs.ErrInvalidData},
		"numbers of 149 MB":   {"test.job", json.RawMessage(`{"x":[` + strings.Repeat("1e1000,", 149_000) + `1]}`), jobs.Priority(1), jobs.ErrInvalidData},
		"the character zero":  {"test.job", map[string]string{"x": "\x00"}, jobs.Priority(1), jobs.ErrInvalidData},
		"Delay(-1)":           {"test.job", nil, jobs.Delay(-1), jobs.ErrInvalidSchedule},
		"Priority(5)":         {"test.job", nil, jobs.Priority(5), jobs.ErrInvalidOption},
		"an empty Unique key": {"test.job", nil, jobs.Unique(""), jobs.ErrInvalidOption},
		"a nil option":        {"test.job", nil, nil, jobs.ErrInvalidOption},
	} {
		id, err := tt.TriggerTx(e.ctx, tx, c.name, c.data, c.opt)
		require.ErrorIs(e, err, c.want, "TriggerTx with %s", what)
		require.Empty(e, id, "ID of a TriggerTx with %s", what)
	}
	_, err := tt.TriggerTx(e.ctx, nil, "test.job", nil)
	require.Error(e, err, "TriggerTx without a transaction")
	_, err = tt.TriggerTx(e.ctx, tx, "test.job", nil)
	require.NoError(e, err, "a valid TriggerTx after refused ones")
	e.noError(tx.Commit(e.ctx))
	_, err = tt.TriggerTx(e.ctx, tx, "test.job", nil)
	require.ErrorIs(e, err, pgx.ErrTxClosed, "TriggerTx in a transaction that has ended")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
}

func manyTxJobsExistOnceCommitted(e *env) {
	tt := e.txTriggerer()
	p := e.probe(nil)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	data := []any{map[string]int{"n": 0}, map[string]int{"n": 1}, map[string]int{"n": 2}}
	lost := e.begin()
	_, err := tt.TriggerManyTx(e.ctx, lost, "test.job", data)
	e.noError(err)
	e.noError(lost.Rollback(e.ctx))
	require.Zero(e, e.queueSize("test.job"), "QueueSize after a Rollback")

	tx := e.begin()
	ids, err := jobs.TriggerManyTx(e.ctx, e.s, tx, "test.job", data)
	e.noError(err)
	require.Len(e, ids, len(data), "IDs")
	later, err := tt.TriggerManyTx(e.ctx, tx, "test.job", []any{nil, nil}, jobs.Delay(time.Hour))
	e.noError(err)
	require.Len(e, later, 2, "IDs")
	e.until(time.Now().Add(10 * slack))
	p.none("the transaction is open")
	require.Zero(e, e.queueSize("test.job"), "QueueSize before a Commit")
	e.noError(tx.Commit(e.ctx))
	for range data {
		r := p.next()
		var got struct{ N int }
		e.noError(r.Decode(&got))
		require.Equal(e, ids[got.N], r.ID, "ID of the job with element %d", got.N)
	}
	e.total(jobs.StateCompleted, len(data))
	require.Equal(e, len(later), e.queueSize("test.job"), "QueueSize after a Commit, with two runs delayed")
	p.none("three were rolled back, and two are not due")
}

func triggerManyTxIsAllOrNone(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	tx := e.begin()
	for what, c := range map[string]struct {
		name string
		data []any
		opt  jobs.TriggerOption
		want error
	}{
		"an unknown job":          {"test.unknown", []any{nil}, jobs.Priority(1), jobs.ErrUnknownJob},
		"a string among objects":  {"test.job", []any{nil, "text", nil}, jobs.Priority(1), jobs.ErrInvalidData},
		"Priority(5)":             {"test.job", []any{nil}, jobs.Priority(5), jobs.ErrInvalidOption},
		"Unique":                  {"test.job", []any{nil}, jobs.Unique("key"), jobs.ErrInvalidOption},
		"an option, without data": {"test.job", nil, jobs.Unique("key"), jobs.ErrInvalidOption},
	} {
		ids, err := tt.TriggerManyTx(e.ctx, tx, c.name, c.data, c.opt)
		require.ErrorIs(e, err, c.want, "TriggerManyTx with %s", what)
		require.Empty(e, ids, "IDs of a TriggerManyTx with %s", what)
	}
	_, err := tt.TriggerManyTx(e.ctx, nil, "test.job", []any{nil})
	require.Error(e, err, "TriggerManyTx without a transaction")
	ids, err := tt.TriggerManyTx(e.ctx, tx, "test.job", nil)
	e.noError(err)
	require.Empty(e, ids, "IDs of a TriggerManyTx without data")
	_, err = tt.TriggerManyTx(e.ctx, tx, "test.job", []any{nil, nil})
	require.NoError(e, err, "a valid TriggerManyTx after refused ones")
	e.noError(tx.Commit(e.ctx))
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize")
	_, err = tt.TriggerManyTx(e.ctx, tx, "test.job", []any{nil})
	require.ErrorIs(e, err, pgx.ErrTxClosed, "TriggerManyTx in a transaction that has ended")
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize")
}

func uniqueInTxFindsLiveJobs(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	live := e.trigger("test.job", nil, jobs.Unique("live"))
	for _, commit := range []bool{false, true} {
		tx := e.begin()
		trigger := func(key string) string {
			e.Helper()
			id, err := tt.TriggerTx(e.ctx, tx, "test.job", nil, jobs.Unique(key))
			e.noError(err)
			return id
		}
		require.Equal(e, live, trigger("live"), "ID of the live job")
		fresh := trigger("fresh")
		require.NotEqual(e, live, fresh, "ID of a job with another key")
		require.Equal(e, fresh, trigger("fresh"), "ID of the job of this transaction")
		if !commit {
			e.noError(tx.Rollback(e.ctx))
			require.Equal(e, 1, e.queueSize("test.job"), "QueueSize after a Rollback")
			continue
		}
		e.noError(tx.Commit(e.ctx))
		require.Equal(e, fresh, e.trigger("test.job", nil, jobs.Unique("fresh")), "ID of the job of a transaction that has committed")
		require.Equal(e, 2, e.queueSize("test.job"), "QueueSize after a Commit")
	}
}

func triggerWaitsForAKeyOfAnOpenTx(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	for _, commit := range []bool{true, false} {
		tx := e.begin()
		taken, err := tt.TriggerTx(e.ctx, tx, "test.job", nil, jobs.Unique("key"))
		e.noError(err)
		impatient, cancel := context.WithTimeout(e.ctx, 10*slack)
		_, err = e.s.Trigger(impatient, "test.job", nil, jobs.Unique("key"))
		cancel()
		require.ErrorIs(e, err, context.DeadlineExceeded, "a Trigger with a short deadline")
		got := e.triggerWaitsFor(tx, commit, jobs.Unique("key"))
		if commit {
			require.Equal(e, taken, got, "ID of the job of the transaction that has committed")
			cancelled, ok := e.s.(jobs.Canceller)
			if !ok {
				return
			}
			e.noError(cancelled.Cancel(e.ctx, "test.job", taken)) // frees the key
			continue
		}
		require.NotEqual(e, taken, got, "ID of the job of the transaction that was rolled back")
	}
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
}

// triggerWaitsFor triggers test.job with the key of an open transaction, ends the transaction, and returns the ID.
func (e *env) triggerWaitsFor(tx pgx.Tx, commit bool, key jobs.TriggerOption) (id string) {
	e.Helper()
	type answer struct {
		id  string
		err error
	}
	waited := make(chan answer, 1)
	go func() {
		id, err := e.s.Trigger(e.ctx, "test.job", nil, key)
		waited <- answer{id, err}
	}()
	e.until(time.Now().Add(10 * slack))
	require.Empty(e, waited, "Trigger returned while another transaction held its key")
	if commit {
		e.noError(tx.Commit(e.ctx))
	} else {
		e.noError(tx.Rollback(e.ctx))
	}
	got := receive(e, waited, "the Trigger to return")
	e.noError(got.err)
	return got.id
}

func needsDB(h Harness) string {
	if h.DB == nil {
		return "the harness has no DB to begin a transaction"
	}
	return ""
}

// txTriggerer returns the scheduler as a [jobs.TxTriggerer], or skips the rule.
func (e *env) txTriggerer() jobs.TxTriggerer {
	e.Helper()
	tt, ok := e.s.(jobs.TxTriggerer)
	if !ok {
		e.Skip("the provider does not implement jobs.TxTriggerer")
	}
	return tt
}

// begin begins a transaction that is rolled back at the end of the rule unless it has ended.
func (e *env) begin() pgx.Tx {
	e.Helper()
	tx, err := e.h.DB(e.s).Begin(e.ctx)
	e.noError(err)
	e.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(e.ctx)) }) // usually it has ended
	return tx
}
