// Package prometheus exposes metrics of jobs to Prometheus. It works with any provider:
//
//	metrics := prometheus.New(nil)
//	s, err := river.New(pool, &river.Config{Defaults: metrics.Options()})
//	…
//	registry.MustRegister(metrics.Collector(s))
//
// # Metrics
//
// Metrics of the attempts in this process:
//
//	everytick_job_attempts_total      counter    attempts, by outcome: completed, retried, failed or interrupted
//	everytick_job_duration_seconds    histogram  duration of attempts
//	everytick_tick_lateness_seconds   histogram  time from a tick to the start of its first attempt
//
// Metrics of all processes together, read from the scheduler at each scrape:
//
//	everytick_up                                  gauge  1 if the scheduler answered
//	everytick_healthy                             gauge  1 if jobs can run and no schedule is overdue
//	everytick_oldest_waiting_seconds              gauge  how long the oldest waiting job has been due
//	everytick_jobs                                gauge  jobs by state: waiting, running or retrying
//	everytick_schedule_overdue_seconds            gauge  how late a schedule's next tick is
//	everytick_job_paused                          gauge  1 while a job is paused
//	everytick_job_last_success_timestamp_seconds  gauge  when a job last succeeded, as far as this process knows
//
// All except everytick_up, everytick_healthy and everytick_oldest_waiting_seconds have the
// label job_name. It is not called job because Prometheus uses that label for the scraped
// target. The docs of everytick have alerting rules for these metrics.
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

// Config configures [Metrics]. The zero value and a nil *Config mean the defaults.
type Config struct {
	// Logger logs when the scheduler does not answer a scrape. Defaults to discarding
	// everything.
	Logger *slog.Logger
}

// Metrics are the metrics of one process. Make them with [New]. They are safe for concurrent
// use.
type Metrics struct {
	log      *slog.Logger
	attempts *client.CounterVec
	duration *client.HistogramVec
	lateness *client.HistogramVec

	mu        sync.Mutex
	succeeded map[string]time.Time // latest known success, by job
}

// outcomes are the results of [jobs.Job.Outcome].
var outcomes = []string{"completed", "snoozed", "retried", "failed", "interrupted"}

// New returns metrics that have not counted anything yet. A nil cfg means the defaults.
func New(cfg *Config) *Metrics {
	c := *cmp.Or(cfg, &Config{})
	return &Metrics{
		log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
		attempts: client.NewCounterVec(client.CounterOpts{
			Name: "everytick_job_attempts_total",
			Help: "Attempts in this process, by outcome: completed, snoozed (postponed by the handler), " +
				"retried (failed, another attempt follows), failed (for good), interrupted (by a shutdown or a cancellation).",
		}, []string{"job_name", "outcome"}),
		duration: client.NewHistogramVec(client.HistogramOpts{
			Name:    "everytick_job_duration_seconds",
			Help:    "Duration of attempts in this process.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
		}, []string{"job_name"}),
		lateness: client.NewHistogramVec(client.HistogramOpts{
			Name:    "everytick_tick_lateness_seconds",
			Help:    "Time from a tick to the start of its first attempt, in this process.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600},
		}, []string{"job_name"}),
		succeeded: make(map[string]time.Time),
	}
}

// Options returns middleware that counts attempts, for the Defaults of a provider's Config or
// for a single registration. Put it first, so that it is outside other middleware.
func (m *Metrics) Options() []jobs.Option { return []jobs.Option{jobs.Use(m.count)} }

// count is a [jobs.Middleware].
func (m *Metrics) count(next jobs.Handler) jobs.Handler {
	return func(ctx context.Context, job *jobs.Job) error {
		if job.Attempt == 1 && job.Snoozes == 0 && !job.Tick.IsZero() {
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

// collector adds what a scheduler reports about all processes.
type collector struct {
	*Metrics
	monitor jobs.Monitor

	asking chan struct{} // holds a token while last is used
	last   answer
}

// answer is a report of the scheduler.
type answer struct {
	at     time.Time // zero if there is none yet
	health jobs.Health
	jobs   []jobs.Status
	err    error
}

const (
	// monitorTimeout bounds how long a scrape waits for the scheduler. It is shorter than
	// Prometheus's own timeout of 10 s.
	monitorTimeout = 5 * time.Second
	// answerAge is how long an answer is reused, so that several Prometheus servers query
	// the database no more often than one.
	answerAge = 3 * time.Second
)

var (
	descUp = client.NewDesc("everytick_up",
		"1 if the scheduler answered in time, 0 if not, for example because the database is down. "+
			"The other metrics of the scheduler are then absent.", nil, nil)
	descHealthy = client.NewDesc("everytick_healthy",
		"1 if jobs can run and no schedule is overdue, otherwise 0. /healthz has the reasons.", nil, nil)
	descOldest = client.NewDesc("everytick_oldest_waiting_seconds",
		"How long the oldest waiting job has been due, over all processes.", nil, nil)
	descJobs = client.NewDesc("everytick_jobs",
		"Jobs over all processes, by state: waiting (not attempted yet, due or delayed), "+
			"retrying (failed, waits for its next attempt), running.",
		[]string{"job_name", "state"}, nil)
	descOverdue = client.NewDesc("everytick_schedule_overdue_seconds",
		"How late a schedule's next tick is, 0 if it is on time.", []string{"job_name"}, nil)
	descPaused = client.NewDesc("everytick_job_paused",
		"1 while a job is paused, otherwise 0.", []string{"job_name"}, nil)
	descLastSuccess = client.NewDesc("everytick_job_last_success_timestamp_seconds",
		"When a job last succeeded, as far as this process knows: the end of a run in this process, "+
			"or the latest tick whose run succeeded anywhere.",
		[]string{"job_name"}, nil)
)

// Collector returns a collector of these metrics and of those that s reports about all
// processes. Register it once. A scrape waits at most 5 seconds for s, and scrapes within 3
// seconds share one answer.
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
		for _, outcome := range outcomes { // start at 0, otherwise the first failure is not an increase
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

// ask returns the scheduler's answer, or the last one if it is recent.
func (c *collector) ask() answer {
	c.asking <- struct{}{} // concurrent scrapes wait for one answer
	defer func() { <-c.asking }()
	if !c.last.at.IsZero() && time.Since(c.last.at) < answerAge {
		return c.last
	}
	// Not a request's context: if it ended, the other scrapes would get an error.
	ctx, cancel := context.WithTimeout(context.Background(), monitorTimeout)
	defer cancel()
	a := answer{}
	if a.jobs, a.err = c.monitor.Jobs(ctx); a.err == nil {
		a.health, a.err = c.monitor.Health(ctx)
	}
	if a.err != nil {
		a.jobs = nil
		c.log.WarnContext(ctx, "the scheduler did not answer a scrape; everytick_up is 0", "error", a.err)
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
