package jobs

// Transactional makes each attempt of the job one database transaction: [Job.DB] and [Job.Tx] are that transaction, and
// it commits together with the job's completion. What the handler writes through them, and what it triggers with
// [TriggerTx] in [Job.Tx], is there exactly once, or not at all if the job fails for good. It does not matter when the
// process is killed or the connection breaks. Work elsewhere, such as a request to another service, has no part in it.
//
// The transaction is rolled back if the handler returns an error of any kind or panics, and also if it returns nil
// although its context has ended, by the [Timeout], a hard stop or a cancellation. It is rolled back, and the attempt
// fails, if a statement in it has failed and the handler returned nil nevertheless, or if the database refuses the
// commit, for example because of a deferred constraint. A retry sees nothing of failed attempts.
//
// The handler must not end the transaction. [Job.Tx].Commit and Rollback return an error. A nested transaction, as begun
// by pgx.BeginFunc(ctx, job.DB, …), is a savepoint.
//
// Middleware runs outside the transaction: its [Job.Tx] is nil, and what it gets from the handler is the outcome after
// the commit. If it returns nil for a failed attempt, the job completes without the handler's work. If it returns an
// error after the commit, the job is completed all the same, and the error is logged.
//
// Each attempt occupies a connection of the application's pool while it runs, and keeps locked what it has locked, so
// keep such handlers short. At most as many run at once in a process as the pool has connections, minus two that are
// left for everything else; others wait as if all workers were busy. The isolation level is read committed. Defaults to
// not transactional.
func Transactional() Option {
	return option(func(s *settings) error {
		s.Transactional = true
		return nil
	})
}
