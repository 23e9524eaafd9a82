package otel_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/everytick/everytick/adapters/memory"
	"github.com/everytick/everytick/adapters/otel"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

// telemetry records spans and metrics.
type telemetry struct {
	exporter *tracetest.InMemoryExporter
	reader   *sdkmetric.ManualReader
	tracer   trace.Tracer // the application's own
	options  []jobs.Option
}

func newTelemetry(t testing.TB, opts ...sdktrace.TracerProviderOption) *telemetry {
	t.Helper()
	tel := &telemetry{exporter: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	tracers := sdktrace.NewTracerProvider(append(opts, sdktrace.WithSyncer(tel.exporter))...)
	tel.tracer = tracers.Tracer("app")
	var err error
	tel.options, err = otel.Options(&otel.Config{
		TracerProvider: tracers,
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(tel.reader)),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	})
	require.NoError(t, err)
	return tel
}

// scheduler returns a scheduler that is not started. Its jobs are first retried after one second.
func (tel *telemetry) scheduler(t testing.TB, defaults ...jobs.Option) *memory.Scheduler {
	t.Helper()
	s, err := memory.New(&memory.Config{Defaults: slices.Concat(tel.options, []jobs.Option{jobs.RetryDelay(time.Second)}, defaults)})
	require.NoError(t, err)
	return s
}

func start(t testing.TB, s jobs.Scheduler) {
	t.Helper()
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
}

// spans returns the ended spans with this name, in order.
func (tel *telemetry) spans(name string) (found []tracetest.SpanStub) {
	for _, span := range tel.exporter.GetSpans() {
		if span.Name == name {
			found = append(found, span)
		}
	}
	return found
}

// attributes returns attributes by key.
func attributes(kvs []attribute.KeyValue) map[string]any {
	m := make(map[string]any, len(kvs))
	for _, kv := range kvs {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

// metric returns the data and the unit of a metric.
func (tel *telemetry) metric(t testing.TB, name string) (metricdata.Aggregation, string) {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, tel.reader.Collect(context.Background(), &all))
	for _, scope := range all.ScopeMetrics {
		require.Equal(t, "github.com/everytick/everytick/adapters/otel", scope.Scope.Name)
		for _, m := range scope.Metrics {
			if m.Name == name {
				return m.Data, m.Unit
			}
		}
	}
	require.FailNow(t, "no such metric", name)
	return nil, ""
}

// count sums the data points of a metric that have the attributes.
func (tel *telemetry) count(t testing.TB, name string, want ...attribute.KeyValue) (n int) {
	t.Helper()
	has := func(set attribute.Set) bool {
		return !slices.ContainsFunc(want, func(kv attribute.KeyValue) bool {
			v, ok := set.Value(kv.Key)
			return !ok || v != kv.Value
		})
	}
	data, _ := tel.metric(t, name)
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			if has(p.Attributes) {
				n += int(p.Value)
			}
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			if has(p.Attributes) {
				n += int(p.Count)
			}
		}
	}
	return n
}

func TestOptions_TriggerAndItsAttemptsAreOneTrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		s := tel.scheduler(t)
		require.NoError(t, s.RegisterDelayed("email.welcome", time.Minute, func(ctx context.Context, job *jobs.Job) error {
			_, span := tel.tracer.Start(ctx, "in the handler")
			defer span.End()
			if job.Attempt < 3 {
				return errors.New("not yet")
			}
			return nil
		}))
		start(t, s)

		ctx, request := tel.tracer.Start(t.Context(), "GET /signup")
		id, err := s.Trigger(ctx, "email.welcome", map[string]string{"to": "ann@example.com"})
		require.NoError(t, err)
		request.End()
		time.Sleep(time.Hour)
		synctest.Wait()

		sent := tel.spans("send email.welcome")
		require.Len(t, sent, 1)
		require.Equal(t, trace.SpanKindProducer, sent[0].SpanKind)
		require.Equal(t, request.SpanContext().SpanID(), sent[0].Parent.SpanID())
		require.Equal(t, map[string]any{
			"messaging.system":           "everytick",
			"messaging.operation.name":   "send",
			"messaging.operation.type":   "send",
			"messaging.destination.name": "email.welcome",
			"messaging.message.id":       id,
		}, attributes(sent[0].Attributes))

		runs := tel.spans("process email.welcome")
		require.Len(t, runs, 3)
		for i, run := range runs {
			require.Equal(t, request.SpanContext().TraceID(), run.SpanContext.TraceID())
			require.Equal(t, sent[0].SpanContext.SpanID(), run.Parent.SpanID())
			require.True(t, run.Parent.IsRemote())
			require.Len(t, run.Links, 1, "the creation context")
			require.Equal(t, sent[0].SpanContext.SpanID(), run.Links[0].SpanContext.SpanID())
			require.Equal(t, trace.SpanKindConsumer, run.SpanKind)
			want := map[string]any{
				"messaging.system":           "everytick",
				"messaging.operation.name":   "process",
				"messaging.operation.type":   "process",
				"messaging.destination.name": "email.welcome",
				"messaging.message.id":       id,
				"everytick.job.attempt":      int64(i + 1),
				"everytick.job.max_attempts": int64(3),
				"everytick.job.outcome":      "completed",
			}
			if i < 2 {
				want["everytick.job.outcome"], want["error.type"] = "retried", "*errors.errorString"
				require.Equal(t, sdktrace.Status{Code: codes.Error, Description: "not yet"}, run.Status)
			} else {
				require.Zero(t, run.Status)
			}
			require.Equal(t, want, attributes(run.Attributes))
		}
		inner := tel.spans("in the handler")
		require.Len(t, inner, 3)
		require.Equal(t, runs[2].SpanContext.SpanID(), inner[2].Parent.SpanID())
	})
}

func TestOptions_TriggerManyIsOneSpan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		s := tel.scheduler(t)
		require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error { return nil }))
		start(t, s)
		_, err := s.TriggerMany(t.Context(), "email.welcome", []any{nil, nil, nil})
		require.NoError(t, err)
		_, err = s.TriggerMany(t.Context(), "email.welcome", nil)
		require.NoError(t, err)
		synctest.Wait()

		sent := tel.spans("send email.welcome")
		require.Len(t, sent, 1)
		require.EqualValues(t, 3, attributes(sent[0].Attributes)["messaging.batch.message_count"])
		require.NotContains(t, attributes(sent[0].Attributes), "messaging.message.id")
		runs := tel.spans("process email.welcome")
		require.Len(t, runs, 3)
		for _, run := range runs {
			require.Equal(t, sent[0].SpanContext.SpanID(), run.Parent.SpanID())
		}
		require.Equal(t, 3, tel.count(t, "messaging.client.sent.messages"))
		require.Equal(t, 1, tel.count(t, "messaging.client.operation.duration"))
		require.Equal(t, 3, tel.count(t, "messaging.client.consumed.messages"))
	})
}

func TestOptions_TickStartsATrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		s := tel.scheduler(t)
		require.NoError(t, s.RegisterInterval("audit.sync", time.Minute, func(context.Context, *jobs.Job) error { return nil }))
		// The application traces its startup; memory passes that context to the jobs.
		ctx, startup := tel.tracer.Start(t.Context(), "startup")
		require.NoError(t, s.Start(ctx))
		startup.End()
		time.Sleep(2 * time.Minute)
		require.NoError(t, s.Shutdown(t.Context()))

		runs := tel.spans("process audit.sync")
		require.Len(t, runs, 2)
		require.NotEqual(t, runs[0].SpanContext.TraceID(), runs[1].SpanContext.TraceID())
		for _, run := range runs {
			require.False(t, run.Parent.IsValid())
			require.Empty(t, run.Links)
			require.NotEqual(t, startup.SpanContext().TraceID(), run.SpanContext.TraceID())
		}
		require.Equal(t, "2000-01-01T00:02:00Z", attributes(runs[1].Attributes)["everytick.job.tick"])
		require.NotContains(t, attributes(runs[1].Attributes), "everytick.job.missed")
		require.Equal(t, 2, tel.count(t, "everytick.tick.lateness", attribute.String("messaging.destination.name", "audit.sync")))

		time.Sleep(150 * time.Second)
		require.NoError(t, s.Start(ctx))
		synctest.Wait()
		require.NoError(t, s.Shutdown(t.Context()))
		late := attributes(tel.spans("process audit.sync")[2].Attributes)
		require.Equal(t, []any{"2000-01-01T00:04:00Z", int64(1)}, []any{late["everytick.job.tick"], late["everytick.job.missed"]})
	})
}

func TestOptions_LatenessCountsFirstAttemptsOfTicks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		s := tel.scheduler(t, jobs.Concurrency(1))
		require.NoError(t, s.RegisterInterval("audit.sync", time.Hour, func(_ context.Context, job *jobs.Job) error {
			if job.Tick.IsZero() {
				time.Sleep(3 * time.Second) // delays the tick, because there is one worker
				return nil
			}
			return errors.New("fails")
		}))
		start(t, s)
		time.Sleep(time.Hour - time.Second)
		_, err := s.Trigger(t.Context(), "audit.sync", nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)

		data, unit := tel.metric(t, "everytick.tick.lateness")
		require.Equal(t, "s", unit)
		points := data.(metricdata.Histogram[float64]).DataPoints
		require.Len(t, points, 1)
		require.EqualValues(t, 1, points[0].Count)
		require.InDelta(t, 2, points[0].Sum, 0.001)
		require.Equal(t, 4, tel.count(t, "messaging.client.consumed.messages"))
	})
}

func TestOptions_RunIsLinkedToTheSpanAroundIt(t *testing.T) {
	t.Parallel()
	tel := newTelemetry(t)
	reg, err := provider.NewRegistry(tel.options...)
	require.NoError(t, err)
	require.NoError(t, reg.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error { return nil }))
	d, err := reg.Job("email.welcome")
	require.NoError(t, err)
	ctx, around := tel.tracer.Start(t.Context(), "around")
	require.NoError(t, d.Run(ctx, &jobs.Job{ID: "1", Name: d.Name, Attempt: 1, MaxAttempts: 1}, discard))
	around.End()
	run := tel.spans("process email.welcome")[0]
	require.NotEqual(t, around.SpanContext().TraceID(), run.SpanContext.TraceID())
	require.Len(t, run.Links, 1)
	require.Equal(t, around.SpanContext().SpanID(), run.Links[0].SpanContext.SpanID())
}

func TestOptions_RunsDoNotHaveTheBaggageOfStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		member, err := baggage.NewMember("start", "1")
		require.NoError(t, err)
		ofStart, err := baggage.New(member)
		require.NoError(t, err)
		var got []string
		s := newTelemetry(t).scheduler(t)
		require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(ctx context.Context, _ *jobs.Job) error {
			got = append(got, baggage.FromContext(ctx).String())
			return nil
		}))
		require.NoError(t, s.Start(baggage.ContextWithBaggage(t.Context(), ofStart)))
		t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
		_, err = s.Trigger(t.Context(), "email.welcome", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []string{""}, got)
	})
}

type ownError struct{}

func (*ownError) Error() string { return "own" }

func TestOptions_Failures(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		handler                 jobs.Handler
		errorType, text, result string
		attempts                int
	}{
		"a plain error":  {func(context.Context, *jobs.Job) error { return errors.New("no luck") }, "*errors.errorString", "no luck", "failed", 3},
		"wrapped":        {func(context.Context, *jobs.Job) error { return fmt.Errorf("x: %w", &ownError{}) }, "*otel_test.ownError", "x: own", "failed", 3},
		"permanent":      {func(context.Context, *jobs.Job) error { return jobs.Permanent(&ownError{}) }, "*otel_test.ownError", "own", "failed", 1},
		"both":           {func(context.Context, *jobs.Job) error { return fmt.Errorf("x: %w", jobs.Permanent(&ownError{})) }, "*otel_test.ownError", "x: own", "failed", 1},
		"retry after":    {func(context.Context, *jobs.Job) error { return jobs.RetryAfter(0, &ownError{}) }, "*otel_test.ownError", "own (retry after 0s)", "failed", 3},
		"redacted":       {func(context.Context, *jobs.Job) error { return errors.New("a secret") }, "*errors.errorString", "a ***", "failed", 3},
		"a panic":        {func(context.Context, *jobs.Job) error { panic("a secret") }, "panic", "panic: a ***", "failed", 3},
		"data":           {func(_ context.Context, job *jobs.Job) error { return job.Decode(new(int)) }, "*json.UnmarshalTypeError", "", "failed", 1},
		"a timeout":      {func(ctx context.Context, _ *jobs.Job) error { <-ctx.Done(); return ctx.Err() }, "timeout", "context deadline exceeded", "failed", 3},
		"goexit":         {func(context.Context, *jobs.Job) error { runtime.Goexit(); return nil }, "panic", "", "failed", 3},
		"its own cancel": {func(context.Context, *jobs.Job) error { return context.Canceled }, "canceled", "context canceled", "failed", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tel := newTelemetry(t)
				s := tel.scheduler(t, jobs.Timeout(time.Second), jobs.Redact(func(text string) string {
					if text == "a secret" {
						return "a ***"
					}
					return text
				}))
				require.NoError(t, s.RegisterDelayed("email.welcome", 0, row.handler))
				start(t, s)
				_, err := s.Trigger(t.Context(), "email.welcome", nil)
				require.NoError(t, err)
				time.Sleep(time.Hour)

				runs := tel.spans("process email.welcome")
				require.Len(t, runs, row.attempts)
				for i, run := range runs {
					outcome := "retried"
					if i == row.attempts-1 {
						outcome = row.result
					}
					require.Equal(t, codes.Error, run.Status.Code)
					if row.text != "" {
						require.Equal(t, row.text, run.Status.Description)
					}
					require.Empty(t, run.Events)
					require.Equal(t, row.errorType, attributes(run.Attributes)["error.type"])
					require.Equal(t, outcome, attributes(run.Attributes)["everytick.job.outcome"])
				}
				kind := attribute.String("error.type", row.errorType)
				require.Equal(t, row.attempts, tel.count(t, "messaging.client.consumed.messages", kind))
				require.Equal(t, 1, tel.count(t, "messaging.process.duration", kind, attribute.String("everytick.job.outcome", row.result)))
				require.Equal(t, row.attempts-1, tel.count(t, "messaging.process.duration", kind, attribute.String("everytick.job.outcome", "retried")))
			})
		})
	}
}

func TestOptions_RunEndedByShutdownIsInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		s := tel.scheduler(t, jobs.MaxRetries(0))
		require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(ctx context.Context, _ *jobs.Job) error {
			<-ctx.Done()
			return ctx.Err()
		}))
		start(t, s)
		_, err := s.Trigger(t.Context(), "email.welcome", nil)
		require.NoError(t, err)
		synctest.Wait()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, s.Shutdown(ended), context.Canceled)
		run := tel.spans("process email.welcome")[0]
		require.Equal(t, "interrupted", attributes(run.Attributes)["everytick.job.outcome"])
	})
}

func TestOptions_PanicInOtherMiddlewareEndsTheSpan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		redact := jobs.Redact(func(text string) string { return strings.ReplaceAll(text, "secret", "***") })
		s := tel.scheduler(t, jobs.MaxRetries(0), redact, jobs.Use(func(jobs.Handler) jobs.Handler {
			return func(context.Context, *jobs.Job) error { panic("a secret") }
		}))
		require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error { return nil }))
		start(t, s)
		_, err := s.Trigger(t.Context(), "email.welcome", nil)
		require.NoError(t, err)
		synctest.Wait()
		runs := tel.spans("process email.welcome")
		require.Len(t, runs, 1)
		require.Equal(t, "panic", attributes(runs[0].Attributes)["error.type"])
		require.Equal(t, "panic: a ***", runs[0].Status.Description)
		require.Equal(t, 1, tel.count(t, "messaging.client.consumed.messages", attribute.String("error.type", "panic")))
	})
}

func TestOptions_FailedTriggerHasErrorStatus(t *testing.T) {
	t.Parallel()
	tel := newTelemetry(t)
	s := tel.scheduler(t, jobs.UseTrigger(func(jobs.Enqueue) jobs.Enqueue {
		return func(context.Context, []*jobs.Request) error { return &ownError{} }
	}))
	require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error { return nil }))
	_, err := s.TriggerMany(t.Context(), "email.welcome", []any{nil, nil})
	require.Error(t, err)
	sent := tel.spans("send email.welcome")
	require.Len(t, sent, 1)
	require.Equal(t, codes.Error, sent[0].Status.Code)
	require.Equal(t, "*otel_test.ownError", attributes(sent[0].Attributes)["error.type"])
	require.Equal(t, 2, tel.count(t, "messaging.client.sent.messages", attribute.String("error.type", "*otel_test.ownError")))
}

func TestOptions_FailedTriggerHasNoMessageID(t *testing.T) {
	t.Parallel()
	tel := newTelemetry(t)
	s := tel.scheduler(t, jobs.UseTrigger(func(jobs.Enqueue) jobs.Enqueue {
		return func(context.Context, []*jobs.Request) error { return &ownError{} }
	}))
	require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error { return nil }))
	_, err := s.Trigger(t.Context(), "email.welcome", nil)
	require.Error(t, err)
	sent := tel.spans("send email.welcome")
	require.Len(t, sent, 1)
	require.NotContains(t, attributes(sent[0].Attributes), "messaging.message.id")
}

func TestOptions_KeepOtherMetadata(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		tenant := func(next jobs.Enqueue) jobs.Enqueue {
			return func(ctx context.Context, reqs []*jobs.Request) error {
				for _, req := range reqs {
					req.Metadata = map[string]string{"tenant": "t1"}
				}
				return next(ctx, reqs)
			}
		}
		var got map[string]string
		s, err := memory.New(&memory.Config{Defaults: slices.Concat([]jobs.Option{jobs.UseTrigger(tenant)}, tel.options)})
		require.NoError(t, err)
		require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(_ context.Context, job *jobs.Job) error {
			got = job.Metadata
			return nil
		}))
		start(t, s)
		_, err = s.Trigger(t.Context(), "email.welcome", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, "t1", got["tenant"])
		require.Contains(t, got["traceparent"], tel.spans("send email.welcome")[0].SpanContext.TraceID().String())
	})
}

// Names, units and buckets are those of the conventions, and all attributes have a bounded set of values.
func TestOptions_MetricsFollowTheConventions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry(t)
		s := tel.scheduler(t)
		fail := func(context.Context, *jobs.Job) error { return errors.New("fails") }
		require.NoError(t, s.RegisterInterval("audit.sync", time.Minute, fail))
		start(t, s)
		_, err := s.Trigger(t.Context(), "audit.sync", map[string]string{"to": "ann@example.com"})
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)

		shared := []string{"messaging.destination.name", "messaging.operation.name", "messaging.operation.type", "messaging.system"}
		failed := append([]string{"error.type"}, shared...)
		advised := []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
		for name, want := range map[string]struct {
			unit    string
			buckets []float64
			keys    []string
		}{
			"messaging.client.sent.messages":      {"{message}", nil, shared},
			"messaging.client.operation.duration": {"s", advised, shared},
			"messaging.client.consumed.messages":  {"{message}", nil, failed},
			"messaging.process.duration":          {"s", advised, append([]string{"everytick.job.outcome"}, failed...)},
			"everytick.tick.lateness":             {"s", []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600}, shared},
		} {
			data, unit := tel.metric(t, name)
			require.Equal(t, want.unit, unit, name)
			var sets []attribute.Set
			switch data := data.(type) {
			case metricdata.Sum[int64]:
				require.True(t, data.IsMonotonic)
				for _, p := range data.DataPoints {
					sets = append(sets, p.Attributes)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					sets = append(sets, p.Attributes)
					require.Equal(t, want.buckets, p.Bounds, name)
				}
			}
			require.NotEmpty(t, sets, name)
			for _, set := range sets {
				var keys []string
				for _, kv := range set.ToSlice() {
					keys = append(keys, string(kv.Key))
				}
				require.ElementsMatch(t, want.keys, keys, name)
			}
		}
		for _, span := range tel.exporter.GetSpans() {
			require.NotContains(t, fmt.Sprintf("%+v", span), "ann@example.com")
		}
	})
}

// sampler records its arguments and drops everything.
type sampler struct {
	sdktrace.Sampler
	shown chan sdktrace.SamplingParameters
}

func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	s.shown <- p
	return sdktrace.NeverSample().ShouldSample(p)
}

// A run is sampled if its trigger was.
func TestOptions_SamplerSeesTheDestination(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := sampler{shown: make(chan sdktrace.SamplingParameters, 2)}
		tel := newTelemetry(t, sdktrace.WithSampler(sdktrace.ParentBased(asked)))
		s := tel.scheduler(t)
		ran := false
		require.NoError(t, s.RegisterDelayed("email.welcome", 0, func(ctx context.Context, _ *jobs.Job) error {
			ran = trace.SpanContextFromContext(ctx).IsValid()
			return nil
		}))
		start(t, s)
		_, err := s.Trigger(t.Context(), "email.welcome", nil)
		require.NoError(t, err)
		synctest.Wait()
		require.True(t, ran)
		require.Len(t, asked.shown, 1, "the run follows the trigger")
		p := <-asked.shown
		require.Equal(t, "send email.welcome", p.Name)
		require.Equal(t, "email.welcome", attributes(p.Attributes)["messaging.destination.name"])
		require.Empty(t, tel.exporter.GetSpans())
		require.Equal(t, 1, tel.count(t, "messaging.client.consumed.messages"))
	})
}

func TestOptions_DefaultToTheGlobals(t *testing.T) {
	t.Parallel()
	// Nothing sets the globals in this process, so they do nothing.
	options, err := otel.Options(nil)
	require.NoError(t, err)
	reg, err := provider.NewRegistry(options...)
	require.NoError(t, err)
	require.NoError(t, reg.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error { return nil }))
	d, err := reg.Job("email.welcome")
	require.NoError(t, err)
	req, err := d.Request(nil)
	require.NoError(t, err)
	require.NoError(t, d.Enqueue(t.Context(), []*jobs.Request{req}, store))
	require.Nil(t, req.Metadata)
	require.NoError(t, d.Run(t.Context(), &jobs.Job{Name: d.Name, Attempt: 1, MaxAttempts: 1}, discard))
}
