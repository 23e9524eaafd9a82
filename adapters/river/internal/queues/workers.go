package queues

import (
	"sync/atomic"
	"time"
)

// Workers are the workers of a process, by queue.
type Workers map[string]*Slots

// Count returns how many workers there are.
func (w Workers) Count() (n int) {
	for _, slots := range w {
		n += slots.N
	}
	return n
}

// Busy returns how many of them run a job.
func (w Workers) Busy() (n int) {
	for _, slots := range w {
		n += slots.Taken()
	}
	return n
}

// Slots counts the workers of a queue.
type Slots struct {
	N     int // how many there are
	taken atomic.Int64
	full  atomic.Int64 // when all were last seen taken, in Unix nanoseconds
}

// Taken returns how many workers run a job.
func (s *Slots) Taken() int { return int(s.taken.Load()) }

// Full returns when all workers were last seen running jobs.
func (s *Slots) Full() time.Time { return time.Unix(0, s.full.Load()) }

// Take is called when a worker begins a job.
func (s *Slots) Take() { s.changed(s.taken.Add(1)) }

// Free is called when a worker ends a job.
func (s *Slots) Free() { s.changed(s.taken.Add(-1) + 1) }

func (s *Slots) changed(most int64) {
	if most >= int64(s.N) {
		s.full.Store(time.Now().UnixNano())
	}
}
