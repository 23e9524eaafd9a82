package jobs_test

import (
	"strings"
	"testing"

	"github.com/everytick/everytick/jobs"
)

func BenchmarkRequest(b *testing.B) {
	for _, bench := range []struct {
		name string
		data any
	}{
		{"nil", nil},
		{"struct", text{"hello"}},
		{"raw 64 KiB", raw(`{"a":"%s"}`, strings.Repeat("x", 1<<16))},
		{"text 64 KiB", text{strings.Repeat("é<", 1<<14)}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jobs.NewRequest("a.b", bench.data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
