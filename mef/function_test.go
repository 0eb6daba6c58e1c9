package mef_test

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mef"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A scene is a MEF with two Enrolees under two roots and one MAF.
type scene struct {
	pki      *mustertest.PKI
	store    *mustertest.Memory
	function *mef.Function
	config   mef.Config
	now      time.Time
}

func newScene(t testing.TB, change func(*scene)) *scene {
	t.Helper()
	s := &scene{pki: mustertest.NewPKI(t), store: mustertest.NewMemory()}
	s.now = s.pki.Now
	root, other := s.pki.Root.Certificate, s.pki.OtherRoot.Certificate
	targets := []muster.FQDN{must(muster.ParseFQDN("maf.example.com"))}
	s.config = mef.Config{
		FQDN: must(muster.ParseFQDN("mef.example.com")), Derivation: muster.ProfileMasterCredential,
		FetchWindow: 5 * time.Minute, MaxFetches: 3, MaxLive: 4, Wire: must(primitive.NewWire(primitive.WireConfig{})),
		MaxKeys: 4, RetryDuration: time.Hour, Rand: rand.Reader,
	}
	s.config.Rules = mef.Rules{
		MAFs: []mef.Client{
			{Name: targets[0], Anchors: []*x509.Certificate{root}},
			{Name: must(muster.ParseFQDN("maf.example.net")), Anchors: []*x509.Certificate{root}},
		},
		Instructions: []mef.Instruction{
			{Certificate: mustertest.DeviceName(t, 1), Anchors: []*x509.Certificate{root}, EnroleeID: enroleeID("one"), Targets: targets, Lifetime: time.Hour},
			{Certificate: mustertest.DeviceName(t, 2), Anchors: []*x509.Certificate{other}, EnroleeID: enroleeID("two"), Targets: targets, Lifetime: time.Hour},
		},
	}
	if change != nil {
		change(s)
	}
	function, err := mef.New(s.config, s.store, s.records())
	if err != nil {
		t.Fatal(err)
	}
	s.function = function
	return s
}

func (s *scene) records() tef.Stores {
	return tef.Stores{Registrations: s.store, Keys: s.store, Commands: s.store}
}

func enroleeID(name string) muster.EnroleeID {
	return must(muster.ParseEnroleeID("//sp.example.com/" + name))
}

// session verifies a chain as a handshake would, and exports octets of a fill.
func (s *scene) session(t *testing.T, identity *mustertest.Identity, fill string) *muster.Session {
	t.Helper()
	peer, err := s.function.VerifyPeer(identity.Chain, s.now)
	if err != nil {
		t.Fatal(err)
	}
	return muster.NewSession(peer, func(label string, _ []byte, n int) ([]byte, error) {
		return []byte(strings.Repeat(fill+label, n)[:n]), nil
	})
}

func wantCode(t *testing.T, err error, want muster.Code) {
	t.Helper()
	if got := muster.CodeOf(err); got != want {
		t.Errorf("refused with %q (%v), want %q", got, err, want)
	}
}

func TestEnrolAndFetch(t *testing.T) {
	s := newScene(t, nil)
	device := s.session(t, s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), "a")
	enrolment, err := s.function.Established(t.Context(), device, s.now)
	if err != nil {
		t.Fatal(err)
	}
	if enrolment.EnroleeID != enroleeID("one") || enrolment.KeID.MEF() != s.config.FQDN || enrolment.Generation != 1 {
		t.Errorf("stored %+v", enrolment)
	}
	maf := s.session(t, s.pki.Function(t, "maf.example.com"), "m")
	if none, err := s.function.Established(t.Context(), maf, s.now); err != nil || !none.KeID.IsZero() {
		t.Errorf("the session of a MAF yielded %+v, %v", none, err)
	}
	key, err := s.function.FetchCredential(t.Context(), maf, "maf.example.com", enrolment.KeID, muster.SUIDForMAF, s.now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	want := must(enrolment.Ke.MasterCredential(muster.ProfileMasterCredential, must(muster.ParseFQDN("maf.example.com"))))
	if !key.Km.Equal(want) || key.EnroleeID != enroleeID("one") || key.Lifetime != time.Hour-time.Minute {
		t.Errorf("fetched %+v", key)
	}
}

func TestSecondExportIsRefused(t *testing.T) {
	s := newScene(t, nil)
	device := s.session(t, s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), "a")
	if _, err := s.function.Established(t.Context(), device, s.now); err != nil {
		t.Fatal(err)
	}
	_, err := s.function.Established(t.Context(), device, s.now)
	wantCode(t, err, muster.CodeAlreadyExported)
}

func TestFailedExportStoresNothing(t *testing.T) {
	s := newScene(t, nil)
	broken := errors.New("no extended master secret")
	session := s.session(t, s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), "a")
	session = muster.NewSession(session.Peer, func(string, []byte, int) ([]byte, error) { return nil, broken })
	if e, err := s.function.Established(t.Context(), session, s.now); !errors.Is(err, broken) || !e.KeID.IsZero() {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestSameKeIDInAnotherSessionIsAConflict(t *testing.T) {
	s := newScene(t, nil)
	one := s.session(t, s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), "a")
	if _, err := s.function.Established(t.Context(), one, s.now); err != nil {
		t.Fatal(err)
	}
	again := s.session(t, s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), "a") // another certificate
	_, err := s.function.Established(t.Context(), again, s.now)
	wantCode(t, err, muster.CodeKeyConflict)
}

func TestTooManyEnrolmentsSuggestAClone(t *testing.T) {
	s := newScene(t, nil)
	identity := s.pki.Enrolee(t, mustertest.DeviceName(t, 1))
	maf := s.session(t, s.pki.Function(t, "maf.example.com"), "m")
	for n := range s.config.MaxLive + 1 {
		enrolment, err := s.function.Established(t.Context(), s.session(t, identity, string(rune('a'+n))), s.now)
		if n < s.config.MaxLive {
			wantCode(t, err, "")
			_, err = s.function.FetchCredential(t.Context(), maf, "", enrolment.KeID, muster.SUIDForMAF, s.now)
			wantCode(t, err, "")
		} else {
			wantCode(t, err, muster.CodeCloneSuspected)
		}
	}
}

func TestVerifyPeerRefuses(t *testing.T) {
	s := newScene(t, nil)
	one, two := mustertest.DeviceName(t, 1), mustertest.DeviceName(t, 2)
	wildcard := s.pki.NewLeaf(t, s.pki.Intermediate, []muster.CertName{one}, []cert.Usage{cert.UsageClient}, mustertest.Domains("*.example.com"))
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  muster.Code
	}{
		"no certificate":                  {nil, muster.CodeNoCertificate},
		"unknown name":                    {s.pki.Enrolee(t, mustertest.DeviceName(t, 3)).Chain, muster.CodeNameUnknown},
		"right name, other device's root": {s.pki.Enrolee(t, two).Chain, muster.CodeAnchorMismatch},
		"name only in CN":                 {s.pki.Enrolee(t, one, mustertest.CommonNameOnly(one.Text)).Chain, muster.CodeNameOnlyInCN},
		"wildcard only":                   {wildcard.Chain, muster.CodeNameWildcard},
		"expired":                         {s.pki.Enrolee(t, one, mustertest.Expired()).Chain, muster.CodeExpired},
		"not yet valid":                   {s.pki.Enrolee(t, one, mustertest.NotYetValid()).Chain, muster.CodeNotYetValid},
		"server only":                     {s.pki.Enrolee(t, one, mustertest.ExtKeyUsage(x509.ExtKeyUsageServerAuth)).Chain, muster.CodeExtendedKeyUsage},
		"authority as leaf":               {s.pki.Enrolee(t, one, mustertest.AsAuthority()).Chain, muster.CodeCAAsLeaf},
	} {
		t.Run(name, func(t *testing.T) {
			peer, err := s.function.VerifyPeer(c.chain, s.now)
			wantCode(t, err, c.want)
			if peer != (muster.Peer{}) {
				t.Errorf("the refused peer is %+v", peer)
			}
		})
	}
}

func TestNameUnderTwoRootsIsTwoPeers(t *testing.T) {
	s := newScene(t, func(s *scene) {
		second := s.config.Instructions[1]
		second.Certificate = s.config.Instructions[0].Certificate
		s.config.Instructions[1] = second
	})
	name := mustertest.DeviceName(t, 1)
	for issuer, want := range map[*mustertest.Authority]string{s.pki.Intermediate: "one", s.pki.OtherIntermediate: "two"} {
		identity := s.pki.NewLeaf(t, issuer, []muster.CertName{name}, []cert.Usage{cert.UsageClient})
		enrolment, err := s.function.Established(t.Context(), s.session(t, identity, want), s.now)
		if err != nil || enrolment.EnroleeID != enroleeID(want) {
			t.Errorf("%s enrolled as %s: %v", want, enrolment.EnroleeID, err)
		}
	}
}

func TestFetchRefusesAlike(t *testing.T) {
	s := newScene(t, nil)
	device := s.session(t, s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), "a")
	enrolment := must(s.function.Established(t.Context(), device, s.now))
	target := s.session(t, s.pki.Function(t, "maf.example.com"), "m")
	stranger := s.session(t, s.pki.Function(t, "maf.example.net"), "n")
	unknown := muster.NewKeID([16]byte{1}, s.config.FQDN)
	foreign := muster.NewKeID(enrolment.KeID.Relative(), must(muster.ParseFQDN("other.example.com")))
	for name, c := range map[string]struct {
		session *muster.Session
		from    string
		id      muster.KeID
		usage   muster.SUID
		after   time.Duration
		want    muster.Code
	}{
		"unknown KeID":     {target, "", unknown, muster.SUIDForMAF, 0, muster.CodeKeyUnknown},
		"KeID of another":  {target, "", foreign, muster.SUIDForMAF, 0, muster.CodeKeyUnknown},
		"not a target":     {stranger, "", enrolment.KeID, muster.SUIDForMAF, 0, muster.CodeKeyUnknown},
		"other usage":      {target, "", enrolment.KeID, muster.SUIDForSAEF, 0, muster.CodeKeyUnknown},
		"expired":          {target, "", enrolment.KeID, muster.SUIDForMAF, time.Hour, muster.CodeKeyUnknown},
		"an Enrolee":       {device, "", enrolment.KeID, muster.SUIDForMAF, 0, muster.CodeKeyUnknown},
		"another's origin": {target, "maf.example.net", enrolment.KeID, muster.SUIDForMAF, 0, muster.CodeOriginMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := s.function.FetchCredential(t.Context(), c.session, c.from, c.id, c.usage, s.now.Add(c.after))
			wantCode(t, err, c.want)
			if !key.Km.IsZero() {
				t.Error("a key came with the refusal")
			}
			if c.want != muster.CodeOriginMismatch && primitive.StatusOf(err) != primitive.NotFound {
				t.Errorf("the MAF learns %v", primitive.StatusOf(err))
			}
		})
	}
}

func TestContradictoryConfigurations(t *testing.T) {
	s := newScene(t, nil)
	for name, change := range map[string]func(*mef.Config){
		"no FQDN":            func(c *mef.Config) { c.FQDN = muster.FQDN{} },
		"no window":          func(c *mef.Config) { c.FetchWindow = 0 },
		"no fetches":         func(c *mef.Config) { c.MaxFetches = 0 },
		"no live enrolments": func(c *mef.Config) { c.MaxLive = 0 },
		"no anchor":          func(c *mef.Config) { c.Instructions[0].Anchors = nil },
		"no target":          func(c *mef.Config) { c.Instructions[0].Targets = nil },
		"target twice": func(c *mef.Config) {
			c.Instructions[0].Targets = append(c.Instructions[0].Targets, c.Instructions[0].Targets[0])
		},
		"no lifetime":        func(c *mef.Config) { c.Instructions[0].Lifetime = 0 },
		"no Enrolee-ID":      func(c *mef.Config) { c.Instructions[0].EnroleeID = muster.EnroleeID{} },
		"one name twice":     func(c *mef.Config) { c.Instructions[1] = c.Instructions[0] },
		"one MAF twice":      func(c *mef.Config) { c.MAFs[1] = c.MAFs[0] },
		"MAF without anchor": func(c *mef.Config) { c.MAFs[0].Anchors = nil },
		"Enrolee is a MAF": func(c *mef.Config) {
			c.Instructions[0].Certificate = muster.CertName{Flavour: muster.FlavourFQDN, Text: c.MAFs[0].Name.String()}
		},
	} {
		config := s.config
		config.Instructions = append([]mef.Instruction(nil), config.Instructions...)
		config.MAFs = append([]mef.Client(nil), config.MAFs...)
		change(&config)
		if _, err := mef.New(config, s.store, s.records()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
