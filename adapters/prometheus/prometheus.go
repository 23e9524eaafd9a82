// Package prometheus exposes metrics of jobs to Prometheus. It works with any provider:
//
//	metrics := prometheus.New(nil)
//	s, err := river.New(pool, &river.Config{Defaults: metrics.Options()})
//	…
//	registry.MustRegister(metrics.Collector(s))
//
// # Metrics
//
// Metrics of what this process does:
//
//	everytick_job_triggers_total      counter    triggers in this process, also those that found a run by its key
//	everytick_job_attempts_total      counter    attempts, by outcome: completed, snoozed, retried, failed or interrupted
//	everytick_job_skips_total         counter    runs and ticks that this process skipped
//	everytick_job_duration_seconds    histogram  duration of attempts
//	everytick_tick_lateness_seconds   histogram  time from a tick to the start of its first attempt
//	everytick_workers                 gauge      workers of this process, by state: busy or free
//
// Metrics of all processes together, read from the scheduler at each scrape:
//
//	everytick_up                                         gauge  1 if the scheduler answered this scrape
//	everytick_healthy                                    gauge  1 if nothing keeps jobs in general from running
//	everytick_processes                                  gauge  processes that run jobs
//	everytick_oldest_waiting_seconds                     gauge  how long the oldest waiting job has been due
//	everytick_jobs                                       gauge  jobs by state: waiting, running or retrying
//	everytick_schedule_overdue_seconds                   gauge  how late a schedule's next tick is
//	everytick_schedule_previous_tick_timestamp_seconds   gauge  the latest tick that has started or was skipped
//	everytick_job_paused                                 gauge  1 while a job is paused
//	everytick_job_last_success_timestamp_seconds         gauge  when a job last succeeded, as far as this process knows
//
// While the scheduler does not answer, everytick_up is 0 and the others keep their last values, so that no alert on
// them ends because the database hangs.
//
// Those about a job or a schedule have the label job_name. It is not called job because Prometheus uses that label for
// the scraped target. The docs of everytick have alerting rules and a dashboard for these metrics.
package prometheus

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
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
	triggers *client.CounterVec
	attempts *client.CounterVec
	skips    *client.CounterVec
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
		triggers: client.NewCounterVec(client.CounterOpts{
			Name: "everytick_job_triggers_total",
			Help: "Triggers in this process, including those that found a run by its key and those of transactions that were rolled back later.",
		}, []string{"job_name"}),
		skips: client.NewCounterVec(client.CounterOpts{
			Name: "everytick_job_skips_total",
			Help: "Runs and ticks that this process skipped: they were too late, overlapped another run, or their job was paused.",
		}, []string{"job_name"}),
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

// Options returns options that count triggers, attempts and skips, for the Defaults of a provider's Config or for a
// single registration. Put them first, so that they are outside other middleware.
func (m *Metrics) Options() []jobs.Option {
	return []jobs.Option{jobs.Use(m.count), jobs.UseTrigger(m.countTriggers), jobs.OnSkipped(m.countSkip)}
}

// countTriggers is a [jobs.TriggerMiddleware].
func (m *Metrics) countTriggers(next jobs.Enqueue) jobs.Enqueue {
	return func(ctx context.Context, reqs []*jobs.Request) error {
		err := next(ctx, reqs)
		if err == nil && len(reqs) > 0 {
			m.triggers.WithLabelValues(reqs[0].Name).Add(float64(len(reqs)))
		}
		return err
	}
}

func (m *Metrics) countSkip(_ context.Context, skipped jobs.Run) {
	m.skips.WithLabelValues(skipped.Name).Inc()
}

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

// answer is what the scheduler reported last.
type answer struct {
	asked     time.Time // zero if it was not asked yet
	err       error     // why it did not answer then; the rest is of an earlier time
	known     bool      // whether it has answered before
	health    jobs.Health
	jobs      []jobs.Status
	processes []jobs.Process // nil if the scheduler cannot list them
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
		"1 if the scheduler answered this scrape, 0 if not, for example because the database is down. "+
			"The other metrics of the scheduler then keep their last values.", nil, nil)
	descHealthy = client.NewDesc("everytick_healthy",
		"1 if nothing keeps jobs in general from running, otherwise 0; /healthz has the reasons. "+
			"An overdue schedule does not count, see everytick_schedule_overdue_seconds.", nil, nil)
	descProcesses = client.NewDesc("everytick_processes", "Processes that run jobs.", nil, nil)
	descWorkers   = client.NewDesc("everytick_workers",
		"Workers of this process, by state: busy or free.", []string{"state"}, nil)
	descOldest = client.NewDesc("everytick_oldest_waiting_seconds",
		"How long the oldest waiting job has been due, over all processes.", nil, nil)
	descJobs = client.NewDesc("everytick_jobs",
		"Jobs over all processes, by state: waiting (not attempted yet, due or delayed), "+
			"retrying (failed, waits for its next attempt), running.",
		[]string{"job_name", "state"}, nil)
	descOverdue = client.NewDesc("everytick_schedule_overdue_seconds",
		"How late a schedule's next tick is, 0 if it is on time.", []string{"job_name"}, nil)
	descPrevTick = client.NewDesc("everytick_schedule_previous_tick_timestamp_seconds",
		"The latest tick of a schedule that has started or was skipped. Absent if there was none.",
		[]string{"job_name"}, nil)
	descPaused = client.NewDesc("everytick_job_paused",
		"1 while a job is paused, otherwise 0.", []string{"job_name"}, nil)
	descLastSuccess = client.NewDesc("everytick_job_last_success_timestamp_seconds",
		"When a job last succeeded, as far as this process knows: the end of a run in this process, "+
			"or the latest tick whose run succeeded anywhere. 0 for a schedule that has never succeeded.",
		[]string{"job_name"}, nil)

	descs = []*client.Desc{
		descUp, descHealthy, descProcesses, descWorkers, descOldest, descJobs, descOverdue, descPrevTick, descPaused,
		descLastSuccess,
	}
)

// Collector returns a collector of these metrics and of those that s reports about all
// processes. Register it once. A scrape waits at most 5 seconds for s, and scrapes within 3
// seconds share one answer.
func (m *Metrics) Collector(s jobs.Monitor) client.Collector {
	return &collector{Metrics: m, monitor: s, asking: make(chan struct{}, 1)}
}

// vectors are what this process counts.
func (m *Metrics) vectors() []client.Collector {
	return []client.Collector{m.triggers, m.attempts, m.skips, m.duration, m.lateness}
}

// Describe implements [client.Collector].
func (c *collector) Describe(ch chan<- *client.Desc) {
	for _, v := range c.vectors() {
		v.Describe(ch)
	}
	for _, desc := range descs {
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
	if a.known {
		gauge(descHealthy, number(canRun(a.health, a.jobs)))
		gauge(descOldest, a.health.OldestWaiting.Seconds())
	}
	if a.processes != nil {
		alive := 0
		for _, p := range a.processes {
			if p.Alive {
				alive++
			}
			if p.Self {
				gauge(descWorkers, float64(p.Busy), "busy")
				gauge(descWorkers, float64(max(0, p.Workers-p.Busy)), "free")
			}
		}
		gauge(descProcesses, float64(alive))
	}
	successes := c.successes()
	for _, st := range a.jobs {
		gauge(descJobs, float64(st.Waiting-st.Retrying), st.Name, "waiting")
		gauge(descJobs, float64(st.Retrying), st.Name, "retrying")
		gauge(descJobs, float64(st.Running), st.Name, "running")
		gauge(descPaused, number(!st.PausedSince.IsZero()), st.Name)
		if !st.NextTick.IsZero() {
			gauge(descOverdue, st.OverdueBy.Seconds(), st.Name)
		}
		if !st.PrevTick.IsZero() {
			gauge(descPrevTick, seconds(st.PrevTick), st.Name)
		}
		if at, known := successes[st.Name]; st.LastSuccess.After(at) || !known && !st.NextTick.IsZero() {
			successes[st.Name] = st.LastSuccess
		}
		// They start at 0, otherwise the first one is not an increase.
		c.triggers.WithLabelValues(st.Name)
		c.skips.WithLabelValues(st.Name)
		for _, outcome := range outcomes {
			c.attempts.WithLabelValues(st.Name, outcome)
		}
	}
	for name, at := range successes {
		gauge(descLastSuccess, seconds(at), name)
	}
	for _, v := range c.vectors() {
		v.Collect(ch)
	}
}

// canRun reports whether h has no reason but schedules that are overdue.
func canRun(h jobs.Health, all []jobs.Status) bool {
	return !slices.ContainsFunc(h.Reasons, func(r jobs.Reason) bool {
		return !slices.ContainsFunc(all, func(st jobs.Status) bool { return st.Name == r.Job && st.OverdueBy > 0 })
	})
}

// ask returns the scheduler's answer, or the last one if it is recent.
func (c *collector) ask() answer {
	c.asking <- struct{}{} // concurrent scrapes wait for one answer
	defer func() { <-c.asking }()
	if !c.last.asked.IsZero() && time.Since(c.last.asked) < answerAge {
		return c.last
	}
	// Not a request's context: if it ended, the other scrapes would get an error.
	ctx, cancel := context.WithTimeout(context.Background(), monitorTimeout)
	defer cancel()
	if a, err := report(ctx, c.monitor); err == nil {
		c.last = a
	} else {
		c.last.err = err
		c.log.WarnContext(ctx, "the scheduler did not answer a scrape; everytick_up is 0", "error", err)
	}
	c.last.asked = time.Now()
	return c.last
}

// report asks the scheduler.
func report(ctx context.Context, m jobs.Monitor) (a answer, err error) {
	if a.jobs, err = m.Jobs(ctx); err != nil {
		return a, err
	}
	if a.health, err = m.Health(ctx); err != nil {
		return a, err
	}
	if lister, ok := jobs.As[jobs.ProcessLister](m); ok {
		if a.processes, err = lister.Processes(ctx); err != nil {
			return a, err
		}
	}
	a.known = true
	return a, nil
}

// seconds returns a Unix time, or 0 for the zero time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
