package muster_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/maf"
	"muster/mef"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

// A landscape is several MEFs and MAFs that trust one another, without sockets: a
// handshake is two sessions that export the same octets.
type landscape struct {
	*testing.T
	pki    *mustertest.PKI
	wire   *primitive.Wire
	mefs   map[muster.FQDN]*mef.Function
	mafs   map[muster.FQDN]*maf.Function
	stores map[muster.FQDN]*mustertest.Memory
}

func name(t testing.TB, s string) muster.FQDN {
	t.Helper()
	f, err := muster.ParseFQDN(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newLandscape(t *testing.T) *landscape {
	t.Helper()
	wire, err := primitive.NewWire(primitive.WireConfig{})
	if err != nil {
		t.Fatal(err)
	}
	l := &landscape{t, mustertest.NewPKI(t), wire, map[muster.FQDN]*mef.Function{}, map[muster.FQDN]*maf.Function{}, map[muster.FQDN]*mustertest.Memory{}}
	stakeholders := []muster.FQDN{name(t, "admin1.example.com"), name(t, "admin2.example.com")}
	mefs := []muster.FQDN{name(t, "mef1.example.com"), name(t, "mef2.example.com")}
	mafs := []muster.FQDN{name(t, "maf1.example.com"), name(t, "maf2.example.com")}
	root := []*x509.Certificate{l.pki.Root.Certificate}
	for _, fqdn := range mefs {
		store := mustertest.NewMemory()
		config := mef.Config{
			FQDN: fqdn, Derivation: muster.ProfileMasterCredential, FetchWindow: time.Minute, MaxFetches: 3, MaxLive: 9,
			Wire: wire, Administrators: stakeholders, MaxKeys: 9, RetryDuration: 10 * time.Minute, Rand: rand.Reader,
		}
		for _, client := range mafs {
			config.MAFs = append(config.MAFs, mef.Client{Name: client, Anchors: root})
		}
		for n := 1; n <= 2; n++ {
			config.Instructions = append(config.Instructions, mef.Instruction{
				Certificate: mustertest.DeviceName(t, uint(n)), Anchors: root, EnroleeID: l.enroleeID(n), Targets: mafs, Lifetime: time.Hour,
			})
		}
		function, err := mef.New(config, store, tef.Stores{Registrations: store, Keys: store, Commands: store})
		if err != nil {
			t.Fatal(err)
		}
		l.mefs[fqdn], l.stores[fqdn] = function, store
	}
	shared := []string{"//sp.example.com/"} // the devices enrol through either MEF
	for _, fqdn := range mafs {
		store := mustertest.NewMemory()
		function, err := maf.New(maf.Config{
			FQDN: fqdn, MEFs: []maf.MEF{{FQDN: mefs[0], Enrolees: shared}, {FQDN: mefs[1], Enrolees: shared}}, KeIDLifetime: time.Minute, FetchTimeout: time.Minute, RefusalMemory: time.Second,
			Wire: wire, Administrators: stakeholders, MaxKeys: 9, Rand: rand.Reader,
		}, store, tef.Stores{Registrations: store, Keys: store}, retriever{l, fqdn})
		if err != nil {
			t.Fatal(err)
		}
		l.mafs[fqdn], l.stores[fqdn] = function, store
	}
	return l
}

func (l *landscape) enroleeID(n int) muster.EnroleeID {
	id, err := muster.ParseEnroleeID("//sp.example.com/device" + string(rune('0'+n)))
	if err != nil {
		l.Fatal(err)
	}
	return id
}

// sessions returns the two ends of a handshake.
func (l *landscape) sessions(client, server muster.Peer) (ours, theirs *muster.Session) {
	secret := make([]byte, 64)
	_, _ = rand.Read(secret)
	export := func(label string, _ []byte, n int) ([]byte, error) {
		digest := muster.DigestOf(append(slices.Clone(secret), label...))
		return append(digest[:], digest[:]...)[:n], nil
	}
	return muster.NewSession(server, export), muster.NewSession(client, export)
}

// A retriever is a MAF's way to its MEFs.
type retriever struct {
	*landscape
	maf muster.FQDN
}

func (r retriever) RetrieveKey(ctx context.Context, id muster.KeID, usage muster.SUID) (maf.RetrievedKey, error) {
	function := r.mefs[id.MEF()]
	peer, err := function.VerifyPeer(r.pki.Function(r, r.maf.String()).Chain, r.pki.Now)
	if err != nil {
		return maf.RetrievedKey{}, err
	}
	_, session := r.sessions(peer, muster.Peer{})
	key, err := function.FetchCredential(ctx, session, r.maf.String(), id, usage, r.pki.Now)
	return maf.RetrievedKey(key), err
}

// A landscapeDevice is one Enrolee with its MEF and its MAF.
type landscapeDevice struct {
	*landscape
	n        int
	mef, maf muster.FQDN
	kept     enrolee.Credentials
}

func (d *landscapeDevice) Load(context.Context) (enrolee.Credentials, error) { return d.kept, nil }
func (d *landscapeDevice) Save(_ context.Context, c enrolee.Credentials) error {
	d.kept = c
	return nil
}

type landscapeConn struct {
	session *muster.Session
	serve   func(ctx context.Context, r *primitive.Request) (*primitive.Response, error)
	now     time.Time
}

func (c *landscapeConn) Session() *muster.Session { return c.session }
func (c *landscapeConn) Close() error             { return nil }
func (c *landscapeConn) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	return primitive.Serve(ctx, primitive.HandlerFunc(func(ctx context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		return c.serve(ctx, r)
	}), nil, r, c.now), nil
}

func (d *landscapeDevice) DialMEF(ctx context.Context) (enrolee.Conn, error) {
	function := d.mefs[d.mef]
	peer, err := function.VerifyPeer(d.pki.Enrolee(d, mustertest.DeviceName(d, uint(d.n))).Chain, d.pki.Now)
	if err != nil {
		return nil, err
	}
	ours, theirs := d.sessions(peer, muster.Peer{})
	if _, err := function.Established(ctx, theirs, d.pki.Now); err != nil {
		return nil, err
	}
	return &landscapeConn{ours, func(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
		return function.Serve(ctx, theirs, r, d.pki.Now)
	}, d.pki.Now}, nil
}

func (d *landscapeDevice) DialMAF(ctx context.Context, identity string, km muster.Km) (enrolee.Conn, error) {
	function := d.mafs[d.maf]
	theirKm, err := function.PSK(ctx, identity, d.pki.Now)
	if err != nil {
		return nil, err
	}
	if !theirKm.Equal(km) {
		return nil, errors.New("the ends have different keys")
	}
	ours, theirs := d.sessions(muster.Peer{PSKIdentity: identity}, muster.Peer{})
	if _, err := function.Established(ctx, theirs, d.pki.Now); err != nil {
		return nil, err
	}
	return &landscapeConn{ours, func(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
		return function.Serve(ctx, theirs, r, d.pki.Now)
	}, d.pki.Now}, nil
}

func (l *landscape) device(n, mef, maf int) (*enrolee.Enrolee, *landscapeDevice) {
	l.Helper()
	return l.deviceThat(n, mef, maf, nil, nil)
}

// deviceThat is a device that performs the commands of its MEF.
func (l *landscape) deviceThat(n, mef, maf int, executor enrolee.Executor, exchanged func(enrolee.Exchange, error)) (*enrolee.Enrolee, *landscapeDevice) {
	l.Helper()
	d := &landscapeDevice{landscape: l, n: n, mef: name(l, "mef"+string(rune('0'+mef))+".example.com"), maf: name(l, "maf"+string(rune('0'+maf))+".example.com")}
	e, err := enrolee.New(enrolee.Config{
		EnroleeID: l.enroleeID(n), MEF: d.mef, MAF: d.maf, AdminFQDN: name(l, "admin1.example.com"), Derivation: muster.ProfileMasterCredential,
		Wire: l.wire, Now: func() time.Time { return l.pki.Now }, Rand: func() float64 { return 0.5 },
		Sleep:    func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Executor: executor, Exchanged: exchanged,
	}, d, d)
	if err != nil {
		l.Fatal(err)
	}
	return e, d
}

func (l *landscape) attach(e *enrolee.Enrolee) *enrolee.Attachment {
	l.Helper()
	attachment, err := e.Ensure(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return attachment
}

// TestSeveralMEFsAndMAFs enrols a device for two MAFs through two MEFs, and two
// devices for one MAF through different MEFs.
func TestSeveralMEFsAndMAFs(t *testing.T) {
	l := newLandscape(t)
	one11, _ := l.device(1, 1, 1)
	one22, _ := l.device(1, 2, 2)
	two21, _ := l.device(2, 2, 1)
	seen := map[muster.KmID]bool{}
	for _, e := range []*enrolee.Enrolee{one11, one22, two21} {
		seen[l.attach(e).Credential.KmID] = true
	}
	if len(seen) != 3 {
		t.Errorf("three attachments have %d KmIDs", len(seen))
	}
	for _, e := range []*enrolee.Enrolee{one11, one22, two21} {
		l.attach(e) // each of them is still good beside the others
	}
	// The same MEF serves a second MAF, and the MAF's newest credential of a device
	// replaces the older one, by whatever MEF it came.
	one12, _ := l.device(1, 1, 2)
	l.attach(one12)
	l.attach(one11)
	if _, err := one22.Attach(t.Context()); muster.CodeOf(err) != muster.CodeKeyUnknown {
		t.Errorf("the credential that was replaced at the second MAF: %v", err)
	}
}

// TestTwoStakeholdersOnOneMAF registers a device for two stakeholders in one
// session, and a key for each of them.
func TestTwoStakeholdersOnOneMAF(t *testing.T) {
	l := newLandscape(t)
	a, _ := l.device(1, 1, 1)
	b, _ := l.device(2, 2, 1)
	attachment, target := l.attach(a), l.attach(b)
	mmaf, second := attachment.Mmaf(), name(t, "admin2.example.com")
	registration, err := mmaf.Register(t.Context(), tef.ClientRegistration{AdminFQDN: second})
	if err != nil || registration.ID == tef.RegistrationID(l.enroleeID(1), name(t, "admin1.example.com")) {
		t.Fatalf("registered %+v, %v", registration, err)
	}
	wanted := tef.KeyRegistration{Usage: tef.SUIDMAFForSAEF, Targets: []string{l.enroleeID(2).String()}}
	exported, err := attachment.RegisterKey(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	wanted.AdminFQDN = second
	if _, err := attachment.RegisterKey(t.Context(), wanted); muster.CodeOf(err) != muster.CodeAlreadyExported {
		t.Errorf("a second key of one session: %v", err)
	}
	wanted.Key = exported.Key
	brought, err := attachment.RegisterKey(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	for admin, id := range map[muster.FQDN]tef.KeyID{name(t, "admin1.example.com"): exported.ID, second: brought.ID} {
		if got, err := target.Mmaf().RetrieveKey(t.Context(), id); err != nil || got.AdminFQDN != admin || !got.Key.Equal(exported.Key) {
			t.Errorf("for %s: %+v, %v", admin, got, err)
		}
	}
	if err := mmaf.Deregister(t.Context(), registration.ID); err != nil {
		t.Error(err)
	}
	if _, err := mmaf.Registration(t.Context(), tef.RegistrationID(l.enroleeID(1), name(t, "admin1.example.com"))); err != nil {
		t.Errorf("the other stakeholder's registration ended as well: %v", err)
	}
	if _, err := attachment.RegisterKey(t.Context(), wanted); muster.CodeOf(err) != muster.CodePeerRefused {
		t.Errorf("a key for a stakeholder that the device has left: %v", err)
	}
}

// TestEnrolmentExchange has a device enrol, register with its MEF, and perform what
// waits for it, in one session. It comes again when the MEF wants to be asked.
func TestEnrolmentExchange(t *testing.T) {
	l := newLandscape(t)
	executor := new(nodes)
	var exchanges []enrolee.Exchange
	e, d := l.deviceThat(1, 1, 1, executor, func(done enrolee.Exchange, err error) {
		if err != nil {
			t.Error(err)
		}
		exchanges = append(exchanges, done)
	})
	command := tef.CommandDescription{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "./a", Type: tef.NodeTrustAnchor}}
	if err := tef.Queue(t.Context(), l.stores[d.mef], d.mef, l.enroleeID(1), name(t, "admin1.example.com"), "1", command, l.pki.Now); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := e.Maintain(ctx, func(event enrolee.Event) {
		cancel()
		lifetime := event.Credential.Expires.Sub(event.Credential.Enrolled)
		if asked := 10*time.Minute + lifetime/20; event.Err != nil || event.Wait != asked {
			t.Errorf("the device waits %s, not what the MEF asked for and a spread, in all %s: %v", event.Wait, asked, event.Err)
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(exchanges) != 1 || len(executor.paths) != 1 {
		t.Fatalf("exchanged %+v, performed %v", exchanges, executor.paths)
	}
	done := exchanges[0]
	if done.RetryAfter != 10*time.Minute || !done.Registration.CommandWaits || done.Credential.KeID.MEF() != d.mef {
		t.Errorf("exchanged %+v", done)
	}
	if attachment := l.attach(e); attachment.Credential.KeID != done.Credential.KeID {
		t.Error("the device attached with another credential")
	}
	kept, err := d.Load(t.Context())
	if want := (enrolee.CommandMemory{ID: "1", Status: tef.CommandOK, Reported: true}); err != nil || kept.Command != want {
		t.Errorf("the device remembers %+v, %v", kept.Command, err)
	}
}

// nodes is an Executor that knows nodes alone.
type nodes struct{ paths []string }

func (n *nodes) ProvisionCertificate(context.Context, tef.CertificateProvisioning) error {
	return errors.ErrUnsupported
}
func (n *nodes) ConfigureDevice(context.Context, tef.DeviceConfiguration) error {
	return errors.ErrUnsupported
}
func (n *nodes) ProcessNode(_ context.Context, c tef.NodeProcessing) error {
	n.paths = append(n.paths, c.Path)
	return nil
}
