package mef

import (
	"fmt"
	"time"

	"muster"
)

// A Sentence is what a verdict does.
type Sentence string

// The sentences.
const (
	// SentenceBan refuses for good, and withholds the keys of earlier enrolments.
	SentenceBan Sentence = "ban"
	// SentenceEvict withholds the keys of enrolments before a time; the Enrolee
	// may enrol again.
	SentenceEvict Sentence = "evict"
	// SentenceSuspend refuses as long as it stands.
	SentenceSuspend Sentence = "suspend"
)

// UnmarshalText accepts "ban", "evict" and "suspend"; anything else is an error.
func (s *Sentence) UnmarshalText(text []byte) error {
	switch v := Sentence(text); v {
	case SentenceBan, SentenceEvict, SentenceSuspend:
		*s = v
		return nil
	}
	return fmt.Errorf("%q is not a verdict: want ban, evict or suspend", text)
}

// A Verdict is the operator's own word on a peer, beside what its authority says
// of its certificate. It is about exactly one of an Enrolee, all certificates
// with a name, and one certificate.
type Verdict struct {
	Sentence    Sentence
	EnroleeID   muster.EnroleeID
	Name        muster.CertName
	Certificate muster.Digest
	Before      time.Time // of enrolments that are evicted; zero otherwise
	Reason      string    // for the log; may be empty
}

// A defendant is whom a verdict is about: one of the fields is not zero.
type defendant struct {
	enrolee     muster.EnroleeID
	name        muster.CertName
	certificate muster.Digest
}

type verdicts map[defendant]*Verdict

func newVerdicts(list []Verdict, r *register) (verdicts, error) {
	all := verdicts{}
	for i := range list {
		v := &list[i]
		who := defendant{v.EnroleeID, v.Name, v.Certificate}
		evicts := v.Sentence == SentenceEvict
		switch {
		case who != (defendant{enrolee: v.EnroleeID}) && who != (defendant{name: v.Name}) && who != (defendant{certificate: v.Certificate}),
			who == defendant{}:
			return nil, fmt.Errorf("verdict %d is not about exactly one of an Enrolee-ID, a name and a certificate", i+1)
		case new(Sentence).UnmarshalText([]byte(v.Sentence)) != nil:
			return nil, fmt.Errorf("verdict %d has no sentence", i+1)
		case evicts == v.Before.IsZero():
			return nil, fmt.Errorf("verdict %d: to evict, and for nothing else, a verdict names the time before which enrolments end", i+1)
		case all[who] != nil:
			return nil, fmt.Errorf("verdict %d is the second about the same", i+1)
		}
		all[who] = v
	}
	// A stored enrolment knows its Enrolee and not the name in the certificate.
	for i := range list {
		all.extend(&list[i], r)
	}
	return all, nil
}

// extend makes a verdict on a name one on the Enrolees that have it, unless there
// is one on them already that withholds as much.
func (v verdicts) extend(verdict *Verdict, r *register) {
	if verdict.Name.IsZero() {
		return
	}
	for p := range r.pins(verdict.Name) {
		if p.instruction == nil {
			continue
		}
		if one, err := p.instruction.of(verdict.Name); err == nil && verdict.sterner(v[defendant{enrolee: one.EnroleeID}]) {
			v[defendant{enrolee: one.EnroleeID}] = verdict
		}
	}
}

// sterner reports whether v withholds keys that other, which may be nil, does not.
func (v *Verdict) sterner(other *Verdict) bool {
	switch {
	case other == nil:
		return true
	case other.Sentence != SentenceEvict:
		return false
	}
	return v.Sentence != SentenceEvict || other.Before.Before(v.Before)
}

// on returns a Refusal for a peer that is banned or suspended.
func (v verdicts) on(peer muster.Peer, id muster.EnroleeID) error {
	for _, who := range []defendant{{enrolee: id}, {name: peer.Name}, {certificate: peer.Certificate}} {
		verdict := v[who]
		if verdict == nil || who == (defendant{}) {
			continue
		}
		switch verdict.Sentence {
		case SentenceBan:
			return muster.Refuse(muster.CodeBanned, "%s is banned%s", nameOf(peer), verdict.because())
		case SentenceSuspend:
			return muster.Refuse(muster.CodeSuspended, "%s is suspended%s", nameOf(peer), verdict.because())
		}
	}
	return nil
}

func nameOf(peer muster.Peer) string {
	if peer.PSKIdentity != "" {
		return peer.PSKIdentity
	}
	return peer.Name.String()
}

// void says why the key of an enrolment is withheld, and nothing if it is not.
func (v verdicts) void(e Enrolment) string {
	for _, who := range []defendant{{enrolee: e.EnroleeID}, {certificate: e.Certificate}} {
		verdict := v[who]
		if verdict == nil || who == (defendant{}) {
			continue
		}
		if verdict.Sentence != SentenceEvict || e.Created.Before(verdict.Before) {
			return fmt.Sprintf("verdict: %s%s", verdict.Sentence, verdict.because())
		}
	}
	return ""
}

func (v *Verdict) because() string {
	if v.Reason == "" {
		return ""
	}
	return fmt.Sprintf(": %.200q", v.Reason)
}
