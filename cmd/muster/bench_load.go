package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"muster"
)

// An operation is what one device does again and again, never twice at once.
type operation func(ctx context.Context) error

// A load lets operations run.
type load struct {
	operations []operation
	rate       float64 // begins a second; 0 for each operation as soon as it has ended
}

// run lets operations begin for a time, and waits for the last to end.
func (l load) run(ctx context.Context, d time.Duration) *sample {
	if l.rate > 0 {
		return l.open(ctx, d)
	}
	return l.closed(ctx, d)
}

func (l load) closed(ctx context.Context, d time.Duration) *sample {
	s := new(sample)
	var group sync.WaitGroup
	until := time.Now().Add(d)
	for _, do := range l.operations {
		group.Go(func() {
			for begun := time.Now(); begun.Before(until) && ctx.Err() == nil; begun = time.Now() {
				s.note(begun, do(ctx))
			}
		})
	}
	group.Wait()
	return s
}

// open begins an operation at each intended time. One that finds no device idle
// waits for it, and its latency has that wait.
func (l load) open(ctx context.Context, d time.Duration) *sample {
	s := new(sample)
	idle := make(chan operation, len(l.operations))
	for _, do := range l.operations {
		idle <- do
	}
	var group sync.WaitGroup
	begun := time.Now()
	for n := 0; ; n++ {
		after := time.Duration(float64(n) / l.rate * float64(time.Second))
		intended := begun.Add(after)
		if after >= d || sleep(ctx, time.Until(intended)) != nil {
			break
		}
		group.Go(func() {
			do := <-idle
			err := do(ctx)
			idle <- do
			s.note(intended, err)
		})
	}
	group.Wait()
	return s
}

// A sample is the latencies of what succeeded and the codes of what failed.
type sample struct {
	mu        sync.Mutex
	latencies []time.Duration     // guarded by mu
	failures  map[muster.Code]int // guarded by mu
}

// note counts an operation that has ended now.
func (s *sample) note(begun time.Time, err error) {
	latency := time.Since(begun)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.latencies = append(s.latencies, latency)
		return
	}
	if s.failures == nil {
		s.failures = map[muster.Code]int{}
	}
	s.failures[muster.CodeOf(err)]++
}

// add adds what another sample has.
func (s *sample) add(other *sample) {
	s.latencies = append(s.latencies, other.latencies...)
	for code, n := range other.failures {
		if s.failures == nil {
			s.failures = map[muster.Code]int{}
		}
		s.failures[code] += n
	}
}

// A benchRun is the figures of one run: latencies in milliseconds, CPU times in
// microseconds for each operation that succeeded, 0 where the system does not tell.
type benchRun struct {
	Succeeded int     `json:"succeeded"`
	Failed    int     `json:"failed"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p99_9_ms"`
	ServerCPU float64 `json:"server_cpu_us"`
	ClientCPU float64 `json:"client_cpu_us"`
}

func (s *sample) summary(took, server, client time.Duration) benchRun {
	slices.Sort(s.latencies)
	run := benchRun{Succeeded: len(s.latencies), PerSecond: float64(len(s.latencies)) / took.Seconds(),
		P50: s.percentile(500), P90: s.percentile(900), P99: s.percentile(990), P999: s.percentile(999)}
	for _, n := range s.failures {
		run.Failed += n
	}
	if run.Succeeded > 0 {
		run.ServerCPU = float64(server.Microseconds()) / float64(run.Succeeded)
		run.ClientCPU = float64(client.Microseconds()) / float64(run.Succeeded)
	}
	return run
}

// percentile is the least latency, in milliseconds, that so many in a thousand do
// not exceed. The latencies are sorted.
func (s *sample) percentile(thousandths int) float64 {
	if len(s.latencies) == 0 {
		return 0
	}
	n := (thousandths*len(s.latencies) + 999) / 1000
	return float64(s.latencies[n-1].Microseconds()) / 1000
}

// histogram draws how many latencies fall into each doubling.
func (s *sample) histogram() string {
	const width = 50
	counts := map[int]int{}
	for _, latency := range s.latencies {
		counts[doubling(latency)]++
	}
	if len(counts) == 0 {
		return ""
	}
	first, last, most := math.MaxInt, 0, 0
	for bucket, n := range counts {
		first, last, most = min(first, bucket), max(last, bucket), max(most, n)
	}
	var text strings.Builder
	for bucket := first; bucket <= last; bucket++ {
		below := time.Duration(1<<bucket) * time.Microsecond
		fmt.Fprintf(&text, "< %12s %8d %s\n", below, counts[bucket], strings.Repeat("#", (counts[bucket]*width+most-1)/most))
	}
	return text.String()
}

// doubling is the least n for which the latency is below 2^n microseconds.
func doubling(latency time.Duration) (n int) {
	for us := latency.Microseconds(); us > 0; us >>= 1 {
		n++
	}
	return n
}
