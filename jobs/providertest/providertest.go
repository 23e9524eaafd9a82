// Package providertest is the conformance suite for providers. It contains the rules documented in package jobs, each
// as a named function that tries to break it. A provider must pass all of them:
//
//	func TestConformance(t *testing.T) {
//		providertest.Run(t, providertest.Harness{
//			New: func(t testing.TB, cfg providertest.Config) jobs.Scheduler { … },
//		})
//	}
package providertest

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/everytick/everytick/jobs"
)

// A Harness connects [Run] to a provider.
type Harness struct {
	// New returns a new scheduler that is not started and shares no jobs, queue or schema with any other. It is
	// called at least once per rule, concurrently unless Bubble is set, and fails t if it cannot create one. It
	// must release its resources with t.Cleanup. The suite shuts the scheduler down before those cleanups run.
	New func(t testing.TB, cfg Config) jobs.Scheduler

	// Bubble runs each rule in a [testing/synctest] bubble, where waiting takes no time. Set it for a provider that
	// lives entirely in this process. Otherwise the rules run in real time and in parallel. Since they mostly wait,
	// run the test with as large a -parallel as the provider can handle.
	Bubble bool

	// DB returns the database that handlers of s must get as [jobs.Job].DB. If DB is nil, that field is not checked.
	// If the provider is a [jobs.TxTriggerer], the suite begins transactions for TriggerTx on this database.
	DB func(s jobs.Scheduler) jobs.DB

	// BreakDB makes the database unreachable for s, and only for s, from now on. It is nil for a provider without a
	// database; the rule that needs it is then skipped.
	BreakDB func(t testing.TB, s jobs.Scheduler)
}

// Config configures a scheduler created by [Harness].New.
type Config struct {
	// Logger is the logger of the scheduler and the base of its handlers' loggers. It is never nil.
	Logger *slog.Logger
	// Defaults are applied to every job before its own options. They are often empty.
	Defaults []jobs.Option
}

// Run tests the provider of h against every rule, each in a subtest. A failure names the rule that was broken. Rules
// about optional roles that the provider lacks are skipped.
func Run(t *testing.T, h Harness) {
	for _, r := range slices.Backward(rules) { // package testing starts the last of parallel tests first
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
