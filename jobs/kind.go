package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
)

// A Kind is the name of a job together with the type of its data, so that a mismatch does not compile:
//
//	const Welcome jobs.Kind[WelcomeArgs] = "email.welcome"
//
//	err := Welcome.Register(r, func(ctx context.Context, job *jobs.Job, args WelcomeArgs) error { … })
//	id, err := Welcome.Trigger(ctx, t, WelcomeArgs{User: 7})
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

// Register registers the job to run on demand. Data that does not decode as T fails the job for good, and h is not
// called. Register returns [ErrInvalidData] unless T is a struct, a map, an interface or a [json.Marshaler]. For the
// other errors, see [Registrar].
func (k Kind[T]) Register(r Registrar, h func(ctx context.Context, job *Job, args T) error, opts ...Option) error {
	if err := k.checkType(); err != nil {
		return err
	}
	if h == nil {
		return r.RegisterDelayed(string(k), 0, nil, opts...)
	}
	return r.RegisterDelayed(string(k), 0, func(ctx context.Context, job *Job) error {
		var args T
		if err := job.Decode(&args); err != nil {
			return err
		}
		return h(ctx, job, args)
	}, opts...)
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
