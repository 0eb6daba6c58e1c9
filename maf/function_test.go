package maf_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/maf"
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

var (
	begin   = time.Unix(1_800_000_000, 0).UTC()
	mafFQDN = must(muster.ParseFQDN("maf.example.com"))
	mefFQDN = must(muster.ParseFQDN("mef.example.com"))
	device  = must(muster.ParseEnroleeID("//sp.example.com/dev"))
	known   = muster.NewKeID([16]byte{1}, mefFQDN)
	knownKm = must(muster.NewKm([]byte(strings.Repeat("k", 32))))
)

// A mefStub is the MEFs as the MAF meets them.
type mefStub struct {
	calls atomic.Int32
	keys  map[muster.KeID]maf.RetrievedKey
	delay time.Duration
	down  atomic.Bool
}

func (m *mefStub) RetrieveKey(ctx context.Context, id muster.KeID, usage muster.SUID) (maf.RetrievedKey, error) {
	m.calls.Add(1)
	if usage != muster.SUIDForMAF {
		return maf.RetrievedKey{}, errors.New("another usage")
	}
	if m.delay > 0 {
		select {
		case <-time.After(m.delay):
		case <-ctx.Done():
			return maf.RetrievedKey{}, muster.Refuse(muster.CodeMEFUnreachable, "%w", ctx.Err())
		}
	}
	if m.down.Load() {
		return maf.RetrievedKey{}, muster.Refuse(muster.CodeMEFUnreachable, "down")
	}
	if key, ok := m.keys[id]; ok {
		return key, nil
	}
	return maf.RetrievedKey{}, muster.Refuse(muster.CodeKeyUnknown, "no such KeID")
}

type scene struct {
	*testing.T
	mef      *mefStub
	store    *mustertest.Memory
	function *maf.Function
}

func config() maf.Config {
	return maf.Config{
		FQDN: mafFQDN, MEFs: []maf.MEF{{FQDN: mefFQDN}}, KeIDLifetime: 10 * time.Minute,
		FetchTimeout: 3 * time.Second, RefusalMemory: 30 * time.Second, MaxKeys: 4, Rand: rand.Reader,
		Wire: must(primitive.NewWire(primitive.WireConfig{})), Administrators: []muster.FQDN{must(muster.ParseFQDN("admin.example.com"))},
	}
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, store: mustertest.NewMemory(), mef: &mefStub{keys: map[muster.KeID]maf.RetrievedKey{
		known: {Km: knownKm, EnroleeID: device, Lifetime: time.Hour},
	}}}
	s.function = must(maf.New(config(), s.store, s.records(), s.mef))
	return s
}

func (s *scene) records() tef.Stores { return tef.Stores{Registrations: s.store, Keys: s.store} }

func (s *scene) psk(identity string, after time.Duration) (muster.Km, error) {
	return s.function.PSK(s.Context(), identity, begin.Add(after))
}

func (s *scene) wantPSK(what, identity string, after time.Duration, want muster.Code) {
	s.Helper()
	km, err := s.psk(identity, after)
	if got := muster.CodeOf(err); got != want || err == nil && !km.Equal(knownKm) || err != nil && !km.IsZero() {
		s.Errorf("%s: code %q (%v), want %q", what, got, err, want)
	}
}

func (s *scene) wantCalls(what string, want int32) {
	s.Helper()
	if got := s.mef.calls.Load(); got != want {
		s.Errorf("%s: the MEF was asked %d times, not %d", what, got, want)
	}
}

func (s *scene) established(identity string, after time.Duration) error {
	_, err := s.function.Established(s.Context(), session(identity), begin.Add(after))
	return err
}

func session(identity string) *muster.Session {
	return muster.NewSession(muster.Peer{PSKIdentity: identity}, nil)
}

func kmID() string { return knownKm.KmID(mafFQDN).String() }

func TestFetchOnceThenStored(t *testing.T) {
	s := newScene(t)
	for range 3 {
		s.wantPSK("KeID", known.String(), 0, "")
	}
	s.wantPSK("KeID in lower case", strings.ToLower(known.String()), 0, "")
	s.wantPSK("KmID", kmID(), 0, "")
	s.wantCalls("all", 1)
}

func TestKmIDRetiresTheKeID(t *testing.T) {
	s := newScene(t)
	s.wantPSK("KeID", known.String(), 0, "")
	if err := s.established(known.String(), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.established(kmID(), time.Minute); err != nil {
		t.Fatal(err)
	}
	s.wantPSK("KeID after KmID", known.String(), time.Minute, muster.CodeKeyRetired)
	s.wantPSK("KmID", kmID(), time.Minute, "")
	s.wantCalls("a retired KeID is not fetched again", 1)
	if err := s.established(known.String(), time.Minute); muster.CodeOf(err) != muster.CodeKeyRetired {
		t.Errorf("a session that was opened by the KeID before goes on: %v", err)
	}
}

func TestKeIDAgesFromItsFirstSession(t *testing.T) {
	s := newScene(t)
	s.wantPSK("the fetch", known.String(), 0, "")
	s.wantPSK("long after a fetch that a stranger may have caused", known.String(), 40*time.Minute, "")
	if err := s.established(known.String(), 40*time.Minute); err != nil {
		t.Fatal(err)
	}
	s.wantPSK("within its time", known.String(), 50*time.Minute-time.Second, "")
	s.wantPSK("after its time", known.String(), 50*time.Minute, muster.CodeKeyRetired)
	s.wantPSK("KmID", kmID(), 50*time.Minute, "")
}

func TestNothingOutlivesTheLifetime(t *testing.T) {
	s := newScene(t)
	s.wantPSK("KeID", known.String(), 0, "")
	s.wantPSK("KmID at the end", kmID(), time.Hour, muster.CodeKeyUnknown)
	s.wantPSK("KeID at the end", known.String(), time.Hour, muster.CodeKeyRetired)
	s.wantCalls("an expired KeID is not fetched again", 1)
}

func TestIdentitiesThatAreRefusedWithoutAsking(t *testing.T) {
	s := newScene(t)
	unlisted := muster.NewKeID([16]byte{1}, must(muster.ParseFQDN("mef.example.net"))).String()
	for identity, want := range map[string]muster.Code{
		"": muster.CodeKeyUnknown, "x": muster.CodeKeyUnknown, "x@maf.example.com": muster.CodeKeyUnknown, "x@mef.example.com": muster.CodeKeyUnknown,
		unlisted: muster.CodeMEFNotListed, kmID(): muster.CodeKeyUnknown, strings.Repeat("a", 5000): muster.CodeKeyUnknown,
		strings.TrimSuffix(known.String(), "mef.example.com") + "maf.example.com": muster.CodeKeyUnknown,
	} {
		s.wantPSK(identity, identity, 0, want)
	}
	s.wantCalls("none of them", 0)
}

func TestRefusalIsRememberedForAWhile(t *testing.T) {
	s := newScene(t)
	unknown := muster.NewKeID([16]byte{9}, mefFQDN).String()
	for range 5 {
		s.wantPSK("unknown", unknown, 0, muster.CodeKeyUnknown)
	}
	s.wantCalls("repeated", 1)
	s.wantPSK("unknown, later", unknown, 30*time.Second, muster.CodeKeyUnknown)
	s.wantCalls("later", 2)
}

func TestUnreachableMEFIsAskedAgain(t *testing.T) {
	s := newScene(t)
	s.mef.down.Store(true)
	s.wantPSK("down", known.String(), 0, muster.CodeMEFUnreachable)
	s.mef.down.Store(false)
	s.wantPSK("up", known.String(), 0, "")
	s.wantCalls("both", 2)
}

func TestHandshakesShareAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.mef.delay = time.Second
		first, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for n := range 50 {
			ctx := t.Context()
			if n == 0 {
				ctx = first
			}
			group.Go(func() {
				if km, err := s.function.PSK(ctx, known.String(), begin); err != nil || !km.Equal(knownKm) {
					t.Errorf("handshake %d: %v", n, err)
				}
			})
		}
		synctest.Wait()
		cancel() // the first to come gives up, and ends the fetch for nobody
		group.Wait()
		s.wantCalls("fifty at once", 1)
	})
}

func TestFetchEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.mef.delay = time.Hour
		start := time.Now()
		s.wantPSK("slow", known.String(), 0, muster.CodeMEFUnreachable)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the fetch took %s", took)
		}
	})
}

func TestStrangersFillNoMemory(t *testing.T) {
	s := newScene(t)
	for n := range 10_000 {
		id := muster.NewKeID([16]byte{byte(n), byte(n >> 8), 1}, mefFQDN)
		s.wantPSK("invented", id.String(), 0, muster.CodeKeyUnknown)
	}
	if n := s.function.RefusalsRemembered(); n > 4096 {
		t.Errorf("%d refusals are remembered", n)
	}
}

func TestRegistrationAssignsTheKmID(t *testing.T) {
	s := newScene(t)
	s.wantPSK("KeID", known.String(), 0, "")
	request := must(tef.CreateRegistration(config().Wire, tef.MAF(), "1", tef.ClientRegistration{
		Function: mafFQDN, ClientID: device, AdminFQDN: config().Administrators[0],
	}))
	response, err := s.function.Serve(t.Context(), session(known.String()), request, begin.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	r := must(tef.ParseRegistration(config().Wire, tef.MAF(), response))
	if r.AssignedSymmKeyID.String() != kmID() || r.ClientID != device || !r.Expires.Equal(begin.Add(time.Hour)) {
		t.Errorf("registered %+v", r)
	}
	other := *request
	other.From = "//sp.example.com/other"
	_, err = s.function.Serve(t.Context(), session(known.String()), &other, begin)
	if muster.CodeOf(err) != muster.CodeOriginMismatch {
		t.Errorf("another originator: %v", err)
	}
	_, err = s.function.Serve(t.Context(), session("x"), request, begin)
	if primitive.StatusOf(err) != primitive.NotFound {
		t.Errorf("no credential: %v", err)
	}
}

// TestMEFAnswersForItsOwn has a MEF that answers for an Enrolee which is not its to
// enrol: nothing is stored, and the device of that name is not touched.
func TestMEFAnswersForItsOwn(t *testing.T) {
	for name, tt := range map[string]struct {
		configure func(*maf.Config)
		want      muster.Code
	}{
		"its domain":            {func(c *maf.Config) { c.MEFs[0].Enrolees = []string{"//other.example.com/", "//sp.example.com/"} }, ""},
		"its part of a domain":  {func(c *maf.Config) { c.MEFs[0].Enrolees = []string{"//sp.example.com/de"} }, ""},
		"another domain":        {func(c *maf.Config) { c.MEFs[0].Enrolees = []string{"//other.example.com/"} }, muster.CodeNotOfMEF},
		"a longer identifier":   {func(c *maf.Config) { c.MEFs[0].Enrolees = []string{"//sp.example.com/device"} }, muster.CodeNotOfMEF},
		"a certificate's owner": {func(c *maf.Config) { c.Clients = []maf.Client{certificateClient(t, device)} }, muster.CodeNotOfMEF},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			c := config()
			tt.configure(&c)
			s.function = must(maf.New(c, s.store, s.records(), s.mef))
			s.wantPSK("KeID", known.String(), 0, tt.want)
			if _, err := s.store.CredentialByKeID(t.Context(), known, begin); (err == nil) != (tt.want == "") {
				t.Errorf("stored: %v", err)
			}
		})
	}
}

// TestMEFsShareNoEnrolees by oversight: what one MEF answers for is another's only
// where both lists have it alike.
func TestMEFsShareNoEnrolees(t *testing.T) {
	s := newScene(t)
	another := must(muster.ParseFQDN("another-mef.example.com"))
	for name, c := range map[string]struct {
		one, other []string
		accepted   bool
	}{
		"apart":                   {[]string{"//a.example/"}, []string{"//b.example/", "//c.example/x"}, true},
		"shared by both":          {[]string{"//a.example/", "//b.example/"}, []string{"//a.example/"}, true},
		"nested in one list":      {[]string{"//a.example/", "//a.example/x"}, []string{"//b.example/"}, true},
		"domains alike":           {[]string{"//a.example/"}, []string{"//a.example.com/"}, true},
		"none":                    {nil, nil, false},
		"only one of them":        {[]string{"//a.example/"}, nil, false},
		"one within another":      {[]string{"//a.example/"}, []string{"//a.example/x"}, false},
		"the other way round":     {[]string{"//a.example/x"}, []string{"//b.example/", "//a.example/"}, false},
		"within, not the nearest": {[]string{"//a.example/", "//a.example/x"}, []string{"//a.example/xy"}, false},
	} {
		config := config()
		config.MEFs = []maf.MEF{{FQDN: mefFQDN, Enrolees: c.one}, {FQDN: another, Enrolees: c.other}}
		if _, err := maf.New(config, s.store, s.records(), s.mef); (err == nil) != c.accepted {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIncompleteConfigurations(t *testing.T) {
	s := newScene(t)
	for name, spoil := range map[string]func(*maf.Config){
		"FQDN":             func(c *maf.Config) { c.FQDN = muster.FQDN{} },
		"wire":             func(c *maf.Config) { c.Wire = nil },
		"MEF of one name":  func(c *maf.Config) { c.MEFs = append(c.MEFs, maf.MEF{FQDN: mafFQDN}) },
		"Enrolees' prefix": func(c *maf.Config) { c.MEFs[0].Enrolees = []string{"//sp.example.com"} },
		"bare prefix":      func(c *maf.Config) { c.MEFs[0].Enrolees = []string{"sp.example.com/"} },
		"empty domain":     func(c *maf.Config) { c.MEFs[0].Enrolees = []string{"///"} },
		"KeID lifetime":    func(c *maf.Config) { c.KeIDLifetime = 0 },
		"source of chance": func(c *maf.Config) { c.Rand = nil },
		"maximum of keys":  func(c *maf.Config) { c.MaxKeys = 0 },
		"fetch timeout":    func(c *maf.Config) { c.FetchTimeout = 0 },
	} {
		c := config()
		spoil(&c)
		if _, err := maf.New(c, s.store, s.records(), s.mef); err == nil {
			t.Errorf("made with a wrong %s", name)
		}
	}
}

// A lateStore has a handshake that looks for a credential and is then overtaken.
type lateStore struct {
	*mustertest.Memory
	overtake func() // called once
}

func (s *lateStore) CredentialByKeID(ctx context.Context, id muster.KeID, now time.Time) (maf.Credential, error) {
	c, err := s.Memory.CredentialByKeID(ctx, id, now)
	if overtake := s.overtake; overtake != nil {
		s.overtake = nil
		overtake()
	}
	return c, err
}

func TestHandshakeThatIsOvertakenDoesNotFetchAgain(t *testing.T) {
	s := newScene(t)
	store := &lateStore{Memory: s.store}
	s.function = must(maf.New(config(), store, s.records(), s.mef))
	store.overtake = func() { s.wantPSK("the one that overtakes", known.String(), 0, "") }
	s.wantPSK("the one that is overtaken", known.String(), 0, "")
	s.wantCalls("both", 1)
}
