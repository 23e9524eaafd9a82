// Package jobsping reports the runs of a job to a dead man's switch: a service that raises an alarm when it has not
// heard of a success in time. It notices what no process can report, such as a cluster that is down.
//
// It speaks the form of healthchecks.io, which others understand too. For a job with the ping URL U it requests:
//
//	U/start  when an attempt starts
//	U        when the run has completed
//	U/fail   when the run has failed for good
//
// An attempt that is retried, snoozed or interrupted reports no end, so the time that the service allows for a run
// includes its retries. Each request has the parameter rid, a UUID that is the same for the start and the end of an
// attempt.
//
//	ping, err := jobsping.New(os.Getenv("RETENTION_PING_URL"), nil)
//	…
//	s.RegisterCron("audit.retention", "0 3 * * *", retain, jobs.Use(ping))
package jobsping

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

// Config configures [New]. The zero value and a nil *Config mean the defaults.
type Config struct {
	// Client sends the requests. Defaults to a client of its own that follows no redirects.
	Client *http.Client
	// Timeout bounds each request. The run occupies its worker until its end has been reported, which takes at most
	// three times as long. Defaults to 5 seconds.
	Timeout time.Duration
	// SendErrors sends the text of the error, after [jobs.Redact], as the body of U/fail. Defaults to false: nothing
	// about the run but its outcome leaves the process.
	SendErrors bool
	// Logger logs what could not be reported, without the URL, which is a secret. Defaults to the job's own logger.
	Logger *slog.Logger
}

// ErrInvalidURL is the error of [New] for a ping URL that it cannot use.
var ErrInvalidURL = errors.New("jobsping: invalid ping URL")

// attempts is how many times the end of a run is sent before it is given up.
const attempts = 2

// New returns middleware that reports to pingURL, an absolute URL with the scheme http or https; others are
// [ErrInvalidURL]. Use a URL for each job. What cannot be reported is logged and changes nothing about the run.
func New(pingURL string, cfg *Config) (jobs.Middleware, error) {
	base, err := url.Parse(pingURL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("%w: want an absolute one, such as https://hc-ping.com/…", ErrInvalidURL) // it is a secret
	}
	p := &pinger{base: base}
	if cfg != nil {
		p.Config = *cfg
	}
	if p.Timeout < 0 {
		return nil, fmt.Errorf("jobsping: Timeout is %s: must not be negative", p.Timeout)
	}
	if p.Timeout == 0 {
		p.Timeout = 5 * time.Second
	}
	if p.Client == nil {
		p.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	return p.report, nil
}

type pinger struct {
	Config
	base *url.URL
}

// report is a [jobs.Middleware].
func (p *pinger) report(next jobs.Handler) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		log := p.Logger
		if log == nil {
			log = job.Logger
		}
		rid := requestID(job)
		reporting := context.WithoutCancel(ctx) // the end is reported after a timeout too
		started := make(chan struct{})
		go func() {
			defer close(started)
			if err := p.ping(reporting, "start", rid, ""); err != nil {
				log.WarnContext(ctx, "the start was not reported to the dead man's switch", "error", err)
			}
		}()
		err := next(ctx, job)
		<-started // an end that overtakes its start looks like a run that goes on
		event, text := "", ""
		switch job.Outcome(ctx, err) {
		case "completed":
		case "failed":
			event = "fail"
			if p.SendErrors {
				text = err.Error()
			}
		default:
			return err
		}
		var pingErr error
		for range attempts {
			if pingErr = p.ping(reporting, event, rid, text); pingErr == nil {
				return err
			}
		}
		log.WarnContext(ctx, "the end was not reported to the dead man's switch", "error", pingErr)
		return err
	}
}

// ping reports one event; "" is a success.
func (p *pinger) ping(ctx context.Context, event, rid, body string) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	to := *p.base
	if event != "" {
		to = *p.base.JoinPath(event)
	}
	query := to.Query()
	query.Set("rid", rid)
	to.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	req.Header.Set("User-Agent", "everytick")
	res, err := p.Client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 4096) // so that the connection is used again
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("the service answered %s", res.Status)
	}
	return nil
}

// withoutURL returns the cause of an error of package http, without the URL, which is a secret.
func withoutURL(err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		return withURL.Err
	}
	return errors.New("the request could not be made")
}

// requestID returns a UUID for an attempt. It depends only on the job's name, its ID and the attempt.
func requestID(job *jobs.Job) string {
	id := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", job.Name, job.ID, job.Attempt))
	id[6] = id[6]&0x0f | 0x80 // version 8: the bits are defined by their maker (RFC 9562)
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
}
