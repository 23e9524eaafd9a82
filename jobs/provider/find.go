package provider

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

const (
	// PageBytes is how many bytes of data and error texts a list of runs has at most. A page ends before the run that
	// exceeds it, unless that is the page's first.
	PageBytes = 4 << 20
	// MaxErrors is how many of a run's errors are returned at most, the latest ones.
	MaxErrors = 100
)

// The limits of [jobs.RunQuery].Limit.
const (
	defaultPageRuns = 100
	maxPageRuns     = 1000
)

// The years that Since, Until and a cursor may have. Databases know fewer years than Go.
const minYear, maxYear = 1, 9999

var allStates = []jobs.State{
	jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying,
	jobs.StateCompleted, jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped,
}

// The states of runs that RetryMany and CancelMany apply to.
var (
	retryable   = []jobs.State{jobs.StateRetrying, jobs.StateFailed, jobs.StateCancelled, jobs.StateSkipped}
	cancellable = []jobs.State{jobs.StateScheduled, jobs.StateWaiting, jobs.StateRunning, jobs.StateRetrying}
)

// A RunFilter is a valid [jobs.RunQuery]. Its time of a run is when the run ended or, if it has not, when it is due.
type RunFilter struct {
	// Names has the names of the jobs, ordered. If empty, the filter is for all jobs.
	Names []string
	// States has the states to find, each once. It may be empty; then no run matches.
	States []jobs.State
	// Since and Until bound the time of a run. The zero time is no bound.
	Since, Until time.Time
	// After is the last run of the page before, or zero.
	After RunCursor
	// Limit is how many runs to return.
	Limit int
}

// NewRunFilter checks the query of a FindRuns. It does not know which jobs are registered.
func NewRunFilter(q jobs.RunQuery) (RunFilter, error) {
	f, err := newFilter("FindRuns", q, allStates)
	if err != nil {
		return f, err
	}
	if q.Limit < 0 || q.Limit > maxPageRuns {
		return f, invalidOption("FindRuns: Limit %d: must be 1 to 1,000, or 0 for %d", q.Limit, defaultPageRuns)
	}
	f.Limit = cmp.Or(q.Limit, defaultPageRuns)
	if q.After != "" {
		f.After, err = parseCursor(q.After)
	}
	return f, err
}

// NewRetryFilter checks the query of a RetryMany or CountRetryable and leaves the states that can be retried.
func NewRetryFilter(q jobs.RunQuery) (RunFilter, error) {
	return newBulkFilter("RetryMany", q, retryable)
}

// NewCancelFilter checks the query of a CancelMany or CountCancellable and leaves the states that can be cancelled.
func NewCancelFilter(q jobs.RunQuery) (RunFilter, error) {
	return newBulkFilter("CancelMany", q, cancellable)
}

func newBulkFilter(method string, q jobs.RunQuery, states []jobs.State) (RunFilter, error) {
	if q.Limit != 0 || q.After != "" {
		return RunFilter{}, invalidOption("%s: Limit and After are for FindRuns: %[1]s means all runs that match, so they must not be set", method)
	}
	return newFilter(method, q, states)
}

// newFilter checks what all methods have in common. The filter has those of the given states that q asks for.
func newFilter(method string, q jobs.RunQuery, states []jobs.State) (RunFilter, error) {
	f := RunFilter{States: slices.Clone(states), Since: q.Since, Until: q.Until}
	for _, state := range q.States {
		if !slices.Contains(allStates, state) {
			return f, invalidOption("%s: States has %.40q: must be %s", method, state, orList(allStates))
		}
	}
	if len(q.States) > 0 {
		f.States = slices.DeleteFunc(f.States, func(s jobs.State) bool { return !slices.Contains(q.States, s) })
	}
	for i, t := range []time.Time{q.Since, q.Until} {
		if !t.IsZero() && !inRange(t) {
			field := []string{"Since", "Until"}[i]
			return f, invalidOption("%s: %s is %v: must be in the years %d to %d, in UTC", method, field, t, minYear, maxYear)
		}
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Until.After(q.Since) {
		return f, invalidOption("%s: Until is %v: must be after Since, which is %v", method, q.Until, q.Since)
	}
	f.Names = slices.Compact(slices.Sorted(slices.Values(q.Names)))
	return f, nil
}

func orList(states []jobs.State) string {
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = string(s)
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func inRange(t time.Time) bool { return t.UTC().Year() >= minYear && t.UTC().Year() <= maxYear }

// Match reports whether a run of one of the filter's jobs matches, whatever the page. at is its time.
func (f *RunFilter) Match(state jobs.State, at time.Time) bool {
	return slices.Contains(f.States, state) &&
		(f.Since.IsZero() || !at.Before(f.Since)) && (f.Until.IsZero() || at.Before(f.Until))
}

// A RunCursor is the place of a run in the order of FindRuns. The zero value is before all runs.
type RunCursor struct {
	// At is the time of the run.
	At time.Time
	// ID orders runs that have the same time: a later run has a larger one.
	ID int64
}

// Compare returns a negative number if c comes before d in the order of FindRuns, and a positive one if it comes after.
func (c RunCursor) Compare(d RunCursor) int {
	return cmp.Or(d.At.Compare(c.At), cmp.Compare(d.ID, c.ID))
}

// The encoded form of a cursor is a version, the time in seconds and nanoseconds, and the ID.
const (
	cursorVersion = 1
	cursorBytes   = 1 + 8 + 4 + 8
)

// cursorEncoding is strict, so that each cursor has one form.
var cursorEncoding = base64.RawURLEncoding.Strict()

// String returns the cursor as [jobs.RunPage].Next. The text is opaque and safe in URLs.
func (c RunCursor) String() string {
	b := make([]byte, 0, cursorBytes)
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.At.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(c.At.Nanosecond()))
	b = binary.BigEndian.AppendUint64(b, uint64(c.ID))
	return cursorEncoding.EncodeToString(b)
}

// parseCursor returns [jobs.ErrInvalidOption] for a text that [RunCursor.String] cannot have returned.
func parseCursor(text string) (RunCursor, error) {
	b, err := cursorEncoding.DecodeString(text)
	// DecodeString ignores line breaks.
	if err == nil && len(text) == cursorEncoding.EncodedLen(cursorBytes) && len(b) == cursorBytes && b[0] == cursorVersion {
		nanos := binary.BigEndian.Uint32(b[9:])
		c := RunCursor{
			At: time.Unix(int64(binary.BigEndian.Uint64(b[1:])), int64(nanos)).UTC(),
			ID: int64(binary.BigEndian.Uint64(b[13:])),
		}
		if nanos < 1e9 && inRange(c.At) && !c.At.IsZero() {
			return c, nil
		}
	}
	return RunCursor{}, invalidOption("FindRuns: After is %.60q: must be Next of a page that FindRuns returned, or empty", text)
}
