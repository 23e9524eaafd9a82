package river

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/everytick/everytick/jobs"
)

// A paused job's rows lie in a queue that nobody works: Pause moves those that wait,
// and workers move those that they fetch before they know, or that come later. Its
// ticks stay, and are skipped as they come due.
const pausedQueue = "everytick-paused"

// lingering is how long after a pause ended rows may still come into pausedQueue, from
// processes that had not noticed.
const lingering = 3 * keepInterval

// errNoPauses is the answer of a schema that river.Migrate of this version has not seen.
func (s *Scheduler) errNoPauses(err error) error {
	if isMissing(err) {
		return fmt.Errorf("schema %q has no table %s: call river.Migrate: %w", s.cfg.Schema, pauseTable, err)
	}
	return err
}

// Pause implements [jobs.Pauser]. Jobs of that name that wait are put aside, or else
// workers do so as they find them.
func (s *Scheduler) Pause(ctx context.Context, name string) error {
	if _, err := s.definition(name); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, `INSERT INTO `+s.pauses+` (name) VALUES ($1) ON CONFLICT DO NOTHING`, name); err != nil {
		return fmt.Errorf("river: pause %q: %w", name, s.errNoPauses(err))
	}
	// The pause holds from here on, whatever becomes of the rest.
	_, err := s.learnPauses(ctx)
	err = errors.Join(err, s.move(ctx, `WITH `, `SELECT id, $2::text AS home FROM `+s.table+` AS row
		WHERE kind = $1 AND queue <> $2 AND state IN ('available', 'scheduled', 'retryable')
			AND NOT (`+isTick+` AND attempt = 0)`, name, pausedQueue))
	if err != nil {
		s.log.WarnContext(ctx, "job is paused; those that wait are put aside as workers find them", "job", name, "error", err)
	}
	return nil
}

// Resume implements [jobs.Pauser]. When it fails as it frees the jobs that wait, the
// processes that run them do so within seconds.
func (s *Scheduler) Resume(ctx context.Context, name string) error {
	d, err := s.definition(name)
	if err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, `DELETE FROM `+s.pauses+` WHERE name = $1`, name); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.errNoPauses(err))
	}
	// The keeper sees the pause end, and frees what other processes may still put aside.
	if _, err := s.learnPauses(ctx); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	for {
		left, err := s.unpark(ctx, []*jobs.Definition{d})
		if err == nil && left {
			select {
			case <-time.After(unparkPause):
				continue
			case <-ctx.Done():
				err = fmt.Errorf("somebody else has locked jobs of the pause: %w", ctx.Err())
			}
		}
		s.notifier.notify(ctx, s.pool, []string{queueOf(d)})
		if err != nil {
			return fmt.Errorf("river: resume %q: %w", name, err)
		}
		return nil
	}
}

// unparkPause is how long Resume waits before it looks again for what others had locked.
const unparkPause = 20 * time.Millisecond

// refreshPauses reads what is paused, and frees what is not any more.
func (s *Scheduler) refreshPauses(ctx context.Context) error {
	ended, err := s.learnPauses(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	left, err := s.unpark(ctx, slices.DeleteFunc(s.reg.Jobs(), func(d *jobs.Definition) bool {
		_, ok := ended[d.Name]
		return !ok
	}))
	if err == nil && !left {
		s.paused.forget(began.Add(-lingering))
	}
	return err
}

// learnPauses reads what is paused. It returns when pauses ended of which something may
// still lie aside.
func (s *Scheduler) learnPauses(ctx context.Context) (ended map[string]time.Time, err error) {
	now, err := s.readPauses(ctx)
	if err != nil {
		return nil, err
	}
	return s.paused.replace(now), nil
}

// pauseSet is what this process knows to be paused and since when, and when it saw
// other pauses end.
type pauseSet struct {
	mu           sync.RWMutex
	since, ended map[string]time.Time
}

func (p *pauseSet) is(name string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, ok := p.since[name]
	return ok
}

// replace returns the pauses that have ended and are not forgotten.
func (p *pauseSet) replace(now map[string]time.Time) (ended map[string]time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = map[string]time.Time{}
	}
	for name := range p.since {
		p.ended[name] = time.Now()
	}
	maps.DeleteFunc(p.ended, func(name string, _ time.Time) bool { _, still := now[name]; return still })
	p.since = now
	return maps.Clone(p.ended)
}

// end takes all of these that are not paused for pauses that have just ended.
func (p *pauseSet) end(names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		if _, still := p.since[name]; !still {
			p.ended[name] = time.Now()
		}
	}
}

// forget is for when all is freed of the pauses that ended before t.
func (p *pauseSet) forget(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.ended, func(_ string, at time.Time) bool { return at.Before(t) })
}

// readPauses returns what is paused and since when; nothing where the table is missing.
func (s *Scheduler) readPauses(ctx context.Context) (map[string]time.Time, error) {
	paused := map[string]time.Time{}
	rows, err := s.ownPool().Query(ctx, `SELECT name, since FROM `+s.pauses)
	err = eachTime(rows, err, func(name string, since time.Time) { paused[name] = since })
	if isMissing(err) {
		return nil, nil
	}
	return paused, err
}

// moveChunk is how many rows are moved in one transaction. While it goes on, workers have
// to pass over them to find others.
const moveChunk = 5000

// move gives the rows that found selects AS row, each an id and a home, that queue. It
// leaves out those that somebody else has locked: River stores what became of several jobs in
// one statement, in no order, and to wait for one of them while holding another can deadlock.
// with is the statement up to found.
func (s *Scheduler) move(ctx context.Context, with, found string, args ...any) error {
	for {
		tag, err := s.ownPool().Exec(ctx, with+`found AS (`+found+` LIMIT `+strconv.Itoa(moveChunk)+` FOR UPDATE OF row SKIP LOCKED)
			UPDATE `+s.table+` AS row SET queue = found.home FROM found WHERE row.id = found.id`, args...)
		if err != nil || tag.RowsAffected() < moveChunk {
			return err
		}
	}
}

// unpark moves the rows of jobs that are not paused out of pausedQueue, and tells whether
// some are left, which somebody else has locked. Those that run are among them: a worker may
// have sent one there and not given it back yet. So are those that were cancelled there:
// somebody may retry them.
func (s *Scheduler) unpark(ctx context.Context, defs []*jobs.Definition) (left bool, err error) {
	if len(defs) == 0 {
		return false, nil
	}
	var names, queues []string
	for _, d := range defs {
		names, queues = append(names, d.Name), append(queues, queueOf(d))
	}
	parked := `FROM ` + s.table + ` AS row JOIN unnest($1::text[], $2::text[]) AS own (name, home) ON kind = name
		WHERE queue = $3 AND state = ANY (enum_range(NULL::` + s.state + `))`
	err = s.move(ctx, `WITH `, `SELECT id, home `+parked, names, queues, pausedQueue)
	if err == nil {
		err = s.ownPool().QueryRow(ctx, `SELECT EXISTS (SELECT `+parked+`)`, names, queues, pausedQueue).Scan(&left)
	}
	if err != nil {
		return false, fmt.Errorf("freeing the jobs of ended pauses: %w", err)
	}
	return left, nil
}

// startPauses reads what is paused, and has the keeper free what ended pauses left behind
// while this process was not there.
func (s *Scheduler) startPauses(ctx context.Context) error {
	if _, err := s.learnPauses(ctx); err != nil {
		return err
	}
	s.paused.end(namesOf(s.reg.Jobs()))
	return nil
}
