//go:build unix

package faults_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A footprint is what a process uses.
type footprint struct {
	goroutines, files, sockets int
	memory                     int // in MiB
	logged                     int // in KiB
}

var goroutineCount = regexp.MustCompile(`msg=footprint goroutines=(\d+)`)

// footprint asks a process, and its kernel, what it uses.
func (n *node) footprint(t testing.TB) (f footprint) {
	t.Helper()
	before := len(goroutineCount.FindAllString(n.readLog(t), -1))
	n.signal(syscall.SIGUSR1)
	until(t, 30*time.Second, "the process counts its goroutines", func() bool {
		found := goroutineCount.FindAllStringSubmatch(n.readLog(t), -1)
		if len(found) == before {
			return false
		}
		f.goroutines, _ = strconv.Atoi(found[len(found)-1][1])
		return true
	})
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.pid()))
	require.NoError(t, err)
	require.NotEmpty(t, files, "this test needs /proc")
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil && strings.HasPrefix(to, "socket:") {
			f.sockets++
		}
	}
	f.files = len(files) - f.sockets
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.pid()))
	require.NoError(t, err)
	rss := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(t, rss)
	kib, err := strconv.Atoi(string(rss[1]))
	require.NoError(t, err)
	f.memory, f.logged = kib/1024, len(n.readLog(t))/1024
	return f
}

// How much more than a new process one may use that has been through everything.
const (
	spareGoroutines = 15
	spareFiles      = 5
	spareSockets    = 3
	spareMemory     = 48 // MiB
	// logPerMinute bounds what all processes log together while faults are injected, in KiB.
	logPerMinute = 256
)

// requireNoLeaks compares the processes that are alive with a new one.
func (c *cluster) requireNoLeaks(all []job, lasted time.Duration) {
	c.t.Helper()
	old := c.living()
	require.NotEmpty(c.t, old)
	logged := 0
	for _, n := range c.nodes {
		logged += len(n.readLog(c.t)) / 1024
	}
	fresh := c.launch(all)
	pass(c.t, 10*time.Second)
	want := fresh.footprint(c.t)
	fmt.Printf("| process | goroutines | files | sockets | memory | log |\n|---|---|---|---|---|---|\n"+
		"| new | %d | %d | %d | %d MiB | %d KiB |\n", want.goroutines, want.files, want.sockets, want.memory, want.logged)
	for _, n := range old {
		got := n.footprint(c.t)
		fmt.Printf("| %s | %d | %d | %d | %d MiB | %d KiB |\n", n.id, got.goroutines, got.files, got.sockets, got.memory, got.logged)
		require.LessOrEqual(c.t, got.goroutines, want.goroutines+spareGoroutines, "goroutines of %s", n.id)
		require.LessOrEqual(c.t, got.files, want.files+spareFiles, "files of %s", n.id)
		require.LessOrEqual(c.t, got.sockets, want.sockets+spareSockets, "sockets of %s", n.id)
		require.LessOrEqual(c.t, got.memory, want.memory+spareMemory, "memory of %s", n.id)
	}
	perMinute := float64(logged) / lasted.Minutes()
	fmt.Printf("log of all processes: %.0f KiB per minute\n", perMinute)
	require.Less(c.t, perMinute, float64(logPerMinute), "KiB logged per minute")
}
