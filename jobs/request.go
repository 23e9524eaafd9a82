package jobs

import (
	"fmt"
	"time"
)

// A Request is a validated trigger: what to enqueue, with the options folded in. [TriggerMiddleware] sees it.
type Request struct {
	// Name is the name the job was registered under.
	Name string
	// Data is the encoded JSON object.
	Data []byte
	// Delay is how long from now the job is due; 0 means now. It is not used when At
	// is set.
	Delay time.Duration
	// At is the time at which the job is due, or zero.
	At time.Time
	// Priority is from 1 (first) to 4, or 0 for that of the registration.
	Priority int
	// Unique is the key given with [Unique], or "".
	Unique string
	// Metadata is set by [TriggerMiddleware] for [Job.Metadata]: UTF-8 without U+0000.
	Metadata map[string]string
	// ID is the job's, set once it is stored.
	ID string
}

// NewRequest validates a trigger and folds its options, for those who write a [Triggerer]: a provider, a fake or a
// wrapper. It does not ask whether anybody has registered the name. Where no option says otherwise, Delay and
// Priority are 0. The errors are [ErrInvalidData], [ErrInvalidOption] and [ErrInvalidSchedule].
func NewRequest(name string, data any, opts ...TriggerOption) (*Request, error) {
	req := &Request{Name: name}
	for _, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("job %q: %w", name, invalidOption("an option is nil"))
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
	return req, nil
}
