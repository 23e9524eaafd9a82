// Package key inserts triggered jobs that have a key: of jobs.Unique, jobs.UniqueWaiting, jobs.Latest or
// jobs.IdempotencyKey.
//
// A trigger finds the run that has its key, and inserts one only if there is none that counts. This holds among
// concurrent triggers of all processes, and at any isolation level that a role has by default. In a caller's
// transaction, a waiting run that a unique key finds starts after the commit, to see what was written before. Such a
// transaction may stay open for long, so the package avoids locks that would block River's statements of many rows.
package key

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/insert"
	"github.com/everytick/everytick/adapters/river/internal/store"
	"github.com/everytick/everytick/adapters/river/internal/wake"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
)

const (
	// heldWithin is how soon a scheduled run is due that is made available before a caller's transaction locks it.
	// Most transactions are shorter.
	heldWithin = time.Minute
	// heldTimeout bounds that statement, which needs a connection beside the transaction's.
	heldTimeout = 250 * time.Millisecond
	// moving is how long a trigger waits for a run that a worker may be moving to another queue, and movingCheck how
	// often it checks. River stores such a move within 250 ms.
	moving      = 2 * time.Second
	movingCheck = 25 * time.Millisecond
)

// Config configures [Keys]. All fields are required.
type Config struct {
	Pool    *pgxpool.Pool
	Store   *store.Store
	Inserts *insert.Inserter
	Wake    *wake.Waker
	// OwnPool returns the scheduler's own pool while it is started, and otherwise Pool.
	OwnPool func() *pgxpool.Pool
	// Metadata returns the metadata of a request's row. The runs that it overtakes must not start after it.
	Metadata func(req *jobs.Request, overtakes []int64) ([]byte, error)
	// Paused reports whether a job is paused, as far as this process knows.
	Paused func(name string) bool
}

// Keys inserts jobs that have a key. Create one with [New].
type Keys struct{ cfg Config }

// New returns Keys.
func New(cfg Config) *Keys { return &Keys{cfg} }

// Insert inserts j, the row of req, in tx unless that is nil. If a run that has the key of req takes its place, Insert
// sets the ID of j to that run's.
func (k *Keys) Insert(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job) error {
	switch {
	case req.IdempotencyKey != "":
		j.UniqueKey, j.Once = hashOf("everytick once", req.Name, req.IdempotencyKey), true
		return k.unlessFound(ctx, tx, req, j)
	case req.UniqueMode == jobs.UniqueModeLive:
		j.UniqueKey = hashOf("everytick unique", req.Name, req.Unique)
		return k.unlessFound(ctx, tx, req, j)
	default: // a run of jobs.UniqueWaiting and one of jobs.Latest can have the same key
		return k.shared(ctx, tx, req, j, hashOf("everytick waiting", req.Name, req.Unique))
	}
}

func hashOf(space, name, key string) []byte {
	sum := sha256.Sum256([]byte(space + "\x00" + name + "\x00" + key))
	return sum[:]
}

// unlessFound inserts j unless a run has its unique key, whose ID it sets.
func (k *Keys) unlessFound(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job) (err error) {
	for {
		if j.Once {
			err = k.findOnce(ctx, tx, req, j)
		} else {
			err = k.findLive(ctx, tx, j)
		}
		if err != nil || j.ID != 0 {
			return err
		}
		if tx == nil {
			err = k.cfg.Inserts.One(ctx, j)
		} else {
			err = k.cfg.Inserts.Tx(ctx, tx, j)
		}
		switch {
		case tx == nil && store.Code(err) == "40001": // the role's isolation is not read committed
		case err != nil:
			return err
		case j.Once && j.Found: // inserted meanwhile, maybe for a different trigger
			if tx == nil {
				continue
			}
			// tx has locked the run, and workers skip it until the commit.
			if err := k.cfg.Wake.NotifyTx(ctx, tx, []string{j.Queue}); err != nil {
				return err
			}
		case tx == nil:
			return nil
		default:
			return k.cfg.Wake.InsertedTx(ctx, tx, j)
		}
	}
}

// db returns tx unless that is nil, and otherwise the pool.
func (k *Keys) db(tx pgx.Tx) store.DB {
	if tx != nil {
		return tx
	}
	return k.cfg.Pool
}

// findOnce sets the ID of j to that of the run that has its idempotency key, or to 0.
func (k *Keys) findOnce(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job) error {
	found, err := k.cfg.Store.FindUnique(ctx, k.db(tx), j.UniqueKey)
	if err == nil && found.ID != 0 && found.Fingerprint != req.Fingerprint {
		err = fmt.Errorf("%w: run %d has other data, or another delay, time or priority", jobs.ErrKeyReused, found.ID)
	}
	j.ID = found.ID
	return err
}

// findLive sets the ID of j to that of the run that has its unique key, or to 0. In a transaction, an available run
// must start after the commit: it is locked so that workers skip it, and they are notified at the commit. River's
// insert would lock any row it finds until the transaction ends, and block River's statements of many rows, which
// complete runs or make due ones available.
func (k *Keys) findLive(ctx context.Context, tx pgx.Tx, j *insert.Job) error {
	for {
		found, err := k.cfg.Store.FindUnique(ctx, k.db(tx), j.UniqueKey)
		if j.ID = found.ID; err != nil || tx == nil || found.State != rivertype.JobStateAvailable {
			return err
		}
		locked, err := k.cfg.Store.LockAvailable(ctx, tx, found.ID)
		if err != nil {
			return err
		}
		if locked { // otherwise it has started or ended meanwhile
			return k.cfg.Wake.NotifyTx(ctx, tx, []string{found.Queue})
		}
	}
}

// shared inserts j, or finds or replaces the run that waits with the key that has this hash. See sql/key.sql in package
// store for why River's unique keys alone do not suffice.
func (k *Keys) shared(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job, hash []byte) error {
	began := time.Now()
	if tx != nil {
		if err := k.cfg.Store.LockKey(ctx, tx, hash); err != nil {
			return err
		}
		soon, err := false, errChanged
		for errors.Is(err, errChanged) { // in a savepoint, whose end unlocks the run that has changed
			err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) (err error) {
				soon, err = k.sharedTx(ctx, tx, true, req, j, hash, began)
				return err
			})
		}
		if err != nil {
			return err
		}
		if soon { // workers may have passed over it by the time of the commit
			err = k.cfg.Wake.NotifyTx(ctx, tx, []string{j.Queue})
		}
		if err == nil {
			err = k.cfg.Wake.InsertedTx(ctx, tx, j)
		}
		return err
	}
	if req.UniqueMode == jobs.UniqueModeWaiting { // a run that waits now starts after this call began
		live, err := k.cfg.Store.LiveByKey(ctx, k.cfg.Pool, hash, false)
		if err != nil {
			return err
		}
		if latest := latestOf(live); provider.DecideKey(req.UniqueMode, latest.State) == provider.KeyReturn {
			j.ID = latest.ID
			return nil
		}
	}
	err := errChanged
	for errors.Is(err, errChanged) {
		err = k.cfg.Inserts.InTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
			if err := k.cfg.Store.LockKey(ctx, tx, hash); err != nil {
				return err
			}
			_, err := k.sharedTx(ctx, tx, false, req, j, hash, began)
			return err
		})
	}
	if err == nil {
		k.cfg.Wake.Inserted(ctx, []*insert.Job{j}, false)
	}
	return err
}

// errChanged means that the run with the key has started or ended since it was found, or may be about to wait again. The
// transaction may have locked it, and must end before the next try.
var errChanged = errors.New("the run that has the key is changing")

// sharedTx does the work of shared in a transaction that has locked the key, at the isolation level read committed. open
// says that it is the caller's. soon says that the run was found and is due soon, but not yet. After errChanged the
// caller tries again; began is the start of its first try.
func (k *Keys) sharedTx(
	ctx context.Context, tx pgx.Tx, open bool, req *jobs.Request, j *insert.Job, hash []byte, began time.Time,
) (soon bool, err error) {
	j.UniqueKey = store.SharedKey(hash)
	live, err := k.cfg.Store.LiveByKey(ctx, tx, hash, k.cfg.Paused(req.Name))
	if err != nil {
		return false, err
	}
	latest := latestOf(live)
	if latest.Moves && time.Since(began) < moving {
		time.Sleep(movingCheck)
		return false, errChanged
	}
	action := provider.DecideKey(req.UniqueMode, latest.State)
	if action == provider.KeyInsert {
		return false, k.insertAfter(ctx, tx, req, j, live)
	}
	if open && latest.Scheduled {
		k.keepFromScheduler(ctx, latest.ID)
	}
	held, waits, err := k.cfg.Store.LockWaiting(ctx, tx, latest.ID)
	if err != nil {
		return false, err
	}
	if !waits {
		return false, errChanged
	}
	keepDue := true
	if action == provider.KeyReplace {
		others := slices.DeleteFunc(live, func(run store.Keyed) bool { return run.ID == latest.ID })
		if err := k.insertAfter(ctx, tx, req, j, others); err != nil {
			return false, err
		}
		due := j.Due
		if due.IsZero() {
			due = held.Now
		}
		keepDue = provider.ReplacedDue(held.Started, held.Due, due).After(due)
		if err := k.cfg.Store.Replace(ctx, tx, j.ID, latest.ID, keepDue); err != nil {
			return false, err
		}
	}
	j.ID, j.Queue = latest.ID, held.Queue
	if keepDue {
		j.Due = time.Time{}
		if held.Due.After(held.Now) {
			j.Due = held.Due
		}
	}
	return j.Due.Before(held.Now.Add(heldWithin)) && !j.Immediate(), nil
}

// insertAfter inserts j. With jobs.Latest, those earlier runs must not start after it.
func (k *Keys) insertAfter(ctx context.Context, tx pgx.Tx, req *jobs.Request, j *insert.Job, earlier []store.Keyed) (err error) {
	if req.UniqueMode == jobs.UniqueModeLatest {
		var ids []int64
		for _, run := range earlier {
			ids = append(ids, run.ID)
		}
		if j.Metadata, err = k.cfg.Metadata(req, ids); err != nil {
			return err
		}
	}
	return k.cfg.Inserts.Tx(ctx, tx, j)
}

// keepFromScheduler makes a run that is due soon available, before a caller's transaction locks it: River's scheduler
// waits for locked rows, and every run that it makes available would wait with it. If this fails, the lock is as good.
func (k *Keys) keepFromScheduler(ctx context.Context, id int64) {
	ctx, cancel := context.WithTimeout(ctx, heldTimeout)
	defer cancel()
	_ = k.cfg.Store.MakeAvailable(ctx, k.cfg.OwnPool(), id, heldWithin)
}

// latestOf returns the run that was inserted last, or the zero value.
func latestOf(live []store.Keyed) (latest store.Keyed) {
	for _, run := range live {
		if run.ID > latest.ID {
			latest = run
		}
	}
	return latest
}
