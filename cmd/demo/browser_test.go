package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

var update = flag.Bool("update", false, "redraw docs/status.png, the README's screenshot")

// screenshots is the directory for screenshots of the page.
const screenshots = "screenshots"

// findBrowser returns the path of Chrome or Chromium. Without one it skips the test, or fails
// it in CI and with EVERYTICK_BROWSER=required.
func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{
		"chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium",
	} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "no Chrome or Chromium found: apt-get install chromium-headless-shell"
	if os.Getenv("CI") != "" || os.Getenv("EVERYTICK_BROWSER") == "required" {
		require.FailNow(t, missing)
	}
	t.Skip(missing)
	return ""
}

// tab is a browser tab. It records the page's requests and console messages.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string

	mu       sync.Mutex
	requests []string
	messages []string
}

// newBrowser starts a browser with an empty tab.
func newBrowser(t *testing.T, base string) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(findBrowser(t)),
		chromedp.NoSandbox, // containers rarely allow one, and only the demo's pages are opened
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	return newTab(ctx, t, base)
}

// another opens a tab in the same browser.
func (p *tab) another() *tab { return newTab(p.ctx, p.t, p.base) }

func newTab(ctx context.Context, t *testing.T, base string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx, base: base}
	require.NoError(t, chromedp.Do(ctx)) // no deadline, because its context is the browser's
	require.NoError(t, chromedp.Listen(ctx, p.record))
	p.size(1280, 900)
	return p
}

func (p *tab) record(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
	case *runtime.EventExceptionThrown:
		p.messages = append(p.messages, "exception: "+e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		p.messages = append(p.messages, fmt.Sprintf("console.%s", e.Type))
	case *log.EventEntryAdded:
		p.messages = append(p.messages, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	}
}

// quiet requires that the page only sent requests to the demo, and that every console message
// contains one of the given texts.
func (p *tab) quiet(but ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NotEmpty(p.t, p.requests)
	for _, request := range p.requests {
		if strings.HasPrefix(request, "data:") { // the browser's own icon of a field for times
			continue
		}
		u, err := url.Parse(request)
		require.NoError(p.t, err)
		require.Equal(p.t, p.base, u.Scheme+"://"+u.Host, "requested %s", request)
	}
	for _, message := range p.messages {
		expected := false
		for _, text := range but {
			expected = expected || strings.Contains(message, text)
		}
		require.True(p.t, expected, "browser console: %s", message)
	}
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, steps...))
}

func (p *tab) open(path string) {
	p.t.Helper()
	p.do(chromedp.Navigate(p.base + path))
}

// click clicks the first element that matches the selector, once its centre is visible and
// not covered. It checks and clicks in one step, so that a refresh cannot move the element in
// between.
func (p *tab) click(selector string) {
	p.t.Helper()
	p.eventually(func() bool {
		return evaluate[bool](p, selector, `el => {
			if (document.readyState !== "complete" || !el?.checkVisibility()) return false;
			el.scrollIntoView({ block: "center", behavior: "instant" });
			const box = el.getBoundingClientRect();
			if (!el.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2))) return false;
			el.focus();
			el.click();
			return true;
		}`)
	}, "%s cannot be clicked", selector)
}

// write replaces the text of a field, key by key.
func (p *tab) write(selector, text string) {
	p.t.Helper()
	p.click(selector)
	evaluate[any](p, selector, `el => el.select()`)
	p.do(chromedp.KeyEvent(text))
	require.Equal(p.t, text, evaluate[string](p, selector, `el => el.value`))
}

// evaluate calls a JavaScript function with the first element that matches the selector and
// returns the result. It returns the zero value during navigation.
func evaluate[T any](p *tab, selector, function string) (value T) {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](fmt.Sprintf("(%s)(document.querySelector(%q))", function, selector)))
	if err != nil {
		var zero T
		return zero
	}
	return value
}

// text returns the visible text of an element, "" if it does not exist.
func (p *tab) text(selector string) string {
	return strings.Join(strings.Fields(evaluate[string](p, selector, `el => el?.innerText ?? ""`)), " ")
}

// reads waits until the visible text of an element contains all of the texts, or until it has any text.
func (p *tab) reads(selector string, texts ...string) {
	p.t.Helper()
	p.eventually(func() bool { return p.shows(selector, texts) }, "%s does not contain %q", selector, texts)
}

// reopens is like reads, but opens the page anew instead of waiting until it refreshes itself.
func (p *tab) reopens(path, selector string, texts ...string) {
	p.t.Helper()
	p.eventually(func() bool {
		p.open(path)
		return p.shows(selector, texts)
	}, "%s of %s does not contain %q", selector, path, texts)
}

func (p *tab) shows(selector string, texts []string) bool {
	text := p.text(selector)
	for _, want := range texts {
		if !strings.Contains(text, want) {
			return false
		}
	}
	return text != ""
}

// gone waits until the element does not exist.
func (p *tab) gone(selector string) {
	p.t.Helper()
	p.eventually(func() bool { return p.text("body") != "" && p.text(selector) == "" }, "%s is still there", selector)
}

func (p *tab) eventually(holds func() bool, format string, args ...any) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(deadline) {
			p.shoot("failed")
			require.FailNow(p.t, "timed out after a minute", "%s\n\n%s", fmt.Sprintf(format, args...), p.text("body"))
		}
		p.do(chromedp.Sleep(50 * time.Millisecond))
	}
}

func (p *tab) size(width, height int64) {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(width, height))
}

func (p *tab) theme(name string) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
	require.NoError(p.t, err)
}

// zone sets the time zone of the browser.
func (p *tab) zone(name string) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: name})
	require.NoError(p.t, err)
}

// shoot saves a screenshot of the whole page and returns it.
func (p *tab) shoot(name string) []byte {
	p.t.Helper()
	png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	require.NoError(p.t, err)
	require.NoError(p.t, os.MkdirAll(screenshots, 0o755))
	require.NoError(p.t, os.WriteFile(filepath.Join(screenshots, name+".png"), png, 0o644))
	return png
}

// fits requires that the page does not scroll sideways.
func (p *tab) fits() {
	p.t.Helper()
	widths, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]int](`[document.documentElement.scrollWidth, innerWidth]`))
	require.NoError(p.t, err)
	require.LessOrEqual(p.t, widths[0], widths[1], "the page is wider than the screen")
}

func TestStatusPage_InABrowser(t *testing.T) {
	t.Parallel()
	findBrowser(t) // may skip the test
	db := dbtest.Server(t, devdb.Options{})
	d := startDemo(t, map[string]string{"DATABASE_URL": db.URL})
	d.awaitURL(t)
	p := newBrowser(t, d.base)

	// The page shows the schedules and refreshes itself.
	p.open("/")
	p.reads(`#job-audit\.retention`, "every day at 03:00", "0 3 * * *", "in ", "Run now")
	p.reopens("/", `#job-demo\.heartbeat`, "every 5 seconds", "✓ done")
	p.reads(`.health`, "jobs are fine")

	// A run occupies the only worker of a job.
	p.open("/job/demo.import")
	p.write("#data", `{"seconds": 200}`)
	p.click("#actions .main")
	p.reads("#notice", "Triggered.")
	_, slow, _ := strings.Cut(p.text("#notice a"), "run ")
	p.reads("#run-"+slow, "● running")

	// Times are in the reader's zone beside UTC. A refresh changes rows, but not what is typed in them.
	p.zone("America/New_York")
	p.open("/")
	p.reads("#zone", "Times are in your zone (America/New_York), then in UTC.")
	p.reads(`#job-demo\.heartbeat`, " · ", " UTC")
	p.click(`#now-demo\.heartbeat summary`)
	p.write(`#now-demo\.heartbeat textarea`, `{"typed": true}`)
	before := p.text(`#job-demo\.heartbeat td[data-label="Previous"] time`)
	p.eventually(func() bool { return p.text(`#job-demo\.heartbeat td[data-label="Previous"] time`) != before }, "the page does not refresh itself")
	require.Equal(t, `{"typed": true}`, evaluate[string](p, `#now-demo\.heartbeat textarea`, `el => el.value`))
	require.Contains(t, p.text(`#job-demo\.heartbeat td[data-label="Previous"] time`), " · ")
	p.zone("UTC")
	p.open("/")

	// Run a job with data. It succeeds.
	p.click(`#now-demo\.flaky summary`)
	p.write(`#now-demo\.flaky textarea`, `{"fail_times": 1}`)
	p.click(`#now-demo\.flaky button`)
	p.reads("#notice", "✓ Triggered.", "demo.flaky, run ")
	_, id, _ := strings.Cut(p.text("#notice a"), "run ")
	p.click("#notice a")
	p.reads("#run-" + id) // in some state
	p.reopens("/job/demo.flaky", "#run-"+id, "✓ done", "2 of 3", "on purpose: attempt 1 with fail_times 1")
	p.click("#shown-" + id + " summary")
	p.reads("#shown-"+id, `{"fail_times": 1}`)

	// Find the run by its ID, and among those that completed.
	p.write("#q", id)
	p.click(".search button")
	p.reads("#title", "Run "+id, "✓ done")
	p.reads("#glance", "demo.flaky", "2 of 3", "pid ")
	p.reads("#attempt-1", "on purpose: attempt 1 with fail_times 1")
	p.open("/runs?name=flaky&state=completed")
	p.reads("#run-"+id, "demo.flaky", "✓ done")
	p.click(`#filter input[value="completed"]`)
	p.click(`#filter input[value="failed"]`)
	p.click("#filter .main")
	p.reads("#empty", "No run matches.")
	p.open("/processes")
	p.reads("#processes", "pid ", "leader", "this one", "busy")

	// Pause and resume a job.
	p.open("/job/notifs.cleanup")
	p.click(".pause button")
	p.reads("#paused", "Paused since")
	p.open("/")
	p.reads(`#job-notifs\.cleanup`, "paused")
	p.click(`#job-notifs\.cleanup a`)
	p.click(".pause button")
	p.reads("#notice", "Resumed.")
	p.gone("#paused")

	// By now the ticks of the job whose worker is occupied are overdue: red, with the reason.
	p.reopens("/", `#job-demo\.import.bad`, "overdue by", "all worker slots of the job are taken, 1 in this process", "running")
	p.reads(".problems", "demo.import is overdue by")
	p.reads(".health", "1 overdue")
	p.pictures()

	// Cancel it. The ticks run.
	p.open("/job/demo.import")
	p.reads("#overdue", "The next run is overdue by")
	p.click("#run-" + slow + " .do button")
	p.reads("#notice")
	p.reopens("/job/demo.import", "#run-"+slow, "cancelled")
	p.gone("#overdue")
	p.open("/runs?state=cancelled")
	p.reads("#run-"+slow, "cancelled", "demo.import")
	p.click("#many a")
	p.reads("main", "Retry 1 run?", "State: cancelled")

	withoutScript(p.another())

	// The page reports that the database is down, and recovers with it.
	p.open("/")
	p.quiet()
	require.NoError(t, db.Kill())
	p.reads("#stale", "The database does not answer. Showing the state as of")
	p.reads(`#job-audit\.retention`, "every day at 03:00")
	p.reads("#glance", "Unhealthy", "the database does not answer")
	p.shoot("no-database")
	require.NoError(t, db.Restart(t.Context()))
	p.gone("#stale")
	p.reads(".health", "jobs are fine")
	p.reads(`#job-demo\.heartbeat`, "✓ done")
	p.quiet("status of 503") // while the database was down
	if *update {
		drawStatus(p, db.URL)
	}
}

// pictures takes screenshots in both themes and checks that the pages fit a narrow screen.
func (p *tab) pictures() {
	p.t.Helper()
	for _, theme := range []string{"light", "dark"} {
		p.theme(theme)
		for name, path := range map[string]string{"list": "/", "job": "/job/demo.import", "runs": "/runs", "processes": "/processes"} {
			p.size(1280, 900)
			p.open(path)
			p.shoot(name + "-" + theme)
			p.fits()
			p.size(360, 740)
			p.open(path)
			p.fits()
			p.shoot(name + "-narrow-" + theme)
		}
	}
	p.size(360, 740)
	p.open("/")
	p.click(`#now-demo\.flaky summary`)
	p.fits()
	p.theme("light")
	p.size(1280, 900)
}

// withoutScript uses the forms with JavaScript disabled.
func withoutScript(p *tab) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(p.t, err)
	p.open("/")
	p.click(`#now-demo\.flaky summary`)
	p.write(`#now-demo\.flaky textarea`, `{"fail_times": 0}`)
	p.click(`#now-demo\.flaky button`)
	p.reads("#notice", "✓ Triggered.", "demo.flaky, run ")
	_, id, _ := strings.Cut(p.text("#notice a"), "run ")
	p.reopens("/job/demo.flaky", "#run-"+id, "✓ done")
	p.quiet()
}

// drawStatus draws the README's screenshot. Since the demo has just been started, it inserts the
// runs of a day.
func drawStatus(p *tab, databaseURL string) {
	p.t.Helper()
	conn, err := pgx.Connect(p.ctx, databaseURL)
	require.NoError(p.t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(p.ctx, `DELETE FROM river.river_job WHERE finalized_at IS NOT NULL AND kind <> 'demo.heartbeat'`)
	require.NoError(p.t, err)
	for _, job := range []struct {
		name  string
		every time.Duration
		fails int // one run in this many; 0 means none
		tick  bool
	}{
		{"demo.heartbeat", 5 * time.Second, 0, true},
		{"demo.import", 10 * time.Second, 360, true},
		{"email.process-queue", 30 * time.Second, 0, true},
		{"email.send", 37 * time.Second, 500, false},
		{"notifs.cleanup", time.Hour, 0, true},
		{"audit.retention", 24 * time.Hour, 0, true},
		{"demo.flaky", 11 * time.Minute, 0, false},
	} {
		_, err := conn.Exec(p.ctx, `
			INSERT INTO river.river_job (kind, state, args, metadata, attempt, max_attempts, created_at, scheduled_at, attempted_at, finalized_at)
			SELECT $1, CASE WHEN $3 > 0 AND n % greatest($3, 1) = $3 / 2 THEN 'discarded' ELSE 'completed' END::river.river_job_state,
				CASE WHEN $4 THEN jsonb_build_object('tick', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) ELSE '{}' END,
				CASE WHEN $4 THEN '{"everytick_tick": true}' ELSE '{}' END::jsonb, 1, 3, at, at, at, at + interval '40 ms'
			FROM (SELECT row_number() OVER (ORDER BY at DESC) AS n, at
				FROM generate_series(date_trunc('day', now()) - interval '21 hours', now() - interval '1 minute', make_interval(secs => $2)) AS at) AS runs
			ORDER BY at`, job.name, job.every.Seconds(), job.fails, job.tick)
		require.NoError(p.t, err)
	}
	p.size(1280, 800)
	p.open("/job/notifs.cleanup")
	p.click(".pause button")
	p.reads("#paused", "Paused since")
	p.open("/job/demo.import")
	p.write("#data", `{"seconds": 200}`)
	p.click("#actions .main")
	p.reads("#notice", "Triggered.")
	p.open("/")
	p.reads(`#job-demo\.import.bad`, "overdue by")
	p.open("/")
	require.NoError(p.t, os.WriteFile("../../docs/status.png", p.shoot("status"), 0o644))
}
