package cert

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"muster"
)

// A Usage is the role in the handshake of the peer whose certificate is verified.
type Usage int

// The roles. The zero Usage is none of them, so that a Trust without a role
// trusts nobody.
const (
	// UsageClient is the role of an Enrolee, a MEF client or a MAF client.
	UsageClient Usage = iota + 1
	// UsageServer is the role of a MEF or a MAF.
	UsageServer
)

// String returns "client" or "server".
func (u Usage) String() string {
	switch u {
	case UsageClient:
		return "client"
	case UsageServer:
		return "server"
	default:
		return "nobody"
	}
}

func (u Usage) extended() (usage x509.ExtKeyUsage, ok bool) {
	switch u {
	case UsageClient:
		return x509.ExtKeyUsageClientAuth, true
	case UsageServer:
		return x509.ExtKeyUsageServerAuth, true
	default:
		return x509.ExtKeyUsageAny, false
	}
}

// A Trust is what one side is configured with to authenticate the other
// (TS-0003 8.1.2.4). Its certificates are not changed and none may be nil.
type Trust struct {
	// Name is what the leaf has to carry, made by ParseName. The zero name
	// matches nobody.
	Name muster.CertName
	// Anchors are pinned together with the name. An anchor is the certificate
	// of an authority; without one, nobody is trusted.
	Anchors []*x509.Certificate
	// Intermediates complete the chain of a peer that sends its leaf only.
	// They are trusted no more than those that the peer sends.
	Intermediates []*x509.Certificate
	// Usage is the role of the peer.
	Usage Usage
	// Profile is the set of rules for all certificates in the path.
	Profile Profile
	// Links, if not nil, spares the signatures on intermediates that have been
	// verified before. It changes no verdict.
	Links *Links
	// Status, if not nil, is asked about a path that is valid otherwise
	// (TS-0003 8.1.2.2): the leaf first, the anchor last. What it finds, with
	// indices into the path, is added; an error refuses. It may block; Verify
	// calls it once.
	Status func(path []*x509.Certificate) Findings
}

// Verify decides whether chain, the leaf first, authenticates the peer that
// trust describes at the time now (TS-0003 8.1.2.5). If so, Findings.Err is nil
// and Peer is complete; if not, Peer is zero. Findings that do not refuse may
// accompany either.
//
// All that can be said without a signature is said before the first signature
// is verified, and an error among it ends the matter: a stranger with a wrong
// name costs no more than the parsing of its certificates. After that at most
// 100 signatures are verified.
func Verify(chain []*x509.Certificate, trust Trust, now time.Time) (muster.Peer, Findings) {
	return verify(chain, trust, now, false)
}

// Explain returns all that Verify finds and, if that is an error in the name,
// the profile or the time of the leaf, goes on to what the path would show. It
// is for operators; its cost is not bound for strangers. A chain beyond the caps
// is not examined further.
func Explain(chain []*x509.Certificate, trust Trust, now time.Time) Findings {
	_, findings := verify(chain, trust, now, true)
	return findings
}

func verify(chain []*x509.Certificate, trust Trust, now time.Time, thorough bool) (muster.Peer, Findings) {
	findings := capsOf(chain)
	if findings.failed() {
		return muster.Peer{}, findings
	}
	// The zero time means the present to crypto/x509.
	if now.IsZero() {
		findings.add(LevelError, muster.CodeNotYetValid, NoIndex, "the time is not known")
		return muster.Peer{}, findings
	}
	leaf := chain[0]
	// crypto/x509 does not look at extensions that an older version has.
	if leaf.Version != 3 {
		findings.add(LevelError, muster.CodeCertificateMalformed, 0, "it is of version %d, which has no extensions", leaf.Version)
		return muster.Peer{}, findings
	}
	entries, err := altNamesOf(leaf)
	if err != nil {
		findings.addError(muster.CodeCertificateMalformed, 0, err)
		return muster.Peer{}, findings
	}
	findings = append(findings, matchName(leaf, entries, trust)...)
	leaf = withoutReadExtensions(leaf)
	findings = append(findings, trust.Profile.leaf(leaf, trust.Usage, now)...)
	if findings.failed() && !thorough {
		return muster.Peer{}, findings
	}

	path, found := findPath(leaf, chain[1:], trust, now)
	findings = append(findings, found...)
	if findings.failed() {
		return muster.Peer{}, findings
	}
	if trust.Status != nil {
		findings = append(findings, statusOf(path, chain, trust)...)
		if findings.failed() {
			return muster.Peer{}, findings
		}
	}
	return muster.Peer{
		Name:        trust.Name,
		Anchor:      muster.DigestOf(path[len(path)-1].RawSubjectPublicKeyInfo),
		Certificate: muster.DigestOf(leaf.Raw),
	}, findings
}

// statusOf asks for the status of a path and turns the indices in the answer
// into those of the presented chain.
func statusOf(path, chain []*x509.Certificate, trust Trust) Findings {
	found := slices.Clone(trust.Status(path))
	for i := range found {
		index := NoIndex
		if n := found[i].Certificate; n >= 0 && n < len(path) {
			index = slices.IndexFunc(chain, path[n].Equal)
		}
		found[i].Certificate = index
	}
	return found
}

// capsOf holds a chain against the caps.
func capsOf(chain []*x509.Certificate) Findings {
	var f Findings
	if len(chain) == 0 {
		f.add(LevelError, muster.CodeNoCertificate, NoIndex, "the peer sent no certificate")
	}
	if len(chain) > 1+MaxIntermediates {
		f.add(LevelError, muster.CodeChainTooLong, NoIndex, "%d certificates beside the leaf exceed %d", len(chain)-1, MaxIntermediates)
		return f
	}
	for i, c := range chain {
		if c == nil || len(c.Raw) == 0 {
			f.add(LevelError, muster.CodeCertificateMalformed, i, "it has not been parsed")
		} else if refusal := overCap(c); refusal != nil {
			f.addError(refusal.Code, i, refusal)
		}
	}
	return f
}

// matchName looks for the pinned name in the leaf (TS-0003 8.1.2.5).
func matchName(leaf *x509.Certificate, entries []altName, trust Trust) Findings {
	var f Findings
	for _, entry := range entries {
		if strings.Contains(entry.text, "*") {
			f.add(trust.Profile.strictly(), muster.CodeNameWildcard, 0, "its subjectAltName has the wildcard %s", quote(entry.text))
		}
	}
	names := namesIn(entries)
	switch {
	case trust.Name.IsZero() && len(names) == 0 && leaf.Subject.CommonName != "":
		f.add(LevelError, muster.CodeNameOnlyInCN, 0, "its subjectAltName has no name; the common name %s is none", quote(leaf.Subject.CommonName))
	case trust.Name.IsZero():
		f.add(LevelError, muster.CodeNameUnknown, 0, "no name is configured; the certificate has %s", list(names))
	case trust.Name.Flavour == muster.FlavourRawKey:
		f.add(LevelError, muster.CodeNameMismatch, 0, "a raw public key is expected, not a chain")
	case slices.Contains(names, trust.Name):
	case lowerASCII(leaf.Subject.CommonName) == lowerASCII(trust.Name.Text):
		f.add(LevelError, muster.CodeNameOnlyInCN, 0, "%s is the common name of the subject and not in its subjectAltName", quote(trust.Name.Text))
	default:
		f.add(LevelError, muster.CodeNameMismatch, 0, "%s is expected; the certificate has %s", quote(trust.Name.String()), list(names))
	}
	return f
}

// list returns the first of names as a detail shows them.
func list(names []muster.CertName) string {
	const most = 4
	if len(names) == 0 {
		return "no name in its subjectAltName"
	}
	var quoted []string
	for _, name := range names[:min(most, len(names))] {
		quoted = append(quoted, quote(name.String()))
	}
	if len(names) > most {
		quoted = append(quoted, "and others")
	}
	return strings.Join(quoted, ", ")
}
