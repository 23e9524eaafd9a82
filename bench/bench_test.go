//go:build unix

package bench

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/internal/devdb/dbtest"
)

var scale = flag.Float64("scale", 1, "factor for the numbers of jobs, rows and seconds")

// scaled returns n times -scale.
func scaled[T int | time.Duration](n T) T { return max(1, T(float64(n)**scale)) }

// poolConns is the usual size of a pool: what an application might give a process.
const poolConns = 20

// server is the Postgres of one benchmark, with the durable settings of initdb.
type server struct {
	url   string
	admin *pgxpool.Pool
	count int
}

func newServer(b *testing.B) *server {
	b.Helper()
	srv := &server{url: dbtest.Server(b, devdb.Options{}).URL}
	var err error
	srv.admin, err = pgxpool.New(b.Context(), srv.url)
	require.NoError(b, err)
	b.Cleanup(srv.admin.Close)
	return srv
}

// database is a database of one contender.
type database struct {
	srv   *server
	name  string
	admin *pgxpool.Pool // for setup and checks, not to run jobs
}

// database creates a database with the tables, dropped at the end of the benchmark. A database for River has only
// River's indexes.
func (srv *server) database(b *testing.B, c contender) *database {
	b.Helper()
	srv.count++
	db := &database{srv: srv, name: fmt.Sprintf("bench%d", srv.count)}
	_, err := srv.admin.Exec(b.Context(), "CREATE DATABASE "+db.name)
	require.NoError(b, err)
	b.Cleanup(func() {
		_, err := srv.admin.Exec(context.WithoutCancel(b.Context()), "DROP DATABASE "+db.name+" WITH (FORCE)")
		require.NoError(b, err)
	})
	db.admin = db.pool(b, 4, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.RuntimeParams["maintenance_work_mem"] = "256MB" // to build indexes quickly
	})
	b.Cleanup(db.admin.Close)
	require.NoError(b, river.Migrate(b.Context(), db.admin, nil))
	if c.name == native.name {
		db.riversIndexes(b)
	}
	return db
}

// pool returns a pool with up to conns connections. The caller closes it.
func (db *database) pool(b *testing.B, conns int32, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	b.Helper()
	cfg, err := pgxpool.ParseConfig(db.srv.url)
	require.NoError(b, err)
	cfg.ConnConfig.Database = db.name
	cfg.MaxConns = conns
	for _, f := range configure {
		f(cfg)
	}
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	require.NoError(b, err)
	return pool
}

func (db *database) exec(b *testing.B, sql string, args ...any) {
	b.Helper()
	_, err := db.admin.Exec(b.Context(), sql, args...)
	require.NoError(b, err)
}

// count returns the number of jobs that satisfy an SQL condition.
func (db *database) count(b *testing.B, condition string) (n int) {
	b.Helper()
	require.NoError(b, db.admin.QueryRow(b.Context(), "SELECT count(*) FROM river.river_job WHERE "+condition).Scan(&n))
	return n
}

// reset deletes all jobs and flushes writes, so that the next measurement does not pay for earlier ones.
func (db *database) reset(b *testing.B) {
	b.Helper()
	db.exec(b, "TRUNCATE river.river_job, river.everytick_schedule, river.everytick_process RESTART IDENTITY")
	db.exec(b, "CHECKPOINT")
}

// indexes returns the definitions of the job table's indexes whose names match a regular expression, by name.
func (db *database) indexes(b *testing.B, pattern string) map[string]string {
	b.Helper()
	rows, err := db.admin.Query(b.Context(), `SELECT indexname, indexdef FROM pg_indexes
		WHERE schemaname = 'river' AND tablename = 'river_job' AND indexname <> 'river_job_pkey' AND indexname ~ $1`, pattern)
	require.NoError(b, err)
	var name, definition string
	found := map[string]string{}
	_, err = pgx.ForEachRow(rows, []any{&name, &definition}, func() error {
		found[name] = definition
		return nil
	})
	require.NoError(b, err)
	return found
}

// riversIndexes restores the indexes that River creates.
func (db *database) riversIndexes(b *testing.B) {
	b.Helper()
	db.dropIndexes(b, "^everytick_|^river_job_kind$")
	db.exec(b, "CREATE INDEX river_job_kind ON river.river_job (kind)")
}

// dropIndexes drops the job table's indexes whose names match a regular expression.
func (db *database) dropIndexes(b *testing.B, pattern string) {
	b.Helper()
	for name := range db.indexes(b, pattern) {
		db.exec(b, "DROP INDEX river."+name)
	}
}

// available is the state of jobs that are due, as an SQL expression for fill.
const available = "'available'"

// fill adds n jobs. Their kind and state are SQL expressions of the number i, from 0. It builds the indexes
// afterwards, which takes a tenth of the time.
func (db *database) fill(b *testing.B, n int, kind, state string) {
	b.Helper()
	indexes := db.indexes(b, "")
	db.dropIndexes(b, "")
	db.exec(b, `INSERT INTO river.river_job
			(args, kind, state, attempt, max_attempts, attempted_at, created_at, scheduled_at, finalized_at)
		SELECT jsonb_build_object('n', i), kind, state,
			CASE WHEN state IN ('available', 'scheduled', 'pending') THEN 0 ELSE 1 END, 3,
			CASE WHEN state IN ('available', 'scheduled', 'pending') THEN NULL ELSE past END, past,
			CASE WHEN state IN ('scheduled', 'retryable') THEN now() + interval '1 hour' ELSE past END,
			CASE WHEN state IN ('completed', 'cancelled', 'discarded') THEN past END
		FROM (SELECT i, `+kind+` AS kind, (`+state+`)::river.river_job_state AS state,
			now() - ($1 - i) * interval '1 ms' AS past FROM generate_series(0, $1::int - 1) AS i) AS row`, n)
	for _, definition := range indexes {
		db.exec(b, definition)
	}
	db.exec(b, "VACUUM ANALYZE river.river_job")
	db.exec(b, "CHECKPOINT")
}

// metrics holds figures by unit, such as "jobs/s", or by name and unit, such as "p99-ms".
type metrics map[string]float64

// alternate measures River and everytick in turns.
func alternate(b *testing.B, srv *server, rounds int, measure func(db *database, c contender) metrics) (riverFigures, everytickFigures metrics) {
	b.Helper()
	all := inTurns(b, srv, rounds, []contender{native, typed}, measure)
	return all[0], all[1]
}

// inTurns measures contenders in turns, rounds times in each iteration of the benchmark, each in its own database, and
// returns the medians. The order changes in each round, so that work left behind by one, such as for autovacuum, does
// not always slow down the same contender.
func inTurns(b *testing.B, srv *server, rounds int, contenders []contender, measure func(db *database, c contender) metrics) []metrics {
	b.Helper()
	dbs := make([]*database, len(contenders))
	for i, c := range contenders {
		dbs[i] = srv.database(b, c)
	}
	all := make([][]metrics, len(contenders))
	for b.Loop() {
		for round := range rounds {
			for turn := range contenders {
				i := (round + turn) % len(contenders)
				all[i] = append(all[i], measure(dbs[i], contenders[i]))
			}
		}
	}
	figures := make([]metrics, len(contenders))
	for i := range all {
		figures[i] = medians(all[i])
	}
	return figures
}

func medians(all []metrics) metrics {
	figures := metrics{}
	for name := range all[0] {
		var values []float64
		for _, m := range all {
			values = append(values, m[name])
		}
		figures[name] = quantile(values, 0.5)
	}
	return figures
}

// quantile returns the q-quantile: the smallest value that at least a share q of the values does not exceed.
func quantile[T time.Duration | float64](values []T, q float64) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// stopwatch measures how late the handlers of numbered jobs start.
type stopwatch struct {
	due     []atomic.Int64 // by number, in Unix nanoseconds
	late    []atomic.Int64 // by number, in nanoseconds, at the first start
	started atomic.Int64   // number of jobs that have started
}

func newStopwatch(n int) *stopwatch {
	return &stopwatch{due: make([]atomic.Int64, n), late: make([]atomic.Int64, n)}
}

func (w *stopwatch) expect(n int, at time.Time) { w.due[n].Store(at.UnixNano()) }

// work is the handler of job n.
func (w *stopwatch) work(n int) {
	if w.late[n].CompareAndSwap(0, max(1, time.Now().UnixNano()-w.due[n].Load())) {
		w.started.Add(1)
	}
}

func (w *stopwatch) lateness(n int) time.Duration { return time.Duration(w.late[n].Load()) }

func wait(d time.Duration) { <-time.After(d) }

// waitFor waits for a condition. It fails the benchmark if the condition is not met in time, as when jobs are lost.
func waitFor(b *testing.B, limit time.Duration, what string, condition func() bool) {
	b.Helper()
	for start := time.Now(); !condition(); wait(time.Millisecond) {
		if time.Since(start) > limit {
			b.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// processorTime returns the processor time that this process has used.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// logger is used by both clients.
var logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
