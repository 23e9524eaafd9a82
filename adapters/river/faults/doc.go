// Package faults contains only tests. They run schedulers as separate processes, take away processes, connections, rows
// and Postgres itself, and then check in the database that no tick and no effect was lost or doubled, and that no run
// that has ended runs again.
//
//	go test ./adapters/river/faults                                    short faults, as part of go test ./...
//	go test ./adapters/river/faults -run TestFaults -faults -v         all faults at full length, with a report
//	go test ./adapters/river/faults -run TestOutage -faults -v         Postgres away for up to 6 minutes
//	go test ./adapters/river/faults -run TestEffects -effects -v       effects and updates at full length, with a report
//	go test ./adapters/river/faults -run TestCrash -crash 20 -v        the server killed under callers, with a report
//	go test ./adapters/river/faults -run TestFailover -failover -v     a standby takes over, with a report
//	go test ./adapters/river/faults -run TestSoak -soak 10m -seed 7 -v random faults, then a check of the invariants
//
// Tests set the database's clock with libfaketime if it is installed (Debian: apt-get install libfaketime), and
// otherwise with functions that replace now() and clock_timestamp().
//
// With PROVIDER=native they run River's own periodic jobs for comparison, print the same report and assert nothing.
package faults
