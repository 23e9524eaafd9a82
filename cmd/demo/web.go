package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"riverqueue.com/riverui"

	"github.com/everytick/everytick/adapters/prometheus"
	"github.com/everytick/everytick/adapters/river"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// newHandler returns the demo's HTTP interface: the status page and admin API at /,
// River UI at /riverui and the metrics. The caller starts the River UI handler that is
// returned with it.
func newHandler(s *river.Scheduler, metrics *prometheus.Metrics, log *slog.Logger) (http.Handler, *riverui.Handler, error) {
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(s.Client(), nil),
		Logger:    slog.New(slog.DiscardHandler), // it logs every request
		Prefix:    "/riverui",
	})
	if err != nil {
		return nil, nil, fmt.Errorf("river ui: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", jobshttp.New(s, &jobshttp.Options{
		// The demo listens on loopback, and its users and mails are made up: whoever is at
		// this machine may see and do everything. An application asks who is logged in.
		Authorize: func(r *http.Request, _ jobshttp.Action, _ string) error { return atThisMachine(r) },
		// Nobody logs in here, but the log can tell a browser from curl.
		Who:      func(r *http.Request) string { return r.UserAgent() },
		Logger:   log,
		ShowData: true,
		Title:    "everytick demo",
	}))
	registry := client.NewRegistry()
	registry.MustRegister(metrics.Collector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}))
	// River UI has neither of the two checks that jobshttp makes.
	mux.Handle("/riverui/", http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := atThisMachine(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		ui.ServeHTTP(w, r)
	})))
	return mux, ui, nil
}

// atThisMachine refuses requests from elsewhere, which -addr may let in, and those that
// a page from elsewhere makes this machine's browser send: one whose name has been made
// to lead to 127.0.0.1 passes for the same origin, but the Host tells.
func atThisMachine(r *http.Request) error {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return errors.New("only this machine may ask")
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if host != "localhost" && (err != nil || !addr.IsLoopback()) {
		return errors.New("only localhost may be asked for")
	}
	return nil
}
