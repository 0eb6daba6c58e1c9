package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"

	"muster"
	"muster/binding"
	"muster/enrolee"
	"muster/enrolee/dialer"
	"muster/handshake"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

// strangersPatience is how long a client waits that gets no answer, for that is
// how a MAF refuses.
const strangersPatience = 2 * time.Second

// knockMAF tries a handshake with the MAF under a psk_identity, which must fail
// by silence: no alert tells why.
func (w *world) knockMAF(t testing.TB, identity string, key []byte) *datagramTap {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), strangersPatience)
	defer cancel()
	wire, err := shakeDTLS(t, ctx, w.mafAddress, nil,
		dtls.WithServerName(w.maf.FQDN.String()), dtls.WithPSKIdentityHint([]byte(identity)),
		dtls.WithPSK(func([]byte) ([]byte, error) { return key, nil }),
		dtls.WithCipherSuites(dtls.TLS_PSK_WITH_AES_128_CCM_8))
	if !errors.Is(err, context.DeadlineExceeded) || wire.alert() != 0 {
		t.Errorf("the handshake under %s ended with %v, alert %d; want silence", identity, err, wire.alert())
	}
	return wire
}

// sameSilence fails the test if strangers heard datagrams of different sizes.
func sameSilence(t testing.TB, wires ...*datagramTap) {
	t.Helper()
	for _, wire := range wires[1:] {
		if !slices.Equal(wire.shapes(), wires[0].shapes()) {
			t.Errorf("datagrams of %v octets against %v", wire.shapes(), wires[0].shapes())
		}
	}
}

func randomOctets(n int) []byte {
	octets := make([]byte, n)
	_, _ = rand.Read(octets)
	return octets
}

func randomKeID(t testing.TB, mef string) muster.KeID {
	t.Helper()
	name, err := muster.ParseFQDN(mef)
	must(t, err)
	return muster.NewKeID([muster.RelativeSize]byte(randomOctets(muster.RelativeSize)), name)
}

func TestMAFRefusesAnUnknownKeID(t *testing.T) {
	t.Parallel()
	w := newRunningWorld(t, 1)
	w.knockMAF(t, randomKeID(t, labMEF).String(), randomOctets(32))
	w.mafLog.await(t, muster.CodeKeyUnknown)
	w.mefLog.await(t, muster.CodeKeyUnknown) // the MAF asked
	if w.mafLog.says("attached") {
		t.Errorf("somebody is attached:\n%s", w.mafLog)
	}
	w.nothingStored()
}

func TestMAFRefusesAnUnknownKmID(t *testing.T) {
	t.Parallel()
	w := newRunningWorld(t, 1)
	w.knockMAF(t, "00112233445566778899AABBCCDDEEFF@"+labMAF, randomOctets(32))
	w.mafLog.await(t, muster.CodeKeyUnknown)
	if len(w.mefLog.all()) > 2 { // it listens on two sockets
		t.Errorf("the MEF was asked:\n%s", w.mefLog)
	}
	w.nothingStored()
}

// TestMAFAsksNoUnlistedMEF counts every way out that the MAF has: the address of
// its MEF and the resolver of names. It changes the process's resolver, and so
// runs alone.
func TestMAFAsksNoUnlistedMEF(t *testing.T) {
	var dials, lookups atomic.Int64
	resolver := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = resolver })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		lookups.Add(1)
		return nil, errors.New("there is no name server")
	}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			dials.Add(1)
			_ = conn.Close()
		}
	}()

	w := newWorld(t, 1)
	w.maf.MEFs[0].Address = listener.Addr().String()
	w.startMAF()
	w.knockMAF(t, randomKeID(t, "mef.unlisted.example").String(), randomOctets(32))
	w.mafLog.await(t, muster.CodeMEFNotListed)
	if dials.Load() != 0 || lookups.Load() != 0 {
		t.Errorf("the MAF dialled %d times and looked up %d names", dials.Load(), lookups.Load())
	}
	w.nothingStored()

	w.knockMAF(t, randomKeID(t, labMEF).String(), randomOctets(32)) // what is listed is asked
	w.mafLog.await(t, muster.CodeMEFUnreachable)
	if dials.Load() == 0 {
		t.Error("the MAF does not use the address that the test watches")
	}
	_, _ = net.DefaultResolver.LookupHost(t.Context(), "mef.unlisted.example")
	if lookups.Load() == 0 {
		t.Error("the process does not use the resolver that the test watches")
	}
}

// TestMAFThatIsNotATargetGetsNoKey has a second MAF, known to the MEF but not among the
// targets of the Enrolee.
func TestMAFThatIsNotATargetGetsNoKey(t *testing.T) {
	t.Parallel()
	w, pki := newWorld(t, 1), mustertest.NewPKI(t)
	other, err := muster.ParseFQDN("other-maf.lab.example")
	must(t, err)
	w.mef.MAFs = append(w.mef.MAFs, mafClientConfig{FQDN: other, Anchors: []string{pki.Root.WriteFile(t)}})
	w.startMEF()
	w.maf.FQDN = other
	w.maf.Identity.Certificate, w.maf.Identity.Key = pki.Function(t, other.String()).WriteFiles(t)
	w.startMAF()

	config := w.deviceConfig(0, overTLS)
	config.MAF.FQDN, config.Handshake.Timeout = other, 2*strangersPatience
	device := w.device(config)
	_, err = device.Enrol(t.Context())
	must(t, err)
	_, err = device.Attach(t.Context())
	wantCode(t, err, muster.CodeHandshakeTimeout)
	w.mafLog.await(t, muster.CodeKeyUnknown)
	w.mefLog.await(t, muster.CodeKeyUnknown)
	if fetched := w.countWhere(w.mef.Store, "enrolment", "fetches > 0"); fetched != 0 || w.count(w.maf.Store, "credential") != 0 {
		t.Errorf("%d keys were handed out, the MAF has %d", fetched, w.count(w.maf.Store, "credential"))
	}
}

// TestMAFRefusesAWrongKm has a stranger that has overheard a KeID. It gets no
// session, and the KeID's owner does.
func TestMAFRefusesAWrongKm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.maf.Handshake.Timeout = 2 * strangersPatience
	w.startMEF()
	w.startMAF()
	device := w.device(w.deviceConfig(0, overTLS))
	credential, err := device.Enrol(t.Context())
	must(t, err)

	w.knockMAF(t, credential.KeID.String(), randomOctets(32))
	w.mafLog.await(t, muster.CodeHandshakeTimeout)
	if w.mafLog.says("attached") || w.count(w.maf.Store, "registration") != 0 {
		t.Errorf("somebody is attached:\n%s", w.mafLog)
	}
	attachment, err := device.Attach(t.Context())
	must(t, err)
	must(t, attachment.Close())
}

// TestMAFRefusesAKeIDAfterItsKmID has the right key under the KeID, once the KmID
// has been used.
func TestMAFRefusesAKeIDAfterItsKmID(t *testing.T) {
	t.Parallel()
	w := newRunningWorld(t, 1)
	c := w.attached(w.deviceConfig(0, overTLS))
	w.knockMAF(t, c.KeID.String(), c.Km.Reveal())
	w.mafLog.await(t, muster.CodeKeyRetired)
	if fetches := w.countWhere(w.mef.Store, "enrolment", "fetches = 1"); fetches != 1 {
		t.Error("the MAF asked the MEF again")
	}
}

// TestMAFRefusesAllStrangersAlike compares what comes back over the wire.
func TestMAFRefusesAllStrangersAlike(t *testing.T) {
	t.Parallel()
	w := newRunningWorld(t, 2)
	used := w.attached(w.deviceConfig(0, overTLS))
	fresh, err := w.device(w.deviceConfig(1, overTLS)).Enrol(t.Context())
	must(t, err)
	identities := []string{
		randomKeID(t, labMEF).String(), randomKeID(t, "mef.unlisted.example").String(), used.KeID.String(),
		fresh.KeID.String(), used.KmID.String(), "no identifier at all",
	}
	wires := make(chan *datagramTap, len(identities))
	for _, identity := range identities {
		go func() { wires <- w.knockMAF(t, identity, bytes.Repeat([]byte{7}, 32)) }()
	}
	var all []*datagramTap
	for range identities {
		all = append(all, <-wires)
	}
	sameSilence(t, all...)
	if len(all[0].shapes()) == 0 {
		t.Error("the MAF said nothing at all")
	}
}

// mafClient is a session with the MEF under the MAF's identity. from is what it
// claims to be.
func (w *world) mafClient(t testing.TB, from string) *binding.Client {
	t.Helper()
	identity, err := w.maf.Identity.load()
	must(t, err)
	verify, err := verifyServer(w.maf.MEFs[0], w.maf.Profile, nil)
	must(t, err)
	client, err := handshake.NewClient(handshake.Config{
		Name: w.mef.FQDN, Identity: func() (*tls.Certificate, error) { return identity, nil }, VerifyStapled: verify,
	})
	must(t, err)
	c := binding.NewClient(binding.ClientConfig{Authority: labMEF, From: from, Dial: func(ctx context.Context) (*handshake.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.mefAddresses.TLS)
		if err != nil {
			return nil, err
		}
		return client.Handshake(ctx, conn)
	}})
	t.Cleanup(c.Close)
	return c
}

// wantStatus fails the test unless err is an answer with a status.
func wantStatus(t testing.TB, err error, status primitive.Status) {
	t.Helper()
	if refused, ok := errors.AsType[*primitive.Error](err); !ok || refused.Status != status {
		t.Errorf("the answer is %v, not %d", err, status)
	}
}

func TestMEFRefusesAFetchUnderAnotherOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	credential, err := w.device(w.deviceConfig(0, overTLS)).Enrol(t.Context())
	must(t, err)
	for _, origin := range []string{"other-maf.lab.example", "//sp.lab.example/device-0001"} {
		_, err = w.mafClient(t, origin).FetchCredential(t.Context(), credential.KeID, muster.SUIDForMAF)
		wantStatus(t, err, primitive.OriginatorNotAuthenticated)
	}
	w.mefLog.await(t, muster.CodeOriginMismatch)
	if fetched := w.countWhere(w.mef.Store, "enrolment", "fetches > 0"); fetched != 0 {
		t.Error("a key was handed out")
	}
	key, err := w.mafClient(t, labMAF).FetchCredential(t.Context(), credential.KeID, muster.SUIDForMAF)
	must(t, err)
	if !key.Km.Equal(credential.Km) {
		t.Error("under its own origin the MAF gets another key")
	}
}

// TestMEFRefusesAFetchByAnEnrolee has an Enrolee that asks for its own key.
func TestMEFRefusesAFetchByAnEnrolee(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	config := w.deviceConfig(0, overTLS)
	credential, err := w.device(config).Enrol(t.Context())
	must(t, err)
	w.maf.Identity = config.Identity
	_, err = w.mafClient(t, "").FetchCredential(t.Context(), credential.KeID, muster.SUIDForMAF)
	if err == nil {
		t.Error("the Enrolee got a key")
	}
	w.mefLog.await(t, muster.CodeKeyUnknown)
	if fetched := w.countWhere(w.mef.Store, "enrolment", "fetches > 0"); fetched != 0 {
		t.Error("a key was handed out")
	}
}

// dialer is the way of a device to MEF and MAF.
func (w *world) dialer(config *enroleeConfig) *dialer.Dialer {
	w.t.Helper()
	identity, err := config.Identity.load()
	must(w.t, err)
	anchors, err := readCertificates(config.MEF.Anchors)
	must(w.t, err)
	d, err := dialer.New(dialer.Config{
		Identity: identity, MEF: config.MEF.FQDN, MEFAddress: config.MEF.Address, MEFAnchors: anchors,
		MEFOverUDP: config.MEF.Transport == overDTLS, MAF: config.MAF.FQDN, MAFAddress: config.MAF.Address,
	})
	must(w.t, err)
	return d
}

func newWire(t testing.TB) *primitive.Wire {
	t.Helper()
	wire, err := primitive.NewWire(primitive.WireConfig{})
	must(t, err)
	return wire
}

// registersAs sends the registration of another Enrolee over a device's session.
func registersAs(t testing.TB, conn enrolee.Conn, party tef.Party, function muster.FQDN, id, admin string) *primitive.Response {
	t.Helper()
	client, err := muster.ParseEnroleeID(id)
	must(t, err)
	administrator, err := muster.ParseFQDN(admin)
	must(t, err)
	request, err := tef.CreateRegistration(newWire(t), party, "1", tef.ClientRegistration{Function: function, ClientID: client, AdminFQDN: administrator})
	must(t, err)
	response, err := conn.Do(t.Context(), request)
	must(t, err)
	return response
}

func TestMAFRefusesARegistrationUnderAnotherOrigin(t *testing.T) {
	t.Parallel()
	w := newRunningWorld(t, 2)
	config := w.deviceConfig(0, overTLS)
	credential, err := w.device(config).Enrol(t.Context())
	must(t, err)
	conn, err := w.dialer(config).DialMAF(t.Context(), credential.KeID.String(), credential.Km)
	must(t, err)
	defer func() { _ = conn.Close() }()
	for _, id := range []string{"//sp.lab.example/device-0002", "//sp.lab.example/nobody"} {
		if r := registersAs(t, conn, tef.MAF(), w.maf.FQDN, id, labAdmin); r.Status != primitive.OriginatorNotAuthenticated {
			t.Errorf("registration as %s: status %d", id, r.Status)
		}
	}
	w.mafLog.await(t, muster.CodeOriginMismatch)
	if rows := w.count(w.maf.Store, "registration"); rows != 0 {
		t.Errorf("the MAF has %d registrations", rows)
	}
	if r := registersAs(t, conn, tef.MAF(), w.maf.FQDN, config.EnroleeID.String(), labAdmin); r.Status != primitive.Created {
		t.Errorf("registration as itself: status %d", r.Status)
	}
}

func TestMEFRefusesARegistrationUnderAnotherOrigin(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		w := newWorld(t, 2)
		w.startMEF()
		config := w.deviceConfig(0, via)
		conn, err := w.dialer(config).DialMEF(t.Context())
		must(t, err)
		defer func() { _ = conn.Close() }()
		if r := registersAs(t, conn, tef.MEF(), w.mef.FQDN, "//sp.lab.example/device-0002", labAdmin); r.Status != primitive.OriginatorNotAuthenticated {
			t.Errorf("registration as another: status %d", r.Status)
		}
		w.mefLog.await(t, muster.CodeOriginMismatch)
		if rows := w.count(w.mef.Store, "registration"); rows != 0 {
			t.Errorf("the MEF has %d registrations", rows)
		}
		if r := registersAs(t, conn, tef.MEF(), w.mef.FQDN, config.EnroleeID.String(), labAdmin); r.Status != primitive.Created {
			t.Errorf("registration as itself: status %d", r.Status)
		}
	})
}
