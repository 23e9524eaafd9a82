package email

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
)

const (
	// sendTimeout bounds connecting, and what is said before the mail itself.
	sendTimeout = 30 * time.Second
	// answerTimeout bounds handing over the mail itself, and the server's answer to it. Some
	// scan a mail first, and who hangs up meanwhile has to send it again: RFC 5321, 4.5.3.2.6.
	answerTimeout = 10 * time.Minute
	// grace is for how long a mail on its way may still be finished when the context
	// has ended: cut off between its last byte and the server's answer, it would have
	// to be sent again.
	grace = time.Second
)

// connection is one connection to the SMTP server, made when it is first needed and
// used for one mail after the other.
type connection struct {
	service *Service
	conn    net.Conn // nil when there is none
	client  *mail.Client
	smtp    *smtp.Client
	timer   *time.Timer // ends the mail that is on its way
}

// A connectError is the failure to get as far as handing over a mail: it is not the
// mail's fault, and the next mail would meet the same.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// send hands m to the server. It returns a *connectError when the server could not
// be reached or refuses the sender whatever the mail, and what go-mail says when it did not
// take the mail.
func (c *connection) send(ctx context.Context, m *mail.Msg) error {
	if err := c.reach(ctx); err != nil {
		c.drop()
		return &connectError{err}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.timer = time.AfterFunc(c.service.sendTimeout, cancel)
	defer c.timer.Stop()
	defer c.bind(ctx)()
	err := c.client.SendWithSMTPClient(c.smtp, m)
	switch code := replyCode(err); {
	case err == nil:
	case code == 0 || code == 421:
		c.drop() // no answer that leaves the connection in a known state, or a goodbye
	case code == 530 || code == 534 || code == 535 || code == 538: // RFC 4954, 6
		c.drop()
		return &connectError{err}
	}
	return err
}

// mailBegins is called when the server has let the mail itself begin.
func (c *connection) mailBegins() {
	if c.timer.Stop() {
		c.timer.Reset(answerTimeout)
	}
}

// reach connects unless there is a connection already.
func (c *connection) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.service.sendTimeout)
	defer cancel()
	if c.smtp != nil {
		// Servers hang up on who has been silent or has sent enough.
		stop := c.bind(ctx)
		if c.smtp.Noop() != nil {
			c.drop()
		}
		stop()
	}
	if c.smtp != nil {
		return nil
	}
	return c.connect(ctx)
}

func (c *connection) connect(ctx context.Context) error {
	cfg := &c.service.cfg
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	stop := func() bool { return false }
	defer func() { stop() }()
	options := []mail.Option{
		mail.WithPort(number),
		mail.WithTLSPolicy(cfg.TLS.policy()),
		mail.WithTimeout(c.service.sendTimeout),
		mail.WithoutNoop(), // send does that
		mail.WithoutRset(), // a mail taken leaves nothing to reset
		mail.WithDialContextFunc(func(ctx2 context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx2, network, cfg.Addr)
			if err != nil {
				return nil, err
			}
			c.conn = conn
			stop = c.bind(ctx)
			return ownDeadline{conn}, nil
		}),
	}
	if cfg.TLSConfig != nil {
		config := cfg.TLSConfig.Clone()
		if config.ServerName == "" {
			config.ServerName = host
		}
		options = append(options, mail.WithTLSConfig(config))
	}
	if cfg.Username != "" {
		// Picks among what the server offers; in the clear only what does not reveal
		// the password.
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover),
			mail.WithUsername(cfg.Username), mail.WithPassword(c.service.password()))
	}
	if c.client, err = mail.NewClient(host, options...); err != nil {
		return c.redact(err)
	}
	if c.smtp, err = c.client.DialToSMTPClientWithContext(ctx); err != nil {
		return fmt.Errorf("connecting to %s: %w", cfg.Addr, c.redact(err))
	}
	return nil
}

// bind makes the connection fail soon after ctx has ended, until stop is called.
func (c *connection) bind(ctx context.Context) (stop func() bool) {
	conn := c.conn
	_ = conn.SetDeadline(time.Time{})
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now().Add(grace)) })
}

// ownDeadline keeps go-mail from moving the deadline: it knows timeouts, but no
// context.
type ownDeadline struct{ net.Conn }

func (ownDeadline) SetDeadline(time.Time) error { return nil }

func (c *connection) drop() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn, c.client, c.smtp = nil, nil, nil
}

// close says goodbye, as one should, but does not insist.
func (c *connection) close() {
	if c.smtp != nil {
		_ = c.conn.SetDeadline(time.Now().Add(grace))
		_ = c.smtp.Quit()
	}
	c.drop()
}

// redact takes the password out of an error. A server may quote the command it did
// not understand, and that may have been AUTH PLAIN.
func (c *connection) redact(err error) error {
	text, password := err.Error(), c.service.password()
	if password == "" {
		return err
	}
	for _, secret := range []string{"\x00" + c.service.cfg.Username + "\x00" + password, password} {
		quoted := strconv.Quote(secret) // as errors of answers are
		for _, form := range []string{base64.StdEncoding.EncodeToString([]byte(secret)), secret, quoted[1 : len(quoted)-1]} {
			text = strings.ReplaceAll(text, form, "[redacted]")
		}
	}
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

// replyCode is the server's answer in err, such as 550, or 0 when it is none.
func replyCode(err error) int {
	var refused *mail.SendError
	if !errors.As(err, &refused) {
		return 0
	}
	return refused.ErrorCode()
}

// isPermanent tells a refusal for good from what may pass: a 4xx answer, a server
// that is down or refuses the sender, a connection that broke.
func isPermanent(err error) bool {
	var unreachable *connectError
	if errors.As(err, &unreachable) {
		return false
	}
	var refused *mail.SendError
	if !errors.As(err, &refused) {
		return errors.Is(err, ErrInvalidMessage)
	}
	switch refused.Reason {
	case mail.ErrGetSender, mail.ErrGetRcpts, mail.ErrNoUnencoded:
		return true // not even tried
	default:
		return refused.ErrorCode() >= 500
	}
}

// reason is err as it is kept with the mail: without the addresses and the message
// ID that go-mail adds, and such that PostgreSQL takes it, whatever the server sent.
func reason(err error) string {
	const maxLength = 1000
	text, _, _ := strings.Cut(err.Error(), ", affected recipient(s)")
	text, _, _ = strings.Cut(text, ", affected message ID")
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "?")
	if len(text) > maxLength {
		text = strings.ToValidUTF8(text[:maxLength], "") + "…"
	}
	return text
}
