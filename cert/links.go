package cert

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"sync"
	"time"

	"muster"
)

// Links remembers which authorities' certificates verify under which keys, so
// that a chain does not cost the signatures of its intermediates again. What it
// holds is no more than this: the signature on this certificate verifies under
// this key. It says nothing of validity, constraints, trust or status, which are
// examined each time. A Links may be used by many goroutines and Trusts at once.
type Links struct {
	most int

	mu    sync.Mutex
	known map[link]struct{} // guarded by mu
}

// A link is the digest of a certificate and that of the key that signed it.
type link struct{ certificate, key muster.Digest }

// NewLinks returns a Links that holds at most so many facts; beyond that it
// forgets any of them.
func NewLinks(most int) *Links {
	return &Links{most: most, known: make(map[link]struct{})}
}

func linkOf(c, issuer *x509.Certificate) link {
	return link{muster.DigestOf(c.Raw), muster.DigestOf(issuer.RawSubjectPublicKeyInfo)}
}

// has reports whether issuer's key is known to have signed c.
func (l *Links) has(c, issuer *x509.Certificate) bool {
	wanted := linkOf(c, issuer)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.known[wanted]
	return ok
}

// learn records the signatures on the intermediates of a path that crypto/x509
// has verified. That of the leaf is left out: leaves are many and each is
// verified anyway.
func (l *Links) learn(path []*x509.Certificate) {
	for i := 1; i < len(path)-1; i++ {
		fact := linkOf(path[i], path[i+1])
		l.mu.Lock()
		if _, ok := l.known[fact]; !ok && l.most > 0 {
			for old := range l.known {
				if len(l.known) < l.most {
					break
				}
				delete(l.known, old)
			}
			l.known[fact] = struct{}{}
		}
		l.mu.Unlock()
	}
}

// warmPath returns a path whose intermediates are all linked already, or nil,
// which decides nothing: the search then goes its whole way. crypto/x509 judges
// the leaf and its issuer, with the issuer in the place of the root. What remains
// for the certificates above is a signature that is known and what the search
// would ask of them: so only those are taken that ask nothing of what lies below
// but a path length.
func (f *pathFinder) warmPath() []*x509.Certificate {
	// A leaf that is pinned itself is a case for the search.
	if f.trust.Links == nil || slices.ContainsFunc(f.trust.Anchors, f.leaf.Equal) {
		return nil
	}
	issuer := f.namedOnce(f.leaf)
	if issuer == nil || issuer.anchor || asksPolicy(f.leaf) || asksPolicy(issuer.Certificate) {
		return nil
	}
	above := []*x509.Certificate{issuer.Certificate}
	for last := issuer; !last.anchor; {
		next := f.namedOnce(last.Certificate)
		// The certificates above are intermediates themselves but for the last,
		// so that a path length counts those between it and the leaf.
		if next == nil || !isPlain(next.Certificate) || len(above) > MaxIntermediates ||
			next.MaxPathLen >= 0 && len(above) > next.MaxPathLen || !f.trust.Links.has(last.Certificate, next.Certificate) {
			return nil
		}
		above = append(above, next.Certificate)
		last = next
	}
	usage, _ := f.trust.Usage.extended()
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: f.validTime(), KeyUsages: []x509.ExtKeyUsage{usage}}
	options.Roots.AddCert(issuer.Certificate)
	if paths, err := f.leaf.Verify(options); err != nil || len(paths) != 1 || len(paths[0]) != 2 {
		return nil
	}
	return append([]*x509.Certificate{f.leaf}, above...)
}

// namedOnce returns the only candidate with the name of c's issuer, if it is
// sound and valid at the time of the search. More than one is a case for the
// search, as is a certificate that bears its issuer's name.
func (f *pathFinder) namedOnce(c *x509.Certificate) *candidate {
	var only *candidate
	for i := range f.candidates {
		named := &f.candidates[i]
		if !bytes.Equal(named.RawSubject, c.RawIssuer) {
			continue
		}
		if only != nil {
			return nil
		}
		only = named
	}
	if only == nil || only.found.failed() || bytes.Equal(c.RawSubject, c.RawIssuer) || !validAt(only.Certificate, f.validTime()) {
		return nil
	}
	return only
}

func validAt(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

var (
	oidSubjectKeyID      = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage          = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints  = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidCRLPoints         = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidAuthorityKeyID    = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidPolicyConstraints = asn1.ObjectIdentifier{2, 5, 29, 36}
	oidAuthorityInfo     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}
)

// isPlain reports whether c is an authority that may certify and asks nothing of
// the certificates below it but a path length: every extension is one that is
// known to say nothing else.
func isPlain(c *x509.Certificate) bool {
	if c.Version != 3 || !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 || len(c.UnhandledCriticalExtensions) > 0 {
		return false
	}
	for _, extension := range c.Extensions {
		id := extension.Id
		if !id.Equal(oidSubjectKeyID) && !id.Equal(oidKeyUsage) && !id.Equal(oidBasicConstraints) &&
			!id.Equal(oidCRLPoints) && !id.Equal(oidAuthorityKeyID) && !id.Equal(oidAuthorityInfo) {
			return false
		}
	}
	return true
}

// asksPolicy reports whether c makes the policies of other certificates matter.
func asksPolicy(c *x509.Certificate) bool { return hasExtension(c, oidPolicyConstraints) }

// Len returns the number of facts held.
func (l *Links) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.known)
}
