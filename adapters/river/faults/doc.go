// Package faults holds tests alone. They take processes, connections, rows and
// Postgres itself away from schedulers that run as processes of their own, and
// ask the database afterwards what became of each tick.
//
//	go test ./adapters/river/faults                                    short faults, as part of go test ./...
//	go test ./adapters/river/faults -run TestFaults -faults -v         all, at full length; prints the report
//	go test ./adapters/river/faults -run TestSoak -soak 10m -seed 7 -v random faults, then the invariants
//
// The database's clock is set by libfaketime, where that is installed (Debian: apt-get install libfaketime), or
// else by functions that take the place of now() and clock_timestamp().
//
// PROVIDER=native runs River's own periodic jobs instead, to compare: it prints
// the same report and asserts nothing.
package faults
