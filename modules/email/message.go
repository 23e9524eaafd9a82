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
	// maxRecipients is how many recipients every SMTP server must accept (RFC 5321, 4.5.3.1.8).
	maxRecipients = 100
	// maxSubject, in bytes, is about what fits into the longest header line (RFC 5322, 2.1.1).
	maxSubject = 900
)

// ErrInvalidMessage is returned for a message that could never be sent. Nothing was sent to the database, so the
// caller's transaction is still usable.
var ErrInvalidMessage = errors.New("email: invalid message")

// A Message is one email. All strings must be valid UTF-8 without NUL bytes.
type Message struct {
	// To has 1 to 100 recipients, such as "ann@example.com" or "Ann <ann@example.com>". Recipients see each other's
	// addresses. If the server refuses one of them, the message is sent to none.
	To []string `json:"to"`
	// Subject is one line without control characters, at most 900 bytes.
	Subject string `json:"subject"`
	// Text and HTML are the body in both forms. One of them may be empty; otherwise the mail client chooses which
	// one to show.
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
		return fmt.Errorf("%w: subject contains a line break or control character, or is not valid UTF-8", ErrInvalidMessage)
	case len(m.Subject) > maxSubject:
		return fmt.Errorf("%w: subject of %d bytes, at most %d are allowed", ErrInvalidMessage, len(m.Subject), maxSubject)
	case m.Text == "" && m.HTML == "":
		return fmt.Errorf("%w: neither text nor HTML", ErrInvalidMessage)
	}
	for _, body := range []string{m.Text, m.HTML} {
		if !utf8.ValidString(body) || strings.ContainsRune(body, 0) {
			return fmt.Errorf("%w: body is not valid UTF-8 or contains a NUL byte", ErrInvalidMessage)
		}
	}
	return nil
}

func checkAddress(address string) error {
	if !utf8.ValidString(address) || strings.ContainsFunc(address, unicode.IsControl) {
		return fmt.Errorf("address %q contains a line break or control character, or is not valid UTF-8", address)
	}
	if _, err := netmail.ParseAddress(address); err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	return nil
}

// key identifies the message that a job sends. It includes the content because job IDs may start over, when River's
// tables are recreated and the outbox is kept. A new message is then not mistaken for an old one.
func (m Message) key(jobID string) string {
	content, _ := json.Marshal(m) // cannot fail: m has only strings
	return fmt.Sprintf("%s %x", jobID, sha256.Sum256(content))
}

// compose builds the email, identical on every attempt.
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
