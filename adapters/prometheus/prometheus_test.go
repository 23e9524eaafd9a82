package prometheus_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/adapters/prometheus"
	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs"
)

// measured runs a schedule and a job of each outcome in a synctest bubble, until 2000-01-01
// 00:10:30.
func measured(t *testing.T) (client.Collector, *memory.Scheduler) {
	t.Helper()
	m := prometheus.New(nil)
	s, err := memory.New(&memory.Config{Defaults: m.Options()})
	require.NoError(t, err)
	take := func(d time.Duration, err error) jobs.Handler {
		return func(ctx context.Context, _ *jobs.Job) error {
			select {
			case <-time.After(d):
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	require.NoError(t, s.RegisterInterval("audit.sync", 5*time.Minute, take(2*time.Second, nil)))
	require.NoError(t, s.RegisterDelayed("email.fails", 0, take(time.Second, errors.New("no luck"))))
	require.NoError(t, s.RegisterDelayed("email.later", time.Hour, take(0, nil)))
	require.NoError(t, s.RegisterDelayed("email.flaky", 0, take(0, errors.New("not yet")), jobs.RetryDelay(time.Hour)))
	require.NoError(t, s.RegisterDelayed("email.slow", 0, take(time.Hour, nil), jobs.Timeout(24*time.Hour)))
	require.NoError(t, s.RegisterDelayed("email.stuck", 0, take(time.Hour, nil), jobs.Timeout(time.Second), jobs.MaxRetries(0)))
	require.NoError(t, s.RegisterDelayed("email.late", 0, take(0, nil), jobs.StartWithin(time.Second)))
	_, err = s.Trigger(t.Context(), "email.late", nil)
	require.NoError(t, err)
	time.Sleep(2 * time.Second)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
	})
	for _, name := range []string{"email.fails", "email.later", "email.flaky", "email.slow", "email.stuck"} {
		_, err := s.Trigger(t.Context(), name, nil)
		require.NoError(t, err)
	}
	time.Sleep(10*time.Minute + 28*time.Second)
	return m.Collector(listing{s}), s
}

// listing is a scheduler that lists processes.
type listing struct{ *memory.Scheduler }

// Processes implements [jobs.ProcessLister].
func (listing) Processes(context.Context) ([]jobs.Process, error) {
	return []jobs.Process{
		{ID: "a", Alive: true, Workers: 100, Busy: 7},
		{ID: "b", Alive: true, Self: true, Workers: 10, Busy: 3},
		{ID: "c", Workers: 100, Busy: 100}, // dead
	}, nil
}

func TestCollector_CoversEveryJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q, _ := measured(t)
		problems, err := testutil.CollectAndLint(q)
		require.NoError(t, err)
		require.Empty(t, problems)
		require.NoError(t, testutil.CollectAndCompare(q, strings.NewReader(`
# HELP everytick_job_attempts_total Attempts in this process, by outcome: completed, snoozed (postponed by the handler), retried (failed, another attempt follows), failed (for good), interrupted (by a shutdown or a cancellation).
# TYPE everytick_job_attempts_total counter
everytick_job_attempts_total{job_name="audit.sync",outcome="completed"} 2
everytick_job_attempts_total{job_name="audit.sync",outcome="failed"} 0
everytick_job_attempts_total{job_name="audit.sync",outcome="interrupted"} 0
everytick_job_attempts_total{job_name="audit.sync",outcome="retried"} 0
everytick_job_attempts_total{job_name="audit.sync",outcome="snoozed"} 0
everytick_job_attempts_total{job_name="email.fails",outcome="completed"} 0
everytick_job_attempts_total{job_name="email.fails",outcome="failed"} 1
everytick_job_attempts_total{job_name="email.fails",outcome="interrupted"} 0
everytick_job_attempts_total{job_name="email.fails",outcome="retried"} 2
everytick_job_attempts_total{job_name="email.fails",outcome="snoozed"} 0
everytick_job_attempts_total{job_name="email.flaky",outcome="completed"} 0
everytick_job_attempts_total{job_name="email.flaky",outcome="failed"} 0
everytick_job_attempts_total{job_name="email.flaky",outcome="interrupted"} 0
everytick_job_attempts_total{job_name="email.flaky",outcome="retried"} 1
everytick_job_attempts_total{job_name="email.flaky",outcome="snoozed"} 0
everytick_job_attempts_total{job_name="email.late",outcome="completed"} 0
everytick_job_attempts_total{job_name="email.late",outcome="failed"} 0
everytick_job_attempts_total{job_name="email.late",outcome="interrupted"} 0
everytick_job_attempts_total{job_name="email.late",outcome="retried"} 0
everytick_job_attempts_total{job_name="email.late",outcome="snoozed"} 0
everytick_job_attempts_total{job_name="email.later",outcome="completed"} 0
everytick_job_attempts_total{job_name="email.later",outcome="failed"} 0
everytick_job_attempts_total{job_name="email.later",outcome="interrupted"} 0
everytick_job_attempts_total{job_name="email.later",outcome="retried"} 0
everytick_job_attempts_total{job_name="email.later",outcome="snoozed"} 0
everytick_job_attempts_total{job_name="email.slow",outcome="completed"} 0
everytick_job_attempts_total{job_name="email.slow",outcome="failed"} 0
everytick_job_attempts_total{job_name="email.slow",outcome="interrupted"} 0
everytick_job_attempts_total{job_name="email.slow",outcome="retried"} 0
everytick_job_attempts_total{job_name="email.slow",outcome="snoozed"} 0
everytick_job_attempts_total{job_name="email.stuck",outcome="completed"} 0
everytick_job_attempts_total{job_name="email.stuck",outcome="failed"} 1
everytick_job_attempts_total{job_name="email.stuck",outcome="interrupted"} 0
everytick_job_attempts_total{job_name="email.stuck",outcome="retried"} 0
everytick_job_attempts_total{job_name="email.stuck",outcome="snoozed"} 0
# HELP everytick_jobs Jobs over all processes, by state: waiting (not attempted yet, due or delayed), retrying (failed, waits for its next attempt), running.
# TYPE everytick_jobs gauge
everytick_jobs{job_name="audit.sync",state="retrying"} 0
everytick_jobs{job_name="audit.sync",state="running"} 0
everytick_jobs{job_name="audit.sync",state="waiting"} 0
everytick_jobs{job_name="email.fails",state="retrying"} 0
everytick_jobs{job_name="email.fails",state="running"} 0
everytick_jobs{job_name="email.fails",state="waiting"} 0
everytick_jobs{job_name="email.flaky",state="retrying"} 1
everytick_jobs{job_name="email.flaky",state="running"} 0
everytick_jobs{job_name="email.flaky",state="waiting"} 0
everytick_jobs{job_name="email.late",state="retrying"} 0
everytick_jobs{job_name="email.late",state="running"} 0
everytick_jobs{job_name="email.late",state="waiting"} 0
everytick_jobs{job_name="email.later",state="retrying"} 0
everytick_jobs{job_name="email.later",state="running"} 0
everytick_jobs{job_name="email.later",state="waiting"} 1
everytick_jobs{job_name="email.slow",state="retrying"} 0
everytick_jobs{job_name="email.slow",state="running"} 1
everytick_jobs{job_name="email.slow",state="waiting"} 0
everytick_jobs{job_name="email.stuck",state="retrying"} 0
everytick_jobs{job_name="email.stuck",state="running"} 0
everytick_jobs{job_name="email.stuck",state="waiting"} 0
# HELP everytick_up 1 if the scheduler answered this scrape, 0 if not, for example because the database is down. The other metrics of the scheduler then keep their last values.
# TYPE everytick_up gauge
everytick_up 1
# HELP everytick_healthy 1 if nothing keeps jobs in general from running, otherwise 0; /healthz has the reasons. An overdue schedule does not count, see everytick_schedule_overdue_seconds.
# TYPE everytick_healthy gauge
everytick_healthy 1
# HELP everytick_oldest_waiting_seconds How long the oldest waiting job has been due, over all processes.
# TYPE everytick_oldest_waiting_seconds gauge
everytick_oldest_waiting_seconds 0
# HELP everytick_schedule_overdue_seconds How late a schedule's next tick is, 0 if it is on time.
# TYPE everytick_schedule_overdue_seconds gauge
everytick_schedule_overdue_seconds{job_name="audit.sync"} 0
# HELP everytick_job_last_success_timestamp_seconds When a job last succeeded, as far as this process knows: the end of a run in this process, or the latest tick whose run succeeded anywhere. 0 for a schedule that has never succeeded.
# TYPE everytick_job_last_success_timestamp_seconds gauge
everytick_job_last_success_timestamp_seconds{job_name="audit.sync"} 9.46685402e+08
`), "everytick_job_attempts_total", "everytick_jobs", "everytick_up", "everytick_healthy", "everytick_oldest_waiting_seconds",
			"everytick_schedule_overdue_seconds", "everytick_job_last_success_timestamp_seconds"))

		for line, want := range map[string]string{
			`everytick_job_triggers_total{job_name="email.fails"}`:                      "1",
			`everytick_job_triggers_total{job_name="audit.sync"}`:                       "0",
			`everytick_job_skips_total{job_name="email.late"}`:                          "1",
			`everytick_job_skips_total{job_name="audit.sync"}`:                          "0",
			`everytick_processes`:                                                       "2",
			`everytick_workers{state="busy"}`:                                           "3",
			`everytick_workers{state="free"}`:                                           "7",
			`everytick_schedule_previous_tick_timestamp_seconds{job_name="audit.sync"}`: "9.466854e+08",
		} {
			got, _ := value(t, q, line)
			require.Equal(t, want, got, line)
		}
		text := exposition(t, q)
		require.Contains(t, text, `everytick_job_duration_seconds_sum{job_name="audit.sync"} 4`)
		require.Contains(t, text, `everytick_job_duration_seconds_bucket{job_name="email.stuck",le="1"} 1`)
		require.Contains(t, text, `everytick_tick_lateness_seconds_count{job_name="audit.sync"} 2`)
		require.NotContains(t, text, `everytick_tick_lateness_seconds_count{job_name="email`, "triggered runs have no tick")
	})
}

// exposition returns the metrics in the text format.
func exposition(t *testing.T, page client.Collector) string {
	t.Helper()
	registry := client.NewPedanticRegistry()
	registry.MustRegister(page)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	return w.Body.String()
}

// monitor is a fake scheduler.
type monitor struct {
	jobs.Monitor
	asked    int
	statuses []jobs.Status
	health   jobs.Health
	err      error
	hangs    bool
}

func (m *monitor) Jobs(ctx context.Context) ([]jobs.Status, error) {
	m.asked++
	if m.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return m.statuses, m.err
}

func (m *monitor) Health(context.Context) (jobs.Health, error) { return m.health, nil }

// value returns the value of a series and whether it exists.
func value(t *testing.T, page client.Collector, line string) (string, bool) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(line) + ` (\S+)$`).FindStringSubmatch(exposition(t, page))
	if found == nil {
		return "", false
	}
	return found[1], true
}

func TestCollector_ReportsTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tick := time.Date(2000, 1, 1, 3, 0, 0, 0, time.UTC)
		mon := &monitor{
			health: jobs.Health{OldestWaiting: 90 * time.Second, Reasons: []jobs.Reason{{Text: "no process leads"}}},
			statuses: []jobs.Status{
				{Name: "audit.retention", NextTick: tick, OverdueBy: 2 * time.Minute, PrevTick: tick, PrevState: jobs.StateRunning, LastSuccess: tick.Add(-24 * time.Hour)},
				{Name: "audit.sync", NextTick: tick, PrevTick: tick, PrevState: jobs.StateFailed},
				{Name: "email.send", PausedSince: tick, Waiting: 5, Retrying: 2},
			},
		}
		page := prometheus.New(nil).Collector(mon)
		for line, want := range map[string]string{
			"everytick_up":                     "1",
			"everytick_healthy":                "0",
			"everytick_oldest_waiting_seconds": "90",
			`everytick_schedule_overdue_seconds{job_name="audit.retention"}`:           "120",
			`everytick_schedule_overdue_seconds{job_name="audit.sync"}`:                "0",
			`everytick_job_last_success_timestamp_seconds{job_name="audit.retention"}`: "9.466092e+08",
			// A schedule that has never succeeded must not be missing, or an alert on its age never fires.
			`everytick_job_last_success_timestamp_seconds{job_name="audit.sync"}`:            "0",
			`everytick_schedule_previous_tick_timestamp_seconds{job_name="audit.sync"}`:      "9.466956e+08",
			`everytick_schedule_previous_tick_timestamp_seconds{job_name="audit.retention"}`: "9.466956e+08",
			`everytick_job_paused{job_name="email.send"}`:                                    "1",
			`everytick_job_paused{job_name="audit.sync"}`:                                    "0",
			`everytick_jobs{job_name="email.send",state="waiting"}`:                          "3",
			`everytick_jobs{job_name="email.send",state="retrying"}`:                         "2",
		} {
			got, _ := value(t, page, line)
			require.Equal(t, want, got, line)
		}
		for _, absent := range []string{
			`everytick_schedule_overdue_seconds{job_name="email.send"}`,           // no schedule
			`everytick_job_last_success_timestamp_seconds{job_name="email.send"}`, // no success, and no schedule
			`everytick_schedule_previous_tick_timestamp_seconds{job_name="email.send"}`,
			`everytick_workers{state="busy"}`, // the scheduler cannot list processes
		} {
			_, found := value(t, page, absent)
			require.False(t, found, absent)
		}

		// What concerns one job is that job's alert, not one of the scheduler.
		mon.health.Reasons = []jobs.Reason{{Job: "audit.retention", Text: "is overdue"}}
		time.Sleep(prometheus.AnswerAge)
		got, _ := value(t, page, "everytick_healthy")
		require.Equal(t, "1", got)

		mon.health.Reasons = append(mon.health.Reasons, jobs.Reason{Job: "email.send", Text: "could not be fetched for 10s: disk full"})
		time.Sleep(prometheus.AnswerAge)
		got, _ = value(t, page, "everytick_healthy")
		require.Equal(t, "0", got, "a job without a schedule has no other alert")

		// While a tick is running, the last success is still known.
		mon.statuses[0].PrevTick, mon.statuses[0].PrevState = tick, jobs.StateRunning
		time.Sleep(prometheus.AnswerAge)
		got, _ = value(t, page, `everytick_job_last_success_timestamp_seconds{job_name="audit.retention"}`)
		require.Equal(t, "9.466092e+08", got)
	})
}

func TestCollector_ScrapesAreBoundedAndShareAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mon := &monitor{health: jobs.Health{Healthy: true}, statuses: []jobs.Status{
			{Name: "audit.sync", NextTick: time.Now(), OverdueBy: 2 * time.Minute},
			{Name: "email.send", Waiting: 5},
		}}
		m := prometheus.New(nil)
		page := m.Collector(mon)
		for range 10 {
			exposition(t, page)
		}
		require.Equal(t, 1, mon.asked)

		// While the database hangs, scrapes still answer in time and report it.
		mon.hangs = true
		time.Sleep(prometheus.AnswerAge)
		before := time.Now()
		var texts [3]string
		done := make(chan struct{}, len(texts))
		for i := range texts {
			go func() {
				texts[i] = exposition(t, page)
				done <- struct{}{}
			}()
		}
		// Handlers do not wait for a scrape.
		ran := prometheus.Count(m)(func(context.Context, *jobs.Job) error { return nil })
		require.NoError(t, ran(t.Context(), &jobs.Job{Name: "email.send"}))
		require.Zero(t, time.Since(before))
		for range texts {
			<-done
		}
		require.Equal(t, prometheus.MonitorTimeout, time.Since(before))
		require.Equal(t, 2, mon.asked)
		for _, text := range texts {
			require.Contains(t, text, "\neverytick_up 0\n")
			// The rest keeps its last values: no alert ends because the database hangs.
			require.Contains(t, text, "\neverytick_healthy 1\n")
			require.Contains(t, text, `everytick_jobs{job_name="email.send",state="waiting"} 5`)
			require.Contains(t, text, `everytick_schedule_overdue_seconds{job_name="audit.sync"} 120`)
			require.Contains(t, text, `everytick_job_attempts_total{job_name="email.send",outcome="completed"} 1`)
		}

		mon.hangs = false
		time.Sleep(prometheus.AnswerAge)
		got, _ := value(t, page, "everytick_up")
		require.Equal(t, "1", got)
		require.Equal(t, 3, mon.asked)
	})
}

func TestMetrics_ShutdownIsAnInterruptionNotAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q, s := measured(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
		got, _ := value(t, q, `everytick_job_attempts_total{job_name="email.slow",outcome="interrupted"}`)
		require.Equal(t, "1", got)
		got, _ = value(t, q, "everytick_healthy")
		require.Equal(t, "0", got)
	})
}

func TestCollector_ReportsADeadDatabase(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://ann:hunter2secret@127.0.0.1:1/db")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	var log strings.Builder
	m := prometheus.New(&prometheus.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s, err := river.New(pool, &river.Config{Defaults: m.Options()})
	require.NoError(t, err)
	require.NoError(t, s.RegisterDelayed("email.send", 0, func(context.Context, *jobs.Job) error { return nil }))
	text := exposition(t, m.Collector(s))
	require.Contains(t, text, "\neverytick_up 0\n")
	require.Contains(t, log.String(), "the scheduler did not answer a scrape")
	require.NotContains(t, text+log.String(), "hunter2secret")
}

// alertLines matches every line that docs/alerts.yml may have. It replaces a YAML parser.
var alertLines = regexp.MustCompile(`^(#.*|groups:|  - name: \w+|    rules:|      #.*` +
	`|      - alert: Everytick[A-Za-z]+|        expr: .*[^:#\s].*|        for: \d+[mh]|        labels: \{ severity: (critical|warning) \}` +
	`|        annotations:|          (summary|description): '[^']*')?$`)

// described returns the names of all metrics.
func described(t *testing.T) map[string]bool {
	t.Helper()
	ch := make(chan *client.Desc, 100)
	prometheus.New(nil).Collector(&monitor{}).Describe(ch)
	close(ch)
	names := map[string]bool{}
	for desc := range ch {
		name, _, _ := strings.Cut(strings.TrimPrefix(desc.String(), `Desc{fqName: "`), `"`)
		names[name] = true
	}
	require.Len(t, names, 15)
	return names
}

// requireExpr requires that an expression uses metrics, and only existing ones with labels and values that they have.
func requireExpr(t *testing.T, expr string, exists map[string]bool) {
	t.Helper()
	names := regexp.MustCompile(`everytick_\w+`).FindAllString(expr, -1)
	require.NotEmpty(t, names, expr)
	for _, name := range names {
		require.True(t, exists[strings.TrimSuffix(name, "_bucket")], "%s in %s", name, expr)
	}
	values := map[string][]string{"outcome": prometheus.Outcomes, "state": {"busy", "free", "waiting", "retrying", "running"}}
	for _, label := range regexp.MustCompile(`(\w+)(?:=|!=|=~|!~)"([^"]*)"`).FindAllStringSubmatch(expr, -1) {
		if label[1] != "job_name" {
			require.Subset(t, values[label[1]], strings.Split(label[2], "|"), expr)
		}
	}
	for _, by := range regexp.MustCompile(`(?:by|on) \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
		if by[1] != "" {
			require.Subset(t, []string{"job_name", "le", "outcome", "state"}, strings.Split(by[1], ", "), expr)
		}
	}
	require.Equal(t, strings.Count(expr, "("), strings.Count(expr, ")"), expr)
}

// alerts returns the names of the alerts in docs/alerts.yml, and their text.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.ReadFile("../../docs/alerts.yml")
	require.NoError(t, err)
	for line := range strings.Lines(string(file)) {
		require.Regexp(t, alertLines, strings.TrimSuffix(line, "\n"))
	}
	all := map[string]string{}
	for _, rule := range strings.Split(string(file), "- alert: ")[1:] {
		name, text, _ := strings.Cut(rule, "\n")
		all[name] = text
	}
	require.Len(t, all, 12)
	return all
}

func TestAlerts_UseExistingMetrics(t *testing.T) {
	t.Parallel()
	exists := described(t)
	for name, text := range alerts(t) {
		_, expr, ok := strings.Cut(text, "expr: ")
		require.True(t, ok, "alert without an expression: %s", name)
		expr, rest, _ := strings.Cut(expr, "\n")
		require.Contains(t, rest, "summary: ", name)
		requireExpr(t, expr, exists)
	}
}

// The alerts that alertmanager.yml and alerts_test.yml name exist.
func TestAlerts_AreKnownToAlertmanager(t *testing.T) {
	t.Parallel()
	all := alerts(t)
	for _, file := range []string{"alertmanager.yml", "alerts_test.yml"} {
		text, err := os.ReadFile("../../docs/" + file)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile(`Everytick[A-Z]\w+`).FindAllString(string(text), -1) {
			require.Contains(t, all, name, file)
		}
	}
}

func TestDashboard_UsesExistingMetrics(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../../docs/grafana.json")
	require.NoError(t, err)
	var board struct {
		Title, UID string
		Panels     []struct {
			Title, Description, Type string
			GridPos                  struct{ X, Y, W, H int }
			Targets                  []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	require.NoError(t, json.Unmarshal(file, &board))
	require.Equal(t, "everytick", board.Title)
	exists, used := described(t), map[string]bool{}
	taken := map[[2]int]string{}
	for _, p := range board.Panels {
		require.NotEmpty(t, p.Title)
		require.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				require.Less(t, x, 24, p.Title)
				require.Empty(t, taken[[2]int{x, y}], "%s overlaps", p.Title)
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			requireExpr(t, target.Expr, exists)
			for _, name := range regexp.MustCompile(`everytick_\w+`).FindAllString(target.Expr, -1) {
				used[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	for _, v := range board.Templating.List {
		if v.Type == "query" {
			requireExpr(t, v.Definition, exists)
		}
	}
	require.Equal(t, exists, used, "the dashboard shows every metric")
}
