package main

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/everytick/everytick/jobs"
)

// metrics count what runs in this process, by middleware. The label is job_name,
// since Prometheus names the scraped target by "job". docs/alerts.yml has alerts on
// these metrics and on those of [queue].
type metrics struct {
	attempts *prometheus.CounterVec
	duration *prometheus.HistogramVec
	lateness *prometheus.HistogramVec

	mu        sync.Mutex
	succeeded map[string]time.Time // when a job last succeeded, as far as is known
}

// outcomes of an attempt: done, failed with another attempt to follow, failed for
// good, or ended from outside by a shutdown or a cancellation.
var outcomes = []string{"completed", "retried", "failed", "interrupted"}

func newMetrics() *metrics {
	return &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "everytick_job_attempts_total",
			Help: "Attempts at jobs in this process, by outcome: completed, retried (failed, another attempt follows), failed (for good), interrupted (by a shutdown or a cancellation).",
		}, []string{"job_name", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "everytick_job_duration_seconds",
			Help:    "How long an attempt at a job took in this process.",
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
		}, []string{"job_name"}),
		lateness: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "everytick_tick_lateness_seconds",
			Help:    "Time from a schedule's tick to the start of its first attempt, in this process.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600},
		}, []string{"job_name"}),
		succeeded: make(map[string]time.Time),
	}
}

// options count every job of the scheduler that has them among its defaults.
func (m *metrics) options() []jobs.Option { return []jobs.Option{jobs.Use(m.count)} }

// count is a [jobs.Middleware].
func (m *metrics) count(next jobs.Handler) jobs.Handler {
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

func (m *metrics) noteSuccess(name string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.After(m.succeeded[name]) {
		m.succeeded[name] = at
	}
}

func (m *metrics) successes() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.succeeded)
}

// handler serves the metrics, what monitor tells, and what the Go runtime and the
// process do.
func (m *metrics) handler(monitor jobs.Monitor, log *slog.Logger) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.queue(monitor, log), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)})
}

// queue is the [prometheus.Collector] of the metrics and of what the scheduler tells
// when it is scraped, the same in every process of a cluster.
type queue struct {
	*metrics
	monitor jobs.Monitor
	log     *slog.Logger

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
	descUp = prometheus.NewDesc("everytick_up",
		"1 if the scheduler answered about its jobs in time, 0 if not, as when the database is down; what is asked of it is then absent.", nil, nil)
	descHealthy = prometheus.NewDesc("everytick_healthy",
		"1 if jobs can run and no schedule is overdue, 0 if not; /healthz says why.", nil, nil)
	descOldest = prometheus.NewDesc("everytick_oldest_waiting_seconds",
		"How long the job that waits longest has been due, in all processes together.", nil, nil)
	descJobs = prometheus.NewDesc("everytick_jobs",
		"Jobs in all processes together, by state: waiting (not tried yet, due or delayed), retrying (failed, waits for its next attempt), running.",
		[]string{"job_name", "state"}, nil)
	descOverdue = prometheus.NewDesc("everytick_schedule_overdue_seconds",
		"How late a schedule's next tick is, 0 when all is well.", []string{"job_name"}, nil)
	descPaused = prometheus.NewDesc("everytick_job_paused",
		"1 while a job is paused, else 0.", []string{"job_name"}, nil)
	descLastSuccess = prometheus.NewDesc("everytick_job_last_success_timestamp_seconds",
		"When a job last succeeded, as far as this process knows: the end of a run of its own, or the latest tick whose run succeeded.", []string{"job_name"}, nil)
)

func (m *metrics) queue(monitor jobs.Monitor, log *slog.Logger) *queue {
	return &queue{metrics: m, monitor: monitor, log: log, asking: make(chan struct{}, 1)}
}

// Describe implements [prometheus.Collector].
func (q *queue) Describe(ch chan<- *prometheus.Desc) {
	q.attempts.Describe(ch)
	q.duration.Describe(ch)
	q.lateness.Describe(ch)
	for _, desc := range []*prometheus.Desc{descUp, descHealthy, descOldest, descJobs, descOverdue, descPaused, descLastSuccess} {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (q *queue) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	a := q.ask()
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
			q.noteSuccess(st.Name, st.LastSuccess)
		}
		for _, outcome := range outcomes { // from 0 on, or the first failure is no increase
			q.attempts.WithLabelValues(st.Name, outcome)
		}
	}
	for name, at := range q.successes() {
		gauge(descLastSuccess, float64(at.UnixNano())/1e9, name)
	}
	q.attempts.Collect(ch)
	q.duration.Collect(ch)
	q.lateness.Collect(ch)
}

// ask returns what the scheduler says, or said a moment ago.
func (q *queue) ask() answer {
	q.asking <- struct{}{} // scrapes that come together wait for one answer
	defer func() { <-q.asking }()
	if !q.last.at.IsZero() && time.Since(q.last.at) < answerAge {
		return q.last
	}
	// Not of the request: its end would spoil the answer for the others.
	ctx, cancel := context.WithTimeout(context.Background(), monitorTimeout)
	defer cancel()
	a := answer{}
	if a.jobs, a.err = q.monitor.Jobs(ctx); a.err == nil {
		a.health, a.err = q.monitor.Health(ctx)
	}
	if a.err != nil {
		a.jobs = nil
		q.log.WarnContext(ctx, "the scheduler does not answer a scrape", "error", a.err)
	}
	a.at = time.Now()
	q.last = a
	return a
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
