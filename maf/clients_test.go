package maf_test

import (
	"crypto/x509"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/maf"
	"muster/mustertest"
	"muster/tef"
)

// certified is a scene with one client that has a certificate.
type certified struct {
	*scene
	pki    *mustertest.PKI
	config maf.Config
	name   muster.CertName
}

var owner = must(muster.ParseEnroleeID("//sp.example.com/gateway"))

func newCertified(t *testing.T) *certified {
	t.Helper()
	s := &certified{newScene(t), mustertest.NewPKI(t), config(), mustertest.Name(t, muster.FlavourCSEID, "gateway.example.com")}
	s.config.Profile = cert.ProfileOneM2M
	s.config.Clients = []maf.Client{s.client(s.pki.Root)}
	s.function = must(maf.New(s.config, s.store, s.records(), s.mef))
	return s
}

func (s *certified) client(roots ...*mustertest.Authority) maf.Client {
	client := maf.Client{Certificate: s.name, EnroleeID: owner, Lifetime: time.Hour}
	for _, root := range roots {
		client.Anchors = append(client.Anchors, root.Certificate)
	}
	return client
}

// certificateClient is a client with a certificate and an identifier.
func certificateClient(t *testing.T, id muster.EnroleeID) maf.Client {
	client := newCertified(t).config.Clients[0]
	client.EnroleeID = id
	return client
}

// verified is the session of a client with the certificate of an identity.
func (s *certified) verified(identity *mustertest.Identity) (*muster.Session, error) {
	peer, err := s.function.VerifyPeer(identity.Chain, s.pki.Now)
	return muster.NewSession(peer, nil), err
}

// TestClientWithACertificate registers a client that has no Km: it gets no KmID.
func TestClientWithACertificate(t *testing.T) {
	t.Parallel()
	s := newCertified(t)
	session, err := s.verified(s.pki.Enrolee(t, s.name))
	if err != nil {
		t.Fatal(err)
	}
	credential, err := s.function.Established(t.Context(), session, begin)
	if err != nil || credential.EnroleeID != owner || !credential.KmID.IsZero() || !credential.Km.IsZero() || !credential.Expires.Equal(begin.Add(time.Hour)) {
		t.Errorf("the credential is %v, %v", credential, err)
	}
	request := must(tef.CreateRegistration(s.config.Wire, tef.MAF(), "1", tef.ClientRegistration{
		Function: mafFQDN, ClientID: owner, AdminFQDN: s.config.Administrators[0],
	}))
	response, err := s.function.Serve(t.Context(), session, request, begin)
	if err != nil {
		t.Fatal(err)
	}
	r := must(tef.ParseRegistration(s.config.Wire, tef.MAF(), response))
	if !r.AssignedSymmKeyID.IsZero() || r.ClientID != owner || !r.Expires.Equal(begin.Add(time.Hour)) {
		t.Errorf("registered %+v", r)
	}
	request.From = device.String()
	if _, err := s.function.Serve(t.Context(), session, request, begin); muster.CodeOf(err) != muster.CodeOriginMismatch {
		t.Errorf("another originator: %v", err)
	}
	s.wantCalls("a client with a certificate", 0)
}

func TestVerifyPeerRefuses(t *testing.T) {
	t.Parallel()
	s := newCertified(t)
	for name, test := range map[string]struct {
		identity *mustertest.Identity
		want     muster.Code
	}{
		"another root":      {s.pki.NewLeaf(t, s.pki.OtherIntermediate, []muster.CertName{s.name}, []cert.Usage{cert.UsageClient}), muster.CodeAnchorMismatch},
		"another name":      {s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), muster.CodeNameUnknown},
		"a server's":        {s.pki.NewLeaf(t, s.pki.Intermediate, []muster.CertName{s.name}, []cert.Usage{cert.UsageServer}), muster.CodeExtendedKeyUsage},
		"no certificate":    {&mustertest.Identity{}, muster.CodeNoCertificate},
		"no intermediate":   {s.pki.Enrolee(t, s.name).LeafOnly(), muster.CodeAnchorMismatch},
		"the name of a MEF": {s.pki.Function(t, mefFQDN.String()), muster.CodeNameUnknown},
	} {
		session, err := s.verified(test.identity)
		if muster.CodeOf(err) != test.want || session.Peer != (muster.Peer{}) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	s.config.Intermediates = []*x509.Certificate{s.pki.Intermediate.Certificate}
	s.function = must(maf.New(s.config, s.store, s.records(), s.mef))
	if _, err := s.verified(s.pki.Enrolee(t, s.name).LeafOnly()); err != nil {
		t.Errorf("a leaf whose intermediate is configured: %v", err)
	}
}

// TestStatusOfClients asks about the path of the client that it is for.
func TestStatusOfClients(t *testing.T) {
	t.Parallel()
	s := newCertified(t)
	asked := 0
	s.config.Clients[0].Status = func(path []*x509.Certificate, now time.Time) cert.Findings {
		asked += len(path)
		return cert.Findings{{Code: muster.CodeRevoked, Level: cert.LevelError}}
	}
	s.function = must(maf.New(s.config, s.store, s.records(), s.mef))
	if _, err := s.verified(s.pki.Enrolee(t, s.name)); muster.CodeOf(err) != muster.CodeRevoked || asked != 3 {
		t.Errorf("%v, after %d certificates", err, asked)
	}
}

// TestClientThatIsGone has a session of a client that a new configuration lacks.
func TestClientThatIsGone(t *testing.T) {
	t.Parallel()
	s := newCertified(t)
	session := must(s.verified(s.pki.Enrolee(t, s.name)))
	for _, peer := range []muster.Peer{{}, {Name: session.Peer.Name}, {Anchor: session.Peer.Anchor}} {
		if _, err := s.function.Established(t.Context(), muster.NewSession(peer, nil), begin); muster.CodeOf(err) != muster.CodeNameUnknown {
			t.Errorf("%+v: %v", peer, err)
		}
	}
}

func TestContradictoryClients(t *testing.T) {
	t.Parallel()
	s := newCertified(t)
	for name, spoil := range map[string]func(*maf.Client){
		"no name":        func(c *maf.Client) { c.Certificate = muster.CertName{} },
		"no root":        func(c *maf.Client) { c.Anchors = nil },
		"no Enrolee-ID":  func(c *maf.Client) { c.EnroleeID = muster.EnroleeID{} },
		"no lifetime":    func(c *maf.Client) { c.Lifetime = 0 },
		"one Enrolee-ID": func(c *maf.Client) { c.Certificate = mustertest.DeviceName(t, 1) },
		"one pin":        func(c *maf.Client) { c.EnroleeID = device },
	} {
		second := s.client(s.pki.OtherRoot, s.pki.Root)
		spoil(&second)
		changed := s.config
		changed.Clients = append(changed.Clients[:1:1], second)
		if _, err := maf.New(changed, s.store, s.records(), s.mef); err == nil {
			t.Errorf("made in spite of: %s", name)
		}
	}
	second := s.client(s.pki.OtherRoot)
	second.EnroleeID = device
	s.config.Clients = append(s.config.Clients, second)
	s.function = must(maf.New(s.config, s.store, s.records(), s.mef))
	session := must(s.verified(s.pki.NewLeaf(t, s.pki.OtherIntermediate, []muster.CertName{s.name}, []cert.Usage{cert.UsageClient})))
	if c, err := s.function.Credential(t.Context(), session, begin); err != nil || c.EnroleeID != device {
		t.Errorf("the name under the other root is %s, %v", c.EnroleeID, err)
	}
}
