package insert_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/insert"
)

func TestOutcome_OnlyARefusalByTheServerProvesThatNothingWasStored(t *testing.T) {
	t.Parallel()
	answered := insert.Outcome{Sent: true, Intact: true}
	refused := func(severity, code string) error { return &pgconn.PgError{SeverityUnlocalized: severity, Code: code} }
	for _, test := range []struct {
		name    string
		outcome insert.Outcome
		err     error
		proof   bool
	}{
		{"a hook failed before the INSERT", insert.Outcome{}, errors.New("no key"), true},
		{"no connection", insert.Outcome{NoConn: true}, context.DeadlineExceeded, true},
		{"feature not supported", answered, refused("ERROR", "0A000"), true},
		{"cardinality violation", answered, refused("ERROR", "21000"), true},
		{"data exception", answered, refused("ERROR", "22P02"), true},
		{"a constraint", answered, refused("ERROR", "23505"), true},
		{"a read-only transaction", answered, refused("ERROR", "25006"), true},
		{"an invalid statement name behind a pooler", answered, refused("ERROR", "26000"), true},
		{"a deadlock", answered, refused("ERROR", "40P01"), true},
		{"no such table", answered, refused("ERROR", "42P01"), true},
		{"too many arguments", answered, refused("ERROR", "54023"), true},
		{"a lock timeout", answered, refused("ERROR", "55P03"), true},
		{"RAISE in a trigger", answered, refused("ERROR", "P0001"), true},
		{"wrapped", answered, fmt.Errorf("river: %w", refused("ERROR", "23505")), true},
		{"an old server without an unlocalized severity", answered, &pgconn.PgError{Severity: "ERROR", Code: "23505"}, true},
		{"a server in another language", answered, &pgconn.PgError{Severity: "FEHLER", SeverityUnlocalized: "ERROR", Code: "23505"}, true},

		{"the connection is gone", insert.Outcome{Sent: true}, refused("ERROR", "23505"), false},
		{"a pooler whose server went away", answered, refused("FATAL", "08P01"), false},
		{"a pooler with severity ERROR", answered, refused("ERROR", "08P01"), false},
		{"a shutdown of the server", answered, refused("FATAL", "57P01"), false},
		{"cancelled", answered, refused("ERROR", "57014"), false},
		{"the disk is full", answered, refused("ERROR", "53100"), false},
		{"an input or output error", answered, refused("ERROR", "58000"), false},
		{"an internal error", answered, refused("ERROR", "XX000"), false},
		{"FATAL with a class of refusals", answered, refused("FATAL", "23505"), false},
		{"no code", answered, refused("ERROR", ""), false},
		{"no answer from the server", answered, context.DeadlineExceeded, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.outcome.Judge(test.err)
			require.ErrorIs(t, err, test.err)
			require.Equal(t, test.err.Error(), err.Error())
			require.Equal(t, test.proof, insert.NotStored(err))
		})
	}
	require.NoError(t, answered.Judge(nil))
}
