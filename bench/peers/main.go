// Command peers runs everytick and other queues on the same work, one after the other, and prints
// one table. README.md says how.
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

// A step is one kind of work. The Node scripts are given it as JSON.
type step struct {
	Do      string  `json:"do"` // enqueue, drain, idle, rate, delayed or due
	Tuned   bool    `json:"tuned"`
	Jobs    int     `json:"jobs"`
	Callers int     `json:"callers"`
	Rate    int     `json:"rate"`    // jobs a second
	Seconds float64 `json:"seconds"` // of enqueueing, or at most of draining
}

// A result is what a step measured. Times are in milliseconds.
type result struct {
	Jobs    int     `json:"jobs"` // done in Seconds, or started in time
	Seconds float64 `json:"seconds"`
	Fill    float64 `json:"fill"` // seconds that the batch before a drain took
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}

// A peer is a column of the table. missing says why it cannot run, or "".
type peer struct {
	name    string // for -only
	title   string
	version func() string
	missing func(context.Context) string
	run     func(context.Context, string, step) (result, error) // on the empty database of that URL
}

// stepTime is what one step may take with all that it prepares. Few take more than half a minute.
const stepTime = 3 * time.Minute

func steps(jobs int) []step {
	return []step{
		{Do: "enqueue", Callers: 1, Seconds: 4},
		{Do: "enqueue", Callers: 16, Seconds: 4},
		{Do: "enqueue", Callers: 50, Seconds: 4},
		{Do: "drain", Jobs: jobs, Seconds: 15},
		{Do: "drain", Jobs: jobs, Seconds: 30, Tuned: true},
		{Do: "idle", Jobs: 10, Seconds: 2}, // pauses of up to so many seconds
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
	only := flag.String("only", "", "run these alone: everytick, gue, graphile, pgboss, asynq, separated by commas")
	does := flag.String("do", "", "do this work alone: enqueue, drain, idle, rate, delayed, due, separated by commas")
	rounds := flag.Int("rounds", 1, "how often to count jobs a second, the best of which is shown: for a machine with other work")
	budget := flag.Duration("budget", 20*time.Minute, "what is not reached in this time is left out")
	flag.Parse()
	// Nobody is to be measured by how much he logs, so none does below warnings.
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	note := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

	// A server of our own with the settings of Postgres itself, which are durable. Never that of
	// DATABASE_URL: databases are dropped.
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
			note("%s is left out: %s", p.name, why)
			continue
		}
		peers = append(peers, p)
	}

	end := time.Now().Add(*budget)
	var t table
	// Row by row, so that what else the machine does meets neighbours in the table alike.
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
				note("%s of %s is left out: the budget of %s is spent", s.title(), p.name, *budget)
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

// runStep gives a step an empty database of its own, and a time limit.
func runStep(ctx context.Context, admin *pgx.Conn, serverURL string, p peer, s step) (r result, err error) {
	// What an earlier step left to write is not on this one's account.
	for _, sql := range []string{"DROP DATABASE IF EXISTS peers WITH (FORCE)", "CREATE DATABASE peers", "CHECKPOINT"} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return r, err
		}
	}
	stepCtx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	r, err = p.run(stepCtx, strings.Replace(serverURL, "/postgres?", "/peers?", 1), s)
	if errors.Is(stepCtx.Err(), context.DeadlineExceeded) {
		return r, fmt.Errorf("not done in %s: %w", stepTime, err)
	}
	return r, err
}
