package jobshttp_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// The commands in docs/operating.md do what they say.
func TestAPI_CurlCommandsOfTheDocumentation(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil && os.Getenv("CI") == "" {
		t.Skip("curl is not installed")
	}
	_, script, found := strings.Cut(readFile(t, "../../docs/operating.md"), "<!-- run by jobs/jobshttp/curl_test.go -->\n```sh\n")
	require.True(t, found)
	script, _, _ = strings.Cut(script, "\n```")

	s, err := memory.New(nil)
	require.NoError(t, err)
	fail := func(context.Context, *jobs.Job) error { return jobs.Permanent(errors.New("no such mailbox")) }
	require.NoError(t, s.RegisterDelayed("email.send", 0, fail))
	require.NoError(t, s.Start(t.Context()))
	defer func() { require.NoError(t, s.Shutdown(context.WithoutCancel(t.Context()))) }()
	_, err = s.Trigger(t.Context(), "email.send", nil)
	require.NoError(t, err)
	state := func(want jobs.State) func() bool {
		return func() bool {
			runs, err := s.Runs(t.Context(), "email.send", 10)
			return err == nil && runs[len(runs)-1].State == want
		}
	}
	require.Eventually(t, state(jobs.StateFailed), 10*time.Second, 5*time.Millisecond)
	admin := jobshttp.New(s, &jobshttp.Options{Authorize: jobshttp.BasicAuth(map[string]string{"ann": "secret"})})
	srv := httptest.NewServer(http.StripPrefix("/admin/jobs", admin))
	defer srv.Close()

	script = strings.ReplaceAll(script, "https://app.example.com", srv.URL)
	script = "curl() { command curl -sS --noproxy '*' --fail-with-body \"$@\"; }\n" + script
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", script)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{
		`"error": "no such mailbox"`, "Location: runs/", `"state": "scheduled"`, `"dry_run": true`, `"paused": true`, `"paused": false`,
	} {
		require.Contains(t, string(out), want)
	}
	require.Equal(t, 3, strings.Count(string(out), `"count": 1`), "counted, retried and cancelled: %s", out)
	runs, err := s.Runs(t.Context(), "email.send", 10)
	require.NoError(t, err)
	require.Len(t, runs, 2)
	require.Equal(t, jobs.StateCancelled, runs[0].State)
}
