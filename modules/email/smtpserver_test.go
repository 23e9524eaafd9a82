package email_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// smtpServer is a real SMTP server whose replies the test controls.
type smtpServer struct {
	addr string
	t    testing.TB

	mu       sync.Mutex
	server   *smtp.Server
	accepted []mailData
	tried    int
	conns    int

	// Set before the first message. answer is called for each message that has arrived completely, numbered from 1;
	// nil accepts it. rcpt is called for each recipient. With hangUp the server closes the connection after each
	// message that it accepted.
	answer func(n int, m mailData) error
	rcpt   func(to string) error
	hangUp bool
	tls    *tls.Config
	login  func(mechanism, username, password string) error
}

type mailData struct {
	from string
	to   []string
	data string
}

// errDrop, returned by answer, breaks the connection.
var errDrop = errors.New("drop")

func refuse(code int, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 0, 0}, Message: text}
}

func serveSMTP(t testing.TB, options ...func(*smtpServer)) *smtpServer {
	t.Helper()
	s := &smtpServer{t: t}
	for _, option := range options {
		option(s)
	}
	s.start("127.0.0.1:0")
	t.Cleanup(s.stop)
	return s
}

func (s *smtpServer) start(addr string) {
	s.t.Helper()
	listener, err := net.Listen("tcp", addr)
	require.NoError(s.t, err)
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{server: s, conn: c}, nil
	}))
	server.Domain = "localhost"
	server.TLSConfig = s.tls
	server.MaxRecipients = 100
	server.AllowInsecureAuth = true // so that a client that reveals its password is caught
	server.ErrorLog = silent{}
	s.mu.Lock()
	s.addr, s.server = listener.Addr().String(), server
	s.mu.Unlock()
	go func() { _ = server.Serve(counting{listener, s}) }()
}

func (s *smtpServer) stop() { _ = s.server.Close() }

func (s *smtpServer) mails() []mailData {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]mailData(nil), s.accepted...)
}

func (s *smtpServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

type counting struct {
	net.Listener
	s *smtpServer
}

func (l counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.s.mu.Lock()
		l.s.conns++
		l.s.mu.Unlock()
	}
	return conn, err
}

type session struct {
	server *smtpServer
	conn   *smtp.Conn
	mail   mailData
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail = mailData{from: from}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.to = append(s.mail.to, to)
	if s.server.rcpt != nil {
		return s.server.rcpt(to)
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mail.data = string(data)
	s.server.mu.Lock()
	s.server.tried++
	n := s.server.tried
	s.server.mu.Unlock()
	if s.server.answer != nil {
		if err := s.server.answer(n, s.mail); errors.Is(err, errDrop) {
			return s.conn.Conn().Close()
		} else if err != nil {
			return err
		}
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.accepted = append(s.server.accepted, s.mail)
	return nil
}

func (s *session) Logout() error { return nil }

// Reset is called after the reply to a message.
func (s *session) Reset() {
	if s.server.hangUp && s.mail.data != "" {
		_ = s.conn.Conn().Close()
	}
}

func (s *session) AuthMechanisms() []string {
	if s.server.login == nil {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(mechanism string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		return s.server.login(mechanism, username, password)
	}), nil
}

type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}
