package insert

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// refusalClasses are the classes of SQLSTATE with which the server itself refuses a statement: feature not
// supported, cardinality, data, constraint, transaction state, statement name, transaction rollback, syntax or
// access, program limit, object state, PL/pgSQL. A pooler uses others, such as 08 and 57, whether or not it passed
// the statement on.
var refusalClasses = []string{"0A", "21", "22", "23", "25", "26", "40", "42", "54", "55", "P0"}

// An unstoredError proves that nothing was stored.
type unstoredError struct {
	error
	// whole means that no part of the statement would fare better, because there was no connection.
	whole bool
}

func (e unstoredError) Unwrap() error { return e.error }

// NotStored reports whether an error proves that nothing was stored: the statement was not sent, or the server
// refused it and the connection is intact. After any other error the jobs may or may not have been stored.
func NotStored(err error) bool {
	var unstored unstoredError
	return errors.As(err, &unstored)
}

// divisible reports whether nothing was stored and one of several jobs may be the cause.
func divisible(err error) bool {
	var unstored unstoredError
	return errors.As(err, &unstored) && !unstored.whole
}

// An Outcome is what is known about a statement.
type Outcome struct {
	NoConn bool // there was no connection to send it on
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
	case o.Intact && errors.As(err, &pgErr) && isRefusal(pgErr):
		return unstoredError{err, false}
	}
	return err
}

// isRefusal reports whether the server itself refused a statement. Only SeverityUnlocalized does not depend on the
// server's language; old servers do not send it.
func isRefusal(err *pgconn.PgError) bool {
	severity := err.SeverityUnlocalized
	if severity == "" {
		severity = err.Severity
	}
	return severity == "ERROR" && len(err.Code) == 5 && slices.Contains(refusalClasses, err.Code[:2])
}
