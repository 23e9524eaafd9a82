package cron_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
)

// The tests compare cron schedules with the slow and simple model in this file, which shares no code with them. A
// pattern is five sets, and its ticks are found by checking every minute.

type refPattern struct {
	minute, hour, dom, month, dow [60]bool
	hourStar, domStar, dowStar    bool
}

// newRefPattern parses a pattern that is known to be valid.
func newRefPattern(pattern string) refPattern {
	if long, ok := map[string]string{
		"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
		"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
	}[strings.TrimSpace(pattern)]; ok {
		pattern = long
	}
	f := strings.Fields(strings.ToLower(pattern))
	days := strings.NewReplacer("sun", "0", "mon", "1", "tue", "2", "wed", "3", "thu", "4", "fri", "5", "sat", "6")
	months := strings.NewReplacer("jan", "1", "feb", "2", "mar", "3", "apr", "4", "may", "5", "jun", "6",
		"jul", "7", "aug", "8", "sep", "9", "oct", "10", "nov", "11", "dec", "12")
	p := refPattern{
		minute: refSet(f[0], 0, 59), hour: refSet(f[1], 0, 23), dom: refSet(f[2], 1, 31),
		month: refSet(months.Replace(f[3]), 1, 12), dow: refSet(days.Replace(f[4]), 0, 7),
		hourStar: f[1][0] == '*', domStar: f[2][0] == '*', dowStar: f[4][0] == '*',
	}
	if p.dow[7] {
		p.dow[0] = true
	}
	return p
}

func refSet(text string, low, high int) (set [60]bool) {
	for part := range strings.SplitSeq(text, ",") {
		span, step := part, 1
		if i := strings.IndexByte(part, '/'); i >= 0 {
			span, step = part[:i], refInt(part[i+1:])
		}
		from, to := low, high
		if i := strings.IndexByte(span, '-'); i >= 0 {
			from, to = refInt(span[:i]), refInt(span[i+1:])
			if to == 0 && from > 0 { // of days of the week: Sunday ends a range as 7
				to = 7
			}
		} else if span != "*" {
			from, to = refInt(span), refInt(span)
		}
		for v := from; v <= to; v++ {
			if (v-from)%step == 0 {
				set[v] = true
			}
		}
	}
	return set
}

func refInt(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

// matches reports whether the civil time, represented in UTC, matches the pattern.
func (p refPattern) matches(civil time.Time) bool {
	hour, minute, second := civil.Clock()
	_, month, day := civil.Date()
	if second != 0 || !p.minute[minute] || !p.hour[hour] || !p.month[month] {
		return false
	}
	dom, dow := p.dom[day], p.dow[civil.Weekday()]
	if p.domStar || p.dowStar {
		return dom && dow
	}
	return dom || dow
}

// ticks returns the ticks t with after < t <= to by checking every minute. If the hour starts with a star, a tick is
// whenever the clock shows a match. Otherwise it is when the clock first reaches or passes a match.
func (p refPattern) ticks(loc *time.Location, after, to time.Time) []time.Time {
	var found []time.Time
	t := after.Add(-5 * time.Hour).Truncate(time.Minute) // since 1970 no clock has been set back by more
	reached := refWall(t, loc)
	for t = t.Add(time.Minute); !t.After(to); t = t.Add(time.Minute) {
		shown, tick := refWall(t, loc), false
		if p.hourStar {
			tick = t.After(after) && p.matches(shown)
		} else {
			for ; reached.Before(shown); reached = reached.Add(time.Minute) {
				tick = tick || t.After(after) && p.matches(reached.Add(time.Minute))
			}
		}
		if tick {
			found = append(found, t.UTC())
		}
	}
	return found
}

// realTicks returns the ticks t with after < t <= to of a pattern that follows elapsed time, which is whenever the
// clock shows a match. Zones may have offsets that are not in whole minutes.
func (p refPattern) realTicks(loc *time.Location, after, to time.Time) (found []time.Time) {
	for t := after.Add(time.Second).Truncate(time.Second); !t.After(to); t = t.Add(time.Second) {
		shown := refWall(t, loc)
		if s := shown.Second(); s != 0 && s < 59 && refWall(t.Add(time.Duration(59-s)*time.Second), loc).Second() == 59 {
			t = t.Add(time.Duration(58-s) * time.Second) // the next minute starts after 59
		} else if p.matches(shown) {
			found = append(found, t.UTC())
		}
	}
	return found
}

// refWall returns the civil time in loc at t, represented in UTC.
func refWall(t time.Time, loc *time.Location) time.Time {
	_, offset := t.In(loc).Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// ticksOf returns the ticks t of s with after < t <= to.
func ticksOf(s jobs.Schedule, after, to time.Time) []time.Time {
	var found []time.Time
	for t := s.Next(after); !t.IsZero() && !t.After(to); t = s.Next(t) {
		found = append(found, t)
	}
	return found
}

func mustParse(t require.TestingT, pattern string, loc *time.Location) jobs.Schedule {
	s, err := jobs.ParseCron(pattern, loc)
	require.NoError(t, err)
	return s
}

func mustZone(t require.TestingT, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	require.NoError(t, err)
	return loc
}

func at(t require.TestingT, rfc3339 string) time.Time {
	v, err := time.Parse(time.RFC3339, rfc3339)
	require.NoError(t, err)
	return v.UTC()
}

func rfc3339(ticks []time.Time) []string {
	var text []string
	for _, t := range ticks {
		text = append(text, t.Format(time.RFC3339))
	}
	return text
}

// ruleZone returns a zone defined only by a POSIX rule, such as "EST5EDT,M3.2.0,M11.1.0". The zone files of many
// systems define the present this way, whereas those that come with Go list every change until 2037.
func ruleZone(t require.TestingT, name, rule string) *time.Location {
	var b bytes.Buffer
	header := func(types, chars uint32) {
		b.WriteString("TZif2" + strings.Repeat("\x00", 15))
		for _, count := range []uint32{0, 0, 0, 0, types, chars} {
			_ = binary.Write(&b, binary.BigEndian, count)
		}
	}
	header(0, 0)
	header(1, 4)
	b.WriteString("\x00\x00\x00\x00\x00\x00STD\x00\n" + rule + "\n")
	loc, err := time.LoadLocationFromTZData(name, b.Bytes())
	require.NoError(t, err)
	return loc
}

// zoneData returns the files of the tz database by name, either those that come with Go or the system's.
var zoneData = sync.OnceValues(func() (map[string][]byte, error) {
	files := map[string][]byte{}
	add := func(name string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err == nil && bytes.HasPrefix(data, []byte("TZif")) {
			files[name] = data
		}
		return err
	}
	goroot, _ := exec.Command("go", "env", "GOROOT").Output() // if it fails, the system's files are used
	if archive, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(goroot)), "lib", "time", "zoneinfo.zip")); err == nil {
		defer archive.Close()
		for _, f := range archive.File {
			r, err := f.Open()
			if err != nil {
				return nil, err
			}
			if err := add(f.Name, r); err != nil {
				return nil, err
			}
		}
		return files, nil
	}
	const dir = "/usr/share/zoneinfo"
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "right" || entry.Name() == "posix"): // copies, some with leap seconds
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return add(strings.TrimPrefix(path, dir+"/"), bytes.NewReader(data))
	})
	return files, err
})

// A clock is the history of a zone's offset over the years that the tests cover.
type clock struct {
	loc     *time.Location
	changes []change // the first one is the start
}

type change struct {
	at     time.Time // the first instant with the new offset
	offset time.Duration
}

var everyFlag = flag.Bool("every", false, "cover every clock change of every zone from 2005 to 2036")

// clockYears returns the time that the tests cover.
func clockYears() (from, to time.Time) {
	if *everyFlag {
		return time.Date(2005, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2037, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(2019, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2031, 2, 1, 0, 0, 0, 0, time.UTC)
}

// clocks returns every zone of the tz database, and a zone for every rule with which one of them ends. Zones that do
// not differ in the years of clockYears are returned once.
var clocks = sync.OnceValues(func() ([]clock, error) {
	files, err := zoneData()
	if err != nil {
		return nil, err
	}
	if len(files) < 400 {
		return nil, fmt.Errorf("only %d zones in the tz database", len(files))
	}
	var all []clock
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if seen[string(files[name])] {
			continue // a link
		}
		seen[string(files[name])] = true
		loc, err := time.LoadLocationFromTZData(name, files[name])
		if err != nil {
			return nil, err
		}
		zones := []*time.Location{loc}
		lines := bytes.Split(files[name], []byte("\n"))
		if rule := string(lines[len(lines)-2]); !seen["rule "+rule] {
			seen["rule "+rule] = true
			var failed refuser
			zones = append(zones, ruleZone(&failed, "rule "+rule, rule))
			if failed != "" {
				return nil, fmt.Errorf("%s", string(failed))
			}
		}
		for _, loc := range zones {
			c := newClock(loc)
			key := fmt.Sprint(strings.HasPrefix(loc.String(), "rule "), c.changes)
			if !seen[key] {
				seen[key] = true
				all = append(all, c)
			}
		}
	}
	return all, nil
})

// refuser records the message of a failed requirement.
type refuser string

func (r *refuser) Errorf(format string, args ...any) { *r = refuser(fmt.Sprintf(format, args...)) }
func (r *refuser) FailNow()                          {}

func newClock(loc *time.Location) clock {
	from, to := clockYears()
	c := clock{loc, []change{{from, 0}}}
	for _, at := range changesOf(loc, from, to) {
		c.changes = append(c.changes, change{at, 0})
	}
	for i, ch := range c.changes {
		_, seconds := ch.at.In(loc).Zone()
		c.changes[i].offset = time.Duration(seconds) * time.Second
	}
	return c
}

// changesOf returns the first instants with a new offset, between from and to.
func changesOf(loc *time.Location, from, to time.Time) (found []time.Time) {
	offsetAt := func(t time.Time) time.Duration {
		_, seconds := t.In(loc).Zone()
		return time.Duration(seconds) * time.Second
	}
	const step = 4 * 24 * time.Hour // shorter than any summer time
	for t := from; t.Before(to); t = t.Add(step) {
		before, after := offsetAt(t), offsetAt(t.Add(step))
		if before == after {
			continue
		}
		low, high := t, t.Add(step) // bisect to the second
		for high.Sub(low) > time.Second {
			if middle := low.Add(high.Sub(low) / 2).Truncate(time.Second); offsetAt(middle) == before {
				low = middle
			} else {
				high = middle
			}
		}
		found = append(found, high)
	}
	return found
}

// first returns when the clock first shows civil, or the instant at which it skips civil.
func (c clock) first(civil time.Time) (instant time.Time, shown bool) {
	for i, ch := range c.changes {
		instant = civil.Add(-ch.offset)
		if i > 0 && instant.Before(ch.at) {
			return ch.at, false
		}
		if i+1 == len(c.changes) || instant.Before(c.changes[i+1].at) {
			return instant, true
		}
	}
	panic("not reached")
}
