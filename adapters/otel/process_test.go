package otel_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/everytick/everytick/adapters/otel"
	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
)

var databases = dbtest.New(func(ctx context.Context, pool *pgxpool.Pool) error { return river.Migrate(ctx, pool, nil) })

// childEnv, if set, makes the test binary a worker on the database at that URL.
const childEnv = "EVERYTICK_OTEL_CHILD"

func TestMain(m *testing.M) {
	if url := os.Getenv(childEnv); url != "" {
		if err := work(url); err != nil {
			slog.Error("child failed", "error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A jsonSpan is a span as the child writes it, one per line.
type jsonSpan struct {
	Name, TraceID, SpanID, ParentSpanID string
	Attributes                          map[string]any
}

// jsonExporter is a [sdktrace.SpanExporter].
type jsonExporter struct{ out *json.Encoder }

func (e jsonExporter) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, span := range spans {
		err := e.out.Encode(jsonSpan{
			span.Name(), span.SpanContext().TraceID().String(), span.SpanContext().SpanID().String(), span.Parent().SpanID().String(),
			attributes(span.Attributes()),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (jsonExporter) Shutdown(context.Context) error { return nil }

// work is the child: it runs jobs and writes its spans to standard output, until standard input is closed, at the
// latest when the test's process ends.
func work(url string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	options, err := otel.Options(&otel.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(jsonExporter{json.NewEncoder(os.Stdout)})),
		Propagator:     propagation.TraceContext{},
	})
	if err != nil {
		return err
	}
	s, err := river.New(pool, &river.Config{Logger: slog.New(slog.DiscardHandler), Defaults: append(options, jobs.RetryDelay(0))})
	if err != nil {
		return err
	}
	err = s.RegisterDelayed("email.welcome", 0, func(_ context.Context, job *jobs.Job) error {
		if job.Attempt == 1 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	stopCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s.Shutdown(stopCtx)
}

// One process triggers jobs in each of the three ways. Another one runs them; the second attempt succeeds.
func TestOptions_TriggerAndRunInAnotherProcessAreOneTrace(t *testing.T) {
	t.Parallel()
	url := databases.URL(t)
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+url)
	child.Stderr = os.Stderr
	leash, err := child.StdinPipe()
	require.NoError(t, err)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()

	tel := newTelemetry(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	defer pool.Close()
	s, err := river.New(pool, &river.Config{TriggerOnly: true, Defaults: tel.options})
	require.NoError(t, err)
	one, err := s.Trigger(t.Context(), "email.welcome", nil)
	require.NoError(t, err)
	many, err := s.TriggerMany(t.Context(), "email.welcome", []any{nil, nil})
	require.NoError(t, err)
	var inTx string
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		inTx, err = s.TriggerTx(t.Context(), tx, "email.welcome", nil)
		return err
	}))

	sent := tel.spans("send email.welcome")
	require.Len(t, sent, 3)
	trigger := map[string]int{one: 0, many[0]: 1, many[1]: 1, inTx: 2} // which span triggered the job
	attempts := map[string][]any{}
	for range 2 * len(trigger) {
		var line string
		select {
		case line = <-lines:
		case <-time.After(time.Minute):
			require.FailNow(t, "the child ran too few jobs", "%v", attempts)
		}
		var run jsonSpan
		require.NoError(t, json.Unmarshal([]byte(line), &run), "%s", line)
		require.Equal(t, "process email.welcome", run.Name)
		id, _ := run.Attributes["messaging.message.id"].(string)
		require.Contains(t, trigger, id)
		parent := sent[trigger[id]].SpanContext
		require.Equal(t, parent.TraceID().String(), run.TraceID)
		require.Equal(t, parent.SpanID().String(), run.ParentSpanID)
		require.NotEqual(t, parent.SpanID().String(), run.SpanID)
		attempts[id] = append(attempts[id], run.Attributes["everytick.job.attempt"])
	}
	for id := range trigger {
		require.Equal(t, []any{1.0, 2.0}, attempts[id], "job %s", id)
	}

	require.NoError(t, leash.Close())
	for line := range lines {
		require.Empty(t, line, "the child wrote an extra span")
	}
	require.NoError(t, child.Wait())
}
