// Package settings has what the options of a registration set. Package jobs fills it in and jobs/provider reads
// it, so that applications see neither.
package settings

import "time"

// MaxBackoff is the longest wait before a retry that RetryDelay allows and that doubling leads to.
const MaxBackoff = 24 * time.Hour

// A Job is what the options of one registration come to, each field by the function of its name in package jobs.
// The type parameters are jobs.Middleware and jobs.TriggerMiddleware, which this package cannot import.
type Job[Middleware, TriggerMiddleware any] struct {
	MaxRetries  int
	RetryDelay  time.Duration
	Timeout     time.Duration
	Priority    int
	Concurrency int
	TimeZone    *time.Location // nil if not set
	CatchUp     int            // a jobs.CatchUpPolicy
	Overlap     int            // a jobs.OverlapPolicy
	StartWithin time.Duration
	Use         []Middleware
	UseTrigger  []TriggerMiddleware
	Redact      func(string) string // nil if not set

	// ForCron and ForTicks name the first option that does nothing without a cron pattern, or without
	// ticks. They are "" if there was none.
	ForCron, ForTicks string
}
