package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// /healthz says why to a monitor that finds the database down when it first asks, before its own limit of 5 seconds.
func TestHealthz_SaysThatTheDatabaseDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]bool{"connection refused": false, "hanging": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0") // never accepts, so that connections open and stay silent
			require.NoError(t, err)
			if hangs {
				defer l.Close()
			} else {
				l.Close()
			}
			pool, err := pgxpool.New(t.Context(), "postgres://app:hunter2@"+l.Addr().String()+"/app?sslmode=disable")
			require.NoError(t, err)
			defer pool.Close()
			s, err := river.New(pool, nil)
			require.NoError(t, err)
			h := jobshttp.New(s, &jobshttp.Options{Authorize: func(*http.Request, jobshttp.Action, string) error { return nil }})

			asked := time.Now()
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
			require.Less(t, time.Since(asked), 5*time.Second)
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
			var health struct {
				Healthy *bool
				Reasons []struct{ Text string }
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &health), w.Body)
			require.NotNil(t, health.Healthy, w.Body)
			require.NotEmpty(t, health.Reasons)
			require.Contains(t, health.Reasons[0].Text, "the database does not answer: ")
			require.NotContains(t, w.Body.String(), "hunter2")
		})
	}
}
