package email_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/http/httptest"
	netmail "net/mail"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/everytick/everytick/internal/devdb/dbtest"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/provider"
	"github.com/everytick/everytick/migrations"
	"github.com/everytick/everytick/modules/email"
)

var db = dbtest.New(migrations.Up)

var hello = email.Message{To: []string{"ann@example.com"}, Subject: "Hello", Text: "Hello, Ann"}

// It is the first because it takes longest.
func TestService_WaitsForSlowReply(t *testing.T) {
	t.Parallel()
	const limit = 10 * time.Second
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(int, mailData) error {
			<-time.After(limit + time.Second)
			return nil
		}
	})
	e := newEnv(t, server)
	e.service.SetSendTimeout(limit)
	e.enqueue(hello)
	require.Equal(t, email.Result{Sent: 1}, e.process())
	require.Len(t, server.mails(), 1)
}

func TestService_SendsMessageAsWritten(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	e.enqueue(email.Message{
		To:      []string{"Ann Ö <ann@example.com>", "bob@example.com"},
		Subject: "Grüße, and a subject so long that it has to be folded onto a second line of the header",
		Text:    "first\n.\nlast line, ünïcode\n",
		HTML:    "<p>hällo</p>",
	})
	require.Equal(t, email.Result{Sent: 1}, e.process())

	mails := server.mails()
	require.Len(t, mails, 1)
	require.Equal(t, "shop@example.org", mails[0].from)
	require.Equal(t, []string{"ann@example.com", "bob@example.com"}, mails[0].to)
	m, err := netmail.ReadMessage(strings.NewReader(mails[0].data))
	require.NoError(t, err)
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	require.NoError(t, err)
	require.Equal(t, "Grüße, and a subject so long that it has to be folded onto a second line of the header", subject)
	from, err := m.Header.AddressList("From")
	require.NoError(t, err)
	require.Equal(t, []*netmail.Address{{Name: "The Shop", Address: "shop@example.org"}}, from)
	to, err := m.Header.AddressList("To")
	require.NoError(t, err)
	require.Equal(t, []*netmail.Address{{Name: "Ann Ö", Address: "ann@example.com"}, {Address: "bob@example.com"}}, to)
	require.Regexp(t, `^<\d+\.\d+@example\.org>$`, m.Header.Get("Message-ID"))
	require.Empty(t, m.Header.Get("User-Agent"))
	date, err := m.Header.Date()
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), date, time.Minute)
	require.Equal(t, []string{"text/plain: first\r\n.\r\nlast line, ünïcode\r\n", "text/html: <p>hällo</p>"}, parts(t, m))

	require.Equal(t, "sent", e.row(1).Status)
	require.Equal(t, email.Result{}, e.process(), "a sent message was sent again")
}

func TestService_SendsHTMLWithoutText(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	e.enqueue(email.Message{To: hello.To, HTML: "<p>hi</p>"})
	require.Equal(t, email.Result{Sent: 1}, e.process())
	m, err := netmail.ReadMessage(strings.NewReader(server.mails()[0].data))
	require.NoError(t, err)
	require.Contains(t, m.Header.Get("Content-Type"), "text/html")
}

func TestService_EnqueueIsPartOfTheTransaction(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	tx, err := e.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = e.service.Enqueue(t.Context(), tx, hello)
	require.NoError(t, err)
	require.Equal(t, email.Result{}, e.process(), "the message was sent before its transaction committed")
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, email.Result{}, e.process())
	require.Empty(t, server.mails())
}

func TestService_ConcurrentProcessQueuesSendEachMessageOnce(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	for i := range 50 {
		e.enqueue(email.Message{To: []string{fmt.Sprintf("user%d@example.com", i)}, Text: "x"})
	}
	var group errgroup.Group
	var results [2]email.Result
	for i := range results {
		group.Go(func() (err error) {
			results[i], err = e.service.ProcessQueue(t.Context(), e.pool, e.logger)
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, 50, results[0].Sent+results[1].Sent)
	sent := map[string]int{}
	for _, m := range server.mails() {
		sent[m.to[0]]++
	}
	require.Len(t, sent, 50, "a message was not sent")
	for to, n := range sent {
		require.Equal(t, 1, n, "the message to %s", to)
	}
	require.LessOrEqual(t, server.connections(), 2, "ProcessQueue uses one connection for all messages")
}

func TestService_RetriesTemporaryRefusalWithGrowingDelays(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, _ mailData) error {
			if n < 8 {
				return refuse(451, "mailbox is busy")
			}
			return nil
		}
	})
	e := newEnv(t, server)
	e.enqueue(hello)
	for attempt, want := range []int{1, 2, 4, 8, 16, 30, 30} {
		require.Equal(t, email.Result{Postponed: 1}, e.process())
		row := e.row(1)
		require.Equal(t, "pending", row.Status)
		require.Equal(t, attempt+1, row.Attempts)
		require.Regexp(t, `451 "?4\.0\.0 mailbox is busy`, row.LastError)
		require.InDelta(t, time.Duration(want)*time.Minute, row.DueIn, float64(20*time.Second), "delay after attempt %d", attempt+1)
		require.Equal(t, email.Result{}, e.process(), "the message was retried before it was due")
		e.makeDue()
	}
	require.Equal(t, email.Result{Sent: 1}, e.process())
	require.Equal(t, "sent", e.row(1).Status)
	require.Empty(t, e.row(1).LastError)
	require.Len(t, server.mails(), 1)
}

func TestService_RetryDelayMayExceedTheMaximum(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(int, mailData) error { return refuse(451, "later") }
	})
	e := newEnv(t, server, func(cfg *email.Config) { cfg.RetryDelay = 2 * time.Hour })
	e.enqueue(hello)
	for range 3 {
		require.Equal(t, email.Result{Postponed: 1}, e.process())
		require.InDelta(t, 2*time.Hour, e.row(1).DueIn, float64(10*time.Minute))
		e.makeDue()
	}
}

func TestService_AttemptsHaveTheSameMessageIDAndDate(t *testing.T) {
	t.Parallel()
	var ids, dates []string
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, m mailData) error {
			parsed, err := netmail.ReadMessage(strings.NewReader(m.data))
			if err != nil {
				return err
			}
			ids, dates = append(ids, parsed.Header.Get("Message-ID")), append(dates, parsed.Header.Get("Date"))
			if n == 1 {
				return refuse(451, "later")
			}
			return nil
		}
	})
	e := newEnv(t, server)
	e.enqueue(hello)
	e.process()
	e.makeDue()
	require.Equal(t, email.Result{Sent: 1}, e.process())
	require.Equal(t, ids[0], ids[1])
	require.Equal(t, dates[0], dates[1])
}

func TestService_GivesUpAfterMaxAttempts(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(int, mailData) error { return refuse(451, "busy") }
	})
	e := newEnv(t, server, func(cfg *email.Config) { cfg.MaxAttempts = 2 })
	e.enqueue(hello)
	require.Equal(t, email.Result{Postponed: 1}, e.process())
	e.makeDue()
	require.Equal(t, email.Result{Failed: 1}, e.process())
	require.Equal(t, "failed", e.row(1).Status)
	require.Contains(t, e.row(1).LastError, "451")
}

func TestService_GivesUpAfterPermanentRefusal(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]func(*smtpServer){
		"of the message": func(s *smtpServer) {
			s.answer = func(_ int, m mailData) error {
				if m.to[0] == "bad@example.com" {
					return refuse(550, "no such\x00 user \xff")
				}
				return nil
			}
		},
		"of the recipient": func(s *smtpServer) {
			s.rcpt = func(to string) error {
				if to == "bad@example.com" {
					return refuse(550, "no such user")
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serveSMTP(t, option)
			e := newEnv(t, server)
			e.enqueue(email.Message{To: []string{"bad@example.com"}, Text: "x"})
			e.enqueue(hello)
			require.Equal(t, email.Result{Sent: 1, Failed: 1}, e.process(), "the next message must be sent")
			row := e.row(1)
			require.Equal(t, "failed", row.Status)
			require.Equal(t, 1, row.Attempts)
			require.Regexp(t, `550 "?5\.0\.0 no such`, row.LastError)
			require.NotContains(t, row.LastError, "affected")
			e.makeDue()
			require.Equal(t, email.Result{}, e.process(), "a message that was given up was retried")
			require.NotContains(t, e.log.String(), "bad@example.com", "the log contains an address")
			require.Equal(t, 1, server.connections(), "a refusal leaves the connection usable")
		})
	}
}

func TestService_BrokenConnectionPostponesOneMessage(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, _ mailData) error {
			if n == 1 {
				return errDrop
			}
			return nil
		}
	})
	e := newEnv(t, server)
	e.enqueue(hello)
	e.enqueue(hello)
	require.Equal(t, email.Result{Sent: 1, Postponed: 1}, e.process())
	require.Equal(t, "pending", e.row(1).Status)
	require.Equal(t, "sent", e.row(2).Status)
	e.makeDue()
	require.Equal(t, email.Result{Sent: 1}, e.process())
}

func TestService_ReconnectsAfter421(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, _ mailData) error {
			if n == 1 {
				return refuse(421, "enough for now")
			}
			return nil
		}
	})
	e := newEnv(t, server)
	e.enqueue(hello)
	e.enqueue(hello)
	require.Equal(t, email.Result{Sent: 1, Postponed: 1}, e.process())
	require.Equal(t, 2, server.connections())
}

func TestService_HangUpBetweenMessagesPostponesNone(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) { s.hangUp = true })
	e := newEnv(t, server)
	for range 3 {
		e.enqueue(hello)
	}
	require.Equal(t, email.Result{Sent: 3}, e.process())
	require.Equal(t, 3, server.connections())
}

func TestService_ProcessQueueStopsWhileTheServerIsDown(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	addr := server.addr
	server.stop()
	for range 3 {
		e.enqueue(hello)
	}
	err := e.run("email.process-queue", "job", nil)
	require.ErrorContains(t, err, "connection refused")
	require.Contains(t, e.log.String(), "sent=0 failed=0 postponed=1")
	require.Contains(t, e.row(1).LastError, "connection refused")
	require.Zero(t, e.row(2).Attempts, "the second message was tried too")

	server.start(addr)
	require.Equal(t, email.Result{Sent: 2}, e.process())
	e.makeDue()
	require.Equal(t, email.Result{Sent: 1}, e.process())
	require.Len(t, server.mails(), 3)
}

func TestService_ProcessQueueTakesOverExpiredClaims(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	e.enqueue(hello)
	// As left behind by a process that died while sending.
	e.exec(`UPDATE email_outbox SET attempts = 1, claim = gen_random_uuid(), claimed_until = now() + interval '2 minutes'`)
	require.Equal(t, email.Result{}, e.process(), "took over a valid claim")
	e.exec(`UPDATE email_outbox SET claimed_until = now() - interval '1 second'`)
	require.Equal(t, email.Result{Sent: 1}, e.process())
	require.Len(t, server.mails(), 1)
	require.Equal(t, 2, e.row(1).Attempts)
}

func TestService_GivesUpMessageThatKillsItsSenders(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server, func(cfg *email.Config) { cfg.MaxAttempts = 3 })
	e.enqueue(hello)
	e.exec(`UPDATE email_outbox SET attempts = 3, claim = gen_random_uuid(), claimed_until = now() - interval '1 second'`)
	require.Equal(t, email.Result{Failed: 1}, e.process())
	require.Contains(t, e.row(1).LastError, "3 attempts ended without an outcome")
	require.Empty(t, server.mails())
}

func TestService_LostClaimDoesNotFinish(t *testing.T) {
	t.Parallel()
	arrived, goOn := make(chan struct{}), make(chan struct{})
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, _ mailData) error {
			if n > 1 {
				return nil
			}
			close(arrived)
			<-goOn
			return refuse(550, "too late")
		}
	})
	e := newEnv(t, server)
	e.enqueue(hello)
	slow := make(chan error)
	go func() {
		_, err := e.service.ProcessQueue(t.Context(), e.pool, e.logger)
		slow <- err
	}()
	<-arrived
	e.exec(`UPDATE email_outbox SET claimed_until = now()`)
	require.Equal(t, email.Result{Sent: 1}, e.process())
	close(goOn)
	require.NoError(t, <-slow)
	require.Equal(t, "sent", e.row(1).Status)
	require.Contains(t, e.log.String(), "taken over")
}

func TestService_LostClaimNeitherPostponesNorReleases(t *testing.T) {
	t.Parallel()
	for name, interrupt := range map[string]bool{"postpones": false, "releases": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			arrived := make(chan func(), 1)
			server := serveSMTP(t, func(s *smtpServer) {
				s.answer = func(int, mailData) error {
					(<-arrived)()
					if interrupt {
						cancel()
						return errDrop
					}
					return refuse(451, "later")
				}
			})
			e := newEnv(t, server)
			e.enqueue(hello)
			arrived <- func() { // another process claims the message
				_, _ = e.pool.Exec(context.Background(), `UPDATE email_outbox
					SET claim = '00000000-0000-0000-0000-000000000001', claimed_until = now() + interval '1 hour', attempts = 2`)
			}
			_, err := e.service.ProcessQueue(ctx, e.pool, e.logger)
			require.Equal(t, interrupt, errors.Is(err, context.Canceled), "%v", err)
			require.Contains(t, e.log.String(), "taken over")
			require.Equal(t, !interrupt, strings.Contains(e.log.String(), "message postponed"))
			require.Equal(t, 2, e.row(1).Attempts)
			require.Empty(t, e.row(1).LastError)
			var claimed bool
			require.NoError(t, e.pool.QueryRow(t.Context(), `SELECT claim = '00000000-0000-0000-0000-000000000001'
				AND claimed_until > now() AND due_at <= now() FROM email_outbox`).Scan(&claimed))
			require.True(t, claimed)
		})
	}
}

func TestService_InterruptedProcessQueueReleasesItsClaim(t *testing.T) {
	t.Parallel()
	arrived, end := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(end) })
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, _ mailData) error {
			if n == 1 {
				close(arrived)
				<-end
				return errDrop
			}
			return nil
		}
	})
	e := newEnv(t, server)
	e.enqueue(hello)
	e.enqueue(hello)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	started := time.Now()
	res, err := e.service.ProcessQueue(ctx, e.pool, e.logger)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, email.Result{}, res)
	require.Less(t, time.Since(started), 15*time.Second, "a hanging server delays the shutdown")
	require.Zero(t, e.row(1).Attempts, "the interruption counted as an attempt")
	require.Equal(t, email.Result{Sent: 2}, e.process(), "the interrupted message stayed claimed")
}

func TestService_InterruptedLastAttemptIsNotGivenUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, _ mailData) error {
			if n == 1 {
				cancel()
				return errDrop
			}
			return nil
		}
	})
	e := newEnv(t, server, func(cfg *email.Config) { cfg.MaxAttempts = 1 })
	e.enqueue(hello)
	res, err := e.service.ProcessQueue(ctx, e.pool, e.logger)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, email.Result{}, res)
	require.Equal(t, "pending", e.row(1).Status)
	require.Equal(t, email.Result{Sent: 1}, e.process())
}

func TestService_FinishesMessageInTransitWhenContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(int, mailData) error {
			cancel()
			return nil
		}
	})
	e := newEnv(t, server)
	e.enqueue(hello)
	e.enqueue(hello)
	res, err := e.service.ProcessQueue(ctx, e.pool, e.logger)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, email.Result{Sent: 1}, res, "the accepted message is marked, and no other is sent")
	require.Equal(t, "sent", e.row(1).Status)
	require.Equal(t, "pending", e.row(2).Status)
}

func TestSend_RetryDoesNotSendAgain(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	for range 3 {
		require.NoError(t, e.send("job 1", hello))
	}
	require.Len(t, server.mails(), 1)
	require.NoError(t, e.send("job 2", hello), "another job's message is another message")
	require.Len(t, server.mails(), 2)
	other := hello
	other.Text = "Something else"
	require.NoError(t, e.send("job 1", other), "a reused job ID must not suppress a new message")
	require.Len(t, server.mails(), 3)
	require.Equal(t, email.Result{}, e.process(), "ProcessQueue sent them again")
}

func TestSend_RetriesTemporaryFailure(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(n int, _ mailData) error {
			if n == 1 {
				return refuse(451, "busy")
			}
			return nil
		}
	})
	e := newEnv(t, server)
	err := e.send("job 1", hello)
	require.ErrorContains(t, err, "not sent yet")
	require.ErrorContains(t, err, "451")
	require.True(t, e.retried("email.send", err))
	require.Equal(t, "pending", e.row(1).Status, "ProcessQueue sends it if the job is not retried")
	require.NoError(t, e.send("job 1", hello))
	require.Len(t, server.mails(), 1)
}

func TestSend_GivesUpAfterPermanentFailure(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(int, mailData) error { return refuse(550, "no such user") }
	})
	e := newEnv(t, server)
	err := e.send("job 1", hello)
	require.ErrorContains(t, err, "5.0.0 no such user")
	require.False(t, e.retried("email.send", err))
	require.Equal(t, 1, e.row(1).Attempts)

	err = e.send("job 2", email.Message{To: []string{"nobody"}, Text: "x"})
	require.ErrorIs(t, err, email.ErrInvalidMessage)
	require.False(t, e.retried("email.send", err))
	err = e.run("email.send", "job 3", []byte(`{"to": "not a list"}`))
	require.Error(t, err)
	require.False(t, e.retried("email.send", err))
}

func TestSend_RetriedFailedJobSendsItsMessage(t *testing.T) {
	t.Parallel()
	var accepts atomic.Bool
	server := serveSMTP(t, func(s *smtpServer) {
		s.answer = func(int, mailData) error {
			if accepts.Load() {
				return nil
			}
			return refuse(550, "not yet")
		}
	})
	e := newEnv(t, server)
	for range 2 {
		require.ErrorContains(t, e.send("job 1", hello), "not yet")
		require.Equal(t, "failed", e.row(1).Status)
		require.Equal(t, 1, e.row(1).Attempts, "attempts are counted from the start")
	}
	accepts.Store(true)
	require.NoError(t, e.send("job 1", hello))
	require.Equal(t, "sent", e.row(1).Status)
	require.NoError(t, e.send("job 1", hello))
	require.Len(t, server.mails(), 1)
}

func TestService_RejectedLoginFailsNoMessage(t *testing.T) {
	t.Parallel()
	for _, code := range []int{530, 534, 535, 538} {
		server := serveSMTP(t, func(s *smtpServer) {
			s.rcpt = func(string) error { return refuse(code, "authentication required") }
		})
		e := newEnv(t, server)
		for range 3 {
			e.enqueue(hello)
		}
		res, err := e.service.ProcessQueue(t.Context(), e.pool, e.logger)
		require.ErrorContains(t, err, "authentication required")
		require.Equal(t, email.Result{Postponed: 1}, res, "the other messages are not tried")
	}
}

func TestSend_WaitsForAnotherProcess(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	require.NoError(t, e.send("job 1", hello))
	// As left behind by an earlier attempt whose process died.
	e.exec(`UPDATE email_outbox SET status = 'pending', finished_at = NULL, claim = gen_random_uuid(), claimed_until = now() + interval '90 seconds'`)
	err := e.send("job 1", hello)
	require.ErrorContains(t, err, "another process")
	delay, again := e.definition("email.send").Retry(&jobs.Job{Attempt: 1, MaxAttempts: 3}, err)
	require.True(t, again)
	require.InDelta(t, 90*time.Second, delay, float64(20*time.Second), "the retry comes when the claim expires")
	require.Len(t, server.mails(), 1)
	e.exec(`UPDATE email_outbox SET claimed_until = now()`)
	require.NoError(t, e.send("job 1", hello))
	require.Len(t, server.mails(), 2)
}

func TestSend_ProcessQueueSendsWhatFailed(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	server.stop()
	err := e.send("job 1", hello)
	require.ErrorContains(t, err, "connection refused")
	require.True(t, e.retried("email.send", err))
	server.start(server.addr)
	e.makeDue()
	require.Equal(t, email.Result{Sent: 1}, e.process())
	require.NoError(t, e.send("job 1", hello), "the retry finds the message sent")
	require.Len(t, server.mails(), 1)
}

func TestService_EnqueueInvalidLeavesTransactionUsable(t *testing.T) {
	t.Parallel()
	e := newEnv(t, serveSMTP(t))
	tx, err := e.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	to := hello.To
	for _, row := range []struct {
		want string
		m    email.Message
	}{
		{"0 recipients", email.Message{Text: "x"}},
		{"101 recipients", email.Message{To: strings.Split(strings.Repeat("a@b.c ", 100)+"a@b.c", " "), Text: "x"}},
		{`address "ann"`, email.Message{To: []string{"ann"}, Text: "x"}},
		{`address ""`, email.Message{To: []string{""}, Text: "x"}},
		{"address", email.Message{To: []string{"ann@example.com, bob@example.com"}, Text: "x"}},
		{"line break", email.Message{To: []string{"ann@example.com\r\nBcc: eve@example.com"}, Text: "x"}},
		{"line break", email.Message{To: []string{"\"ann\nBcc: eve@example.com\" <ann@example.com>"}, Text: "x"}},
		{"line break", email.Message{To: to, Subject: "hi\r\nBcc: eve@example.com", Text: "x"}},
		{"line break", email.Message{To: to, Subject: "hi\nthere", Text: "x"}},
		{"not valid UTF-8", email.Message{To: to, Subject: "\xff", Text: "x"}},
		{"subject of 901 bytes", email.Message{To: to, Subject: strings.Repeat("x", 901), Text: "x"}},
		{"neither text nor HTML", email.Message{To: to, Subject: "hi"}},
		{"not valid UTF-8", email.Message{To: to, Text: "\xff"}},
		{"NUL", email.Message{To: to, HTML: "\x00"}},
	} {
		_, err := e.service.Enqueue(t.Context(), tx, row.m)
		require.ErrorIs(t, err, email.ErrInvalidMessage, "%q", row.m)
		require.ErrorContains(t, err, row.want)
	}
	_, err = e.service.Enqueue(t.Context(), tx, hello)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
}

func TestService_EncodedLineBreakInNameAddsNoHeader(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server)
	e.enqueue(email.Message{To: []string{"=?utf-8?q?Ann=0D=0ABcc=3A_eve=40example=2Ecom?= <ann@example.com>"}, Text: "x"})
	require.Equal(t, email.Result{Sent: 1}, e.process())
	require.Equal(t, []string{"ann@example.com"}, server.mails()[0].to)
	m, err := netmail.ReadMessage(strings.NewReader(server.mails()[0].data))
	require.NoError(t, err)
	require.NotContains(t, m.Header, "Bcc")
}

func TestNew_InvalidConfig(t *testing.T) {
	t.Parallel()
	good := email.Config{Addr: "mail.example.org:587", From: "The Shop <shop@example.org>"}
	_, err := email.New(good)
	require.NoError(t, err)
	for want, change := range map[string]func(*email.Config){
		"Addr":        func(c *email.Config) { c.Addr = "mail.example.org" },
		"want host":   func(c *email.Config) { c.Addr = ":587" },
		"host:port":   func(c *email.Config) { c.Addr = "mail.example.org:smtp" },
		"70000":       func(c *email.Config) { c.Addr = "mail.example.org:70000" },
		"From":        func(c *email.Config) { c.From = "" },
		"line break":  func(c *email.Config) { c.From = "shop@example.org\nBcc: eve@example.com" },
		"TLS":         func(c *email.Config) { c.TLS = 3 },
		"Username":    func(c *email.Config) { c.Password = "hunter2" },
		"MaxAttempts": func(c *email.Config) { c.MaxAttempts = -1 },
		"RetryDelay":  func(c *email.Config) { c.RetryDelay = -1 },
		"KeepFor":     func(c *email.Config) { c.KeepFor = -1 },
	} {
		cfg := good
		change(&cfg)
		_, err := email.New(cfg)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "email: ")
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestConfig_PrintsWithoutPassword(t *testing.T) {
	t.Parallel()
	cfg := email.Config{Addr: "localhost:25", From: "shop@example.org", Username: "u", Password: "hunter2"}
	service, err := email.New(cfg)
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", cfg)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", cfg, "service", service)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		fmt.Fprintf(&log, verb+verb+verb, cfg, &cfg, service)
	}
	require.NotContains(t, log.String(), "hunter2")
}

func TestService_TLSMandatorySendsNothingUnencrypted(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server, func(cfg *email.Config) { cfg.TLS = email.TLSMandatory })
	e.enqueue(hello)
	_, err := e.service.ProcessQueue(t.Context(), e.pool, e.logger)
	require.ErrorContains(t, err, "STARTTLS")
	require.Empty(t, server.mails())

	opportunistic := newEnv(t, server, func(cfg *email.Config) { cfg.TLS = email.TLSOpportunistic })
	opportunistic.enqueue(hello)
	require.Equal(t, email.Result{Sent: 1}, opportunistic.process())
}

func TestService_LoginKeepsPasswordSecret(t *testing.T) {
	t.Parallel()
	const password = `hunter2 "& more`
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Certificate())
	server := serveSMTP(t, func(s *smtpServer) {
		s.tls = &tls.Config{Certificates: certificate.TLS.Certificates}
		s.login = func(mechanism, username, got string) error {
			if got == password {
				return nil
			}
			// Some servers quote the command that they reject.
			raw := "\x00" + username + "\x00" + got
			return refuse(535, "bad login AUTH "+mechanism+" "+base64.StdEncoding.EncodeToString([]byte(raw))+" or "+got)
		}
	})

	e := newEnv(t, server, func(cfg *email.Config) {
		cfg.TLS, cfg.TLSConfig = email.TLSMandatory, &tls.Config{RootCAs: roots}
		cfg.Username, cfg.Password = "shop", password
	})
	e.enqueue(hello)
	require.Equal(t, email.Result{Sent: 1}, e.process())

	wrong := newEnv(t, server, func(cfg *email.Config) {
		cfg.TLS, cfg.TLSConfig = email.TLSMandatory, &tls.Config{RootCAs: roots}
		cfg.Username, cfg.Password = "shop", "wrong-"+password
	})
	wrong.enqueue(hello)
	err := wrong.run("email.process-queue", "job", nil)
	require.ErrorContains(t, err, "535")
	require.Equal(t, "pending", wrong.row(1).Status, "a wrong password must not fail the message")
	for _, text := range []string{err.Error(), wrong.row(1).LastError, wrong.log.String()} {
		require.NotContains(t, text, "hunter2")
		require.NotContains(t, text, base64.StdEncoding.EncodeToString([]byte("\x00shop\x00wrong-"+password)))
	}

	unknown := newEnv(t, server, func(cfg *email.Config) { cfg.TLS = email.TLSMandatory })
	unknown.enqueue(hello)
	_, err = unknown.service.ProcessQueue(t.Context(), unknown.pool, unknown.logger)
	require.ErrorContains(t, err, "certificate", "an untrusted certificate was accepted")

	clear := newEnv(t, server, func(cfg *email.Config) { cfg.Username, cfg.Password = "shop", password })
	clear.enqueue(hello)
	_, err = clear.service.ProcessQueue(t.Context(), clear.pool, clear.logger)
	require.Error(t, err, "the password was sent unencrypted")
	require.Len(t, server.mails(), 1)
}

func TestService_DeletesOldMessagesExceptPending(t *testing.T) {
	t.Parallel()
	server := serveSMTP(t)
	e := newEnv(t, server, func(cfg *email.Config) { cfg.KeepFor = time.Hour })
	for range 3 {
		e.enqueue(hello)
	}
	e.exec(`UPDATE email_outbox SET status = 'sent', finished_at = now() - interval '61 minutes' WHERE id = 1`)
	e.exec(`UPDATE email_outbox SET status = 'failed', finished_at = now() - interval '59 minutes' WHERE id = 2`)
	e.exec(`UPDATE email_outbox SET created_at = now() - interval '1 year', due_at = now() + interval '1 hour' WHERE id = 3`)
	require.Equal(t, email.Result{}, e.process())
	rows, err := e.pool.Query(t.Context(), `SELECT id FROM email_outbox ORDER BY id`)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	require.Equal(t, []int{2, 3}, ids)
}

func TestRegisterEmailJobs(t *testing.T) {
	t.Parallel()
	e := newEnv(t, serveSMTP(t))
	require.Len(t, e.registry.Jobs(), 2)
	require.Equal(t, "every 30s", e.definition("email.process-queue").Schedule.String())
	require.Nil(t, e.definition("email.send").Schedule)
	require.ErrorIs(t, email.RegisterEmailJobs(e.registry, e.service), jobs.ErrDuplicate)
	require.Error(t, email.RegisterEmailJobs(e.registry, nil))

	e.enqueue(hello)
	require.NoError(t, e.run("email.process-queue", "job", nil))
	require.Contains(t, e.log.String(), "sent=1 failed=0 postponed=0")
}

// env has its own database, a service that sends to a server, and the service's jobs.
type env struct {
	t        *testing.T
	pool     *pgxpool.Pool
	service  *email.Service
	registry *provider.Registry
	logger   *slog.Logger
	log      *lockedBuffer
}

func newEnv(t *testing.T, server *smtpServer, options ...func(*email.Config)) *env {
	t.Helper()
	cfg := email.Config{Addr: server.addr, From: "The Shop <shop@example.org>", TLS: email.TLSNone}
	for _, option := range options {
		option(&cfg)
	}
	service, err := email.New(cfg)
	require.NoError(t, err)
	registry, err := provider.NewRegistry()
	require.NoError(t, err)
	require.NoError(t, email.RegisterEmailJobs(registry, service))
	log := new(lockedBuffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	return &env{t, db.Pool(t), service, registry, logger, log}
}

func (e *env) enqueue(m email.Message) {
	e.t.Helper()
	_, err := e.service.Enqueue(e.t.Context(), e.pool, m)
	require.NoError(e.t, err)
}

func (e *env) process() email.Result {
	e.t.Helper()
	res, err := e.service.ProcessQueue(e.t.Context(), e.pool, e.logger)
	require.NoError(e.t, err)
	return res
}

func (e *env) definition(name string) *provider.Definition {
	e.t.Helper()
	definition, err := e.registry.Job(name)
	require.NoError(e.t, err)
	return definition
}

// run runs a job as a scheduler does.
func (e *env) run(name, id string, data []byte) error {
	e.t.Helper()
	job := &jobs.Job{ID: id, Name: name, Data: data, Attempt: 1, MaxAttempts: 3, DB: e.pool}
	return e.definition(name).Run(e.t.Context(), job, e.logger)
}

func (e *env) send(id string, m email.Message) error {
	e.t.Helper()
	request, err := e.definition("email.send").Request(m)
	require.NoError(e.t, err)
	return e.run("email.send", id, request.Data)
}

func (e *env) retried(name string, err error) bool {
	e.t.Helper()
	_, again := e.definition(name).Retry(&jobs.Job{Attempt: 1, MaxAttempts: 3}, err)
	return again
}

func (e *env) exec(sql string) {
	e.t.Helper()
	_, err := e.pool.Exec(e.t.Context(), sql)
	require.NoError(e.t, err)
}

func (e *env) makeDue() {
	e.t.Helper()
	e.exec(`UPDATE email_outbox SET due_at = now()`)
}

type row struct {
	Status    string
	Attempts  int
	LastError string
	DueIn     time.Duration
}

func (e *env) row(id int64) row {
	e.t.Helper()
	rows, err := e.pool.Query(e.t.Context(), `SELECT status, attempts, last_error, due_at - now() FROM email_outbox WHERE id = $1`, id)
	require.NoError(e.t, err)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	require.NoError(e.t, err)
	return r
}

func parts(t *testing.T, m *netmail.Message) (parts []string) {
	t.Helper()
	mediaType, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/alternative", mediaType)
	reader := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := reader.NextRawPart()
		if errors.Is(err, io.EOF) {
			return parts
		}
		require.NoError(t, err)
		require.Equal(t, "quoted-printable", part.Header.Get("Content-Transfer-Encoding"))
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		require.NoError(t, err)
		partType, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		require.NoError(t, err)
		parts = append(parts, partType+": "+string(body))
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
