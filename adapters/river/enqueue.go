package river

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
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

// Metadata keys of ours in River's rows.
const (
	metaTick    = "everytick_tick"    // true: the row is a tick, its args are tickArgs
	metaOpen    = "everytick_open"    // true: enqueued by a process that does not know the job's options
	metaSkipped = "everytick_skipped" // why the job was not run
	metaStarted = "everytick_started" // true: an attempt began, of a job with jobs.StartWithin
	metaMissed  = "everytick_missed"  // how many later ticks a late one stands for
)

// liveStates are the states in which a job still has a run before it or in
// progress; River requires all but retryable of a unique job.
var liveStates = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable,
	rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// Trigger implements [jobs.Triggerer].
func (s *Scheduler) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	args, insertOpts, err := s.insertion(ctx, nil, name, data, opts)
	if err != nil {
		return "", err
	}
	var res *rivertype.JobInsertResult
	if row := (riverqueue.InsertManyParams{Args: args, InsertOpts: insertOpts}); args.unique == "" {
		res, err = s.inserts.insert(ctx, row, "")
	} else {
		// It may have to wait for somebody's transaction that has the key, so alone.
		res, err = s.inserts.insertAlone(ctx, row)
	}
	return insertedID(name, res, err)
}

// TriggerTx implements [jobs.TxTriggerer]. The job can run once tx has committed.
func (s *Scheduler) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	args, insertOpts, err := s.insertion(ctx, tx, name, data, opts)
	if err != nil {
		return "", err
	}
	res, err := s.insertOnly.InsertTx(ctx, tx, args, insertOpts)
	return insertedID(name, res, err)
}

// TriggerMany implements [jobs.Triggerer].
func (s *Scheduler) TriggerMany(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	d, err := s.definition(name)
	if err != nil {
		return nil, err
	}
	reqs, err := d.Requests(data, opts...)
	if err != nil || len(reqs) == 0 {
		return nil, err
	}
	params := make([]riverqueue.InsertManyParams, len(reqs))
	for i, req := range reqs {
		args, insertOpts, err := s.insertOpts(ctx, nil, req)
		if err != nil {
			return nil, err
		}
		params[i] = riverqueue.InsertManyParams{Args: args, InsertOpts: insertOpts}
	}
	res, err := s.insertOnly.InsertMany(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("river: trigger %d of %q: %w", len(reqs), name, err)
	}
	ids := make([]string, len(res))
	for i, r := range res {
		ids[i] = formatID(r.Job.ID)
	}
	return ids, nil
}

func formatID(id int64) string { return strconv.FormatInt(id, 10) }

func insertedID(name string, res *rivertype.JobInsertResult, err error) (string, error) {
	if err != nil {
		return "", fmt.Errorf("river: trigger %q: %w", name, err)
	}
	return formatID(res.Job.ID), nil
}

// definition returns the job's definition, or a default one when another process
// registers it.
func (s *Scheduler) definition(name string) (*jobs.Definition, error) {
	if s.cfg.TriggerOnly {
		return s.reg.Undefined(name)
	}
	return s.reg.Job(name)
}

func (s *Scheduler) insertion(ctx context.Context, tx pgx.Tx, name string, data any, opts []jobs.TriggerOption) (rowArgs, *riverqueue.InsertOpts, error) {
	d, err := s.definition(name)
	if err != nil {
		return rowArgs{}, nil, err
	}
	req, err := d.Request(data, opts...)
	if err != nil {
		return rowArgs{}, nil, err
	}
	return s.insertOpts(ctx, tx, req)
}

// insertOpts says in River's terms what req says in ours.
func (s *Scheduler) insertOpts(ctx context.Context, tx pgx.Tx, req *jobs.Request) (rowArgs, *riverqueue.InsertOpts, error) {
	opts := &riverqueue.InsertOpts{
		MaxAttempts: req.Job.MaxAttempts,
		Priority:    req.Priority,
		Queue:       queueOf(req.Job),
	}
	if req.Delay > 0 || !req.At.IsZero() {
		now, err := s.clock.nowIn(ctx, tx)
		if err != nil {
			return rowArgs{}, nil, fmt.Errorf("river: trigger %q: %w", req.Job.Name, err)
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
	if s.cfg.TriggerOnly {
		opts.Metadata = []byte(`{"` + metaOpen + `":true}`)
	}
	return rowArgs{kind: req.Job.Name, raw: req.Data, unique: req.Unique}, opts, nil
}

// The leader makes scheduled rows available when they are due, but does so only
// every 5 seconds, by its own clock, and not while none is elected. The fetch itself
// looks at the time too, by the database's clock, so a row that is due sooner is
// stored as available; River does the same for short snoozes and retries. Ticks are
// always: they wait for no leader.
const dueSoon = 5 * time.Second

// insertHook sees every row of ours before it is inserted.
type insertHook struct {
	riverqueue.HookDefaults
	s *Scheduler
}

// InsertBegin implements [rivertype.HookInsertBegin].
func (h *insertHook) InsertBegin(_ context.Context, p *rivertype.JobInsertParams) error {
	_, tick := p.Args.(tickArgs)
	if p.State == rivertype.JobStateScheduled && p.ScheduledAt != nil &&
		(tick || p.ScheduledAt.Sub(h.s.clock.estimate()) <= dueSoon) {
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
