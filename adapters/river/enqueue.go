package river

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/jobs"
)

// rowArgs are the args of every job to its worker: any JSON object, under the kind that is
// the job's registered name. River makes an interface of them for each run, which costs no
// memory of what is as large as a pointer.
type rowArgs struct{ *rowData }

type rowData struct {
	kind string
	// retryAfter is set by Work and read by NextRetry, on the same attempt.
	retryAfter *time.Duration
}

// Kind implements [riverqueue.JobArgs].
func (a rowArgs) Kind() string {
	if a.rowData == nil { // River asks of a zero value, for hooks that there are none of
		return ""
	}
	return a.kind
}

// UnmarshalJSON does nothing: the handler decodes the data, which the row has as well.
func (a *rowArgs) UnmarshalJSON([]byte) error { return nil }

// Metadata keys of ours in River's rows. The queries write metaTick out, since an
// index has it in its condition.
const (
	metaTick    = "everytick_tick"    // true: the row is a tick, its args are tickArgs
	metaOpen    = "everytick_open"    // true: enqueued by a process that does not know the job's options
	metaSkipped = "everytick_skipped" // why the job was not run
	metaStarted = "everytick_started" // true: an attempt began, of a job with jobs.StartWithin
	metaMissed  = "everytick_missed"  // how many later ticks a late one stands for
	metaNext    = "everytick_next"    // the one after these
	metaHeld    = "everytick_held"    // true: the tick waits for an earlier one; River runs it now and then, to look again
)

// rowMeta is what a run reads of them.
type rowMeta struct {
	Tick     bool              `json:"everytick_tick,omitempty"`
	Open     bool              `json:"everytick_open,omitempty"`
	Started  bool              `json:"everytick_started,omitempty"`
	Next     string            `json:"everytick_next,omitempty"`
	Held     bool              `json:"everytick_held,omitempty"`
	Metadata map[string]string `json:"everytick_metadata,omitempty"` // of jobs.TriggerMiddleware
}

// Trigger implements [jobs.Triggerer]. Unless the job is unique it waits for the database, or
// for a connection of the pool, 10 seconds at most.
func (s *Scheduler) Trigger(ctx context.Context, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	return s.trigger(ctx, nil, name, data, opts)
}

// TriggerTx implements [jobs.TxTriggerer]. The job can run once tx has committed.
func (s *Scheduler) TriggerTx(ctx context.Context, tx pgx.Tx, name string, data any, opts ...jobs.TriggerOption) (string, error) {
	if tx == nil {
		return "", fmt.Errorf("river: trigger %q: the transaction is nil; Trigger does without one", name)
	}
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
		records, err := s.records(ctx, tx, req)
		if err == nil {
			err = s.store(ctx, tx, records[0])
		}
		if err != nil {
			return fmt.Errorf("river: trigger %q: %w", name, s.unmigrated(err))
		}
		req.ID = formatID(records[0].id)
		return nil
	})
	if err != nil {
		return "", err
	}
	return req.ID, nil
}

// store stores one job, in tx unless that is nil, and tells workers of it.
func (s *Scheduler) store(ctx context.Context, tx pgx.Tx, r *record) error {
	switch {
	case r.unique != "":
		return s.storeUnique(ctx, tx, r)
	case tx == nil:
		return s.inserts.insert(ctx, r)
	}
	if err := s.storeRecords(ctx, tx, r); err != nil {
		return err
	}
	s.tellWhenDue(r)
	return s.notifier.notifyTx(ctx, tx, queuesOf(r))
}

// TriggerMany implements [jobs.Triggerer]. Many jobs are stored by COPY, in one
// transaction.
func (s *Scheduler) TriggerMany(ctx context.Context, name string, data []any, opts ...jobs.TriggerOption) ([]string, error) {
	d, err := s.definition(name)
	if err != nil {
		return nil, err
	}
	reqs, err := d.Requests(data, opts...)
	if err != nil {
		return nil, err
	}
	if len(reqs) == 0 {
		return []string{}, nil
	}
	err = d.Enqueue(ctx, reqs, func(ctx context.Context, reqs []*jobs.Request) error {
		if err := s.storeMany(ctx, reqs); err != nil {
			return fmt.Errorf("river: trigger %d of %q: %w", len(reqs), name, s.unmigrated(err))
		}
		return nil
	})
	if err != nil {
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

// storeMany stores in one statement, or by COPY in one transaction.
func (s *Scheduler) storeMany(ctx context.Context, reqs []*jobs.Request) error {
	records, err := s.records(ctx, nil, reqs...)
	if err != nil {
		return err
	}
	if len(records) < copyAtLeast {
		err = s.storeAndTell(ctx, records)
	} else {
		err = s.copyAndTell(ctx, records)
	}
	if err != nil {
		return err
	}
	for i, r := range records {
		reqs[i].ID = formatID(r.id)
	}
	return nil
}

// copyAndTell stores all or none by COPY, and tells workers of them.
func (s *Scheduler) copyAndTell(ctx context.Context, records []*record) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for chunk := range slices.Chunk(records, copyChunk) {
			if err := s.copyRecords(ctx, tx, chunk); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.tellWhenDue(records...)
	s.notifier.notify(ctx, s.pool, queuesOf(records...))
	return nil
}

// A record is a triggered job as it is stored. It is inserted here, as River would: its
// statement looks for conflicts and returns whole rows, which takes half as much time again,
// and its COPY returns no IDs and prepares all rows before it sends the first.
type record struct {
	kind, queue           string
	priority, maxAttempts int
	state                 rivertype.JobState
	at                    *time.Time // nil: now, by the database's clock
	args, metadata        []byte
	unique                string
	id                    int64 // set when it is stored
}

// records says in River's terms what reqs say in ours. It asks for the time in tx unless
// that is nil, and once: those with the same delay are due together.
func (s *Scheduler) records(ctx context.Context, tx pgx.Tx, reqs ...*jobs.Request) ([]*record, error) {
	var now time.Time
	records := make([]*record, len(reqs))
	for i, req := range reqs {
		r := &record{
			kind: req.Job.Name, queue: queueOf(req.Job), priority: req.Priority, maxAttempts: req.Job.MaxAttempts,
			state: rivertype.JobStateAvailable, args: req.Data, metadata: noMetadata, unique: req.Unique,
		}
		if records[i] = r; req.Delay > 0 || !req.At.IsZero() {
			if now.IsZero() {
				var err error
				if now, err = s.clock.nowIn(ctx, tx); err != nil {
					return nil, err
				}
			}
			// A job that is due now leaves the time to the database.
			if due := req.Due(now); due.After(now) {
				r.at, r.state = &due, initialState(due, now)
			}
		}
		if s.cfg.TriggerOnly || len(req.Metadata) > 0 {
			var err error
			if r.metadata, err = json.Marshal(rowMeta{Open: s.cfg.TriggerOnly, Metadata: req.Metadata}); err != nil {
				return nil, err
			}
		}
	}
	return records, nil
}

var noMetadata = []byte(`{}`)

// A column of River's table, of which each row has the value of a record.
type column struct {
	name, pgType string
	// isDefault tells whether a row has the value if none is given; nil if none does.
	isDefault func(*record) bool
	value     func(*record) any   // of one record
	values    func([]*record) any // a slice of those of several
}

func columnOf[T any](name, pgType string, isDefault func(*record) bool, value func(*record) T) column {
	return column{
		name: name, pgType: pgType, isDefault: isDefault,
		value: func(r *record) any { return value(r) },
		values: func(records []*record) any {
			all := make([]T, len(records))
			for i, r := range records {
				all[i] = value(r)
			}
			return all
		},
	}
}

// recordColumns are those that rows are stored with, the ID aside.
var recordColumns = []column{
	columnOf("kind", "text", nil, func(r *record) string { return r.kind }),
	columnOf("max_attempts", "smallint", nil, func(r *record) int16 { return int16(r.maxAttempts) }), //nolint:gosec // is checked
	columnOf("args", "jsonb", nil, func(r *record) string { return string(r.args) }),
	columnOf("queue", "text", func(r *record) bool { return r.queue == riverqueue.QueueDefault }, func(r *record) string { return r.queue }),
	columnOf("priority", "smallint", func(r *record) bool { return r.priority == riverqueue.PriorityDefault },
		func(r *record) int16 { return int16(r.priority) }), //nolint:gosec // is checked
	columnOf("state", "text", func(r *record) bool { return r.state == rivertype.JobStateAvailable }, func(r *record) string { return string(r.state) }),
	columnOf("scheduled_at", "timestamptz", func(r *record) bool { return r.at == nil }, func(r *record) *time.Time { return r.at }),
	columnOf("unique_key", "bytea", func(r *record) bool { return r.unique == "" }, (*record).uniqueKey),
	columnOf("unique_states", "text", func(r *record) bool { return r.unique == "" }, func(*record) string { return liveStates }),
	columnOf("metadata", "jsonb", func(r *record) bool { return bytes.Equal(r.metadata, noMetadata) }, func(r *record) string { return string(r.metadata) }),
}

// columnsOf leaves out the columns in which all of the records have the default, which are most
// as a rule: what is not sent is what is saved most on.
func columnsOf(records []*record) (columns []column) {
	for _, c := range recordColumns {
		if c.isDefault == nil || slices.ContainsFunc(records, func(r *record) bool { return !c.isDefault(r) }) {
			columns = append(columns, c)
		}
	}
	return columns
}

// storeRecords stores all or none, in one statement.
func (s *Scheduler) storeRecords(ctx context.Context, db jobs.DB, records ...*record) error {
	sql, args := s.insertSQL(records)
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	return readIDs(rows, records)
}

// insertSQL returns the statement that stores all or none, or of those that are unique what
// has no other. The IDs come back in the order of the rows, for readIDs.
func (s *Scheduler) insertSQL(records []*record) (sql string, args []any) {
	columns := columnsOf(records)
	names, stored, params := make([]string, len(columns)), make([]string, len(columns)), make([]string, len(columns))
	args = make([]any, len(columns))
	conflict := ""
	for i, c := range columns {
		names[i], stored[i] = c.name, c.name
		switch c.name {
		case "state":
			stored[i] += "::" + s.state
		case "unique_states":
			stored[i] += "::bit(8)"
			conflict = ` ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL
				AND ` + s.inBitmask + `(unique_states, state) DO NOTHING`
		case "scheduled_at":
			stored[i] = "coalesce(" + c.name + ", now())"
		}
		param := "$" + strconv.Itoa(i+1) + "::" + c.pgType
		if len(records) == 1 { // as most are
			args[i] = c.value(records[0])
		} else {
			// Several unnest in a SELECT go through their arrays side by side, and faster than one of
			// them all in a FROM.
			param, args[i] = "unnest("+param+"[])", c.values(records)
		}
		params[i] = param + " AS " + c.name
	}
	return `INSERT INTO ` + s.table + ` (` + strings.Join(names, ", ") + `) SELECT ` + strings.Join(stored, ", ") + `
		FROM (SELECT ` + strings.Join(params, ", ") + `) AS row` + conflict + ` RETURNING id`, args
}

func readIDs(rows pgx.Rows, records []*record) error {
	n := 0
	var id int64
	_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
		records[n].id = id
		n++
		return nil
	})
	return err
}

// copyRecords stores by COPY, for which the IDs are drawn beforehand: it returns none.
func (s *Scheduler) copyRecords(ctx context.Context, tx pgx.Tx, records []*record) error {
	var ids []int64
	// OFFSET 0 keeps it from asking for the sequence again with each number.
	err := tx.QueryRow(ctx, `SELECT ARRAY (SELECT nextval(seq)
		FROM (SELECT pg_get_serial_sequence($1, 'id')::regclass AS seq OFFSET 0) AS ids, generate_series(1, $2))`,
		s.table, len(records)).Scan(&ids)
	if err != nil {
		return err
	}
	columns := columnsOf(records)
	names := []string{"id"}
	for _, c := range columns {
		names = append(names, c.name)
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{s.cfg.Schema, "river_job"}, names, pgx.CopyFromSlice(len(records), func(i int) ([]any, error) {
		r := records[i]
		r.id = ids[i]
		values := append(make([]any, 0, len(names)), r.id)
		for _, c := range columns {
			values = append(values, c.value(r))
		}
		return values, nil
	}))
	return err
}

// storeUnique stores a job unless there is a live one of its key, in tx unless that is nil.
// It may have to wait for somebody's transaction that has the key, so it joins no others.
// River's own insertion locks whatever it finds until the transaction ends, and River's
// statements of many rows, which say what became of jobs or make those that are due
// available, wait for that one. Here only a job that a worker could take is locked: in a
// transaction it has to start after the commit, so that it sees what was written before.
func (s *Scheduler) storeUnique(ctx context.Context, tx pgx.Tx, r *record) error {
	if tx == nil {
		return s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			stored, _, err := s.storeOrFind(ctx, conn, r, false)
			if stored {
				s.tellWhenDue(r)
				s.notifier.notify(ctx, conn, queuesOf(r))
			}
			return err
		})
	}
	stored, queues, err := s.storeOrFind(ctx, tx, r, true)
	if err != nil {
		return err
	}
	if stored {
		s.tellWhenDue(r)
	}
	return s.notifier.notifyTx(ctx, tx, queues)
}

// storeOrFind stores r, or sets its ID to that of the live job of its key, and returns the
// queues whose workers may take it.
func (s *Scheduler) storeOrFind(ctx context.Context, db jobs.DB, r *record, lock bool) (stored bool, queues []string, err error) {
	for {
		if err := s.storeRecords(ctx, db, r); err != nil {
			var refused *pgconn.PgError
			if !lock && errors.As(err, &refused) && refused.Code == "40001" {
				continue // the role's isolation is not read committed, and nothing but this is in the transaction
			}
			return false, nil, err
		}
		if r.id != 0 {
			return true, queuesOf(r), nil
		}
		var (
			state rivertype.JobState
			queue string
		)
		// The condition is that of the index on the key.
		err := db.QueryRow(ctx, `SELECT id, state, queue FROM `+s.table+` WHERE unique_key = $1 AND unique_key IS NOT NULL
			AND unique_states IS NOT NULL AND `+s.inBitmask+`(unique_states, state)`, r.uniqueKey()).Scan(&r.id, &state, &queue)
		if err == nil && (!lock || state != rivertype.JobStateAvailable) {
			return false, nil, nil
		}
		if err == nil {
			// Workers pass over rows that are locked in whatever way; this one others can have at once.
			err = db.QueryRow(ctx, `SELECT id FROM `+s.table+` WHERE id = $1 AND state = 'available' FOR KEY SHARE`, r.id).Scan(&r.id)
			if err == nil {
				return false, []string{queue}, nil
			}
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return false, nil, err
		}
		r.id = 0 // it has gone on, or ended: look again
	}
}

// uniqueKey is nil where the job is not unique.
func (r *record) uniqueKey() []byte {
	if r.unique == "" {
		return nil
	}
	key := sha256.Sum256([]byte("everytick unique\x00" + r.kind + "\x00" + r.unique))
	return key[:]
}

// liveStates are those in which a job still has a run before it or in progress, all but
// cancelled, completed and discarded, as River's column unique_states has them.
const liveStates = "11110001"

func formatID(id int64) string { return strconv.FormatInt(id, 10) }

// definition returns the job's definition, or a default one when another process
// registers it.
func (s *Scheduler) definition(name string) (*jobs.Definition, error) {
	if s.cfg.TriggerOnly {
		return s.reg.Undefined(name)
	}
	return s.reg.Job(name)
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
