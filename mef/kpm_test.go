package mef_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/mef"
	"muster/mustertest"
)

var (
	kpmOld = must(muster.ParseKpmID("device-1@factory.example.com"))
	kpmNew = must(muster.ParseKpmID("device-1.b@factory.example.com"))
)

func kpmOf(fill string) muster.Kpm { return must(muster.NewKpm([]byte(strings.Repeat(fill, 32)))) }

// newKeyScene is a scene with a third Enrolee, which has pre-provisioned keys and
// no certificate.
func newKeyScene(t *testing.T, ids ...muster.KpmID) *scene {
	t.Helper()
	s := newScene(t, func(s *scene) {
		s.config.Kpms = s.store
		in := s.config.Instructions[0]
		in.Certificate, in.Anchors, in.EnroleeID, in.KpmIDs = muster.CertName{}, nil, enroleeID("three"), ids
		s.config.Instructions = append(s.config.Instructions, in)
	})
	s.importKpm(t, kpmOld, "o", 0)
	return s
}

func (s *scene) importKpm(t *testing.T, id muster.KpmID, fill string, after time.Duration) {
	t.Helper()
	must(s.store.ImportKpms(t.Context(), mef.Import{Overlap: time.Hour, Kpms: []mef.ProvisionedKpm{
		{KpmID: id, EnroleeID: enroleeID("three"), Kpm: kpmOf(fill), Created: s.now.Add(after)},
	}}))
}

func keySession(id muster.KpmID, fill string) *muster.Session {
	return muster.NewSession(muster.Peer{PSKIdentity: id.String()}, func(label string, _ []byte, n int) ([]byte, error) {
		return []byte(strings.Repeat(fill+label, n)[:n]), nil
	})
}

func (s *scene) wantKpm(t *testing.T, what string, id muster.KpmID, fill string, after time.Duration, want muster.Code) {
	t.Helper()
	kpm, err := s.function.PSK(t.Context(), id.String(), s.now.Add(after))
	if got := muster.CodeOf(err); got != want || err == nil && !kpm.Equal(kpmOf(fill)) || err != nil && !kpm.IsZero() {
		t.Errorf("%s: code %q (%v), want %q", what, got, err, want)
	}
}

// TestKeyLeadsWhereACertificateLeads enrols with a Kpm and fetches as ever.
func TestKeyLeadsWhereACertificateLeads(t *testing.T) {
	t.Parallel()
	s := newKeyScene(t, kpmOld)
	s.wantKpm(t, "the key", kpmOld, "o", 0, "")
	enrolment, err := s.function.Established(t.Context(), keySession(kpmOld, "k"), s.now)
	if err != nil {
		t.Fatal(err)
	}
	if enrolment.EnroleeID != enroleeID("three") || !enrolment.Certificate.IsZero() || enrolment.KeID.MEF() != s.config.FQDN || !enrolment.Expires.Equal(s.now.Add(time.Hour)) {
		t.Errorf("stored %+v", enrolment)
	}
	maf := s.session(t, s.pki.Function(t, "maf.example.com"), "m")
	key, err := s.function.FetchCredential(t.Context(), maf, "", enrolment.KeID, muster.SUIDForMAF, s.now)
	want := must(enrolment.Ke.MasterCredential(muster.ProfileMasterCredential, must(muster.ParseFQDN("maf.example.com"))))
	if err != nil || !key.Km.Equal(want) || key.EnroleeID != enroleeID("three") {
		t.Errorf("fetched %+v, %v", key, err)
	}
	if _, err := s.function.FetchCredential(t.Context(), keySession(kpmOld, "x"), "", enrolment.KeID, muster.SUIDForMAF, s.now); err == nil {
		t.Error("an Enrolee fetched what is for a MAF")
	}
}

// TestRotation has a second KpmID for the Enrolee: both work until the newer one
// has been used, or the overlap has ended.
func TestRotation(t *testing.T) {
	t.Parallel()
	s := newKeyScene(t, kpmOld, kpmNew)
	s.importKpm(t, kpmNew, "n", time.Minute)
	s.wantKpm(t, "the old one", kpmOld, "o", 2*time.Minute, "")
	s.wantKpm(t, "the new one", kpmNew, "n", 2*time.Minute, "")
	for i, id := range []muster.KpmID{kpmOld, kpmNew} {
		if _, err := s.function.Established(t.Context(), keySession(id, string(rune('a'+i))), s.now.Add(2*time.Minute)); err != nil {
			t.Fatal(id, err)
		}
	}
	s.wantKpm(t, "the old one after the new one", kpmOld, "", 3*time.Minute, muster.CodeKeyUnknown)
	_, err := s.function.Established(t.Context(), keySession(kpmOld, "c"), s.now.Add(3*time.Minute))
	wantCode(t, err, muster.CodeKeyUnknown)

	s = newKeyScene(t, kpmOld, kpmNew)
	s.importKpm(t, kpmNew, "n", 0)
	s.wantKpm(t, "the old one at the end", kpmOld, "", time.Hour, muster.CodeKeyUnknown)
	s.wantKpm(t, "the new one", kpmNew, "n", time.Hour, "")
}

// countingKpms counts how often a store is asked.
type countingKpms struct {
	mef.KpmStore
	asked int
}

func (c *countingKpms) Kpm(ctx context.Context, id muster.KpmID, now time.Time) (mef.ProvisionedKpm, error) {
	c.asked++
	return c.KpmStore.Kpm(ctx, id, now)
}

// TestRefusedKpmIDs asks the store once for each KpmID, known or not.
func TestRefusedKpmIDs(t *testing.T) {
	t.Parallel()
	s := newKeyScene(t, kpmOld)
	s.importKpm(t, kpmNew, "n", 0) // which no instruction names
	counting := &countingKpms{KpmStore: s.store}
	config := s.config
	config.Kpms = counting
	s.function = must(mef.New(config, s.store, s.records()))
	for identity, asks := range map[string]int{
		kpmNew.String(): 1, "stranger@factory.example.com": 1, strings.ToUpper(kpmOld.String()[:8]) + kpmOld.String()[8:]: 1,
		"": 0, "device-1": 0, strings.Repeat("x", 500): 0, strings.Repeat("0", 32) + "@mef.example.com": 1,
	} {
		counting.asked = 0
		kpm, err := s.function.PSK(t.Context(), identity, s.now)
		if muster.CodeOf(err) != muster.CodeKeyUnknown || !kpm.IsZero() || counting.asked != asks {
			t.Errorf("%q: %v, the store asked %d times", identity, err, counting.asked)
		}
	}
	for range 1000 { // a stranger's attempts count for nothing
		s.wantKpm(t, "the owner", kpmOld, "o", 0, "")
	}
	config.Kpms = nil
	s.function = must(mef.New(config, s.store, s.records()))
	s.wantKpm(t, "a MEF without keys", kpmOld, "", 0, muster.CodeKeyUnknown)
	_, err := s.function.Established(t.Context(), keySession(kpmOld, "k"), s.now)
	wantCode(t, err, muster.CodeKeyUnknown)
}

// TestKeyOfAnotherEnrolee has an instruction that was given to another Enrolee
// since the key was imported.
func TestKeyOfAnotherEnrolee(t *testing.T) {
	t.Parallel()
	s := newKeyScene(t, kpmOld)
	rules := s.config.Rules
	rules.Instructions = slices.Clone(rules.Instructions)
	rules.Instructions[2].EnroleeID = enroleeID("four")
	if err := s.function.Replace(rules); err != nil {
		t.Fatal(err)
	}
	s.wantKpm(t, "another Enrolee", kpmOld, "", 0, muster.CodeKeyUnknown)
	rules.Instructions = rules.Instructions[:2]
	if err := s.function.Replace(rules); err != nil {
		t.Fatal(err)
	}
	s.wantKpm(t, "no instruction", kpmOld, "", 0, muster.CodeKeyUnknown)
	_, err := s.function.Established(t.Context(), keySession(kpmOld, "k"), s.now)
	wantCode(t, err, muster.CodeKeyUnknown)
}

func TestVerdictsOnKeys(t *testing.T) {
	t.Parallel()
	for sentence, want := range map[mef.Sentence]muster.Code{mef.SentenceBan: muster.CodeBanned, mef.SentenceSuspend: muster.CodeSuspended} {
		s := newKeyScene(t, kpmOld)
		rules := s.config.Rules
		rules.Verdicts = []mef.Verdict{{Sentence: sentence, EnroleeID: enroleeID("three")}}
		if err := s.function.Replace(rules); err != nil {
			t.Fatal(err)
		}
		_, err := s.function.PSK(t.Context(), kpmOld.String(), s.now)
		wantCode(t, err, want)
		if !strings.Contains(err.Error(), kpmOld.String()) {
			t.Errorf("the refusal does not name the KpmID: %v", err)
		}
	}
}

func TestContradictoryKeys(t *testing.T) {
	t.Parallel()
	s := newKeyScene(t, kpmOld)
	for name, spoil := range map[string]func(*mef.Instruction){
		"a certificate too":        func(in *mef.Instruction) { in.Certificate = mustertest.DeviceName(t, 9) },
		"a root":                   func(in *mef.Instruction) { in.Anchors = s.config.Instructions[0].Anchors },
		"no Enrolee-ID":            func(in *mef.Instruction) { in.EnroleeID = muster.EnroleeID{} },
		"another's Enrolee-ID":     func(in *mef.Instruction) { in.EnroleeID = enroleeID("one") },
		"another's KpmID":          func(in *mef.Instruction) { in.KpmIDs = []muster.KpmID{kpmNew, kpmOld} },
		"an empty KpmID":           func(in *mef.Instruction) { in.KpmIDs = []muster.KpmID{{}} },
		"a KpmID twice":            func(in *mef.Instruction) { in.KpmIDs = []muster.KpmID{kpmNew, kpmNew} },
		"no target":                func(in *mef.Instruction) { in.Targets = nil },
		"neither key nor name":     func(in *mef.Instruction) { in.KpmIDs = nil },
		"a pattern beside a KpmID": func(in *mef.Instruction) { in.Pattern = must(mef.ParsePattern(muster.FlavourDevice, "*")) },
	} {
		in := s.config.Instructions[2]
		in.KpmIDs, in.EnroleeID = []muster.KpmID{kpmNew}, enroleeID("four")
		spoil(&in)
		rules := s.config.Rules
		rules.Instructions = append(slices.Clone(rules.Instructions), in)
		if err := s.function.Replace(rules); err == nil {
			t.Errorf("accepted in spite of: %s", name)
		}
	}
	seen := 0
	for rule := range s.function.Rules() {
		if rule.Name == kpmOld.String() && rule.EnroleeID == enroleeID("three") {
			seen++
		}
	}
	if seen != 1 {
		t.Errorf("the rule is listed %d times", seen)
	}
}
