package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// chart is lines in a frame with two axes.
type chart struct {
	title string
	x, y  axis
	lines []line
}

// axis is one of the two. log has equal distances for equal factors; zero begins
// at 0.
type axis struct {
	label     string
	log, zero bool
	name      func(float64) string
}

type line struct {
	name   string
	dashed bool
	points []point
}

type point struct{ x, y float64 }

// The measures of a picture, in pixels.
const (
	chartWidth, chartHeight            = 860, 360
	leftMargin, rightMargin, topMargin = 80, 160, 40
	bottomMargin                       = 50
	plotWidth                          = chartWidth - leftMargin - rightMargin
	plotHeight                         = chartHeight - topMargin - bottomMargin
)

// color returns the color of the nth line: those of Okabe and Ito, which people
// with the common kinds of color blindness tell apart.
func color(n int) string {
	return [colors]string{"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"}[n%colors]
}

// colors is how many there are; further lines have the same ones, dashed.
const colors = 7

// svg draws charts one below the other.
func svg(charts ...chart) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n",
		chartWidth, chartHeight*len(charts))
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	for i := range charts {
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n", i*chartHeight)
		charts[i].draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (c *chart) draw(b *bytes.Buffer) {
	xs, ys := c.scales()
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
	}
	fmt.Fprintf(b, `<text x="%d" y="20" font-size="15">%s</text>`+"\n", leftMargin, html.EscapeString(c.title))
	bottom := float64(topMargin + plotHeight)
	for _, t := range xs.ticks() {
		x := leftMargin + xs.at(t)*plotWidth
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%.1f" stroke="#ddd"/>`+"\n", x, topMargin, x, bottom)
		text(x, bottom+16, "middle", c.x.name(t))
	}
	for _, t := range ys.ticks() {
		y := bottom - ys.at(t)*plotHeight
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>`+"\n", leftMargin, y, leftMargin+plotWidth, y)
		text(leftMargin-6, y+4, "end", c.y.name(t))
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#444"/>`+"\n", leftMargin, topMargin, plotWidth, plotHeight)
	text(leftMargin+plotWidth/2, bottom+36, "middle", c.x.label)
	fmt.Fprintf(b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", topMargin+plotHeight/2, html.EscapeString(c.y.label))
	for n, l := range c.lines {
		dash := ""
		if l.dashed || n >= colors {
			dash = ` stroke-dasharray="6 4"`
		}
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.8"%s points="`, color(n), dash)
		for _, p := range l.points {
			fmt.Fprintf(b, "%.1f,%.1f ", leftMargin+xs.at(p.x)*plotWidth, bottom-ys.at(p.y)*plotHeight)
		}
		b.WriteString(`"/>` + "\n")
		y := float64(topMargin + 14 + 18*n)
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="%s" stroke-width="3"%s/>`+"\n",
			leftMargin+plotWidth+10, y-4, leftMargin+plotWidth+34, y-4, color(n), dash)
		text(leftMargin+plotWidth+40, y, "start", l.name)
	}
}

// scale maps values to 0..1.
type scale struct {
	axis
	low, high float64
}

// scales returns scales that all points fit on.
func (c *chart) scales() (xs, ys scale) {
	xs, ys = scale{axis: c.x, low: math.Inf(1), high: math.Inf(-1)}, scale{axis: c.y, low: math.Inf(1), high: math.Inf(-1)}
	for _, l := range c.lines {
		for _, p := range l.points {
			xs.include(p.x)
			ys.include(p.y)
		}
	}
	xs.round()
	ys.round()
	return xs, ys
}

func (s *scale) include(v float64) {
	if s.log && v <= 0 {
		return
	}
	s.low, s.high = min(s.low, v), max(s.high, v)
}

// round moves the ends to where there is something to write at them.
func (s *scale) round() {
	if s.low > s.high { // no points
		s.low, s.high = 0, 1
		if s.log {
			s.low = 0.1
		}
	}
	if s.zero {
		s.low = 0
	}
	if s.log {
		s.low, s.high = math.Pow(10, math.Floor(math.Log10(s.low))), math.Pow(10, math.Ceil(math.Log10(s.high)))
		if s.low == s.high {
			s.high *= 10
		}
		return
	}
	if s.low == s.high {
		s.high++
	}
	step := s.step()
	s.high = math.Ceil(s.high/step) * step
}

// at returns where v is. What a logarithm cannot show is at the edge.
func (s *scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(max(v, s.low))
	}
	return (v - low) / (high - low)
}

// step is 1, 2 or 5 times a power of ten, for some six ticks.
func (s *scale) step() float64 {
	rough := (s.high - s.low) / 6
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= rough {
			return m * power
		}
	}
	return 10 * power
}

// maxTicks is more than there is room for: figures that make no sense, such as
// of a damaged file, do not keep it busy.
const maxTicks = 20

func (s *scale) ticks() (ticks []float64) {
	step := s.step()
	for n := range maxTicks {
		t := s.low * math.Pow(10, float64(n))
		if !s.log {
			t = (math.Ceil(s.low/step) + float64(n)) * step
		}
		if !(t <= s.high*1.000001) {
			break
		}
		ticks = append(ticks, t)
	}
	return ticks
}
