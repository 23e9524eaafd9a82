// Package jobs defines background jobs independently of the provider that runs them. It is the part of everytick
// that an application's modules import.
//
// When the application starts, each module registers its jobs on a [Registrar]. Modules run a job on demand with a
// [Triggerer]. The application creates one [Scheduler] from a provider (adapters/river in production, adapters/memory
// in unit tests), passes it to every module, calls Start, and calls Shutdown before it exits:
//
//	func RegisterAuditJobs(r jobs.Registrar) error {
//		return errors.Join(
//			r.RegisterCron("audit.retention", "0 3 * * *", retain),
//			r.RegisterInterval("audit.sync", 5*time.Minute, sync, jobs.Timeout(time.Minute)),
//		)
//	}
//
// Every provider keeps the rules below. The conformance suite in jobs/providertest checks them.
//
// # Delivery
//
// Once Trigger has returned an ID and no error, the job runs at least once. It runs again if a process dies after
// doing the work and before storing the result, so handlers must be idempotent, or do their work in a transaction
// that a second run detects. What a [Transactional] job does in its own transaction is there exactly once.
//
// # Identity
//
// [Job.ID] is the same for every attempt of a run, and the provider never uses it again. It is opaque: compare it and
// log it, but don't parse it.
//
// # Retries
//
// A handler that returns an error, panics or exceeds its [Timeout] is retried after [RetryDelay], which doubles with
// every attempt (5 s, 10 s, 20 s and so on by default) up to 24 hours. After [MaxRetries] retries the job has failed
// for good. A [Permanent] error fails it at once, and [RetryAfter] sets the delay of one retry. An attempt interrupted
// by a shutdown does not count.
//
// # Ticks
//
// The ticks of a schedule are the instants at which it runs. They are a pure function of the schedule's definition.
// [Job.Tick] is the tick that a run is for, however late it runs. Each tick is inserted at most once, no matter how
// many processes register the schedule. [CatchUp] decides what happens to ticks that pass while no process is running
// or all workers are busy, and [Job.Missed] is how many earlier ticks a run also covers.
//
// # Windows
//
// [Job.PrevSuccess] is the latest tick that had succeeded when an attempt started. What happened from then on and before
// [Job.Tick] is the window of the run. The windows of the runs that succeed have no gap, whatever fails in between.
//
// # Concurrency
//
// Runs of different jobs and of the same job execute concurrently, unless [Concurrency] gives a job its own worker
// slots. Of the jobs that are due, those with the lowest [Priority] number start first, and among equals the one that
// has been due longest.
//
// # Middleware
//
// Middleware wraps handlers ([Use]) and triggers ([UseTrigger]) and works with any provider. The scheduler's defaults
// wrap the job's own middleware, and the first in each list is outermost. Every attempt of a run sees the metadata
// that trigger middleware set.
//
// # Time
//
// All times are in UTC. Delays and intervals follow the provider's clock. If the provider stores jobs in a database,
// that is the database's clock.
//
// # Registration
//
// Jobs can be registered before Start and after Shutdown. In between, registering returns [ErrStarted]. Jobs can be
// triggered at any time, including before Start and inside handlers. While nothing is started they wait.
//
// # Operators
//
// A provider may implement further roles: [RunLister] and [RunFinder], [ActivityReporter], [Canceller] and
// [BulkCanceller], [Retrier] and [BulkRetrier], [Pauser], and [ProcessLister]. [As] finds them. No operation on a tick
// ends its schedule.
//
// # PostgreSQL
//
// [DB], [Job.Tx], [Transactional], [TriggerTx], [TriggerManyTx] and [TxTriggerer] use pgx types and are for providers on
// PostgreSQL. Other providers pass [Job.DB] through unchanged, and need not implement TxTriggerer. With one that does
// not support Transactional, each attempt of such a job fails.
//
// # Goroutines
//
// All methods of a [Scheduler] are safe for concurrent use.
package jobs
