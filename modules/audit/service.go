// Package audit keeps a trail of who did what to what, and for how long it is kept.
//
// An entry is recorded in the transaction that does what it tells of, so that the
// one never exists without the other:
//
//	tx, err := pool.Begin(ctx)
//	…
//	_, err = audit.New(tx).Record(ctx, audit.Entry{Actor: "user:7", Action: "invoice.delete", Target: "invoice:1001"})
//	…
//	err = tx.Commit(ctx)
//
// Entries stay listed for a year and archived for seven; see [RegisterAuditJobs].
// The tables are those of the package migrations.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/everytick/everytick/jobs"
)

const (
	// ArchiveAfter is the age at which an entry moves to the archive: 365 days.
	ArchiveAfter = 365 * 24 * time.Hour
	// PurgeAfter is the age at which an archived entry is deleted: 2,555 days, which
	// are seven years; HIPAA asks for six.
	PurgeAfter = 2555 * 24 * time.Hour

	// DefaultLimit is how many entries [Service.Recent] returns unless told.
	DefaultLimit = 50
	// MaxLimit is how many it returns at most.
	MaxLimit = 1000

	// batchSize is how many rows one statement of the retention moves: enough to get
	// through millions, few enough that it holds its locks for well under a second.
	batchSize = 2000
)

// ErrInvalidEntry is returned for an entry that cannot be recorded. Nothing was
// sent to the database, so a caller's transaction can go on.
var ErrInvalidEntry = errors.New("audit: invalid entry")

// An Entry tells that something happened. Texts are valid UTF-8 without NUL.
type Entry struct {
	// ID is set by the database and ignored by Record. It is kept in the archive.
	ID int64
	// OccurredAt is when it happened, to the microsecond. Record takes the zero time
	// for now, by the database's clock.
	OccurredAt time.Time
	// Actor is who did it, such as "user:7". It must not be empty. Actor, Action and Target
	// have 1,000 bytes at most.
	Actor string
	// Action is what was done, such as "invoice.delete". It must not be empty.
	Action string
	// Target is what it was done to, such as "invoice:1001". It may be empty.
	Target string
	// Detail is a JSON object with whatever else is worth knowing; nil stands for {}.
	// It is kept as jsonb: white space and the order of keys are not, and PostgreSQL
	// refuses \u0000 in it.
	Detail json.RawMessage
}

// A Filter tells which entries [Service.Recent] returns.
type Filter struct {
	// Actor and Target, if not empty, are those of the entries wanted.
	Actor, Target string
	// Limit is how many entries are returned at most: up to MaxLimit. Defaults to
	// DefaultLimit.
	Limit int
}

// Service records and lists entries. It may be used by several goroutines at once
// if its database may.
type Service struct{ repo repo }

// New returns a service on db: the application's pool, or a transaction of the
// caller's, of which everything the service does is then a part.
func New(db jobs.DB) *Service { return &Service{repo{db}} }

// Record stores an entry and returns its ID. An entry that cannot be stored is
// [ErrInvalidEntry]; other errors are the database's, and as always a transaction
// in which one happened can only be rolled back.
func (s *Service) Record(ctx context.Context, e Entry) (id int64, err error) {
	if e.Detail == nil {
		e.Detail = json.RawMessage(`{}`)
	}
	if err := e.check(); err != nil {
		return 0, err
	}
	if id, err = s.repo.insert(ctx, e); err != nil {
		return 0, fmt.Errorf("audit: recording %q: %w", e.Action, err)
	}
	return id, nil
}

// Recent returns the latest entries that match the filter, the newest first.
// Archived ones are not among them.
func (s *Service) Recent(ctx context.Context, f Filter) ([]Entry, error) {
	if f.Limit <= 0 {
		f.Limit = DefaultLimit
	}
	f.Limit = min(f.Limit, MaxLimit)
	entries, err := s.repo.recent(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("audit: listing: %w", err)
	}
	return entries, nil
}

// Retain moves entries older than [ArchiveAfter] to the archive and deletes
// archived ones older than [PurgeAfter], both by when they occurred, and returns
// how many. It works in batches, each a transaction of its own unless the service
// is on one of the caller's. So it can be interrupted at any point, which ctx does,
// and several may run at once: they share the work. The counts are right beside an
// error, too.
func (s *Service) Retain(ctx context.Context) (archived, purged int, err error) {
	if archived, err = inBatches(ctx, ArchiveAfter, s.repo.archive); err != nil {
		return archived, 0, fmt.Errorf("audit: archiving: %w", err)
	}
	if purged, err = inBatches(ctx, PurgeAfter, s.repo.purge); err != nil {
		return archived, purged, fmt.Errorf("audit: purging: %w", err)
	}
	return archived, purged, nil
}

func inBatches(ctx context.Context, age time.Duration, batch func(context.Context, time.Duration, int) (int, error)) (total int, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := batch(ctx, age, batchSize)
		if err != nil {
			return total, err
		}
		total += n
		if n < batchSize {
			return total, nil
		}
	}
}

// maxText is the size of a text that is in an index, which PostgreSQL bounds.
const maxText = 1000

func (e Entry) check() error {
	switch {
	case e.Actor == "":
		return fmt.Errorf("%w: no actor", ErrInvalidEntry)
	case e.Action == "":
		return fmt.Errorf("%w: no action", ErrInvalidEntry)
	case !json.Valid(e.Detail) || !bytes.HasPrefix(bytes.TrimSpace(e.Detail), []byte("{")):
		return fmt.Errorf("%w: detail is no JSON object", ErrInvalidEntry)
	}
	for _, field := range []struct{ name, text string }{{"actor", e.Actor}, {"action", e.Action}, {"target", e.Target}} {
		if len(field.text) > maxText {
			return fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", ErrInvalidEntry, field.name, len(field.text), maxText)
		}
	}
	for _, text := range []string{e.Actor, e.Action, e.Target, string(e.Detail)} {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: text that is not UTF-8 or holds a NUL", ErrInvalidEntry)
		}
	}
	return nil
}
