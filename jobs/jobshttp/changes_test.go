package jobshttp_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

var (
	versionOf = regexp.MustCompile(`data-version="([\w-]{4})"`)
	rowOf     = regexp.MustCompile(`<tr id="job-([^"]+)"`)
)

// versions returns the header that the script sends for a page.
func versions(page string) string {
	var all strings.Builder
	for _, m := range versionOf.FindAllStringSubmatch(page, -1) {
		all.WriteString(m[1])
	}
	return all.String()
}

// listed returns the names of the jobs that a page has rows for.
func listed(page string) (names []string) {
	for _, m := range rowOf.FindAllStringSubmatch(page, -1) {
		names = append(names, m[1])
	}
	return names
}

// newThousand returns a scheduler with a thousand jobs in fifty modules, which have run all day.
func newThousand(now time.Time) *full {
	s := newFake(now)
	s.statuses, s.runs, s.activity, s.incomplete = nil, nil, map[string]jobs.Outcomes{}, true
	for i := range 1000 {
		name := fmt.Sprintf("module-%02d.job-%03d", i/20, i)
		every := time.Duration(i%60+1) * time.Minute
		next := now.Add(every / 2)
		s.statuses = append(s.statuses, jobs.Status{
			Name: name, Schedule: "every " + every.String(), PrevTick: next.Add(-every), PrevState: jobs.StateCompleted,
			LastSuccess: next.Add(-every), NextTick: next, Upcoming: []time.Time{next, next.Add(every), next.Add(2 * every)},
		})
		s.activity[name] = jobs.Outcomes{Completed: 1000 + i, Failed: i % 3}
	}
	return s
}

func TestListPage_LoadsAThousandJobsAndThenOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newThousand(time.Now())
		h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
		size := func(path string, header ...string) int {
			w := send(h, "GET", path, "", append(header, "Accept-Encoding", "gzip")...)
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, "gzip", w.Header().Get("Content-Encoding"))
			return w.Body.Len()
		}
		first := send(h, "GET", "/", "").Body.String()
		require.Len(t, listed(first), 1000)
		loaded := size("/") + size("/assets/style.css") + size("/assets/script.js")
		require.Less(t, loaded, 120_000, "bytes of the first load")

		// Nothing has changed, although each job's last run is longer ago.
		have := versions(first)
		require.Len(t, have, 4000)
		time.Sleep(11 * time.Second) // until every cache has expired
		same := send(h, "GET", "/", "", "Jobs-Have", have).Body.String()
		require.Empty(t, listed(same))
		require.Contains(t, same, "data-part")
		require.Contains(t, same, "All 1,000 jobs are fine")
		require.Less(t, size("/", "Jobs-Have", have), 5_000, "bytes of a refresh")

		// Some jobs have changed.
		s.set(func() {
			s.statuses[3].Running = 1
			s.statuses[700].PausedSince = time.Now()
		})
		time.Sleep(5 * time.Second)
		part := send(h, "GET", "/", "", "Jobs-Have", have).Body.String()
		require.Equal(t, []string{"module-00.job-003", "module-35.job-700"}, listed(part))
		require.Less(t, size("/", "Jobs-Have", have), 6_000, "bytes of a refresh")
		full := send(h, "GET", "/", "").Body.String()
		for _, row := range regexp.MustCompile(`(?s)<tr id="job-.*?</tr>`).FindAllString(part, -1) {
			require.Contains(t, full, row, "a row alone is like the row on the whole page")
		}

		// The list is narrowed, or the header is not of this list.
		require.Len(t, listed(send(h, "GET", "/?q=module-01", "", "Jobs-Have", have).Body.String()), 20)
		for _, header := range []string{have[:3996], have + "AAAA", have[:3999] + "?", strings.Repeat("AAAA", 1000), "x"} {
			page := send(h, "GET", "/", "", "Jobs-Have", header).Body.String()
			require.Contains(t, listed(page), "module-49.job-999")
			require.Equal(t, len(header) == 4000, strings.Contains(page, "data-part"))
		}

		// A job has gone and another has come.
		s.set(func() { s.statuses[5].Name = "module-00.job-0055" })
		time.Sleep(5 * time.Second)
		require.Contains(t, listed(send(h, "GET", "/", "", "Jobs-Have", have).Body.String()), "module-00.job-0055")
	})
}

// Headers of more than 8 KiB are refused by many servers.
func TestListPage_SendsRowsBeyondTheLongestHeaderEachTime(t *testing.T) {
	t.Parallel()
	s := newThousand(time.Now())
	for i := range 1000 {
		st := s.statuses[i]
		st.Name = strings.Replace(st.Name, "module", "others", 1)
		s.statuses = append(s.statuses, st)
	}
	h := jobshttp.New(s, &jobshttp.Options{Authorize: everybody})
	have := versions(send(h, "GET", "/", "").Body.String())
	require.Len(t, have, 8000)
	require.Len(t, listed(send(h, "GET", "/", "", "Jobs-Have", have[:7000]).Body.String()), 250)
}
