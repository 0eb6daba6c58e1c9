package mustertest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// allocationsFile is where a package keeps what was recorded of its own costs.
var allocationsFile = filepath.Join("testdata", "allocations.json")

// Allocations returns how many allocations f makes, by itself and in the goroutines
// that it starts, and fails the test if they are more than a tenth beyond what was
// recorded under the name. With MUSTER_UPDATE=1 it records them. What was recorded
// by another release of Go is no measure, and neither is anything under the race
// detector: there it skips the test. The test must not be parallel.
func Allocations(t testing.TB, name string, f func()) float64 {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const attempts, runs = 3, 20
	least := testing.AllocsPerRun(runs, f)
	for range attempts - 1 { // what else goes on allocates as well
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	hold(t, name, "allocations", least, func(r *record) map[string]float64 { return r.Allocations })
	return least
}

// Count fails the test if what it has counted, as calls or octets, is more than a
// tenth beyond what was recorded under the name, on the terms of Allocations but for
// the race detector, which changes no count.
func Count(t testing.TB, name, unit string, counted float64) {
	t.Helper()
	hold(t, name, unit, counted, func(r *record) map[string]float64 { return r.Counts })
}

func hold(t testing.TB, name, unit string, got float64, of func(*record) map[string]float64) {
	t.Helper()
	recorded := readRecord(t)
	release := releaseOf(runtime.Version())
	if os.Getenv("MUSTER_UPDATE") != "" {
		recorded.Go = release
		of(&recorded)[name] = got
		recorded.write(t)
		return
	}
	want, known := of(&recorded)[name]
	switch {
	case !known:
		t.Errorf("%s: %v %s, of which nothing is recorded; MUSTER_UPDATE=1 records it", name, got, unit)
	case recorded.Go != release:
		t.Skipf("%s: %v %s; %v were recorded by %s", name, got, unit, want, recorded.Go)
	case exceeds(got, want):
		t.Errorf("%s: %v %s, more than a tenth beyond the %v that are recorded", name, got, unit, want)
	default:
		t.Logf("%s: %v %s, %v recorded", name, got, unit, want)
	}
}

func exceeds(got, recorded float64) bool { return got > recorded*1.1 }

// releaseOf is the release of a version of Go without what is fixed in it.
func releaseOf(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// A record is what a package's tests have recorded.
type record struct {
	Go          string             `json:"go"`
	Allocations map[string]float64 `json:"allocations,omitempty"`
	Counts      map[string]float64 `json:"counts,omitempty"`
}

func readRecord(t testing.TB) record {
	t.Helper()
	r := record{Allocations: map[string]float64{}, Counts: map[string]float64{}}
	octets, err := os.ReadFile(allocationsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	if err == nil {
		err = json.Unmarshal(octets, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r record) write(t testing.TB) {
	t.Helper()
	octets, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(allocationsFile), 0o755)
	}
	if err == nil {
		err = os.WriteFile(allocationsFile, append(octets, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
