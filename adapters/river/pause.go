package river

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

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

// Pause implements [jobs.Pauser].
func (s *Scheduler) Pause(ctx context.Context, name string) error {
	if _, err := s.definition(name); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO `+s.pauses+` (name) VALUES ($1) ON CONFLICT DO NOTHING`, name); err != nil {
			return s.errNoPauses(err)
		}
		// The workers put aside what it leaves out.
		_, err := tx.Exec(ctx, `WITH `+s.moveSQL(`SELECT id, $2::text AS home FROM `+s.table+` AS row
			WHERE kind = $1 AND queue <> $2 AND state IN ('available', 'scheduled', 'retryable')
				AND NOT (`+isTick+` AND attempt = 0)`)+` SELECT`, name, pausedQueue)
		return err
	})
	if err != nil {
		return fmt.Errorf("river: pause %q: %w", name, err)
	}
	if err := s.refreshPauses(ctx); err != nil {
		return fmt.Errorf("river: pause %q: %w", name, err)
	}
	return nil
}

// Resume implements [jobs.Pauser].
func (s *Scheduler) Resume(ctx context.Context, name string) error {
	d, err := s.definition(name)
	if err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, `DELETE FROM `+s.pauses+` WHERE name = $1`, name); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, s.errNoPauses(err))
	}
	// The keeper sees the pause end, and frees what other processes may still put aside.
	if err := s.refreshPauses(ctx); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	if err := s.unpark(ctx, []*jobs.Definition{d}); err != nil {
		return fmt.Errorf("river: resume %q: %w", name, err)
	}
	s.notifier.notify(ctx, s.pool, []string{queueOf(d)})
	return nil
}

// refreshPauses reads what is paused, and frees what is not any more.
func (s *Scheduler) refreshPauses(ctx context.Context) error {
	now, err := s.readPauses(ctx)
	if err != nil {
		return err
	}
	ended := s.paused.replace(now)
	free := slices.DeleteFunc(s.reg.Jobs(), func(d *jobs.Definition) bool {
		at, ok := ended[d.Name]
		return !ok || time.Since(at) > lingering
	})
	return s.unpark(ctx, free)
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

// replace returns the pauses that have ended.
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

// moveSQL gives the rows that found selects AS row, each an id and a home, that queue. It
// leaves out those that somebody else has locked: River stores what became of several jobs in
// one statement, in no order, and to wait for one of them while holding another can deadlock.
// It goes between WITH and SELECT.
func (s *Scheduler) moveSQL(found string) string {
	return `found AS (` + found + ` FOR UPDATE OF row SKIP LOCKED),
		moved AS (UPDATE ` + s.table + ` AS row SET queue = found.home FROM found WHERE row.id = found.id)`
}

// unparkPause is how long unpark waits before it looks again for what others had locked.
const unparkPause = 20 * time.Millisecond

// unpark moves the rows of jobs that are not paused out of pausedQueue. Those that run
// are among them: a worker may have sent one there and not given it back yet. So are
// those that were cancelled there: somebody may retry them.
func (s *Scheduler) unpark(ctx context.Context, defs []*jobs.Definition) error {
	if len(defs) == 0 {
		return nil
	}
	var names, queues []string
	for _, d := range defs {
		names, queues = append(names, d.Name), append(queues, queueOf(d))
	}
	parked := `FROM ` + s.table + ` AS row JOIN unnest($1::text[], $2::text[]) AS own (name, home) ON kind = name
		WHERE queue = $3 AND state = ANY (enum_range(NULL::` + s.state + `))`
	for leftOut := true; leftOut; {
		err := s.ownPool().QueryRow(ctx, `WITH `+s.moveSQL(`SELECT id, home `+parked)+`
			SELECT EXISTS (SELECT `+parked+` AND NOT EXISTS (SELECT FROM found WHERE found.id = row.id))`,
			names, queues, pausedQueue).Scan(&leftOut)
		if leftOut && err == nil {
			select {
			case <-time.After(unparkPause):
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			return fmt.Errorf("freeing the jobs of ended pauses: %w", err)
		}
	}
	return nil
}

// startPauses reads what is paused, and frees what ended pauses left behind while this
// process was not there.
func (s *Scheduler) startPauses(ctx context.Context) error {
	if err := s.refreshPauses(ctx); err != nil {
		return err
	}
	return s.unpark(ctx, slices.DeleteFunc(s.reg.Jobs(), func(d *jobs.Definition) bool { return s.paused.is(d.Name) }))
}
