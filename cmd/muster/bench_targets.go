package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// A spread is the smallest, the middle and the largest of some figures.
type spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// spreadOf is the spread of at least one figure.
func spreadOf(figures []float64) spread {
	sorted := slices.Sorted(slices.Values(figures))
	n := len(sorted)
	return spread{sorted[0], (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[n-1]}
}

// A target bounds what an enrolment may cost in terms of something else.
type target struct {
	Transport transport `json:"transport"`
	Against   string    `json:"against"`
	Most      float64   `json:"most"`
	Ratio     *spread   `json:"ratio"` // of the rounds; null if the other was not measured
	Met       bool      `json:"met"`   // by the median
}

var benchTargets = []target{
	{Transport: overTLS, Against: bareTLS, Most: 1.15},
	{Transport: overTLS, Against: contestantOpenSSL, Most: 0.7},
	{Transport: overTLS, Against: contestantPrimitives, Most: 2},
	{Transport: overDTLS, Against: bareDTLS, Most: 1.15},
}

// A comparisonReport is what a comparison has found.
type comparisonReport struct {
	Concurrency int          `json:"concurrency"`
	Contestants []contestant `json:"contestants"`
	Targets     []target     `json:"targets"`
}

func (r *comparisonReport) find(via transport, name string) *contestant {
	n := slices.IndexFunc(r.Contestants, func(c contestant) bool { return c.Transport == via && c.Name == name })
	if n < 0 {
		return nil
	}
	return &r.Contestants[n]
}

// over is the ratio of the contestant to another in each round.
func (c *contestant) over(other *contestant) spread {
	ratios := make([]float64, len(c.Rounds))
	for n, us := range c.Rounds {
		ratios[n] = us / other.Rounds[n]
	}
	return spreadOf(ratios)
}

// judge holds what was found against the targets.
func (r *comparisonReport) judge() {
	for _, t := range benchTargets {
		enrolment, other := r.find(t.Transport, contestantEnrolment), r.find(t.Transport, t.Against)
		if enrolment == nil {
			continue
		}
		if other != nil {
			ratio := enrolment.over(other)
			t.Ratio, t.Met = &ratio, ratio.Median <= t.Most
		}
		r.Targets = append(r.Targets, t)
	}
}

func (r *comparisonReport) print(out io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%-36s%10s%10s%10s%12s\n", "server CPU of one, µs", "min", "median", "max", "times bare")
	for _, c := range r.Contestants {
		s := spreadOf(c.Rounds)
		fmt.Fprintf(&text, "%-36s%10.1f%10.1f%10.1f%12.2f\n", strings.ToUpper(string(c.Transport))+" "+c.Name, s.Min, s.Median, s.Max, c.over(r.find(c.Transport, bareLibraries[c.Transport])).Median)
		if c.Failed > 0 {
			fmt.Fprintf(&text, "  of which %d have failed\n", c.Failed)
		}
	}
	fmt.Fprintf(&text, "\n%-36s%10s%10s%10s%10s\n", "an enrolment, as a multiple of", "min", "median", "max", "target")
	for _, t := range r.Targets {
		name := strings.ToUpper(string(t.Transport)) + " " + t.Against
		if t.Ratio == nil {
			fmt.Fprintf(&text, "%-36s%30s%10.2f\n", name, "not measured: not installed", t.Most)
			continue
		}
		fmt.Fprintf(&text, "%-36s%10.2f%10.2f%10.2f%10.2f  %s\n", name, t.Ratio.Min, t.Ratio.Median, t.Ratio.Max, t.Most, map[bool]string{true: "met", false: "missed"}[t.Met])
	}
	_, err := io.WriteString(out, text.String())
	return err
}
