package dbclock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/dbclock"
)

// server is a database whose clock is wrong by off and whose queries take a while.
type server struct {
	off, roundTrip time.Duration
	queries        int
	err            error
}

func (s *server) QueryRow(context.Context, string, ...any) pgx.Row { return s }

func (s *server) Scan(dest ...any) error {
	s.queries++
	time.Sleep(s.roundTrip / 2)
	*dest[0].(*time.Time) = time.Now().Add(s.off)
	time.Sleep(s.roundTrip / 2)
	return s.err
}

func TestClock_FollowsTheDatabase(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{0, time.Hour, -90 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{off: off, roundTrip: 20 * time.Millisecond}
			c := dbclock.New(func(_ context.Context, ask func(dbclock.Asker) error) error { return ask(s) }, time.Now)
			require.Equal(t, time.Now().UTC(), c.Estimate(), "before the first measurement")
			now, err := c.Now(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, time.Now().Add(off).UTC(), now)
			require.Equal(t, off, c.Offset())
			require.Equal(t, time.Minute+10*time.Millisecond, c.Until(now.Add(time.Minute)), "half a round trip later, to be certain")

			time.Sleep(50 * time.Second)
			_, err = c.Now(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, 1, s.queries, "a measurement is used for a minute")
			time.Sleep(11 * time.Second)
			_, err = c.Now(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, 2, s.queries)

			s.off += time.Hour // the database's clock is set
			require.NoError(t, c.Measure(t.Context()))
			require.Equal(t, off+time.Hour, c.Offset())
			c.Learn(time.Now().Add(off), 0)
			require.Equal(t, off, c.Offset(), "Learn replaces the measurement")
			s.err = errors.New("away")
			require.ErrorContains(t, c.Measure(t.Context()), "away")
			require.Equal(t, off, c.Offset())
		})
	}
}
