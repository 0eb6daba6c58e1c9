package mustertest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"muster"
)

// The conformance suites MEFStore, KpmStore, MAFStore, TEFStore, KeyStore,
// CommandStore and Registers hold a store to its contract, sentence by sentence. A
// store runs them with
//
//	func TestMEFStore(t *testing.T) { mustertest.MEFStore(t, open) }
//
// where open returns an empty store and a function that closes it and opens it
// again on the same records; a store in memory returns itself from it. What open
// makes it cleans up with t.Cleanup.

// start is the present of the suites, a whole second.
func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func fqdn(t testing.TB, name string) muster.FQDN {
	t.Helper()
	f, err := muster.ParseFQDN(name)
	return must(t, f, err)
}

func enroleeID(t testing.TB, n int) muster.EnroleeID {
	t.Helper()
	id, err := muster.ParseEnroleeID(fmt.Sprintf("//sp.example.org/device%04d", n))
	return must(t, id, err)
}

// octets returns 32 octets that depend on what and n alone.
func octets(what string, n int) muster.Digest {
	return sha256.Sum256(binary.BigEndian.AppendUint64([]byte(what), uint64(n)))
}

func keID(t testing.TB, n int) muster.KeID {
	t.Helper()
	digest := octets("KeID", n)
	return muster.NewKeID([muster.RelativeSize]byte(digest[:]), fqdn(t, "mef.example.org"))
}

// wantError fails unless err wraps want; nil wants success.
func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

// race runs n goroutines that begin together and waits for them.
func race(n int, run func(i int)) {
	var all sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-gate
			run(i)
		})
	}
	close(gate)
	all.Wait()
}
