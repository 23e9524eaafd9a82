package jobshttp

import (
	"fmt"
	"strings"
	"time"

	"github.com/everytick/everytick/jobs"
)

// chart is a bar chart that the template draws as SVG. Completed runs are above the line and
// failed ones below it, so that it can be read without colour.
type chart struct {
	Width, Height, Line float64
	Bars                []bar
	Done, Failed, Other int
	Label               string  // the chart in words
	From                moment  // start of the first bar
	Since               *moment // runs that ended before it may be missing
	Most                int     // runs in the highest bar
}

// bar is one step of time.
type bar struct {
	Text  string // tooltip
	Rects []rect
}

type rect struct {
	Class               string // done, failed or other
	X, Y, Width, Height float64
}

// newChart returns the chart of the named jobs. span describes its time in words, such as
// "last 24 hours".
func newChart(a jobs.Activity, n int, names []string, span string, width, height float64, now time.Time) *chart {
	c := &chart{Width: width, Height: height, Line: height - 1, From: *newMoment(a.Start, now)}
	sums := make([]jobs.Outcomes, n)
	for _, name := range names {
		for i, o := range a.Jobs[name] {
			if i < n {
				sums[i].Completed += o.Completed
				sums[i].Failed += o.Failed
				sums[i].Other += o.Other
			}
		}
	}
	up, down := 1, 1
	for _, o := range sums {
		c.Done += o.Completed
		c.Failed += o.Failed
		c.Other += o.Other
		up, down = max(up, o.Completed+o.Other), max(down, o.Failed)
		c.Most = max(c.Most, o.Completed+o.Other, o.Failed)
	}
	scale := c.Line / float64(up)
	if c.Failed > 0 {
		c.Line = height * 0.7
		scale = min(c.Line/float64(up), (height-c.Line)/float64(down))
	}
	pitch := width / float64(n)
	for i, o := range sums {
		if o == (jobs.Outcomes{}) {
			continue
		}
		b := bar{Text: a.Start.Add(time.Duration(i)*a.Step).UTC().Format("15:04 UTC: ") + outcomeWords(o)}
		add := func(class string, n int, top float64) float64 {
			if n <= 0 {
				return 0
			}
			tall := max(2, float64(n)*scale) // keep a single run visible among thousands
			y := top
			if class != "failed" {
				y = max(0, top-tall)
			}
			x := float64(i)*pitch + pitch*0.1
			b.Rects = append(b.Rects, rect{class, round(x), round(y), round(pitch * 0.8), round(tall)})
			return tall
		}
		add("other", o.Other, c.Line-add("done", o.Completed, c.Line))
		add("failed", o.Failed, c.Line)
		c.Bars = append(c.Bars, b)
	}
	c.Label = span + ": " + outcomeWords(jobs.Outcomes{Completed: c.Done, Failed: c.Failed, Other: c.Other})
	if a.CompleteSince.After(a.Start) {
		c.Since = newMoment(a.CompleteSince, now)
	}
	return c
}

// spark is a small chart, with a path for each class instead of a tooltip for each bar: a list of a thousand has to be
// small.
type spark struct {
	Line                float64
	Paths               []shape
	Done, Failed, Other int
	Label               string
	Since               *moment `json:"-"` // runs that ended before it may be missing; not in the list
}

type shape struct{ Class, D string }

// newSpark returns the chart of one job in the last 24 hours. It is 120 wide and 30 high.
func newSpark(a jobs.Activity, n int, name string, now time.Time) *spark {
	c := newChart(a, n, []string{name}, "last 24 hours", 120, 30, now)
	s := &spark{Line: round(c.Line), Done: c.Done, Failed: c.Failed, Other: c.Other, Label: c.Label, Since: c.Since}
	for _, class := range []string{"done", "failed", "other"} {
		var d strings.Builder
		for _, b := range c.Bars {
			for _, r := range b.Rects {
				if r.Class == class {
					fmt.Fprintf(&d, "M%g %gh%gv%gh-%gz", r.X, r.Y, r.Width, r.Height, r.Width)
				}
			}
		}
		if d.Len() > 0 {
			s.Paths = append(s.Paths, shape{class, d.String()})
		}
	}
	return s
}

func round(f float64) float64 { return float64(int(f*10)) / 10 }

func outcomeWords(o jobs.Outcomes) string {
	text := fmt.Sprintf("%s done, %s failed", count(o.Completed), count(o.Failed))
	if o.Other > 0 {
		text += fmt.Sprintf(", %s skipped or cancelled", count(o.Other))
	}
	return text
}
