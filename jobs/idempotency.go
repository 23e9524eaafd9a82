package jobs

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrKeyReused is returned for an [IdempotencyKey] that a different trigger of the job has used. Nothing was inserted.
var ErrKeyReused = errors.New("jobs: idempotency key belongs to a different trigger")

// IdempotencyKey lets a trigger be repeated when its answer was lost. The first trigger of the job with the key inserts
// a run. Each later one returns the ID of that run and inserts nothing, whatever has become of the run, even if it has
// completed, failed or was cancelled. key is 1 to 1,000 bytes, and different jobs may use the same key.
//
// A provider remembers the key as long as it stores the run: until some time after the run has ended. In adapters/river
// that is the retention of its Config, by default 24 hours for completed runs. Give each trigger a key of its own, such
// as a random one that is kept until the answer arrives, or the ID of the event that causes it.
//
// A trigger with the key but with other data, or another [Delay], [At] or [Priority], is a mistake of the caller and
// [ErrKeyReused]. The options are compared as given, and the data as encoded, before [TriggerMiddleware] sees them.
//
// IdempotencyKey cannot be combined with [Unique], [UniqueWaiting] or [Latest], and does not apply to TriggerMany. If
// another open transaction has triggered the key with [TriggerTx], Trigger waits until that transaction ends, so give
// ctx a deadline.
func IdempotencyKey(key string) TriggerOption {
	return triggerOption(func(r *Request) error {
		if key == "" || len(key) > 1000 {
			return invalidOption("IdempotencyKey: key of %d bytes, must be 1 to 1,000", len(key))
		}
		r.IdempotencyKey = key
		return nil
	})
}

// fingerprint sets Fingerprint of a request whose options and data are complete.
func (r *Request) fingerprint() error {
	if r.IdempotencyKey == "" {
		return nil
	}
	if r.Unique != "" {
		return invalidOption("IdempotencyKey and %s: a trigger has one key", r.UniqueMode)
	}
	delay := strconv.FormatInt(int64(r.Delay), 10)
	if r.delayed && r.Delay == 0 { // not the delay that the job was registered with
		delay = "now"
	}
	hash := sha256.New() // of the key too, so that it does not help to guess data that are stored encrypted
	_, _ = fmt.Fprintf(hash, "%q %s %s %d ", r.IdempotencyKey, delay, r.At.UTC().Format(time.RFC3339Nano), r.Priority)
	_, _ = hash.Write(r.Data)
	r.Fingerprint = base64.RawURLEncoding.EncodeToString(hash.Sum(nil)[:18])
	return nil
}
