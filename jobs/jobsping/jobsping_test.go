package jobsping_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobsping"
)

// service is a dead man's switch. Its zero value answers everything with 200.
type service struct {
	mu     sync.Mutex
	heard  []string // path and body of each request
	rids   []string
	answer func(ctx context.Context, path string) (status int, err error)
}

// RoundTrip implements [http.RoundTripper].
func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.heard = append(s.heard, strings.TrimSpace(r.URL.Path+" "+string(body)))
	s.rids = append(s.rids, r.URL.Query().Get("rid"))
	answer := s.answer
	s.mu.Unlock()
	status := http.StatusOK
	if answer != nil {
		if status, err = answer(r.Context(), r.URL.Path); err != nil {
			return nil, err
		}
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: http.NoBody}, nil
}

// run triggers a job with handler h that reports to s, waits until nothing happens any more, and returns what was
// logged.
func run(t *testing.T, s *service, h jobs.Handler, cfg jobsping.Config, opts ...jobs.Option) (logged string) {
	t.Helper()
	var log strings.Builder
	cfg.Client = &http.Client{Transport: s}
	ping, err := jobsping.New("https://ping.example/secret?own=1", &cfg)
	require.NoError(t, err)
	scheduler, err := memory.New(&memory.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	opts = append(opts, jobs.Use(ping), jobs.RetryDelay(time.Second))
	require.NoError(t, scheduler.RegisterDelayed("audit.sync", 0, h, opts...))
	require.NoError(t, scheduler.Start(t.Context()))
	_, err = scheduler.Trigger(t.Context(), "audit.sync", nil)
	require.NoError(t, err)
	time.Sleep(time.Minute)
	require.NoError(t, scheduler.Shutdown(t.Context()))
	return log.String()
}

func TestNew_ReportsEachRun(t *testing.T) {
	t.Parallel()
	no := errors.New("no luck")
	for _, tt := range []struct {
		name    string
		handler jobs.Handler
		cfg     jobsping.Config
		opts    []jobs.Option
		want    []string
	}{
		{
			name:    "completed",
			handler: func(context.Context, *jobs.Job) error { return nil },
			want:    []string{"/secret/start", "/secret"},
		},
		{
			name: "a retry reports no end before its own",
			handler: func(_ context.Context, job *jobs.Job) error {
				if job.Attempt == 1 {
					return no
				}
				return nil
			},
			want: []string{"/secret/start", "/secret/start", "/secret"},
		},
		{
			name:    "failed for good",
			handler: func(context.Context, *jobs.Job) error { return jobs.Permanent(no) },
			want:    []string{"/secret/start", "/secret/fail"},
		},
		{
			name:    "the text of the error is sent if asked for",
			handler: func(context.Context, *jobs.Job) error { return jobs.Permanent(no) },
			cfg:     jobsping.Config{SendErrors: true},
			want:    []string{"/secret/start", "/secret/fail no luck"},
		},
		{
			name: "a timeout",
			handler: func(ctx context.Context, _ *jobs.Job) error {
				<-ctx.Done()
				return ctx.Err()
			},
			opts: []jobs.Option{jobs.Timeout(time.Second), jobs.MaxRetries(0)},
			want: []string{"/secret/start", "/secret/fail"},
		},
		{
			name:    "a panic",
			handler: func(context.Context, *jobs.Job) error { panic("oh") },
			opts:    []jobs.Option{jobs.MaxRetries(0)},
			want:    []string{"/secret/start", "/secret/fail"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &service{}
				logged := run(t, s, tt.handler, tt.cfg, tt.opts...)
				require.Equal(t, tt.want, s.heard)
				require.NotContains(t, logged, "dead man")
				last := len(s.rids) - 1
				require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, s.rids[last])
				require.Equal(t, s.rids[last], s.rids[last-1], "the service pairs an end with its start")
			})
		})
	}
}

func TestNew_AServiceThatIsAwayChangesNoRun(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer func(context.Context, string) (int, error)
		took   time.Duration
	}{
		{
			name:   "refuses connections",
			answer: func(context.Context, string) (int, error) { return 0, errors.New("connection refused") },
		},
		{
			name:   "answers with an error",
			answer: func(context.Context, string) (int, error) { return http.StatusNotFound, nil },
		},
		{
			name: "hangs",
			answer: func(ctx context.Context, _ string) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			},
			took: 3 * time.Second, // the start and two attempts to report the end
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, calls, took := &service{answer: tt.answer}, 0, time.Duration(-1)
				stopwatch := func(next jobs.Handler) jobs.Handler {
					return func(ctx context.Context, job *jobs.Job) error {
						began := time.Now()
						defer func() { took = time.Since(began) }()
						return next(ctx, job)
					}
				}
				h := func(context.Context, *jobs.Job) error { calls++; return nil }
				logged := run(t, s, h, jobsping.Config{Timeout: time.Second}, jobs.Use(stopwatch))
				require.Equal(t, 1, calls)
				require.Equal(t, tt.took, took)
				require.Contains(t, logged, "the start was not reported to the dead man's switch")
				require.Contains(t, logged, "the end was not reported to the dead man's switch")
				require.NotContains(t, logged, "secret", "the URL is a secret")
			})
		})
	}
}

func TestNew_AnEndIsReportedASecondTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		s.answer = func(_ context.Context, path string) (int, error) {
			if path == "/secret" && len(s.heard) == 2 {
				return http.StatusBadGateway, nil
			}
			return http.StatusOK, nil
		}
		logged := run(t, s, func(context.Context, *jobs.Job) error { return nil }, jobsping.Config{})
		require.Equal(t, []string{"/secret/start", "/secret", "/secret"}, s.heard)
		require.NotContains(t, logged, "not reported")
	})
}

func TestNew_RefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "ping.example/secret", "ftp://ping.example/secret", "https:///secret", "https://%zz/secret"} {
		_, err := jobsping.New(bad, nil)
		require.ErrorIs(t, err, jobsping.ErrInvalidURL, bad)
		require.NotContains(t, err.Error(), "secret", "the URL is a secret")
	}
	_, err := jobsping.New("https://ping.example/secret", &jobsping.Config{Timeout: -1})
	require.ErrorContains(t, err, "must not be negative")
}
