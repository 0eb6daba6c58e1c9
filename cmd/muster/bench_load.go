package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"muster"
)

// An operation is what one device does again and again, never twice at once: it
// makes the next time ready, which is not measured, and returns what is. It returns
// errUsedUp when there is no next time.
type (
	operation func() (action, error)
	action    func(ctx context.Context) error
)

// errUsedUp ends what a device does before the time is over.
var errUsedUp = errors.New("what was made ready is used up")

// again is an operation with nothing to make ready.
func again(do action) operation { return func() (action, error) { return do, nil } }

// A load lets operations run.
type load struct {
	operations []operation
	rate       float64 // begins a second; 0 for each operation as soon as it has ended
	into       *sample // where to note, for who looks on; nil for a new one
}

// run lets operations begin for a time, and waits for the last to end.
func (l load) run(ctx context.Context, d time.Duration) *sample {
	if l.rate > 0 {
		return l.open(ctx, d)
	}
	return l.closed(ctx, d)
}

func (l load) closed(ctx context.Context, d time.Duration) *sample {
	s := l.sample()
	var group sync.WaitGroup
	until := time.Now().Add(d)
	for _, next := range l.operations {
		group.Go(func() {
			for time.Now().Before(until) && ctx.Err() == nil {
				act, err := next()
				if errors.Is(err, errUsedUp) {
					return
				}
				begun := time.Now()
				if err == nil {
					err = act(ctx)
				}
				s.note(begun, err)
			}
		})
	}
	group.Wait()
	return s
}

// open begins an operation at each intended time. One that finds no device idle
// waits for it, and its latency has that wait.
func (l load) open(ctx context.Context, d time.Duration) *sample {
	s := l.sample()
	idle := make(chan *turn, len(l.operations))
	for _, next := range l.operations {
		idle <- newTurn(next)
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
			device := <-idle
			err := device.err
			if err == nil {
				err = device.act(ctx)
			}
			s.note(intended, err)
			idle <- newTurn(device.next)
		})
	}
	group.Wait()
	return s
}

// A turn is an operation that is ready.
type turn struct {
	next operation
	act  action
	err  error
}

func newTurn(next operation) *turn {
	act, err := next()
	return &turn{next, act, err}
}

func (l load) sample() *sample {
	if l.into != nil {
		return l.into
	}
	return new(sample)
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
// microseconds for each operation that succeeded, those of servers absent where nobody tells.
type benchRun struct {
	Succeeded int     `json:"succeeded"`
	Failed    int     `json:"failed"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P90       float64 `json:"p90_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p99_9_ms"`
	ServerCPU float64 `json:"server_cpu_us,omitempty"` // of both servers
	MEFCPU    float64 `json:"mef_cpu_us,omitempty"`
	MAFCPU    float64 `json:"maf_cpu_us,omitempty"`
	ClientCPU float64 `json:"client_cpu_us"`
}

// counts are how many have succeeded and failed so far.
func (s *sample) counts() (succeeded, failed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.failures {
		failed += n
	}
	return len(s.latencies), failed
}

// A cpuTimes is what each process has taken.
type cpuTimes struct{ mef, maf, client time.Duration }

func (t cpuTimes) sub(before cpuTimes) cpuTimes {
	return cpuTimes{t.mef - before.mef, t.maf - before.maf, t.client - before.client}
}

func (s *sample) summary(took time.Duration, cpu cpuTimes) benchRun {
	slices.Sort(s.latencies)
	run := benchRun{Succeeded: len(s.latencies), PerSecond: float64(len(s.latencies)) / took.Seconds(),
		P50: s.percentile(500), P90: s.percentile(900), P99: s.percentile(990), P999: s.percentile(999)}
	for _, n := range s.failures {
		run.Failed += n
	}
	if run.Succeeded > 0 {
		each := func(d time.Duration) float64 { return microseconds(d) / float64(run.Succeeded) }
		run.ServerCPU, run.MEFCPU, run.MAFCPU, run.ClientCPU = each(cpu.mef+cpu.maf), each(cpu.mef), each(cpu.maf), each(cpu.client)
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

// A bucket is how many latencies are below a bound and not below half of it.
type bucket struct {
	Below float64 `json:"below_ms"`
	Count int     `json:"count"`
}

// buckets are the latencies by doublings, from the first to the last that has any.
func (s *sample) buckets() []bucket {
	counts := map[int]int{}
	first, last := math.MaxInt, 0
	for _, latency := range s.latencies {
		n := doubling(latency)
		counts[n]++
		first, last = min(first, n), max(last, n)
	}
	var all []bucket
	for n := first; n <= last; n++ {
		all = append(all, bucket{float64(int64(1)<<n) / 1000, counts[n]})
	}
	return all
}

// histogram draws how many latencies fall into each doubling.
func (s *sample) histogram() string {
	const width = 50
	most := 0
	all := s.buckets()
	for _, b := range all {
		most = max(most, b.Count)
	}
	var text strings.Builder
	for _, b := range all {
		fmt.Fprintf(&text, "< %12s %8d %s\n", time.Duration(b.Below*float64(time.Millisecond)), b.Count, strings.Repeat("#", (b.Count*width+most-1)/most))
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
