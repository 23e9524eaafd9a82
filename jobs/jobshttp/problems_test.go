package jobshttp_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// calm returns a scheduler on which nothing is wrong.
func calm(now time.Time) *full {
	s := newFake(now)
	s.statuses = []jobs.Status{
		{Name: "a.first", Schedule: "every 5m0s", PrevTick: now.Add(-time.Minute), PrevState: jobs.StateCompleted, LastSuccess: now.Add(-time.Minute), NextTick: now.Add(4 * time.Minute), Options: jobs.JobOptions{MaxAttempts: 3, Timeout: time.Minute}},
		{Name: "b.second", Schedule: "every 5m0s", PrevTick: now.Add(-time.Minute), PrevState: jobs.StateCompleted, LastSuccess: now.Add(-time.Minute), NextTick: now.Add(4 * time.Minute), Options: jobs.JobOptions{MaxAttempts: 3, Timeout: time.Minute}},
	}
	s.runs, s.activity = map[string][]jobs.Run{}, nil
	return s
}

// headline returns the first line of the page in words, and its class.
func headline(t *testing.T, page string) (text, class string) {
	m := regexp.MustCompile(`(?s)<h2 id="health" class="health (\w+)">(.*?)</h2>`).FindStringSubmatch(page)
	require.NotNil(t, m, page)
	return visible(m[2]), m[1]
}

func TestHeadline_IsGoodOnlyIfNothingIsWrong(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(s *full, now time.Time)
		want   string
		good   bool
	}{
		"nothing": {func(*full, time.Time) {}, "✓ All 2 jobs are fine", true},
		"one job": {func(s *full, _ time.Time) { s.statuses = s.statuses[:1] }, "✓ The job is fine", true},
		"no jobs": {func(s *full, _ time.Time) { s.statuses = nil }, "✓ Healthy", true},
		"paused":  {func(s *full, now time.Time) { s.statuses[0].PausedSince = now }, "✓ All 2 jobs are fine", true},
		"overdue by seconds, which Health allows": {func(s *full, _ time.Time) { s.statuses[0].OverdueBy = 12 * time.Second }, "✗ 1 overdue", false},
		"due just now":     {func(s *full, _ time.Time) { s.statuses[0].OverdueBy = 3 * time.Second }, "✓ All 2 jobs are fine", true},
		"last tick failed": {func(s *full, _ time.Time) { s.statuses[0].PrevState = jobs.StateFailed }, "✗ 1 failing", false},
		"retrying, after a success": {func(s *full, now time.Time) {
			s.statuses[0].PrevState, s.statuses[0].Retrying = jobs.StateRetrying, 1
			s.runs["a.first"] = []jobs.Run{
				{ID: "2", Name: "a.first", State: jobs.StateRetrying, Tick: now.Add(-time.Minute), Error: "busy"},
				{ID: "1", Name: "a.first", State: jobs.StateCompleted, Tick: now.Add(-time.Hour), EndedAt: now.Add(-time.Hour)},
			}
		}, "✓ All 2 jobs are fine", true},
		"running, after a failure": {func(s *full, now time.Time) {
			s.statuses[0].PrevState, s.statuses[0].Running = jobs.StateRunning, 1
			s.runs["a.first"] = []jobs.Run{
				{ID: "2", Name: "a.first", State: jobs.StateRunning, Tick: now.Add(-time.Minute), StartedAt: now},
				{ID: "1", Name: "a.first", State: jobs.StateFailed, Tick: now.Add(-time.Hour), EndedAt: now.Add(-time.Hour), Error: "broken"},
			}
		}, "✗ 1 failing", false},
		"a triggered run of a schedule failed last": {func(s *full, now time.Time) {
			s.activity = map[string]jobs.Outcomes{"a.first": {Failed: 1}}
			s.runs["a.first"] = []jobs.Run{{ID: "9", Name: "a.first", State: jobs.StateFailed, EndedAt: now, Error: "broken"}}
		}, "✗ 1 failing", false},
		"a triggered run failed behind many that wait": {func(s *full, now time.Time) {
			s.statuses[0] = jobs.Status{Name: "a.first", Schedule: "on demand", Waiting: 6}
			for i := range 6 {
				s.runs["a.first"] = append(s.runs["a.first"], jobs.Run{ID: "1" + string(rune('0'+i)), Name: "a.first", State: jobs.StateWaiting, CreatedAt: now, DueAt: now})
			}
			s.runs["a.first"] = append(s.runs["a.first"], jobs.Run{ID: "9", Name: "a.first", State: jobs.StateFailed, EndedAt: now.Add(-time.Hour), Error: "broken"})
		}, "✗ 1 failing", false},
		"hung": {func(s *full, now time.Time) {
			s.statuses[0].Running = 1
			s.runs["a.first"] = []jobs.Run{{ID: "9", Name: "a.first", State: jobs.StateRunning, DueAt: now.Add(-2 * time.Minute), StartedAt: now.Add(-2 * time.Minute)}}
		}, "✗ 1 hung", false},
		"at its timeout": {func(s *full, now time.Time) {
			s.statuses[0].Running = 1
			s.runs["a.first"] = []jobs.Run{{ID: "9", Name: "a.first", State: jobs.StateRunning, DueAt: now.Add(-55 * time.Second), StartedAt: now.Add(-55 * time.Second)}}
		}, "✓ All 2 jobs are fine", true},
		"registered nowhere": {func(s *full, _ time.Time) {
			s.processes = []jobs.Process{{ID: "x", Alive: true, Jobs: []string{"b.second"}}, {ID: "dead", Jobs: []string{"a.first"}}}
		}, "✗ 1 without a process", false},
		"no process": {func(s *full, _ time.Time) { s.processes = []jobs.Process{} }, "✗ Unhealthy", false},
		"a scheduler's reason": {func(s *full, _ time.Time) {
			s.health = jobs.Health{Reasons: []jobs.Reason{{Text: "no leader for 40s"}}}
		}, "✗ Unhealthy", false},
		"all at once": {func(s *full, now time.Time) {
			s.health = jobs.Health{Reasons: []jobs.Reason{{Job: "a.first", Text: "is overdue by 2m0s"}, {Text: "no leader for 40s"}}}
			s.statuses[0].OverdueBy = 2 * time.Minute
			s.statuses[1].PrevState = jobs.StateFailed
		}, "✗ Unhealthy, 1 overdue, 1 failing", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				s := calm(now)
				row.change(s, now)
				h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
				send(h, "GET", "/", "")
				time.Sleep(11 * time.Second) // until every cache has expired
				text, class := headline(t, send(h, "GET", "/", "").Body.String())
				require.Equal(t, strings.ReplaceAll(row.want, ",", ""), text)
				require.Equal(t, row.good, class == "good")
			})
		})
	}
}

func TestHeadline_SaysThatHealthIsUnknownOrHidden(t *testing.T) {
	t.Parallel()
	s := calm(time.Now())
	s.before = func(method string) {
		if method == "Health" {
			panic("oh no")
		}
	}
	text, class := headline(t, send(jobshttp.New(s, &jobshttp.Options{Authorize: everybody}), "GET", "/", "").Body.String())
	require.Equal(t, "? Health unknown", text)
	require.Equal(t, "bad", class)

	// The jobs are unknown, although the scheduler says that it is healthy.
	text, class = headline(t, send(jobshttp.New(jobless{calm(time.Now())}, &jobshttp.Options{Authorize: everybody}), "GET", "/", "").Body.String())
	require.Equal(t, "? Health unknown", text)
	require.Equal(t, "bad", class)
}

func TestHeadline_SaysThatReasonsAreHidden(t *testing.T) {
	t.Parallel()
	s := calm(time.Now())
	s.health = jobs.Health{Started: true, Reasons: []jobs.Reason{{Job: "b.second", Text: "is overdue by 1h0m0s"}}}
	h := jobshttp.New(s, &jobshttp.Options{Authorize: func(_ *http.Request, _ jobshttp.Action, job string) error {
		return refuseUnless(job != "b.second")
	}})
	page := send(h, "GET", "/", "").Body.String()
	text, class := headline(t, page)
	require.Equal(t, "✗ Unhealthy", text)
	require.Equal(t, "bad", class)
	require.Contains(t, visible(page), "The scheduler is unhealthy because of jobs that you may not see.")
	require.NotContains(t, page, "b.second")
}

func TestListPage_NamesTheHungRunFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(15 * time.Hour)
		now := time.Now()
		s := calm(now)
		s.statuses[1].Running = 1
		s.statuses[0].OverdueBy, s.statuses[0].OverdueReason = time.Hour, "all workers are taken"
		run := jobs.Run{ID: "77", Name: "b.second", State: jobs.StateRunning, DueAt: now.Add(-13 * time.Minute), StartedAt: now.Add(-13 * time.Minute), Process: "web-1:abc", Attempt: 1, MaxAttempts: 3}
		s.runs["b.second"] = []jobs.Run{run}
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		text := func(path string) string {
			return strings.ReplaceAll(visible(send(h, "GET", path, "").Body.String()), " :", ":")
		}
		page := send(h, "GET", "/", "").Body.String()
		const hung = "b.second has hung since 14:48:00 UTC, 12 min ago: run 77 still executes after its timeout of 1 min 0 s in web-1, pid 812."
		require.Contains(t, text("/"), hung+" It was not cancelled. a.first is overdue by 1 h 0 min: all workers are taken")
		require.Contains(t, page, `href="./runs/77"`)
		require.Contains(t, page, `href="./processes#process-web-1:abc"`)
		require.Contains(t, visible(page), "b.second ! hung ● running")
		require.Contains(t, text("/job/b.second"), "! The job has hung since 14:48:00 UTC")
		require.Contains(t, text("/runs/77"), "! The run has hung since 14:48:00 UTC, 12 min ago: it still executes after its timeout of 1 min 0 s in web-1, pid 812. It was not cancelled.")
		require.Contains(t, visible(send(h, "GET", "/processes", "").Body.String()), "1 of 100 busy b.second 77 hung")

		s.set(func() { s.runs["b.second"][0].CancelledAt = now.Add(-time.Minute) })
		time.Sleep(10 * time.Second)
		require.Contains(t, visible(send(h, "GET", "/", "").Body.String()), "It was cancelled 1 min ago and does not stop.")
	})
}

func TestListPage_OrdersProblemsAndFoldsThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		s := calm(now)
		s.statuses = nil
		for i, name := range []string{"a.paused", "b.failed-early", "c.failed-late", "d.overdue", "e.more-overdue", "f.fine"} {
			st := jobs.Status{Name: name, Schedule: "every 5m0s", PrevTick: now.Add(time.Duration(i-20) * time.Minute), PrevState: jobs.StateCompleted}
			switch {
			case i == 0:
				st.PausedSince = now
			case i < 3:
				st.PrevState = jobs.StateFailed
			case i < 5:
				st.OverdueBy = time.Duration(i) * time.Hour
			}
			s.statuses = append(s.statuses, st)
		}
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		page := send(h, "GET", "/", "").Body.String()
		text := visible(page)
		require.Contains(t, text, "e.more-overdue is overdue by 4 h 0 min d.overdue is overdue by 3 h 0 min c.failed-late is failing 2 more: 1 failing, 1 paused b.failed-early is failing a.paused has been paused")
		require.Contains(t, page, `<details class="fold" id="problems">`)

		// Each number leads to the jobs that it counts.
		require.Contains(t, page, `<a href="?show=failing">2 failing</a>`)
		only := send(h, "GET", "/?show=failing", "").Body.String()
		require.Equal(t, []string{"b.failed-early", "c.failed-late"}, listed(only))
		require.Contains(t, visible(only), "2 of 6 jobs · failing")
		require.NotContains(t, only, `class="problems"`, "the jobs come first")
		require.Equal(t, []string{"d.overdue", "e.more-overdue"}, listed(send(h, "GET", "/?show=overdue", "").Body.String()))
		require.Equal(t, []string{"a.paused"}, listed(send(h, "GET", "/?show=paused", "").Body.String()))
		require.Empty(t, listed(send(h, "GET", "/?show=hung", "").Body.String()))
		w := send(h, "GET", "/?show=everything", "")
		require.Equal(t, 400, w.Code)
		require.Contains(t, w.Body.String(), "Show must be one of failing, hung, overdue")
	})
}
