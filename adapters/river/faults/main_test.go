//go:build unix

package faults_test

import (
	"cmp"
	"flag"
	"os"
	"testing"
	"time"
)

var (
	faultsFlag   = flag.Bool("faults", false, "inject all faults at full length, and print the report")
	effectsFlag  = flag.Bool("effects", false, "check effects at full length, and print the report")
	soakFlag     = flag.Duration("soak", 0, "inject random faults for this long")
	crashFlag    = flag.Int("crash", 1, "how many times the server is killed under 50 callers")
	failoverFlag = flag.Bool("failover", false, "fail over at full length, with and without synchronous replication")
	seedFlag     = flag.Uint64("seed", 0, "seed of the random faults; 0 picks one")
)

// The providers that can be tested.
const (
	everytick = "everytick"
	native    = "native" // River's own periodic jobs
)

var provider = cmp.Or(os.Getenv("PROVIDER"), everytick)

// childEnv holds a [childConfig]. If it is set, the test binary is a child process that runs a scheduler.
const childEnv = "EVERYTICK_FAULTS_CHILD"

func TestMain(m *testing.M) {
	if encoded := os.Getenv(childEnv); encoded != "" {
		os.Exit(runChild(encoded))
	}
	flag.Parse()
	// Tests mostly wait, so the default of one per CPU takes longer.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// pass lets time go by during a fault or its aftermath, where a test has no event to wait for.
func pass(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// until polls until a condition holds.
func until(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		pass(t, 50*time.Millisecond)
	}
}
