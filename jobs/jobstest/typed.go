package jobstest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/everytick/everytick/jobs"
)

// Typed is a [Recorder]'s view of the jobs of one [jobs.Kind], whose data it takes and returns decoded. [Of] returns
// one.
type Typed[T any] struct {
	rec  *Recorder
	kind jobs.Kind[T]
}

// Of returns the view of kind, so that a test of typed jobs is typed, too:
//
//	sent := jobstest.Of(rec, email.Send).RequireEnqueued(t, func(m email.Message) bool { return m.Subject == "Welcome" })
func Of[T any](rec *Recorder, kind jobs.Kind[T]) Typed[T] { return Typed[T]{rec, kind} }

// TriggerAndWait is like [Recorder.TriggerAndWait].
func (y Typed[T]) TriggerAndWait(t testing.TB, args T, opts ...jobs.TriggerOption) Outcome {
	t.Helper()
	return y.rec.TriggerAndWait(t, string(y.kind), args, opts...)
}

// Outcomes is like [Recorder.Outcomes].
func (y Typed[T]) Outcomes() []Outcome { return y.rec.Outcomes(string(y.kind)) }

// Enqueued returns the data of the triggers that all match functions accept, in order, whether or not they have run. It
// fails t if the data of one does not decode as T.
func (y Typed[T]) Enqueued(t testing.TB, match ...func(args T) bool) (found []T) {
	t.Helper()
next:
	for _, e := range y.rec.Enqueued(string(y.kind)) {
		var args T
		if err := json.Unmarshal(e.Data, &args); err != nil {
			t.Fatalf("jobstest: data of %q, triggered as %s, does not decode as %T: %s", y.kind, e.ID, args, err)
		}
		for _, accepts := range match {
			if !accepts(args) {
				continue next
			}
		}
		found = append(found, args)
	}
	return found
}

// RequireEnqueued returns the data of the first trigger that all match functions accept. It fails t if there is none.
func (y Typed[T]) RequireEnqueued(t testing.TB, match ...func(args T) bool) T {
	t.Helper()
	found := y.Enqueued(t, match...)
	if len(found) == 0 {
		t.Fatalf("jobstest: no matching %q was triggered; triggers of this job:%s", y.kind, list(y.rec.Enqueued(string(y.kind))))
	}
	return found[0]
}

// RequireNotEnqueued fails t if there is a trigger that all match functions accept.
func (y Typed[T]) RequireNotEnqueued(t testing.TB, match ...func(args T) bool) {
	t.Helper()
	if found := y.Enqueued(t, match...); len(found) > 0 {
		var b strings.Builder
		for _, args := range found {
			fmt.Fprintf(&b, "\n\t%+v", args)
		}
		t.Fatalf("jobstest: %q was triggered with:%s", y.kind, b.String())
	}
}
