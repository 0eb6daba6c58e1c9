package main

import (
	"strings"
	"testing"
)

// Ratios are taken within a round: here a load of the machine doubles all of the
// second.
func TestTargets(t *testing.T) {
	report := comparisonReport{Contestants: []contestant{
		{Transport: overTLS, Name: bareTLS, Rounds: []float64{100, 200, 100}},
		{Transport: overTLS, Name: contestantEnrolment, Rounds: []float64{110, 220, 110}},
		{Transport: overTLS, Name: contestantPrimitives, Rounds: []float64{50, 100, 50}},
	}}
	report.judge()
	if len(report.Targets) != 3 {
		t.Fatalf("the targets are %+v", report.Targets)
	}
	bare, openssl, primitives := report.Targets[0], report.Targets[1], report.Targets[2]
	if !bare.Met || *bare.Ratio != (spread{1.1, 1.1, 1.1}) {
		t.Errorf("against the library: %+v", bare)
	}
	if openssl.Met || openssl.Ratio != nil {
		t.Errorf("against what was not measured: %+v", openssl)
	}
	if primitives.Met || primitives.Ratio.Median != 2.2 {
		t.Errorf("against the primitives: %+v", primitives)
	}
	var text strings.Builder
	must(t, report.print(&text))
	for _, line := range []string{"1.10      1.10      1.10      1.15  met\n", "2.20      2.20      2.20      2.00  missed\n", "not installed"} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("%q is not in\n%s", line, &text)
		}
	}
}

func TestSpread(t *testing.T) {
	if got := spreadOf([]float64{4, 1, 3, 2}); got != (spread{1, 2.5, 4}) {
		t.Errorf("%+v", got)
	}
	if got := spreadOf([]float64{3, 1, 2}); got != (spread{1, 2, 3}) {
		t.Errorf("%+v", got)
	}
}
