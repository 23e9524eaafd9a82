//go:build unix

package bench

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestMain prints the table of figures and writes the plot.
func TestMain(m *testing.M) {
	code := m.Run()
	if len(table) > 0 {
		fmt.Print("\n| work | River | everytick | ratio | target | held? |\n|---|---:|---:|---:|---|---|\n")
		for _, r := range table {
			fmt.Println(r)
		}
	}
	if err := writePlot(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// none is a figure that a contender does not have.
var none = math.NaN()

// row is a row of the table.
type row struct {
	work             string // the name of the benchmark, as for -bench, and the unit
	river, everytick float64
	ratio            float64
	target           target
}

var table []row

// target is what everytick should reach.
type target struct {
	text string
	held func(everytick, ratio float64) bool
}

var noTarget target

func ratioAtLeast(want float64) target {
	return target{"ratio ≥ " + number(want), func(_, ratio float64) bool { return ratio >= want }}
}

func ratioAtMost(want float64) target {
	return target{"ratio ≤ " + number(want), func(_, ratio float64) bool { return ratio <= want }}
}

func atMost(want float64) target {
	return target{"≤ " + number(want), func(everytick, _ float64) bool { return everytick <= want }}
}

// report adds a figure of both clients to the benchmark's metrics and to the table.
func report(b *testing.B, unit string, river, everytick float64, t target) {
	b.Helper()
	b.ReportMetric(everytick, "everytick-"+unit)
	if !math.IsNaN(river) {
		b.ReportMetric(river, "river-"+unit)
		b.ReportMetric(everytick/river, "ratio-"+unit)
	}
	tabulate(b, unit, row{river: river, everytick: everytick, ratio: everytick / river, target: t})
}

// tabulate adds a row to the table.
func tabulate(b *testing.B, unit string, r row) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // the figures are the result
	r.work = strings.TrimPrefix(b.Name(), "Benchmark") + " " + unit
	// The benchmark may run again with more iterations.
	if i := slices.IndexFunc(table, func(o row) bool { return o.work == r.work }); i >= 0 {
		table[i] = r
	} else {
		table = append(table, r)
	}
}

func (r row) String() string {
	name, unit, _ := strings.Cut(r.work, " ")
	held := "–"
	switch {
	case r.target.held == nil:
	case r.target.held(r.everytick, r.ratio):
		held = "yes"
	default:
		held = "**no**"
	}
	return fmt.Sprintf("| `%s` %s | %s | %s | %s | %s | %s |", name, unit, number(r.river), number(r.everytick), number(r.ratio), r.target.text, held)
}

// number formats x with three significant digits and a comma between thousands.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x >= 1000:
		s := strconv.FormatFloat(x, 'f', 0, 64)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case x >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}
