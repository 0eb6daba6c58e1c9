package mef_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/mef"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

// A line is a peer's session with the MEF.
type line struct {
	*scene
	session *muster.Session
}

func (l *line) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	handler := primitive.HandlerFunc(func(ctx context.Context, session *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		return l.function.Serve(ctx, session, r, l.now)
	})
	return primitive.Serve(ctx, handler, l.session, r, l.now), nil
}

func (s *scene) requester(session *muster.Session, from string) *tef.Requester {
	n := 0
	return &tef.Requester{
		Party: tef.MEF(), Function: s.config.FQDN, From: from, Wire: s.config.Wire, Doer: &line{s, session},
		RequestID: func() string { n++; return strconv.Itoa(n) },
	}
}

func admin() muster.FQDN { return must(muster.ParseFQDN("admin.example.com")) }

// keyScene is a scene in which the Enrolee one has enrolled and registered, and
// two and the MAF have sessions.
func keyScene(t *testing.T) (s *scene, enrolment mef.Enrolment, one, two, maf *tef.Requester) {
	t.Helper()
	s = newScene(t, func(s *scene) { s.config.Administrators = []muster.FQDN{admin()} })
	device := s.session(t, s.pki.Enrolee(t, mustertest.DeviceName(t, 1)), "a")
	enrolment = must(s.function.Established(t.Context(), device, s.now))
	one = s.requester(device, enroleeID("one").String())
	if _, err := one.Register(t.Context(), tef.ClientRegistration{AdminFQDN: admin()}); err != nil {
		t.Fatal(err)
	}
	other := s.session(t, s.pki.NewLeaf(t, s.pki.OtherIntermediate, []muster.CertName{mustertest.DeviceName(t, 2)}, nil), "b")
	two = s.requester(other, enroleeID("two").String())
	maf = s.requester(s.session(t, s.pki.Function(t, "maf.example.com"), "m"), "maf.example.com")
	return s, enrolment, one, two, maf
}

func key(usage muster.SUID, targets ...string) tef.KeyRegistration {
	return tef.KeyRegistration{AdminFQDN: admin(), Usage: usage, Targets: targets}
}

func brought() muster.Kc { return must(muster.NewKc([]byte(strings.Repeat("k", 32)))) }

func wantStatus(t *testing.T, what string, err error, want primitive.Status) {
	t.Helper()
	if refusal, ok := errors.AsType[*primitive.Error](err); !ok || refusal.Status != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestRegisteredKeysOfAMEF(t *testing.T) {
	s, enrolment, one, two, maf := keyScene(t)
	made, err := one.RegisterKey(t.Context(), key(muster.SUIDForSAEF, enroleeID("two").String()))
	if err != nil {
		t.Fatal(err)
	}
	if made.ID.KeID() != enrolment.KeID || !made.Expires.Equal(enrolment.Expires) {
		t.Errorf("registered %+v, the enrolment is %s until %s", made, enrolment.KeID, enrolment.Expires)
	}
	got, err := two.RetrieveKey(t.Context(), made.ID)
	want := enrolment.Ke.ProvisionedConnectionKey(enroleeID("two")).Reveal()
	if err != nil || string(got.Key.Reveal()) != string(want) || got.Source != enroleeID("one") {
		t.Errorf("retrieved %+v, %v", got, err)
	}
	_, err = one.RegisterKey(t.Context(), key(muster.SUIDForMAF, "maf.example.com"))
	wantStatus(t, "a second key from one Ke", err, primitive.Conflict)

	s.now = s.now.Add(time.Minute)
	if again := must(one.UpdateKey(t.Context(), made.ID, nil, nil, enrolment.Expires.Add(time.Hour))); !again.Expires.Equal(enrolment.Expires) {
		t.Errorf("a key that is derived from Ke outlives it: %s", again.Expires)
	}
	// The MAF is a target of the enrolment, and so gets Km, whatever is registered.
	if km := must(maf.RetrieveKey(t.Context(), made.ID)); km.Usage != muster.SUIDForMAF {
		t.Errorf("the MAF got %+v", km)
	}
}

func TestKeyThatRefersToKe(t *testing.T) {
	s, enrolment, one, two, maf := keyScene(t)
	made := must(one.RegisterKey(t.Context(), key(muster.SUIDForMAF, "maf.example.com")))
	want := must(enrolment.Ke.MasterCredential(s.config.Derivation, must(muster.ParseFQDN("maf.example.com"))))
	for range s.config.MaxFetches {
		got := must(maf.RetrieveKey(t.Context(), made.ID))
		if string(got.Key.Reveal()) != string(want.Reveal()) || got.AdminFQDN != admin() || got.Usage != muster.SUIDForMAF {
			t.Errorf("retrieved %+v", got)
		}
	}
	_, err := maf.RetrieveKey(t.Context(), made.ID)
	wantStatus(t, "more often than permitted", err, primitive.NotFound)
	_, err = two.RetrieveKey(t.Context(), made.ID)
	wantStatus(t, "an Enrolee", err, primitive.NotFound)
	_, err = one.UpdateKey(t.Context(), made.ID, nil, []string{"maf.example.net"}, time.Time{})
	wantStatus(t, "another target", err, primitive.BadRequest)
}

func TestWithdrawnEnrolmentIsNotFetched(t *testing.T) {
	_, enrolment, one, _, maf := keyScene(t)
	made := must(one.RegisterKey(t.Context(), key(muster.SUIDForMAF, "maf.example.com")))
	if err := one.DeregisterKey(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	_, err := maf.RetrieveKey(t.Context(), tef.NewKeyID(enrolment.KeID.Relative(), enrolment.KeID.MEF()))
	wantStatus(t, "after the de-registration", err, primitive.NotFound)
}

func TestMAFRetrievesWhatItFetches(t *testing.T) {
	s, enrolment, one, _, maf := keyScene(t)
	session := maf.Doer.(*line).session
	fetched := must(s.function.FetchCredential(t.Context(), session, "", enrolment.KeID, muster.SUIDForMAF, s.now))
	retrieved := must(maf.RetrieveKey(t.Context(), tef.NewKeyID(enrolment.KeID.Relative(), enrolment.KeID.MEF())))
	if string(fetched.Km.Reveal()) != string(retrieved.Key.Reveal()) || fetched.EnroleeID != retrieved.Source || fetched.Lifetime != retrieved.Expires.Sub(s.now) {
		t.Errorf("fetched %+v, retrieved %+v", fetched, retrieved)
	}
	// A key that the Enrolee brought is fetched in the same way.
	wanted := key(muster.SUIDForMAF, "maf.example.com")
	wanted.Key = brought()
	made := must(one.RegisterKey(t.Context(), wanted))
	again := must(s.function.FetchCredential(t.Context(), session, "maf.example.com", made.ID.KeID(), muster.SUIDForMAF, s.now))
	if string(again.Km.Reveal()) != string(brought().Reveal()) || again.EnroleeID != enroleeID("one") {
		t.Errorf("fetched %+v", again)
	}
	_, err := s.function.FetchCredential(t.Context(), session, "", made.ID.KeID(), muster.SUIDForSAEF, s.now)
	wantCode(t, err, muster.CodeNotTarget)
}

func TestKeysThatAMEFDoesNotDerive(t *testing.T) {
	_, _, one, two, _ := keyScene(t)
	for what, wanted := range map[string]tef.KeyRegistration{
		"end-to-end primitives": key(muster.SUIDForESPrim, enroleeID("two").String()),
		"end-to-end data":       key(muster.SUIDForESDataEncryption, enroleeID("two").String()),
		"several targets":       key(muster.SUIDForESDataIntegrity, enroleeID("two").String(), enroleeID("three").String()),
	} {
		_, err := one.RegisterKey(t.Context(), wanted)
		wantStatus(t, what, err, primitive.BadRequest)
		wanted.Key = brought()
		made, err := one.RegisterKey(t.Context(), wanted)
		if err != nil {
			t.Fatalf("%s, with a key: %v", what, err)
		}
		if got := must(two.RetrieveKey(t.Context(), made.ID)); !got.Key.Equal(brought()) {
			t.Errorf("%s: another key", what)
		}
	}
	_, err := one.RegisterKey(t.Context(), key(muster.SUIDForMAF, "maf.example.net"))
	wantStatus(t, "a MAF that is no target of the instruction", err, primitive.OriginatorHasNoPrivilege)
	elsewhere := key(muster.SUIDForMAF, "maf.example.net")
	elsewhere.Key = brought()
	_, err = one.RegisterKey(t.Context(), elsewhere)
	wantStatus(t, "the same with a key", err, primitive.OriginatorHasNoPrivilege)
	here := key(muster.SUIDForMAF, "maf.example.com")
	here.Key = brought()
	made := must(one.RegisterKey(t.Context(), here))
	_, err = one.UpdateKey(t.Context(), made.ID, nil, []string{"maf.example.net"}, time.Time{})
	wantStatus(t, "the same by an update", err, primitive.OriginatorHasNoPrivilege)
}

func TestVerdictWithholdsRegisteredKeys(t *testing.T) {
	s, _, one, two, _ := keyScene(t)
	made := must(one.RegisterKey(t.Context(), key(muster.SUIDForSAEF, enroleeID("two").String())))
	must(two.RetrieveKey(t.Context(), made.ID))
	rules := s.config.Rules
	rules.Verdicts = []mef.Verdict{{Sentence: mef.SentenceBan, EnroleeID: enroleeID("one")}}
	if err := s.function.Replace(rules); err != nil {
		t.Fatal(err)
	}
	_, err := two.RetrieveKey(t.Context(), made.ID)
	wantStatus(t, "the key of a banned Enrolee", err, primitive.NotFound)
}

// A MAF that guesses gets the same octets for what is another's and for what does
// not exist.
func TestGuessesOfAMAFLookLikeTheUnknown(t *testing.T) {
	s, enrolment, one, _, _ := keyScene(t)
	registered := key(muster.SUIDForSAEF, enroleeID("two").String())
	registered.Key = brought()
	made := must(one.RegisterKey(t.Context(), registered))
	stranger := &line{s, s.session(t, s.pki.Function(t, "maf.example.net"), "n")}
	ask := func(id string) string {
		relative, _, _ := strings.Cut(id, "@")
		response := must(stranger.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: s.config.Wire.To(relative), From: "maf.example.net", RequestID: "1"}))
		return string(must(response.Encode(primitive.JSON)))
	}
	unknown := ask(strings.Repeat("0", 32))
	for what, id := range map[string]string{"an enrolment for another MAF": enrolment.KeID.String(), "a key for another": made.ID.String()} {
		if got := ask(id); got != unknown || !strings.Contains(got, "4004") {
			t.Errorf("%s: %s, and for the unknown %s", what, got, unknown)
		}
	}
}

// A MAF that was a target when the Enrolee enrolled gets nothing once it is none,
// and an Enrolee without an instruction is served to nobody.
func TestFormerTargetsFetchNothing(t *testing.T) {
	s, enrolment, one, _, maf := keyScene(t)
	wanted := key(muster.SUIDForMAF, "maf.example.com")
	wanted.Key = brought()
	registered := must(one.RegisterKey(t.Context(), wanted)).ID
	enrolled := tef.NewKeyID(enrolment.KeID.Relative(), enrolment.KeID.MEF())
	rules := s.config.Rules
	isOne := func(in mef.Instruction) bool { return in.EnroleeID == enroleeID("one") }
	for what, change := range map[string]struct {
		to    func([]mef.Instruction) []mef.Instruction
		taken bool
	}{
		"other targets": {func(all []mef.Instruction) []mef.Instruction {
			all[slices.IndexFunc(all, isOne)].Targets = []muster.FQDN{must(muster.ParseFQDN("maf.example.net"))}
			return all
		}, true},
		"no instruction": {func(all []mef.Instruction) []mef.Instruction { return slices.DeleteFunc(all, isOne) }, true},
		"another target more": {func(all []mef.Instruction) []mef.Instruction {
			in := &all[slices.IndexFunc(all, isOne)]
			in.Targets = append(slices.Clone(in.Targets), must(muster.ParseFQDN("maf.example.net")))
			return all
		}, false},
	} {
		changed := rules
		changed.Instructions = change.to(slices.Clone(rules.Instructions))
		if err := s.function.Replace(changed); err != nil {
			t.Fatal(err)
		}
		for kind, id := range map[string]tef.KeyID{"an enrolment": enrolled, "a registered key": registered} {
			if _, err := maf.RetrieveKey(t.Context(), id); (err != nil) != change.taken {
				t.Errorf("%s after %s: %v", kind, what, err)
			} else if err != nil {
				wantStatus(t, kind+" after "+what, err, primitive.NotFound)
			}
		}
	}
}

// What is withheld is not spent: a MAF that asks again and again while an Enrolee
// is suspended gets the key when it is not any more.
func TestWithheldFetchesAreNotCounted(t *testing.T) {
	s, enrolment, _, _, maf := keyScene(t)
	enrolled := tef.NewKeyID(enrolment.KeID.Relative(), enrolment.KeID.MEF())
	rules := s.config.Rules
	suspended := rules
	suspended.Verdicts = []mef.Verdict{{Sentence: mef.SentenceSuspend, EnroleeID: enroleeID("one")}}
	if err := s.function.Replace(suspended); err != nil {
		t.Fatal(err)
	}
	for range s.config.MaxFetches + 1 {
		_, err := maf.RetrieveKey(t.Context(), enrolled)
		wantStatus(t, "suspended", err, primitive.NotFound)
	}
	s.now = s.now.Add(s.config.FetchWindow + time.Second)
	if err := s.function.Replace(rules); err != nil {
		t.Fatal(err)
	}
	for range s.config.MaxFetches {
		must(maf.RetrieveKey(t.Context(), enrolled))
	}
	_, err := maf.RetrieveKey(t.Context(), enrolled)
	wantStatus(t, "spent", err, primitive.NotFound)
}

// A group's targets are found by the form of the Enrolee-ID, and an instruction for
// one device of the group goes before that of the group.
func TestFormerTargetsOfAGroup(t *testing.T) {
	name := mustertest.DeviceName(t, 3)
	prefix := name.Text[:strings.LastIndex(name.Text, ".")+1]
	targets := []muster.FQDN{must(muster.ParseFQDN("maf.example.net"))}
	var group mef.Instruction
	s := newScene(t, func(s *scene) {
		group = s.group(t, prefix+"*", "//sp.example.com/g-{rest}")
		s.config.Instructions = append(s.config.Instructions, group)
	})
	device := s.session(t, s.pki.Enrolee(t, name), "g")
	enrolment := must(s.function.Established(t.Context(), device, s.now))
	maf := s.requester(s.session(t, s.pki.Function(t, "maf.example.com"), "m"), "maf.example.com")
	override := s.one(t, name, enrolment.EnroleeID.String())
	former := group
	former.Targets = targets
	formerOverride := override
	formerOverride.Targets = targets
	for _, c := range []struct {
		what    string
		rules   []mef.Instruction
		granted bool
	}{
		{"the same", []mef.Instruction{group}, true},
		{"other targets", []mef.Instruction{former}, false},
		{"one device kept", []mef.Instruction{former, override}, true},
		{"one device taken", []mef.Instruction{group, formerOverride}, false},
		{"no instruction", nil, false},
	} {
		rules := s.config.Rules
		rules.Instructions = c.rules
		if err := s.function.Replace(rules); err != nil {
			t.Fatal(err)
		}
		if _, err := maf.RetrieveKey(t.Context(), tef.NewKeyID(enrolment.KeID.Relative(), enrolment.KeID.MEF())); (err == nil) != c.granted {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// A Master Credential that the Enrolee has brought is handed over as often as one
// that is derived, and as long.
func TestBroughtMasterCredentialIsSpent(t *testing.T) {
	s, _, one, _, maf := keyScene(t)
	wanted := key(muster.SUIDForMAF, "maf.example.com")
	for n := range 2 {
		wanted.Key = brought()
		made := must(one.RegisterKey(t.Context(), wanted))
		if n == 0 {
			for range s.config.MaxFetches {
				must(maf.RetrieveKey(t.Context(), made.ID))
			}
		} else {
			must(maf.RetrieveKey(t.Context(), made.ID))
			s.now = s.now.Add(s.config.FetchWindow + time.Second)
		}
		_, err := maf.RetrieveKey(t.Context(), made.ID)
		wantStatus(t, "spent", err, primitive.NotFound)
		if again := must(one.UpdateKey(t.Context(), made.ID, []string{"spent"}, nil, time.Time{})); again.ID != made.ID {
			t.Errorf("the source sees %+v", again)
		}
	}
}
