package jobshttp_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
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
		"after 2s":                    "on demand, 2 seconds after the trigger",
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
		"@daily":                      "every day at 00:00",
		"@hourly":                     "every hour",
		"@weekly":                     "Sundays at 00:00",
		"@monthly":                    "on the 1st of every month at 00:00",
		"@yearly":                     "on the 1st of January at 00:00",
		"* * * * *":                   "every minute",
		"*/5 * * * *":                 "every 5 minutes",
		"*/30 * * * *":                "every 30 minutes",
		"0 * * * *":                   "every hour",
		"5 * * * *":                   "every hour at :05",
		"5,20,35 * * * *":             "every hour at :05, :20 and :35",
		"0 */2 * * *":                 "every 2 hours from 00:00",
		"15 */6 * * *":                "every 6 hours from 00:15",
		"0 */12 * * *":                "every day at 00:00 and 12:00",
		"0 3 * * *":                   "every day at 03:00",
		"0 3,9,15 * * *":              "every day at 03:00, 09:00 and 15:00",
		"0,30 8,9 * * *":              "every day at 08:00, 08:30, 09:00 and 09:30",
		"30 9 * * 1":                  "Mondays at 09:30",
		"30 9 * * mon":                "Mondays at 09:30",
		"30 9 * * mon,WED,fri":        "Mondays, Wednesdays and Fridays at 09:30",
		"30 9 * * 1-5":                "Mondays to Fridays at 09:30",
		"30 9 * * 0":                  "Sundays at 09:30",
		"30 9 * * 7":                  "Sundays at 09:30",
		"30 9 * * 6,7":                "Saturdays and Sundays at 09:30",
		"30 9 * * sun-tue":            "Mondays, Tuesdays and Sundays at 09:30",
		"30 9 * * fri-sun":            "Fridays to Sundays at 09:30",
		"30 9 * * mon,6-0":            "Mondays, Saturdays and Sundays at 09:30",
		"30 9 * * 0-6":                "every day at 09:30",
		"0 0 1 * *":                   "on the 1st of every month at 00:00",
		"0 0 1,15 * *":                "on the 1st and 15th of every month at 00:00",
		"0 0 2,3,22,23 * *":           "on the 2nd, 3rd, 22nd and 23rd of every month at 00:00",
		"0 0 31 * *":                  "on the 31st of every month that has it at 00:00",
		"0 0 31 1,3 *":                "on the 31st of January and March at 00:00",
		"0 0 29 2 *":                  "on the 29th of February at 00:00",
		"0 6 1 1,4,7,10 *":            "on the 1st of January, April, July and October at 06:00",
		"0 6 1 mar-aug *":             "on the 1st of every month from March to August at 06:00",
		"0 6 * 12 *":                  "every day in December at 06:00",
		"0 6 * jun,jul 1":             "Mondays in June and July at 06:00",
		"*/15 * * * 1-5":              "every 15 minutes, Mondays to Fridays",
		"*/15 9-17 * * 1-5":           "every 15 minutes from 09:00 to 17:45, Mondays to Fridays",
		"30 9-17 * * *":               "every hour from 09:30 to 17:30",
		"*/10 3 * * *":                "every 10 minutes from 03:00 to 03:50",
		"* * 1 * *":                   "every minute, on the 1st of every month",
		"*/5 * * 6 *":                 "every 5 minutes in June",
		"0 3 13 * 5":                  "on the 13th of every month and on Fridays at 03:00",
		"0 3 1-31 * 5":                "every day at 03:00", // of two restricted day fields either counts
		"  0   3 * * * ":              "every day at 03:00",
		"*/7 * * * *":                 "*/7 * * * *", // not even at the hour
		"0 0 15,31 * *":               "0 0 15,31 * *",
		"0 0 31 1,4 *":                "0 0 31 1,4 *",
		"0 0 */2 * 1":                 "0 0 */2 * 1",
		"0 3 13 6 5":                  "0 3 13 6 5",
		"7,13 2-9/3 * * *":            "7,13 2-9/3 * * *",
		"0 0 1-6 * *":                 "0 0 1-6 * *",
		"0 0 * 1,3,5,7,9 *":           "0 0 * 1,3,5,7,9 *",
		"99 99 * * *":                 "99 99 * * *",
		"a b c d e":                   "a b c d e",
		"0 3 * *":                     "0 3 * *",
		"every -5m":                   "every -5m",
		"after soon":                  "after soon",
		"every 5m0s and then":         "every 5m0s and then",
		"*/99999999999999999 * * * *": "*/99999999999999999 * * * *",
	} {
		require.Equal(t, want, jobshttp.Words(schedule), "%q", schedule)
	}
}

// ticks returns the next ticks as a text to compare.
func ticks(t testing.TB, pattern string) string {
	s, err := jobs.ParseCron(pattern, nil)
	require.NoError(t, err)
	var b strings.Builder
	for at, i := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), 0; i < 100; i++ {
		at = s.Next(at)
		b.WriteString(at.Format("2006-01-02T15:04 "))
	}
	return b.String()
}

// Words that fit two patterns with different ticks claim something wrong of one of
// them, or leave something out.
func TestWords_TellPatternsApart(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // not a secret
	field := func(low, high int, often ...string) string {
		v := func() int { return low + random.IntN(high-low+1) }
		switch random.IntN(8) {
		case 0:
			return fmt.Sprintf("*/%d", 1+random.IntN(high))
		case 1:
			a, b := v(), v()
			return fmt.Sprintf("%d-%d", min(a, b), max(a, b))
		case 2:
			a, b := v(), v()
			return fmt.Sprintf("%d-%d/%d", min(a, b), max(a, b), 1+random.IntN(high))
		case 3:
			return fmt.Sprintf("%d,%d", v(), v())
		case 4:
			return fmt.Sprint(v())
		}
		return often[random.IntN(len(often))]
	}
	said := map[string]string{}
	spelled := 0
	for range 5_000 {
		pattern := strings.Join([]string{
			field(0, 59, "0", "30", "*", "*/15"), field(0, 23, "*", "3", "9-17", "*/6"), field(1, 31, "*", "*", "1"),
			field(1, 12, "*", "*", "*", "6"), field(0, 7, "*", "*", "1-5", "mon"),
		}, " ")
		if _, err := jobs.ParseCron(pattern, nil); err != nil {
			continue
		}
		words := jobshttp.Words(pattern)
		require.NotEmpty(t, words)
		if words == pattern {
			continue
		}
		spelled++
		if before, ok := said[words]; ok && before != pattern {
			require.Equal(t, ticks(t, before), ticks(t, pattern), "%q for both %q and %q", words, before, pattern)
		}
		said[words] = pattern
	}
	require.Greater(t, spelled, 500)
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

func TestDurationsInWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "in 0 s", 59 * time.Second: "in 59 s", 252 * time.Second: "in 4 min 12 s", 3*time.Hour + 5*time.Minute: "in 3 h 5 min",
		50 * time.Hour: "in 2 d 2 h", -12 * time.Second: "12 s ago", -252 * time.Second: "4 min ago", -2 * time.Hour: "2 h 0 min ago",
		-time.Minute: "1 min ago", -time.Millisecond: "0 s ago",
	} {
		require.Equal(t, want, jobshttp.Relative(now.Add(d), now), "%s", d)
	}
	for d, want := range map[time.Duration]string{
		-1: "0 ms", 0: "0 ms", 340 * time.Millisecond: "340 ms", 3499 * time.Millisecond: "3.4 s", 34 * time.Second: "34 s", 252 * time.Second: "4 min 12 s",
	} {
		require.Equal(t, want, jobshttp.Took(d), "%s", d)
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -100: "-100", -1000: "-1,000"} {
		require.Equal(t, want, jobshttp.Count(n))
	}
}
