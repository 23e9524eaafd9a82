package email

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	netmail "net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/wneessen/go-mail"
)

const (
	// maxRecipients is how many every SMTP server has to take (RFC 5321, 4.5.3.1.8).
	maxRecipients = 100
	// maxSubject is about what fits into the longest line of a header (RFC 5322, 2.1.1).
	maxSubject = 900
)

// ErrInvalidMessage is returned for a message that cannot be sent as it is. Nothing
// was sent to the database, so a caller's transaction can go on.
var ErrInvalidMessage = errors.New("email: invalid message")

// A Message is one mail. Texts are valid UTF-8 without NUL.
type Message struct {
	// To is who gets it, from 1 to 100 addresses such as "ann@example.com" or
	// "Ann <ann@example.com>". All of them see all of them, and if the server refuses
	// one, the mail is sent to none.
	To []string `json:"to"`
	// Subject is one line without control characters, 900 bytes at most.
	Subject string `json:"subject"`
	// Text and HTML are the body, as plain text and as HTML. One may be empty; if
	// neither is, the reader's program shows the one it prefers.
	Text string `json:"text,omitempty"`
	HTML string `json:"html,omitempty"`
}

func (m Message) check() error {
	if n := len(m.To); n < 1 || n > maxRecipients {
		return fmt.Errorf("%w: %d recipients, want 1 to %d", ErrInvalidMessage, n, maxRecipients)
	}
	for _, to := range m.To {
		if err := checkAddress(to); err != nil {
			return fmt.Errorf("%w: recipient: %w", ErrInvalidMessage, err)
		}
	}
	switch {
	case !utf8.ValidString(m.Subject) || strings.ContainsFunc(m.Subject, unicode.IsControl):
		return fmt.Errorf("%w: the subject holds a line break, another control character or no UTF-8", ErrInvalidMessage)
	case len(m.Subject) > maxSubject:
		return fmt.Errorf("%w: a subject of %d bytes, allowed are %d", ErrInvalidMessage, len(m.Subject), maxSubject)
	case m.Text == "" && m.HTML == "":
		return fmt.Errorf("%w: neither text nor HTML", ErrInvalidMessage)
	}
	for _, body := range []string{m.Text, m.HTML} {
		if !utf8.ValidString(body) || strings.ContainsRune(body, 0) {
			return fmt.Errorf("%w: a body that is not UTF-8 or holds a NUL", ErrInvalidMessage)
		}
	}
	return nil
}

func checkAddress(address string) error {
	if !utf8.ValidString(address) || strings.ContainsFunc(address, unicode.IsControl) {
		return fmt.Errorf("address %q holds a line break, another control character or no UTF-8", address)
	}
	if _, err := netmail.ParseAddress(address); err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	return nil
}

// key identifies the mail that a job sends. The content is part of it: should IDs
// of jobs begin anew, as they do when River's tables are made anew and the outbox
// stays, then a new mail is not taken for an old one.
func (m Message) key(jobID string) string {
	content, _ := json.Marshal(m) // strings alone: cannot fail
	return fmt.Sprintf("%s %x", jobID, sha256.Sum256(content))
}

// compose builds the mail, the same on every attempt.
func (c *claimed) compose(sender string, begins func()) (*mail.Msg, error) {
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := errors.Join(m.From(sender), m.To(c.To...)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidMessage, err)
	}
	from := m.GetFrom()[0].Address
	m.SetMessageIDWithValue(fmt.Sprintf("%d.%d@%s", c.id, c.createdAt.UnixMicro(), from[strings.LastIndexByte(from, '@')+1:]))
	m.SetDateWithValue(c.createdAt)
	m.Subject(c.Subject)
	first := func(contentType mail.ContentType, text string) {
		m.SetBodyWriter(contentType, func(w io.Writer) (int64, error) {
			begins()
			n, err := io.WriteString(w, text)
			return int64(n), err
		})
	}
	if c.Text != "" {
		first(mail.TypeTextPlain, c.Text)
	}
	switch {
	case c.Text == "":
		first(mail.TypeTextHTML, c.HTML)
	case c.HTML != "":
		m.AddAlternativeString(mail.TypeTextHTML, c.HTML)
	}
	return m, nil
}
