package mustertest

import (
	"fmt"
	"runtime"
	"testing"
)

// A recorder is a test that only takes down how it ends.
type recorder struct {
	testing.TB
	failed, skipped bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Logf(string, ...any)   {}
func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Skipf(string, ...any)  { r.skipped = true }

var escaped *int

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	t.Chdir(t.TempDir())
	allocate := func(n int) func() {
		return func() {
			for range n {
				escaped = new(int)
			}
		}
	}
	check := func(n int) *recorder {
		r := &recorder{TB: t}
		if got := Allocations(r, "one", allocate(n)); got != float64(n) {
			t.Errorf("%v allocations, not %d", got, n)
		}
		return r
	}
	if r := check(20); !r.failed {
		t.Error("what is not recorded passes")
	}
	t.Setenv("MUSTER_UPDATE", "1")
	check(20)
	t.Setenv("MUSTER_UPDATE", "")
	for n, failing := range map[int]bool{10: false, 20: false, 22: false, 23: true} {
		if r := check(n); r.failed != failing || r.skipped {
			t.Errorf("%d of 20 recorded: %+v", n, fmt.Sprint(r.failed, r.skipped))
		}
	}
	old := readRecord(t)
	old.Go = "go1.1"
	old.write(t)
	if r := check(40); r.failed || !r.skipped {
		t.Error("what another release has recorded decides")
	}
	old.Go, old.Counts = releaseOf(runtime.Version()), map[string]float64{"calls": 10}
	old.write(t)
	for n, failing := range map[float64]bool{9: false, 11: false, 11.5: true} {
		r := &recorder{TB: t}
		if Count(r, "calls", "calls", n); r.failed != failing {
			t.Errorf("%v of 10 counted: %v", n, r.failed)
		}
	}
}
