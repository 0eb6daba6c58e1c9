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
	// MaxInstructions bounds how many instructions of operators there are in the
	// Scope for the client to make another; 0 does not.
	MaxInstructions int
	// Status, if not nil, is asked about the certificates of a valid path at each
	// request, as cert.Trust.Status is.
	Status func(path []*x509.Certificate, now time.Time) cert.Findings
}

// A caller is who sent a request.
type caller struct {
	Client
	chain []*x509.Certificate // the leaf first
	token bool                // which was issued to that certificate
}

// authenticate returns who sent the request: a token, if there is one, decides
// alone; else it is the client whose name and root the certificate has.
func (s *Server) authenticate(r *http.Request, now time.Time) (caller, error) {
	if secret, ok := tokenOf(r); ok {
		return s.bearer(secret, now)
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return caller{}, muster.Refuse(muster.CodeNoCertificate, "the client sent neither a certificate nor a token")
	}
	return s.holder(r.TLS.PeerCertificates, now)
}

// bearer returns whose a token is. It lets in no longer than the certificate would
// to which it was issued, nor to more than that client may do now.
func (s *Server) bearer(secret presented, now time.Time) (caller, error) {
	found, ok := s.tokens.find(secret.text, secret.use, now)
	if !ok {
		return caller{}, muster.Refuse(muster.CodeTokenInvalid, "the token is unknown, spent or expired")
	}
	who, err := s.holder(found.chain, now)
	switch {
	case err != nil:
		return caller{}, muster.Refuse(muster.CodeTokenInvalid, "the certificate to which the token was issued: %w", err)
	case who.Role != found.role && who.Role != RoleAdmin && found.role != RoleViewer:
		return caller{}, muster.Refuse(muster.CodeTokenInvalid, "%s is no longer a client with the role %s", who.Name, found.role)
	}
	who.Role, who.token = found.role, true
	return who, nil
}

// holder returns the client to whom a certificate belongs.
func (s *Server) holder(chain []*x509.Certificate, now time.Time) (caller, error) {
	var refused error = muster.Refuse(muster.CodeNameUnknown, "no client has this certificate's name")
	for _, c := range s.config.Clients() {
		trust := cert.Trust{Name: c.Name, Anchors: c.Anchors, Usage: cert.UsageClient, Profile: s.config.Profile}
		if c.Status != nil {
			trust.Status = func(path []*x509.Certificate) cert.Findings { return c.Status(path, now) }
		}
		_, findings := cert.Verify(chain, trust, now)
		err := findings.Err()
		if err == nil {
			return caller{Client: c, chain: chain}, nil
		}
		if muster.CodeOf(err) != muster.CodeNameMismatch {
			refused = err
		}
	}
	return caller{}, refused
}
