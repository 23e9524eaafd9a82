// Package email sends email over SMTP from an outbox table.
//
// Store a message in the transaction that it belongs to. It is sent if and only if the transaction commits, and a
// mail server that is slow or down does not delay the transaction:
//
//	_, err = mails.Enqueue(ctx, tx, email.Message{To: []string{"ann@example.com"}, Subject: "Welcome", Text: "…"})
//
// The jobs of [RegisterEmailJobs] send the messages in the outbox. Package migrations creates the table.
//
// # Delivery
//
// Any number of processes may work on one outbox. Each message is sent by one of them.
//
// A message is sent twice only if its outcome is unknown: the process died, or the connection to the mail server or
// the database broke, after the server accepted the message and before its row was updated. SMTP has no way to ask,
// and a duplicate is better than a lost message. Both copies have the same Message-ID and Date, so most mail systems
// show them as one. A server may take up to 10 minutes to reply. If a process dies while sending, another one sends
// the message 12 minutes after the first began.
//
// A message refused with a 5xx reply is given up; the column last_error of email_outbox has the reason. After a 4xx
// reply, or if the server cannot be reached or rejects the login, the message is retried with growing delays.
package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/everytick/everytick/jobs"
)

const (
	// lease is how long a claim is valid. It is longer than answerTimeout plus twice sendTimeout, so that a claim
	// never expires while its message is being sent.
	lease = 12 * time.Minute
	// runFor is how long one run claims messages. The next tick sends the rest.
	runFor = processEvery
	// markTimeout bounds storing the outcome of a message.
	markTimeout = 5 * time.Second

	maxRetryDelay = 30 * time.Minute
	deleteBatch   = 1000
)

// TLSPolicy controls whether the connection is encrypted with STARTTLS.
type TLSPolicy int

// The policies of Config.TLS.
const (
	TLSMandatory     TLSPolicy = iota // never send over an unencrypted connection
	TLSOpportunistic                  // encrypt if the server offers it
	TLSNone                           // do not encrypt; for servers on this machine
)

func (p TLSPolicy) policy() mail.TLSPolicy {
	switch p {
	case TLSOpportunistic:
		return mail.TLSOpportunistic
	case TLSNone:
		return mail.NoTLS
	default:
		return mail.TLSMandatory
	}
}

// Config configures a [Service]. Its printed forms leave out the password.
type Config struct {
	// Addr is the SMTP server, "host:port". It must be set. Use the submission port, usually 587; implicit TLS, as
	// on port 465, is not supported.
	Addr string
	// From is the sender of all messages: "ann@example.com" or "Ann <ann@example.com>". It must be set.
	From string
	// TLS controls whether the connection is encrypted. Defaults to TLSMandatory.
	TLS TLSPolicy
	// TLSConfig is for servers whose certificate the system does not trust. Defaults to verifying the host of Addr
	// with the system's roots.
	TLSConfig *tls.Config
	// Username and Password log in to the server. Defaults to no login. Over an unencrypted connection, only
	// methods that do not reveal the password are used.
	Username, Password string
	// MaxAttempts is how many attempts a message gets if they fail temporarily. Defaults to 50, which take about a
	// day.
	MaxAttempts int
	// RetryDelay is the delay after the first temporary failure. It doubles after each further one, up to 30
	// minutes. Defaults to 1 minute.
	RetryDelay time.Duration
	// KeepFor is how long messages stay in the table after they were sent or given up. email.process-queue deletes
	// them. Defaults to 30 days.
	KeepFor time.Duration
}

// String returns the configuration without the password.
func (c Config) String() string {
	return fmt.Sprintf("{Addr:%s From:%s TLS:%d Username:%s}", c.Addr, c.From, c.TLS, c.Username)
}

// GoString returns the same as String.
func (c Config) GoString() string { return c.String() }

// LogValue implements [slog.LogValuer] with String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Result counts the messages of one run by outcome.
type Result struct {
	Sent      int // accepted by the server
	Failed    int // given up
	Postponed int // to be retried later
}

// Service stores messages in the outbox and sends them. It is safe for concurrent use.
type Service struct {
	sendTimeout time.Duration
	cfg         Config        // without the password
	password    func() string // a function, so that printing the service does not reveal it
}

// New returns a service. It returns an error if cfg is invalid. It does not connect.
func New(cfg Config) (*Service, error) {
	host, port, err := net.SplitHostPort(cfg.Addr)
	if n, err2 := strconv.Atoi(port); err != nil || err2 != nil || host == "" || n < 1 || n > 65535 {
		return nil, fmt.Errorf("email: Config.Addr is %q, want host:port", cfg.Addr)
	}
	if err := checkAddress(cfg.From); err != nil {
		return nil, fmt.Errorf("email: Config.From: %w", err)
	}
	if cfg.TLS < TLSMandatory || cfg.TLS > TLSNone {
		return nil, fmt.Errorf("email: Config.TLS is %d, which is not a TLSPolicy", cfg.TLS)
	}
	if cfg.Username == "" && cfg.Password != "" {
		return nil, errors.New("email: Config.Password is set but Username is not")
	}
	if cfg.MaxAttempts < 0 || cfg.RetryDelay < 0 || cfg.KeepFor < 0 {
		return nil, errors.New("email: Config.MaxAttempts, RetryDelay and KeepFor must not be negative")
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = 50
	}
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = time.Minute
	}
	if cfg.KeepFor == 0 {
		cfg.KeepFor = 30 * 24 * time.Hour
	}
	password := cfg.Password
	cfg.Password = ""
	return &Service{sendTimeout, cfg, func() string { return password }}, nil
}

// Enqueue stores a message in the outbox and returns its ID there. If db is a transaction, the message is sent if and
// only if it commits. Enqueue returns [ErrInvalidMessage] for a message that could never be sent. Other errors come
// from the database.
func (s *Service) Enqueue(ctx context.Context, db jobs.DB, m Message) (id int64, err error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	if id, err = (repo{db}).insert(ctx, m); err != nil {
		return 0, fmt.Errorf("email: enqueueing: %w", err)
	}
	return id, nil
}

// ProcessQueue sends the messages that are due, one after the other, for about 30 seconds or until there are none.
// Concurrent calls, also in other processes, share the work. It returns an error if the server cannot be reached or
// ctx ends; any process may then claim a message that was not sent yet. The result is correct even if an error is
// returned.
//
// db must not be a transaction: sending cannot be rolled back.
func (s *Service) ProcessQueue(ctx context.Context, db jobs.DB, logger *slog.Logger) (res Result, err error) {
	r, conn := repo{db}, &connection{service: s}
	defer conn.close()
	for start := time.Now(); time.Since(start) < runFor; {
		if err := ctx.Err(); err != nil {
			return res, fmt.Errorf("email: processing the queue: %w", err)
		}
		c, err := r.claimDue(ctx, lease)
		if err != nil {
			return res, fmt.Errorf("email: claiming a message: %w", err)
		}
		if c == nil {
			break
		}
		if err := s.deliver(ctx, r, conn, c, logger, &res); err != nil {
			return res, err
		}
	}
	if err := r.deleteOld(ctx, s.cfg.KeepFor, deleteBatch); err != nil {
		return res, fmt.Errorf("email: deleting old messages: %w", err)
	}
	return res, nil
}

// SendJob sends one message for the job with this ID, and returns nil once the server has accepted it. Called again
// for the same job, it does not send the message again.
//
// It returns a [jobs.Permanent] error if the message is given up; if the job is retried with [jobs.Retrier], the
// message is too. After any other error the message is in the outbox, and [Service.ProcessQueue] retries it even if
// the job does not run again.
func (s *Service) SendJob(ctx context.Context, db jobs.DB, logger *slog.Logger, jobID string, m Message) error {
	if err := m.check(); err != nil {
		return jobs.Permanent(err)
	}
	r := repo{db}
	key := m.key(jobID)
	c, err := r.claimKeyed(ctx, key, m, lease)
	if err != nil {
		return fmt.Errorf("email: claiming a message: %w", err)
	}
	if c != nil {
		conn := &connection{service: s}
		defer conn.close()
		var res Result
		if err := s.deliver(ctx, r, conn, c, logger, &res); err != nil {
			return err
		}
	}
	status, lastError, left, err := r.statusOfKeyed(ctx, key)
	switch {
	case err != nil:
		return fmt.Errorf("email: looking up a message: %w", err)
	case status == "sent":
		return nil
	case status == "failed":
		return jobs.Permanent(fmt.Errorf("email: given up: %s", lastError))
	case left > 0:
		return jobs.RetryAfter(left, errors.New("email: another process is sending this message"))
	default:
		return fmt.Errorf("email: not sent yet: %s", lastError)
	}
}

// deliver sends a claimed message, stores the outcome and counts it in res. It returns an error if there is no point
// in trying the next message.
func (s *Service) deliver(ctx context.Context, r repo, conn *connection, c *claimed, logger *slog.Logger, res *Result) error {
	err := s.send(ctx, conn, c)

	// Store the outcome even if ctx has ended: a sent message that is not marked would be sent again.
	markCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	var held bool
	var markErr, stop error
	switch {
	case err == nil:
		res.Sent++
		held, markErr = r.finish(markCtx, c, "sent", "")
	case isPermanent(err) || c.attempts >= s.cfg.MaxAttempts && ctx.Err() == nil:
		res.Failed++
		logger.WarnContext(ctx, "message given up", "mail", c.id, "attempts", c.attempts, "smtp_code", replyCode(err))
		held, markErr = r.finish(markCtx, c, "failed", reason(err))
	case ctx.Err() != nil:
		stop = fmt.Errorf("email: interrupted: %w", ctx.Err())
		held, markErr = r.release(markCtx, c)
	default:
		res.Postponed++
		delay := s.delay(c.attempts)
		logger.WarnContext(ctx, "message postponed",
			"mail", c.id, "attempts", c.attempts, "smtp_code", replyCode(err), "delay", delay)
		held, markErr = r.postpone(markCtx, c, delay, reason(err))
	}
	var unreachable *connectError
	switch {
	case markErr != nil:
		return fmt.Errorf("email: storing the outcome of message %d: %w", c.id, markErr)
	case !held:
		logger.WarnContext(ctx, "message was taken over by another process: sending it took longer than its claim",
			"mail", c.id)
	case stop == nil && errors.As(err, &unreachable):
		return fmt.Errorf("email: %w", err)
	}
	return stop
}

func (s *Service) send(ctx context.Context, conn *connection, c *claimed) error {
	if c.attempts > s.cfg.MaxAttempts { // its claims expired: perhaps it crashes the process that sends it
		return fmt.Errorf("%d attempts ended without an outcome", c.attempts-1)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m, err := c.compose(s.cfg.From, conn.mailBegins)
	if err != nil {
		return err
	}
	return conn.send(ctx, m)
}

// delay returns the delay after an attempt, counted from 1.
func (s *Service) delay(attempt int) time.Duration {
	delay := s.cfg.RetryDelay
	for ; attempt > 1 && delay < maxRetryDelay; attempt-- {
		delay *= 2
	}
	return min(delay, max(maxRetryDelay, s.cfg.RetryDelay))
}
