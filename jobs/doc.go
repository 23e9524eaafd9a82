// Package jobs is the portable half of everytick: what an application's modules
// see of background jobs, whichever provider runs them.
//
// A module registers its jobs on a [Registrar] when the application starts, and
// asks a [Triggerer] to run one. The application builds one [Scheduler] from a
// provider (adapters/river for production, adapters/memory for unit tests), hands
// it to every module, calls Start, and calls Shutdown before it exits:
//
//	func RegisterAuditJobs(r jobs.Registrar) error {
//		return errors.Join(
//			r.RegisterCron("audit.retention", "0 3 * * *", retain),
//			r.RegisterInterval("audit.sync", 5*time.Minute, sync, jobs.Timeout(time.Minute)),
//		)
//	}
//
// Every provider keeps the rules below; the suite in jobs/providertest checks them.
//
// # Delivery
//
// A job that was accepted, that is, whose Trigger returned an ID and no
// error, is run at least once. It can be run again when a process dies between
// doing the work and saying so: handlers are idempotent, or do their work in a
// transaction that a second run finds done.
//
// # Identity
//
// [Job.ID] is the same on every attempt of a job and never used again
// by that provider. It is opaque: compare it, log it, do not parse it.
//
// # Retries
//
// A handler that returns an error or panics, also because its [Timeout] has
// ended its context, is run again after [RetryDelay], which doubles with every attempt (5 s, 10 s,
// 20 s … unless set), at most 24 hours. After [MaxRetries] retries the job has
// failed for good. [Permanent] gives up at once, [RetryAfter] sets the wait of one
// retry. An attempt that a shutdown interrupted is not counted.
//
// # Ticks
//
// A cron or interval schedule is a pure function of time: the instants at
// which it runs, its ticks, depend on nothing but its definition. [Job.Tick] is
// the instant a run stands for, however late it runs. Each tick is inserted at most
// once, in however many processes the schedule is registered. Ticks that pass while
// nothing is running or all workers are busy are caught up on as [CatchUp] says, and
// [Job.Missed] is how many earlier ticks a run stands for.
//
// # Concurrency
//
// Jobs run concurrently with each other and with themselves, unless
// [Concurrency] gives a job a number of worker slots of its own. Among jobs that
// are due, a lower [Priority] number starts first, then the one due longer.
//
// # Middleware
//
// What [Use] wraps around a handler, and [UseTrigger] around a trigger,
// works in any provider: defaults stand outside of a job's own, the first outermost.
// Metadata that trigger middleware sets comes with every attempt of the run.
//
// # Time
//
// Times are UTC. Delays and intervals are measured by the provider's clock,
// which for a provider on a database is the database's.
//
// # Registration
//
// Jobs are registered before Start and while stopped. Between
// Start and Shutdown registering returns [ErrStarted]. Triggering works at any
// time, before Start and from inside a handler too; what is triggered while
// nothing runs waits.
//
// # Operators
//
// A provider may have more roles: [RunLister], [ActivityReporter],
// [Canceller], [Retrier] and [Pauser]; [As] finds them. What their methods say holds for every provider
// that has them, and what they do to a tick never ends its schedule.
//
// # PostgreSQL
//
// [DB], [TriggerTx] and [TxTriggerer] have types of pgx: they are for providers on
// PostgreSQL. Others leave [Job.DB] as they were given it, and lack the role.
//
// # Goroutines
//
// All methods of a [Scheduler] may be called from several goroutines at once.
package jobs
