package cron_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs/internal/cron"
)

func describe(t testing.TB, pattern string) string {
	s, err := cron.Parse(pattern, nil)
	require.NoError(t, err)
	return s.Describe()
}

func TestSchedule_Describe(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"@daily":               "every day at 00:00",
		"@hourly":              "every hour",
		"@weekly":              "Sundays at 00:00",
		"@monthly":             "on the 1st of every month at 00:00",
		"@yearly":              "on the 1st of January at 00:00",
		"* * * * *":            "every minute",
		"*/5 * * * *":          "every 5 minutes",
		"*/30 * * * *":         "every 30 minutes",
		"0 * * * *":            "every hour",
		"5 * * * *":            "every hour at :05",
		"5,20,35 * * * *":      "every hour at :05, :20 and :35",
		"0 */2 * * *":          "every 2 hours from 00:00",
		"15 */6 * * *":         "every 6 hours from 00:15",
		"0 */12 * * *":         "every day at 00:00 and 12:00",
		"0 3 * * *":            "every day at 03:00",
		"0 3,9,15 * * *":       "every day at 03:00, 09:00 and 15:00",
		"0,30 8,9 * * *":       "every day at 08:00, 08:30, 09:00 and 09:30",
		"30 9 * * 1":           "Mondays at 09:30",
		"30 9 * * mon":         "Mondays at 09:30",
		"30 9 * * mon,WED,fri": "Mondays, Wednesdays and Fridays at 09:30",
		"30 9 * * 1-5":         "Mondays to Fridays at 09:30",
		"30 9 * * 0":           "Sundays at 09:30",
		"30 9 * * 7":           "Sundays at 09:30",
		"30 9 * * 6,7":         "Saturdays and Sundays at 09:30",
		"30 9 * * sun-tue":     "Mondays, Tuesdays and Sundays at 09:30",
		"30 9 * * fri-sun":     "Fridays to Sundays at 09:30",
		"30 9 * * mon,6-0":     "Mondays, Saturdays and Sundays at 09:30",
		"30 9 * * 0-6":         "every day at 09:30",
		"0 0 1 * *":            "on the 1st of every month at 00:00",
		"0 0 1,15 * *":         "on the 1st and 15th of every month at 00:00",
		"0 0 2,3,22,23 * *":    "on the 2nd, 3rd, 22nd and 23rd of every month at 00:00",
		"0 0 31 * *":           "on the 31st of every month that has it at 00:00",
		"0 0 31 1,3 *":         "on the 31st of January and March at 00:00",
		"0 0 29 2 *":           "on the 29th of February at 00:00",
		"0 6 1 1,4,7,10 *":     "on the 1st of January, April, July and October at 06:00",
		"0 6 1 mar-aug *":      "on the 1st of every month from March to August at 06:00",
		"0 6 * 12 *":           "every day in December at 06:00",
		"0 6 * jun,jul 1":      "Mondays in June and July at 06:00",
		"*/15 * * * 1-5":       "every 15 minutes, Mondays to Fridays",
		"*/15 9-17 * * 1-5":    "every 15 minutes from 09:00 to 17:45, Mondays to Fridays",
		"30 9-17 * * *":        "every hour from 09:30 to 17:30",
		"*/10 3 * * *":         "every 10 minutes from 03:00 to 03:50",
		"* * 1 * *":            "every minute, on the 1st of every month",
		"*/5 * * 6 *":          "every 5 minutes in June",
		"0 3 13 * 5":           "on the 13th of every month and on Fridays at 03:00",
		"0 3 1-31 * 5":         "every day at 03:00", // a day has to match only one of two restricted fields
		"  0   3 * * * ":       "every day at 03:00",
		"*/7 * * * *":          "*/7 * * * *", // uneven at the hour
		"0 0 15,31 * *":        "0 0 15,31 * *",
		"0 0 31 1,4 *":         "0 0 31 1,4 *",
		"0 0 */2 * 1":          "0 0 */2 * 1",
		"0 3 13 6 5":           "0 3 13 6 5",
		"7,13 2-9/3 * * *":     "7,13 2-9/3 * * *",
		"0 0 1-6 * *":          "0 0 1-6 * *",
		"0 0 * 1,3,5,7,9 *":    "0 0 * 1,3,5,7,9 *",
	} {
		require.Equal(t, want, describe(t, pattern), "%q", pattern)
	}
}

// ticks returns the next ticks as text.
func ticks(t testing.TB, pattern string) string {
	s, err := cron.Parse(pattern, nil)
	require.NoError(t, err)
	var b strings.Builder
	for at, i := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), 0; i < 100; i++ {
		at = s.Next(at)
		b.WriteString(at.Format("2006-01-02T15:04 "))
	}
	return b.String()
}

// If two patterns with different ticks have the same description, it is wrong or incomplete for one of them.
func TestDescribe_DistinguishesPatterns(t *testing.T) {
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
		if _, err := cron.Parse(pattern, nil); err != nil {
			continue
		}
		words := describe(t, pattern)
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
