package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/enrolee/keyring"
	"muster/mustertest"
)

// How long a device tries over a bad path. Nothing is asserted of how far it gets.
const (
	lossyHandshake = 12 * time.Second
	lossyBootstrap = 18 * time.Second
)

// TestLoss takes devices over bad paths to MEF and MAF: enrolment and attachment
// end in success or in a clean failure, and never in two ends that disagree. Then
// each device enrols again over a good path, and succeeds.
//
// All wait more than they work, and so run at once, however few processors there are.
func TestLoss(t *testing.T) {
	t.Parallel()
	const devices = 4
	paths := []struct {
		name string
		loss mustertest.Loss
	}{
		{"none", mustertest.Loss{}},
		{"10% loss", mustertest.Loss{Drop: 0.1}},
		{"30% loss", mustertest.Loss{Drop: 0.3}},
		{"reordering", mustertest.Loss{Reorder: 0.3}},
		{"duplication", mustertest.Loss{Duplicate: 0.3}},
		{"all of it", mustertest.Loss{Drop: 0.1, Reorder: 0.2, Duplicate: 0.2}},
		{"nearly all lost", mustertest.Loss{Drop: 0.8}},
	}
	w := newRunningWorld(t, devices*len(paths))
	var all sync.WaitGroup
	for i, path := range paths {
		path.loss.Seed = uint64(i)
		toMEF, toMAF := lossy(t, w.mefAddresses.DTLS, path.loss), lossy(t, w.mafAddress, path.loss)
		for n := range devices {
			all.Go(func() {
				t.Run(path.name, func(t *testing.T) { w.bootstrapOver(t, i*devices+n, toMEF, toMAF, path.loss) })
			})
		}
	}
	all.Wait()
}

// lossy is the address of a bad path to a function.
func lossy(t testing.TB, address string, loss mustertest.Loss) string {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", address)
	must(t, err)
	proxy, err := mustertest.NewLossyProxy(to, loss)
	must(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	return proxy.Addr().String()
}

func (w *world) bootstrapOver(t *testing.T, n int, toMEF, toMAF string, loss mustertest.Loss) {
	good := w.deviceConfig(n, overDTLS)
	bad := *good
	bad.Handshake.Timeout, bad.MEF.Address, bad.MAF.Address = lossyHandshake, toMEF, toMAF
	ctx, cancel := context.WithTimeout(t.Context(), lossyBootstrap)
	defer cancel()
	withDevice(t, &bad, func(device *enrolee.Enrolee) {
		attachment, err := device.Ensure(ctx)
		t.Logf("the bad path: %v", err)
		if err != nil && loss.Drop == 0 {
			t.Error("failed without loss")
		}
		if err == nil {
			w.agree(t, good.EnroleeID, attachment.Credential)
			_ = attachment.Close()
		}
	})
	w.agreeAboutAllKept(t, good)
	withDevice(t, good, func(device *enrolee.Enrolee) {
		_, err := device.Enrol(t.Context())
		must(t, err)
		attachment, err := device.Attach(t.Context())
		must(t, err)
		w.agree(t, good.EnroleeID, attachment.Credential)
		must(t, attachment.Close())
	})
}

// withDevice assembles a device and takes it apart, so that another one can have
// its credentials.
func withDevice(t testing.TB, config *enroleeConfig, use func(*enrolee.Enrolee)) {
	t.Helper()
	device, closeDevice, err := newEnrolee(config, io.Discard)
	must(t, err)
	defer func() { must(t, closeDevice()) }()
	use(device)
}

// agree compares a proved credential with what MEF and MAF have made durable.
func (w *world) agree(t testing.TB, id muster.EnroleeID, c enrolee.Credential) {
	t.Helper()
	w.mefAgrees(t, id, c)
	w.mafAgrees(t, id, c, c.KmID.String())
}

// agreeAboutAllKept compares whatever a device has kept, proved or not.
func (w *world) agreeAboutAllKept(t testing.TB, config *enroleeConfig) {
	t.Helper()
	keys, err := keyring.Open(config.Credentials.Path, config.Credentials.RootKey)
	must(t, err)
	kept, err := keys.Load(t.Context())
	must(t, errors.Join(err, keys.Close()))
	if kept.Current != nil {
		w.agree(t, config.EnroleeID, *kept.Current)
	}
	if kept.Next != nil {
		w.mefAgrees(t, config.EnroleeID, *kept.Next)
		if !kept.Next.KmID.IsZero() { // learnt in a session under the KeID
			w.mafAgrees(t, config.EnroleeID, *kept.Next, kept.Next.KeID.String())
		}
	}
}

func (w *world) mefAgrees(t testing.TB, id muster.EnroleeID, c enrolee.Credential) {
	t.Helper()
	enrolment := w.ledger.awaitEnrolment(t, c.KeID)
	km, err := enrolment.Ke.MasterCredential(w.mef.Derivation, c.MAF)
	must(t, err)
	if enrolment.EnroleeID != id || !km.Equal(c.Km) {
		t.Errorf("the MEF holds %s for %s, with another key or not for %s", c.KeID, enrolment.EnroleeID, id)
	}
}

// mafAgrees looks at the session that the MAF had under a psk_identity.
func (w *world) mafAgrees(t testing.TB, id muster.EnroleeID, c enrolee.Credential, identity string) {
	t.Helper()
	held := w.ledger.awaitAttachment(t, identity)
	if held.EnroleeID != id || held.KeID != c.KeID || held.KmID != c.KmID || !held.Km.Equal(c.Km) || !held.Expires.Equal(c.Expires) {
		t.Errorf("the MAF holds %s of %s for %s until %s; the device %s of %s until %s, or the keys differ",
			held.KmID, held.KeID, held.EnroleeID, held.Expires, c.KmID, c.KeID, c.Expires)
	}
}
