package otel_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/everytick/everytick/adapters/otel"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

var discard = slog.New(slog.DiscardHandler)

// store acts as the provider.
func store(_ context.Context, reqs []*jobs.Request) error {
	reqs[0].ID = "1"
	return nil
}

// BenchmarkOptions measures one trigger and one run without a provider: without telemetry, with no-op telemetry, and
// with an SDK that samples everything and exports nothing.
func BenchmarkOptions(b *testing.B) {
	for _, row := range []struct {
		name    string
		tracers trace.TracerProvider
		meters  metric.MeterProvider
	}{
		{"none", nil, nil},
		{"noop", nooptrace.NewTracerProvider(), noopmetric.NewMeterProvider()},
		{"sdk", sdktrace.NewTracerProvider(), sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))},
	} {
		var options []jobs.Option
		if row.tracers != nil {
			var err error
			options, err = otel.Options(&otel.Config{TracerProvider: row.tracers, MeterProvider: row.meters, Propagator: propagation.TraceContext{}})
			require.NoError(b, err)
		}
		reg, err := provider.NewRegistry(options...)
		require.NoError(b, err)
		require.NoError(b, reg.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error { return nil }))
		d, err := reg.Job("email.welcome")
		require.NoError(b, err)
		b.Run("trigger/"+row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req, err := d.Request(nil)
				if err == nil {
					err = d.Enqueue(b.Context(), []*jobs.Request{req}, store)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("run/"+row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := d.Run(b.Context(), &jobs.Job{ID: "1", Name: d.Name, Attempt: 1, MaxAttempts: 3}, discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
