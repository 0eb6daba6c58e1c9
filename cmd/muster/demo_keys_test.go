package main

import (
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/tef"
)

// aKey is one that no MAF has.
func aKey(t *testing.T, fill byte) tef.KeyRegistration {
	t.Helper()
	octets := make([]byte, muster.KeySize)
	octets[0] = fill
	kc, err := muster.NewKc(octets)
	must(t, err)
	maf, err := muster.ParseFQDN(labMAF)
	must(t, err)
	return tef.KeyRegistration{ID: tef.NewKeyID([muster.RelativeSize]byte{fill}, maf), Key: kc}
}

// TestSecondActFailsWithoutAgreement has A come with keys that are not those of
// the MAF, or B look for another A.
func TestSecondActFailsWithoutAgreement(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.startMEF()
	w.startMAF()
	a, b := w.deviceConfig(0, overTLS), w.deviceConfig(1, overTLS)
	attachment, err := w.device(a).Ensure(t.Context())
	must(t, err)
	defer func() { must(t, attachment.Close()) }()
	keys := enrolee.NewKeys(w.device(b))
	t.Cleanup(func() { must(t, keys.Close()) })
	key, err := attachment.RegisterKey(t.Context(), tef.KeyRegistration{Usage: tef.SUIDMAFForSAEF, Targets: []string{b.EnroleeID.String()}})
	must(t, err)

	meet := func(a muster.EnroleeID, key tef.KeyRegistration) error {
		listening, err := newDemoEntity(t.Context(), b, keys)
		must(t, err)
		defer func() { _ = listening.listener.Close() }()
		return listening.meet(t.Context(), a, key)
	}
	must(t, meet(a.EnroleeID, key))
	b.Handshake.Timeout = time.Second // a wrong key is silence, up to here
	wrong := key
	wrong.Key = aKey(t, 1).Key
	for what, err := range map[string]error{
		"an identifier that the MAF does not have": meet(a.EnroleeID, aKey(t, 1)),
		"a wrong key": meet(a.EnroleeID, wrong),
		"another A":   meet(b.EnroleeID, key),
	} {
		if err == nil {
			t.Errorf("%s: the ends agree", what)
		}
	}
}
