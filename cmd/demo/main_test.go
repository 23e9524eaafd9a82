package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

// TestMain runs 4 tests at once, which mostly wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// databases are empty, because the demo runs the migrations.
var databases = dbtest.New(nil)

// screen collects the demo's output and lets a test wait for a line.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until the output matches pattern and returns the submatches.
func (s *screen) await(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(time.Minute)
	for {
		if m := re.FindStringSubmatch(s.String()); m != nil {
			return m
		}
		select {
		case <-s.more:
		case <-deadline:
			require.FailNow(t, "no match within a minute", "%s\n\n%s", pattern, s.String())
		}
	}
}

// demo is a demo that runs in this process until the test ends.
type demo struct {
	out  *screen
	base string // base URL, after awaitURL
	stop func() error
}

func startDemo(t *testing.T, env map[string]string, args ...string) *demo {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &demo{out: newScreen()}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), func(key string) string { return env[key] }, d.out, d.out)
	}()
	d.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { require.NoError(t, d.stop(), "%s", d.out) })
	select {
	case err := <-ended:
		ended <- err
		require.FailNow(t, "the demo ended early", "%v\n%s", err, d.out)
	case <-time.After(50 * time.Millisecond):
	}
	return d
}

func (d *demo) awaitURL(t *testing.T) {
	t.Helper()
	d.base = d.out.await(t, `(?s)(http://127\.0\.0\.1:\d+)/ .*curl`)[1]
}

func (d *demo) do(t *testing.T, method, path, body string, header ...string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, d.base+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

func TestRun_LogsTheWorkOfEachModule(t *testing.T) {
	t.Parallel()
	d := startDemo(t, map[string]string{"DATABASE_URL": databases.URL(t)})
	for _, pattern := range []string{
		`registered job=audit\.retention schedule="0 3 \* \* \*"`,
		`registered job=email\.process-queue schedule="every 30s"`,
		`registered job=notifs\.cleanup schedule="every 1h0m0s"`,
		`audit retention .*archived=[1-9]\d* purged=[1-9]\d*`,
		`email queue processed .*sent=[1-3] failed=0`,
		`mail sink received a message to=\[ops@example\.com\]`,
		`notifications cleaned up .*deleted=[1-9]`,
		`failing on purpose job=demo\.flaky .*attempt=2`,
		`succeeded job=demo\.flaky .*attempt=3`,
		`tick job=demo\.heartbeat`,
	} {
		d.out.await(t, pattern)
	}
	require.NoError(t, d.stop())
	require.Contains(t, d.out.String(), "stopped")
}

func TestHandler_Answers(t *testing.T) {
	t.Parallel()
	d := startDemo(t, map[string]string{"DATABASE_URL": databases.URL(t)})
	d.awaitURL(t)
	jsonType := []string{"Content-Type", "application/json"}

	for name, row := range map[string]struct {
		method, path, body string
		header             []string
		want               int
		contains           string
	}{
		"status page":             {"GET", "/", "", nil, 200, "audit.retention"},
		"page of a job":           {"GET", "/job/demo.flaky", "", nil, 200, "Run now"},
		"style sheet":             {"GET", "/assets/style.css", "", nil, 200, "body"},
		"list of jobs":            {"GET", "/api/jobs", "", nil, 200, `"schedule": "0 3 * * *"`},
		"size":                    {"GET", "/api/jobs/email.send/size", "", nil, 200, `"queue_size"`},
		"size of an unknown job":  {"GET", "/api/jobs/no.such/size", "", nil, 404, "no such job"},
		"liveness":                {"GET", "/livez", "", nil, 200, "true"},
		"readiness":               {"GET", "/readyz", "", nil, 200, "true"},
		"health":                  {"GET", "/healthz", "", nil, 200, `"healthy": true`},
		"trigger without a body":  {"POST", "/api/jobs/notifs.cleanup/trigger", "", jsonType, 202, `"id"`},
		"trigger an unknown job":  {"POST", "/api/jobs/no.such/trigger", "{}", jsonType, 404, "no such job"},
		"data not an object":      {"POST", "/api/jobs/demo.flaky/trigger", "[1]", jsonType, 400, "want a JSON object"},
		"wrong content type":      {"POST", "/api/jobs/demo.flaky/trigger", "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "application/json"},
		"from another origin":     {"POST", "/api/jobs/demo.flaky/trigger", "{}", append(jsonType, "Origin", "https://evil.example"), 403, "other origins"},
		"form from another site":  {"POST", "/job/demo.flaky/trigger", "", []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site"}, 403, "other origins"},
		"unknown path":            {"GET", "/nowhere", "", nil, 404, "no such page"},
		"River UI":                {"GET", "/riverui/", "", nil, 200, "<html"},
		"River UI, API":           {"GET", "/riverui/api/states", "", nil, 200, "available"},
		"River UI, other origin":  {"POST", "/riverui/api/jobs/cancel", `{"ids":["1"]}`, append(jsonType, "Sec-Fetch-Site", "cross-site"), 403, "cross-origin"},
		"DNS rebinding":           {"GET", "/", "", []string{"Host", "evil.example"}, 403, "not allowed"},
		"DNS rebinding, River UI": {"GET", "/riverui/api/states", "", []string{"Host", "evil.example"}, 403, "must be localhost"},
	} {
		status, answer := d.do(t, row.method, row.path, row.body, row.header...)
		require.Equal(t, row.want, status, "%s: %s", name, answer)
		require.Contains(t, answer, row.contains, name)
	}

	// A run that failed for good, with its error redacted.
	require.Eventually(t, func() bool {
		_, answer := d.do(t, "GET", "/api/jobs/demo.import", "")
		return strings.Contains(answer, `"state": "failed"`) && strings.Contains(answer, "no account for …@example.com")
	}, time.Minute, 100*time.Millisecond)
}

func TestAtThisMachine(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		from, host string
		ok         bool
	}{
		{"127.0.0.1:4711", "127.0.0.1:8080", true},
		{"127.0.0.1:4711", "localhost:8080", true},
		{"127.0.0.1:4711", "localhost", true},
		{"[::1]:4711", "[::1]:8080", true},
		{"[::1]:4711", "[::1]", true},
		{"[::ffff:127.0.0.1]:4711", "127.0.0.1", true},
		{"192.0.2.7:4711", "127.0.0.1:8080", false},
		{"127.0.0.1:4711", "192.0.2.7:8080", false},
		{"127.0.0.1:4711", "evil.example:8080", false},
		{"127.0.0.1:4711", "", false},
		{"", "localhost", false},
	} {
		err := atThisMachine(&http.Request{RemoteAddr: row.from, Host: row.host})
		require.Equal(t, row.ok, err == nil, "%+v: %v", row, err)
	}
}

func TestListOfURLs_CommandsWork(t *testing.T) {
	t.Parallel()
	d := startDemo(t, map[string]string{"DATABASE_URL": databases.URL(t)})
	d.awaitURL(t)
	require.Contains(t, d.out.String(), "  "+d.base+"/ ")
	curl := regexp.MustCompile(`(?m)^ +curl( -X POST -H '([^:]+): ([^']+)'( -d '([^']+)')?)? '?` + regexp.QuoteMeta(d.base) + `(\S+?)'?$`)
	lines := curl.FindAllStringSubmatch(d.out.String(), -1)
	require.Len(t, lines, strings.Count(d.out.String(), " curl "))
	for _, line := range lines {
		method, header := "GET", []string(nil)
		if line[1] != "" {
			method, header = "POST", line[2:4]
		}
		status, answer := d.do(t, method, line[6], line[5], header...)
		require.Less(t, status, 300, "%s: %s", line[0], answer)
		if strings.Contains(line[5], "seconds") { // otherwise the demo would wait for it at the end
			var accepted struct{ ID string }
			require.NoError(t, json.Unmarshal([]byte(answer), &accepted))
			status, answer = d.do(t, "POST", "/api/jobs/demo.import/runs/"+accepted.ID+"/cancel", "", header...)
			require.Equal(t, http.StatusAccepted, status, answer)
		}
	}
	d.out.await(t, `manual action action=trigger job=demo\.flaky job_id=\d+ who=Go-http-client`)
	d.out.await(t, `succeeded job=demo\.flaky .*failures=2`)
	_, answer := d.do(t, "GET", "/api/jobs/notifs.cleanup", "")
	require.Contains(t, answer, "paused_since")
}

func TestHandler_SurvivesARestartOfTheDatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.Server(t, devdb.Options{})
	d := startDemo(t, map[string]string{"DATABASE_URL": db.URL})
	d.awaitURL(t)
	d.out.await(t, `tick job=demo\.heartbeat`)
	// becomes waits until all paths have the wanted status. They change one after the other,
	// because each caches its data for up to a second.
	becomes := func(wanted map[string]int) {
		t.Helper()
		require.Eventually(t, func() bool {
			for path, want := range wanted {
				if status, _ := d.do(t, "GET", path, ""); status != want {
					return false
				}
			}
			return true
		}, time.Minute, 100*time.Millisecond, "%v", wanted)
	}
	up := map[string]int{"/": 200, "/job/demo.heartbeat": 200, "/api/jobs": 200, "/livez": 200, "/readyz": 200, "/healthz": 200}
	becomes(up)

	require.NoError(t, db.Kill())
	becomes(map[string]int{"/": 503, "/job/demo.heartbeat": 503, "/api/jobs": 503, "/livez": 200, "/readyz": 503, "/healthz": 503})
	for _, path := range []string{"/", "/job/demo.heartbeat"} {
		before := time.Now()
		_, answer := d.do(t, "GET", path, "")
		require.Less(t, time.Since(before), 10*time.Second, path)
		require.Contains(t, answer, "The database does not answer. Showing the state as of", path)
		require.Contains(t, answer, "every 5 seconds", "%s still shows the last known state", path)
	}
	status, answer := d.do(t, "POST", "/api/jobs/demo.flaky/trigger", "", "Content-Type", "application/json")
	require.Equal(t, http.StatusServiceUnavailable, status, answer)
	status, answer = d.do(t, "GET", "/metrics", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, answer, "\neverytick_up 0\n")

	require.NoError(t, db.Restart(t.Context()))
	becomes(up)
	_, answer = d.do(t, "GET", "/", "")
	require.NotContains(t, answer, "does not answer")
	_, answer = d.do(t, "POST", "/api/jobs/demo.flaky/trigger", `{"fail_times": 0}`, "Content-Type", "application/json")
	var accepted struct{ ID string }
	require.NoError(t, json.Unmarshal([]byte(answer), &accepted))
	d.out.await(t, `succeeded job=demo\.flaky job_id=`+accepted.ID+` attempt=1`)
}

func TestRun_DemosOnOneDatabaseShareTheWork(t *testing.T) {
	t.Parallel()
	url := databases.URL(t)
	env := map[string]string{"DATABASE_URL": url}
	one := startDemo(t, env)
	two := startDemo(t, env, "-worker")
	two.out.await(t, "running jobs; press Ctrl-C to stop")
	one.out.await(t, `tick job=demo\.heartbeat|audit retention`)
	require.NoError(t, one.stop())

	// The other demo continues with two more ticks, whichever of them was the leader.
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	defer pool.Close()
	ticks := func() (done, doubled int) {
		err := pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE state = 'completed'), count(*) - count(DISTINCT metadata->>'everytick_tick')
			FROM river.river_job WHERE kind = 'demo.heartbeat'`).Scan(&done, &doubled)
		require.NoError(t, err)
		return done, doubled
	}
	before, _ := ticks()
	require.Eventually(t, func() bool {
		done, _ := ticks()
		return done >= before+2
	}, time.Minute, 100*time.Millisecond)
	_, doubled := ticks()
	require.Zero(t, doubled)
}

func TestListen_UsesAnotherPortIfTheAddressIsInUse(t *testing.T) {
	t.Parallel()
	url := databases.URL(t)
	one := startDemo(t, map[string]string{"DATABASE_URL": url})
	one.awaitURL(t)
	two := startDemo(t, map[string]string{"DATABASE_URL": url}, "-addr", strings.TrimPrefix(one.base, "http://"))
	two.out.await(t, "address already in use; listening on another port")
	two.awaitURL(t)
	require.NotEqual(t, one.base, two.base)
}

func TestRun_RefusesBadArguments(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-no-such-flag"}, {"extra"}, {"-for", "soon"}, {"-for", "-5s"}, {"-addr", "foo"}, {"-addr", "127.0.0.1:99999"},
	} {
		started := newScreen()
		require.Error(t, run(t.Context(), args, func(string) string { return "" }, io.Discard, started), "%v", args)
		require.NotContains(t, started.String(), " INF ", "%v: started something", args)
	}
	require.ErrorContains(t, run(t.Context(), []string{"-addr", "foo"}, func(string) string { return "" }, io.Discard, io.Discard),
		`-addr "foo": want a host and port such as 127.0.0.1:8080`)
	env := map[string]string{"DATABASE_URL": "postgres://ann:hunter2secret@127.0.0.1:1/db?connect_timeout=1"}
	out := newScreen()
	err := run(t.Context(), nil, func(key string) string { return env[key] }, out, out)
	require.Error(t, err)
	require.NotContains(t, err.Error()+out.String(), "hunter2secret")
}

// Runs the binary without environment variables. It leaves no process and no file behind, and
// -data keeps the database.
func TestBinary_NeedsNoSetupAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	if os.Getenv("DATABASE_URL") != "" {
		t.Log("DATABASE_URL is ignored by this test")
	}
	// Readable for everyone: under root the server runs as another user.
	dir, err := os.MkdirTemp("", "everytick-demo-") //nolint:usetesting // other users cannot read t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // see above
	binary := filepath.Join(dir, "demo")
	build, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, "%s", build)

	start := func(args ...string) (*exec.Cmd, *screen) {
		cmd := exec.CommandContext(t.Context(), binary, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
		cmd.Dir = dir
		out := newScreen()
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		return cmd, out
	}
	data := filepath.Join(dir, "data")
	first, out := start("-data", data)
	out.await(t, `audit retention .*archived=`)
	out.await(t, `tick job=demo\.heartbeat`)
	require.NoError(t, first.Process.Signal(syscall.SIGINT))
	require.NoError(t, first.Wait(), "%s", out)

	second, out := start("-data", data, "-worker", "-for", "10s")
	out.await(t, `tick job=demo\.heartbeat .*late=[0-9.]+(s|ms)`)
	require.NoError(t, second.Wait(), "%s", out)

	temporary, out := start("-for", "1s")
	require.NoError(t, temporary.Wait(), "%s", out)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "files left besides the binary and -data")
	processes, err := exec.CommandContext(t.Context(), "ps", "-eo", "args").Output()
	require.NoError(t, err)
	require.NotContains(t, string(processes), data, "a process is left")
}

func TestHandler_ServesMetrics(t *testing.T) {
	t.Parallel()
	d := startDemo(t, map[string]string{"DATABASE_URL": databases.URL(t)})
	d.awaitURL(t)
	d.out.await(t, `succeeded job=demo\.flaky`)
	var text string
	require.Eventually(t, func() bool {
		status, answer := d.do(t, "GET", "/metrics", "")
		require.Equal(t, http.StatusOK, status, answer)
		text = answer
		return strings.Contains(text, `everytick_job_attempts_total{job_name="demo.flaky",outcome="completed"} 1`)
	}, time.Minute, 100*time.Millisecond)
	for _, line := range []string{
		"everytick_up 1",
		"everytick_healthy 1",
		`everytick_job_attempts_total{job_name="demo.flaky",outcome="retried"} 2`,
		`everytick_schedule_overdue_seconds{job_name="audit.retention"} 0`,
		`everytick_jobs{job_name="email.send",state="running"} 0`,
	} {
		require.Contains(t, text, "\n"+line+"\n")
	}
}

func TestRun_LogsTimesInUTCAndExplainsErrors(t *testing.T) {
	t.Parallel()
	d := startDemo(t, map[string]string{"DATABASE_URL": databases.URL(t)})
	d.out.await(t, `tick job=demo\.heartbeat .* tick=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z`)
	d.out.await(t, `registered job=audit\.retention .* next=\d{4}-\d\d-\d\dT03:00:00\.000Z`)
	d.out.await(t, `ERR .*demo\.import`)
	require.NoError(t, d.stop())
	for line := range strings.Lines(d.out.String()) {
		if strings.Contains(line, " ERR ") {
			require.Contains(t, line, "on purpose", "an error in the log explains itself")
		}
		if regexp.MustCompile(`^\d\d:`).MatchString(line) {
			require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3} UTC `, line)
		}
	}
}

func TestRun_LogsWhatItIsWaitingForWhenStopped(t *testing.T) {
	t.Parallel()
	d := startDemo(t, map[string]string{"DATABASE_URL": databases.URL(t)})
	d.awaitURL(t)
	status, answer := d.do(t, "POST", "/api/jobs/demo.import/trigger", `{"seconds": 3}`, "Content-Type", "application/json")
	require.Equal(t, http.StatusAccepted, status, answer)
	d.out.await(t, `importing job=demo\.import .*seconds=3`)
	require.NoError(t, d.stop())
	require.Regexp(t, `waiting for running jobs; press Ctrl-C again .*running="?.*demo\.import \(job \d+, for \ds\).* gives_up_in=30s`, d.out.String())
	require.Contains(t, d.out.String(), "stopped")
}

// slow is a scheduler whose Shutdown takes this long.
type slow time.Duration

func (s slow) Shutdown(context.Context) error {
	time.Sleep(time.Duration(s))
	return nil
}

func TestShutDown_LogsEveryFiveSecondsWhatItIsWaitingFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out, runs := newScreen(), new(running)
		require.NoError(t, shutDown(t.Context(), slow(12*time.Second), runs, newLogger(out, false)))
		require.NotContains(t, out.String(), "waiting", "nothing is running")

		release := make(chan struct{})
		done := make(chan error)
		handler := runs.watch(func(context.Context, *jobs.Job) error { <-release; return nil })
		go func() { done <- handler(t.Context(), &jobs.Job{ID: "7", Name: "demo.import"}) }()
		synctest.Wait()
		require.NoError(t, shutDown(t.Context(), slow(12*time.Second), runs, newLogger(out, false)))
		for _, line := range []string{
			`running="demo.import (job 7, for 0s)" gives_up_in=30s`,
			`running="demo.import (job 7, for 5s)" gives_up_in=25s`,
			`running="demo.import (job 7, for 10s)" gives_up_in=20s`,
		} {
			require.Contains(t, out.String(), line)
		}
		require.Equal(t, 3, strings.Count(out.String(), "waiting for running jobs"))

		ended, cancel := context.WithCancel(t.Context())
		cancel() // as another Ctrl-C does
		require.NoError(t, shutDown(ended, slow(4*time.Second), runs, newLogger(out, false)))
		require.Contains(t, out.String(), `waiting for interrupted jobs running="demo.import (job 7, for 12s)"`)
		close(release)
		require.NoError(t, <-done)
		require.Empty(t, runs.String())
	})
}

func TestSeed_InsertsSampleRowsOnce(t *testing.T) {
	t.Parallel()
	url := databases.URL(t)
	one := startDemo(t, map[string]string{"DATABASE_URL": url})
	one.out.await(t, "sample rows inserted")
	one.out.await(t, `mail sink received a message to=\[ops@example\.com\]`)
	two := startDemo(t, map[string]string{"DATABASE_URL": url})
	two.out.await(t, "sample rows already exist")
	require.NoError(t, two.stop())
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	defer pool.Close()
	var notices, flaky int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM notifications WHERE title = 'Notice 1'),
		(SELECT count(*) FROM river.river_job WHERE kind = 'demo.flaky')`).Scan(&notices, &flaky))
	require.Equal(t, [2]int{1, 1}, [2]int{notices, flaky})
}
