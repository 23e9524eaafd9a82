// Command peers runs everytick and other job queues on the same work, one after the other, and prints a table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/everytick/everytick/internal/devdb"
)

// A step is one kind of work. The Node scripts receive it as JSON.
type step struct {
	Do      string  `json:"do"` // enqueue, drain, idle, rate, delayed or due
	Tuned   bool    `json:"tuned"`
	Jobs    int     `json:"jobs"`
	Callers int     `json:"callers"`
	Rate    int     `json:"rate"`    // jobs per second
	Seconds float64 `json:"seconds"` // duration of enqueueing, or limit for draining
}

// A result is what a step measured. Times are in milliseconds.
type result struct {
	Jobs    int     `json:"jobs"` // completed in Seconds, or started in time
	Seconds float64 `json:"seconds"`
	Fill    float64 `json:"fill"` // seconds to enqueue the batch before a drain
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}

// A peer is a column of the table. missing returns why it cannot run, or "".
type peer struct {
	name    string // for -only
	title   string
	version func() string
	missing func(context.Context) string
	run     func(context.Context, string, step) (result, error) // on the empty database at the URL
}

// stepTime limits a step including its preparation. Few steps take more than half a minute.
const stepTime = 3 * time.Minute

func steps(jobs int) []step {
	return []step{
		{Do: "enqueue", Callers: 1, Seconds: 4},
		{Do: "enqueue", Callers: 16, Seconds: 4},
		{Do: "enqueue", Callers: 50, Seconds: 4},
		{Do: "drain", Jobs: jobs, Seconds: 15},
		{Do: "drain", Jobs: jobs, Seconds: 30, Tuned: true},
		{Do: "idle", Jobs: 10, Seconds: 2}, // with random pauses of up to Seconds
		{Do: "rate", Jobs: 300 * 4, Rate: 300, Seconds: 5},
		{Do: "idle", Jobs: 40, Seconds: 0.5, Tuned: true},
		{Do: "rate", Jobs: 300 * 5, Rate: 300, Seconds: 5, Tuned: true},
		{Do: "rate", Jobs: 1000 * 5, Rate: 1000, Seconds: 5, Tuned: true},
		{Do: "delayed", Jobs: 3, Seconds: 1},
		{Do: "delayed", Jobs: 5, Seconds: 0.5, Tuned: true},
		{Do: "due", Jobs: max(jobs/10, 1), Seconds: 40, Tuned: true},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	jobs := flag.Int("n", 100_000, "jobs to enqueue in batches and to drain")
	only := flag.String("only", "", "run only these, separated by commas: everytick, gue, graphile, pgboss, asynq")
	does := flag.String("do", "", "do only this work, separated by commas: enqueue, drain, idle, rate, delayed, due")
	rounds := flag.Int("rounds", 1,
		"how often to measure jobs per second; the best round is shown, for use on a busy machine")
	budget := flag.Duration("budget", 20*time.Minute, "leave out measurements that have not started after this time")
	flag.Parse()
	// No library logs below warnings, so that logging does not affect the figures.
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	note := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

	// A private server with the durable default settings of Postgres. Never that of DATABASE_URL, because databases
	// are dropped.
	db, err := devdb.Open(ctx, devdb.Options{Getenv: func(key string) string {
		if key == "DATABASE_URL" {
			return ""
		}
		return os.Getenv(key)
	}})
	if err != nil {
		return err
	}
	defer db.Stop()
	admin, err := pgx.Connect(ctx, db.URL)
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	var postgres string
	if err := admin.QueryRow(ctx, "SHOW server_version").Scan(&postgres); err != nil {
		return err
	}

	chosen := func(list, name string) bool { return list == "" || slices.Contains(strings.Split(list, ","), name) }
	var peers []peer
	for _, p := range []peer{everytickPeer, guePeer, graphilePeer, pgbossPeer, asynqPeer} {
		if !chosen(*only, p.name) {
			continue
		}
		if why := p.missing(ctx); why != "" {
			note("skipping %s: %s", p.name, why)
			continue
		}
		peers = append(peers, p)
	}

	end := time.Now().Add(*budget)
	var t table
	// Row by row, so that other load on the machine affects the cells of a row alike.
	for _, s := range steps(*jobs) {
		if !chosen(*does, s.Do) {
			continue
		}
		columns := peers
		if s.throughput() {
			columns = slices.Repeat(peers, max(*rounds, 1))
		}
		for _, p := range columns {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Now().After(end) {
				note("skipping %s of %s: the budget of %s is spent", s.title(), p.name, *budget)
				continue
			}
			r, err := runStep(ctx, admin, db.URL, p, s)
			if err != nil {
				note("%s of %s failed: %v", s.title(), p.name, err)
				t.fail(p.name, s)
				continue
			}
			note("%-38s %-10s %s", s.title(), p.name, s.cell(r))
			t.add(p.name, s, r)
		}
	}

	fmt.Printf("%s, %d cores, %s/%s, %s, Postgres %s with durable settings", time.Now().UTC().Format(time.DateOnly),
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), postgres)
	if found.version != "" {
		fmt.Printf(", Node %s", found.version)
	}
	fmt.Print("\n\n")
	t.print(os.Stdout, peers)
	return nil
}

// runStep runs a step on a new database with a time limit.
func runStep(ctx context.Context, admin *pgx.Conn, serverURL string, p peer, s step) (r result, err error) {
	// The checkpoint writes what earlier steps have left to write.
	for _, sql := range []string{"DROP DATABASE IF EXISTS peers WITH (FORCE)", "CREATE DATABASE peers", "CHECKPOINT"} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return r, err
		}
	}
	stepCtx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	r, err = p.run(stepCtx, strings.Replace(serverURL, "/postgres?", "/peers?", 1), s)
	if errors.Is(stepCtx.Err(), context.DeadlineExceeded) {
		return r, fmt.Errorf("not finished within %s: %w", stepTime, err)
	}
	return r, err
}
