package flow

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

// A Call is a statement of many rows.
type Call struct {
	Wanted int // how many rows River asked for
	Asked  int // how many of them the statement asked for
	Got    int // how many it got
	Took   time.Duration
	Err    error
}

// A limit shrinks by this factor after a call that timed out, and grows by it after one that took at most quick, so
// that the next one takes less than patience. That is half of River's timeout: within one call of River's, a statement
// that waits for a locked row leaves time for others.
const (
	factor   = 4
	quick    = time.Second
	patience = 5 * time.Second
)

// NextLimit returns the most rows that the next statement asks for, or 0 for no limit. limit is the present one.
//
// Rows may be large and the link slow: River would repeat a fetch of 100 jobs of 500 kB that times out forever.
func NextLimit(limit int, latest Call) int {
	switch {
	case timedOut(latest.Err):
		return max(1, latest.Asked/factor)
	case latest.Err != nil || limit == 0 || latest.Got < limit || latest.Took > quick:
		return limit
	case factor*limit >= latest.Wanted:
		return 0
	}
	return factor * limit
}

func timedOut(err error) bool {
	const queryCancelled, lockNotAvailable = "57014", "55P03" // by statement_timeout and lock_timeout
	code := store.Code(err)
	return errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) || code == queryCancelled || code == lockNotAvailable
}
