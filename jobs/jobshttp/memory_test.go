package jobshttp_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func TestHandler_WithTheMemoryProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(nil)
		require.NoError(t, err)
		broken := true
		require.NoError(t, s.RegisterCron("audit.retention", "0 3 * * *", func(context.Context, *jobs.Job) error { return nil }))
		require.NoError(t, s.RegisterDelayed("email.send", 0, func(context.Context, *jobs.Job) error {
			if broken {
				return jobs.Permanent(errors.New("smtp: connection refused"))
			}
			return nil
		}))
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		page := func(path string) string {
			time.Sleep(11 * time.Second) // until every cache has expired
			w := send(h, "GET", path, "")
			require.Equal(t, http.StatusOK, w.Code, w.Body)
			return visible(w.Body.String())
		}
		require.Equal(t, http.StatusServiceUnavailable, send(h, "GET", "/readyz", "").Code)
		require.Contains(t, page("/"), "the scheduler is not started")
		require.NoError(t, s.Start(t.Context()))
		defer func() { require.NoError(t, s.Shutdown(context.WithoutCancel(t.Context()))) }()
		require.Contains(t, page("/"), "✓ All 2 jobs are fine 2 jobs 1 process Next")
		require.Equal(t, http.StatusOK, send(h, "GET", "/readyz", "").Code)

		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/email.send/trigger", url.Values{"data": {`{"to": "ann"}`}}.Encode()).Code)
		require.Contains(t, page("/"), "email.send is failing: smtp: connection refused")
		require.Contains(t, page("/job/email.send"), "✗ failed")
		runs, err := s.Runs(t.Context(), "email.send", 1)
		require.NoError(t, err)
		broken = false
		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/email.send/runs/"+url.PathEscape(runs[0].ID)+"/retry", "").Code)
		require.Contains(t, page("/job/email.send"), "✓ done")
		require.Contains(t, page("/"), "✓ All 2 jobs are fine")

		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/email.send/pause", "").Code)
		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/email.send/trigger", "").Code)
		require.Contains(t, page("/"), "1 paused")
		require.Contains(t, page("/job/email.send"), "1 waiting")
		runs, err = s.Runs(t.Context(), "email.send", 1)
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, send(h, "POST", "/api/jobs/email.send/runs/"+url.PathEscape(runs[0].ID)+"/cancel", "").Code)
		require.Contains(t, page("/job/email.send"), "– cancelled")
		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/email.send/resume", "").Code)
		require.NotContains(t, page("/job/email.send"), "paused")

		// A schedule that has had no tick yet but was triggered.
		require.Contains(t, page("/"), "0 3 * * * UTC no runs recorded in ")
		require.Equal(t, http.StatusSeeOther, send(h, "POST", "/job/audit.retention/trigger", "").Code)
		require.Contains(t, page("/"), "0 3 * * * UTC ✓ done 11 s ago")

		time.Sleep(4 * time.Hour) // past 03:00
		require.Contains(t, page("/job/audit.retention"), "tick 03:00:00 UTC")
	})
}

func TestAPIJob_ListsNoRunsOfTheMemoryProviderAsAnEmptyArray(t *testing.T) {
	t.Parallel()
	s, err := memory.New(nil)
	require.NoError(t, err)
	require.NoError(t, s.RegisterDelayed("a.job", 0, func(context.Context, *jobs.Job) error { return nil }))
	w := send(jobshttp.New(s, &jobshttp.Options{Authorize: everybody}), "GET", "/api/jobs/a.job", "")
	require.Contains(t, w.Body.String(), `"runs": []`)
}
