//go:build unix

package bench

import (
	"flag"
	"fmt"
	"html"
	"math"
	"os"
	"strconv"
	"strings"
)

var svgFile = flag.String("svg", "", "file to write the plot of the scaling benchmarks to")

// panel is one plot of both clients over one parameter.
type panel struct {
	title, thing string
	points       []point
}

// point has the figures at x.
type point struct {
	x int
	y [2]float64 // River and everytick; NaN if there is none
}

var panels []*panel

func newPanel(title, thing string) *panel {
	p := &panel{title: title, thing: thing}
	panels = append(panels, p)
	return p
}

func (p *panel) add(x int, river, everytick float64) {
	for i := range p.points { // measured again with more iterations
		if p.points[i].x == x {
			p.points[i].y = [2]float64{river, everytick}
			return
		}
	}
	p.points = append(p.points, point{x, [2]float64{river, everytick}})
}

// Sizes and colors. The background is white, so that the plot is readable on any page.
const (
	plotWidth, plotHeight = 440, 230
	areaLeft, areaRight   = 58, 330 // the labels of the curves are to its right
	areaTop, areaBottom   = 40, 176
	ink, faint            = "#1f2328", "#d1d9e0"
)

var curves = [2]struct{ name, color string }{{"River", "#b35900"}, {"everytick", "#0550ae"}}

// writePlot draws the panels that have points, two per row.
func writePlot() error {
	var drawn []*panel
	for _, p := range panels {
		if len(p.points) > 0 {
			drawn = append(drawn, p)
		}
	}
	if *svgFile == "" || len(drawn) == 0 {
		return nil
	}
	width, height := 2*plotWidth, (len(drawn)+1)/2*plotHeight
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" font-family="system-ui, sans-serif" font-size="11" fill="%s">
<title>How everytick and River scale</title>
<rect width="100%%" height="100%%" rx="8" fill="#ffffff"/>
`, width, height, ink)
	for i, p := range drawn {
		fmt.Fprintf(&svg, "<g transform=\"translate(%d %d)\">\n", i%2*plotWidth, i/2*plotHeight)
		p.draw(&svg)
		svg.WriteString("</g>\n")
	}
	svg.WriteString("</svg>\n")
	return os.WriteFile(*svgFile, []byte(svg.String()), 0o644)
}

func (p *panel) draw(svg *strings.Builder) {
	text := func(x, y float64, anchor, attributes, s string) {
		fmt.Fprintf(svg, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, attributes, html.EscapeString(s))
	}
	text(areaLeft-44, 22, "start", `font-weight="600" font-size="12"`, p.title)
	text((areaLeft+areaRight)/2, areaBottom+34, "middle", "", p.thing+" (logarithmic)")

	step, top := p.scale()
	for y := 0.0; y <= top*1.001; y += step {
		at := p.height(y, top)
		fmt.Fprintf(svg, `<path d="M%d %.1fH%d" stroke="%s"/>`+"\n", areaLeft, at, areaRight, faint)
		text(areaLeft-6, at+4, "end", "", short(y))
	}
	for _, pt := range p.points {
		x := p.across(pt.x)
		fmt.Fprintf(svg, `<path d="M%.1f %dv4" stroke="%s"/>`+"\n", x, areaBottom, ink)
		text(x, areaBottom+17, "middle", "", short(float64(pt.x)))
	}

	var labels [2]float64 // vertical positions of the curves' labels
	for i := range curves {
		labels[i] = p.height(p.points[len(p.points)-1].y[i], top) + 4
	}
	if gap := labels[1] - labels[0]; math.Abs(gap) < 13 { // move them apart, keeping their order
		middle, half := (labels[0]+labels[1])/2, math.Copysign(6.5, gap)
		labels[0], labels[1] = middle-half, middle+half
	}
	for i, c := range curves {
		var line []string
		for _, pt := range p.points {
			if math.IsNaN(pt.y[i]) {
				continue
			}
			x, y := p.across(pt.x), p.height(pt.y[i], top)
			line = append(line, fmt.Sprintf("%.1f,%.1f", x, y))
			fmt.Fprintf(svg, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n", x, y, c.color)
		}
		if len(line) == 0 {
			continue
		}
		fmt.Fprintf(svg, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.75"/>`+"\n", strings.Join(line, " "), c.color)
		last := p.points[len(p.points)-1].y[i]
		text(areaRight+8, labels[i], "start", `fill="`+c.color+`"`, c.name+" "+number(last))
	}
}

// scale returns the distance between horizontal lines, which is 1, 2 or 5 times a power of ten, and the highest line.
// There are three to six lines.
func (p *panel) scale() (step, top float64) {
	for _, pt := range p.points {
		for _, y := range pt.y {
			if y > top { // false for NaN
				top = y
			}
		}
	}
	if top == 0 {
		return 1, 1
	}
	step = math.Pow(10, math.Floor(math.Log10(top)))
	switch lines := top / step; {
	case lines < 2:
		step /= 2
		if lines < 1.25 {
			step /= 2.5
		}
	case lines > 5:
		step *= 2
	}
	return step, math.Ceil(top/step) * step
}

// across returns the position of x on a logarithmic axis, on which 0 is one decade before the next value.
func (p *panel) across(x int) float64 {
	position := func(x int) float64 {
		if x > 0 {
			return math.Log10(float64(x))
		}
		return math.Log10(float64(p.points[min(1, len(p.points)-1)].x)) - 1
	}
	first, last := position(p.points[0].x), position(p.points[len(p.points)-1].x)
	if first == last {
		return areaLeft
	}
	return areaLeft + 12 + (position(x)-first)/(last-first)*(areaRight-areaLeft-24)
}

func (p *panel) height(y, top float64) float64 {
	return areaBottom - y/top*(areaBottom-areaTop)
}

// short formats a number such as 20k.
func short(x float64) string {
	switch {
	case x >= 1e6:
		return strconv.FormatFloat(x/1e6, 'f', -1, 64) + "M"
	case x >= 1000:
		return strconv.FormatFloat(x/1000, 'f', -1, 64) + "k"
	}
	return strconv.FormatFloat(x, 'f', -1, 64)
}
