package fold_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/fold"
)

func TestKindOf(t *testing.T) {
	t.Parallel()
	const refused, reset = "failed to connect to `host=db`: dial error", "write: broken pipe"
	const starting = "FATAL: the database system is starting up (SQLSTATE 57P03)"
	const denied, full = "ERROR: permission denied for table river_job (SQLSTATE 42501)", "ERROR: disk full (SQLSTATE 53100)"
	for name, row := range map[string]struct {
		level slog.Level
		attrs []any
		cause string
		ok    bool
	}{
		"no connection":              {slog.LevelError, []any{"err", refused}, "", true},
		"a broken connection":        {slog.LevelError, []any{"error", reset, "queue", "default"}, "", true},
		"an error value":             {slog.LevelError, []any{"err", errors.New(starting)}, "", true},
		"a refusal":                  {slog.LevelError, []any{"err", denied}, "42501", true},
		"another":                    {slog.LevelError, []any{"error", full}, "53100", true},
		"no error at all":            {slog.LevelError, nil, "", true},
		"a warning":                  {slog.LevelWarn, []any{"err", refused}, "", true},
		"information":                {slog.LevelInfo, []any{"err", refused}, "", false},
		"about a job":                {slog.LevelError, []any{"job_id", 17, "err", refused}, "", false},
		"about jobs of a name":       {slog.LevelError, []any{"job", "a.job", "err", refused}, "", false},
		"about a job, in some order": {slog.LevelError, []any{"error", full, "job_id", 17}, "53100", false},
	} {
		r := slog.NewRecord(time.Time{}, row.level, "producer: Error fetching jobs", 0)
		r.Add(row.attrs...)
		kind, ok := fold.KindOf(r)
		require.Equal(t, row.ok, ok, name)
		require.Equal(t, fold.Kind{Level: row.level, Message: "producer: Error fetching jobs", Cause: row.cause}, kind, name)
	}
}

func TestErrors_PassOneLineAMinute(t *testing.T) {
	t.Parallel()
	start := time.Now()
	after := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	fetch, elect := fold.Kind{Message: "fetch"}, fold.Kind{Message: "elect"}
	denied := fold.Kind{Message: "fetch", Cause: "42501"}
	e := fold.NewErrors()
	for _, step := range []struct {
		kind    fold.Kind
		at      float64
		pass    bool
		leftOut int
	}{
		{fetch, 0, true, 0},
		{fetch, 0.5, false, 0},
		{elect, 1, true, 0},  // another message
		{denied, 1, true, 0}, // another cause
		{denied, 1.5, false, 0},
		{fetch, 59.9, false, 0},
		{fetch, 60, true, 2},
		{fetch, 60.5, false, 0},
		{elect, 64, true, 0},
		{fetch, 130, true, 1},
		{fetch, 200, true, 0},
	} {
		pass, leftOut := e.Observe(step.kind, after(step.at))
		require.Equal(t, step.pass, pass, "%v at %v", step.kind, step.at)
		require.Equal(t, step.leftOut, leftOut, "%v at %v", step.kind, step.at)
	}
	require.Equal(t, 3, e.Len())
	require.Empty(t, e.Past(after(91), false), "each may still repeat")
	require.Equal(t, []fold.Past{
		{elect, 2, after(1), after(64)}, {denied, 2, after(1), after(1.5)},
	}, e.Past(after(154), false))
	require.Equal(t, 1, e.Len())
	pass, leftOut := e.Observe(denied, after(155))
	require.True(t, pass, "it began anew")
	require.Zero(t, leftOut)
	require.Equal(t, []fold.Past{{fetch, 7, after(0), after(200)}}, e.Past(after(156), true), "one that did not repeat needs no line")
	require.Zero(t, e.Len())
}

// output collects a log. A timer writes to it too.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements [io.Writer].
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// lines returns the lines since the last call, without their times.
func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []string
	for line := range strings.Lines(o.text.String()) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		all = append(all, rest)
	}
	o.text.Reset()
	return all
}

func TestHandler_LeavesOutWhatRepeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := &output{}
		h := fold.New(slog.NewTextHandler(out, nil))
		log := slog.New(h).With("client", "x")
		ctx := context.Background()
		fetch := func() { log.ErrorContext(ctx, "producer: Error fetching jobs", "err", "dial error") }
		for range 240 { // an outage of two minutes
			fetch()
			time.Sleep(500 * time.Millisecond)
		}
		for range 2 {
			log.ErrorContext(ctx, "JobExecutor: Error snoozing job", "job_id", 7)
			log.InfoContext(ctx, "Producer job counts")
			log.ErrorContext(ctx, "BatchCompleter: Too many errors; giving up")
		}
		require.Equal(t, []string{
			`level=ERROR msg="producer: Error fetching jobs" client=x err="dial error"`,
			`level=ERROR msg="producer: Error fetching jobs" client=x err="dial error" left_out=119`,
			`level=ERROR msg="JobExecutor: Error snoozing job" client=x job_id=7`,
			`level=INFO msg="Producer job counts" client=x`,
			`level=ERROR msg="BatchCompleter: Too many errors; giving up" client=x ` +
				`meaning="the results are kept, and sent again until they are stored or the process ends"`,
			`level=ERROR msg="JobExecutor: Error snoozing job" client=x job_id=7`,
			`level=INFO msg="Producer job counts" client=x`,
		}, out.lines())
		time.Sleep(fold.Quiet + time.Minute)
		over := out.lines()
		require.Len(t, over, 2)
		require.Regexp(t, `^level=WARN msg="an error is over" message="producer: Error fetching jobs" times=240 first=\S+ last=\S+$`, over[0])
		require.Contains(t, over[1], `message="BatchCompleter: Too many errors; giving up" times=2`)

		fetch()
		time.Sleep(fold.Quiet + time.Minute)
		require.Len(t, out.lines(), 1, "an error that did not repeat")

		fetch()
		fetch()
		h.Close()
		fetch()
		fetch()
		time.Sleep(time.Hour)
		after := out.lines()
		require.Len(t, after, 4)
		require.Contains(t, after[1], `msg="an error repeated until the shutdown" message="producer: Error fetching jobs" times=2`)
	})
}
