//go:build unix

package faults_test

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// lateAfter is how long after its tick a run counts as late.
const lateAfter = time.Second

// An outcome counts what happened to the ticks of one job during a fault, according to the database. A run stands for
// its own tick and for the earlier ones that it counts as missed. Its lateness is counted from the first of them.
type outcome struct {
	fault    string
	every    time.Duration
	expected int // ticks of the grid
	inserted int // ticks with a row, or with a run whose row is gone
	lost     int // ticks without a run of their own
	doubled  int // surplus rows, attempts and runs that stand for a tick
	late     int // runs later than lateAfter
	stoodFor int // ticks without a run of their own that a later run stands for
	latest   time.Duration
}

// measure returns the outcome of the ticks of a job from one instant up to another.
func (c *cluster) measure(j job, from, to time.Time) outcome {
	c.t.Helper()
	if c.provider == native {
		return c.measureNative(j, from, to)
	}
	o := outcome{every: j.Every}
	var latest float64
	err := c.pool.QueryRow(c.t.Context(), `
		WITH due AS (
			SELECT name, to_timestamp(n * $4::float8) AS tick
			FROM unnest($1::text[]) AS name, generate_series(ceil(extract(epoch FROM $2::timestamptz) / $4)::bigint,
				ceil(extract(epoch FROM $3::timestamptz) / $4)::bigint - 1) AS n
		), stored AS (
			SELECT name, tick, count(*) - 1 AS doubled FROM ticks WHERE name = ANY ($1) GROUP BY name, tick
		), ran AS (
			SELECT name, tick, max(missed) AS missed, min(started) - tick + max(missed) * make_interval(secs => $4) AS late,
				count(*) - count(DISTINCT attempt) AS doubled
			FROM runs WHERE name = ANY ($1) GROUP BY name, tick
		), told AS (
			SELECT name, tick - n * make_interval(secs => $4) AS tick, count(*) AS times
			FROM ran, generate_series(1, missed) AS n GROUP BY 1, 2
		)
		SELECT count(*), count(*) FILTER (WHERE stored IS NOT NULL OR ran IS NOT NULL), count(*) FILTER (WHERE ran IS NULL),
			coalesce(sum(stored.doubled), 0) + coalesce(sum(ran.doubled), 0)
				+ coalesce(sum(greatest(0, times - CASE WHEN ran IS NULL THEN 1 ELSE 0 END)), 0),
			count(*) FILTER (WHERE late > make_interval(secs => $5)), count(*) FILTER (WHERE ran IS NULL AND told IS NOT NULL),
			coalesce(extract(epoch FROM max(late)), 0)::float8
		FROM due LEFT JOIN stored USING (name, tick) LEFT JOIN ran USING (name, tick) LEFT JOIN told USING (name, tick)`,
		j.names(), from, to, j.Every.Seconds(), lateAfter.Seconds()).
		Scan(&o.expected, &o.inserted, &o.lost, &o.doubled, &o.late, &o.stoodFor, &latest)
	require.NoError(c.t, err)
	o.latest = time.Duration(latest * float64(time.Second))
	return o
}

// measureNative does the same for rows without a tick. It uses their times, which are by the processes' clocks: a row
// that comes three quarters of an interval or more after the one before is its successor, any other is doubled, and a
// longer gap has lost ticks.
func (c *cluster) measureNative(j job, from, to time.Time) outcome {
	c.t.Helper()
	rows, err := c.pool.Query(c.t.Context(), `
		SELECT due, coalesce(extract(epoch FROM started - due), -1)::float8
		FROM (
			SELECT coalesce(first.tick, row.scheduled_at) + $3::interval AS due, first.started
			FROM river.river_job AS row
			LEFT JOIN LATERAL (SELECT tick, started FROM runs WHERE job = row.id ORDER BY started LIMIT 1) AS first ON true
			WHERE row.kind = $1
		) AS stored WHERE due < $2 ORDER BY due`, j.Name, to, c.ahead)
	require.NoError(c.t, err)
	o := outcome{every: j.Every}
	last := from
	gap := func(until time.Time) {
		o.lost += max(0, int(until.Sub(last).Seconds()/j.Every.Seconds()+0.5)-1)
	}
	var (
		due  time.Time
		late float64
	)
	_, err = pgx.ForEachRow(rows, []any{&due, &late}, func() error {
		if due.Before(from) {
			last = due
			return nil
		}
		o.inserted++
		lateness := time.Duration(late * float64(time.Second))
		o.latest = max(o.latest, lateness)
		if lateness > lateAfter {
			o.late++
		}
		if due.Sub(last) < j.Every*3/4 {
			o.doubled++
			return nil
		}
		gap(due)
		last = due
		return nil
	})
	require.NoError(c.t, err)
	gap(to)
	o.expected = o.inserted - o.doubled + o.lost
	return o
}

// settle waits until every tick due before an instant has been inserted and its job has ended, which includes rescued
// jobs.
func (c *cluster) settle(to time.Time) {
	c.t.Helper()
	unfinished := `SELECT (SELECT count(*) FROM river.everytick_schedule WHERE next_tick < $1)
		+ (SELECT count(*) FROM ticks WHERE finalized_at IS NULL AND tick < $1)`
	if c.provider == native {
		unfinished = `SELECT count(*) FROM river.river_job WHERE finalized_at IS NULL AND scheduled_at < $1`
		to = to.Add(-c.ahead) // by the processes' clocks
	}
	until(c.t, 2*time.Minute, "all due ticks have run", func() bool {
		return scalar[int](c.t, c.pool, unfinished, to) == 0
	})
}

// requireNoneDoubled checks all ticks in the database, not only those of a fault.
func (c *cluster) requireNoneDoubled() {
	c.t.Helper()
	if c.provider == native {
		return
	}
	require.Zero(c.t, scalar[int](c.t, c.pool, `SELECT count(*) FROM (SELECT FROM ticks GROUP BY name, tick HAVING count(*) > 1) AS doubled`),
		"a tick has at most one row")
	require.Zero(c.t, scalar[int](c.t, c.pool, `SELECT count(*) FROM (SELECT FROM runs
		GROUP BY name, tick, attempt HAVING count(*) > 1) AS doubled`),
		"each attempt runs once")
	require.Zero(c.t, scalar[int](c.t, c.pool, `SELECT count(*) FROM ticks WHERE tick <> date_trunc('second', tick)`),
		"ticks are on the grid")
}

func (o outcome) String() string {
	return fmt.Sprintf("%s, every %s: %d expected, %d inserted, %d lost, %d doubled, %d late runs, latest %s",
		o.fault, o.every, o.expected, o.inserted, o.lost, o.doubled, o.late, o.latest.Round(10*time.Millisecond))
}

// table formats outcomes as a Markdown table.
func table(all []outcome) string {
	lines := [][]string{{"fault", "every", "expected", "inserted", "lost", "doubled", "late runs", "latest start"}}
	for _, o := range all {
		lines = append(lines, []string{
			o.fault, o.every.String(), strconv.Itoa(o.expected), strconv.Itoa(o.inserted), strconv.Itoa(o.lost),
			strconv.Itoa(o.doubled), strconv.Itoa(o.late), fmt.Sprintf("%.2f s", o.latest.Seconds()),
		})
	}
	widths := make([]int, len(lines[0]))
	for _, cells := range lines {
		for i, cell := range cells {
			widths[i] = max(widths[i], len(cell))
		}
	}
	var b strings.Builder
	for n, cells := range lines {
		for i, cell := range cells {
			width := widths[i]
			if i == 0 {
				width = -width // left-aligned
			}
			fmt.Fprintf(&b, "| %*s ", width, cell)
		}
		b.WriteString("|\n")
		if n == 0 {
			for i, width := range widths {
				b.WriteString("|" + strings.Repeat("-", width+1) + map[bool]string{true: "-", false: ":"}[i == 0])
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
