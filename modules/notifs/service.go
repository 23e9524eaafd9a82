// Package notifs keeps the notifications that an application shows to its users.
//
// One is created in the transaction that gives rise to it, listed until it expires,
// and deleted by a job after that, or when it is 90 days old; see
// [RegisterNotifsJobs]. The table is that of the package migrations.
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

	// DefaultLimit is how many notifications [Service.List] returns unless told.
	DefaultLimit = 50
	// MaxLimit is how many it returns at most.
	MaxLimit = 1000

	// batchSize is how many rows one statement of the clean-up deletes, so that it
	// holds its locks for well under a second.
	batchSize = 2000
)

var (
	// ErrInvalid is returned for a notification that cannot be created. Nothing was
	// sent to the database, so a caller's transaction can go on.
	ErrInvalid = errors.New("notifs: invalid notification")
	// ErrNotFound is returned for a notification that does not exist or is another
	// user's; the answer does not tell which.
	ErrNotFound = errors.New("notifs: notification not found")
)

// A Notification is for one user. Texts are valid UTF-8 without NUL.
type Notification struct {
	// ID is set by the database and ignored by Create. A later one is greater.
	ID int64
	// User is whom it is for: the application's own identifier, 1 to 1,000 bytes.
	User string
	// Kind is what it is about, such as "invoice.paid", for the application to sort
	// and style by. It may be empty.
	Kind string
	// Title is one line of text. It must not be empty.
	Title string
	// Body is the rest of the text. It may be empty.
	Body string
	// CreatedAt is when it was created, in UTC. Ignored by Create.
	CreatedAt time.Time
	// ReadAt is when it was marked read, in UTC; zero while it is unread. Ignored by
	// Create.
	ReadAt time.Time
	// ExpiresAt is when it stops being shown, in UTC; zero for never.
	ExpiresAt time.Time
}

// A Query tells which of a user's notifications [Service.List] returns.
type Query struct {
	// UnreadOnly leaves out those that were read.
	UnreadOnly bool
	// Before is the ID of the last notification of the page before; 0 for the first page.
	Before int64
	// Limit is how many are returned at most: up to MaxLimit. Defaults to DefaultLimit.
	Limit int
}

// Service creates, lists and deletes notifications. It may be used by several
// goroutines at once if its database may.
type Service struct{ repo repo }

// New returns a service on db: the application's pool, or a transaction of the
// caller's, of which everything the service does is then a part.
func New(db jobs.DB) *Service { return &Service{repo{db}} }

// Create stores a notification and returns its ID. One that cannot be stored is
// [ErrInvalid]; other errors are the database's.
func (s *Service) Create(ctx context.Context, n Notification) (id int64, err error) {
	if err := n.check(); err != nil {
		return 0, err
	}
	if id, err = s.repo.insert(ctx, n); err != nil {
		return 0, fmt.Errorf("notifs: creating: %w", err)
	}
	return id, nil
}

// List returns the user's notifications that have not expired, the newest first.
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

// UnreadCount returns how many unread notifications List would return to the user
// without a limit.
func (s *Service) UnreadCount(ctx context.Context, user string) (int, error) {
	n, err := s.repo.unread(ctx, user)
	if err != nil {
		return 0, fmt.Errorf("notifs: counting: %w", err)
	}
	return n, nil
}

// MarkRead marks a notification of that user as read; it does no harm if it is.
// One that is not there, or is another user's, is [ErrNotFound].
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

// MarkAllRead marks all notifications of that user as read and returns how many
// were not.
func (s *Service) MarkAllRead(ctx context.Context, user string) (int, error) {
	n, err := s.repo.markAllRead(ctx, user)
	if err != nil {
		return 0, fmt.Errorf("notifs: marking all read: %w", err)
	}
	return n, nil
}

// CleanUp deletes the notifications that have expired and those older than
// [DeleteAfter], and returns how many. It works in batches, each a transaction of
// its own unless the service is on one of the caller's. So it can be interrupted at
// any point, which ctx does, and several may run at once: they share the work. The
// count is right beside an error, too.
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

// maxUser is the size of what is in an index, which PostgreSQL bounds.
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
			return fmt.Errorf("%w: text that is not UTF-8 or holds a NUL", ErrInvalid)
		}
	}
	return nil
}
