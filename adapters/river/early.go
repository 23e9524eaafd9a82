package river

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Between a trigger and its handler lie two commits, of the row and of the worker that
// takes it, and each waits for the disk. Here workers are told of a row while it is still
// on its way there: the row is committed without waiting, and the caller's wait follows in
// the same round trip. PostgreSQL writes its log in the order of the commits, so a worker's
// commit, before which nothing runs, waits for the row as well; unless its synchronous_commit
// is less than the caller's.

// flushSQL is something to commit that is in the log and nowhere else: its commit waits until the log up to
// there is as safe as the connection's synchronous_commit asks for.
const flushSQL = `SELECT pg_logical_emit_message(true, 'everytick', '')`

// storeAndTell stores all or none, and tells workers of them.
func (s *Scheduler) storeAndTell(ctx context.Context, records []*record) error {
	return s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		queues := queuesOf(records...)
		if s.canTellEarly(ctx, conn) && s.notifier.claim(queues) {
			switch stored, err := s.storeEarly(ctx, conn, queues, records); {
			case stored:
				s.tellWhenDue(records...)
				return err
			case conn.Conn().IsClosed(): // stored or not
				s.notifier.tellLate(queues)
				return err
			}
			// PostgreSQL refused it: perhaps to tell the workers, which is no reason not to store.
		}
		if err := s.storeRecords(ctx, conn, records...); err != nil {
			if ctx.Err() != nil && conn.Conn().IsClosed() {
				return ctx.Err() // as it was asked whether workers can be told early
			}
			return err
		}
		s.tellWhenDue(records...)
		s.notifier.notify(ctx, conn, queues)
		return nil
	})
}

// storeEarly is like storeRecords, and has the workers of those queues told before the rows are on disk.
// With an error they may be stored or not, unless stored says that they are.
func (s *Scheduler) storeEarly(ctx context.Context, conn *pgxpool.Conn, queues []string, records []*record) (stored bool, err error) {
	insert, args := s.insertSQL(records)
	notify, notifyArgs := s.notifier.sql(queues)
	var batch pgx.Batch
	batch.Queue("BEGIN")
	batch.Queue(insert, args...).Query(func(rows pgx.Rows) error { return readIDs(rows, records) })
	batch.Queue(notify, notifyArgs...)
	batch.Queue("SET LOCAL synchronous_commit TO off")
	batch.Queue("COMMIT").Exec(func(pgconn.CommandTag) error {
		stored = true
		return nil
	})
	batch.Queue(flushSQL)
	err = conn.SendBatch(ctx, &batch).Close()
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case stored:
		if isFlushRefused(err) {
			s.early.Store(new(bool))
		}
		// Not wrapped, since it does not say that the rows were refused.
		err = fmt.Errorf("stored, but it is not known whether on disk: %s", err.Error())
	case conn.Conn().PgConn().TxStatus() != 'I':
		_, _ = conn.Exec(ctx, "ROLLBACK") // if it fails the pool drops the connection
	}
	return stored, err
}

// canTellEarly tells whether flushSQL can be used, and asks the first time. Where
// wal_level is logical, those who read the stream of changes would see it.
func (s *Scheduler) canTellEarly(ctx context.Context, conn *pgxpool.Conn) bool {
	if s.cfg.PollOnly {
		return false
	}
	if can := s.early.Load(); can != nil {
		return *can
	}
	can := false
	err := conn.QueryRow(ctx, `SELECT current_setting('wal_level') <> 'logical'
		AND (SELECT lsn IS NOT NULL FROM (`+flushSQL+`) AS flushed (lsn))`).Scan(&can)
	if err == nil || isFlushRefused(err) {
		s.early.Store(&can)
	}
	return can
}

// isFlushRefused tells whether the server does not have, or not allow, flushSQL: insufficient_privilege,
// undefined_function or feature_not_supported.
func isFlushRefused(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && slices.Contains([]string{"42501", "42883", "0A000"}, refused.Code)
}
