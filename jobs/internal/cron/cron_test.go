package cron_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	robfig "github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/everytick/everytick/jobs"
)

func TestParseCron_AcceptsFiveFields(t *testing.T) {
	t.Parallel()
	// The ticks after Wednesday, 2025-01-01 00:00 UTC.
	for _, test := range []struct {
		rule, pattern string
		want          []string
	}{
		{"every minute", "* * * * *", []string{"2025-01-01T00:01:00Z", "2025-01-01T00:02:00Z"}},
		{"a fixed minute and hour", "30 3 * * *", []string{"2025-01-01T03:30:00Z", "2025-01-02T03:30:00Z"}},
		{"leading zeros", "05 003 * * *", []string{"2025-01-01T03:05:00Z"}},
		{"step over all", "*/20 * * * *", []string{"2025-01-01T00:20:00Z", "2025-01-01T00:40:00Z", "2025-01-01T01:00:00Z"}},
		{"largest step", "*/59 * * * *", []string{"2025-01-01T00:59:00Z", "2025-01-01T01:00:00Z", "2025-01-01T01:59:00Z"}},
		{"step over a range", "10-40/15 5 * * *", []string{"2025-01-01T05:10:00Z", "2025-01-01T05:25:00Z", "2025-01-01T05:40:00Z", "2025-01-02T05:10:00Z"}},
		{"step beyond its range", "10-12/30 5 * * *", []string{"2025-01-01T05:10:00Z", "2025-01-02T05:10:00Z"}},
		{"range of one", "7-7 5 * * *", []string{"2025-01-01T05:07:00Z", "2025-01-02T05:07:00Z"}},
		{"list, in any order, with a repetition", "9,3,9 5 * * *", []string{"2025-01-01T05:03:00Z", "2025-01-01T05:09:00Z", "2025-01-02T05:03:00Z"}},
		{"list of ranges and values", "0 1-2,22,20-21/1 * * *", []string{"2025-01-01T01:00:00Z", "2025-01-01T02:00:00Z", "2025-01-01T20:00:00Z", "2025-01-01T21:00:00Z", "2025-01-01T22:00:00Z", "2025-01-02T01:00:00Z"}},
		{"upper bounds", "59 23 31 12 *", []string{"2025-12-31T23:59:00Z", "2026-12-31T23:59:00Z"}},
		{"lower bounds", "0 0 1 1 *", []string{"2026-01-01T00:00:00Z"}},
		{"month names in any case", "0 0 1 feb,MAR,Apr *", []string{"2025-02-01T00:00:00Z", "2025-03-01T00:00:00Z", "2025-04-01T00:00:00Z", "2026-02-01T00:00:00Z"}},
		{"range of month names with a step", "0 0 1 OCT-dec/2 *", []string{"2025-10-01T00:00:00Z", "2025-12-01T00:00:00Z", "2026-10-01T00:00:00Z"}},
		{"day names in any case", "0 0 * * mOn,FRI", []string{"2025-01-03T00:00:00Z", "2025-01-06T00:00:00Z", "2025-01-10T00:00:00Z"}},
		{"range of names and numbers", "0 0 * * mon-2", []string{"2025-01-06T00:00:00Z", "2025-01-07T00:00:00Z", "2025-01-13T00:00:00Z"}},
		{"Sunday as 0", "0 0 * * 0", []string{"2025-01-05T00:00:00Z", "2025-01-12T00:00:00Z"}},
		{"Sunday as 7", "0 0 * * 7", []string{"2025-01-05T00:00:00Z", "2025-01-12T00:00:00Z"}},
		{"Sunday as sun", "0 0 * * sun", []string{"2025-01-05T00:00:00Z", "2025-01-12T00:00:00Z"}},
		{"range that ends on Sunday as 7", "0 0 * * 6-7", []string{"2025-01-04T00:00:00Z", "2025-01-05T00:00:00Z", "2025-01-11T00:00:00Z"}},
		{"range that ends on Sunday as 0", "0 0 * * 6-0", []string{"2025-01-04T00:00:00Z", "2025-01-05T00:00:00Z", "2025-01-11T00:00:00Z"}},
		{"range that ends on Sunday by name", "0 0 * * Sat-SUN", []string{"2025-01-04T00:00:00Z", "2025-01-05T00:00:00Z", "2025-01-11T00:00:00Z"}},
		{"range from Friday to Sunday with a step", "0 0 * * fri-sun/2", []string{"2025-01-03T00:00:00Z", "2025-01-05T00:00:00Z", "2025-01-10T00:00:00Z"}},
		{"range from Friday by number", "0 0 * * 5-0", []string{"2025-01-03T00:00:00Z", "2025-01-04T00:00:00Z", "2025-01-05T00:00:00Z", "2025-01-10T00:00:00Z"}},
		{"range of the whole week from Monday", "0 0 * * mon-sun", []string{"2025-01-02T00:00:00Z", "2025-01-03T00:00:00Z", "2025-01-04T00:00:00Z", "2025-01-05T00:00:00Z", "2025-01-06T00:00:00Z"}},
		{"range of one Sunday by name", "0 0 * * sun-sun", []string{"2025-01-05T00:00:00Z", "2025-01-12T00:00:00Z"}},
		{"either of two restricted day fields", "0 0 13 * fri", []string{"2025-01-03T00:00:00Z", "2025-01-10T00:00:00Z", "2025-01-13T00:00:00Z", "2025-01-17T00:00:00Z"}},
		{"both day fields when one begins with a star", "0 0 */12 * fri", []string{"2025-04-25T00:00:00Z", "2025-06-13T00:00:00Z", "2025-07-25T00:00:00Z"}},
		{"any space between and around", " 30\t3  *\n*\u00a0* ", []string{"2025-01-01T03:30:00Z"}},
		{"29 February", "0 0 29 2 *", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"29 February on a Sunday", "0 0 29 2 */7", []string{"2032-02-29T00:00:00Z", "2060-02-29T00:00:00Z", "2088-02-29T00:00:00Z", "2128-02-29T00:00:00Z"}},
		{"31st of months that have one", "0 0 31 * *", []string{"2025-01-31T00:00:00Z", "2025-03-31T00:00:00Z", "2025-05-31T00:00:00Z"}},
		{"@hourly", "@hourly", []string{"2025-01-01T01:00:00Z", "2025-01-01T02:00:00Z"}},
		{"@daily", "@daily", []string{"2025-01-02T00:00:00Z", "2025-01-03T00:00:00Z"}},
		{"@midnight", "@midnight", []string{"2025-01-02T00:00:00Z", "2025-01-03T00:00:00Z"}},
		{"@weekly", "@weekly", []string{"2025-01-05T00:00:00Z", "2025-01-12T00:00:00Z"}},
		{"@monthly", "@monthly", []string{"2025-02-01T00:00:00Z", "2025-03-01T00:00:00Z"}},
		{"@yearly", "@yearly", []string{"2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"}},
		{"@annually", " @annually ", []string{"2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			s := mustParse(t, test.pattern, nil)
			require.Equal(t, strings.TrimSpace(test.pattern), s.String())
			var got []string
			for tick := at(t, "2025-01-01T00:00:00Z"); len(got) < len(test.want); {
				tick = s.Next(tick)
				got = append(got, tick.Format(time.RFC3339))
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestParseCron_ErrorsNameTheFieldAndWhatIsAllowed(t *testing.T) {
	t.Parallel()
	const fiveFields = "want 5: minute, hour, day-of-month, month, day-of-week"
	for _, test := range []struct{ pattern, field, allowed string }{
		{"", "0 fields", fiveFields},
		{"   ", "0 fields", fiveFields},
		{"* * * *", "4 fields", fiveFields},
		{"0 0 3 * * *", "6 fields", fiveFields + "; seconds and years are not supported"},
		{"TZ=UTC 0 3 * * *", "time zone", "TimeZone option"},
		{"CRON_TZ=Europe/Berlin 0 3 * * *", "time zone", "TimeZone option"},
		{"TZ=0", "time zone", "TimeZone option"},
		{" TZ=UTC 0 3 * * *", "time zone", "TimeZone option"},
		{"@reboot", "alias", "@hourly, @daily or @midnight, @weekly, @monthly, and @yearly or @annually"},
		{"@every 5m", "alias", "and @yearly or @annually; for an interval, use RegisterInterval"},
		{"@", "alias", "@hourly"},
		{"@Daily", "alias", "@daily"},

		{"60 * * * *", `field minute: value "60"`, "0 to 59"},
		{"* 24 * * *", `field hour: value "24"`, "0 to 23"},
		{"* * 0 * *", `field day-of-month: value "0"`, "1 to 31"},
		{"* * 32 * *", `field day-of-month: value "32"`, "1 to 31"},
		{"* * * 0 *", `field month: value "0"`, "1 to 12 or jan to dec"},
		{"* * * 13 *", `field month: value "13"`, "1 to 12 or jan to dec"},
		{"* * * * 8", `field day-of-week: value "8"`, "0 to 7 or sun to sat"},
		{"* * * sun *", `field month: value "sun"`, "1 to 12 or jan to dec"},
		{"* * * january *", `field month: value "january"`, "1 to 12 or jan to dec"},
		{"* * * * jan", `field day-of-week: value "jan"`, "0 to 7 or sun to sat"},
		{"* * * * su", `field day-of-week: value "su"`, "0 to 7 or sun to sat"},
		{"* * * * \u017fun", "field day-of-week: value", "0 to 7 or sun to sat"}, // a long s

		{"*/100 * * * *", `field minute: step "100"`, "1 to 59"},
		{"*/60 * * * *", `field minute: step "60"`, "1 to 59"},
		{"*/0 * * * *", `field minute: step "0"`, "1 to 59"},
		{"*/-1 * * * *", `field minute: step "-1"`, "1 to 59"},
		{"*/+5 * * * *", `field minute: step "+5"`, "1 to 59"},
		{"*/ * * * *", `field minute: step ""`, "1 to 59"},
		{"1-5/2/3 * * * *", `field minute: step "2/3"`, "1 to 59"},
		{"*/99999999999999999999 * * * *", `field minute: step "99999999999999999999"`, "1 to 59"},
		{"* */24 * * *", `field hour: step "24"`, "1 to 23"},
		{"* * */32 * *", `field day-of-month: step "32"`, "1 to 31"},
		{"* * * */13 *", `field month: step "13"`, "1 to 12"},
		{"* * * * */8", `field day-of-week: step "8"`, "1 to 7"},
		{"5/10 * * * *", `field minute: "5/10"`, "a step needs a range or *, as in 5-59/10"},

		{"5-1 * * * *", `field minute: range "5-1"`, "low-high within 0-59"},
		{"* * * dec-jan *", `field month: range "dec-jan"`, "low-high within 1-12"},
		{"* * * * sat-mon", `field day-of-week: range "sat-mon"`, "low-high within 0-7"},
		{"* * * * 6-1", `field day-of-week: range "6-1"`, "low-high within 0-7"},
		{"5-0 * * * *", `field minute: range "5-0"`, "low-high within 0-59"},
		{"1-60 * * * *", `field minute: value "60"`, "0 to 59"},
		{"1-2-3 * * * *", `field minute: value "2-3"`, "0 to 59"},
		{"1- * * * *", `field minute: "1-"`, "a range is low-high, as in 0-59"},
		{"-1 * * * *", `field minute: "-1"`, "a range is low-high, as in 0-59"},
		{"- * * * *", `field minute: "-"`, "a range is low-high, as in 0-59"},
		{"--1 * * * *", `field minute: "--1"`, "a range is low-high, as in 0-59"},
		{"*-5 * * * *", `field minute: value "*"`, "0 to 59"},
		{"*5 * * * *", `field minute: value "*5"`, "0 to 59"},
		{"** * * * *", `field minute: value "**"`, "0 to 59"},
		{", * * * *", `field minute: value ""`, "0 to 59"},
		{"1,,2 * * * *", `field minute: value ""`, "0 to 59"},
		{"1, * * * *", `field minute: value ""`, "0 to 59"},
		{"/5 * * * *", `field minute: value ""`, "0 to 59"},
		{"+5 * * * *", `field minute: value "+5"`, "0 to 59"},
		{"1-+5 * * * *", `field minute: value "+5"`, "0 to 59"},
		{"0x5 * * * *", `field minute: value "0x5"`, "0 to 59"},
		{"1_0 * * * *", `field minute: value "1_0"`, "0 to 59"},
		{"5.0 * * * *", `field minute: value "5.0"`, "0 to 59"},
		{"1e1 * * * *", `field minute: value "1e1"`, "0 to 59"},
		{"99999999999999999999 * * * *", `field minute: value "99999999999999999999"`, "0 to 59"},
		{"18446744073709551621 * * * *", `field minute: value "18446744073709551621"`, "0 to 59"}, // 5 + 2^64
		{"\u0665 * * * *", `field minute: value "٥"`, "0 to 59"},                                  // Arabic 5
		{"\uff15 * * * *", `field minute: value "５"`, "0 to 59"},                                  // full-width 5
		{"5\xff * * * *", `field minute: value "5\xff"`, "0 to 59"},
		{"5\x00 * * * *", `field minute: value "5\x00"`, "0 to 59"},
		{"* * ? * *", `field day-of-month: value "?"`, "1 to 31; write * for any, which is what ? means elsewhere"},
		{"0 0 12 * ?", `field day-of-week: value "?"`, "0 to 7 or sun to sat; write * for any"},
		{"?/5 * * * *", `field minute: value "?"`, "0 to 59; write * for any"},
		{"0 1,? * * *", `field hour: value "?"`, "0 to 23; write * for any"},
		{"* * L * *", `field day-of-month: value "L"`, "1 to 31"},
		{"* * 15W * *", `field day-of-month: value "15W"`, "1 to 31"},
		{"* * * * 5#3", `field day-of-week: value "5#3"`, "0 to 7 or sun to sat"},

		{"0 0 30 2 *", "field day-of-month", "no such day in these months, so the pattern never fires"},
		{"0 0 31 4,6,9,11 *", "field day-of-month", "never fires"},
		{"0 0 30-31 feb *", "field day-of-month", "never fires"},
		{"* * 31 2 */2", "field day-of-month", "never fires"},
	} {
		t.Run(fmt.Sprintf("%.30q", test.pattern), func(t *testing.T) {
			t.Parallel()
			s, err := jobs.ParseCron(test.pattern, nil)
			require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
			require.Nil(t, s)
			require.ErrorContains(t, err, fmt.Sprintf("cron pattern %q", test.pattern))
			require.ErrorContains(t, err, test.field)
			require.ErrorContains(t, err, test.allowed)
		})
	}
}

func TestParseCron_AcceptsADayThatNeverComesIfTheOtherDayFieldMatches(t *testing.T) {
	t.Parallel()
	s := mustParse(t, "0 0 30 2 mon", nil)
	require.Equal(t, []string{"2025-02-03T00:00:00Z", "2025-02-10T00:00:00Z", "2025-02-17T00:00:00Z", "2025-02-24T00:00:00Z"},
		rfc3339(ticksOf(s, at(t, "2025-01-01T00:00:00Z"), at(t, "2026-01-01T00:00:00Z"))))
}

func TestNext_IsInUTC(t *testing.T) {
	t.Parallel()
	berlin := mustZone(t, "Europe/Berlin")
	from := at(t, "2025-01-01T00:00:00.5Z")
	for _, pattern := range []string{"0 3 * * *", "0 * * * *"} {
		s := mustParse(t, pattern, berlin)
		want := s.Next(from)
		require.Equal(t, time.UTC, want.Location())
		for _, zone := range []string{"America/New_York", "Asia/Kolkata", "Pacific/Apia"} {
			require.Equal(t, want, s.Next(from.In(mustZone(t, zone))), "the zone of the argument does not matter")
		}
	}
	require.Equal(t, "2025-01-01T02:00:00Z", mustParse(t, "0 3 * * *", berlin).Next(from).Format(time.RFC3339))
	require.Equal(t, "2025-01-01T03:00:00Z", mustParse(t, "0 3 * * *", nil).Next(from).Format(time.RFC3339), "no zone means UTC")
}

func TestNext_IsAfterItsArgumentToTheNanosecond(t *testing.T) {
	t.Parallel()
	tick := at(t, "2025-01-01T03:00:00Z")
	for _, pattern := range []string{"0 3 * * *", "0 * * * *"} {
		s := mustParse(t, pattern, nil)
		require.Equal(t, tick, s.Next(tick.Add(-1)), pattern)
		require.True(t, s.Next(tick).After(tick), pattern)
		require.True(t, s.Next(tick.Add(1)).After(tick), pattern)
	}
}

// patterns generates cron patterns with valid values. A pattern may never fire.
var patterns = rapid.Custom(func(t *rapid.T) string {
	name := func(t *rapid.T, names string, v, low int) string {
		if v == 7 && low == 0 && names != "" && rapid.Bool().Draw(t, "sunday as 0") {
			v = 0
		}
		if names == "" || v-low >= len(names)/3 || rapid.Bool().Draw(t, "number") {
			return fmt.Sprint(v)
		}
		text := names[3*(v-low) : 3*(v-low)+3]
		if rapid.Bool().Draw(t, "upper") {
			text = strings.ToUpper(text)
		}
		return text
	}
	field := func(low, high int, names string) string {
		parts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			a := rapid.IntRange(low, high).Draw(t, "low")
			b := rapid.IntRange(a, high).Draw(t, "high")
			step := rapid.IntRange(1, min(high, 59)).Draw(t, "step")
			from, to := name(t, names, a, low), name(t, names, b, low)
			switch rapid.IntRange(0, 4).Draw(t, "form") {
			case 0:
				return "*"
			case 1:
				return fmt.Sprintf("*/%d", step)
			case 2:
				return from
			case 3:
				return from + "-" + to
			default:
				return fmt.Sprintf("%s-%s/%d", from, to, step)
			}
		}), 1, 3).Draw(t, "parts")
		return strings.Join(parts, ",")
	}
	return strings.Join([]string{
		field(0, 59, ""), field(0, 23, ""), field(1, 31, ""),
		field(1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"), field(0, 7, "sunmontuewedthufrisat"),
	}, " ")
})

// firing generates cron patterns that fire.
var firing = patterns.Filter(func(pattern string) bool {
	_, err := jobs.ParseCron(pattern, nil)
	return err == nil
})

func TestParseCron_RefusesOnlyPatternsThatNeverFire(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := patterns.Draw(t, "pattern")
		_, err := jobs.ParseCron(pattern, nil)
		days := newRefPattern(pattern)
		days.minute[0], days.hour[0] = true, true
		fires := false
		for day := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2041 && !fires; day = day.AddDate(0, 0, 1) {
			fires = days.matches(day)
		}
		if fires {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
		}
	})
}

// endsOnSunday matches a range that ends on Sunday as 0 or by name.
var endsOnSunday = regexp.MustCompile(`(?i)-(0|sun)`)

// In UTC clocks never change, and robfig/cron is correct. It does not support Sunday as 7 or at the end of a range, and
// treats a day field that starts with a star as restricted if it has a step or a list.
func TestNext_EqualsRobfigCronInUTC(t *testing.T) {
	t.Parallel()
	robfigStar := func(field string) bool {
		for part := range strings.SplitSeq(field, ",") {
			if part == "*" || part == "*/1" {
				return true
			}
		}
		return false
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := firing.Filter(func(pattern string) bool {
			f := strings.Fields(pattern)
			return robfigStar(f[2]) == (f[2][0] == '*') && robfigStar(f[4]) == (f[4][0] == '*') &&
				!strings.Contains(strings.ReplaceAll(f[4], "/7", ""), "7") && !endsOnSunday.MatchString(f[4])
		}).Draw(t, "pattern")
		want, err := robfig.ParseStandard("CRON_TZ=UTC " + pattern)
		require.NoError(t, err)
		s := mustParse(t, pattern, nil)
		tick := time.Unix(rapid.Int64Range(0, 1<<32).Draw(t, "unix"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
		for range 200 {
			next := want.Next(tick)
			if next.IsZero() { // robfig/cron searches only five years
				require.Greater(t, s.Next(tick).Sub(tick), 4*365*24*time.Hour)
				return
			}
			require.Equal(t, next, s.Next(tick))
			tick = next
		}
	})
}

// FuzzParseCron checks that no input causes a panic or a wrong kind of error, and that a pattern that parses can be
// parsed again from its String, with ticks that are in order and equal to the model's.
func FuzzParseCron(f *testing.F) {
	for i, seed := range []string{
		"* * * * *", "0 3 * * *", "30 2 * * *", "0 0 * * *", "59 23 31 12 7", "*/7 */5 */3 */2 */7", "0 0 30 2 *", "0 0 29 2 */7",
		"5-1 * * * *", "0 0 3 * * *", "TZ=0", "CRON_TZ= * * * * *", "@daily", "@hourly", "@", "?", "+5 * * * *", "-1 * * * *",
		"1,2-3,4-59/5 0-23/2,* 1-31,* jan-DEC sun,7", "* * * * \u017fun", "\u0665 * * * *", "99999999999999999999 * * * *",
		"*/20 1-3 8 3,11 *", "0 * 7 11 *", "* 1 * * *", "*,5 *,5 5,* 5,* *,5", "/ - , * /", "1-2-3/4/5 * * * *",
	} {
		f.Add(seed, uint8(i), int64(1_772_900_000+i*86_400))
	}
	zones := []*time.Location{
		time.UTC, ruleZone(f, "rule", "EST5EDT,M3.2.0,M11.1.0"), time.FixedZone("fixed", -16*3600+1800),
	}
	for _, name := range []string{
		"America/New_York", "America/Havana", "America/Santiago", "America/St_Johns", "America/Nuuk", "Australia/Lord_Howe",
		"Antarctica/Casey", "Antarctica/Troll", "Africa/Casablanca", "Africa/Cairo", "Asia/Kathmandu", "Asia/Gaza", "Europe/Dublin",
		"Pacific/Apia",
	} {
		zones = append(zones, mustZone(f, name))
	}
	f.Fuzz(func(t *testing.T, pattern string, zone uint8, unix int64) {
		loc := zones[int(zone)%len(zones)]
		s, err := jobs.ParseCron(pattern, loc)
		if err != nil {
			require.ErrorIs(t, err, jobs.ErrInvalidSchedule)
			require.Nil(t, s)
			return
		}
		again := mustParse(t, s.String(), loc)
		require.Equal(t, s.String(), again.String())

		// Since 1973 all offsets are in whole minutes. The model is too slow for more than a few days.
		const years = 120 * 365 * 24 * 3600
		from := time.Unix(100_000_000+(unix%years+years)%years, unix%1e9)
		tick := from
		for range 10 {
			next := s.Next(tick)
			require.True(t, next.After(tick), "%s after %s", next, tick)
			require.Equal(t, next, again.Next(tick))
			tick = next
		}
		to := from.Add(30 * time.Hour)
		require.Equal(t, rfc3339(newRefPattern(pattern).ticks(loc, from, to)), rfc3339(ticksOf(s, from, to)))
	})
}

func fieldOf(pattern string, i int) string { return strings.Fields(pattern)[i] }
