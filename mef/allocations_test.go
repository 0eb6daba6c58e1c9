package mef_test

import (
	"context"
	"encoding/binary"
	"testing"

	"muster"
	"muster/mef"
	"muster/mustertest"
)

// maxCoreAllocations is what an enrolment may cost beside its handshake and its
// store.
const maxCoreAllocations = 30

// A forgetful store allocates nothing.
type forgetful struct{ *mustertest.Memory }

func (forgetful) CreateEnrolment(_ context.Context, e mef.Enrolment, _ int) (mef.Enrolment, error) {
	return e, nil
}

// TestAllocations bounds what the MEF adds to a handshake.
func TestAllocations(t *testing.T) {
	s := newScene(t, nil)
	function, err := mef.New(s.config, forgetful{s.store}, s.records())
	if err != nil {
		t.Fatal(err)
	}
	identity := s.pki.Enrolee(t, mustertest.DeviceName(t, 1))
	var peer muster.Peer
	mustertest.Allocations(t, "VerifyPeer", func() {
		if peer, err = function.VerifyPeer(identity.Chain, s.now); err != nil {
			t.Fatal(err)
		}
	})
	octets, n := make([]byte, 64), uint64(0)
	export := func(_ string, _ []byte, length int) ([]byte, error) {
		n++
		binary.BigEndian.PutUint64(octets, n)
		return octets[:length:length], nil
	}
	core := mustertest.Allocations(t, "Established", func() {
		if _, err := function.Established(t.Context(), muster.NewSession(peer, export), s.now); err != nil {
			t.Fatal(err)
		}
	})
	if core > maxCoreAllocations {
		t.Errorf("%v allocations, more than %d", core, maxCoreAllocations)
	}
}
