// Package otel traces and measures jobs with OpenTelemetry, under any provider:
//
//	telemetry, err := otel.Options(nil)
//	s, err := river.New(pool, &river.Config{Defaults: telemetry})
//
// It follows the semantic conventions for messaging, version 1.43.0, whose status is still "development". A job's
// name is the destination, a trigger sends a message, and each attempt processes it. messaging.system is "everytick"
// for every provider, so dashboards survive a change of provider.
//
// # Spans
//
// Trigger, TriggerTx and TriggerMany create a producer span such as "send email.welcome". Its context is stored with
// the job, in [jobs.Request].Metadata. Each attempt creates a consumer span such as "process email.welcome" as its
// child, in whichever process the attempt runs, so that a trigger and all attempts form one trace. Each attempt of a
// scheduled run starts its own trace.
//
// In addition to the attributes of the conventions, the span of an attempt has:
//
//	everytick.job.attempt        the number of the attempt
//	everytick.job.max_attempts   the most attempts
//	everytick.job.tick           the tick, in RFC 3339; absent if the job was triggered
//	everytick.job.missed         how many earlier ticks the run stands for; absent if none
//	everytick.job.outcome        see Metrics
//
// The description of the span's status is the error text, after [jobs.Redact]. Spans and metrics never contain a
// job's data.
//
// The span of TriggerTx says that the job was inserted, not that the transaction was committed. If [jobs.Unique] or
// [jobs.UniqueWaiting] finds an existing job, the trigger's span has that job's ID, but the job's runs belong to the
// trace of the trigger that stored it. With [jobs.Latest] they belong to that of the last trigger.
//
// # Metrics
//
//	messaging.client.sent.messages        {message}  jobs triggered; does not count ticks
//	messaging.client.operation.duration   s          duration of triggers
//	messaging.client.consumed.messages    {message}  attempts
//	messaging.process.duration            s          duration of attempts
//	everytick.tick.lateness               s          time from a tick to the start of its first attempt; recorded
//	                                                 again if a shutdown interrupted that attempt
//
// All have messaging.system, messaging.destination.name, messaging.operation.name and messaging.operation.type, and
// error.type on failure. None has the job's ID. messaging.process.duration also has everytick.job.outcome: "completed",
// "snoozed" (by the handler, which is no failure), "retried" (failed and will be retried), "failed" (for good) or
// "interrupted" (by a shutdown, after which the job goes back to the queue, or by Cancel).
//
// error.type is "panic", "timeout", "canceled", or the Go type of the error without the wrappers of packages fmt and
// jobs.
//
// Durations have the buckets that the conventions recommend, which end at 10 s. For longer jobs, configure a View on
// the MeterProvider.
package otel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/everytick/everytick/jobs"
)

// scope is the name of the tracer and the meter.
const scope = "github.com/everytick/everytick/adapters/otel"

// system is messaging.system.
const system messagingconv.SystemAttr = "everytick"

// Attributes and a metric for which the conventions have no name.
const (
	attemptKey     = attribute.Key("everytick.job.attempt")
	maxAttemptsKey = attribute.Key("everytick.job.max_attempts")
	tickKey        = attribute.Key("everytick.job.tick")
	missedKey      = attribute.Key("everytick.job.missed")
	outcomeKey     = attribute.Key("everytick.job.outcome")
	latenessName   = "everytick.tick.lateness"
)

// buckets are those that the conventions recommend for durations, in seconds.
var buckets = metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

// latenessBuckets range from a poll interval to an outage, in seconds.
var latenessBuckets = metric.WithExplicitBucketBoundaries(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)

// Config configures [Options]. A nil *Config means the defaults.
type Config struct {
	// TracerProvider creates the tracer. Defaults to the global one.
	TracerProvider trace.TracerProvider
	// MeterProvider creates the meter. Defaults to the global one.
	MeterProvider metric.MeterProvider
	// Propagator injects the context of a trigger into the job and extracts it for each attempt. Everything it writes
	// is stored with the job, including baggage. Defaults to the global one, which does nothing until
	// [otel.SetTextMapPropagator] is called; triggers and runs are then separate traces.
	Propagator propagation.TextMapPropagator
}

// Options returns the options that trace and measure jobs, for the Defaults of a provider's Config or for a single
// registration. Put them first, so that they wrap other middleware. It returns an error if the MeterProvider cannot
// create an instrument. cfg may be nil.
func Options(cfg *Config) ([]jobs.Option, error) {
	c := Config{}
	if cfg != nil {
		c = *cfg
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	if c.Propagator == nil {
		c.Propagator = otel.GetTextMapPropagator()
	}
	meter := c.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	i := &instruments{
		tracer:     c.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: c.Propagator,
	}
	var errs [5]error
	i.sent, errs[0] = messagingconv.NewClientSentMessages(meter)
	i.sending, errs[1] = messagingconv.NewClientOperationDuration(meter, buckets)
	i.consumed, errs[2] = messagingconv.NewClientConsumedMessages(meter)
	i.processing, errs[3] = messagingconv.NewProcessDuration(meter, buckets)
	i.lateness, errs[4] = meter.Float64Histogram(latenessName, metric.WithUnit("s"), latenessBuckets,
		metric.WithDescription("Time from a schedule's tick to the start of its first attempt."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("otel: %w", err)
	}
	return []jobs.Option{jobs.Use(i.process), jobs.UseTrigger(i.send)}, nil
}

type instruments struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator

	sent       messagingconv.ClientSentMessages
	sending    messagingconv.ClientOperationDuration
	consumed   messagingconv.ClientConsumedMessages
	processing messagingconv.ProcessDuration
	lateness   metric.Float64Histogram
}

// attributes returns the attributes that spans and metrics share. The conventions require them at the start of a
// span, because a sampler sees only those.
func attributes(operation, name string) []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.MessagingSystemKey.String(string(system)),
		semconv.MessagingOperationName(operation),
		semconv.MessagingOperationTypeKey.String(operation),
		semconv.MessagingDestinationName(name),
	}
}

// errUnwound is the error of a function that did not return. Panics of handlers and their middleware have become
// errors before.
var errUnwound = errors.New("a panic, or the end of the goroutine (runtime.Goexit)")

// send is the trigger middleware. The context of its span is the creation context of all jobs of a batch. The
// conventions recommend another span per job, which is too expensive for thousands of jobs in a TriggerMany.
func (i *instruments) send(next jobs.Enqueue) jobs.Enqueue {
	return func(ctx context.Context, reqs []*jobs.Request) (err error) {
		name := reqs[0].Name
		attrs := attributes("send", name)
		start := time.Now()
		ctx, span := i.tracer.Start(ctx, "send "+name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attrs...))
		i.inject(ctx, reqs)

		err = errUnwound
		defer func() {
			if span.IsRecording() {
				switch {
				case len(reqs) > 1:
					span.SetAttributes(semconv.MessagingBatchMessageCount(len(reqs)))
				case err == nil:
					span.SetAttributes(semconv.MessagingMessageID(reqs[0].ID))
				}
			}
			if err != nil {
				attrs = append(attrs, fail(span, err))
			}
			if i.sent.Enabled(ctx) || i.sending.Enabled(ctx) {
				set := metric.WithAttributes(attrs...)
				i.sent.Int64Counter.Add(ctx, int64(len(reqs)), set)
				i.sending.Float64Histogram.Record(ctx, time.Since(start).Seconds(), set)
			}
			span.End()
		}()
		err = next(ctx, reqs)
		return err
	}
}

// inject adds the context to the metadata of each request.
func (i *instruments) inject(ctx context.Context, reqs []*jobs.Request) {
	carrier := propagation.MapCarrier{}
	i.propagator.Inject(ctx, carrier)
	if len(carrier) == 0 {
		return
	}
	for _, req := range reqs {
		if req.Metadata == nil {
			req.Metadata = make(map[string]string, len(carrier))
		}
		maps.Copy(req.Metadata, carrier)
	}
}

// process is the handler middleware.
func (i *instruments) process(next jobs.Handler) jobs.Handler {
	// The job's name is known only from the first run on, and is the same in all runs.
	var (
		once     sync.Once
		attrs    []attribute.KeyValue
		spanName string
		starting []trace.SpanStartOption
		counted  metric.MeasurementOption // for consumed.messages of an attempt that succeeded
		measured metric.MeasurementOption // for process.duration of such an attempt
	)
	return func(ctx context.Context, job *jobs.Job) (err error) {
		once.Do(func() {
			attrs = attributes("process", job.Name)
			attrs = attrs[:len(attrs):len(attrs)] // appending copies
			spanName = "process " + job.Name
			starting = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attrs...)}
			starting = starting[:len(starting):len(starting)]
			counted = metric.WithAttributeSet(attribute.NewSet(attrs...))
			measured = metric.WithAttributeSet(attribute.NewSet(append(attrs, outcomeKey.String("completed"))...))
		})
		if job.Attempt == 1 && job.Snoozes == 0 && !job.Tick.IsZero() {
			i.lateness.Record(ctx, job.Late().Seconds(), counted)
		}
		start := time.Now()
		ctx, span := i.startProcess(ctx, job, spanName, starting)

		err = errUnwound
		defer func() {
			outcome := job.Outcome(ctx, err)
			if span.IsRecording() {
				span.SetAttributes(outcomeKey.String(outcome))
			}
			counted, measured := counted, measured
			switch {
			case outcome == "snoozed": // no failure
				measured = metric.WithAttributes(append(attrs, outcomeKey.String(outcome))...)
			case err != nil:
				failed := append(attrs, fail(span, err))
				counted = metric.WithAttributes(failed...)
				measured = metric.WithAttributes(append(failed, outcomeKey.String(outcome))...)
			}
			i.consumed.Int64Counter.Add(ctx, 1, counted)
			i.processing.Float64Histogram.Record(ctx, time.Since(start).Seconds(), measured)
			span.End()
		}()
		err = next(ctx, job)
		return err
	}
}

// startProcess starts the span of an attempt, as a child of the span that triggered the job if there is one.
func (i *instruments) startProcess(ctx context.Context, job *jobs.Job, name string, opts []trace.SpanStartOption) (context.Context, trace.Span) {
	ambient := trace.SpanFromContext(ctx)
	// The context may descend from the one given to Start, with the span and the baggage of the application's startup.
	// Runs do not belong to those.
	if ambient.SpanContext().IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.SpanContext{})
	}
	ctx = baggage.ContextWithoutBaggage(ctx)
	ctx = i.propagator.Extract(ctx, propagation.MapCarrier(job.Metadata))
	// The conventions require a link to the creation context; making it the parent as well is optional.
	if creation := trace.SpanContextFromContext(ctx); creation.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: creation}))
	}
	if ambient.IsRecording() { // from other middleware or the provider
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: ambient.SpanContext()}))
	}
	ctx, span := i.tracer.Start(ctx, name, opts...)
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingMessageID(job.ID), attemptKey.Int(job.Attempt), maxAttemptsKey.Int(job.MaxAttempts))
		if !job.Tick.IsZero() {
			span.SetAttributes(tickKey.String(job.Tick.Format(time.RFC3339Nano)))
		}
		if job.Missed > 0 {
			span.SetAttributes(missedKey.Int(job.Missed))
		}
	}
	return ctx, span
}

// fail marks the span as failed and returns error.type.
func fail(span trace.Span, err error) attribute.KeyValue {
	kind := errorType(err)
	if span.IsRecording() {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(kind)
	}
	return kind
}

func errorType(err error) attribute.KeyValue {
	var panicked *jobs.PanicError
	switch {
	case errors.As(err, &panicked), errors.Is(err, errUnwound):
		return semconv.ErrorTypeKey.String("panic")
	case errors.Is(err, context.DeadlineExceeded):
		return semconv.ErrorTypeKey.String("timeout")
	case errors.Is(err, context.Canceled):
		return semconv.ErrorTypeKey.String("canceled")
	}
	// The types of Permanent, RetryAfter and redaction say nothing about the cause.
	for {
		inner := errors.Unwrap(err)
		if inner == nil || !isWrapper(err) {
			return semconv.ErrorType(err)
		}
		err = inner
	}
}

var jobsPath = reflect.TypeFor[jobs.Job]().PkgPath()

// isWrapper reports whether the type of err is from package fmt, jobs or a package below jobs.
func isWrapper(err error) bool {
	t := reflect.TypeOf(err)
	if t.Kind() != reflect.Pointer {
		return false
	}
	path := t.Elem().PkgPath()
	return path == "fmt" || path == jobsPath || strings.HasPrefix(path, jobsPath+"/")
}
