//go:build unix

package bench

import (
	"testing"
	"time"
)

// BenchmarkIndexes measures the cost of indexes that are not needed to run jobs: River's two GIN indexes on args and
// metadata, and the indexes that [river.Migrate] adds for monitoring. All figures are everytick's; the ratio is to the
// figure with all indexes.
func BenchmarkIndexes(b *testing.B) {
	srv := newServer(b)
	const gin = "^river_job_(args|metadata)_index$"
	variants := []struct {
		name    string
		without func(*database)
	}{
		{"all-indexes", func(*database) {}},
		{"without-gin", func(db *database) { db.dropIndexes(b, gin) }},
		{"without-ours", func(db *database) { db.riversIndexes(b) }},
	}
	dbs := make([]*database, len(variants))
	for i, v := range variants {
		dbs[i] = srv.database(b, typed)
		v.without(dbs[i])
	}
	for _, bench := range []struct {
		name    string
		measure func(b *testing.B, db *database) float64
	}{
		{"TriggerMany", func(b *testing.B, db *database) float64 {
			return insertionMany(b, db, scaled(100_000), openTyped)
		}},
		{"drain", func(b *testing.B, db *database) float64 { // with the settings of Drain/equal
			return drained(b, db, typed, equal, scaled(30_000))["jobs/s"]
		}},
		{"Trigger", func(b *testing.B, db *database) float64 { // by 16 callers
			return insertion(b, db, typed, 16, scaled(time.Second))["jobs/s"]
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			figures := make([][]float64, len(variants))
			for b.Loop() {
				for range 3 {
					for i, db := range dbs {
						figures[i] = append(figures[i], bench.measure(b, db))
					}
				}
			}
			all := quantile(figures[0], 0.5)
			for i, v := range variants {
				rate := quantile(figures[i], 0.5)
				b.ReportMetric(rate, v.name+"-jobs/s")
				b.ReportMetric(rate/all, v.name+"-ratio")
				tabulate(b, v.name+"-jobs/s", row{river: none, everytick: rate, ratio: rate / all})
			}
		})
	}
}
