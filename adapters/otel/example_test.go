package otel_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/everytick/everytick/adapters/memory"
	jobsotel "github.com/everytick/everytick/adapters/otel"
	"github.com/everytick/everytick/jobs"
)

// Pass nil to use the global providers and propagator. This example keeps its spans in memory in order to print them.
func Example() {
	exporter := tracetest.NewInMemoryExporter()
	telemetry, err := jobsotel.Options(&jobsotel.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)),
		Propagator:     propagation.TraceContext{},
	})
	check(err)
	scheduler, err := memory.New(&memory.Config{Defaults: telemetry})
	check(err)
	started := make(chan struct{})
	check(scheduler.RegisterDelayed("email.welcome", 0, func(context.Context, *jobs.Job) error {
		close(started)
		return nil
	}))

	ctx := context.Background()
	_, err = scheduler.Trigger(ctx, "email.welcome", nil)
	check(err)
	check(scheduler.Start(ctx))
	<-started
	check(scheduler.Shutdown(ctx)) // waits for the run

	sent, run := exporter.GetSpans()[0], exporter.GetSpans()[1]
	fmt.Println(sent.SpanKind, sent.Name)
	fmt.Println(run.SpanKind, run.Name)
	fmt.Println("one trace:", run.SpanContext.TraceID() == sent.SpanContext.TraceID())
	fmt.Println("its child:", run.Parent.SpanID() == sent.SpanContext.SpanID())
	// Output:
	// producer send email.welcome
	// consumer process email.welcome
	// one trace: true
	// its child: true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
