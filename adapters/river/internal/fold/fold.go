// Package fold keeps the log readable during an outage of the database, when each of River's parts and of ours logs the
// same error up to twice per second and queue. Of each kind of error it passes on the first line, then one a minute with
// the number of lines left out, and one when the error has stopped.
package fold

import (
	"cmp"
	"context"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// The pace of lines.
const (
	// Every is the least time between two lines of one kind.
	Every = time.Minute
	// Quiet is how long an error must not have repeated until it is over. River's longest wait before it tries again is
	// 64 s, give or take a tenth, and a statement takes up to 10 s.
	Quiet = 90 * time.Second
	// check is how often the handler looks for errors that are over.
	check = Quiet / 6
)

// A Kind of error is the same message for the same cause.
type Kind struct {
	Level   slog.Level
	Message string
	// Step is the step of maintenance that failed, or "".
	Step string
	// Cause is the SQLSTATE, or "" if there is no working connection to the database, for whatever reason.
	Cause string
}

var sqlState = regexp.MustCompile(`\bSQLSTATE ([0-9A-Z]{5})\b`)

// KindOf returns the kind of a record, and whether such records may be left out. Records below warn and records about a
// job may not.
func KindOf(r slog.Record) (kind Kind, ok bool) {
	kind = Kind{Level: r.Level, Message: r.Message}
	ok = r.Level >= slog.LevelWarn
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "job", "job_id":
			ok = false
		case "step":
			kind.Step = a.Value.String()
		case "err", "error":
			// Classes 08 and 57 are about the connection, and the server's startup and shutdown.
			m := sqlState.FindStringSubmatch(a.Value.String())
			if m != nil && !strings.HasPrefix(m[1], "08") && !strings.HasPrefix(m[1], "57") {
				kind.Cause = m[1]
			}
		}
		return true
	})
	return kind, ok
}

// Errors remembers which errors repeat. It reads no clock and is not safe for concurrent use. Create one with
// [NewErrors].
type Errors struct{ all map[Kind]*run }

// A run is an error that repeats.
type run struct {
	first, last, passed time.Time
	times, held         int // in all, and since the latest line that was passed on
}

// NewErrors returns an Errors that has seen none.
func NewErrors() *Errors { return &Errors{all: map[Kind]*run{}} }

// Observe notes an error at now. It reports whether to pass its line on, and how many lines of this kind were left out
// before it.
func (e *Errors) Observe(kind Kind, now time.Time) (pass bool, leftOut int) {
	r := e.all[kind]
	if r == nil {
		e.all[kind] = &run{first: now, last: now, passed: now, times: 1}
		return true, 0
	}
	r.last = now
	r.times++
	if now.Sub(r.passed) < Every {
		r.held++
		return false, 0
	}
	leftOut, r.held, r.passed = r.held, 0, now
	return true, leftOut
}

// A Past error has stopped repeating.
type Past struct {
	Kind
	Times       int // how often it was observed, more than once
	First, Last time.Time
}

// Past forgets the errors that were last observed [Quiet] before now, or all of them, and returns those that had
// repeated, in order of their first time.
func (e *Errors) Past(now time.Time, all bool) (past []Past) {
	for kind, r := range e.all {
		if !all && now.Sub(r.last) < Quiet {
			continue
		}
		delete(e.all, kind)
		if r.times > 1 {
			past = append(past, Past{kind, r.times, r.first, r.last})
		}
	}
	slices.SortFunc(past, func(a, b Past) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.Message, b.Message), cmp.Compare(a.Step, b.Step), cmp.Compare(a.Cause, b.Cause))
	})
	return past
}

// Len returns how many errors may still repeat.
func (e *Errors) Len() int { return len(e.all) }

// A Handler leaves out lines that repeat. Create one with [New].
type Handler struct {
	slog.Handler
	log *folder
}

// folder is what a handler shares with those that With returns.
type folder struct {
	base slog.Handler

	mu     sync.Mutex
	errors *Errors
	timer  *time.Timer // nil if no error may repeat
	closed bool
}

// New returns a handler that passes records on to base.
func New(base slog.Handler) *Handler {
	return &Handler{Handler: base, log: &folder{base: base, errors: NewErrors()}}
}

// WithAttrs implements [slog.Handler]. All lines of a logger about a job are passed on.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	inner := h.Handler.WithAttrs(attrs)
	if slices.ContainsFunc(attrs, func(a slog.Attr) bool { return a.Key == "job" || a.Key == "job_id" }) {
		return inner
	}
	return &Handler{inner, h.log}
}

// WithGroup implements [slog.Handler].
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.Handler.WithGroup(name), h.log}
}

// River's completer says that it gives up after three failed tries. It then puts the results back.
const (
	givingUp = "Too many errors; giving up"
	meaning  = "the results are kept, and sent again until they are stored or the process ends"
)

// Handle implements [slog.Handler].
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	kind, ok := KindOf(r)
	if ok {
		pass, leftOut := h.log.observe(kind)
		if !pass {
			return nil
		}
		r = r.Clone()
		if leftOut > 0 {
			r.AddAttrs(slog.Int("left_out", leftOut))
		}
		if strings.HasSuffix(r.Message, givingUp) {
			r.AddAttrs(slog.String("meaning", meaning))
		}
	}
	return h.Handler.Handle(ctx, r)
}

// Close reports the errors that still repeat. From then on all lines are passed on.
func (h *Handler) Close() {
	f := h.log
	f.mu.Lock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	past := f.errors.Past(time.Now(), true)
	f.mu.Unlock()
	f.report("an error repeated until the shutdown", past)
}

func (f *folder) observe(kind Kind) (pass bool, leftOut int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return true, 0
	}
	if f.timer == nil {
		f.timer = time.AfterFunc(check, f.look)
	}
	return f.errors.Observe(kind, time.Now())
}

// look reports the errors that are over, and continues while others may repeat.
func (f *folder) look() {
	f.mu.Lock()
	var past []Past
	if f.timer != nil {
		past = f.errors.Past(time.Now(), false)
		f.timer = nil
		if f.errors.Len() > 0 {
			f.timer = time.AfterFunc(check, f.look)
		}
	}
	f.mu.Unlock()
	f.report("an error is over", past)
}

func (f *folder) report(msg string, past []Past) {
	ctx := context.Background()
	for _, p := range past {
		level := min(p.Level, slog.LevelWarn) // that an error is over is none
		if !f.base.Enabled(ctx, level) {
			continue
		}
		r := slog.NewRecord(time.Now(), level, msg, 0)
		r.AddAttrs(slog.String("message", p.Message), slog.Int("times", p.Times), slog.Time("first", p.First),
			slog.Time("last", p.Last))
		if p.Step != "" {
			r.AddAttrs(slog.String("step", p.Step))
		}
		if p.Cause != "" {
			r.AddAttrs(slog.String("sqlstate", p.Cause))
		}
		_ = f.base.Handle(ctx, r)
	}
}
