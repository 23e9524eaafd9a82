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
	// sendTimeout bounds connecting, and separately the commands before DATA.
	sendTimeout = 30 * time.Second
	// answerTimeout bounds DATA and the server's reply to it. Some servers scan the message before they reply, and a
	// client that hangs up too early would have to send it again (RFC 5321, 4.5.3.2.6).
	answerTimeout = 10 * time.Minute
	// grace is how long a message in transit may take to finish after the context has ended. Cut off between its
	// last byte and the server's reply, it would have to be sent again.
	grace = time.Second
)

// connection is a connection to the SMTP server, opened when first needed and reused for further messages.
type connection struct {
	service *Service
	conn    net.Conn // nil if not connected
	client  *mail.Client
	smtp    *smtp.Client
	timer   *time.Timer // aborts the message being sent
}

// A connectError is a failure that has nothing to do with the message: the next message would fail in the same way.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// send sends m. It returns a *connectError if the server cannot be reached or rejects the login, and go-mail's error
// if the server refuses the message.
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
		c.drop() // the connection is in an unknown state, or the server is closing it
	case code == 530 || code == 534 || code == 535 || code == 538: // RFC 4954, 6
		c.drop()
		return &connectError{err}
	}
	return err
}

// mailBegins is called when the server has accepted DATA.
func (c *connection) mailBegins() {
	if c.timer.Stop() {
		c.timer.Reset(answerTimeout)
	}
}

// reach connects unless there is a working connection.
func (c *connection) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.service.sendTimeout)
	defer cancel()
	if c.smtp != nil {
		// Servers close idle connections, and those that have sent many messages.
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
		mail.WithoutNoop(), // reach sends it
		mail.WithoutRset(), // nothing to reset after an accepted message
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
		// Picks a method that the server offers; on an unencrypted connection, only one that does not reveal the
		// password.
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

// bind makes the connection fail shortly after ctx has ended, until stop is called.
func (c *connection) bind(ctx context.Context) (stop func() bool) {
	conn := c.conn
	_ = conn.SetDeadline(time.Time{})
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now().Add(grace)) })
}

// ownDeadline keeps go-mail from changing the deadline, which [connection.bind] sets: go-mail only has timeouts.
type ownDeadline struct{ net.Conn }

func (ownDeadline) SetDeadline(time.Time) error { return nil }

func (c *connection) drop() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn, c.client, c.smtp = nil, nil, nil
}

// close sends QUIT, ignoring errors, and closes the connection.
func (c *connection) close() {
	if c.smtp != nil {
		_ = c.conn.SetDeadline(time.Now().Add(grace))
		_ = c.smtp.Quit()
	}
	c.drop()
}

// redact removes the password from an error. A server may quote a command that it rejected, such as AUTH PLAIN.
func (c *connection) redact(err error) error {
	text, password := err.Error(), c.service.password()
	if password == "" {
		return err
	}
	for _, secret := range []string{"\x00" + c.service.cfg.Username + "\x00" + password, password} {
		quoted := strconv.Quote(secret) // go-mail quotes replies
		for _, form := range []string{base64.StdEncoding.EncodeToString([]byte(secret)), secret, quoted[1 : len(quoted)-1]} {
			text = strings.ReplaceAll(text, form, "[redacted]")
		}
	}
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

// replyCode returns the server's reply code in err, such as 550, or 0 if it has none.
func replyCode(err error) int {
	var refused *mail.SendError
	if !errors.As(err, &refused) {
		return 0
	}
	return refused.ErrorCode()
}

// isPermanent reports whether retrying is pointless. It returns false for a 4xx reply, a broken connection and a
// *connectError.
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
		return true // go-mail did not try to send it
	default:
		return refused.ErrorCode() >= 500
	}
}

// reason returns err as stored in last_error: without the addresses and the message ID that go-mail adds, and as text
// that PostgreSQL accepts, whatever the server sent.
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
