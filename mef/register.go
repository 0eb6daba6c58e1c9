package mef

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"iter"
	"slices"

	"muster"
)

// Rules are what a Function can be given anew while it runs. It keeps them; they
// must not be changed afterwards.
type Rules struct {
	Instructions  []Instruction       // one for each Enrolee or group
	MAFs          []Client            // who may fetch keys
	Verdicts      []Verdict           // who may not, whatever the rest says
	Intermediates []*x509.Certificate // for peers that send their leaf only
}

// pin is a rule as the MEF looks it up: names together with the roots under
// which they are meant, and who proves both: an Enrolee, one of a group, or a MAF.
type pin struct {
	anchors     *anchorSet
	instruction *Instruction // nil for a MAF
	maf         muster.FQDN  // zero for an Enrolee
	status      Status
}

func (p *pin) String() string {
	if p.instruction != nil {
		return p.instruction.String()
	}
	return "the MAF " + p.maf.String()
}

// An anchorSet is a set of roots. There is one object for each set.
type anchorSet struct {
	certificates []*x509.Certificate
	ids          []muster.Digest // sorted
}

func (s *anchorSet) has(anchor muster.Digest) bool {
	_, ok := slices.BinarySearchFunc(s.ids, anchor, compareDigests)
	return ok
}

func compareDigests(a, b muster.Digest) int { return bytes.Compare(a[:], b[:]) }

func anchorOf(c *x509.Certificate) muster.Digest { return muster.DigestOf(c.RawSubjectPublicKeyInfo) }

// A register finds who a name under a root is: the pin with the name itself
// before one with a pattern, and a longer pattern before a shorter one. Its
// look-ups cost the same however many pins there are. It does not change once
// it is made.
type register struct {
	exact    map[muster.CertName][]*pin // rarely more than one, under different roots
	keys     map[muster.KpmID]*pin
	patterns overlay[*patternPins]
	verdicts verdicts
	enrolees index

	intermediates []*x509.Certificate
	issuers       map[string]bool // the subjects that issued the intermediates
}

// patternPins are the pins with one pattern, by their roots.
type patternPins struct {
	byAnchor map[muster.Digest]*pin
	anchors  []*x509.Certificate
}

func newRegister(rules Rules) (*register, error) {
	r := &register{
		exact:         make(map[muster.CertName][]*pin, len(rules.Instructions)+len(rules.MAFs)),
		keys:          map[muster.KpmID]*pin{},
		patterns:      newOverlay[*patternPins](),
		intermediates: rules.Intermediates,
		issuers:       issuersOf(rules.Intermediates),
	}
	sets := anchorSets{ids: map[*x509.Certificate]muster.Digest{}, known: map[string]*anchorSet{}}
	for i := range rules.Instructions {
		in := &rules.Instructions[i]
		if err := in.Check(); err != nil {
			return nil, err
		}
		p := &pin{anchors: sets.of(in.Anchors), instruction: in, status: in.Status}
		if len(in.KpmIDs) > 0 {
			if err := r.addKeys(p); err != nil {
				return nil, err
			}
			continue
		}
		if err := r.add(in.Certificate, in.Pattern, p); err != nil {
			return nil, err
		}
	}
	for _, c := range rules.MAFs {
		name := muster.CertName{Flavour: muster.FlavourFQDN, Text: c.Name.String()}
		if c.Name.IsZero() || len(c.Anchors) == 0 {
			return nil, fmt.Errorf("the MAF %s lacks a name or a trust anchor", c.Name)
		}
		if err := r.add(name, Pattern{}, &pin{anchors: sets.of(c.Anchors), maf: c.Name, status: c.Status}); err != nil {
			return nil, err
		}
	}
	if err := r.checkIdentities(); err != nil {
		return nil, err
	}
	r.enrolees = newIndex(r)
	var err error
	r.verdicts, err = newVerdicts(rules.Verdicts, r)
	return r, err
}

// anchorSets makes anchorSets.
type anchorSets struct {
	ids   map[*x509.Certificate]muster.Digest
	known map[string]*anchorSet
}

func (s anchorSets) of(anchors []*x509.Certificate) *anchorSet {
	set := &anchorSet{certificates: anchors}
	for _, anchor := range anchors {
		id, ok := s.ids[anchor]
		if !ok {
			id = anchorOf(anchor)
			s.ids[anchor] = id
		}
		set.ids = append(set.ids, id)
	}
	slices.SortFunc(set.ids, compareDigests)
	set.ids = slices.Compact(set.ids)
	key := make([]byte, 0, len(set.ids)*len(muster.Digest{}))
	for _, id := range set.ids {
		key = append(key, id[:]...)
	}
	if same := s.known[string(key)]; same != nil {
		same.merge(anchors)
		return same
	}
	set.certificates = slices.Clone(anchors)
	s.known[string(key)] = set
	return set
}

// merge adds certificates with keys that the set has already, as a root has that
// was renewed.
func (s *anchorSet) merge(anchors []*x509.Certificate) {
	for _, anchor := range anchors {
		if !slices.Contains(s.certificates, anchor) {
			s.certificates = append(s.certificates, anchor)
		}
	}
}

// add refuses a name or pattern that is pinned already under one of the same
// roots: whoever proved that name would be two peers.
func (r *register) add(name muster.CertName, pattern Pattern, p *pin) error {
	if pattern.IsZero() {
		for _, other := range r.exact[name] {
			for _, anchor := range p.anchors.certificates {
				if other.anchors.has(anchorOf(anchor)) {
					return fmt.Errorf("%s and %s both pin %s under the root %q", other, p, name, anchor.Subject)
				}
			}
		}
		r.exact[name] = append(r.exact[name], p)
		return nil
	}
	pins := r.patterns.at[pattern]
	if pins == nil {
		pins = &patternPins{byAnchor: map[muster.Digest]*pin{}}
		r.patterns.set(pattern, pins)
	}
	for _, anchor := range p.anchors.certificates {
		id := anchorOf(anchor)
		if other := pins.byAnchor[id]; other != nil && other != p {
			return fmt.Errorf("%s and %s both pin %s under the root %q", other, p, pattern, anchor.Subject)
		}
		pins.byAnchor[id] = p
	}
	pins.anchors = append(pins.anchors, p.anchors.certificates...)
	return nil
}

// addKeys refuses a KpmID that another instruction names.
func (r *register) addKeys(p *pin) error {
	for _, id := range p.instruction.KpmIDs {
		if other := r.keys[id]; other != nil || id.IsZero() {
			return fmt.Errorf("%s names the KpmID %q, which is empty or named already", p, id)
		}
		r.keys[id] = p
	}
	return nil
}

// find returns the pin of a peer whose chain was verified.
func (r *register) find(name muster.CertName, anchor muster.Digest) (p *pin, specificity int) {
	for _, p := range r.exact[name] {
		if p.anchors.has(anchor) {
			return p, maxPattern + 1
		}
	}
	for pins := range r.patterns.covering(name) {
		if p := pins.byAnchor[anchor]; p != nil {
			return p, len(p.instruction.Pattern.fixed)
		}
	}
	return nil, -1
}

// findAny returns the most specific pin among those of the names under a root,
// and its name. Of equals, it is that of the first name.
func (r *register) findAny(names []muster.CertName, anchor muster.Digest) (muster.CertName, *pin) {
	var name muster.CertName
	var best *pin
	most := -1
	for _, candidate := range names {
		if p, specificity := r.find(candidate, anchor); specificity > most {
			name, best, most = candidate, p, specificity
		}
	}
	return name, best
}

// pins yields all pins of a name, under any root.
func (r *register) pins(name muster.CertName) iter.Seq[*pin] {
	return func(yield func(*pin) bool) {
		for _, p := range r.exact[name] {
			if !yield(p) {
				return
			}
		}
		for pins := range r.patterns.covering(name) {
			for _, p := range pins.byAnchor {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// candidates returns those of the names that are pinned, and all roots under
// which they are, those of the names themselves first.
func (r *register) candidates(names []muster.CertName) (pinned []muster.CertName, anchors []*x509.Certificate) {
	seen := map[*x509.Certificate]bool{}
	add := func(certificates []*x509.Certificate) {
		for _, c := range certificates {
			if !seen[c] {
				seen[c], anchors = true, append(anchors, c)
			}
		}
	}
	is := make([]bool, len(names))
	for i, name := range names {
		for _, p := range r.exact[name] {
			is[i] = true
			add(p.anchors.certificates)
		}
	}
	for i, name := range names {
		for pins := range r.patterns.covering(name) {
			is[i] = true
			add(pins.anchors)
		}
	}
	for i, name := range names {
		if is[i] {
			pinned = append(pinned, name)
		}
	}
	return pinned, anchors
}

// inSight returns those of the anchors that issued one of the certificates at
// hand. No other can end a path, and there may be thousands. If there is none,
// one remains, so that the findings tell whose issuer is missing.
func (r *register) inSight(anchors, chain []*x509.Certificate) []*x509.Certificate {
	issuers := issuersOf(chain)
	var near []*x509.Certificate
	for _, anchor := range anchors {
		if issuers[string(anchor.RawSubject)] || r.issuers[string(anchor.RawSubject)] {
			near = append(near, anchor)
		}
	}
	if len(near) == 0 && len(anchors) > 0 {
		return anchors[:1]
	}
	return near
}

func issuersOf(certificates []*x509.Certificate) map[string]bool {
	issuers := make(map[string]bool, len(certificates))
	for _, c := range certificates {
		issuers[string(c.RawIssuer)] = true
	}
	return issuers
}
