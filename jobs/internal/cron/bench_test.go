package cron_test

import (
	"testing"
	"time"

	"github.com/everytick/everytick/jobs"
)

func BenchmarkNext(b *testing.B) {
	newYork := mustZone(b, "America/New_York")
	rule := ruleZone(b, "rule", "EST5EDT,M3.2.0,M11.1.0")
	for _, bench := range []struct {
		name     string
		schedule jobs.Schedule
	}{
		{"fixed hour/UTC", mustParse(b, "30 2 * * *", nil)},
		{"fixed hour/New York", mustParse(b, "30 2 * * *", newYork)},
		{"fixed hour/New York by rule", mustParse(b, "30 2 * * *", rule)},
		{"star hour/every minute", mustParse(b, "* * * * *", newYork)},
		{"star hour/every hour", mustParse(b, "0 * * * *", newYork)},
		{"star hour/29 February", mustParse(b, "0 */12 29 2 *", newYork)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			tick := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			start := tick
			for b.Loop() {
				if tick = bench.schedule.Next(tick); tick.Year() > 2030 {
					tick = start
				}
			}
		})
	}
}

func BenchmarkParseCron(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		mustParse(b, "*/5 8-18 1,15 jan-jun mon-fri", nil)
	}
}
