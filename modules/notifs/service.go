// Package notifs stores the notifications that an application shows to its users.
//
// A notification can be created in the same transaction as the change that it announces. It is listed until it
// expires. A job deletes it when it has expired or is 90 days old; see [RegisterNotifsJobs]. Package migrations
// creates the table.
package notifs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/everytick/everytick/jobs"
)

const (
	// DeleteAfter is the age at which a notification is deleted, read or not: 90 days.
	DeleteAfter = 90 * 24 * time.Hour

	// DefaultLimit is how many notifications [Service.List] returns by default.
	DefaultLimit = 50
	// MaxLimit is the most notifications that [Service.List] returns.
	MaxLimit = 1000

	// batchSize is how many rows one DELETE removes: few enough to hold its locks for well under a second.
	batchSize = 2000
)

var (
	// ErrInvalid is returned for a notification that cannot be created. Nothing was sent to the database, so the
	// caller's transaction is still usable.
	ErrInvalid = errors.New("notifs: invalid notification")
	// ErrNotFound is returned for a notification that does not exist or belongs to another user, without saying
	// which.
	ErrNotFound = errors.New("notifs: notification not found")
)

// A Notification is for one user. All strings must be valid UTF-8 without NUL bytes.
type Notification struct {
	// ID is set by the database and ignored by Create. Later notifications have greater IDs.
	ID int64
	// User is the recipient: the application's own identifier, 1 to 1,000 bytes.
	User string
	// Kind is a category such as "invoice.paid", which the application can sort and style by. It may be empty.
	Kind string
	// Title is one line of text. It must not be empty.
	Title string
	// Body is the rest of the text. It may be empty.
	Body string
	// CreatedAt is when it was created, in UTC. Ignored by Create.
	CreatedAt time.Time
	// ReadAt is when it was marked read, in UTC; zero while it is unread. Ignored by Create.
	ReadAt time.Time
	// ExpiresAt is when it stops being shown, in UTC; zero means never.
	ExpiresAt time.Time
}

// A Query selects which of a user's notifications [Service.List] returns.
type Query struct {
	// UnreadOnly leaves out notifications that were read.
	UnreadOnly bool
	// Before is the ID of the last notification on the previous page; 0 for the first page.
	Before int64
	// Limit is the most notifications to return, up to MaxLimit. Defaults to DefaultLimit.
	Limit int
}

// Service creates, lists and deletes notifications. It is safe for concurrent use if its database handle is.
type Service struct{ repo repo }

// New returns a service on db, which is either the application's pool or a transaction. On a transaction, everything
// the service does is part of it.
func New(db jobs.DB) *Service { return &Service{repo{db}} }

// Create stores a notification and returns its ID. It returns [ErrInvalid] if the notification is invalid; other
// errors come from the database.
func (s *Service) Create(ctx context.Context, n Notification) (id int64, err error) {
	if err := n.check(); err != nil {
		return 0, err
	}
	if id, err = s.repo.insert(ctx, n); err != nil {
		return 0, fmt.Errorf("notifs: creating: %w", err)
	}
	return id, nil
}

// List returns the user's notifications that have not expired, newest first.
func (s *Service) List(ctx context.Context, user string, q Query) ([]Notification, error) {
	if q.Limit <= 0 {
		q.Limit = DefaultLimit
	}
	q.Limit = min(q.Limit, MaxLimit)
	list, err := s.repo.list(ctx, user, q)
	if err != nil {
		return nil, fmt.Errorf("notifs: listing: %w", err)
	}
	return list, nil
}

// UnreadCount returns how many unread notifications the user has that have not expired.
func (s *Service) UnreadCount(ctx context.Context, user string) (int, error) {
	n, err := s.repo.unread(ctx, user)
	if err != nil {
		return 0, fmt.Errorf("notifs: counting: %w", err)
	}
	return n, nil
}

// MarkRead marks one of the user's notifications as read. If it was already read, it keeps its ReadAt. MarkRead
// returns [ErrNotFound] if the notification does not exist or belongs to another user.
func (s *Service) MarkRead(ctx context.Context, user string, id int64) error {
	found, err := s.repo.markRead(ctx, user, id)
	if err != nil {
		return fmt.Errorf("notifs: marking %d read: %w", id, err)
	}
	if !found {
		return fmt.Errorf("%w: %d", ErrNotFound, id)
	}
	return nil
}

// MarkAllRead marks all of the user's notifications as read and returns how many were unread.
func (s *Service) MarkAllRead(ctx context.Context, user string) (int, error) {
	n, err := s.repo.markAllRead(ctx, user)
	if err != nil {
		return 0, fmt.Errorf("notifs: marking all read: %w", err)
	}
	return n, nil
}

// CleanUp deletes the notifications that have expired or are older than [DeleteAfter], and returns how many. It works
// in batches, each in its own transaction unless the service is on one, so cancelling ctx loses no finished batch.
// Concurrent calls share the work. The count is correct even if an error is returned.
func (s *Service) CleanUp(ctx context.Context) (deleted int, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return deleted, fmt.Errorf("notifs: cleaning up: %w", err)
		}
		n, err := s.repo.deleteOld(ctx, DeleteAfter, batchSize)
		if err != nil {
			return deleted, fmt.Errorf("notifs: cleaning up: %w", err)
		}
		deleted += n
		if n < batchSize {
			return deleted, nil
		}
	}
}

// maxUser limits the size of User in bytes, which is indexed: PostgreSQL bounds the size of an index row.
const maxUser = 1000

func (n Notification) check() error {
	switch {
	case n.User == "":
		return fmt.Errorf("%w: no user", ErrInvalid)
	case n.Title == "":
		return fmt.Errorf("%w: no title", ErrInvalid)
	case len(n.User) > maxUser:
		return fmt.Errorf("%w: user of %d bytes, at most %d are allowed", ErrInvalid, len(n.User), maxUser)
	}
	for _, text := range []string{n.User, n.Kind, n.Title, n.Body} {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: text is not valid UTF-8 or contains a NUL byte", ErrInvalid)
		}
	}
	return nil
}
