// Package providertest is the conformance suite of providers: the rules that the
// documentation of package jobs states, each a named function that tries to break it. A
// provider keeps them all, or is none:
//
//	func TestConformance(t *testing.T) {
//		providertest.Run(t, providertest.Harness{
//			New: func(t testing.TB, cfg providertest.Config) jobs.Scheduler { … },
//		})
//	}
package providertest

import (
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/everytick/everytick/jobs"
)

// A Harness tells [Run] how to make the schedulers of one provider.
type Harness struct {
	// New returns a fresh scheduler that is not started and shares nothing with any
	// other: no jobs, no queue, no schema. It is called once or more for each rule,
	// from several rules at once unless Bubble is set, and fails t when it cannot.
	// What it opens it closes in t.Cleanup. The suite shuts the scheduler down
	// before those clean-ups run, if the rule has not done so.
	New func(t testing.TB, cfg Config) jobs.Scheduler

	// Bubble says that the provider lives in this process alone, so that each rule
	// can run in a bubble of [testing/synctest], where waiting takes no time. Without
	// it the rules run against real time, in parallel: start them with a -parallel
	// as large as the provider bears, since most of them wait most of the time.
	Bubble bool

	// DB returns the database that handlers of s are to be given as [jobs.Job.DB].
	// If it is nil, that field is not checked. If the provider is a [jobs.TxTriggerer],
	// Begin of that database begins the transactions that TriggerTx is given.
	DB func(s jobs.Scheduler) jobs.DB

	// BreakDB makes the database unreachable for s, from now on and for s alone. A
	// provider without a database leaves it nil, and the rule that needs it is
	// skipped.
	BreakDB func(t testing.TB, s jobs.Scheduler)
}

// Config is what a rule asks of the scheduler that [Harness].New makes.
type Config struct {
	// Logger is the scheduler's logger, and the base of those that handlers get. It
	// is never nil.
	Logger *slog.Logger
	// Defaults are applied to every job before its own options. Often there are none.
	Defaults []jobs.Option
}

// Run holds the schedulers that h makes against every rule, one subtest for each.
// A failure names the rule that was seen broken.
func Run(t *testing.T, h Harness) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			if r.needs != nil && r.needs(h) != "" {
				t.Skip(r.needs(h))
			}
			if h.Bubble {
				synctest.Test(t, func(t *testing.T) { r.run(t, h) })
				return
			}
			t.Parallel()
			r.run(t, h)
		})
	}
}
