package river

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/work"
	"github.com/everytick/everytick/jobs"
)

// insertOnce inserts a job with an idempotency key, or sets its ID to that of the row that has the key.
func (s *Scheduler) insertOnce(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job) (err error) {
	key := sha256.Sum256([]byte("everytick once\x00" + req.Name + "\x00" + req.IdempotencyKey))
	j.UniqueKey, j.Once = key[:], true
	meta := work.Meta{Open: s.cfg.TriggerOnly, Metadata: req.Metadata, Fingerprint: req.Fingerprint}
	if j.Metadata, err = json.Marshal(meta); err != nil {
		return err
	}
	db := jobs.DB(s.pool)
	if tx != nil {
		db = tx
	}
	for {
		found, err := s.store.FindOnce(ctx, db, j.UniqueKey)
		switch {
		case err != nil:
			return err
		case found.ID != 0 && found.Fingerprint != req.Fingerprint:
			return fmt.Errorf("%w: run %d has other data, or another delay, time or priority", jobs.ErrKeyReused, found.ID)
		case found.ID != 0:
			j.ID = found.ID
			return nil
		}
		if tx == nil {
			err = s.inserts.One(ctx, j)
		} else {
			err = s.inserts.Tx(ctx, tx, j)
		}
		refused := (*pgconn.PgError)(nil)
		switch {
		case tx == nil && errors.As(err, &refused) && refused.Code == "40001": // as in insert
		case err != nil:
			return err
		case j.Found(): // inserted meanwhile, maybe for a different trigger
			j.ID = 0
		case tx == nil:
			return nil
		default:
			return s.wake.InsertedTx(ctx, tx, j)
		}
	}
}
