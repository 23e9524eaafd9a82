package jobs

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A Kind is the name of a job together with the type of its data, so that both
// stand in one place and a mismatch does not compile:
//
//	const Welcome jobs.Kind[WelcomeArgs] = "email.welcome"
//
//	err := Welcome.Register(r, func(ctx context.Context, job *jobs.Job, args WelcomeArgs) error { … })
//	id, err := Welcome.Trigger(ctx, t, WelcomeArgs{User: 7})
//
// T is encoded and decoded by encoding/json, and must encode as an object.
type Kind[T any] string

// Register registers the kind to run on demand. Data that does not decode as T
// fails the job for good, without calling h. For the errors see [Registrar].
func (k Kind[T]) Register(r Registrar, h func(ctx context.Context, job *Job, args T) error, opts ...Option) error {
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

// Trigger enqueues a job of this kind. For the errors see [Triggerer].
func (k Kind[T]) Trigger(ctx context.Context, t Triggerer, args T, opts ...TriggerOption) (id string, err error) {
	return t.Trigger(ctx, string(k), args, opts...)
}

// TriggerTx enqueues a job of this kind in tx, as [TriggerTx] does.
func (k Kind[T]) TriggerTx(ctx context.Context, t Triggerer, tx pgx.Tx, args T, opts ...TriggerOption) (id string, err error) {
	return TriggerTx(ctx, t, tx, string(k), args, opts...)
}
