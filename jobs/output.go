package jobs

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/everytick/everytick/jobs/internal/output"
)

// MaxOutputBytes is the limit for a run's encoded output, which must be smaller: 64 KiB.
const MaxOutputBytes = 64 << 10

// maxStoredOutput is the limit for its size with numbers written without exponents; see maxStoredBytes.
const maxStoredOutput = 2 * MaxOutputBytes

func init() { //nolint:gochecknoinits // the field of Job is not exported, and providers in other packages set it
	output.Bind = func(job any, slot *output.Slot) { job.(*Job).output = slot }
}

// SetOutput sets the result of the run, which [Run].Output shows and [Await] returns. v is encoded as JSON at once, and
// may be of any type that encoding/json encodes. It is stored when the attempt ends, however it ends, and replaces what
// was set before, in this or an earlier attempt. It is lost if the process dies before that.
//
// Output must be smaller than 64 KiB when encoded, smaller than 128 KiB as PostgreSQL writes it, and keep the other
// rules for data; see [Triggerer]. Otherwise, the error is [ErrInvalidData] and nothing changes. Larger results belong
// in a table of the application, with a key to them in the output. After the attempt has ended, SetOutput returns an
// error.
func (j *Job) SetOutput(v any) error {
	encoded, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: output of %q: cannot be encoded as JSON: %w", ErrInvalidData, j.Name, err)
	}
	if len(encoded) >= MaxOutputBytes {
		return fmt.Errorf("%w: output of %q: %d bytes of JSON, must be fewer than %d", ErrInvalidData, j.Name, len(encoded), MaxOutputBytes)
	}
	reason := unstorable(encoded, maxStoredOutput)
	if reason == "" && bytes.Contains(encoded, []byte(`ufffd`)) && hasInvalidText(v) {
		reason = invalidText
	}
	if reason != "" {
		return fmt.Errorf("%w: output of %q: %s", ErrInvalidData, j.Name, reason)
	}
	if j.output == nil { // a job made by a test
		j.output = &output.Slot{}
	}
	if !j.output.Set(encoded) {
		return fmt.Errorf("jobs: SetOutput of %q: the attempt has ended", j.Name)
	}
	return nil
}

// Output returns what [Job.SetOutput] has set in this attempt, encoded as JSON, or nil. It is meant for middleware and
// tests.
func (j *Job) Output() json.RawMessage {
	if j.output == nil {
		return nil
	}
	return bytes.Clone(j.output.Get())
}
