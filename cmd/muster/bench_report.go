package main

import (
	"fmt"
	"io"
	"runtime"
	"strings"

	"muster"
)

// A benchReport is what a bench has found.
type benchReport struct {
	Operation   string              `json:"operation"`
	Transport   transport           `json:"transport"`
	Concurrency int                 `json:"concurrency"`
	Rate        float64             `json:"rate,omitempty"` // intended, in operations a second
	Elsewhere   bool                `json:"elsewhere"`      // so that nothing is known of the servers
	Platform    string              `json:"platform"`       // GOOS/GOARCH
	Processors  int                 `json:"processors"`
	Go          string              `json:"go"`
	Runs        []benchRun          `json:"runs"`
	Histogram   []bucket            `json:"histogram"`        // of all runs
	Failures    map[muster.Code]int `json:"failures"`         // of all runs, by the code of the refusal; "" for other errors
	Memory      *benchMemory        `json:"memory,omitempty"` // if it was asked for

	sample sample // of all runs
}

func (b *bench) newReport(elsewhere bool) *benchReport {
	return &benchReport{
		Operation: b.operation, Transport: b.via, Concurrency: b.concurrency, Rate: b.rate, Elsewhere: elsewhere,
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Processors: runtime.NumCPU(), Go: runtime.Version(),
	}
}

// A figure is what a run has a value of.
type figure struct {
	name string
	of   func(benchRun) float64
}

var benchFigures = []figure{
	{"operations/s", func(b benchRun) float64 { return b.PerSecond }},
	{"latency p50, ms", func(b benchRun) float64 { return b.P50 }},
	{"latency p90, ms", func(b benchRun) float64 { return b.P90 }},
	{"latency p99, ms", func(b benchRun) float64 { return b.P99 }},
	{"latency p99.9, ms", func(b benchRun) float64 { return b.P999 }},
	{"client CPU/operation, µs", func(b benchRun) float64 { return b.ClientCPU }},
}

var benchServerFigures = []figure{
	{"MEF CPU/operation, µs", func(b benchRun) float64 { return b.MEFCPU }},
	{"MAF CPU/operation, µs", func(b benchRun) float64 { return b.MAFCPU }},
	{"server CPU/operation, µs", func(b benchRun) float64 { return b.ServerCPU }},
}

// print writes the smallest, middle and largest figure of the runs, and how the
// latencies of all runs are distributed.
func (r *benchReport) print(out io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s over %s, %d devices, %d runs\n\n%-26s%12s%12s%12s\n", r.Operation, strings.ToUpper(string(r.Transport)),
		r.Concurrency, len(r.Runs), "", "min", "median", "max")
	figures := benchFigures
	if !r.Elsewhere {
		figures = append(figures[:len(figures):len(figures)], benchServerFigures...)
	}
	for _, figure := range figures {
		var values []float64
		for _, run := range r.Runs {
			values = append(values, figure.of(run))
		}
		s := spreadOf(values)
		fmt.Fprintf(&text, "%-26s%12.1f%12.1f%12.1f\n", figure.name, s.Min, s.Median, s.Max)
	}
	if r.Elsewhere {
		text.WriteString("The CPU time and the memory of the servers are not known: they are elsewhere.\n")
	}
	if r.Memory != nil {
		fmt.Fprintf(&text, "\n%-26s%12.1f\n%-26s%12.1f\n", "KiB an idle session", r.Memory.Idle/1024, "KiB a half-open session", r.Memory.HalfOpen/1024)
	}
	text.WriteString("\n" + r.sample.histogram())
	for code, n := range r.Failures {
		fmt.Fprintf(&text, "failed %d: %s\n", n, orElse(string(code), "other errors"))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
