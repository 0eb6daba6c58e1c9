package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"muster"
)

// What waits for a device that is stalled has the wait in its latency.
func TestOpenLoadCountsFromTheIntendedBegin(t *testing.T) {
	const stall = 200 * time.Millisecond
	var turns atomic.Int64
	device := func(context.Context) error {
		if turns.Add(1) == 1 {
			time.Sleep(stall)
		}
		return nil
	}
	s := load{operations: []operation{again(device)}, rate: 1000}.run(t.Context(), 100*time.Millisecond)
	if len(s.latencies) != 100 {
		t.Fatalf("%d operations have ended, of 100", len(s.latencies))
	}
	for _, latency := range s.latencies { // the last was to begin 1 ms before 100 ms were over
		if latency < stall-100*time.Millisecond {
			t.Errorf("an operation that waited for the stalled device has a latency of %s", latency)
		}
	}
}

func TestClosedLoadCountsFailuresByCode(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var turns [2]atomic.Int64
	failing := func(n int, err error) operation {
		return again(func(context.Context) error {
			turns[n].Add(1)
			if turns[0].Load() > 0 && turns[1].Load() > 0 {
				cancel()
			}
			return err
		})
	}
	s := load{operations: []operation{failing(0, muster.Refuse(muster.CodeBusy, "come back")), failing(1, errors.New("broken"))}}.run(ctx, time.Hour)
	run := s.summary(time.Second, cpuTimes{mef: time.Second})
	if s.failures[muster.CodeBusy] == 0 || s.failures[""] == 0 || len(s.failures) != 2 || run.Failed != s.failures[""]+s.failures[muster.CodeBusy] {
		t.Errorf("the failures are %v, %d in all", s.failures, run.Failed)
	}
	if run.Succeeded != 0 || run.ServerCPU != 0 || s.histogram() != "" {
		t.Errorf("of an operation that never succeeds: %+v", run)
	}
}

func TestSummary(t *testing.T) {
	s := new(sample)
	for n := range 1000 {
		s.latencies = append(s.latencies, time.Duration(1000-n)*time.Millisecond)
	}
	got := s.summary(2*time.Second, cpuTimes{time.Second, 2 * time.Second, 4 * time.Second})
	want := benchRun{Succeeded: 1000, PerSecond: 500, P50: 500, P90: 900, P99: 990, P999: 999, ServerCPU: 3000, MEFCPU: 1000, MAFCPU: 2000, ClientCPU: 4000}
	if got != want {
		t.Errorf("the summary is %+v, want %+v", got, want)
	}
	lines := strings.Split(strings.TrimSpace(s.histogram()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "<    1.048576s") || !strings.HasSuffix(last, strings.Repeat("#", 50)) {
		t.Errorf("the last line of the histogram is %q", last)
	}
}

func TestBenchCommandLine(t *testing.T) {
	for _, wrong := range [][]string{
		{"--operation", "attach"}, {"--transport", "udp"}, {"--concurrency", "0"}, {"--concurrency", "129"},
		{"--rate", "-1"}, {"--rate", "NaN"}, {"--duration", "0s"}, {"--warm-up", "-1s"}, {"--runs", "0"}, {"--sessions", "-1"},
		{"--config", "x.yaml", "--operation", "retrieval"}, {"--config", "x.yaml", "--sessions", "8"}, {"--config", "x.yaml", "--profiles", "."},
	} {
		cmd := newBenchCommand()
		cmd.SetArgs(wrong)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		wantCode(t, cmd.ExecuteContext(t.Context()), muster.CodeUsage)
	}
}

// A device that has nothing left to do ends before the time is over, and that is no
// failure.
func TestClosedLoadEndsWithWhatWasMadeReady(t *testing.T) {
	left := 3
	device := func() (action, error) {
		if left == 0 {
			return nil, errUsedUp
		}
		left--
		return func(context.Context) error { return nil }, nil
	}
	s := load{operations: []operation{device}}.run(t.Context(), time.Hour)
	if succeeded, failed := s.counts(); succeeded != 3 || failed != 0 {
		t.Errorf("%d have succeeded and %d failed", succeeded, failed)
	}
}
