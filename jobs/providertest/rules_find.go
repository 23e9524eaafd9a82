package providertest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// Finding runs of all jobs, and retrying and cancelling many.
var findRules = []rule{
	{name: "FindRuns returns the runs of all jobs that match, latest first", check: findRunsReturnsWhatMatches},
	{name: "FindRuns selects by when runs ended or are due", check: findRunsSelectsByTime},
	{name: "the pages of FindRuns have every matching run once, while others begin to match", check: pagesHaveEveryRunOnce},
	{name: "lists of runs with very large data are bounded", check: listsAreBounded},
	{name: "FindRuns and the calls for many runs refuse bad queries", check: queriesAreChecked},
	{name: "Run returns a run with the errors of its attempts", check: runReturnsErrors},
	{name: "Run returns the latest 100 errors", check: runReturnsTheLatestErrors},
	{name: "RetryMany retries every run that matches and can be retried", check: retryManyRetriesWhatMatches},
	{name: "RetryMany retries each run once, even if it fails again meanwhile", check: retryManyRetriesOnce},
	{name: "RetryMany keeps the keys of unique runs unique", check: retryManyKeepsKeysUnique},
	{name: "CancelMany cancels every run that matches and has not ended", check: cancelManyCancelsWhatMatches},
	{name: "Processes lists the process while it is started, and its runs name it", check: processesListsTheStarted},
}

// all returns all runs that match q, page by page.
func (e *env) all(finder jobs.RunFinder, q jobs.RunQuery) (runs []jobs.Run) {
	e.Helper()
	for {
		page, err := finder.FindRuns(e.ctx, q)
		require.NoError(e, err, "FindRuns")
		runs = append(runs, page.Runs...)
		if page.Next == "" {
			return runs
		}
		require.NotEmpty(e, page.Runs, "Runs of a page that is not the last")
		require.NotEqual(e, q.After, page.Next, "Next, which is After of the same page")
		q.After = page.Next
	}
}

func idsOf(runs []jobs.Run) []string {
	ids := make([]string, len(runs))
	for i, r := range runs {
		ids[i] = r.ID
	}
	return ids
}

// doing returns a probe whose attempts do what the field "do" of their data says.
func (e *env) doing() *probe {
	return e.probe(func(ctx context.Context, job *jobs.Job) error {
		switch e.do(job) {
		case "fail":
			return jobs.Permanent(errAgain)
		case "postpone":
			return jobs.RetryAfter(time.Hour, errAgain)
		case "wait":
			return e.untilCancelled(ctx, job)
		}
		return nil
	})
}

func do(what string) map[string]string { return map[string]string{"do": what} }

// inState waits until a run is in that state.
func (e *env) inState(finder jobs.RunFinder, id string, state jobs.State) (r jobs.Run) {
	e.Helper()
	e.eventually(fmt.Sprintf("the run to be %s", state), func() (any, bool) {
		var err error
		r, err = finder.Run(e.ctx, id)
		require.NoError(e, err, "Run")
		return r, r.State == state
	})
	return r
}

// example is a run that is triggered to do something, and the state that this brings it into.
type example struct {
	what, name, do string
	state          jobs.State
}

// bring triggers the examples one after another, waits until each is in its state, and adds their IDs.
func (e *env) bring(finder jobs.RunFinder, ids map[string]string, examples []example) {
	e.Helper()
	for _, x := range examples {
		ids[x.what] = e.trigger(x.name, do(x.do))
		e.inState(finder, ids[x.what], x.state)
	}
}

func findRunsReturnsWhatMatches(e *env) {
	finder := role[jobs.RunFinder](e)
	p := e.doing()
	for _, name := range []string{"test.job", "test.other", "test.never"} {
		e.noError(e.s.RegisterDelayed(name, 0, p.handle))
	}
	require.Empty(e, e.all(finder, jobs.RunQuery{}), "FindRuns before any run")
	e.start()
	var order []string // the latest last
	for _, name := range []string{"test.job", "test.other", "test.job"} {
		for _, c := range []struct {
			do    string
			state jobs.State
		}{{"succeed", jobs.StateCompleted}, {"fail", jobs.StateFailed}} {
			id := e.trigger(name, do(c.do))
			order = append(order, id)
			e.inState(finder, id, c.state)
		}
	}
	soon := e.trigger("test.job", nil, jobs.Delay(time.Hour))
	later := e.trigger("test.other", nil, jobs.Delay(2*time.Hour))
	order = append(order, soon, later)
	slices.Reverse(order)

	for _, c := range []struct {
		name string
		q    jobs.RunQuery
		want []int // of order
	}{
		{"all", jobs.RunQuery{}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{"names", jobs.RunQuery{Names: []string{"test.other"}}, []int{0, 4, 5}},
		{"two names", jobs.RunQuery{Names: []string{"test.other", "test.job"}}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{"a name without runs", jobs.RunQuery{Names: []string{"test.never"}}, []int{}},
		{"states", jobs.RunQuery{States: []jobs.State{jobs.StateFailed}}, []int{2, 4, 6}},
		{"two states", jobs.RunQuery{States: []jobs.State{jobs.StateCompleted, jobs.StateScheduled}}, []int{0, 1, 3, 5, 7}},
		{"name and state", jobs.RunQuery{Names: []string{"test.job"}, States: []jobs.State{jobs.StateFailed}}, []int{2, 6}},
		{"a state that no run has", jobs.RunQuery{States: []jobs.State{jobs.StateSkipped}}, []int{}},
	} {
		want := make([]string, len(c.want))
		for i, n := range c.want {
			want[i] = order[n]
		}
		require.Equal(e, want, idsOf(e.all(finder, c.q)), "IDs that FindRuns returned: %s", c.name)
		c.q.Limit = 1
		require.Equal(e, want, idsOf(e.all(finder, c.q)), "IDs that FindRuns returned in pages of one run: %s", c.name)
	}
	if _, ok := e.s.(jobs.RunLister); ok {
		for _, r := range e.all(finder, jobs.RunQuery{}) {
			require.Equal(e, e.runOf(r.Name, r.ID), r, "run that FindRuns returned, and as Runs returns it")
		}
	}
}

func findRunsSelectsByTime(e *env) {
	finder := role[jobs.RunFinder](e)
	p := e.doing()
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	early := e.trigger("test.job", do("fail"))
	earlier := e.inState(finder, early, jobs.StateFailed)
	e.until(time.Now().Add(2 * slack))
	late := e.trigger("test.job", do("fail"))
	ended := e.inState(finder, late, jobs.StateFailed)
	postponed := e.trigger("test.job", do("postpone"))
	due := e.inState(finder, postponed, jobs.StateRetrying)
	require.True(e, ended.EndedAt.After(earlier.EndedAt), "EndedAt of two runs: %v, %v", earlier.EndedAt, ended.EndedAt)
	for _, c := range []struct {
		name         string
		since, until time.Time
		want         []string
	}{
		{"since the last end", ended.EndedAt, time.Time{}, []string{postponed, late}},
		{"after the last end", ended.EndedAt.Add(time.Microsecond), time.Time{}, []string{postponed}},
		{"until the last end", time.Time{}, ended.EndedAt, []string{early}},
		{"after the last end, with a bound", time.Time{}, ended.EndedAt.Add(time.Microsecond), []string{late, early}},
		{"between", earlier.EndedAt.Add(time.Microsecond), due.DueAt, []string{late}},
		{"when the retry is due", due.DueAt, due.DueAt.Add(time.Microsecond), []string{postponed}},
		{"in another time zone", ended.EndedAt.In(time.FixedZone("", -5*3600)), due.DueAt, []string{late}},
		{"in the past", time.Time{}, earlier.EndedAt, []string{}},
		{"in the future", due.DueAt.Add(time.Microsecond), time.Time{}, []string{}},
	} {
		q := jobs.RunQuery{Since: c.since, Until: c.until}
		require.Equal(e, c.want, idsOf(e.all(finder, q)), "IDs that FindRuns returned: %s", c.name)
	}
}

func pagesHaveEveryRunOnce(e *env) {
	finder := role[jobs.RunFinder](e)
	p := e.doing()
	names := []string{"test.a", "test.b", "test.c"}
	for _, name := range names {
		e.noError(e.s.RegisterDelayed(name, 0, p.handle))
	}
	e.start()
	const n = 30
	want := map[string]bool{}
	for i := range n {
		want[e.trigger(names[i%3], do("fail"))] = true
	}
	e.total(jobs.StateFailed, n)
	q := jobs.RunQuery{States: []jobs.State{jobs.StateFailed}, Limit: 7}
	pages := 0
	for {
		page, err := finder.FindRuns(e.ctx, q)
		e.noError(err)
		require.LessOrEqual(e, len(page.Runs), q.Limit, "runs of a page")
		for _, r := range page.Runs {
			require.True(e, want[r.ID], "run %s was returned twice, or began to match after the first page", r.ID)
			delete(want, r.ID)
		}
		pages++
		if page.Next == "" {
			break
		}
		q.After = page.Next
		e.trigger("test.a", do("fail")) // comes before all pages
		e.total(jobs.StateFailed, n+pages)
	}
	require.Empty(e, want, "IDs that no page had")
	require.Equal(e, 5, pages, "pages of 7 for 30 runs")
}

func listsAreBounded(e *env) {
	finder := role[jobs.RunFinder](e)
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	data := map[string]string{"text": strings.Repeat("x", 1_000_000)} // 4 fit into 4 MiB
	const n = 6
	ids := make([]string, n) // the latest first
	for i := range ids {
		ids[n-1-i] = e.trigger("test.job", data, jobs.Delay(time.Hour))
	}
	page, err := finder.FindRuns(e.ctx, jobs.RunQuery{})
	e.noError(err)
	require.Equal(e, ids[:4], idsOf(page.Runs), "IDs of the first page")
	require.Equal(e, ids, idsOf(e.all(finder, jobs.RunQuery{})), "IDs of all pages")
	for _, r := range e.all(finder, jobs.RunQuery{Limit: 5}) {
		require.Greater(e, len(r.Data), 1_000_000, "length of Data")
	}
	if _, ok := e.s.(jobs.RunLister); !ok {
		return
	}
	runs := e.runs("test.job")
	require.Equal(e, ids, idsOf(runs), "IDs that Runs returned")
	for i, r := range runs {
		require.Equal(e, i < 4, r.Data != nil, "Data of run %d that Runs returned is set", i+1)
	}
	last, err := finder.Run(e.ctx, ids[n-1])
	e.noError(err)
	require.Greater(e, len(last.Data), 1_000_000, "length of Data that Run returned")
}

func queriesAreChecked(e *env) {
	finder := role[jobs.RunFinder](e)
	e.noError(e.s.RegisterDelayed("test.job", 0, e.probe(nil).handle))
	id := e.trigger("test.job", nil, jobs.Delay(time.Hour))
	e.trigger("test.job", nil, jobs.Delay(2*time.Hour))
	first, err := finder.FindRuns(e.ctx, jobs.RunQuery{Limit: 1})
	e.noError(err)
	require.NotEmpty(e, first.Next, "Next of the first of two pages")

	calls := map[string]func(ctx context.Context, q jobs.RunQuery) error{
		"FindRuns": func(ctx context.Context, q jobs.RunQuery) error {
			_, err := finder.FindRuns(ctx, q)
			return err
		},
	}
	many := func(call func(context.Context, jobs.RunQuery) (int, error)) func(context.Context, jobs.RunQuery) error {
		return func(ctx context.Context, q jobs.RunQuery) error {
			_, err := call(ctx, q)
			return err
		}
	}
	if r, ok := e.s.(jobs.BulkRetrier); ok {
		calls["RetryMany"], calls["CountRetryable"] = many(r.RetryMany), many(r.CountRetryable)
	}
	if c, ok := e.s.(jobs.BulkCanceller); ok {
		calls["CancelMany"], calls["CountCancellable"] = many(c.CancelMany), many(c.CountCancellable)
	}
	now := time.Now()
	for method, call := range calls {
		for _, c := range []struct {
			q    jobs.RunQuery
			want error
		}{
			{jobs.RunQuery{Names: []string{"test.unknown"}}, jobs.ErrUnknownJob},
			{jobs.RunQuery{Names: []string{"test.job", ""}}, jobs.ErrUnknownJob},
			{jobs.RunQuery{States: []jobs.State{"lost"}}, jobs.ErrInvalidOption},
			{jobs.RunQuery{Since: now, Until: now.Add(-1)}, jobs.ErrInvalidOption},
			{jobs.RunQuery{Limit: -1}, jobs.ErrInvalidOption},
			{jobs.RunQuery{Limit: 1001}, jobs.ErrInvalidOption},
			{jobs.RunQuery{After: id}, jobs.ErrInvalidOption},
			{jobs.RunQuery{After: first.Next + "A"}, jobs.ErrInvalidOption},
		} {
			require.ErrorIs(e, call(e.ctx, c.q), c.want, "%s of %+v", method, c.q)
		}
		if method != "FindRuns" { // it would be ignored
			require.ErrorIs(e, call(e.ctx, jobs.RunQuery{Limit: 1}), jobs.ErrInvalidOption, "%s with Limit", method)
			require.ErrorIs(e, call(e.ctx, jobs.RunQuery{After: first.Next}), jobs.ErrInvalidOption, "%s with After", method)
		}
		require.ErrorIs(e, call(e.ended(), jobs.RunQuery{}), context.Canceled, "%s with a context that has ended", method)
	}
	require.Equal(e, 2, e.queueSize("test.job"), "QueueSize after calls that were refused")
}

func runReturnsErrors(e *env) {
	finder := role[jobs.RunFinder](e)
	p := e.probe(func(_ context.Context, job *jobs.Job) error {
		if job.Attempt < 3 {
			return fmt.Errorf("attempt %d: %w", job.Attempt, errAgain)
		}
		return nil
	})
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0)))
	e.noError(e.s.RegisterDelayed("test.panic", 0, panicking, jobs.MaxRetries(0)))
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1))) // every start is too late
	data := json.RawMessage(`{"n": 1}`)
	late := e.trigger("test.late", nil)
	id := e.trigger("test.job", data)
	panicked := e.trigger("test.panic", nil)
	r, err := finder.Run(e.ctx, id)
	e.noError(err)
	require.Equal(e, "test.job", r.Name, "Name")
	require.Empty(e, r.Errors, "Errors before the first attempt")
	require.Empty(e, r.Process, "Process before the first attempt")
	before := time.Now()
	e.until(before.Add(slack)) // too late for test.late
	e.start()
	r = e.inState(finder, id, jobs.StateCompleted)
	require.JSONEq(e, string(data), string(r.Data), "Data")
	require.Len(e, r.Errors, 2, "Errors")
	for i, failure := range r.Errors {
		require.Equal(e, i+1, failure.Attempt, "Attempt of error %d", i+1)
		require.Equal(e, fmt.Sprintf("attempt %d: %s", i+1, errAgain), failure.Text, "Text of error %d", i+1)
		require.WithinDuration(e, before, failure.At, tolerance, "At of error %d", i+1)
		require.Equal(e, "UTC", failure.At.Location().String(), "location of At")
	}
	require.Equal(e, r.Error, r.Errors[1].Text, "Error and the text of the last of Errors")

	r = e.inState(finder, panicked, jobs.StateFailed)
	require.Len(e, r.Errors, 1, "Errors of a run that panicked")
	require.Equal(e, r.Error, r.Errors[0].Text, "Error and the text of the only one of Errors")
	r = e.inState(finder, late, jobs.StateSkipped)
	require.Empty(e, r.Errors, "Errors of a run that was skipped")
	require.NotEmpty(e, r.Error, "Error of a run that was skipped")

	for _, unknown := range []string{"", "no-such-id", "0", "-1", "99999999999999999999999", id + "0", "0" + id, id + "\x00"} {
		_, err := finder.Run(e.ctx, unknown)
		require.ErrorIs(e, err, jobs.ErrUnknownID, "Run of %q", unknown)
	}
	_, err = finder.Run(e.ended(), id)
	require.ErrorIs(e, err, context.Canceled, "Run with a context that has ended")
}

func runReturnsTheLatestErrors(e *env) {
	finder := role[jobs.RunFinder](e)
	const attempts = 103
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.RetryDelay(0), jobs.MaxRetries(attempts-1)))
	e.start()
	id := e.trigger("test.job", nil)
	r := e.inState(finder, id, jobs.StateFailed)
	require.Len(e, r.Errors, 100, "Errors")
	for i, failure := range r.Errors {
		require.Equal(e, attempts-99+i, failure.Attempt, "Attempt of element %d of Errors", i)
	}
}

func retryManyRetriesWhatMatches(e *env) {
	finder, retrier := role[jobs.RunFinder](e), role[jobs.BulkRetrier](e)
	p := e.probe(func(ctx context.Context, job *jobs.Job) error {
		switch what := e.do(job); {
		case what == "wait":
			return e.untilCancelled(ctx, job)
		case job.Attempt > 1 || what == "succeed":
			return nil
		case what == "postpone":
			return jobs.RetryAfter(time.Hour, errAgain)
		}
		return jobs.Permanent(errAgain)
	})
	for _, name := range []string{"test.job", "test.other"} {
		e.noError(e.s.RegisterDelayed(name, 0, p.handle))
	}
	e.noError(e.s.RegisterDelayed("test.late", 0, p.handle, jobs.StartWithin(1))) // any start is too late
	skipped := e.trigger("test.late", do("succeed"))
	e.until(time.Now().Add(slack)) // too late for test.late
	e.start()
	ids := map[string]string{"skipped": skipped}
	e.inState(finder, skipped, jobs.StateSkipped)
	e.bring(finder, ids, []example{
		{"completed", "test.job", "succeed", jobs.StateCompleted},
		{"failed", "test.job", "fail", jobs.StateFailed},
		{"retrying", "test.job", "postpone", jobs.StateRetrying},
		{"running", "test.job", "wait", jobs.StateRunning},
		{"other failed", "test.other", "fail", jobs.StateFailed},
	})
	e.trigger("test.job", do("succeed"), jobs.Delay(time.Hour))
	between := time.Now()
	e.until(between.Add(2 * slack))

	count := func(q jobs.RunQuery, want int) {
		e.Helper()
		n, err := retrier.CountRetryable(e.ctx, q)
		e.noError(err)
		require.Equal(e, want, n, "CountRetryable of %+v", q)
	}
	retry := func(q jobs.RunQuery, want ...string) {
		e.Helper()
		count(q, len(want))
		for len(p.runs) > 0 {
			<-p.runs
		}
		n, err := retrier.RetryMany(e.ctx, q)
		require.NoError(e, err, "RetryMany of %+v", q)
		require.Equal(e, len(want), n, "runs that RetryMany of %+v retried", q)
		var expected, ran []string
		for _, what := range want {
			expected, ran = append(expected, ids[what]), append(ran, p.next().ID)
		}
		require.ElementsMatch(e, expected, ran, "IDs that ran after RetryMany of %+v", q)
		for _, id := range expected {
			e.inState(finder, id, jobs.StateCompleted)
		}
		count(q, 0)
	}
	retry(jobs.RunQuery{States: []jobs.State{jobs.StateCompleted, jobs.StateRunning, jobs.StateScheduled}})
	retry(jobs.RunQuery{States: []jobs.State{jobs.StateFailed}, Since: between.Add(slack)})
	count(jobs.RunQuery{States: []jobs.State{jobs.StateFailed}}, 2)
	retry(jobs.RunQuery{Names: []string{"test.other"}, States: []jobs.State{jobs.StateFailed}}, "other failed")
	retry(jobs.RunQuery{States: []jobs.State{jobs.StateFailed, jobs.StateCompleted}}, "failed")
	retry(jobs.RunQuery{}, "skipped", "retrying")
	if canceller, ok := e.s.(jobs.Canceller); ok {
		ids["cancelled"] = e.trigger("test.job", do("succeed"), jobs.Delay(time.Hour))
		e.noError(canceller.Cancel(e.ctx, "test.job", ids["cancelled"]))
		retry(jobs.RunQuery{}, "cancelled")
	}
	p.none("no other run was to be retried")
}

func retryManyRetriesOnce(e *env) {
	finder, retrier := role[jobs.RunFinder](e), role[jobs.BulkRetrier](e)
	p := e.probe(fail(errAgain))
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle, jobs.MaxRetries(0)))
	e.noError(e.s.RegisterDelayed("test.other", 0, p.handle, jobs.MaxRetries(0)))
	e.start()
	const n = 700
	data := make([]any, n)
	ids, err := e.s.TriggerMany(e.ctx, "test.job", data)
	e.noError(err)
	failed := func(want int) {
		e.Helper()
		e.eventually(fmt.Sprintf("%d runs to have failed", want), func() (any, bool) {
			count, err := retrier.CountRetryable(e.ctx, jobs.RunQuery{})
			e.noError(err)
			return count, count == want
		})
	}
	failed(n)
	others, err := e.s.TriggerMany(e.ctx, "test.other", data[:100]) // they fail while RetryMany works
	e.noError(err)
	got, err := retrier.RetryMany(e.ctx, jobs.RunQuery{Names: []string{"test.job"}, States: []jobs.State{jobs.StateFailed}})
	e.noError(err)
	require.Equal(e, n, got, "runs that RetryMany retried")
	failed(n + len(others))
	attempts := map[string]int{}
	for _, r := range e.all(finder, jobs.RunQuery{Limit: 1000}) {
		attempts[r.ID] = r.Attempt
	}
	for _, id := range ids {
		require.Equal(e, 2, attempts[id], "attempts of run %s, which RetryMany retried", id)
	}
	for _, id := range others {
		require.Equal(e, 1, attempts[id], "attempts of run %s of another job", id)
	}
}

func retryManyKeepsKeysUnique(e *env) {
	finder, retrier := role[jobs.RunFinder](e), role[jobs.BulkRetrier](e)
	p := e.doing()
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.start()
	failWith := func(key string) string {
		id := e.trigger("test.job", do("fail"), jobs.Unique(key))
		e.inState(finder, id, jobs.StateFailed)
		return id
	}
	taken := failWith("taken")
	free := []string{failWith("free"), failWith("free")}
	alone := failWith("alone")
	holder := e.trigger("test.job", nil, jobs.Unique("taken"), jobs.Delay(time.Hour))
	e.stop() // what is retried waits
	n, err := retrier.RetryMany(e.ctx, jobs.RunQuery{States: []jobs.State{jobs.StateFailed}})
	e.noError(err)
	require.Equal(e, 4, n, "runs that RetryMany retried")
	for _, id := range append(free, taken, alone) {
		e.inState(finder, id, jobs.StateRetrying)
	}
	n, err = retrier.CountRetryable(e.ctx, jobs.RunQuery{})
	e.noError(err)
	require.Zero(e, n, "CountRetryable of runs that were retried and wait for a worker")
	trigger := func(key string) string { return e.trigger("test.job", nil, jobs.Unique(key), jobs.Delay(time.Hour)) }
	require.Equal(e, holder, trigger("taken"), "ID of the run that took the key")
	require.Contains(e, free, trigger("free"), "ID of the run with a key that two failed runs had")
	require.Equal(e, alone, trigger("alone"), "ID of the run with a key that only a failed run had")
}

func cancelManyCancelsWhatMatches(e *env) {
	finder, canceller := role[jobs.RunFinder](e), role[jobs.BulkCanceller](e)
	p := e.doing()
	for _, name := range []string{"test.job", "test.other"} {
		e.noError(e.s.RegisterDelayed(name, 0, p.handle))
	}
	e.noError(e.s.RegisterDelayed("test.busy", 0, p.handle, jobs.Concurrency(1)))
	e.start()
	ids := map[string]string{}
	e.bring(finder, ids, []example{
		{"completed", "test.job", "succeed", jobs.StateCompleted},
		{"failed", "test.job", "fail", jobs.StateFailed},
		{"retrying", "test.job", "postpone", jobs.StateRetrying},
		{"other retrying", "test.other", "postpone", jobs.StateRetrying},
		{"running", "test.busy", "wait", jobs.StateRunning},
		{"waiting", "test.busy", "succeed", jobs.StateWaiting},
	})
	ids["scheduled"] = e.trigger("test.job", nil, jobs.Delay(time.Hour), jobs.Unique("key"))
	cancel := func(q jobs.RunQuery, want ...string) {
		e.Helper()
		n, err := canceller.CountCancellable(e.ctx, q)
		e.noError(err)
		require.Equal(e, len(want), n, "CountCancellable of %+v", q)
		n, err = canceller.CancelMany(e.ctx, q)
		require.NoError(e, err, "CancelMany of %+v", q)
		require.Equal(e, len(want), n, "runs that CancelMany of %+v cancelled", q)
		for _, what := range want {
			r := e.inState(finder, ids[what], jobs.StateCancelled)
			require.False(e, r.EndedAt.IsZero(), "EndedAt of a run that was %s", what)
		}
		cancelled := e.all(finder, jobs.RunQuery{States: []jobs.State{jobs.StateCancelled}})
		for _, r := range cancelled {
			for what, id := range ids {
				if id == r.ID && slices.Contains(want, what) {
					delete(ids, what)
				}
			}
		}
		for what, id := range ids {
			require.NotContains(e, idsOf(cancelled), id, "IDs that were cancelled; the run is %s", what)
		}
	}
	cancel(jobs.RunQuery{States: []jobs.State{jobs.StateCompleted, jobs.StateFailed}})
	cancel(jobs.RunQuery{Names: []string{"test.other"}}, "other retrying")
	cancel(jobs.RunQuery{States: []jobs.State{jobs.StateRetrying}}, "retrying")
	cancel(jobs.RunQuery{States: []jobs.State{jobs.StateWaiting}}, "waiting")
	cancel(jobs.RunQuery{Until: time.Now().Add(time.Minute)}, "running")
	other := e.trigger("test.job", nil, jobs.Unique("key"))
	require.Equal(e, ids["scheduled"], other, "ID of the run that has the key")
	cancel(jobs.RunQuery{}, "scheduled")
	require.NotEqual(e, other, e.trigger("test.job", nil, jobs.Unique("key")), "ID of a run with the key of one that was cancelled")
	e.total(jobs.StateCompleted, 2)
}

func processesListsTheStarted(e *env) {
	lister := role[jobs.ProcessLister](e)
	release := e.gate()
	p := e.probe(release.wait)
	e.noError(e.s.RegisterDelayed("test.job", 0, p.handle))
	e.noError(e.s.RegisterDelayed("test.another", 0, p.handle, jobs.Concurrency(2)))
	processes := func() []jobs.Process {
		e.Helper()
		all, err := lister.Processes(e.ctx)
		require.NoError(e, err, "Processes")
		return all
	}
	require.Empty(e, processes(), "Processes before Start")
	before := time.Now()
	e.start()
	all := processes()
	require.Len(e, all, 1, "Processes after Start")
	self := all[0]
	require.NotEmpty(e, self.ID, "ID")
	require.NotZero(e, self.PID, "PID")
	require.True(e, self.Alive && self.Self, "Alive and Self of %+v", self)
	require.Equal(e, []string{"test.another", "test.job"}, self.Jobs, "Jobs")
	require.Greater(e, self.Workers, 2, "Workers")
	for _, at := range []time.Time{self.StartedAt, self.SeenAt} {
		require.WithinDuration(e, before, at, tolerance, "StartedAt or SeenAt")
		require.Equal(e, "UTC", at.Location().String(), "location of a time")
	}
	e.eventually("the process to lead", func() (any, bool) {
		all := processes()
		return all, len(all) == 1 && all[0].Leader
	})
	id := e.trigger("test.job", nil)
	p.next()
	e.eventually("the process to be busy", func() (any, bool) {
		all := processes()
		return all, len(all) == 1 && all[0].Busy == 1
	})
	if finder, ok := e.s.(jobs.RunFinder); ok {
		r, err := finder.Run(e.ctx, id)
		e.noError(err)
		require.Equal(e, self.ID, r.Process, "Process of a run")
	}
	close(release.open)
	e.stop()
	require.Empty(e, processes(), "Processes after Shutdown")
	e.start()
	all = processes()
	require.Len(e, all, 1, "Processes after another Start")
	require.NotEqual(e, self.ID, all[0].ID, "ID after another Start")
	_, err := lister.Processes(e.ended())
	require.ErrorIs(e, err, context.Canceled, "Processes with a context that has ended")
}
