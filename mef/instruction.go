package mef

import (
	"crypto/x509"
	"fmt"
	"time"

	"muster"
)

// An Instruction is what the MEF is told about one Enrolee (TS-0003 9.2.2,
// Bootstrap Instruction Configuration in the seed text): by which certificate to
// know it, who it is, and for which MAFs to enrol it.
type Instruction struct {
	// Certificate is the name that the Enrolee's certificate carries.
	Certificate muster.CertName
	// Anchors are the roots, at least one, under which that name is meant. The
	// same name under another root is another certificate.
	Anchors []*x509.Certificate
	// EnroleeID is the identifier assigned to the Enrolee.
	EnroleeID muster.EnroleeID
	// Targets are the MAF-IDs that may fetch a key for the Enrolee, at least one.
	Targets []muster.FQDN
	// Lifetime bounds Ke and every key derived from it (TS-0003 10.7).
	Lifetime time.Duration
}

// A Client is a MAF that may ask for keys.
type Client struct {
	Name    muster.FQDN
	Anchors []*x509.Certificate
}

// pin is a name together with the roots under which it is meant, and what the
// MEF knows of the peer that proves both: an Enrolee or a MAF.
type pin struct {
	anchors     []*x509.Certificate
	instruction *Instruction // nil for a MAF
	maf         muster.FQDN  // zero for an Enrolee
}

func (p pin) String() string {
	if p.instruction != nil {
		return "the instruction for " + p.instruction.EnroleeID.String()
	}
	return "the MAF " + p.maf.String()
}

// A register finds who a name under a root is. One name may be pinned several
// times, under different roots.
type register map[muster.CertName][]pin

func newRegister(instructions []Instruction, clients []Client) (register, error) {
	r := make(register, len(instructions)+len(clients))
	for i := range instructions {
		in := &instructions[i]
		if err := in.check(); err != nil {
			return nil, err
		}
		if err := r.add(in.Certificate, pin{anchors: in.Anchors, instruction: in}); err != nil {
			return nil, err
		}
	}
	for _, c := range clients {
		name := muster.CertName{Flavour: muster.FlavourFQDN, Text: c.Name.String()}
		if c.Name.IsZero() || len(c.Anchors) == 0 {
			return nil, fmt.Errorf("the MAF %s lacks a name or a trust anchor", c.Name)
		}
		if err := r.add(name, pin{anchors: c.Anchors, maf: c.Name}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (in *Instruction) check() error {
	switch {
	case in.Certificate.IsZero() || in.EnroleeID.IsZero():
		return fmt.Errorf("the instruction for %s (%s) lacks a certificate name or an Enrolee-ID", in.EnroleeID, in.Certificate)
	case len(in.Anchors) == 0:
		return fmt.Errorf("the instruction for %s pins no trust anchor", in.EnroleeID)
	case len(in.Targets) == 0:
		return fmt.Errorf("the instruction for %s has no target", in.EnroleeID)
	case in.Lifetime < time.Second:
		return fmt.Errorf("the instruction for %s has the lifetime %s, less than a second", in.EnroleeID, in.Lifetime)
	}
	seen := make(map[muster.FQDN]bool, len(in.Targets))
	for _, target := range in.Targets {
		if target.IsZero() || seen[target] {
			return fmt.Errorf("the instruction for %s names the target %q twice or not at all", in.EnroleeID, target)
		}
		seen[target] = true
	}
	return nil
}

// add refuses a name that is pinned already under one of the same roots: whoever
// proved that name would be two peers.
func (r register) add(name muster.CertName, p pin) error {
	for _, other := range r[name] {
		for _, anchor := range p.anchors {
			if other.has(anchorOf(anchor)) {
				return fmt.Errorf("%s and %s both pin %s under the root %q", other, p, name, anchor.Subject)
			}
		}
	}
	r[name] = append(r[name], p)
	return nil
}

// find returns the pin of a peer whose chain was verified.
func (r register) find(name muster.CertName, anchor muster.Digest) (pin, bool) {
	for _, p := range r[name] {
		if p.has(anchor) {
			return p, true
		}
	}
	return pin{}, false
}

// anchors returns all roots under which a name is pinned.
func (r register) anchors(name muster.CertName) []*x509.Certificate {
	pins := r[name]
	if len(pins) == 1 {
		return pins[0].anchors
	}
	var all []*x509.Certificate
	for _, p := range pins {
		all = append(all, p.anchors...)
	}
	return all
}

func (p pin) has(anchor muster.Digest) bool {
	for _, a := range p.anchors {
		if anchorOf(a) == anchor {
			return true
		}
	}
	return false
}

func anchorOf(c *x509.Certificate) muster.Digest { return muster.DigestOf(c.RawSubjectPublicKeyInfo) }
