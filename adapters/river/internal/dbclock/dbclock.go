// Package dbclock estimates the database's time without a query each time. The database decides what is due, and the
// clock of a process may be wrong by any amount.
package dbclock

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxAge is how long a measurement is used.
const maxAge = time.Minute

// A Clock knows how far the database's clock is ahead of the process's. Create one with [New].
type Clock struct {
	with func(ctx context.Context, ask func(Asker) error) error
	// Wall returns the process's time. Do not change it while the clock is in use.
	Wall     func() time.Time
	offset   atomic.Int64 // nanoseconds the database is ahead of Wall
	accuracy atomic.Int64 // nanoseconds by which offset may be wrong
	measured atomic.Int64 // when offset was measured, in Unix nanoseconds of Wall
}

// An Asker is a connection or a transaction.
type Asker interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// New returns a clock. with calls ask with a connection; waiting for one does not affect the accuracy. wall returns
// the process's time and is [time.Now] except in tests.
func New(with func(ctx context.Context, ask func(Asker) error) error, wall func() time.Time) *Clock {
	return &Clock{with: with, Wall: wall}
}

// Estimate returns the database's time according to the latest measurement, without blocking. Before the first
// measurement it returns the process's time.
func (c *Clock) Estimate() time.Time {
	return c.Wall().Add(time.Duration(c.offset.Load())).UTC()
}

// Offset returns how far the database's clock is ahead of the process's.
func (c *Clock) Offset() time.Duration { return time.Duration(c.offset.Load()) }

// Until returns how long it takes until the database's time is certainly t, without blocking.
func (c *Clock) Until(t time.Time) time.Duration {
	return t.Sub(c.Estimate()) + time.Duration(c.accuracy.Load())
}

// Now returns the database's time. If the latest measurement is over a minute old, it measures again: in tx unless tx
// is nil, because a caller with a transaction must not wait for a second connection of the same pool.
func (c *Clock) Now(ctx context.Context, tx pgx.Tx) (time.Time, error) {
	if age := c.Wall().UnixNano() - c.measured.Load(); age < 0 || age > int64(maxAge) {
		var err error
		if tx != nil {
			err = c.measure(ctx, tx)
		} else {
			err = c.Measure(ctx)
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	return c.Estimate(), nil
}

// Measure queries the time, however old the latest measurement is.
func (c *Clock) Measure(ctx context.Context) error {
	return c.with(ctx, func(ask Asker) error { return c.measure(ctx, ask) })
}

// measure sets the offset, which is wrong by at most half of the query's round trip.
func (c *Clock) measure(ctx context.Context, ask Asker) error {
	var db time.Time
	before := time.Now()
	if err := ask.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&db); err != nil {
		return fmt.Errorf("querying the database's time: %w", err)
	}
	c.Learn(db, time.Since(before))
	return nil
}

// Learn records that the database's time was db at some instant within the last roundTrip.
func (c *Clock) Learn(db time.Time, roundTrip time.Duration) {
	now, half := c.Wall(), roundTrip/2
	c.offset.Store(int64(db.Sub(now.Add(-half))))
	c.accuracy.Store(int64(half))
	c.measured.Store(now.UnixNano())
}
