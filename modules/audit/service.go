// Package audit records who did what to what, and deletes old records.
//
// Record an entry in the transaction that makes the change, so that neither exists without the other:
//
//	tx, err := pool.Begin(ctx)
//	…
//	_, err = audit.New(tx).Record(ctx, audit.Entry{Actor: "user:7", Action: "invoice.delete", Target: "invoice:1001"})
//	…
//	err = tx.Commit(ctx)
//
// Entries move to an archive after one year and are deleted after seven; see [RegisterAuditJobs]. Package migrations
// creates the tables.
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
	// PurgeAfter is the age at which an archived entry is deleted: 2,555 days, or seven years. HIPAA requires six.
	PurgeAfter = 2555 * 24 * time.Hour

	// DefaultLimit is how many entries [Service.Recent] returns by default.
	DefaultLimit = 50
	// MaxLimit is the most entries that [Service.Recent] returns.
	MaxLimit = 1000

	// batchSize is how many rows one retention statement moves: enough to get through millions, few enough to hold
	// its locks for well under a second.
	batchSize = 2000
)

// ErrInvalidEntry is returned for an entry that cannot be recorded. Nothing was sent to the database, so the caller's
// transaction is still usable.
var ErrInvalidEntry = errors.New("audit: invalid entry")

// An Entry describes one action. All strings must be valid UTF-8 without NUL bytes.
type Entry struct {
	// ID is set by the database and ignored by Record. The entry keeps it in the archive.
	ID int64
	// OccurredAt is when it happened, to the microsecond. Defaults to the current time by the database's clock.
	OccurredAt time.Time
	// Actor is who did it, such as "user:7". It must not be empty. Actor, Action and Target are limited to 1,000
	// bytes each.
	Actor string
	// Action is what was done, such as "invoice.delete". It must not be empty.
	Action string
	// Target is what it was done to, such as "invoice:1001". It may be empty.
	Target string
	// Detail is a JSON object with further details. Defaults to {}. It is stored as jsonb, which does not preserve
	// white space or the order of keys and rejects \u0000.
	Detail json.RawMessage
}

// A Filter selects the entries that [Service.Recent] returns.
type Filter struct {
	// Actor and Target, if not empty, must equal those of the entry.
	Actor, Target string
	// Limit is the most entries to return, up to MaxLimit. Defaults to DefaultLimit.
	Limit int
}

// Service records and lists entries. It is safe for concurrent use if its database handle is.
type Service struct{ repo repo }

// New returns a service on db, which is either the application's pool or a transaction. On a transaction, everything
// the service does is part of it.
func New(db jobs.DB) *Service { return &Service{repo{db}} }

// Record stores an entry and returns its ID. It returns [ErrInvalidEntry] if the entry is invalid. Other errors come
// from the database, and a transaction in which one occurred can only be rolled back.
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

// Recent returns the latest entries that match the filter, newest first. It does not return archived entries.
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

// Retain moves entries older than [ArchiveAfter] to the archive, deletes archived entries older than [PurgeAfter],
// and returns both counts. Ages count from OccurredAt. It works in batches, each in its own transaction unless the
// service is on one, so cancelling ctx loses no finished batch. Concurrent calls share the work. The counts are
// correct even if an error is returned.
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

// maxText limits the strings that are indexed, in bytes: PostgreSQL bounds the size of an index row.
const maxText = 1000

func (e Entry) check() error {
	switch {
	case e.Actor == "":
		return fmt.Errorf("%w: no actor", ErrInvalidEntry)
	case e.Action == "":
		return fmt.Errorf("%w: no action", ErrInvalidEntry)
	case !json.Valid(e.Detail) || !bytes.HasPrefix(bytes.TrimSpace(e.Detail), []byte("{")):
		return fmt.Errorf("%w: detail is not a JSON object", ErrInvalidEntry)
	}
	for _, field := range []struct{ name, text string }{{"actor", e.Actor}, {"action", e.Action}, {"target", e.Target}} {
		if len(field.text) > maxText {
			return fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", ErrInvalidEntry, field.name, len(field.text), maxText)
		}
	}
	for _, text := range []string{e.Actor, e.Action, e.Target, string(e.Detail)} {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: text is not valid UTF-8 or contains a NUL byte", ErrInvalidEntry)
		}
	}
	return nil
}
