package console

import (
	"fmt"
	"time"
)

// The geometry of a chart: upright in pixels, along in hundredths of its width, so
// that it is drawn as wide as there is room, with letters of one size.
const (
	chartTop    = 18.0
	chartHeight = 170.0
	chartGutter = 7.0 // at the left, for the numbers
	minBar      = 2.0 // so that one among thousands is seen
)

// A chart shows buckets as bars: what succeeded rises from the axis, what was
// refused hangs below it.
type chart struct {
	ID, Title string
	Summary   string // in words
	Series    []series
	Bars      []bar
	Grid      []gridLine
	Ticks     []tick
	Height    float64
	TicksY    float64
	Rows      []Bucket // with something in them
}

// A series is one kind of act.
type series struct {
	Name  string // also the class of its bars
	Title string
	of    func(Bucket) uint64
}

// seriesOf returns what a function with a role does, the refusals last.
func seriesOf(role string) []series {
	enrolled := series{"enrolled", "Enrolled", func(b Bucket) uint64 { return b.Enrolled }}
	attached := series{"attached", "Attached", func(b Bucket) uint64 { return b.Attached }}
	fetched := series{"fetched", "Fetched", func(b Bucket) uint64 { return b.Fetched }}
	refused := series{"refused", "Refused", func(b Bucket) uint64 { return b.Refused }}
	switch role {
	case "mef":
		return []series{enrolled, fetched, refused}
	case "maf":
		return []series{attached, fetched, refused}
	}
	return []series{enrolled, attached, fetched, refused}
}

// A bar is a bucket: a part for each of its series, and what is said of it.
type bar struct {
	X, Width string
	Y, Depth float64 // of the whole column, to point at
	Title    string
	Parts    []part
}

type part struct {
	Class     string
	Y, Height float64
}

type gridLine struct {
	Y     float64
	Label string
	Class string
}

type tick struct{ X, Label string }

// newChart draws buckets, each of a duration, the oldest first, with a tick whenever
// a time is a multiple of every.
func newChart(id, title string, buckets []Bucket, each, every time.Duration, kinds []series) chart {
	c := chart{ID: id, Title: title, Series: kinds, Height: chartTop + chartHeight + 30, TicksY: chartTop + chartHeight + 22}
	var up, down uint64 // the highest and the deepest
	sums := make([]uint64, len(kinds))
	for _, b := range buckets {
		var high uint64
		for i, k := range kinds {
			sums[i] += k.of(b)
			high += k.of(b)
		}
		low := kinds[len(kinds)-1].of(b)
		if up, down = max(up, high-low), max(down, low); high > 0 {
			c.Rows = append(c.Rows, b)
		}
	}
	c.Summary = summary(kinds, sums)
	up = roundUp(max(up, 1))
	if down > 0 {
		down = roundUp(down)
	}
	unit := chartHeight / float64(up+down)
	zero := chartTop + unit*float64(up)
	c.Grid = grid(up, down, zero, unit)
	if len(buckets) == 0 {
		return c
	}
	first, span := buckets[0].Start, each*time.Duration(len(buckets))
	x := func(t time.Time) float64 {
		return chartGutter + (100-chartGutter)*float64(t.Sub(first))/float64(span)
	}
	width := (100 - chartGutter) / float64(len(buckets))
	for i, b := range buckets {
		column := bar{X: percent(chartGutter + width*(float64(i)+0.1)), Width: percent(width * 0.8), Y: chartTop, Depth: chartHeight, Title: b.Start.UTC().Format("15:04") + " UTC: " + words(b, kinds)}
		column.Parts = stack(b, kinds, zero, unit)
		c.Bars = append(c.Bars, column)
	}
	for t := first.Truncate(every).Add(every); t.Before(first.Add(span)); t = t.Add(every) {
		if at := x(t); at > chartGutter+3 && at < 97 {
			c.Ticks = append(c.Ticks, tick{percent(at), t.UTC().Format("15:04")})
		}
	}
	return c
}

// stack puts the parts of a bucket on each other, and the refusals below.
func stack(b Bucket, kinds []series, zero, unit float64) (parts []part) {
	y := zero
	for i, k := range kinds {
		n := k.of(b)
		if n == 0 {
			continue
		}
		height := max(unit*float64(n), minBar)
		if i == len(kinds)-1 {
			parts = append(parts, part{k.Name, zero + 1, height})
			continue
		}
		y -= height
		parts = append(parts, part{k.Name, y, height})
	}
	return parts
}

func grid(up, down uint64, zero, unit float64) []gridLine {
	lines := []gridLine{{zero, "0", "axis"}, {zero - unit*float64(up), count(up), ""}}
	if up%2 == 0 && unit*float64(up) > 60 {
		lines = append(lines, gridLine{zero - unit*float64(up)/2, count(up / 2), ""})
	}
	if down > 0 && unit*float64(down) > 14 {
		lines = append(lines, gridLine{zero + unit*float64(down), count(down), ""})
	}
	return lines
}

// roundUp returns the next number that is 1, 2, 3, 4, 5, 6 or 8 and zeros.
func roundUp(n uint64) uint64 {
	for power := uint64(1); ; power *= 10 {
		for _, lead := range []uint64{1, 2, 3, 4, 5, 6, 8} {
			if lead*power >= n {
				return lead * power
			}
		}
	}
}

func words(b Bucket, kinds []series) string {
	sums := make([]uint64, len(kinds))
	for i, k := range kinds {
		sums[i] = k.of(b)
	}
	return summary(kinds, sums)
}

// summary tells sums in words.
func summary(kinds []series, sums []uint64) (text string) {
	for i, k := range kinds {
		if i > 0 {
			text += ", "
		}
		text += count(sums[i]) + " " + k.Name
	}
	return text
}

func percent(x float64) string { return fmt.Sprintf("%.3f%%", x) }
