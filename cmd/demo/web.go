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

// newHandler returns the demo's HTTP handler: the status page and admin API at /, River UI at
// /riverui and the metrics at /metrics. The caller must start the returned River UI handler.
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
		// The demo's data is made up, so every user of this machine may see and do everything.
		// An application checks who is logged in.
		Authorize: func(r *http.Request, _ jobshttp.Action, _ string) error { return atThisMachine(r) },
		// Users do not log in, but the user agent tells a browser from curl in the log.
		Who:      func(r *http.Request) string { return r.UserAgent() },
		Logger:   log,
		ShowData: true,
		Title:    "everytick demo",
	}))
	registry := client.NewRegistry()
	registry.MustRegister(metrics.Collector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}))
	// Unlike jobshttp, River UI checks neither the origin nor the user.
	mux.Handle("/riverui/", http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := atThisMachine(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		ui.ServeHTTP(w, r)
	})))
	return mux, ui, nil
}

// atThisMachine returns an error for requests from other machines, which -addr may let in, and
// for DNS rebinding: a foreign page whose host name resolves to 127.0.0.1 has the same origin,
// but its own name in the Host header.
func atThisMachine(r *http.Request) error {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().Unmap().IsLoopback() {
		return errors.New("only requests from this machine are allowed")
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if host != "localhost" && (err != nil || !addr.IsLoopback()) {
		return errors.New("the Host header must be localhost or a loopback address")
	}
	return nil
}
