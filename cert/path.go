package cert

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"time"

	"muster"
)

// A candidate is a certificate that may stand above another in a path.
type candidate struct {
	*x509.Certificate
	index  int // in the presented chain, or NoIndex
	anchor bool
	found  Findings // what the profile says about it
}

// A pathFinder looks for a path from a leaf to one of the anchors of a Trust.
type pathFinder struct {
	leaf       *x509.Certificate
	trust      Trust
	now        time.Time
	candidates []candidate // anchors, then what the peer sent, then what is configured
}

// findPath returns a valid path (RFC 5280 6.1) from leaf to an anchor, both
// included, with what was found on the way; without an error among that, path
// is not empty. Certificates that break the profile are left out of the search,
// so that no signature is verified with them.
func findPath(leaf *x509.Certificate, presented []*x509.Certificate, trust Trust, now time.Time) (path []*x509.Certificate, found Findings) {
	finder := pathFinder{leaf: leaf, trust: trust, now: now}
	for _, c := range trust.Anchors {
		c = withoutReadExtensions(c)
		finder.candidates = append(finder.candidates, candidate{c, NoIndex, true, trust.Profile.anchor(c, NoIndex, now)})
	}
	for i, c := range presented {
		if slices.ContainsFunc(trust.Anchors, c.Equal) {
			found.add(LevelInfo, muster.CodePathInvalid, i+1, "it is a pinned anchor, which the peer need not send")
			continue
		}
		c = withoutReadExtensions(c)
		finder.candidates = append(finder.candidates, candidate{c, i + 1, false, trust.Profile.authority(c, i+1, now)})
	}
	for _, c := range trust.Intermediates {
		c = withoutReadExtensions(c)
		finder.candidates = append(finder.candidates, candidate{c, NoIndex, false, trust.Profile.authority(c, NoIndex, now)})
	}
	if len(trust.Anchors) == 0 {
		found.add(LevelError, muster.CodeAnchorMismatch, NoIndex, "no trust anchor is pinned with the name")
		return nil, found
	}
	var paths [][]*x509.Certificate
	if warm := finder.warmPath(); warm != nil {
		paths = [][]*x509.Certificate{warm}
	} else {
		var err error
		if paths, err = finder.search(); err != nil {
			return nil, append(found, finder.diagnose(err)...)
		}
		if trust.Links != nil {
			trust.Links.learn(paths[0])
		}
	}
	path, judged := finder.choose(paths)
	for _, c := range finder.candidates {
		if c.index != NoIndex && c.found.failed() {
			found = append(found, c.found.demoted()...)
		}
	}
	return path, append(found, judged...)
}

// search returns the paths that crypto/x509 finds.
func (f *pathFinder) search() ([][]*x509.Certificate, error) {
	usage, _ := f.trust.Usage.extended()
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   f.validTime(),
		KeyUsages:     []x509.ExtKeyUsage{usage},
	}
	for _, c := range f.candidates {
		switch {
		case c.found.failed():
		case c.anchor:
			options.Roots.AddCert(c.Certificate)
		default:
			options.Intermediates.AddCert(c.Certificate)
		}
	}
	return f.leaf.Verify(options)
}

// validTime is the time of the search: now or, when Explain goes on with a leaf
// that is not valid now and is refused for that, a time at which it is.
func (f *pathFinder) validTime() time.Time {
	switch {
	case f.now.Before(f.leaf.NotBefore):
		return f.leaf.NotBefore
	case f.now.After(f.leaf.NotAfter):
		return f.leaf.NotAfter
	default:
		return f.now
	}
}

// choose returns the first of the paths that passes what crypto/x509 does not
// examine, or else what is wrong with the first.
func (f *pathFinder) choose(paths [][]*x509.Certificate) (path []*x509.Certificate, found Findings) {
	for i, path := range paths {
		judged := f.judge(path)
		if !judged.failed() {
			return path, judged
		}
		if i == 0 {
			found = judged
		}
	}
	return nil, found
}

func (f *pathFinder) judge(path []*x509.Certificate) Findings {
	var found Findings
	// crypto/x509 takes a leaf that is pinned itself for a path of its own.
	if len(path) < 2 {
		found.add(LevelError, muster.CodePathInvalid, 0, "it is pinned itself; an anchor is the certificate of an authority")
		return found
	}
	if n := len(path) - 2; n > MaxIntermediates {
		found.add(LevelError, muster.CodeChainTooLong, NoIndex, "the path has %d intermediates, more than %d", n, MaxIntermediates)
		return found
	}
	constrained := false
	for _, authority := range path[1:] {
		constrained = constrained || hasExtension(authority, oidNameConstraints)
		found = append(found, f.candidate(authority).found...)
	}
	found = append(found, f.constraints(path)...)
	if !constrained && f.trust.Profile != ProfileRFC5280 {
		f.unconstrained(&found)
	}
	return found
}

// unconstrained notes that no authority in the path is bound to a set of names,
// which TS-0003 8.1.2.2 asks for and 10.1.1.4.2 recommends for devices.
func (f *pathFinder) unconstrained(found *Findings) {
	level := LevelWarning
	switch {
	case f.trust.Profile == ProfileConstrained:
		level = LevelError
	case f.trust.Name.Flavour == muster.FlavourDevice:
		level = LevelInfo
	}
	found.add(level, muster.CodeNameConstraints, NoIndex, "no authority in the path has name constraints")
}

// candidate returns what is known of a certificate in a path; the leaf is its
// own.
func (f *pathFinder) candidate(c *x509.Certificate) candidate {
	for _, known := range f.candidates {
		if known.Equal(c) {
			return known
		}
	}
	return candidate{Certificate: c, index: 0}
}

// diagnose says why there is no path: from the error where that is precise,
// else by walking up from the leaf.
func (f *pathFinder) diagnose(err error) Findings {
	var found Findings
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid):
		index := NoIndex
		if invalid.Cert != nil {
			index = f.candidate(invalid.Cert).index
		}
		found.add(LevelError, codeOfReason(invalid.Reason), index, "%s", quote(err.Error()))
	case errors.As(err, new(x509.UnknownAuthorityError)):
		found = f.walk()
	case errors.As(err, new(x509.UnhandledCriticalExtension)):
		found.add(LevelError, muster.CodeCriticalExtension, NoIndex, "a critical extension is unknown")
	default:
		found.add(LevelError, muster.CodePathInvalid, NoIndex, "%s", quote(err.Error()))
	}
	return found
}

func codeOfReason(reason x509.InvalidReason) muster.Code {
	switch reason {
	case x509.IncompatibleUsage, x509.CANotAuthorizedForExtKeyUsage:
		return muster.CodeExtendedKeyUsage
	case x509.CANotAuthorizedForThisName, x509.NameConstraintsWithoutSANs, x509.UnconstrainedName, x509.TooManyConstraints:
		return muster.CodeNameConstraints
	default:
		return muster.CodePathInvalid
	}
}

// walk follows the issuers from the leaf as far as they are known and returns
// what keeps each of them, or the end of the way, from being a path. It verifies
// at most maxWalkChecks signatures.
func (f *pathFinder) walk() Findings {
	var found Findings
	checks := maxWalkChecks
	current, currentIndex := f.leaf, 0
	visited := []*x509.Certificate{f.leaf}
	for {
		issuer, signed := f.issuerOf(current, &checks)
		switch {
		case issuer != nil && issuer.Equal(current):
			found.add(LevelError, muster.CodeAnchorMismatch, currentIndex, "it is a root that is not pinned with the name")
			return found
		case issuer == nil:
			found.add(LevelError, muster.CodeAnchorMismatch, currentIndex,
				"its issuer %s is neither an anchor pinned with the name nor an intermediate at hand", quote(current.Issuer.String()))
			return found
		case !signed && otherKey(current, issuer.Certificate):
			found.add(LevelError, muster.CodeAnchorMismatch, currentIndex,
				"its issuer %s has another key than the authority of that name at hand", quote(current.Issuer.String()))
			return found
		case !signed:
			found.add(LevelError, muster.CodePathInvalid, currentIndex,
				"its signature is not that of its issuer %s", quote(current.Issuer.String()))
			return found
		}
		found = append(found, issuer.found...)
		intermediates := len(visited) - 1
		if issuer.BasicConstraintsValid && issuer.MaxPathLen >= 0 && intermediates > issuer.MaxPathLen {
			found.add(LevelError, muster.CodePathInvalid, issuer.index,
				"%s allows %d intermediates below it and has %d", quote(issuer.Subject.String()), issuer.MaxPathLen, intermediates)
		}
		if issuer.anchor {
			break
		}
		if slices.ContainsFunc(visited, issuer.Equal) || checks <= 0 {
			found.add(LevelError, muster.CodePathInvalid, issuer.index, "its issuers lead to no anchor")
			return found
		}
		visited = append(visited, issuer.Certificate)
		current, currentIndex = issuer.Certificate, issuer.index
	}
	if !found.failed() {
		found.add(LevelError, muster.CodePathInvalid, NoIndex, "no path to a pinned anchor is valid")
	}
	return found
}

const maxWalkChecks = 16

// issuerOf returns the candidate that signed c or, failing that, the first that
// has the name of c's issuer; nil if none has.
func (f *pathFinder) issuerOf(c *x509.Certificate, checks *int) (issuer *candidate, signed bool) {
	for i := range f.candidates {
		named := &f.candidates[i]
		if !bytes.Equal(named.RawSubject, c.RawIssuer) || *checks <= 0 {
			continue
		}
		if issuer == nil {
			issuer = named
		}
		*checks--
		if named.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			return named, true
		}
	}
	return issuer, false
}

// otherKey reports whether child says that a key other than issuer's signed it.
func otherKey(child, issuer *x509.Certificate) bool {
	return len(child.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(child.AuthorityKeyId, issuer.SubjectKeyId)
}

func hasExtension(c *x509.Certificate, id asn1.ObjectIdentifier) bool {
	for _, extension := range c.Extensions {
		if extension.Id.Equal(id) {
			return true
		}
	}
	return false
}
