// Package docs_test runs what docs/recipes.md shows.
package docs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/everytick/everytick/adapters/memory"
	jobsotel "github.com/everytick/everytick/adapters/otel"
	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
)

var database = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error {
	if err := river.Migrate(ctx, pool, nil); err != nil {
		return err
	}
	_, err := pool.Exec(ctx, `
		CREATE TABLE webhook_done (id text PRIMARY KEY);
		CREATE TABLE effect (what text);
		CREATE TABLE account (id bigint PRIMARY KEY, cents bigint NOT NULL);
		INSERT INTO account VALUES (7, 1000);
		CREATE SEQUENCE commits;
		CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN IF nextval(''commits'') = 1 THEN RAISE ''the first COMMIT fails''; END IF; RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER fail_once AFTER UPDATE ON account DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION fail_once();
		CREATE TABLE orders (id bigint PRIMARY KEY, total bigint NOT NULL CHECK (total > 0));
		CREATE TABLE digest (sent_until timestamptz NOT NULL);
		INSERT INTO digest VALUES ('2026-01-01 00:00Z');
		CREATE TABLE log (at timestamptz NOT NULL);
		CREATE TABLE sale (id bigint PRIMARY KEY, total bigint NOT NULL, changed_at timestamptz NOT NULL);
		CREATE TABLE warehouse (id bigint PRIMARY KEY, total bigint NOT NULL);
		CREATE TABLE report (id bigint PRIMARY KEY, parts_left int NOT NULL);
		CREATE TABLE report_part (report bigint, part int, total bigint, PRIMARY KEY (report, part));
		CREATE TABLE import (file text PRIMARY KEY, next_line int NOT NULL DEFAULT 0);
		CREATE TABLE doc (id bigint PRIMARY KEY, body text NOT NULL);
		CREATE TABLE doc_index (doc bigint PRIMARY KEY, words text NOT NULL);
		CREATE TABLE tenant (id bigint PRIMARY KEY, active boolean NOT NULL);`)
	return err
})

// start returns a started scheduler, behind a recorder, in which register has registered jobs.
func start(t *testing.T, register func(s jobs.Scheduler) error) (*jobstest.Recorder, *pgxpool.Pool) {
	t.Helper()
	pool := database.Pool(t)
	scheduler, err := river.New(pool, &river.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	rec := jobstest.Record(scheduler)
	require.NoError(t, register(rec))
	require.NoError(t, rec.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, rec.Shutdown(context.Background())) })
	return rec, pool
}

func count(t *testing.T, pool *pgxpool.Pool, sql string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), sql).Scan(&n))
	return n
}

type Event struct {
	ID   string          `json:"id"`
	Body json.RawMessage `json:"body"`
}

const Webhook jobs.Kind[Event] = "webhooks.handle"

func receiveWebhook(t jobs.Triggerer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 256<<10))
		id := r.Header.Get("X-Event-Id")
		if err != nil || id == "" || !json.Valid(body) { // check the signature here as well
			http.Error(w, "bad event", http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if _, err := Webhook.Trigger(ctx, t, Event{ID: id, Body: body}, jobs.Unique(id)); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable) // the sender will
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

func handleWebhook(ctx context.Context, job *jobs.Job, event Event) error {
	return pgx.BeginFunc(ctx, job.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "INSERT INTO webhook_done (id) VALUES ($1) ON CONFLICT DO NOTHING", event.ID)
		if err != nil || tag.RowsAffected() == 0 {
			return err // nil: it was done before
		}
		return apply(ctx, tx, event)
	})
}

type Charge struct {
	Account int64 `json:"account"`
	Cents   int64 `json:"cents"`
}

const ChargeAccount jobs.Kind[Charge] = "billing.charge"

func RegisterBillingJobs(s jobs.Scheduler, receipt jobs.Handler) error {
	return errors.Join(
		ChargeAccount.Register(s, func(ctx context.Context, job *jobs.Job, c Charge) error {
			_, err := job.DB.Exec(ctx, "UPDATE account SET cents = cents - $2 WHERE id = $1", c.Account, c.Cents)
			if err != nil {
				return err
			}
			_, err = jobs.TriggerTx(ctx, s, job.Tx, "billing.receipt", c) // exists if and only if the charge does
			return err
		}, jobs.Transactional()),
		s.RegisterDelayed("billing.receipt", 0, receipt),
	)
}

func TestRecipe_EffectsExactlyOnce(t *testing.T) {
	t.Parallel()
	receipts := make(chan string, 10)
	rec, pool := start(t, func(s jobs.Scheduler) error {
		return RegisterBillingJobs(s, func(_ context.Context, job *jobs.Job) error {
			receipts <- string(job.Data)
			return nil
		})
	})
	outcome := rec.TriggerAndWait(t, "billing.charge", Charge{Account: 7, Cents: 250})
	require.NoError(t, outcome.Err)
	require.Equal(t, 2, outcome.Attempts, "the first COMMIT fails")
	require.JSONEq(t, `{"account": 7, "cents": 250}`, <-receipts)
	require.Equal(t, 750, count(t, pool, `SELECT cents FROM account`))
	require.Equal(t, 1, count(t, pool, `SELECT count(*) FROM river.river_job WHERE kind = 'billing.receipt'`))
}

func apply(ctx context.Context, tx pgx.Tx, event Event) error {
	_, err := tx.Exec(ctx, "INSERT INTO effect (what) VALUES ($1)", event.ID)
	return err
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	rec, pool := start(t, func(s jobs.Scheduler) error { return Webhook.Register(s, handleWebhook) })
	deliver := func(id, body string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/hook", strings.NewReader(body))
		r.Header.Set("X-Event-Id", id)
		w := httptest.NewRecorder()
		receiveWebhook(rec)(w, r)
		return w.Code
	}
	require.Equal(t, http.StatusBadRequest, deliver("evt_0", "{"))
	require.Equal(t, http.StatusBadRequest, deliver("", "{}"))
	for range 3 {
		require.Equal(t, http.StatusAccepted, deliver("evt_1", `{"paid": true}`))
		require.Eventually(t, func() bool { return len(rec.Outcomes("webhooks.handle")) > 0 }, time.Minute, 10*time.Millisecond)
	}
	require.Equal(t, http.StatusAccepted, deliver("evt_2", `{}`))
	require.Eventually(t, func() bool { return count(t, pool, "SELECT count(*) FROM effect") == 2 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, 2, count(t, pool, "SELECT count(*) FROM webhook_done"))
}

func placeOrder(ctx context.Context, t jobs.Triggerer, pool *pgxpool.Pool, id, total int64) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO orders (id, total) VALUES ($1, $2)", id, total); err != nil {
			return err
		}
		_, err := jobs.TriggerTx(ctx, t, tx, "orders.publish", map[string]any{"order": id})
		return err
	})
}

func TestOutbox(t *testing.T) {
	t.Parallel()
	rec, pool := start(t, func(s jobs.Scheduler) error {
		return s.RegisterDelayed("orders.publish", 0, func(context.Context, *jobs.Job) error { return nil })
	})
	require.Error(t, placeOrder(t.Context(), rec, pool, 1, -5))
	require.NoError(t, placeOrder(t.Context(), rec, pool, 2, 5))
	require.Error(t, placeOrder(t.Context(), rec, pool, 2, 5)) // the order is there
	require.Eventually(t, func() bool { return len(rec.Outcomes("orders.publish")) == 1 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, 1, count(t, pool, "SELECT count(*) FROM river.river_job WHERE kind = 'orders.publish'"))
	require.JSONEq(t, `{"order": 2}`, string(rec.Outcomes("orders.publish")[0].Job.Data))
}

func sendDigest(ctx context.Context, job *jobs.Job) error {
	until := job.Tick
	if until.IsZero() {
		until = job.StartedAt // triggered by hand
	}
	return pgx.BeginFunc(ctx, job.DB, func(tx pgx.Tx) error {
		var since time.Time
		err := tx.QueryRow(ctx, "SELECT sent_until FROM digest FOR UPDATE").Scan(&since)
		if err != nil || !until.After(since) {
			return err // nil: this window was sent
		}
		if err := mailWhatHappened(ctx, tx, since, until); err != nil { // from since on, before until
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE digest SET sent_until = $1", until)
		return err
	})
}

func mailWhatHappened(ctx context.Context, tx pgx.Tx, since, until time.Time) error {
	_, err := tx.Exec(ctx, "INSERT INTO effect (what) VALUES ($1)", fmt.Sprintf("%s-%s", since.Format("15:04"), until.Format("15:04")))
	return err
}

func TestDigest(t *testing.T) {
	t.Parallel()
	pool := database.Pool(t)
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	for _, tick := range []int{1, 1, 4, 3, 5} { // a second attempt, one that stands for three ticks, and one that comes late
		require.NoError(t, sendDigest(t.Context(), &jobs.Job{Tick: at(tick), DB: pool}))
	}
	require.NoError(t, sendDigest(t.Context(), &jobs.Job{StartedAt: at(6), DB: pool}))
	rows, err := pool.Query(t.Context(), "SELECT what FROM effect ORDER BY what")
	require.NoError(t, err)
	windows, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"00:00-01:00", "01:00-04:00", "04:00-05:00", "05:00-06:00"}, windows)
}

type Keep struct {
	Days int `json:"days"`
}

const Retention jobs.Kind[Keep] = "log.retention"

func registerRetention(r jobs.Registrar, keep Keep) error {
	return Retention.RegisterCron(r, "0 3 * * *", keep, func(ctx context.Context, job *jobs.Job, keep Keep) error {
		_, err := job.DB.Exec(ctx, "DELETE FROM log WHERE at < now() - make_interval(days => $1)", keep.Days)
		return err
	})
}

func TestRetention(t *testing.T) {
	t.Parallel()
	rec, pool := start(t, func(s jobs.Scheduler) error { return registerRetention(s, Keep{Days: 90}) })
	_, err := pool.Exec(t.Context(), "INSERT INTO log VALUES (now() - interval '100 days'), (now() - interval '10 days'), (now())")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "UPDATE river.everytick_schedule SET next_tick = next_tick - interval '1 day'")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(rec.Outcomes("log.retention")) == 1 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, 2, count(t, pool, "SELECT count(*) FROM log"))
	id, err := Retention.Trigger(t.Context(), rec, Keep{Days: 7})
	require.NoError(t, err)
	require.NoError(t, rec.Await(t, id).Err)
	require.Equal(t, 1, count(t, pool, "SELECT count(*) FROM log"))
}

var holidays = map[string]bool{"2026-12-25": true, "2026-12-31": true} // part of the program, the same in all processes

func isWorkday(t time.Time) bool {
	return t.Weekday() != time.Saturday && t.Weekday() != time.Sunday && !holidays[t.Format(time.DateOnly)]
}

// LastWorkday ticks at 18:00 UTC on the last workday of each month.
type LastWorkday struct{}

func (LastWorkday) String() string {
	return "the last workday of the month at 18:00 UTC, calendar 2026"
}

func (LastWorkday) Next(t time.Time) time.Time {
	t = t.UTC()
	for month := time.Date(t.Year(), t.Month(), 1, 18, 0, 0, 0, time.UTC); ; month = month.AddDate(0, 1, 0) {
		day := month.AddDate(0, 1, -1)
		for !isWorkday(day) {
			day = day.AddDate(0, 0, -1)
		}
		if day.After(t) {
			return day
		}
	}
}

func registerPayroll(r jobs.Registrar, pay, report jobs.Handler) error {
	nine, err := jobs.ParseCron("0 9 * * *", time.UTC)
	if err != nil {
		return err
	}
	return errors.Join(
		r.RegisterSchedule("payroll.pay", LastWorkday{}, pay),
		r.RegisterSchedule("payroll.report", jobs.Only(nine, "on workdays of calendar 2026", isWorkday), report),
	)
}

func TestPayroll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // begins on Saturday, 2000-01-01
		s, err := memory.New(nil)
		require.NoError(t, err)
		rec := jobstest.Record(s)
		nothing := func(context.Context, *jobs.Job) error { return nil }
		require.NoError(t, registerPayroll(rec, nothing, nothing))
		require.NoError(t, rec.Start(t.Context()))
		time.Sleep(92 * 24 * time.Hour)
		require.NoError(t, rec.Shutdown(t.Context()))
		var paid []string
		for _, o := range rec.Outcomes("payroll.pay") {
			paid = append(paid, o.Job.Tick.Format("Mon 01-02 15:04"))
		}
		require.Equal(t, []string{"Mon 01-31 18:00", "Tue 02-29 18:00", "Fri 03-31 18:00"}, paid)
		require.Equal(t, 65, len(rec.Outcomes("payroll.report")), "workdays") //nolint:testifylint // Len prints them all
	})
	require.Equal(t, "2026-12-30", LastWorkday{}.Next(time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)).Format(time.DateOnly), "the 31st is a holiday")
}

func registerTenants(r jobs.Registrar, tenants []string, sync jobs.Handler) error {
	hourly, err := jobs.ParseCron("0 * * * *", time.UTC)
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		err := r.RegisterSchedule("sync."+tenant, jobs.Spread(hourly, 10*time.Minute), sync)
		if err != nil {
			return err
		}
	}
	return nil
}

func TestTenants(t *testing.T) {
	t.Parallel()
	s, err := memory.New(nil)
	require.NoError(t, err)
	var tenants []string
	for i := range 100 {
		tenants = append(tenants, fmt.Sprint("tenant", i))
	}
	require.NoError(t, registerTenants(s, tenants, func(context.Context, *jobs.Job) error { return nil }))
	all, err := s.Jobs(t.Context())
	require.NoError(t, err)
	seconds := map[int]int{}
	for _, st := range all {
		second := st.NextTick.Minute()*60 + st.NextTick.Second()
		require.Less(t, second, 600)
		seconds[second]++
	}
	require.Greater(t, len(seconds), 80, "different seconds of the hour")
}

func copyChanges(ctx context.Context, job *jobs.Job) error {
	if job.Tick.IsZero() {
		return jobs.Permanent(errors.New("triggered runs have no window"))
	}
	const settled = 5 * time.Minute // longer than any transaction that writes changed_at
	_, err := job.DB.Exec(ctx, `
		INSERT INTO warehouse (id, total) SELECT id, total FROM sale WHERE changed_at >= $1 AND changed_at < $2
		ON CONFLICT (id) DO UPDATE SET total = excluded.total`,
		job.PrevSuccess.Add(-settled), job.Tick.Add(-settled))
	return err
}

func TestCopyChanges(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	rec, pool := start(t, func(s jobs.Scheduler) error {
		return s.RegisterInterval("sales.copy", time.Second, func(ctx context.Context, job *jobs.Job) error {
			if runs.Add(1)%3 == 2 {
				return jobs.Permanent(errors.New("the warehouse is down"))
			}
			return copyChanges(ctx, job)
		})
	})
	// Rows that get into the windows of the next ten seconds, which end five minutes before their ticks.
	_, err := pool.Exec(t.Context(), `
		INSERT INTO sale SELECT n, n, now() - interval '5 minutes 5 seconds' + n * interval '100 ms' FROM generate_series(1, 150) AS n`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return count(t, pool, "SELECT count(*) FROM warehouse") == 150
	}, time.Minute, 50*time.Millisecond, "each row is in a window")
	require.GreaterOrEqual(t, len(rec.Outcomes("sales.copy")), 5)
	require.ErrorContains(t, copyChanges(t.Context(), &jobs.Job{DB: pool}), "no window")
}

type Part struct {
	Report int64 `json:"report"`
	Part   int   `json:"part"`
}

type Report struct {
	ID int64 `json:"id"`
}

const (
	BuildPart   jobs.Kind[Part]   = "reports.part"
	BuildReport jobs.Kind[Report] = "reports.gather"
)

func startReport(ctx context.Context, t jobs.Triggerer, pool *pgxpool.Pool, report int64, parts int) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO report (id, parts_left) VALUES ($1, $2)", report, parts); err != nil {
			return err
		}
		all := make([]Part, parts)
		for i := range all {
			all[i] = Part{Report: report, Part: i}
		}
		_, err := BuildPart.TriggerManyTx(ctx, t, tx, all)
		return err
	})
}

func buildPart(t jobs.Triggerer) func(context.Context, *jobs.Job, Part) error {
	return func(ctx context.Context, job *jobs.Job, p Part) error {
		total, err := compute(ctx, p)
		if err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, job.DB, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, "INSERT INTO report_part (report, part, total) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
				p.Report, p.Part, total)
			if err != nil || tag.RowsAffected() == 0 {
				return err // nil: it was counted before
			}
			var left int
			err = tx.QueryRow(ctx, "UPDATE report SET parts_left = parts_left - 1 WHERE id = $1 RETURNING parts_left",
				p.Report).Scan(&left)
			if err != nil || left > 0 {
				return err
			}
			_, err = BuildReport.TriggerTx(ctx, t, tx, Report{ID: p.Report}) // by the last part only
			return err
		})
	}
}

func compute(_ context.Context, p Part) (int64, error) { return int64(p.Part), nil }

func TestFanOutAndGather(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	rec, pool := start(t, func(s jobs.Scheduler) error {
		build := buildPart(s)
		return errors.Join(
			BuildPart.Register(s, func(ctx context.Context, job *jobs.Job, p Part) error {
				if err := build(ctx, job, p); err != nil {
					return err
				}
				if tries.Add(1)%5 == 0 {
					return errors.New("the process died after the commit")
				}
				return nil
			}, jobs.RetryDelay(10*time.Millisecond)),
			BuildReport.Register(s, func(context.Context, *jobs.Job, Report) error { return nil }),
		)
	})
	const parts = 40
	require.NoError(t, startReport(t.Context(), rec, pool, 7, parts))
	require.Eventually(t, func() bool {
		return len(rec.Outcomes("reports.part")) == parts && len(rec.Outcomes("reports.gather")) > 0
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, 1, count(t, pool, "SELECT count(*) FROM river.river_job WHERE kind = 'reports.gather'"))
	require.Equal(t, parts, count(t, pool, "SELECT count(*) FROM report_part"))
	require.Zero(t, count(t, pool, "SELECT parts_left FROM report"))
}

type TenantNight struct {
	Tenant int64     `json:"tenant"`
	Tick   time.Time `json:"tick"`
}

const Nightly jobs.Kind[TenantNight] = "tenants.nightly"

func RegisterTenantJobs(s jobs.Scheduler, nightly func(context.Context, *jobs.Job, TenantNight) error) error {
	return errors.Join(
		s.RegisterCron("tenants.fan-out", "0 2 * * *", func(ctx context.Context, job *jobs.Job) error {
			rows, err := job.DB.Query(ctx, "SELECT id FROM tenant WHERE active ORDER BY id")
			if err != nil {
				return err
			}
			tenants, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err != nil {
				return err
			}
			for _, id := range tenants {
				key := strconv.FormatInt(id, 10)
				if _, err := Nightly.Trigger(ctx, s, TenantNight{Tenant: id, Tick: job.Tick}, jobs.Unique(key)); err != nil {
					return err // the next attempt finds those that wait or run
				}
			}
			return nil
		}),
		Nightly.Register(s, nightly, jobs.Concurrency(5), jobs.Timeout(time.Hour)),
	)
}

func TestPerTenant(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ran := map[int64]int{}
	rec, pool := start(t, func(s jobs.Scheduler) error {
		return RegisterTenantJobs(s, func(_ context.Context, _ *jobs.Job, night TenantNight) error {
			mu.Lock()
			defer mu.Unlock()
			ran[night.Tenant]++
			return nil
		})
	})
	_, err := pool.Exec(t.Context(), "INSERT INTO tenant VALUES (1, true), (2, false), (3, true)")
	require.NoError(t, err)
	require.NoError(t, rec.TriggerAndWait(t, "tenants.fan-out", nil).Err)
	require.Eventually(t, func() bool { return len(rec.Outcomes("tenants.nightly")) == 2 }, time.Minute, 10*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, map[int64]int{1: 1, 3: 1}, ran)
}

type ImportStep struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

const Import jobs.Kind[ImportStep] = "files.import"

func importStep(t jobs.Triggerer) func(context.Context, *jobs.Job, ImportStep) error {
	return func(ctx context.Context, job *jobs.Job, step ImportStep) error {
		return pgx.BeginFunc(ctx, job.DB, func(tx pgx.Tx) error {
			const lines = 1000
			tag, err := tx.Exec(ctx, "UPDATE import SET next_line = next_line + $3 WHERE file = $1 AND next_line = $2",
				step.File, step.Line, lines)
			if err != nil || tag.RowsAffected() == 0 {
				return err // nil: an earlier attempt did this step
			}
			more, err := importLines(ctx, tx, step.File, step.Line, lines)
			if err != nil || !more {
				return err
			}
			_, err = Import.TriggerTx(ctx, t, tx, ImportStep{File: step.File, Line: step.Line + lines})
			return err
		})
	}
}

func importLines(ctx context.Context, tx pgx.Tx, file string, from, lines int) (more bool, err error) {
	_, err = tx.Exec(ctx, "INSERT INTO effect (what) VALUES ($1)", fmt.Sprint(file, " ", from))
	return from+lines < 5000, err
}

func TestALongJobInSteps(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	rec, pool := start(t, func(s jobs.Scheduler) error {
		step := importStep(s)
		return Import.Register(s, func(ctx context.Context, job *jobs.Job, args ImportStep) error {
			if err := step(ctx, job, args); err != nil {
				return err
			}
			if tries.Add(1)%2 == 0 {
				return errors.New("the process died after the commit")
			}
			return nil
		}, jobs.RetryDelay(10*time.Millisecond), jobs.MaxRetries(5))
	})
	_, err := pool.Exec(t.Context(), "INSERT INTO import (file) VALUES ('a.csv')")
	require.NoError(t, err)
	require.NoError(t, rec.TriggerAndWait(t, "files.import", ImportStep{File: "a.csv"}).Err)
	require.Eventually(t, func() bool { return len(rec.Outcomes("files.import")) == 5 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, 5, count(t, pool, "SELECT count(*) FROM river.river_job"))
	require.Equal(t, 5, count(t, pool, "SELECT count(DISTINCT what) FROM effect"))
	require.Equal(t, 5, count(t, pool, "SELECT count(*) FROM effect"))
}

type Contact struct {
	ID int64 `json:"id"`
}

const PushContact jobs.Kind[Contact] = "crm.push"

func RegisterCRMJobs(r jobs.Registrar, url string) error {
	push := func(ctx context.Context, _ *jobs.Job, c Contact) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, fmt.Sprint(url, "/contacts/", c.ID), nil)
		if err != nil {
			return jobs.Permanent(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		switch {
		case res.StatusCode == http.StatusTooManyRequests:
			seconds, _ := strconv.Atoi(res.Header.Get("Retry-After")) // it may be absent
			return jobs.Snooze(time.Duration(seconds)*time.Second, "over the rate limit")
		case res.StatusCode >= 500:
			return errors.New(res.Status)
		case res.StatusCode >= 400:
			return jobs.Permanent(errors.New(res.Status))
		}
		return nil
	}
	return PushContact.Register(r, push, jobs.Concurrency(2), jobs.Timeout(30*time.Second))
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/contacts/0":
			w.WriteHeader(http.StatusNotFound)
		case asked.Add(1) == 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	t.Cleanup(server.Close)
	rec, _ := start(t, func(s jobs.Scheduler) error { return RegisterCRMJobs(s, server.URL) })
	begun := time.Now()
	outcome := rec.TriggerAndWait(t, "crm.push", Contact{ID: 1})
	require.NoError(t, outcome.Err)
	require.Equal(t, 1, outcome.Attempts)
	require.Len(t, rec.Snoozes("crm.push"), 1)
	require.GreaterOrEqual(t, time.Since(begun), time.Second)
	outcome = rec.TriggerAndWait(t, "crm.push", Contact{ID: 0})
	require.EqualError(t, outcome.Err, "404 Not Found")
	require.Equal(t, 1, outcome.Attempts)
}

func importContacts(ctx context.Context, job *jobs.Job) error {
	var args struct{ File string }
	if err := job.Decode(&args); err != nil {
		return err
	}
	n, err := load(ctx, args.File)
	if err != nil {
		return err
	}
	return job.SetOutput(map[string]int{"imported": n})
}

func importNow(s jobs.Triggerer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := s.Trigger(r.Context(), "contacts.import", map[string]string{"file": r.FormValue("file")})
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		run, err := jobs.Await(ctx, s, id)
		switch {
		case err == nil:
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(run.Output)
		case errors.Is(err, jobs.ErrNotCompleted):
			http.Error(w, "the import has failed", http.StatusUnprocessableEntity)
		default: // it takes longer, or the database does not answer
			w.Header().Set("Location", "/imports/"+id)
			w.WriteHeader(http.StatusAccepted)
		}
	}
}

func load(_ context.Context, file string) (int, error) {
	if file == "missing.csv" {
		return 0, jobs.Permanent(errors.New("no such file"))
	}
	return 42, nil
}

func TestImportNow(t *testing.T) {
	t.Parallel()
	rec, _ := start(t, func(s jobs.Scheduler) error { return s.RegisterDelayed("contacts.import", 0, importContacts) })
	for file, want := range map[string]int{"contacts.csv": http.StatusOK, "missing.csv": http.StatusUnprocessableEntity} {
		w := httptest.NewRecorder()
		importNow(rec)(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/imports?file="+file, nil))
		require.Equal(t, want, w.Code, w.Body.String())
		if want == http.StatusOK {
			require.JSONEq(t, `{"imported": 42}`, w.Body.String())
		}
	}
	w := httptest.NewRecorder()
	pauser, ok := jobs.As[jobs.Pauser](rec)
	require.True(t, ok)
	require.NoError(t, pauser.Pause(t.Context(), "contacts.import")) // so that the import takes longer
	importNow(rec)(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/imports?file=contacts.csv", nil))
	require.Equal(t, http.StatusAccepted, w.Code)
	require.Regexp(t, `^/imports/\d+$`, w.Header().Get("Location"))
}

type Alert struct {
	Job   string `json:"job"`
	ID    string `json:"id"`
	Error string `json:"error"`
}

const SendAlert jobs.Kind[Alert] = "alerts.send"

func alertOnFailure(t jobs.Triggerer) jobs.Option {
	return jobs.OnFailed(func(ctx context.Context, run jobs.Run) {
		if run.Name == string(SendAlert) {
			return // it would fail again and again
		}
		alert := Alert{Job: run.Name, ID: run.ID, Error: run.Error}
		if _, err := SendAlert.Trigger(ctx, t, alert, jobs.Unique(run.ID)); err != nil {
			slog.ErrorContext(ctx, "no alert of a failed job", "job", run.Name, "job_id", run.ID, "error", err)
		}
	})
}

func TestAlertOnFailure(t *testing.T) {
	t.Parallel()
	alerts := make(chan Alert, 10)
	rec, _ := start(t, func(s jobs.Scheduler) error {
		alert := alertOnFailure(s)
		return errors.Join(
			SendAlert.Register(s, func(_ context.Context, _ *jobs.Job, a Alert) error {
				alerts <- a
				return jobs.Permanent(errors.New("no mail server"))
			}, alert),
			s.RegisterDelayed("orders.ship", 0, func(context.Context, *jobs.Job) error {
				return jobs.Permanent(errors.New("no such order"))
			}, alert),
		)
	})
	id := rec.TriggerAndWait(t, "orders.ship", nil).Job.ID
	select {
	case a := <-alerts:
		require.Equal(t, Alert{Job: "orders.ship", ID: id, Error: "no such order"}, a)
	case <-time.After(time.Minute):
		t.Fatal("there was no alert")
	}
}

func newTelemetry(spans sdktrace.SpanExporter, readings sdkmetric.Exporter) (
	options []jobs.Option, stop func(context.Context) error, err error,
) {
	traces := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans))
	meters := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(readings)),
		sdkmetric.WithView(sdkmetric.NewView( // the buckets of the conventions end at 10 s
			sdkmetric.Instrument{Name: "messaging.process.duration"},
			sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{
				Boundaries: []float64{0.01, 0.1, 1, 10, 60, 300, 1800},
			}},
		)),
	)
	options, err = jobsotel.Options(&jobsotel.Config{
		TracerProvider: traces, MeterProvider: meters, Propagator: propagation.TraceContext{},
	})
	return options, func(ctx context.Context) error {
		return errors.Join(traces.Shutdown(ctx), meters.Shutdown(ctx))
	}, err
}

// spans keeps what is exported, which the SDK's own exporter for tests forgets as it is shut down.
type spans struct{ tracetest.InMemoryExporter }

func (s *spans) Shutdown(context.Context) error { return nil }

type readings struct {
	sdkmetric.Exporter
	names []string
}

func (*readings) Temporality(kind sdkmetric.InstrumentKind) metricdata.Temporality {
	return sdkmetric.DefaultTemporalitySelector(kind)
}

func (*readings) Aggregation(kind sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(kind)
}

func (r *readings) Export(_ context.Context, all *metricdata.ResourceMetrics) error {
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			r.names = append(r.names, m.Name)
		}
	}
	return nil
}
func (*readings) ForceFlush(context.Context) error { return nil }
func (*readings) Shutdown(context.Context) error   { return nil }

func TestTelemetry(t *testing.T) {
	t.Parallel()
	var exportedSpans spans
	var exported readings
	options, stop, err := newTelemetry(&exportedSpans, &exported)
	require.NoError(t, err)
	scheduler, err := memory.New(&memory.Config{Defaults: options, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	rec := jobstest.Record(scheduler)
	require.NoError(t, rec.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	require.NoError(t, rec.Start(t.Context()))
	require.NoError(t, rec.TriggerAndWait(t, "a.job", nil).Err)
	require.NoError(t, rec.Shutdown(t.Context()))
	require.NoError(t, stop(t.Context()))
	require.Len(t, exportedSpans.GetSpans(), 2)
	require.Contains(t, exported.names, "messaging.process.duration")
}
