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

	"github.com/everytick/everytick/jobs/internal/verdict"
)

// A Job is one attempt at one job, as its handler sees it. It is valid until the
// handler returns.
type Job struct {
	// ID identifies the job. It is opaque and the same on every attempt.
	ID string
	// Name is the name the job was registered under.
	Name string
	// Data is the JSON object that was given to Trigger, "{}" when there was none.
	// Equal as JSON; white space and the order of keys may differ.
	Data json.RawMessage
	// Attempt is the number of this attempt, counted from 1.
	Attempt int
	// MaxAttempts is the attempt after which the job has failed for good.
	MaxAttempts int
	// Tick is the instant a cron or interval run stands for, in UTC. If several have
	// passed it is the latest of them, see [CatchUp]. It is zero for a job that was
	// triggered.
	Tick time.Time
	// Missed is how many earlier ticks this run stands for as well: those that passed
	// while nothing was running or all workers were busy, and have no run of their own.
	// It is 0 for a run in time and for a job that was triggered.
	Missed int
	// Metadata is what [TriggerMiddleware] left in the process that triggered the job,
	// nil if nothing. It is not for the handler's own data.
	Metadata map[string]string
	// StartedAt is when this attempt started, by the provider's clock, in UTC.
	StartedAt time.Time
	// DB is the database the provider was given: the application's own pool.
	DB DB
	// Logger carries the attributes job, job_id and attempt.
	Logger *slog.Logger
}

// Decode stores the job's data in the value v points to, as [json.Unmarshal]
// does. Its error is [Permanent]: data that does not decode now never will.
func (j *Job) Decode(v any) error {
	if err := json.Unmarshal(j.Data, v); err != nil {
		return Permanent(fmt.Errorf("jobs: data of %q does not decode: %w", j.Name, err))
	}
	return nil
}

// Late returns how long after its tick this attempt started, by the provider's
// clock. For a run that stands for several ticks that is the latest one. It is 0 for
// a job that was triggered.
func (j *Job) Late() time.Duration {
	if j.Tick.IsZero() {
		return 0
	}
	return max(0, j.StartedAt.Sub(j.Tick))
}

// Retries tells whether another attempt follows this one when it ends with err.
func (j *Job) Retries(err error) bool {
	var permanent *verdict.Permanent
	return err != nil && j.Attempt < j.MaxAttempts && !verdict.Sound(func() bool { return errors.As(err, &permanent) })
}

// Outcome names what follows from an attempt that ended with err, for metrics and
// traces: "completed", "retried" (another attempt follows), "failed" (for good), or
// "interrupted" (by a shutdown or a cancellation). ctx is the attempt's.
func (j *Job) Outcome(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "completed"
	case errors.Is(ctx.Err(), context.Canceled): // at the timeout it is DeadlineExceeded
		return "interrupted"
	case j.Retries(err):
		return "retried"
	default:
		return "failed"
	}
}

// LogValue groups what identifies the job. It never contains the data.
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
	return slog.GroupValue(attrs...)
}

// A Handler does the work of a job. It returns nil when the job is done, and an
// error when it is to be run again. ctx ends when the job's [Timeout] has passed
// or the scheduler is shut down the hard way; a handler that ignores that holds up a
// worker and the shutdown, and 10 s later the log says so. A panic counts as an error.
// An error whose own methods panic is an error like any other. Of its text, the first
// 8 KiB are kept, as valid UTF-8.
type Handler func(ctx context.Context, job *Job) error

// DB is what handlers may do with the database: the methods that *pgxpool.Pool,
// *pgx.Conn and pgx.Tx share.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// MaxDataBytes is the size a job's encoded data stays under: 1 MiB.
const MaxDataBytes = 1 << 20

// maxDataDepth bounds how deeply data may be nested: databases parse JSON
// recursively and refuse what exhausts their stack.
const maxDataDepth = 1000

// maxDataExponent bounds a number's exponent: PostgreSQL keeps JSON numbers as
// exact decimals and refuses larger ones.
const maxDataExponent = 1000

// maxDataDigits bounds a number's digits for the same reason: PostgreSQL keeps
// 131,072 before the point and 16,383 after it, the exponent included.
const maxDataDigits = 10_000

// maxStoredBytes bounds what PostgreSQL makes of the data: it writes numbers without
// exponents, so that the six bytes of 1e1000 are a thousand at every fetch. The spaces
// that it adds after commas and colons fit in whatever the data is.
const maxStoredBytes = 2 * MaxDataBytes

// encodeData encodes data as the JSON object that is stored, or says why it
// cannot be.
func encodeData(name string, data any) (json.RawMessage, error) {
	if data == nil {
		return json.RawMessage(`{}`), nil
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("%w for %q: not encodable as JSON: %w", ErrInvalidData, name, err)
	}
	if len(encoded) >= MaxDataBytes {
		return nil, fmt.Errorf("%w for %q: %d bytes of JSON, allowed are fewer than %d", ErrInvalidData, name, len(encoded), MaxDataBytes)
	}
	if encoded[0] != '{' {
		return nil, fmt.Errorf("%w for %q: want a JSON object (a struct, a map or a json.RawMessage that holds one), got %s",
			ErrInvalidData, name, jsonType(encoded))
	}
	reason := unstorable(encoded)
	// What encoding/json makes of invalid UTF-8 may also be meant, in JSON that the caller wrote.
	if reason == "" && bytes.Contains(encoded, []byte(`ufffd`)) && hasInvalidText(data) {
		reason = "a string that is not valid UTF-8"
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

// unstorable says why valid JSON could not be stored unchanged, or "". It reads
// the bytes once.
func unstorable(encoded []byte) string {
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
					return `a surrogate \u` + string(code) + " without its pair"
				}
				i += 6
			case isSurrogate(code, "cdef"):
				return `a surrogate \u` + string(code) + " without its pair"
			}
		}
	}
	if stored >= maxStoredBytes {
		return fmt.Sprintf("%d bytes once PostgreSQL has written its numbers without exponents, allowed are fewer than %d",
			stored, maxStoredBytes)
	}
	return ""
}

// A number is one in JSON, without its sign.
type number struct {
	bytes           int // of its text
	whole, fraction int // digits before and after the point
	exponent        int // may be cut short where it is far too large
}

// readNumber reads the number that text begins with.
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

// isSurrogate reports whether the four hexadecimal digits are d, then one of second.
func isSurrogate(code []byte, second string) bool {
	return (code[0] == 'd' || code[0] == 'D') && bytes.IndexByte([]byte(second), lower(code[1])) >= 0
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
