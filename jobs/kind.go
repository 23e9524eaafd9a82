package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Kind is the name of a job together with the type of its data, so that a mismatch does not compile:
//
//	const Welcome jobs.Kind[WelcomeArgs] = "email.welcome"
//
//	err := Welcome.Register(r, func(ctx context.Context, job *jobs.Job, args WelcomeArgs) error { … })
//	id, err := Welcome.Trigger(ctx, t, WelcomeArgs{User: 7})
//
// The ticks of a schedule have data of that type too:
//
//	const Digest jobs.Kind[DigestArgs] = "email.digest"
//
//	err := Digest.RegisterCron(r, "0 7 * * *", DigestArgs{Hours: 24}, func(ctx context.Context, job *jobs.Job, args DigestArgs) error { … })
//
// T is encoded and decoded with encoding/json and must encode as a JSON object.
type Kind[T any] string

// checkType returns [ErrInvalidData] for a T that encoding/json never encodes as an object, such as a number.
func (k Kind[T]) checkType() error {
	t := reflect.TypeFor[T]()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Interface:
		return nil
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) {
		return nil // it may encode itself as an object
	}
	return fmt.Errorf("%w for %q: type %s does not encode as a JSON object; use a struct or a map",
		ErrInvalidData, string(k), reflect.TypeFor[T]())
}

// A KindHandler is a [Handler] that gets the data of its job decoded.
type KindHandler[T any] func(ctx context.Context, job *Job, args T) error

// handler returns h as a Handler. A nil h stays nil, so that registering it is an error.
func (h KindHandler[T]) handler() Handler {
	if h == nil {
		return nil
	}
	return func(ctx context.Context, job *Job) error {
		var args T
		if err := job.Decode(&args); err != nil {
			return err
		}
		return h(ctx, job, args)
	}
}

// Register registers the job to run on demand, as soon as it is triggered. Data that does not decode as T fails a run
// for good, and h is not called. Register returns [ErrInvalidData] unless T is a struct, a map, an interface or a
// [json.Marshaler]. For the other errors of this method and those below, see [Registrar].
func (k Kind[T]) Register(r Registrar, h KindHandler[T], opts ...Option) error {
	return k.RegisterDelayed(r, 0, h, opts...)
}

// RegisterDelayed is like Register, but a run starts delay after its trigger, unless the trigger has an option [Delay]
// or [At].
func (k Kind[T]) RegisterDelayed(r Registrar, delay time.Duration, h KindHandler[T], opts ...Option) error {
	if err := k.checkType(); err != nil {
		return err
	}
	return r.RegisterDelayed(string(k), delay, h.handler(), opts...)
}

// RegisterCron registers the job to run on a cron pattern. Its ticks give h data, as with the option [Data], and
// triggered runs that of their trigger. Data that cannot be encoded is [ErrInvalidData].
func (k Kind[T]) RegisterCron(r Registrar, pattern string, data T, h KindHandler[T], opts ...Option) error {
	if err := k.checkType(); err != nil {
		return err
	}
	return r.RegisterCron(string(k), pattern, h.handler(), k.with(data, opts)...)
}

// RegisterInterval registers the job to run at multiples of every. Its ticks give h data, as with RegisterCron.
func (k Kind[T]) RegisterInterval(r Registrar, every time.Duration, data T, h KindHandler[T], opts ...Option) error {
	if err := k.checkType(); err != nil {
		return err
	}
	return r.RegisterInterval(string(k), every, h.handler(), k.with(data, opts)...)
}

// RegisterSchedule registers the job to run at the ticks of s. They give h data, as with RegisterCron.
func (k Kind[T]) RegisterSchedule(r Registrar, s Schedule, data T, h KindHandler[T], opts ...Option) error {
	if err := k.checkType(); err != nil {
		return err
	}
	return r.RegisterSchedule(string(k), s, h.handler(), k.with(data, opts)...)
}

// with adds the data of ticks to opts. It comes last, so that no other option replaces it by data of another type.
func (k Kind[T]) with(data T, opts []Option) []Option {
	return append(slices.Clip(opts), Data(data))
}

// Trigger triggers the job with args and returns the run's ID. For the errors, see [Triggerer].
func (k Kind[T]) Trigger(ctx context.Context, t Triggerer, args T, opts ...TriggerOption) (id string, err error) {
	return t.Trigger(ctx, string(k), args, opts...)
}

// TriggerMany triggers the job once for each of args, all or none, and returns the IDs in order. For the errors, see
// [Triggerer].
func (k Kind[T]) TriggerMany(ctx context.Context, t Triggerer, args []T, opts ...TriggerOption) (ids []string, err error) {
	return t.TriggerMany(ctx, string(k), elements(args), opts...)
}

// TriggerTx triggers the job in tx; see the function [TriggerTx].
func (k Kind[T]) TriggerTx(ctx context.Context, t Triggerer, tx pgx.Tx, args T, opts ...TriggerOption) (id string, err error) {
	return TriggerTx(ctx, t, tx, string(k), args, opts...)
}

// TriggerManyTx triggers the job once for each of args in tx; see the function [TriggerManyTx].
func (k Kind[T]) TriggerManyTx(ctx context.Context, t Triggerer, tx pgx.Tx, args []T, opts ...TriggerOption) (ids []string, err error) {
	return TriggerManyTx(ctx, t, tx, string(k), elements(args), opts...)
}

func elements[T any](args []T) []any {
	data := make([]any, len(args))
	for i := range args {
		data[i] = args[i]
	}
	return data
}
