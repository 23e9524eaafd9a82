package jobshttp_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// /healthz says why, whatever the scheduler does while the database is down, with and without an earlier answer.
func TestHealthz_GivesTheReasonDuringAnOutage(t *testing.T) {
	t.Parallel()
	refused := "the database does not answer: dial tcp: connection refused"
	for name, row := range map[string]struct {
		health func(s *full)
		want   string
	}{
		"connection refused": {func(s *full) {
			s.health = jobs.Health{Started: true, Reasons: []jobs.Reason{{Text: refused}}}
			s.failing = map[string]error{"Jobs": errors.New("connection refused")}
		}, refused},
		"hanging, with a reason before the deadline": {func(s *full) {
			s.health = jobs.Health{Started: true, Reasons: []jobs.Reason{{Text: "the database does not answer: timeout"}}}
			s.hanging = map[string]error{"Health": nil, "Jobs": errors.New("timeout")}
		}, "the database does not answer: timeout"},
		"hanging, with the error of the context": {func(s *full) { s.hang = true }, "the database does not answer: no reply to the health check within 2.5s"},
		"hanging, and ignoring the context": {func(s *full) {
			s.before = func(string) { time.Sleep(time.Minute) }
		}, "the database does not answer: no reply to the health check within 2.5s"},
		"an error of another kind": {func(s *full) { s.down = errors.New("password is hunter2") }, "the health check failed; see the log"},
		"a panic":                  {func(s *full) { s.before = func(string) { panic("hunter2") } }, "the health check failed; see the log"},
	} {
		for _, cached := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newFake(time.Now())
				h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
				if cached {
					require.Equal(t, http.StatusOK, send(h, "GET", "/healthz", "").Code)
					time.Sleep(time.Minute)
				}
				s.set(func() { row.health(s) })
				before := time.Now()
				w := send(h, "GET", "/healthz", "")
				require.LessOrEqual(t, time.Since(before), jobshttp.CallTimeout, name)
				require.Equal(t, http.StatusServiceUnavailable, w.Code, name)
				var health struct {
					Healthy *bool
					Reasons []struct{ Text string }
				}
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &health))
				require.NotNil(t, health.Healthy, "%s: %s", name, w.Body)
				require.False(t, *health.Healthy, name)
				require.Len(t, health.Reasons, 1, "%s: %s", name, w.Body)
				require.Equal(t, row.want, health.Reasons[0].Text, name)
				require.NotContains(t, w.Body.String(), "hunter2", name)
				time.Sleep(2 * time.Minute) // until every call has ended
			})
		}
	}
}
