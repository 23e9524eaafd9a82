package jobshttp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for schedule, want := range map[string]string{
		"on demand":                   "on demand",
		"after 2s":                    "on demand, 2 seconds after being triggered",
		"every 1s":                    "every second",
		"every 30s":                   "every 30 seconds",
		"every 1m0s":                  "every minute",
		"every 5m0s":                  "every 5 minutes",
		"every 1h0m0s":                "every hour",
		"every 1h30m0s":               "every 1 hour 30 minutes",
		"every 24h0m0s":               "every 24 hours",
		"every 168h0m0s":              "every 7 days",
		"every 1.5s":                  "every 1.5s",
		"every so often":              "every so often",
		"":                            "",
		"0 3 * * *":                   "every day at 03:00",
		"*/7 * * * *":                 "*/7 * * * *",
		"99 99 * * *":                 "99 99 * * *",
		"0 0 30 2 *":                  "0 0 30 2 *",
		"every -5m":                   "every -5m",
		"after soon":                  "after soon",
		"every 5m0s and then":         "every 5m0s and then",
		"*/99999999999999999 * * * *": "*/99999999999999999 * * * *",
	} {
		require.Equal(t, want, jobshttp.Words(schedule), "%q", schedule)
	}
}

func FuzzWords(f *testing.F) {
	for _, pattern := range []string{"0 3 * * *", "*/7 1-5/2 */2 jan 7", "@daily", "0 0 29 2 sun", "every 5m", "after 1s", "1-\xff * * * *"} {
		f.Add(pattern)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		words := jobshttp.Words(pattern)
		if _, err := jobs.ParseCron(pattern, nil); err == nil {
			require.NotEmpty(t, words)
		}
	})
}

func TestRelative(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "in 0 s", 59 * time.Second: "in 59 s", 252 * time.Second: "in 4 min 12 s", 3*time.Hour + 5*time.Minute: "in 3 h 5 min",
		50 * time.Hour: "in 2 d 2 h", -12 * time.Second: "12 s ago", -252 * time.Second: "4 min ago", -2 * time.Hour: "2 h 0 min ago",
		-time.Minute: "1 min ago", -time.Millisecond: "0 s ago",
	} {
		require.Equal(t, want, jobshttp.Relative(now.Add(d), now), "%s", d)
	}
}

func TestTook(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-1: "0 ms", 0: "0 ms", 340 * time.Millisecond: "340 ms", 3499 * time.Millisecond: "3.4 s", 34 * time.Second: "34 s", 252 * time.Second: "4 min 12 s",
	} {
		require.Equal(t, want, jobshttp.Took(d), "%s", d)
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -100: "-100", -1000: "-1,000"} {
		require.Equal(t, want, jobshttp.Count(n))
	}
}
