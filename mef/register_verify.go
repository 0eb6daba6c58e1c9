package mef

import (
	"crypto/x509"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"muster"
	"muster/cert"
)

// VerifyPeer judges the certificate of an Enrolee or a MAF within its handshake:
// one of its names must be pinned, by itself or in a pattern, and the chain must
// end at a root that is pinned with that name. Of several such names, the one
// with the most specific rule is the peer's. The error is a muster.Refusal.
//
// TS-0003 8.1.2.5, 8.3.2.2
func (f *Function) VerifyPeer(chain []*x509.Certificate, now time.Time) (muster.Peer, error) {
	return f.verify(f.register.Load(), chain, now, cert.Verify)
}

// A verifier is cert.Verify, or one that notes what cert.Explain finds as well.
type verifier func(chain []*x509.Certificate, trust cert.Trust, now time.Time) (muster.Peer, cert.Findings)

func (f *Function) verify(r *register, chain []*x509.Certificate, now time.Time, verify verifier) (muster.Peer, error) {
	if len(chain) == 0 {
		return muster.Peer{}, muster.Refuse(muster.CodeNoCertificate, "the peer sent no certificate")
	}
	names, err := cert.Names(chain[0])
	if err != nil {
		return muster.Peer{}, err
	}
	trust := cert.Trust{Intermediates: r.intermediates, Usage: cert.UsageClient, Profile: f.config.Profile, Links: f.links}
	pinned, anchors := r.candidates(names)
	if len(pinned) == 0 {
		_, findings := verify(chain, trust, now)
		if err := findings.Err(); muster.CodeOf(err) != muster.CodeNameUnknown {
			return muster.Peer{}, err
		}
		return muster.Peer{}, muster.Refuse(muster.CodeNameUnknown, "no instruction names this certificate; it carries %s", list(names))
	}
	// Which rule decides depends on the root at which the path ends, so all roots
	// of all names are tried first, and the leaf has each of the names.
	trust.Name, trust.Anchors = pinned[0], r.inSight(anchors, chain)
	trust.Status = func(path []*x509.Certificate) cert.Findings {
		_, p := r.findAny(pinned, anchorOf(path[len(path)-1]))
		if p == nil || p.status == nil {
			return nil
		}
		return p.status(path, now)
	}
	peer, findings := verify(chain, trust, now)
	if err := findings.Err(); err != nil {
		return muster.Peer{}, err
	}
	peer.Name, _ = r.findAny(pinned, peer.Anchor)
	if _, err := r.known(peer); err != nil {
		return muster.Peer{}, err
	}
	return peer, nil
}

// list returns the first of names as a line of a log bears them.
func list(names []muster.CertName) string {
	const most = 4
	var texts []string
	for _, name := range names[:min(most, len(names))] {
		texts = append(texts, fmt.Sprintf("%.200q", name))
	}
	if len(names) > most {
		texts = append(texts, "and others")
	}
	return strings.Join(texts, ", ")
}

// known returns the pin of an authenticated peer, whose instruction is then the
// one for this Enrolee alone, or why the rules that are in force now refuse it.
func (f *Function) known(peer muster.Peer) (pin, error) { return f.register.Load().known(peer) }

func (r *register) known(peer muster.Peer) (pin, error) {
	var found *pin
	if peer.PSKIdentity == "" {
		found, _ = r.find(peer.Name, peer.Anchor)
	} else if id, err := muster.ParseKpmID(peer.PSKIdentity); err == nil {
		found = r.keys[id]
	}
	switch {
	case found == nil && peer.PSKIdentity != "":
		return pin{}, muster.Refuse(muster.CodeKeyUnknown, "no instruction names the KpmID %q", peer.PSKIdentity)
	case found == nil:
		return pin{}, muster.Refuse(muster.CodeNameUnknown, "no instruction for %s any more", peer.Name)
	}
	one := *found
	var id muster.EnroleeID
	if one.instruction != nil {
		var err error
		if one.instruction, err = one.instruction.of(peer.Name); err != nil {
			return pin{}, err
		}
		id = one.instruction.EnroleeID
	}
	return one, r.verdicts.on(peer, id)
}

// A Rule is an instruction or a MAF as an operator sees it.
type Rule struct {
	Text      string              // as messages name it
	Flavour   muster.Flavour      // of the names; empty for a pre-provisioned key
	Name      string              // the name, the pattern or the first KpmID
	Anchors   []*x509.Certificate // under which the names are meant
	EnroleeID muster.EnroleeID    // of the Enrolee that was judged; zero otherwise
	Targets   []muster.FQDN       // none for a MAF

	pattern Pattern
}

// Covers reports whether the rule is about a name, under whatever root.
func (r Rule) Covers(name muster.CertName) bool {
	if !r.pattern.IsZero() {
		return r.pattern.Covers(name)
	}
	return name == muster.CertName{Flavour: r.Flavour, Text: r.Name}
}

func (p *pin) rule() Rule {
	r := Rule{Text: p.String(), Anchors: p.anchors.certificates}
	switch in := p.instruction; {
	case in == nil:
		r.Flavour, r.Name = muster.FlavourFQDN, p.maf.String()
	case in.isGroup():
		r.Flavour, r.Targets, r.pattern = in.Pattern.flavour, in.Targets, in.Pattern
		_, r.Name, _ = strings.Cut(in.Pattern.String(), ":")
	case len(in.KpmIDs) > 0:
		r.Name, r.Targets, r.EnroleeID = in.KpmIDs[0].String(), in.Targets, in.EnroleeID
	default:
		r.Flavour, r.Name, r.Targets, r.EnroleeID = in.Certificate.Flavour, in.Certificate.Text, in.Targets, in.EnroleeID
	}
	return r
}

// An Explanation is all that there is to say about a chain.
type Explanation struct {
	Names    []muster.CertName // that the certificate carries
	Peer     muster.Peer       // zero if refused
	Rule     *Rule             // that decided; nil if none did
	Findings cert.Findings     // without end at the first error, unlike in a handshake
	Err      error             // what VerifyPeer returns
}

// Explain judges a chain as VerifyPeer does, by the same code, and tells
// everything that was found. It is for operators; see cert.Explain.
func (f *Function) Explain(chain []*x509.Certificate, now time.Time) Explanation {
	var e Explanation
	if len(chain) > 0 {
		e.Names, _ = cert.Names(chain[0]) // the error is VerifyPeer's as well
	}
	r := f.register.Load()
	e.Peer, e.Err = f.verify(r, chain, now, func(chain []*x509.Certificate, trust cert.Trust, now time.Time) (muster.Peer, cert.Findings) {
		peer, findings := cert.Verify(chain, trust, now)
		e.Findings = findings
		if findings.Err() != nil {
			e.Findings = slices.DeleteFunc(cert.Explain(chain, trust, now), func(f cert.Finding) bool {
				// Without a rule there is no root that could be missed.
				return len(trust.Anchors) == 0 && f.Code == muster.CodeAnchorMismatch && f.Certificate == cert.NoIndex
			})
		} else if name, decides := r.findAny(e.Names, peer.Anchor); decides != nil {
			rule := decides.rule()
			if in := decides.instruction; in != nil {
				if one, err := in.of(name); err == nil {
					rule.EnroleeID = one.EnroleeID
				}
			}
			e.Rule = &rule
		}
		return peer, findings
	})
	return e
}

// Rules yields every rule, in no order.
func (f *Function) Rules() iter.Seq[Rule] {
	return func(yield func(Rule) bool) {
		r := f.register.Load()
		for _, pins := range r.exact {
			for _, p := range pins {
				if !yield(p.rule()) {
					return
				}
			}
		}
		for id, p := range r.keys {
			if id == p.instruction.KpmIDs[0] && !yield(p.rule()) {
				return
			}
		}
		for _, pins := range r.patterns.at {
			for _, p := range uniquePins(pins) {
				if !yield(p.rule()) {
					return
				}
			}
		}
	}
}

func uniquePins(pins *patternPins) []*pin {
	seen := map[*pin]bool{}
	for _, p := range pins.byAnchor {
		seen[p] = true
	}
	return slices.Collect(maps.Keys(seen))
}
