// Package prometheus measures jobs for Prometheus, under any provider:
//
//	metrics := prometheus.New(nil)
//	s, err := river.New(pool, &river.Config{Defaults: metrics.Options()})
//	…
//	registry.MustRegister(metrics.Collector(s))
//
// # Metrics
//
// Of what runs in this process:
//
//	everytick_job_attempts_total      counter    attempts, by outcome: completed, retried, failed or interrupted
//	everytick_job_duration_seconds    histogram  how long an attempt took
//	everytick_tick_lateness_seconds   histogram  from a tick to the start of its first attempt
//
// Of all processes together, asked of the scheduler at a scrape:
//
//	everytick_up                                  whether it answered
//	everytick_healthy                             whether jobs can run and no schedule is overdue
//	everytick_oldest_waiting_seconds              how long the job that waits longest has been due
//	everytick_jobs                                jobs that wait, run or are to be retried, by state
//	everytick_schedule_overdue_seconds            how late a schedule's next tick is
//	everytick_job_paused                          1 while a job is paused
//	everytick_job_last_success_timestamp_seconds  when a job last succeeded, as far as this process knows
//
// All but three have the label job_name, since Prometheus names the scraped target by
// "job". docs/alerts.yml has alerts on them.
package prometheus

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	client "github.com/prometheus/client_golang/prometheus"

	"github.com/everytick/everytick/jobs"
)

// Config changes what [New] makes. The zero value, and a nil *Config, mean the defaults.
type Config struct {
	// Logger is told when the scheduler does not answer a scrape. Defaults to one that
	// discards everything.
	Logger *slog.Logger
}

// Metrics count what runs in this process and ask a scheduler for the rest. Make them with
// [New]. They may be used by several goroutines at once.
type Metrics struct {
	log      *slog.Logger
	attempts *client.CounterVec
	duration *client.HistogramVec
	lateness *client.HistogramVec

	mu        sync.Mutex
	succeeded map[string]time.Time // when a job last succeeded, as far as is known
}

// outcomes of an attempt: done, failed with another attempt to follow, failed for
// good, or ended from outside by a shutdown or a cancellation.
var outcomes = []string{"completed", "retried", "failed", "interrupted"}

// New returns metrics that have counted nothing.
func New(cfg *Config) *Metrics {
	c := *cmp.Or(cfg, &Config{})
	return &Metrics{
		log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
		attempts: client.NewCounterVec(client.CounterOpts{
			Name: "everytick_job_attempts_total",
			Help: "Attempts at jobs in this process, by outcome: completed, retried (failed, another attempt follows), failed (for good), interrupted (by a shutdown or a cancellation).",
		}, []string{"job_name", "outcome"}),
		duration: client.NewHistogramVec(client.HistogramOpts{
			Name:    "everytick_job_duration_seconds",
			Help:    "How long an attempt at a job took in this process.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
		}, []string{"job_name"}),
		lateness: client.NewHistogramVec(client.HistogramOpts{
			Name:    "everytick_tick_lateness_seconds",
			Help:    "Time from a schedule's tick to the start of its first attempt, in this process.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600},
		}, []string{"job_name"}),
		succeeded: make(map[string]time.Time),
	}
}

// Options returns what counts attempts, for the Defaults of a provider's Config or for a
// single registration. Placed first it stands outside of other middleware.
func (m *Metrics) Options() []jobs.Option { return []jobs.Option{jobs.Use(m.count)} }

// count is a [jobs.Middleware].
func (m *Metrics) count(next jobs.Handler) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		if job.Attempt == 1 && !job.Tick.IsZero() {
			m.lateness.WithLabelValues(job.Name).Observe(job.Late().Seconds())
		}
		start := time.Now()
		err := next(ctx, job)
		m.duration.WithLabelValues(job.Name).Observe(time.Since(start).Seconds())
		m.attempts.WithLabelValues(job.Name, job.Outcome(ctx, err)).Inc()
		if err == nil {
			m.noteSuccess(job.Name, time.Now())
		}
		return err
	}
}

func (m *Metrics) noteSuccess(name string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.After(m.succeeded[name]) {
		m.succeeded[name] = at
	}
}

func (m *Metrics) successes() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.succeeded)
}

// collector has the metrics and what the scheduler tells when it is scraped, the same in
// every process of a cluster.
type collector struct {
	*Metrics
	monitor jobs.Monitor

	asking chan struct{} // holds a token while the scheduler is asked
	last   answer
}

// answer is what the scheduler told.
type answer struct {
	at     time.Time // zero before the first
	health jobs.Health
	jobs   []jobs.Status
	err    error
}

// A scrape waits so long for the scheduler, which is less than Prometheus waits for
// the scrape (10 s), and an answer serves all scrapes of the next few seconds: several
// Prometheus servers ask the database no more often than one.
const (
	monitorTimeout = 5 * time.Second
	answerAge      = 3 * time.Second
)

var (
	descUp = client.NewDesc("everytick_up",
		"1 if the scheduler answered about its jobs in time, 0 if not, as when the database is down; what is asked of it is then absent.", nil, nil)
	descHealthy = client.NewDesc("everytick_healthy",
		"1 if jobs can run and no schedule is overdue, 0 if not; /healthz says why.", nil, nil)
	descOldest = client.NewDesc("everytick_oldest_waiting_seconds",
		"How long the job that waits longest has been due, in all processes together.", nil, nil)
	descJobs = client.NewDesc("everytick_jobs",
		"Jobs in all processes together, by state: waiting (not tried yet, due or delayed), retrying (failed, waits for its next attempt), running.",
		[]string{"job_name", "state"}, nil)
	descOverdue = client.NewDesc("everytick_schedule_overdue_seconds",
		"How late a schedule's next tick is, 0 when all is well.", []string{"job_name"}, nil)
	descPaused = client.NewDesc("everytick_job_paused",
		"1 while a job is paused, else 0.", []string{"job_name"}, nil)
	descLastSuccess = client.NewDesc("everytick_job_last_success_timestamp_seconds",
		"When a job last succeeded, as far as this process knows: the end of a run of its own, or the latest tick whose run succeeded.", []string{"job_name"}, nil)
)

// Collector returns what exposes the metrics, and asks s for the rest. A scrape takes at
// most 5 seconds, and asks no more often than every 3 seconds. Register it once.
func (m *Metrics) Collector(s jobs.Monitor) client.Collector {
	return &collector{Metrics: m, monitor: s, asking: make(chan struct{}, 1)}
}

// Describe implements [client.Collector].
func (c *collector) Describe(ch chan<- *client.Desc) {
	c.attempts.Describe(ch)
	c.duration.Describe(ch)
	c.lateness.Describe(ch)
	for _, desc := range []*client.Desc{descUp, descHealthy, descOldest, descJobs, descOverdue, descPaused, descLastSuccess} {
		ch <- desc
	}
}

// Collect implements [client.Collector].
func (c *collector) Collect(ch chan<- client.Metric) {
	gauge := func(desc *client.Desc, v float64, labels ...string) {
		ch <- client.MustNewConstMetric(desc, client.GaugeValue, v, labels...)
	}
	a := c.ask()
	gauge(descUp, number(a.err == nil))
	if a.err == nil {
		gauge(descHealthy, number(a.health.Healthy))
		gauge(descOldest, a.health.OldestWaiting.Seconds())
	}
	for _, st := range a.jobs {
		gauge(descJobs, float64(st.Waiting-st.Retrying), st.Name, "waiting")
		gauge(descJobs, float64(st.Retrying), st.Name, "retrying")
		gauge(descJobs, float64(st.Running), st.Name, "running")
		gauge(descPaused, number(!st.PausedSince.IsZero()), st.Name)
		if !st.NextTick.IsZero() {
			gauge(descOverdue, st.OverdueBy.Seconds(), st.Name)
		}
		if !st.LastSuccess.IsZero() {
			c.noteSuccess(st.Name, st.LastSuccess)
		}
		for _, outcome := range outcomes { // from 0 on, or the first failure is no increase
			c.attempts.WithLabelValues(st.Name, outcome)
		}
	}
	for name, at := range c.successes() {
		gauge(descLastSuccess, float64(at.UnixNano())/1e9, name)
	}
	c.attempts.Collect(ch)
	c.duration.Collect(ch)
	c.lateness.Collect(ch)
}

// ask returns what the scheduler says, or said a moment ago.
func (c *collector) ask() answer {
	c.asking <- struct{}{} // scrapes that come together wait for one answer
	defer func() { <-c.asking }()
	if !c.last.at.IsZero() && time.Since(c.last.at) < answerAge {
		return c.last
	}
	// Not of the request: its end would spoil the answer for the others.
	ctx, cancel := context.WithTimeout(context.Background(), monitorTimeout)
	defer cancel()
	a := answer{}
	if a.jobs, a.err = c.monitor.Jobs(ctx); a.err == nil {
		a.health, a.err = c.monitor.Health(ctx)
	}
	if a.err != nil {
		a.jobs = nil
		c.log.WarnContext(ctx, "the scheduler does not answer a scrape", "error", a.err)
	}
	a.at = time.Now()
	c.last = a
	return a
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
