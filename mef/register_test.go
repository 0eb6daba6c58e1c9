package mef_test

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mef"
	"muster/mustertest"
)

// group is an instruction for a pattern of device names.
func (s *scene) group(t testing.TB, pattern, template string, anchors ...*x509.Certificate) mef.Instruction {
	t.Helper()
	p := must(mef.ParsePattern(muster.FlavourDevice, pattern))
	if anchors == nil {
		anchors = []*x509.Certificate{s.pki.Root.Certificate}
	}
	return mef.Instruction{
		Pattern: p, Template: must(mef.ParseTemplate(template, p)), Anchors: anchors,
		Targets: []muster.FQDN{must(muster.ParseFQDN("maf.example.com"))}, Lifetime: time.Hour,
	}
}

func (s *scene) one(t testing.TB, name muster.CertName, id string, anchors ...*x509.Certificate) mef.Instruction {
	t.Helper()
	if anchors == nil {
		anchors = []*x509.Certificate{s.pki.Root.Certificate}
	}
	return mef.Instruction{
		Certificate: name, EnroleeID: must(muster.ParseEnroleeID(id)), Anchors: anchors,
		Targets: []muster.FQDN{must(muster.ParseFQDN("maf.example.com"))}, Lifetime: time.Hour,
	}
}

func deviceNamed(text string) muster.CertName {
	return must(cert.ParseName(muster.FlavourDevice, text))
}

// enrolledAs returns the Enrolee-ID that a device with the names gets, or the
// code of its refusal.
func (s *scene) enrolledAs(t testing.TB, issuer *mustertest.Authority, names ...muster.CertName) string {
	t.Helper()
	chain := s.pki.NewLeaf(t, issuer, names, []cert.Usage{cert.UsageClient}).Chain
	peer, err := s.function.VerifyPeer(chain, s.now)
	explanation := s.function.Explain(chain, s.now)
	if fmt.Sprint(explanation.Err) != fmt.Sprint(err) || explanation.Peer != peer {
		t.Errorf("the handshake says %v, %v, and explain %v, %v", peer, err, explanation.Peer, explanation.Err)
	}
	if err != nil {
		return string(muster.CodeOf(err))
	}
	if explanation.Rule == nil {
		t.Fatal("accepted without a rule")
	}
	session := muster.NewSession(peer, func(label string, _ []byte, n int) ([]byte, error) {
		return []byte(strings.Repeat(peer.Certificate.String()+label, n)[:n]), nil
	})
	enrolment, err := s.function.Established(t.Context(), session, s.now)
	if err != nil {
		return string(muster.CodeOf(err))
	}
	if enrolment.EnroleeID != explanation.Rule.EnroleeID {
		t.Errorf("enrolled as %s and explained as %s", enrolment.EnroleeID, explanation.Rule.EnroleeID)
	}
	return enrolment.EnroleeID.String()
}

func TestExactBeatsPatternBeatsGroup(t *testing.T) {
	s := newScene(t, func(s *scene) {
		other := s.pki.OtherRoot.Certificate
		s.config.Instructions = []mef.Instruction{
			s.group(t, "*", "//all.example/{name}"),
			s.group(t, "0.2.481.1/100.*", "//maker.example/{model}-{serial}"),
			s.group(t, "0.2.481.1/100.7.*", "//model.example/{serial}"),
			s.one(t, deviceNamed("0.2.481.1/100.7.1"), "//one.example/x"),
			s.group(t, "0.2.481.1/100.7.*", "//other.example/{serial}", other),
		}
	})
	for name, want := range map[string]string{
		"0.2.481.1/100.7.1":     "//one.example/x",
		"0.2.481.1/100.7.2":     "//model.example/2",
		"0.2.481.1/100.7.1.9":   "//model.example/1.9",
		"0.2.481.1/100.70.1":    "//maker.example/70-1",
		"0.2.481.1/10.7.1":      "//all.example/0.2.481.1/10.7.1",
		"hwmodule:1.3.6.1:0a0b": "//all.example/hwmodule:1.3.6.1:0a0b",
	} {
		if got := s.enrolledAs(t, s.pki.Intermediate, deviceNamed(name)); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
	// Under the other root only one rule is meant, for all that is more specific
	// under the first.
	for name, want := range map[string]string{
		"0.2.481.1/100.7.1":  "//other.example/1",
		"0.2.481.1/100.70.1": string(muster.CodeAnchorMismatch),
	} {
		if got := s.enrolledAs(t, s.pki.OtherIntermediate, deviceNamed(name)); got != want {
			t.Errorf("under the other root %s is %s, not %s", name, got, want)
		}
	}
	// Of several names, the most specific rule under the root that issued them.
	two := []muster.CertName{deviceNamed("0.2.481.1/10.7.1"), deviceNamed("0.2.481.1/100.7.1")}
	if got := s.enrolledAs(t, s.pki.Intermediate, two...); got != "//one.example/x" {
		t.Errorf("a certificate with two names is %s", got)
	}
}

func TestEnroleeIDThatCannotBeFormed(t *testing.T) {
	p := must(mef.ParsePattern(muster.FlavourAEID, "//sp.example/*"))
	s := newScene(t, func(s *scene) {
		in := s.group(t, "*", "//all.example/{name}")
		in.Pattern, in.Template = p, must(mef.ParseTemplate("{id}", p))
		s.config.Instructions = []mef.Instruction{in}
	})
	name := func(text string) muster.CertName { return must(cert.ParseName(muster.FlavourAEID, text)) }
	if got := s.enrolledAs(t, s.pki.Intermediate, name("//sp.example/C1/S2")); got != "//sp.example/C1/S2" {
		t.Errorf("an AE-ID is %s", got)
	}
	if got := s.enrolledAs(t, s.pki.Intermediate, name("//sp.example/a/b/c")); got != string(muster.CodeEnroleeID) {
		t.Errorf("an AE-ID of too many segments is %s", got)
	}
}

func TestConflictsNameBothRules(t *testing.T) {
	s := newScene(t, nil)
	other := s.pki.OtherRoot.Certificate
	both := []*x509.Certificate{s.pki.Root.Certificate, other}
	device := deviceNamed("0.2.481.1/100.7.1")
	for name, c := range map[string]struct {
		one, two mef.Instruction
		accepted bool
	}{
		"one name, one root":             {one: s.one(t, device, "//a.example/1"), two: s.one(t, device, "//a.example/2", both...)},
		"one pattern, one root":          {one: s.group(t, "0.2.481.1/*", "//a.example/{rest}"), two: s.group(t, "0.2.481.1/*", "//b.example/{rest}", both...)},
		"one group, one root":            {one: s.group(t, "*", "//a.example/{name}"), two: s.group(t, "*", "//b.example/{name}")},
		"one Enrolee-ID written twice":   {one: s.one(t, device, "//a.example/1"), two: s.one(t, deviceNamed("0.2.481.1/1.1.1"), "//a.example/1")},
		"one Enrolee-ID, two roots":      {one: s.one(t, device, "//a.example/1"), two: s.one(t, device, "//a.example/1", other)},
		"written and formed":             {one: s.one(t, deviceNamed("0.2.481.1/1.1.1"), "//a.example/7-2"), two: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}")},
		"formed alike, two roots":        {one: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}"), two: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}", other)},
		"nested, two roots":              {one: s.group(t, "0.2.481.1/100.*", "//a.example/{manufacturer}-{model}-{serial}"), two: s.group(t, "0.2.481.1/100.7.*", "//a.example/{manufacturer}-{model}-{serial}", other)},
		"whole names nested, two roots":  {one: s.group(t, "*", "//a.example/{name}"), two: s.group(t, "0.2.481.1/100.7.*", "//a.example/{name}", other)},
		"one head, other manufacturers":  {one: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}"), two: s.group(t, "0.2.481.1/200.*", "//a.example/{model}-{serial}")},
		"one head, other templates":      {one: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}"), two: s.group(t, "0.2.481.1/200.*", "//a.example/{model}_{serial}")},
		"a head within another":          {one: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}"), two: s.group(t, "0.2.481.1/200.*", "//a.example/7-{model}-{serial}")},
		"rests":                          {one: s.group(t, "0.2.481.1/100.*", "//a.example/{rest}"), two: s.group(t, "0.2.481.1/200.*", "//a.example/{rest}")},
		"a name under two roots":         {one: s.one(t, device, "//a.example/1"), two: s.one(t, device, "//a.example/2", other), accepted: true},
		"written for the device itself":  {one: s.one(t, device, "//a.example/7-1"), two: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}"), accepted: true},
		"for itself under another root":  {one: s.one(t, device, "//a.example/7-1", other), two: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}")},
		"written of another form":        {one: s.one(t, device, "//a.example/gateway"), two: s.group(t, "0.2.481.1/100.*", "//a.example/{model}-{serial}"), accepted: true},
		"other manufacturers, with them": {one: s.group(t, "0.2.481.1/100.*", "//a.example/{manufacturer}-{model}-{serial}"), two: s.group(t, "0.2.481.1/200.*", "//a.example/{manufacturer}-{model}-{serial}"), accepted: true},
		"nested, the same roots":         {one: s.group(t, "0.2.481.1/*", "//a.example/{manufacturer}-{model}-{serial}", both...), two: s.group(t, "0.2.481.1/100.*", "//a.example/{manufacturer}-{model}-{serial}", both...), accepted: true},
	} {
		for order, rules := range [][]mef.Instruction{{c.one, c.two}, {c.two, c.one}} {
			err := s.function.Replace(mef.Rules{Instructions: rules})
			switch {
			case c.accepted && err != nil:
				t.Errorf("%s, %d: %v", name, order, err)
			case !c.accepted && err == nil:
				t.Errorf("%s, %d: accepted", name, order)
			case !c.accepted && !strings.Contains(strings.Replace(err.Error(), "instruction for ", "", 1), "instruction for ") &&
				!strings.Contains(err.Error(), "twice under different roots"):
				t.Errorf("%s, %d: does not name both rules: %v", name, order, err)
			}
		}
	}
}

func TestInstructionIsForOneOrAGroup(t *testing.T) {
	s := newScene(t, nil)
	for name, change := range map[string]func(*mef.Instruction){
		"both a name and a pattern":    func(in *mef.Instruction) { in.Certificate = deviceNamed("0.2.481.1/1.1.1") },
		"a group with one Enrolee-ID":  func(in *mef.Instruction) { in.EnroleeID = enroleeID("one") },
		"a group without a template":   func(in *mef.Instruction) { in.Template = mef.Template{} },
		"another pattern's template":   func(in *mef.Instruction) { in.Pattern = must(mef.ParsePattern(muster.FlavourDevice, "0.2.*")) },
		"a template without a pattern": func(in *mef.Instruction) { in.Pattern = mef.Pattern{} },
	} {
		in := s.group(t, "0.2.481.1/*", "//a.example/{rest}")
		change(&in)
		if err := s.function.Replace(mef.Rules{Instructions: []mef.Instruction{in}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReplaceKeepsSessionsAndRefusesTheBad(t *testing.T) {
	s := newScene(t, nil)
	one := mustertest.DeviceName(t, 1)
	device := s.session(t, s.pki.Enrolee(t, one), "a")
	maf := s.session(t, s.pki.Function(t, "maf.example.com"), "m")
	rules := s.config.Rules

	// A contradiction leaves the old rules in force.
	bad := rules
	bad.Instructions = append(bad.Instructions[:2:2], bad.Instructions[0])
	if s.function.Replace(bad) == nil {
		t.Fatal("a contradiction was accepted")
	}
	enrolment, err := s.function.Established(t.Context(), device, s.now)
	if err != nil {
		t.Fatal(err)
	}
	// A new root beside the old: sessions of before go on, and both are accepted.
	more := rules
	more.Instructions = append([]mef.Instruction(nil), rules.Instructions...)
	more.Instructions[0].Anchors = []*x509.Certificate{s.pki.Root.Certificate, s.pki.OtherRoot.Certificate}
	if err := s.function.Replace(more); err != nil {
		t.Fatal(err)
	}
	if _, err := s.function.FetchCredential(t.Context(), maf, "", enrolment.KeID, muster.SUIDForMAF, s.now); err != nil {
		t.Errorf("the MAF's session after the change: %v", err)
	}
	for _, issuer := range []*mustertest.Authority{s.pki.Intermediate, s.pki.OtherIntermediate} {
		if got := s.enrolledAs(t, issuer, one); got != enroleeID("one").String() {
			t.Errorf("under %s: %s", issuer.Certificate.Subject, got)
		}
	}
	// Without the device, its session is refused at its next request.
	fewer := rules
	fewer.Instructions = rules.Instructions[1:]
	if err := s.function.Replace(fewer); err != nil {
		t.Fatal(err)
	}
	_, err = s.function.Serve(t.Context(), device, nil, s.now)
	wantCode(t, err, muster.CodeNameUnknown)
	if got := s.enrolledAs(t, s.pki.Intermediate, one); got != string(muster.CodeNameUnknown) {
		t.Errorf("a device without an instruction is %s", got)
	}
}

func TestVerdicts(t *testing.T) {
	name := mustertest.DeviceName(t, 1)
	s := newScene(t, nil)
	identity := s.pki.Enrolee(t, name)
	digest := muster.DigestOf(identity.Leaf().Raw)
	for who, about := range map[string]mef.Verdict{
		"Enrolee": {EnroleeID: enroleeID("one")}, "name": {Name: name}, "certificate": {Certificate: digest},
	} {
		for sentence, want := range map[mef.Sentence]muster.Code{
			mef.SentenceBan: muster.CodeBanned, mef.SentenceSuspend: muster.CodeSuspended, mef.SentenceEvict: "",
		} {
			t.Run(fmt.Sprintf("%s %s", sentence, who), func(t *testing.T) {
				s := newScene(t, func(other *scene) { other.pki = s.pki; other.config = s.config })
				if err := s.function.Replace(s.config.Rules); err != nil {
					t.Fatal(err)
				}
				device := s.session(t, identity, "a")
				enrolment := must(s.function.Established(t.Context(), device, s.now))
				maf := s.session(t, s.pki.Function(t, "maf.example.com"), "m")
				fetch := func() error {
					_, err := s.function.FetchCredential(t.Context(), maf, "", enrolment.KeID, muster.SUIDForMAF, s.now)
					return err
				}
				wantCode(t, fetch(), "")

				verdict := about
				verdict.Sentence, verdict.Reason = sentence, "stolen"
				if sentence == mef.SentenceEvict {
					verdict.Before = s.now.Add(time.Second)
				}
				rules := s.config.Rules
				rules.Verdicts = []mef.Verdict{verdict}
				if err := s.function.Replace(rules); err != nil {
					t.Fatal(err)
				}
				wantCode(t, fetch(), muster.CodeKeyUnknown)
				_, err := s.function.VerifyPeer(identity.Chain, s.now)
				wantCode(t, err, want)
				if want != "" {
					_, err = s.function.Serve(t.Context(), device, nil, s.now)
					wantCode(t, err, want)
					return
				}
				// Whoever is evicted may enrol again.
				s.now = s.now.Add(2 * time.Second)
				enrolment = must(s.function.Established(t.Context(), s.session(t, identity, "b"), s.now))
				wantCode(t, fetch(), "")
			})
		}
	}
}

// Of a verdict on an Enrolee and one on its name, the one that withholds more holds
// for the keys that are stored.
func TestSternerVerdictHolds(t *testing.T) {
	name := mustertest.DeviceName(t, 1)
	first := newScene(t, nil)
	earlier, later := first.now.Add(-time.Hour), first.now.Add(time.Hour)
	for what, tt := range map[string]struct {
		onEnrolee, onName mef.Verdict
		want              muster.Code
	}{
		"evicted earlier, its name banned":        {mef.Verdict{Sentence: mef.SentenceEvict, Before: earlier}, mef.Verdict{Sentence: mef.SentenceBan}, muster.CodeKeyUnknown},
		"evicted earlier, its name suspended":     {mef.Verdict{Sentence: mef.SentenceEvict, Before: earlier}, mef.Verdict{Sentence: mef.SentenceSuspend}, muster.CodeKeyUnknown},
		"evicted earlier, its name evicted later": {mef.Verdict{Sentence: mef.SentenceEvict, Before: earlier}, mef.Verdict{Sentence: mef.SentenceEvict, Before: later}, muster.CodeKeyUnknown},
		"evicted later, its name evicted earlier": {mef.Verdict{Sentence: mef.SentenceEvict, Before: later}, mef.Verdict{Sentence: mef.SentenceEvict, Before: earlier}, muster.CodeKeyUnknown},
		"banned, its name evicted earlier":        {mef.Verdict{Sentence: mef.SentenceBan}, mef.Verdict{Sentence: mef.SentenceEvict, Before: earlier}, muster.CodeKeyUnknown},
		"evicted earlier, and so its name":        {mef.Verdict{Sentence: mef.SentenceEvict, Before: earlier}, mef.Verdict{Sentence: mef.SentenceEvict, Before: earlier}, ""},
	} {
		s := newScene(t, func(s *scene) { s.pki, s.config = first.pki, first.config })
		enrolment := must(s.function.Established(t.Context(), s.session(t, s.pki.Enrolee(t, name), "a"), s.now))
		maf := s.session(t, s.pki.Function(t, "maf.example.com"), "m")
		tt.onEnrolee.EnroleeID, tt.onName.Name = enrolment.EnroleeID, name
		rules := s.config.Rules
		rules.Verdicts = []mef.Verdict{tt.onEnrolee, tt.onName}
		if err := s.function.Replace(rules); err != nil {
			t.Fatal(err)
		}
		_, err := s.function.FetchCredential(t.Context(), maf, "", enrolment.KeID, muster.SUIDForMAF, s.now)
		if got := muster.CodeOf(err); got != tt.want {
			t.Errorf("%s: %q (%v), want %q", what, got, err, tt.want)
		}
	}
}

func TestContradictoryVerdicts(t *testing.T) {
	s := newScene(t, nil)
	id := enroleeID("one")
	for name, list := range map[string][]mef.Verdict{
		"about nobody":       {{Sentence: mef.SentenceBan}},
		"about two":          {{Sentence: mef.SentenceBan, EnroleeID: id, Certificate: muster.Digest{1}}},
		"no sentence":        {{EnroleeID: id}},
		"evicted at no time": {{Sentence: mef.SentenceEvict, EnroleeID: id}},
		"banned until":       {{Sentence: mef.SentenceBan, EnroleeID: id, Before: s.now}},
		"two about one":      {{Sentence: mef.SentenceBan, EnroleeID: id}, {Sentence: mef.SentenceSuspend, EnroleeID: id}},
	} {
		rules := s.config.Rules
		rules.Verdicts = list
		if err := s.function.Replace(rules); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The status of a path is asked of the rule that decides, after the path.
func TestStatusIsThatOfTheRule(t *testing.T) {
	asked := map[string]int{}
	status := func(rule string, level cert.Level) mef.Status {
		return func(path []*x509.Certificate, _ time.Time) cert.Findings {
			asked[rule] += len(path)
			return cert.Findings{{Code: muster.CodeRevoked, Level: level, Detail: rule}}
		}
	}
	s := newScene(t, func(s *scene) {
		group := s.group(t, "*", "//all.example/{name}")
		group.Status = status("group", cert.LevelError)
		s.config.Instructions[0].Status = status("one", cert.LevelWarning)
		s.config.Instructions = append(s.config.Instructions, group)
		s.config.MAFs[0].Status = status("maf", cert.LevelError)
	})
	if got := s.enrolledAs(t, s.pki.Intermediate, mustertest.DeviceName(t, 1)); got != enroleeID("one").String() {
		t.Errorf("soft: %s", got)
	}
	if got := s.enrolledAs(t, s.pki.Intermediate, mustertest.DeviceName(t, 9)); got != string(muster.CodeRevoked) {
		t.Errorf("hard: %s", got)
	}
	_, err := s.function.VerifyPeer(s.pki.Function(t, "maf.example.com").Chain, s.now)
	wantCode(t, err, muster.CodeRevoked)
	asked = map[string]int{}
	if got := s.enrolledAs(t, s.pki.OtherIntermediate, mustertest.DeviceName(t, 1)); got != string(muster.CodeAnchorMismatch) || len(asked) > 0 {
		t.Errorf("without a path: %s, asked %v", got, asked)
	}
}

// A group under many roots does not make a path dearer.
func TestManyRoots(t *testing.T) {
	s := newScene(t, func(s *scene) {
		s.config.Instructions = nil
		for n := range 40 {
			root := s.pki.NewRoot(t, fmt.Sprintf("Root %d", n)).Certificate
			s.config.Instructions = append(s.config.Instructions, s.group(t, "*", fmt.Sprintf("//root%d.example/{name}", n), root))
		}
		s.config.Instructions = append(s.config.Instructions, s.group(t, "*", "//ours.example/{name}"))
	})
	if got := s.enrolledAs(t, s.pki.Intermediate, deviceNamed("0.2.481.1/1.2.3")); got != "//ours.example/0.2.481.1/1.2.3" {
		t.Errorf("among many roots: %s", got)
	}
	if got := s.enrolledAs(t, s.pki.OtherIntermediate, deviceNamed("0.2.481.1/1.2.3")); got != string(muster.CodeAnchorMismatch) {
		t.Errorf("under none of many roots: %s", got)
	}
}

func BenchmarkVerifyPeer(b *testing.B) {
	pki := mustertest.NewPKI(b)
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		s := &scene{pki: pki, store: mustertest.NewMemory()}
		rules := mef.Rules{Instructions: []mef.Instruction{s.group(b, "0.2.481.1/100.*", "//group.example/{model}-{serial}")}}
		for i := range n {
			name := muster.CertName{Flavour: muster.FlavourDevice, Text: fmt.Sprintf("0.2.481.1/200.1.%d", i)}
			rules.Instructions = append(rules.Instructions, s.one(b, name, fmt.Sprintf("//one.example/%d", i)))
		}
		config := newScene(b, nil).config
		config.Rules = rules
		function := must(mef.New(config, s.store, s.records()))
		for kind, name := range map[string]string{"exact": "0.2.481.1/200.1.7", "pattern": "0.2.481.1/100.1.7", "unknown": "0.2.481.1/300.1.7"} {
			chain := pki.NewLeaf(b, pki.Intermediate, []muster.CertName{deviceNamed(name)}, []cert.Usage{cert.UsageClient}).Chain
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, _ = function.VerifyPeer(chain, pki.Now)
				}
			})
		}
	}
}
