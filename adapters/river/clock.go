package river

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// dbClock tells the database's time without asking each time: the processes' own
// clocks may be wrong, and what is due is decided by the database.
type dbClock struct {
	pool     func() *pgxpool.Pool
	wall     func() time.Time
	offset   atomic.Int64 // nanoseconds the database is ahead of wall
	accuracy atomic.Int64 // nanoseconds by which that may be wrong
	measured atomic.Int64 // when that was found, in Unix nanoseconds of wall
}

// clockMaxAge is how long an offset is trusted.
const clockMaxAge = time.Minute

func newDBClock(pool func() *pgxpool.Pool) *dbClock {
	return &dbClock{pool: pool, wall: time.Now}
}

// estimate returns the database's time by the offset last found, without blocking.
func (c *dbClock) estimate() time.Time {
	return c.wall().Add(time.Duration(c.offset.Load())).UTC()
}

// until returns after how long the database's time is surely at t, without blocking.
func (c *dbClock) until(t time.Time) time.Duration {
	return t.Sub(c.estimate()) + time.Duration(c.accuracy.Load())
}

// now returns the database's time, measuring the offset when it is old.
func (c *dbClock) now(ctx context.Context) (time.Time, error) { return c.nowIn(ctx, nil) }

// nowIn is like now, and asks in tx unless that is nil: whoever holds a transaction must
// not wait for a second connection of the same pool.
func (c *dbClock) nowIn(ctx context.Context, tx pgx.Tx) (time.Time, error) {
	if age := c.wall().UnixNano() - c.measured.Load(); age < 0 || age > int64(clockMaxAge) {
		measure := func() error { return c.measure(ctx) }
		if tx != nil {
			measure = func() error { return c.measureOn(ctx, tx) }
		}
		if err := measure(); err != nil {
			return time.Time{}, err
		}
	}
	return c.estimate(), nil
}

type queryRower interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// measure finds the offset, off by at most half of the query's round trip.
func (c *dbClock) measure(ctx context.Context) error {
	conn, err := c.pool().Acquire(ctx) // so that waiting for one does not count
	if err != nil {
		return fmt.Errorf("asking the database's time: %w", err)
	}
	defer conn.Release()
	return c.measureOn(ctx, conn)
}

// measureOn finds the offset by that connection or transaction.
func (c *dbClock) measureOn(ctx context.Context, conn queryRower) error {
	var db time.Time
	before := c.wall()
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&db); err != nil {
		return fmt.Errorf("asking the database's time: %w", err)
	}
	after := c.wall()
	half := after.Sub(before) / 2
	c.offset.Store(int64(db.Sub(before.Add(half))))
	c.accuracy.Store(int64(half))
	c.measured.Store(after.UnixNano())
	return nil
}
