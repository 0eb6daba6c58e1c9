package console

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"muster"
	"muster/cert"
)

// A Role is what a client may do.
type Role string

// The roles. Each may do what the routes list for it; none includes another.
const (
	RoleViewer   Role = "viewer"   // looks, but not at the audit log
	RoleOperator Role = "operator" // looks, and changes instructions, verdicts and commands
	RoleAuditor  Role = "auditor"  // looks at all
	RoleAdmin    Role = "admin"    // may do everything
)

// Roles returns every role.
func Roles() []Role { return []Role{RoleViewer, RoleOperator, RoleAuditor, RoleAdmin} }

// UnmarshalText accepts the name of a role; anything else is an error.
func (r *Role) UnmarshalText(text []byte) error {
	if !slices.Contains(Roles(), Role(text)) {
		return fmt.Errorf("%q is not a role: want one of %v", text, Roles())
	}
	*r = Role(text)
	return nil
}

// A Scope bounds a client to what an administrating stakeholder has to do with.
// The zero Scope does not bound it.
type Scope struct {
	Stakeholder muster.FQDN // of registrations and commands
	Enrolees    string      // what the identifiers of Enrolees, sources of keys and instructions begin with
}

// IsZero reports whether s bounds nothing.
func (s Scope) IsZero() bool { return s == Scope{} }

// Covers reports whether an Enrolee is in the scope. A scope with a stakeholder
// alone has no Enrolees.
func (s Scope) Covers(enrolee string) bool {
	return s.IsZero() || s.Enrolees != "" && strings.HasPrefix(enrolee, s.Enrolees)
}

// A Client is an operator, or a program of theirs, with a certificate.
type Client struct {
	Name    muster.CertName
	Anchors []*x509.Certificate
	Role    Role
	Scope   Scope
	// Status, if not nil, is asked about the certificates of a valid path at each
	// request, as cert.Trust.Status is.
	Status func(path []*x509.Certificate, now time.Time) cert.Findings
}

// A caller is who sent a request.
type caller struct {
	Client
	token bool // rather than by certificate
}

// is reports whether c is the client that the other was, by a configuration that
// may have changed since.
func (c Client) is(other Client) bool {
	return c.Name == other.Name && c.Scope == other.Scope
}

// authenticate returns who sent the request: a token, if there is one, decides
// alone; else it is the client whose name and root the certificate has.
func (s *Server) authenticate(r *http.Request, now time.Time) (caller, error) {
	if secret, ok := tokenOf(r); ok {
		return s.tokens.caller(secret, s.config.Clients(), now)
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return caller{}, muster.Refuse(muster.CodeNoCertificate, "the client sent neither a certificate nor a token")
	}
	var refused error = muster.Refuse(muster.CodeNameUnknown, "no client has this certificate's name")
	for _, c := range s.config.Clients() {
		trust := cert.Trust{Name: c.Name, Anchors: c.Anchors, Usage: cert.UsageClient, Profile: s.config.Profile}
		if c.Status != nil {
			trust.Status = func(path []*x509.Certificate) cert.Findings { return c.Status(path, now) }
		}
		_, findings := cert.Verify(r.TLS.PeerCertificates, trust, now)
		err := findings.Err()
		if err == nil {
			return caller{Client: c}, nil
		}
		if muster.CodeOf(err) != muster.CodeNameMismatch {
			refused = err
		}
	}
	return caller{}, refused
}
