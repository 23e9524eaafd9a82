package river

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	riverqueue "github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/everytick/everytick/adapters/river/internal/insert"
)

// Nobody tells River's workers that a stored job becomes due: they poll, and such a job is
// half of the interval late. To poll more often costs every idle process and every queue
// of it. Here workers poll seldom, and are told of jobs as they become due: the leader
// looks for them, and whoever stores one that is due so soon that the leader might not see
// it in time tells of it itself. Where neither can, since there is no leader or that
// process is gone, the poll finds the job.

const (
	// dueInterval is how often the leader looks, unless it knows of an earlier instant.
	dueInterval = time.Second
	// dueMargin is how long after the instant workers are told: what asks too early finds
	// nothing.
	dueMargin = 2 * time.Millisecond
	// duePause is how soon the leader looks again after jobs were due. It doubles while there
	// are some each time: then it is most likely jobs that are triggered to run at once, of
	// which workers are told anyway.
	duePause = 25 * time.Millisecond
	// toldBySelf is how soon a job is due that its own process tells of: the leader, which looks every
	// dueInterval, might not see it in time.
	toldBySelf = 5 * time.Second
)

// watchDue has workers told of jobs that become due. It ends with ctx, which is as long
// as this process leads.
func (s *Scheduler) watchDue(ctx context.Context) {
	if s.cfg.PollOnly {
		return
	}
	var since *time.Time // of the database, up to which jobs have been told of
	pause := duePause
	for wait := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		bounded, cancel := context.WithTimeout(ctx, notifyTimeout)
		now, queues, next, err := s.findDue(bounded, since)
		wait = dueInterval
		switch {
		case err != nil:
			if ctx.Err() == nil {
				s.log.WarnContext(ctx, "workers are not told of jobs that become due and find them at their next poll", "error", err)
			}
		case len(queues) > 0:
			s.notifier.notify(bounded, s.ownPool(), queues)
			since, wait, pause = &now, pause, min(2*pause, dueInterval)
		default:
			since, pause = &now, duePause
		}
		if err == nil && next != nil {
			wait = min(wait, max(duePause, next.Sub(now)+dueMargin))
		}
		cancel()
	}
}

// findDue returns the database's time, the queues with available jobs that have become due
// since the given time (none, if that is nil), and when the next one does, or one that River
// makes available in the last seconds before. It is as quick however many jobs wait.
func (s *Scheduler) findDue(ctx context.Context, since *time.Time) (now time.Time, queues []string, next *time.Time, err error) {
	err = s.ownPool().QueryRow(ctx, s.queuesSQL("available", "scheduled", "retryable")+`
		SELECT now(), coalesce(array_agg(DISTINCT queue) FILTER (WHERE state = 'available' AND scheduled_at <= now()), '{}'),
			min(scheduled_at) FILTER (WHERE scheduled_at > now())
		FROM used, generate_series(1, 4) AS each (priority), LATERAL (
			SELECT scheduled_at FROM `+s.table+`
			WHERE state = used.state AND queue = used.queue AND priority = each.priority
				AND scheduled_at > CASE WHEN used.state = 'available' THEN coalesce($1::timestamptz, now()) ELSE now() END
			ORDER BY scheduled_at LIMIT 1
		) AS first
		WHERE used.queue <> $2`, since, pausedQueue).Scan(&now, &queues, &next)
	if err != nil {
		return now, nil, nil, fmt.Errorf("looking for jobs that become due: %w", err)
	}
	return now, queues, next, nil
}

// tellWhenDue has workers told of those rows that become due within seconds.
func (s *Scheduler) tellWhenDue(stored ...*insert.Job) {
	type due struct {
		queue string
		at    int64
	}
	var last due
	for _, r := range stored {
		if r.Immediate() {
			continue
		}
		wait := s.clock.Until(r.Due)
		if d := (due{r.Queue, r.Due.UnixNano()}); d != last && wait < toldBySelf { // many are due together
			s.notifier.in(wait+dueMargin, r.Queue)
			last = d
		}
	}
}

// returnEvents are what River says once a job is stored that goes back to the queue. It drops
// what does not fit, so that all may be in there that it stores at once.
var returnEvents = riverqueue.SubscribeConfig{
	Kinds:    []riverqueue.EventKind{riverqueue.EventKindJobFailed, riverqueue.EventKindJobSnoozed, riverqueue.EventKindJobInterrupted},
	ChanSize: 20_000,
}

// tellOfReturned has workers told of the jobs of those events, until there are no more. Of those
// that were interrupted others are told before it returns: this process ends.
func (s *Scheduler) tellOfReturned(events <-chan *riverqueue.Event, own *pgxpool.Pool) {
	interrupted := map[string]struct{}{}
	for event := range events {
		job := event.Job
		switch {
		case job.State != rivertype.JobStateAvailable: // River's leader makes it so
		case event.Kind == riverqueue.EventKindJobInterrupted:
			interrupted[job.Queue] = struct{}{}
		default:
			if wait := s.clock.Until(job.ScheduledAt); wait < dueInterval { // of others the leader tells
				s.notifier.in(max(0, wait)+dueMargin, job.Queue)
			}
		}
	}
	if len(interrupted) == 0 || s.cfg.PollOnly {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
	defer cancel()
	if err := s.notifier.send(ctx, own, slices.Collect(maps.Keys(interrupted))); err != nil {
		s.notifier.failed(ctx, err)
	}
}
