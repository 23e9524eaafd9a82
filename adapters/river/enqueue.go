package river

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/jobs"
)

// rowArgs are the args of every job, in both directions: any JSON object, under
// the kind that is the job's registered name.
type rowArgs struct {
	kind   string
	raw    json.RawMessage
	unique string // the key given with jobs.Unique
	// retryAfter is set by Work and read by NextRetry, on the same attempt.
	retryAfter *time.Duration
}

// Kind implements [riverqueue.JobArgs].
func (a rowArgs) Kind() string { return a.kind }

// MarshalJSON returns the data as it was given.
func (a rowArgs) MarshalJSON() ([]byte, error) { return a.raw, nil }

// UnmarshalJSON keeps the data; the handler decodes it.
func (a *rowArgs) UnmarshalJSON(data []byte) error {
	a.raw = append(a.raw[:0], data...)
	return nil
}

// Metadata keys of ours in River's rows. The queries write metaTick out, since an
// index has it in its condition.
const (
	metaTick    = "everytick_tick"    // true: the row is a tick, its args are tickArgs
	metaOpen    = "everytick_open"    // true: enqueued by a process that does not know the job's options
	metaSkipped = "everytick_skipped" // why the job was not run
	metaStarted = "everytick_started" // true: an attempt began, of a job with jobs.StartWithin
	metaMissed  = "everytick_missed"  // how many later ticks a late one stands for
)

// rowMeta is what a run reads of them.
type rowMeta struct {
	Tick     bool              `json:"everytick_tick,omitempty"`
	Open     bool              `json:"everytick_open,omitempty"`
	Started  bool              `json:"everytick_started,omitempty"`
	Metadata map[string]string `json:"everytick_metadata,omitempty"` // of jobs.TriggerMiddleware
}

// liveStates are the states in which a job still has a run before it or in
// progress; River requires all but retryable of a unique job.
var liveStates = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable,
	rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// Trigger implements [jobs.Triggerer].
func (s *Scheduler) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	return s.trigger(ctx, nil, name, data, opts)
}

// TriggerTx implements [jobs.TxTriggerer]. The job can run once tx has committed.
func (s *Scheduler) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	return s.trigger(ctx, tx, name, data, opts)
}

// trigger stores one job, in tx unless that is nil.
func (s *Scheduler) trigger(ctx context.Context, tx pgx.Tx, name string, data any, opts []jobs.TriggerOption) (string, error) {
	d, err := s.definition(name)
	if err != nil {
		return "", err
	}
	req, err := d.Request(data, opts...)
	if err != nil {
		return "", err
	}
	err = d.Enqueue(ctx, []*jobs.Request{req}, func(ctx context.Context, _ []*jobs.Request) error {
		row, err := s.row(ctx, tx, req)
		if err != nil {
			return err
		}
		var res *rivertype.JobInsertResult
		switch {
		case tx != nil:
			res, err = s.insertOnly.InsertTx(ctx, notifyingTx{tx, s.inserts.notifier}, row.Args, row.InsertOpts)
		case req.Unique == "":
			res, err = s.inserts.insert(ctx, row, "")
		default:
			// It may have to wait for somebody's transaction that has the key, so alone.
			res, err = s.inserts.insertAlone(ctx, row)
		}
		if err != nil {
			return fmt.Errorf("river: trigger %q: %w", name, err)
		}
		req.ID = formatID(res.Job.ID)
		return nil
	})
	if err != nil {
		return "", err
	}
	return req.ID, nil
}

// TriggerMany implements [jobs.Triggerer]. Many jobs are stored by COPY, in one
// transaction.
func (s *Scheduler) TriggerMany(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	d, err := s.definition(name)
	if err != nil {
		return nil, err
	}
	reqs, err := d.Requests(data, opts...)
	if err != nil || len(reqs) == 0 {
		return nil, err
	}
	store := s.storeFew
	if len(reqs) >= copyAtLeast {
		store = s.storeMany
	}
	if err := d.Enqueue(ctx, reqs, store); err != nil {
		return nil, err
	}
	ids := make([]string, len(reqs))
	for i, req := range reqs {
		ids[i] = req.ID
	}
	return ids, nil
}

const (
	// copyAtLeast is how many rows make up for the round trips that COPY needs.
	copyAtLeast = 500
	// copyChunk is how many rows are copied at a time.
	copyChunk = 10_000
)

func (s *Scheduler) storeFew(ctx context.Context, reqs []*jobs.Request) error {
	rows := make([]riverqueue.InsertManyParams, len(reqs))
	for i, req := range reqs {
		var err error
		if rows[i], err = s.row(ctx, nil, req); err != nil {
			return err
		}
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		res, err := s.insertOnly.InsertManyTx(ctx, notifyingTx{tx, s.inserts.notifier}, rows)
		for i, r := range res {
			reqs[i].ID = formatID(r.Job.ID)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("river: trigger %d of %q: %w", len(reqs), reqs[0].Job.Name, err)
	}
	return nil
}

// storeMany stores by COPY, the rows as River would. River's InsertManyFast returns no
// IDs, and prepares all rows before it sends the first.
func (s *Scheduler) storeMany(ctx context.Context, reqs []*jobs.Request) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		first := reqs[0] // its options are those of all
		columns := []string{"id", "kind", "queue", "priority", "max_attempts", "state", "args", "metadata"}
		queue, state, due := queueOf(first.Job), rivertype.JobStateAvailable, time.Time{}
		if first.Delay > 0 || !first.At.IsZero() {
			now, err := s.clock.nowIn(ctx, tx)
			if err != nil {
				return err
			}
			// A job that is due now leaves the time to the database.
			if due = first.Due(now); due.After(now) {
				columns, state = append(columns, "scheduled_at"), initialState(due, now)
			}
		}
		for chunk := range slices.Chunk(reqs, copyChunk) {
			ids, err := s.drawIDs(ctx, tx, len(chunk))
			if err != nil {
				return err
			}
			rows := pgx.CopyFromSlice(len(chunk), func(i int) ([]any, error) {
				req := chunk[i]
				req.ID = formatID(ids[i])
				metadata, err := s.metadata(req)
				values := []any{ids[i], req.Job.Name, queue, req.Priority, req.Job.MaxAttempts, string(state), req.Data, metadata, due}
				return values[:len(columns)], err
			})
			if _, err := tx.CopyFrom(ctx, pgx.Identifier{s.cfg.Schema, "river_job"}, columns, rows); err != nil {
				return err
			}
		}
		if state != rivertype.JobStateAvailable {
			return nil
		}
		return s.inserts.notifier.notify(ctx, tx, s.cfg.Schema, queue)
	})
	if err != nil {
		return fmt.Errorf("river: trigger %d of %q: %w", len(reqs), reqs[0].Job.Name, err)
	}
	return nil
}

// drawIDs takes n numbers of the sequence that the IDs are of: COPY returns none.
func (s *Scheduler) drawIDs(ctx context.Context, tx pgx.Tx, n int) ([]int64, error) {
	rows, err := tx.Query(ctx, `WITH ids AS MATERIALIZED (SELECT pg_get_serial_sequence($1, 'id')::regclass AS seq)
		SELECT nextval(seq) FROM ids, generate_series(1, $2)`, s.table, n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

func formatID(id int64) string { return strconv.FormatInt(id, 10) }

// definition returns the job's definition, or a default one when another process
// registers it.
func (s *Scheduler) definition(name string) (*jobs.Definition, error) {
	if s.cfg.TriggerOnly {
		return s.reg.Undefined(name)
	}
	return s.reg.Job(name)
}

// row says in River's terms what req says in ours.
func (s *Scheduler) row(ctx context.Context, tx pgx.Tx, req *jobs.Request) (row riverqueue.InsertManyParams, err error) {
	opts := &riverqueue.InsertOpts{
		MaxAttempts: req.Job.MaxAttempts,
		Priority:    req.Priority,
		Queue:       queueOf(req.Job),
	}
	if req.Delay > 0 || !req.At.IsZero() {
		now, err := s.clock.nowIn(ctx, tx)
		if err != nil {
			return row, fmt.Errorf("river: trigger %q: %w", req.Job.Name, err)
		}
		// A job that is due now leaves the time to the database.
		if due := req.Due(now); due.After(now) {
			opts.ScheduledAt = due
		}
	}
	if req.Unique != "" {
		// The hook replaces the key that River makes of the args.
		opts.UniqueOpts = riverqueue.UniqueOpts{ByArgs: true, ByState: liveStates}
	}
	if opts.Metadata, err = s.metadata(req); err != nil {
		return row, fmt.Errorf("river: trigger %q: %w", req.Job.Name, err)
	}
	return riverqueue.InsertManyParams{Args: rowArgs{kind: req.Job.Name, raw: req.Data, unique: req.Unique}, InsertOpts: opts}, nil
}

var noMetadata = []byte(`{}`)

func (s *Scheduler) metadata(req *jobs.Request) ([]byte, error) {
	if !s.cfg.TriggerOnly && len(req.Metadata) == 0 {
		return noMetadata, nil
	}
	return json.Marshal(rowMeta{Open: s.cfg.TriggerOnly, Metadata: req.Metadata})
}

// The leader makes scheduled rows available when they are due, but does so only
// every 5 seconds, by its own clock, and not while none is elected. The fetch itself
// looks at the time too, by the database's clock, so a row that is due sooner is
// stored as available; River does the same for short snoozes and retries. Ticks are
// always: they wait for no leader.
const dueSoon = 5 * time.Second

// initialState is that of a row that is due then.
func initialState(due, now time.Time) rivertype.JobState {
	if due.Sub(now) <= dueSoon {
		return rivertype.JobStateAvailable
	}
	return rivertype.JobStateScheduled
}

// insertHook sees every row of ours before it is inserted.
type insertHook struct {
	riverqueue.HookDefaults
	s *Scheduler
}

// InsertBegin implements [rivertype.HookInsertBegin].
func (h *insertHook) InsertBegin(_ context.Context, p *rivertype.JobInsertParams) error {
	_, tick := p.Args.(tickArgs)
	if p.State == rivertype.JobStateScheduled && p.ScheduledAt != nil {
		p.State = initialState(*p.ScheduledAt, h.s.clock.estimate())
	}
	if tick {
		p.State = rivertype.JobStateAvailable
	}
	if a, ok := p.Args.(rowArgs); ok && a.unique != "" {
		key := sha256.Sum256([]byte("everytick unique\x00" + a.kind + "\x00" + a.unique))
		p.UniqueKey = key[:]
	}
	return nil
}

var notInQueueName = regexp.MustCompile(`[^a-z0-9]+`)

// queueOf returns the River queue of a job: its own when it has worker slots of
// its own. River's queue names take neither dots nor 100 bytes, so a hash keeps
// them apart.
func queueOf(d *jobs.Definition) string {
	if d.Concurrency == 0 {
		return riverqueue.QueueDefault
	}
	readable := strings.Trim(notInQueueName.ReplaceAllString(d.Name, "-"), "-")
	sum := sha256.Sum256([]byte(d.Name))
	return strings.TrimRight(readable[:min(len(readable), 48)], "-") + "-" + hex.EncodeToString(sum[:4])
}
