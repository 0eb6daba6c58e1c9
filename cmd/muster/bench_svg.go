package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The area of a plot, in pixels.
const (
	plotWidth, plotHeight = 640, 320
	plotMargin            = 60
)

// plot draws the latency that a share of all operations does not exceed, as an SVG.
// To the right, each equal step divides the share of those that are slower by ten.
func (r *benchReport) plot() string {
	latencies := slices.Sorted(slices.Values(r.sample.latencies))
	most := time.Millisecond
	if n := len(latencies); n > 0 {
		most = max(most, latencies[n-1])
	}
	decades := max(3, int(math.Ceil(math.Log10(float64(len(latencies)+1)))))
	x := func(slower float64) float64 { return plotMargin - math.Log10(slower)*plotWidth/float64(decades) }
	y := func(latency time.Duration) float64 {
		return plotMargin + plotHeight*(1-float64(latency)/float64(most))
	}
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		plotWidth+2*plotMargin, plotHeight+2*plotMargin)
	fmt.Fprintf(&svg, `<rect width="100%%" height="100%%" fill="white"/>`+"\n"+`<text x="%d" y="30">latency of %s over %s, %d operations, ms</text>`+"\n",
		plotMargin, r.Operation, strings.ToUpper(string(r.Transport)), len(latencies))
	for n := range decades + 1 {
		at := x(math.Pow10(-n))
		fmt.Fprintf(&svg, `<path d="M%.1f %d V%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			at, plotMargin, plotMargin+plotHeight, at, plotMargin+plotHeight+20, percent(n))
	}
	const lines = 4
	for n := range lines + 1 {
		latency := most * time.Duration(n) / lines
		fmt.Fprintf(&svg, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.1f</text>`+"\n",
			plotMargin, y(latency), plotMargin+plotWidth, plotMargin-6, y(latency)+4, float64(latency.Microseconds())/1000)
	}
	svg.WriteString(`<polyline fill="none" stroke="#06c" stroke-width="2" points="`)
	drawn := 0.0
	for n, latency := range latencies {
		slower := 1 - float64(n)/float64(len(latencies)) // this one included
		if at := x(slower); at >= drawn+1 {              // no two on one pixel
			fmt.Fprintf(&svg, "%.1f,%.1f ", at, y(latency))
			drawn = at
		}
	}
	svg.WriteString(`"/>` + "\n</svg>\n")
	return svg.String()
}

// percent is the share that is not slower than 10^-n, as a label: 0, 90, 99, 99.9.
func percent(n int) string {
	switch n {
	case 0:
		return "0 %"
	case 1, 2:
		return strings.Repeat("9", n) + strings.Repeat("0", 2-n) + " %"
	}
	return "99." + strings.Repeat("9", n-2) + " %"
}
