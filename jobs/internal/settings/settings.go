// Package settings defines the settings made by the options of a registration. Package jobs writes them and
// jobs/provider reads them, hidden from applications.
package settings

import (
	"context"
	"time"
)

// MaxBackoff is the longest delay before a retry, as given with RetryDelay or after doubling.
const MaxBackoff = 24 * time.Hour

// Defaults returns the settings of a registration without options.
func Defaults[Middleware, TriggerMiddleware, Run any]() Job[Middleware, TriggerMiddleware, Run] {
	return Job[Middleware, TriggerMiddleware, Run]{MaxRetries: 2, RetryDelay: 5 * time.Second, Timeout: 5 * time.Minute, Priority: 1}
}

// A Job holds the settings of one registration. Each field is set by the option of the same name in package jobs. The
// type parameters are types of package jobs, which this package cannot import.
type Job[Middleware, TriggerMiddleware, Run any] struct {
	MaxRetries  int
	RetryDelay  time.Duration
	Timeout     time.Duration
	Priority    int
	Concurrency int
	TimeZone    *time.Location // nil if not set
	CatchUp     int            // a jobs.CatchUpPolicy
	Overlap     int            // a jobs.OverlapPolicy
	StartWithin time.Duration
	Data        any // of ticks, not encoded yet
	Use         []Middleware
	UseTrigger  []TriggerMiddleware
	Redact      func(string) string // nil if not set
	OnSkipped   []func(context.Context, Run)
	OnFailed    []func(context.Context, Run)

	Transactional bool

	// ForCron and ForTicks name the first option that requires a cron pattern, or ticks. They are "" if there is
	// none.
	ForCron, ForTicks string
}
