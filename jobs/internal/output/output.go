// Package output carries the output of an attempt from the handler's Job to the provider. Package jobs writes it and
// jobs/provider reads it, hidden from applications.
package output

import (
	"encoding/json"
	"sync"
)

// A Slot holds the output of one attempt. Copies of a Job share it.
type Slot struct {
	mu     sync.Mutex
	data   json.RawMessage
	closed bool
}

// Set replaces the output, and reports whether the attempt is still running.
func (s *Slot) Set(data json.RawMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.data = data
	return true
}

// Get returns the output, or nil if there is none.
func (s *Slot) Get() json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data
}

// Close ends the attempt.
func (s *Slot) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// Bind gives a *jobs.Job its slot. Package jobs sets it, because the field is not exported.
var Bind func(job any, slot *Slot)
