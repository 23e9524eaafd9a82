package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/everytick/everytick/jobs/internal/output"
)

// A Job is what a handler is given for one attempt. It is valid until the handler returns.
type Job struct {
	// ID identifies the run. It is opaque and the same for every attempt.
	ID string
	// Name is the name under which the job was registered.
	Name string
	// Data is the JSON object given to Trigger, or "{}" if there was none. White space and the order of keys may
	// differ from the original.
	Data json.RawMessage
	// Attempt is the number of this attempt, starting at 1.
	Attempt int
	// MaxAttempts is the number of the last attempt. If it fails, the job has failed for good.
	MaxAttempts int
	// Tick is the tick that this run is for, in UTC. If the run covers several missed ticks, Tick is the latest;
	// see [CatchUp]. It is zero for a triggered run.
	Tick time.Time
	// Missed is how many earlier ticks this run also covers. They passed while no process was running or all
	// workers were busy, and get no run of their own. It is 0 for a run on time and for a triggered run.
	Missed int
	// Snoozes is how often this run was postponed with [Snooze] before this attempt.
	Snoozes int
	// PrevSuccess is the latest tick whose run had succeeded when this attempt started, but at most Tick. It is zero if
	// none had, and for a triggered run. It is kept forever, like [Status].LastSuccess.
	//
	// The windows from PrevSuccess up to Tick, without Tick itself, of the runs that succeed cover all time without a
	// gap, whatever fails, is skipped or is paused in between: the next run that succeeds also has the windows of those
	// that did not. Two windows overlap only if the attempt with the later start began before the success of the other
	// run was stored: both were in progress at once, or the process died before it stored the success, so that the run
	// is repeated. Those of [Transactional] runs never do: one whose window another run has covered meanwhile is rolled
	// back and runs again with the rest. The window is empty, with PrevSuccess equal to Tick, if a later tick has covered it meanwhile.
	PrevSuccess time.Time
	// Metadata is what [TriggerMiddleware] set when the job was triggered, or nil. It is meant for middleware;
	// handlers get their input from Data.
	Metadata map[string]string
	// StartedAt is when this attempt started, by the provider's clock, in UTC.
	StartedAt time.Time
	// DB is the database that the provider was configured with, usually the application's pool. In the handler of a
	// [Transactional] job it is Tx, which must not be used by several goroutines at once.
	DB DB
	// Tx is the transaction of a [Transactional] job's attempt, for [TriggerTx] and functions that want a pgx.Tx. It
	// is nil for other jobs, and for middleware, which runs outside the transaction. Its Commit and Rollback return
	// an error; Begin makes a savepoint.
	Tx pgx.Tx
	// Logger has the attributes job, job_id and attempt.
	Logger *slog.Logger

	output *output.Slot // of this attempt; nil in a job made by a test
}

// Decode unmarshals the job's data into v, like [json.Unmarshal]. Its error is [Permanent], because data that does
// not decode now never will.
func (j *Job) Decode(v any) error {
	if err := json.Unmarshal(j.Data, v); err != nil {
		return Permanent(fmt.Errorf("jobs: data of %q does not decode: %w", j.Name, err))
	}
	return nil
}

// Late returns how long after Tick this attempt started, by the provider's clock. It is 0 for a triggered run.
func (j *Job) Late() time.Duration {
	if j.Tick.IsZero() {
		return 0
	}
	return max(0, j.StartedAt.Sub(j.Tick))
}

// Retries reports whether the run starts again if this attempt ends with err: it has failed and another attempt
// follows, or it was snoozed (see [Snoozed]).
func (j *Job) Retries(err error) bool {
	if _, _, snoozed := Snoozed(err); snoozed {
		return true
	}
	return err != nil && j.Attempt < j.MaxAttempts && !isPermanent(err)
}

// Outcome classifies an attempt that ended with err, for metrics and traces: "completed", "snoozed" (see [Snooze]),
// "retried" (failed, another attempt follows), "failed" (for good), or "interrupted" (by a shutdown or a cancellation).
// ctx is the attempt's context.
func (j *Job) Outcome(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "completed"
	case errors.Is(ctx.Err(), context.Canceled): // a timeout is DeadlineExceeded
		return "interrupted"
	case j.Retries(err):
		if _, _, snoozed := Snoozed(err); snoozed {
			return "snoozed"
		}
		return "retried"
	default:
		return "failed"
	}
}

// LogValue implements [slog.LogValuer]. The value never contains the data.
func (j *Job) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("job", j.Name),
		slog.String("job_id", j.ID),
		slog.Int("attempt", j.Attempt),
		slog.Int("max_attempts", j.MaxAttempts),
	}
	if !j.Tick.IsZero() {
		attrs = append(attrs, slog.Time("tick", j.Tick))
	}
	if j.Missed > 0 {
		attrs = append(attrs, slog.Int("missed", j.Missed))
	}
	if j.Snoozes > 0 {
		attrs = append(attrs, slog.Int("snoozes", j.Snoozes))
	}
	return slog.GroupValue(attrs...)
}

// A Handler does the work of a job. It returns nil when the work is done, and an error to be retried. A panic counts
// as an error, and so does an error whose own methods panic. The first 8 KiB of an error's text are kept, as valid UTF-8.
//
// ctx ends when the job's [Timeout] has passed, when the run is cancelled, or when the time given to Shutdown is over.
// A handler that ignores the end of ctx occupies a worker and delays the shutdown, which is logged after 10 seconds.
type Handler func(ctx context.Context, job *Job) error

// DB is the database as handlers see it. *pgxpool.Pool, *pgx.Conn and pgx.Tx implement it.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// MaxDataBytes is the limit for a job's encoded data, which must be smaller: 1 MiB.
const MaxDataBytes = 1 << 20

// maxDataDepth limits how deeply data may be nested. Databases parse JSON recursively and reject data that exhausts
// their stack.
const maxDataDepth = 1000

// maxDataExponent limits a number's exponent. PostgreSQL stores JSON numbers as exact decimals and rejects larger ones.
const maxDataExponent = 1000

// maxDataDigits limits a number's digits for the same reason. PostgreSQL stores 131,072 before the point and 16,383
// after it, including those implied by the exponent.
const maxDataDigits = 10_000

// maxStoredBytes limits the size of the data as PostgreSQL writes it. It writes numbers without exponents, so 1e1000
// takes a thousand bytes in every fetch. The spaces it adds after commas and colons always fit.
const maxStoredBytes = 2 * MaxDataBytes

const invalidText = "a string that is not valid UTF-8"

// encodeData encodes data as the JSON object to store.
func encodeData(name string, data any) (json.RawMessage, error) {
	if data == nil {
		return json.RawMessage(`{}`), nil
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("%w for %q: cannot be encoded as JSON: %w", ErrInvalidData, name, err)
	}
	if len(encoded) >= MaxDataBytes {
		return nil, fmt.Errorf("%w for %q: %d bytes of JSON, must be fewer than %d", ErrInvalidData, name, len(encoded), MaxDataBytes)
	}
	if encoded[0] != '{' {
		return nil, fmt.Errorf("%w for %q: want a JSON object (a struct, a map or a json.RawMessage that holds one), got %s",
			ErrInvalidData, name, jsonType(encoded))
	}
	reason := unstorable(encoded, maxStoredBytes)
	// encoding/json replaces invalid UTF-8 by \ufffd, but JSON that the caller wrote may contain it on purpose.
	if reason == "" && bytes.Contains(encoded, []byte(`ufffd`)) && hasInvalidText(data) {
		reason = invalidText
	}
	if reason != "" {
		return nil, fmt.Errorf("%w for %q: %s", ErrInvalidData, name, reason)
	}
	return encoded, nil
}

func jsonType(encoded []byte) string {
	switch encoded[0] {
	case '[':
		return "an array"
	case '"':
		return "a string (a []byte is encoded as one)"
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	default:
		return "a number"
	}
}

// unstorable returns why valid JSON cannot be stored unchanged, or "". limit is for its size with numbers written
// without exponents. It makes a single pass.
func unstorable(encoded []byte, limit int) string {
	if !utf8.Valid(encoded) {
		return "invalid UTF-8"
	}
	depth, stored, inString := 0, len(encoded), false
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		if !inString {
			switch {
			case isDigit(c):
				n := readNumber(encoded[i:])
				switch {
				case n.whole+n.fraction > maxDataDigits:
					return fmt.Sprintf("a number of more than %d digits", maxDataDigits)
				case n.exponent > maxDataExponent || n.exponent < -maxDataExponent:
					return fmt.Sprintf("a number with an exponent beyond ±%d", maxDataExponent)
				}
				stored += n.written() - n.bytes
				i += n.bytes - 1
			case c == ',' || c == ':':
				stored++ // a space
			case c == '"':
				inString = true
			case c == '{' || c == '[':
				if depth++; depth > maxDataDepth {
					return fmt.Sprintf("nested deeper than %d levels", maxDataDepth)
				}
			case c == '}' || c == ']':
				depth--
			}
			continue
		}
		switch c {
		case '"':
			inString = false
		case '\\':
			i++
			if encoded[i] != 'u' {
				continue
			}
			code := encoded[i+1 : i+5]
			i += 4
			switch {
			case string(code) == "0000":
				return `the character \u0000, which PostgreSQL cannot store`
			case isSurrogate(code, "89ab"):
				if i+6 >= len(encoded) || encoded[i+1] != '\\' || encoded[i+2] != 'u' || !isSurrogate(encoded[i+3:i+7], "cdef") {
					return `a surrogate \u` + string(code) + " that is not part of a pair"
				}
				i += 6
			case isSurrogate(code, "cdef"):
				return `a surrogate \u` + string(code) + " that is not part of a pair"
			}
		}
	}
	if stored >= limit {
		return fmt.Sprintf("%d bytes with its numbers written without exponents, as PostgreSQL does; must be fewer than %d",
			stored, limit)
	}
	return ""
}

// A number describes the text of a JSON number without its sign.
type number struct {
	bytes           int // of its text
	whole, fraction int // digits before and after the point
	exponent        int // capped just above the limit
}

// readNumber parses the number at the beginning of text.
func readNumber(text []byte) (n number) {
	digits := func() (count int) {
		for n.bytes < len(text) && isDigit(text[n.bytes]) {
			n.bytes++
			count++
		}
		return count
	}
	next := func(a, b byte) bool {
		if n.bytes == len(text) || text[n.bytes] != a && text[n.bytes] != b {
			return false
		}
		n.bytes++
		return true
	}
	n.whole = digits()
	if next('.', '.') {
		n.fraction = digits()
	}
	if next('e', 'E') {
		negative := next('-', '-')
		if !negative {
			next('+', '+')
		}
		begin := n.bytes
		digits()
		for _, c := range text[begin:n.bytes] {
			n.exponent = min(n.exponent*10+int(c-'0'), maxDataExponent+1)
		}
		if negative {
			n.exponent = -n.exponent
		}
	}
	return n
}

// written returns how many bytes the number takes without an exponent.
func (n number) written() int {
	fraction := max(0, n.fraction-n.exponent)
	return max(1, n.whole+n.exponent) + fraction + min(1, fraction)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isSurrogate reports whether a \u escape with these four hexadecimal digits is a surrogate: the digit d, then one of
// those in second.
func isSurrogate(code []byte, second string) bool {
	return (code[0] == 'd' || code[0] == 'D') && bytes.IndexByte([]byte(second), lower(code[1])) >= 0
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
