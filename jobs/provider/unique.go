package provider

import (
	"time"

	"github.com/everytick/everytick/jobs"
)

// A KeyAction is what a trigger with a key does; see [DecideKey].
type KeyAction int

// The actions of a trigger with a key.
const (
	KeyInsert  KeyAction = iota // insert a run that has the key
	KeyReturn                   // return the ID of the run that was found
	KeyReplace                  // give that run the trigger's data, metadata, priority and due time, and return its ID
)

// DecideKey decides what a trigger with a key does, if the latest live run with that key has the given state, or "" if
// there is none. Among runs with keys of [jobs.UniqueWaiting] and [jobs.Latest], one that was overtaken (see
// [Overtaken]) is not live.
func DecideKey(mode jobs.UniqueMode, latest jobs.State) KeyAction {
	waits := latest == jobs.StateScheduled || latest == jobs.StateWaiting || latest == jobs.StateRetrying
	switch {
	case waits && mode == jobs.UniqueModeLatest:
		return KeyReplace
	case waits, latest == jobs.StateRunning && mode == jobs.UniqueModeLive:
		return KeyReturn
	default:
		return KeyInsert
	}
}

// ReplacedDue returns when a waiting run is due after a trigger with [jobs.Latest] that is due at due. A run whose
// first attempt has started was given the time old by a failure, and is not due before that.
func ReplacedDue(started bool, old, due time.Time) time.Time {
	if started && old.After(due) {
		return old
	}
	return due
}

// Overtaken is the reason for skipping a run that was triggered with a key before the run later, which was triggered
// with [jobs.Latest] and the same key, and has started.
func Overtaken(later string) string {
	return "skipped: run " + later + " has started with newer data for the same key"
}
