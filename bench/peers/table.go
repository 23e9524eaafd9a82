package main

import (
	"fmt"
	"io"
	"strings"
)

func (s step) title() string {
	settings := "defaults"
	if s.Tuned {
		settings = "best settings"
	}
	switch s.Do {
	case "enqueue":
		return fmt.Sprintf("enqueue, callers: %d", s.Callers)
	case "batch":
		return fmt.Sprintf("enqueue %d in batches", s.Jobs)
	case "drain":
		return fmt.Sprintf("drain %d, %s", s.Jobs, settings)
	case "idle":
		return fmt.Sprintf("latency, idle, %s", settings)
	case "rate":
		return fmt.Sprintf("latency, %d/s, %s", s.Rate, settings)
	case "delayed":
		return fmt.Sprintf("late after %s delay, %s", delay, settings)
	}
	return fmt.Sprintf("late of %d due at once, %s", s.Jobs, settings)
}

// throughput reports whether the step measures jobs per second.
func (s step) throughput() bool { return s.Do == "enqueue" || s.Do == "batch" || s.Do == "drain" }

func (s step) unit() string {
	switch {
	case s.throughput():
		return "jobs/s"
	case s.Do == "due":
		return "p50 / last, ms"
	case s.Jobs < 100:
		return "p50 / worst, ms" // too few for a p99
	}
	return "p50 / p99, ms"
}

func (s step) cell(r result) string {
	switch {
	case s.throughput():
		return number(r.rate())
	case r.Jobs < s.Jobs:
		return fmt.Sprintf("%d of %d started", r.Jobs, s.Jobs)
	case s.Do == "due" || s.Jobs < 100:
		return number(r.P50) + " / " + number(r.Max)
	}
	return number(r.P50) + " / " + number(r.P99)
}

func (r result) rate() float64 { return float64(r.Jobs) / r.Seconds }

// number formats x with a comma between thousands, and with one decimal if it is below 10.
func number(x float64) string {
	switch {
	case x < 10:
		return fmt.Sprintf("%.1f", x)
	case x < 1000:
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%d,%03d", int(x)/1000, int(x)%1000)
}

// A table holds the results by step and peer.
type table struct {
	rows  []step
	cells map[step]map[string]result // a zero result means failed
}

func (t *table) put(name string, s step, r result) {
	if t.cells == nil {
		t.cells = map[step]map[string]result{}
	}
	if t.cells[s] == nil {
		t.cells[s] = map[string]result{}
		t.rows = append(t.rows, s)
	}
	if !s.throughput() || t.rate(name, s) == 0 || r.Seconds > 0 && r.rate() > t.rate(name, s) {
		t.cells[s][name] = r // otherwise an earlier round was faster
	}
}

func (t *table) fail(name string, s step) { t.put(name, s, result{}) }

func (t *table) add(name string, s step, r result) {
	t.put(name, s, r)
	// The batch that fills the queue before a drain is another row, which shows the fastest one.
	if s.Do == "drain" {
		t.put(name, step{Do: "batch", Jobs: s.Jobs}, result{Jobs: s.Jobs, Seconds: r.Fill})
	}
}

func (t *table) rate(name string, s step) float64 {
	if r := t.cells[s][name]; r.Seconds > 0 {
		return r.rate()
	}
	return 0
}

const ours = "everytick"

func (t *table) print(w io.Writer, peers []peer) {
	fmt.Fprint(w, "| work | unit |")
	for _, p := range peers {
		fmt.Fprintf(w, " %s %s |", p.title, p.version())
	}
	fmt.Fprintf(w, "\n|---|---|%s\n", strings.Repeat("---:|", len(peers)))
	for _, s := range t.rows {
		fmt.Fprintf(w, "| %s | %s |", s.title(), s.unit())
		for _, p := range peers {
			r, measured := t.cells[s][p.name]
			switch {
			case !measured:
				fmt.Fprint(w, " – |")
			case r == result{}:
				fmt.Fprint(w, " failed |")
			case s.throughput() && p.name != ours && t.rate(ours, s) > 0:
				fmt.Fprintf(w, " %s (%.2f×) |", s.cell(r), t.rate(ours, s)/r.rate())
			default:
				fmt.Fprintf(w, " %s |", s.cell(r))
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "\nIn parentheses: everytick's rate as a multiple of the peer's."+
		" A negative latency means that the job started early.")
	t.printTargets(w, peers)
}

// printTargets compares the table with everytick's targets.
func (t *table) printTargets(w io.Writer, peers []peer) {
	for _, s := range t.rows {
		for _, p := range peers {
			want := 0.0
			switch {
			case p.name == "gue" && s.Do == "enqueue":
				want = map[int]float64{16: 1.2, 50: 3}[s.Callers]
			case p.name != ours && s.Do == "batch":
				want = 1
			case p.name == "graphile" && s.Do == "drain" && !s.Tuned:
				want = 5
			}
			if theirs, us := t.rate(p.name, s), t.rate(ours, s); want > 0 && theirs > 0 && us > 0 {
				verdict := "missed"
				if us/theirs >= want {
					verdict = "reached"
				}
				fmt.Fprintf(w, "- %s against %s: %.2f×, target %.1f×: %s\n", s.title(), p.title, us/theirs, want, verdict)
			}
		}
	}
}
