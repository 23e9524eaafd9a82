// Command demo runs everytick with three modules on PostgreSQL:
//
//	go run ./cmd/demo
//
// It needs no setup: unless DATABASE_URL is set, it starts its own Postgres and stops it at
// the end. All times in its log are in UTC.
//
// Flags:
//
//	-addr ADDR   HTTP listen address (default 127.0.0.1:8080, or a free port if it is in use)
//	-data DIR    keep the database in DIR, to see how a restart handles missed ticks
//	-port N      make the demo's own Postgres listen on 127.0.0.1:N as well, for psql
//	-worker      only run jobs, without HTTP and sample data
//	-for 30s     stop after this time
//	-v           also log what River does
//
// Environment:
//
//	DATABASE_URL  use this database; several demos that share one form a cluster
//	SMTP_ADDR     send email through this server; by default a sink in the process receives it
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	_ "time/tzdata" // time zones for systems without zone files, such as containers

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lmittmann/tint"

	"github.com/everytick/everytick/adapters/prometheus"
	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/internal/devdb"
	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/migrations"
	"github.com/everytick/everytick/modules/audit"
	"github.com/everytick/everytick/modules/email"
	"github.com/everytick/everytick/modules/notifs"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "demo:", err)
			os.Exit(1)
		}
	}
}

// options are the command line and the environment.
type options struct {
	addr    string
	data    string
	port    int
	worker  bool
	runFor  time.Duration
	verbose bool
	getenv  func(string) string
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{getenv: getenv}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8080", "HTTP listen `address`; a free port if it is in use")
	flags.StringVar(&o.data, "data", "", "keep the database in this `directory`")
	flags.IntVar(&o.port, "port", 0, "make the demo's own Postgres listen on this `port` of 127.0.0.1 as well")
	flags.BoolVar(&o.worker, "worker", false, "only run jobs, without HTTP and sample data")
	flags.DurationVar(&o.runFor, "for", 0, "stop after this `time`, once running jobs have ended; 0 means at Ctrl-C")
	flags.BoolVar(&o.verbose, "v", false, "also log what River does")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.runFor < 0 {
		return o, fmt.Errorf("-for %s: must not be negative", o.runFor)
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, nil
}

// drainTime is how long running jobs may take after Ctrl-C. A second Ctrl-C interrupts them.
const drainTime = 30 * time.Second

// run runs the demo until ctx ends, Ctrl-C is pressed or -for has passed. It stops everything
// it started.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, getenv, stderr)
	if err != nil {
		return err
	}
	log := newLogger(stderr, o.verbose)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	var listener net.Listener
	if !o.worker { // before the database, so that a bad address fails at once
		if listener, err = listen(ctx, o.addr, log); err != nil {
			return err
		}
		defer func() { _ = listener.Close() }() // usually closed by the HTTP server
	}

	db, err := devdb.Open(ctx, devdb.Options{DataDir: o.data, Port: o.port, Log: log, Getenv: getenv})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Stop()) }()
	log.Info("database is ready", "source", db.Source)

	pool, err := newPool(ctx, db.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Up(ctx, pool); err != nil {
		return err
	}
	if err := river.Migrate(ctx, pool, nil); err != nil {
		return err
	}

	smtpAddr := getenv("SMTP_ADDR")
	if smtpAddr == "" {
		sink, err := newMailSink(ctx, log)
		if err != nil {
			return err
		}
		defer sink.close()
		smtpAddr = sink.addr
	}

	metrics, runs := prometheus.New(&prometheus.Config{Logger: log}), new(running)
	s, err := river.New(pool, &river.Config{
		Logger: log, Defaults: append(metrics.Options(), jobs.Use(runs.watch), jobs.Redact(hideMailboxes)),
	})
	if err != nil {
		return err
	}
	mails, err := email.New(email.Config{Addr: smtpAddr, From: "everytick demo <demo@example.com>", TLS: email.TLSOpportunistic})
	if err != nil {
		return err
	}
	if err := register(s, mails); err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	if err := announce(ctx, s, log); err != nil {
		return errors.Join(err, s.Shutdown(ctx))
	}

	sample := func() error { return seed(ctx, pool, s, mails, log) }
	serveErr := serve(ctx, o, listener, s, metrics, sample, log, stdout)
	return errors.Join(serveErr, drain(s, runs, log))
}

// newLogger returns a logger for people, with all times in UTC. If verbose, it includes River's
// debug messages.
func newLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level: level, TimeFormat: "15:04:05.000 MST", NoColor: !isTerminal(w),
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Value.Kind() == slog.KindTime {
				a.Value = slog.TimeValue(a.Value.Time().UTC())
			}
			return a
		},
	}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func newPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("DATABASE_URL is not a valid connection string") // pgx's error may contain it
	}
	cfg.MaxConns = max(cfg.MaxConns, 10)
	return pgxpool.NewWithConfig(ctx, cfg)
}

// register registers the jobs of each module, as an application does at startup.
func register(r jobs.Registrar, mails *email.Service) error {
	return errors.Join(
		audit.RegisterAuditJobs(r),
		email.RegisterEmailJobs(r, mails),
		notifs.RegisterNotifsJobs(r),
		registerDemoJobs(r),
	)
}

// announce logs the registered jobs.
func announce(ctx context.Context, s jobs.Monitor, log *slog.Logger) error {
	all, err := s.Jobs(ctx)
	if err != nil {
		return err
	}
	for _, st := range all {
		attrs := []any{"job", st.Name, "schedule", st.Schedule}
		if !st.NextTick.IsZero() {
			attrs = append(attrs, "next", st.NextTick)
		}
		log.InfoContext(ctx, "job registered", attrs...)
	}
	return nil
}

// serve serves HTTP, unless -worker is set, until ctx ends or -for has passed.
func serve(
	ctx context.Context, o options, listener net.Listener, s *river.Scheduler, metrics *prometheus.Metrics,
	sample func() error, log *slog.Logger, stdout io.Writer,
) error {
	if o.runFor > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.runFor)
		defer cancel()
	}
	if o.worker {
		log.Info("running jobs; press Ctrl-C to stop")
		<-ctx.Done()
		log.Info("stopping")
		return nil
	}

	handler, ui, err := newHandler(s, metrics, log)
	if err != nil {
		return err
	}
	uiCtx, stopUI := context.WithCancel(ctx)
	defer stopUI()
	if err := ui.Start(uiCtx); err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(stdout, "\n%s\n", listOfURLs("http://"+listener.Addr().String()))

	if err := sample(); err != nil && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("sample data: %w", err), server.Close())
	}
	select {
	case err := <-served:
		return fmt.Errorf("http: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	shutdownCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(shutdownCtx); err != nil {
		return server.Close() // cuts off requests that take longer
	}
	return nil
}

// listen listens on addr, or on a free port of the same host if addr is in use.
func listen(ctx context.Context, addr string, log *slog.Logger) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		host, _, _ := net.SplitHostPort(addr)
		if l, err = lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0")); err == nil {
			log.Warn("address already in use; listening on another port", "wanted", addr, "got", l.Addr().String())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("-addr %q: want a host and port such as 127.0.0.1:8080: %w", addr, err)
	}
	return l, nil
}

// reportEvery is how often the demo logs what it is waiting for.
const reportEvery = 5 * time.Second

// drain waits for running jobs to end. At another Ctrl-C they are cancelled and return to the
// queue.
func drain(s *river.Scheduler, runs *running, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	return shutDown(ctx, s, runs, log)
}

// shutDown shuts s down. It logs which jobs it is waiting for, at once and then every few
// seconds.
func shutDown(ctx context.Context, s interface{ Shutdown(context.Context) error }, runs *running, log *slog.Logger) error {
	began := time.Now()
	report := func() {
		switch waited := runs.String(); {
		case waited == "":
		case ctx.Err() != nil:
			log.Info("waiting for interrupted jobs", "running", waited)
		default:
			log.Info("waiting for running jobs; press Ctrl-C again to interrupt them and return them to the queue",
				"running", waited, "gives_up_in", (drainTime - time.Since(began)).Round(time.Second))
		}
	}
	report()
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(ctx) }()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			report()
		case err := <-ended:
			if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				log.Warn("stopped without waiting for all jobs", "error", err)
				return nil
			}
			log.Info("stopped")
			return err
		}
	}
}

func listOfURLs(base string) string {
	var b strings.Builder
	for _, line := range [][2]string{
		{base + "/", "status page: when each job last ran, when it runs next, and buttons to act on it"},
		{base + "/api/openapi.json", "description of the JSON API"},
		{base + "/riverui/", "River UI"},
		{base + "/metrics", "Prometheus metrics; docs/alerts.yml has alerting rules for them"},
		{base + "/healthz", "health as 200 or 503; /livez and /readyz are probes"},
	} {
		fmt.Fprintf(&b, "  %-34s %s\n", line[0], line[1])
	}
	fmt.Fprintln(&b, "\n  Try these in a shell:")
	const post = "curl -X POST -H 'Content-Type: application/json' "
	for _, line := range [][2]string{
		{"List the jobs", "curl " + base + "/api/jobs"},
		{"Run a job that fails twice", post + `-d '{"fail_times": 2}' ` + base + "/api/jobs/demo.flaky/trigger"},
		{
			"Run a job for a minute, so that its next ticks are overdue",
			post + `-d '{"seconds": 60}' ` + base + "/api/jobs/demo.import/trigger",
		},
		{"List what failed", "curl '" + base + "/api/runs?state=failed&state=retrying'"},
		{"Pause a job", post + base + "/api/jobs/notifs.cleanup/pause"},
	} {
		fmt.Fprintf(&b, "    # %s\n    %s\n", line[0], line[1])
	}
	return b.String()
}
