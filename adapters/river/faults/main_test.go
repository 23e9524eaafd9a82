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
	faultsFlag = flag.Bool("faults", false, "inject all faults at full length, and print the report")
	soakFlag   = flag.Duration("soak", 0, "inject random faults for this long")
	seedFlag   = flag.Uint64("seed", 0, "of the random faults; 0 chooses one")
)

// The providers of schedules that can be put to the test.
const (
	everytick = "everytick"
	native    = "native" // River's own periodic jobs, which promise nothing of the kind
)

var provider = cmp.Or(os.Getenv("PROVIDER"), everytick)

// childEnv makes the test binary the scheduler's process of a test: it holds a
// [childConfig].
const childEnv = "EVERYTICK_FAULTS_CHILD"

func TestMain(m *testing.M) {
	if encoded := os.Getenv(childEnv); encoded != "" {
		os.Exit(runChild(encoded))
	}
	flag.Parse()
	// The tests spend their time waiting, not on a processor, of which -parallel
	// counts by default. The server's connections, 200, are enough for so many.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// pass lets time go by where that is the fault or its aftermath: nothing happens
// that could be waited for.
func pass(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// until polls for a condition.
func until(t testing.TB, limit time.Duration, what string, met func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !met() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s: not %s", limit, what)
		}
		pass(t, 50*time.Millisecond)
	}
}
