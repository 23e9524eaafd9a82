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

// Triggers in the caller's transaction, of providers that are a [jobs.TxTriggerer]. [Harness].DB begins it.
var txRules = []rule{
	{name: "a job triggered in a transaction exists once that commits, and never if it is rolled back", needs: needsDB, check: txJobExistsOnceCommitted},
	{name: "jobs of a transaction within a transaction exist once both commit", needs: needsDB, check: nestedTxJobsExistOnceBothCommit},
	{name: "TriggerTx refuses what Trigger refuses, and leaves the transaction as it is", needs: needsDB, check: triggerTxRefusesWhatTriggerRefuses},
	{name: "Unique in a transaction finds a live job, and those of the transaction", needs: needsDB, check: uniqueInTxFindsLiveJobs},
	{name: "a Unique key that an open transaction has taken is waited for", needs: needsDB, check: uniqueKeyOfAnOpenTxIsWaitedFor},
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
	require.Contains(e, runs, second, "the jobs that ran")
	require.JSONEq(e, `{"n": 1}`, runs[first], "data of the first job")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize after a Commit: one waits for its time")
	e.total(jobs.StateCompleted, 2)
	p.none("one of the others was rolled back, and one is not due")
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
		"an unknown job":         {"test.unknown", nil, jobs.Priority(1), jobs.ErrUnknownJob},
		"a string":               {"test.job", "text", jobs.Priority(1), jobs.ErrInvalidData},
		"numbers of 149 MB":      {"test.job", json.RawMessage(`{"x":[` + strings.Repeat("1e1000,", 149_000) + `1]}`), jobs.Priority(1), jobs.ErrInvalidData},
		"the character zero":     {"test.job", map[string]string{"x": "\x00"}, jobs.Priority(1), jobs.ErrInvalidData},
		"Delay(-1)":              {"test.job", nil, jobs.Delay(-1), jobs.ErrInvalidSchedule},
		"Priority(5)":            {"test.job", nil, jobs.Priority(5), jobs.ErrInvalidOption},
		"Unique of nothing":      {"test.job", nil, jobs.Unique(""), jobs.ErrInvalidOption},
		"an option which is nil": {"test.job", nil, nil, jobs.ErrInvalidOption},
	} {
		id, err := tt.TriggerTx(e.ctx, tx, c.name, c.data, c.opt)
		require.ErrorIs(e, err, c.want, "TriggerTx with %s", what)
		require.Empty(e, id, "ID of a TriggerTx with %s", what)
	}
	_, err := tt.TriggerTx(e.ctx, nil, "test.job", nil)
	require.Error(e, err, "TriggerTx without a transaction")
	_, err = tt.TriggerTx(e.ctx, tx, "test.job", nil)
	require.NoError(e, err, "a good TriggerTx after those that were refused")
	e.noError(tx.Commit(e.ctx))
	_, err = tt.TriggerTx(e.ctx, tx, "test.job", nil)
	require.ErrorIs(e, err, pgx.ErrTxClosed, "TriggerTx in a transaction that has ended")
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
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

func uniqueKeyOfAnOpenTxIsWaitedFor(e *env) {
	tt := e.txTriggerer()
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	type answer struct {
		id  string
		err error
	}
	for _, commit := range []bool{true, false} {
		tx := e.begin()
		taken, err := tt.TriggerTx(e.ctx, tx, "test.job", nil, jobs.Unique("key"))
		e.noError(err)
		impatient, cancel := context.WithTimeout(e.ctx, 10*slack)
		_, err = e.s.Trigger(impatient, "test.job", nil, jobs.Unique("key"))
		cancel()
		require.ErrorIs(e, err, context.DeadlineExceeded, "a Trigger that does not wait for long")
		waited := make(chan answer, 1)
		go func() {
			id, err := e.s.Trigger(e.ctx, "test.job", nil, jobs.Unique("key"))
			waited <- answer{id, err}
		}()
		e.until(time.Now().Add(10 * slack))
		require.Empty(e, waited, "a Trigger returned while another transaction held its key")
		if commit {
			e.noError(tx.Commit(e.ctx))
		} else {
			e.noError(tx.Rollback(e.ctx))
		}
		got := receive(e, waited, "the Trigger to return")
		e.noError(got.err)
		if commit {
			require.Equal(e, taken, got.id, "ID of the job of the transaction that has committed")
			cancelled, ok := e.s.(jobs.Canceller)
			if !ok {
				return
			}
			e.noError(cancelled.Cancel(e.ctx, "test.job", taken)) // frees the key
			continue
		}
		require.NotEqual(e, taken, got.id, "ID of the job of the transaction that was rolled back")
	}
	require.Equal(e, 1, e.queueSize("test.job"), "QueueSize")
}

func needsDB(h Harness) string {
	if h.DB == nil {
		return "the harness has no DB to begin a transaction"
	}
	return ""
}

// txTriggerer returns the provider as one, or skips the rule.
func (e *env) txTriggerer() jobs.TxTriggerer {
	e.Helper()
	tt, ok := e.s.(jobs.TxTriggerer)
	if !ok {
		e.Skip("the provider is no TxTriggerer")
	}
	return tt
}

// begin begins a transaction, which ends with the rule at the latest.
func (e *env) begin() pgx.Tx {
	e.Helper()
	tx, err := e.h.DB(e.s).Begin(e.ctx)
	e.noError(err)
	e.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(e.ctx)) }) // mostly it has ended
	return tx
}
