// Package email sends mails over SMTP, by way of an outbox.
//
// A mail is stored in the transaction that gives rise to it, so it is sent if and
// only if that commits, and neither a slow mail server nor one that is down is felt
// there:
//
//	_, err = mails.Enqueue(ctx, tx, email.Message{To: []string{"ann@example.com"}, Subject: "Welcome", Text: "…"})
//
// The jobs of [RegisterEmailJobs] send what is in the outbox. The table is that of
// the package migrations.
//
// # How often a mail is sent
//
// Any number of processes may work on one outbox; each mail is sent by one of them.
// A mail is sent again only if it is not known whether it was sent: the process died,
// or the connection to the mail server or the database broke, between the server
// taking the mail and its row being marked. SMTP has no way to ask, and a mail twice
// is better than none. Both then carry the same Message-ID and Date, by which most
// mail systems show them as one. A server may take 10 minutes to answer; the mail of a
// process that died is sent by another 12 minutes after it was begun.
//
// What the server refuses with a 5xx answer is given up, with the reason kept in the
// column last_error of email_outbox. After a 4xx answer, and when the server cannot
// be reached or does not accept the login, the mail is tried again later, with a growing
// delay.
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
	// lease is how long a claim counts. It leaves room beyond answerTimeout and twice
	// sendTimeout, so that a mail is never on its way when its claim runs out.
	lease = 12 * time.Minute
	// runFor is how long one run takes new mails: the next tick goes on.
	runFor = processEvery
	// markTimeout bounds writing down what became of a mail.
	markTimeout = 5 * time.Second

	maxRetryDelay = 30 * time.Minute
	deleteBatch   = 1000
)

// TLSPolicy says whether the connection to the server is encrypted, by STARTTLS.
type TLSPolicy int

// The policies of Config.TLS.
const (
	TLSMandatory     TLSPolicy = iota // send nothing over a connection that is not encrypted
	TLSOpportunistic                  // encrypt if the server offers it
	TLSNone                           // do not encrypt: for servers on this machine
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

// Config tells how mails are sent. It prints without the password.
type Config struct {
	// Addr is the SMTP server, "host:port". It must be set. The port is that of
	// submission, usually 587, not that of TLS from the first byte.
	Addr string
	// From is the sender of all mails: "ann@example.com" or "Ann <ann@example.com>".
	// It must be set.
	From string
	// TLS says whether the connection is encrypted. Defaults to TLSMandatory.
	TLS TLSPolicy
	// TLSConfig is for servers whose certificate the system does not know. Defaults to
	// one that verifies the host of Addr.
	TLSConfig *tls.Config
	// Username and Password log in to the server. Defaults to no login. Over a
	// connection that is not encrypted only methods that do not reveal the password
	// are used.
	Username, Password string
	// MaxAttempts is after how many attempts a mail that meets temporary failures is
	// given up. Defaults to 50, which take about a day.
	MaxAttempts int
	// RetryDelay is the wait after a mail's first temporary failure. It doubles with
	// every further one, up to 30 minutes. Defaults to 1 minute.
	RetryDelay time.Duration
	// KeepFor is how long sent mails, and those given up, stay in the table before the
	// queue's job deletes them. Defaults to 30 days.
	KeepFor time.Duration
}

// String describes the configuration without the password.
func (c Config) String() string {
	return fmt.Sprintf("{Addr:%s From:%s TLS:%d Username:%s}", c.Addr, c.From, c.TLS, c.Username)
}

// GoString does what String does.
func (c Config) GoString() string { return c.String() }

// LogValue does what String does.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Result counts what became of the mails of one run.
type Result struct {
	Sent      int // the server has taken them
	Failed    int // given up
	Postponed int // to be tried again later
}

// Service puts mails into the outbox and sends them. Its methods may be called from
// several goroutines at once.
type Service struct {
	sendTimeout time.Duration
	cfg         Config        // without the password
	password    func() string // a function, since whoever prints the service prints its fields
}

// New returns a service, or an error that says what is wrong with cfg. It does not
// connect.
func New(cfg Config) (*Service, error) {
	host, port, err := net.SplitHostPort(cfg.Addr)
	if n, err2 := strconv.Atoi(port); err != nil || err2 != nil || host == "" || n < 1 || n > 65535 {
		return nil, fmt.Errorf("email: Config.Addr is %q, want host:port", cfg.Addr)
	}
	if err := checkAddress(cfg.From); err != nil {
		return nil, fmt.Errorf("email: Config.From: %w", err)
	}
	if cfg.TLS < TLSMandatory || cfg.TLS > TLSNone {
		return nil, fmt.Errorf("email: Config.TLS is %d, which is no policy", cfg.TLS)
	}
	if cfg.Username == "" && cfg.Password != "" {
		return nil, errors.New("email: Config.Password is set and Username is not")
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

// Enqueue stores a mail to be sent, and returns its ID in the outbox. With db a
// transaction, the mail is sent if and only if that commits. A message that could
// never be sent is [ErrInvalidMessage]; other errors are the database's.
func (s *Service) Enqueue(ctx context.Context, db jobs.DB, m Message) (id int64, err error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	if id, err = (repo{db}).insert(ctx, m); err != nil {
		return 0, fmt.Errorf("email: enqueueing: %w", err)
	}
	return id, nil
}

// ProcessQueue sends the mails that are due, one after the other, for about 30
// seconds or until there are none. Several may run at once, in any number of
// processes. It stops with an error when the server cannot be reached, and when ctx
// ends; a mail that was not handed over by then is anyone's again. The result is
// right beside an error, too.
//
// db must not be a transaction: what is sent cannot be rolled back.
func (s *Service) ProcessQueue(ctx context.Context, db jobs.DB, logger *slog.Logger) (res Result, err error) {
	r, conn := repo{db}, &connection{service: s}
	defer conn.close()
	for start := time.Now(); time.Since(start) < runFor; {
		if err := ctx.Err(); err != nil {
			return res, fmt.Errorf("email: processing the queue: %w", err)
		}
		c, err := r.claimDue(ctx, lease)
		if err != nil {
			return res, fmt.Errorf("email: claiming a mail: %w", err)
		}
		if c == nil {
			break
		}
		if err := s.deliver(ctx, r, conn, c, logger, &res); err != nil {
			return res, err
		}
	}
	if err := r.deleteOld(ctx, s.cfg.KeepFor, deleteBatch); err != nil {
		return res, fmt.Errorf("email: deleting old mails: %w", err)
	}
	return res, nil
}

// SendJob sends one mail at once, as the work of the job of that ID, and returns nil
// once the server has taken it. Called again for the same job it does not send it
// again. A mail that is given up is a [jobs.Permanent] error; if the job is run once more
// all the same, by [jobs.Retrier], so is the mail. Any other error means that it was not
// sent yet; it is in the outbox, and even if the job is not run again it is tried again
// from there.
func (s *Service) SendJob(ctx context.Context, db jobs.DB, logger *slog.Logger, jobID string, m Message) error {
	if err := m.check(); err != nil {
		return jobs.Permanent(err)
	}
	r := repo{db}
	key := m.key(jobID)
	c, err := r.claimKeyed(ctx, key, m, lease)
	if err != nil {
		return fmt.Errorf("email: claiming a mail: %w", err)
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
		return fmt.Errorf("email: looking up a mail: %w", err)
	case status == "sent":
		return nil
	case status == "failed":
		return jobs.Permanent(fmt.Errorf("email: given up: %s", lastError))
	case left > 0:
		return jobs.RetryAfter(left, errors.New("email: another process is sending this mail"))
	default:
		return fmt.Errorf("email: not sent yet: %s", lastError)
	}
}

// deliver sends a claimed mail and writes down what came of it, in res too. It
// returns an error when that means that the next mail need not be tried.
func (s *Service) deliver(ctx context.Context, r repo, conn *connection, c *claimed, logger *slog.Logger, res *Result) error {
	err := s.send(ctx, conn, c)

	// Also when ctx has ended by now: a mail that was sent and is not marked would be
	// sent again.
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
		logger.WarnContext(ctx, "mail given up", "mail", c.id, "attempts", c.attempts, "smtp_code", replyCode(err))
		held, markErr = r.finish(markCtx, c, "failed", reason(err))
	case ctx.Err() != nil:
		stop = fmt.Errorf("email: interrupted: %w", ctx.Err())
		held, markErr = r.release(markCtx, c)
	default:
		res.Postponed++
		delay := s.delay(c.attempts)
		logger.WarnContext(ctx, "mail postponed", "mail", c.id, "attempts", c.attempts, "smtp_code", replyCode(err), "delay", delay)
		held, markErr = r.postpone(markCtx, c, delay, reason(err))
	}
	var unreachable *connectError
	switch {
	case markErr != nil:
		return fmt.Errorf("email: marking mail %d: %w", c.id, markErr)
	case !held:
		logger.WarnContext(ctx, "mail was taken over: sending it took longer than its claim", "mail", c.id)
	case stop == nil && errors.As(err, &unreachable):
		return fmt.Errorf("email: %w", err)
	}
	return stop
}

func (s *Service) send(ctx context.Context, conn *connection, c *claimed) error {
	if c.attempts > s.cfg.MaxAttempts { // its claims ran out: perhaps it kills who sends it
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

// delay is the wait after that attempt, counted from 1.
func (s *Service) delay(attempt int) time.Duration {
	delay := s.cfg.RetryDelay
	for ; attempt > 1 && delay < maxRetryDelay; attempt-- {
		delay *= 2
	}
	return min(delay, max(maxRetryDelay, s.cfg.RetryDelay))
}
