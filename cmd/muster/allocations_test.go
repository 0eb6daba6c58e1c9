package main

import (
	"testing"

	"muster/enrolee"
	"muster/mustertest"
)

// TestAllocations bounds what an enrolment costs from the first octet to the
// confirmation that it is on disk, both ends together: the MEF is the one that the
// program runs.
func TestAllocations(t *testing.T) {
	const devices = 64
	for _, via := range []transport{overTLS, overDTLS} {
		t.Run(string(via), func(t *testing.T) {
			w := newWorld(t, devices)
			w.startMEF()
			var all []*enrolee.Enrolee
			for n := range devices {
				all = append(all, w.diskless(n, via))
			}
			turn := 0
			enrol := func() {
				turn++
				if _, err := all[turn%devices].Enrol(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range devices { // the first of each is cheaper for the store
				enrol()
			}
			mustertest.Allocations(t, "enrolment over "+string(via), enrol)
		})
	}
}
