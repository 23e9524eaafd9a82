package insert

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// undoneClasses are the classes of SQLSTATE with which the server itself refuses a statement: feature not
// supported, cardinality, data, constraint, transaction state, transaction rollback, syntax or access, object
// state, PL/pgSQL. A pooler in between answers with others, such as 08 and 57, whatever it has passed on.
var undoneClasses = []string{"0A", "21", "22", "23", "25", "26", "40", "42", "54", "55", "P0"}

// An unstoredError proves that nothing was stored.
type unstoredError struct {
	error
	// whole says that no part of the statement would fare better: it was not even attempted.
	whole bool
}

func (e unstoredError) Unwrap() error { return e.error }

// Undone reports whether an error proves that nothing was stored: our statement was not sent, or the server
// reports a fault of it and the connection is intact. After any other, it may be stored or not.
func Undone(err error) bool {
	var unstored unstoredError
	return errors.As(err, &unstored)
}

// divisible reports whether nothing was stored and one of several jobs may be the reason.
func divisible(err error) bool {
	var unstored unstoredError
	return errors.As(err, &unstored) && !unstored.whole
}

// An Outcome is what is known of a statement that failed.
type Outcome struct {
	NoConn bool // there was no connection to send it by
	Sent   bool // it may have reached the server
	Intact bool // its connection still works
}

// Judge marks err if it proves that nothing was stored.
func (o Outcome) Judge(err error) error {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case !o.Sent:
		return unstoredError{err, o.NoConn}
	case o.Intact && errors.As(err, &pgErr) && isError(pgErr) && len(pgErr.Code) == 5 && slices.Contains(undoneClasses, pgErr.Code[:2]):
		return unstoredError{err, false}
	}
	return err
}

// isError reports whether the severity is ERROR, whatever the server's language.
func isError(err *pgconn.PgError) bool {
	if err.SeverityUnlocalized != "" {
		return err.SeverityUnlocalized == "ERROR"
	}
	return err.Severity == "ERROR"
}
