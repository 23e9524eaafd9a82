package jobs

import (
	"fmt"
	"time"
)

// A Request is a validated trigger with its options applied. [TriggerMiddleware] sees it.
type Request struct {
	// Name is the name of the job.
	Name string
	// Data is the encoded JSON object.
	Data []byte
	// Delay is how long from now the job is due; 0 means now. It is ignored if At is set.
	Delay time.Duration
	// delayed means that Delay was given, be it as 0.
	delayed bool
	// At is when the job is due, in UTC, or zero.
	At time.Time
	// Priority is 1 (first) to 4, or 0 for the priority of the registration.
	Priority int
	// Unique is the key given with [Unique], [UniqueWaiting] or [Latest], or "". UniqueMode says with which.
	Unique     string
	UniqueMode UniqueMode
	// IdempotencyKey is the key given with [IdempotencyKey], or "". Fingerprint, if there is one, is that of the data
	// and options: triggers with the same key must have the same.
	IdempotencyKey, Fingerprint string
	// Metadata is set by [TriggerMiddleware] for [Job.Metadata]. Keys and values are UTF-8 without U+0000, and
	// have fewer than [MaxDataBytes] in all.
	Metadata map[string]string
	// ID is the ID of the run, set once it is stored.
	ID string
}

// NewRequest validates a trigger and applies its options. It is for implementations of [Triggerer], such as providers,
// fakes and wrappers. It does not check that the name is registered. Delay and Priority are 0 unless an option sets
// them. The errors are [ErrInvalidData], [ErrInvalidOption] and [ErrInvalidSchedule].
func NewRequest(name string, data any, opts ...TriggerOption) (*Request, error) {
	req := &Request{Name: name}
	for _, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("job %q: %w", name, invalidOption("option is nil"))
		}
		if err := opt.applyToRequest(req); err != nil {
			return nil, fmt.Errorf("job %q: %w", name, err)
		}
	}
	var err error
	req.Data, err = encodeData(name, data)
	if err != nil {
		return nil, err
	}
	if err := req.fingerprint(); err != nil {
		return nil, fmt.Errorf("job %q: %w", name, err)
	}
	req.delayed = false // has served its purpose
	return req, nil
}
