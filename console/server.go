package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"muster"
	"muster/cert"
)

//go:embed openapi.json
var document []byte

// A Role is what a client may do.
type Role string

// The roles. Each may look at what the routes list for it; none includes another.
const (
	RoleViewer   Role = "viewer"
	RoleOperator Role = "operator"
	RoleAuditor  Role = "auditor"
	RoleAdmin    Role = "admin"
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

// A Client is an operator, or a program of theirs, with a certificate.
type Client struct {
	Name    muster.CertName
	Anchors []*x509.Certificate
	Role    Role
	// Status, if not nil, is asked about the certificates of a valid path at each
	// request, as cert.Trust.Status is.
	Status func(path []*x509.Certificate, now time.Time) cert.Findings
}

// A Page is which part of a list is wanted.
type Page struct {
	After string // the identifier of the last item of the page before, or ""
	Limit int    // items at most, at least 1
}

// A Refusal is a chain that was refused.
type Refusal struct {
	ID          string      `json:"id"`
	Time        time.Time   `json:"time"`
	Code        muster.Code `json:"code"`
	Detail      string      `json:"detail"`
	Remote      string      `json:"remote"`
	Transport   string      `json:"transport"`
	Certificate string      `json:"certificate"`
}

// ErrNoCursor is returned by a lister for an After that it does not know (any more).
var ErrNoCursor = errors.New("the cursor is not, or no longer, known")

// A RefusalLister lists the refusals, the newest first. It may be called by many
// goroutines at once.
type RefusalLister interface {
	Refusals(ctx context.Context, page Page) ([]Refusal, error)
}

// A Config describes a Server.
type Config struct {
	Clients  []Client
	Profile  cert.Profile // how strict the clients' certificates are judged
	Refusals RefusalLister
	Logger   *slog.Logger
	Now      func() time.Time
}

// A Server answers operators.
type Server struct {
	config Config
	mux    *http.ServeMux
}

// The bounds of a page, and of a request.
const (
	defaultLimit = 50
	maxLimit     = 500
	maxBody      = 64 << 10
)

// A route is one operation of the interface.
type route struct {
	method, path string
	roles        []Role // nil for everybody, even without a certificate
	serve        func(s *Server, who Client, r *http.Request) (any, error)
}

var routes = []route{
	{"GET", "/livez", nil, func(*Server, Client, *http.Request) (any, error) { return map[string]string{"status": "ok"}, nil }},
	{"GET", "/v1/openapi.json", Roles(), func(*Server, Client, *http.Request) (any, error) { return json.RawMessage(document), nil }},
	{"GET", "/v1/whoami", Roles(), func(_ *Server, who Client, _ *http.Request) (any, error) {
		return map[string]string{"name": who.Name.String(), "role": string(who.Role)}, nil
	}},
	{"GET", "/v1/refusals", Roles(), (*Server).refusals},
}

// New returns a Server.
func New(config Config) *Server {
	s := &Server{config, http.NewServeMux()}
	for _, r := range routes {
		s.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, request *http.Request) { s.answer(w, request, r) })
	}
	return s
}

// TLS returns how the server's connections are secured. Certificates of clients
// are judged at each request, so that one that expires ends with its time.
func (s *Server) TLS(identity func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequestClientCert,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return identity() },
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2", "http/1.1"},
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.refuse(w, r, http.StatusNotFound, muster.Refuse(muster.CodeRequestNotAllowed, "there is no %s %s", r.Method, r.URL.Path))
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, at route) {
	var who Client
	if at.roles != nil {
		var err error
		if who, err = s.authenticate(r, s.config.Now()); err != nil {
			s.refuse(w, r, http.StatusUnauthorized, err)
			return
		}
		if !slices.Contains(at.roles, who.Role) {
			s.refuse(w, r, http.StatusForbidden, muster.Refuse(muster.CodeRequestNotAllowed, "the role %s may not %s %s", who.Role, at.method, at.path))
			return
		}
	}
	result, err := at.serve(s, who, r)
	if err != nil {
		status := http.StatusInternalServerError
		if muster.CodeOf(err) == muster.CodeRequestMalformed {
			status = http.StatusBadRequest
		}
		s.refuse(w, r, status, err)
		return
	}
	s.write(w, http.StatusOK, "application/json", result)
}

// authenticate returns the client whose name and root the certificate has.
func (s *Server) authenticate(r *http.Request, now time.Time) (Client, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return Client{}, muster.Refuse(muster.CodeNoCertificate, "the client sent no certificate")
	}
	var refused error = muster.Refuse(muster.CodeNameUnknown, "no client has this certificate's name")
	for _, c := range s.config.Clients {
		trust := cert.Trust{Name: c.Name, Anchors: c.Anchors, Usage: cert.UsageClient, Profile: s.config.Profile}
		if c.Status != nil {
			trust.Status = func(path []*x509.Certificate) cert.Findings { return c.Status(path, now) }
		}
		_, findings := cert.Verify(r.TLS.PeerCertificates, trust, now)
		err := findings.Err()
		if err == nil {
			return c, nil
		}
		if muster.CodeOf(err) != muster.CodeNameMismatch {
			refused = err
		}
	}
	return Client{}, refused
}

// A problem is a refusal in the form of RFC 9457.
type problem struct {
	Type   string      `json:"type"`
	Title  string      `json:"title"`
	Status int         `json:"status"`
	Detail string      `json:"detail,omitempty"`
	Code   muster.Code `json:"code,omitempty"`
	Remedy string      `json:"remedy,omitempty"`
}

// refuse answers with a problem. What failed within is for the log alone, whose
// line has a code, as all have that strangers cause, so that a flood can be cut.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	s.config.Logger.Warn("operator refused", "code", muster.CodeOf(err), "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr, "status", status, "error", err)
	p := problem{Type: "about:blank", Title: http.StatusText(status), Status: status}
	if meaning, ok := muster.CodeOf(err).Meaning(); ok && status < http.StatusInternalServerError {
		p.Title, p.Detail, p.Code, p.Remedy = meaning.Rule, err.Error(), meaning.Code, meaning.Remedy
	}
	s.write(w, status, "application/problem+json", p)
}

func (s *Server) write(w http.ResponseWriter, status int, mediaType string, body any) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.config.Logger.Debug("answer not sent", "error", err)
	}
}

// A list is one page of items, and where the next begins; "" after the last.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

func (s *Server) refusals(_ Client, r *http.Request) (any, error) {
	page, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	wanted := page.Limit
	page.Limit++ // to learn whether there is more
	items, err := s.config.Refusals.Refusals(r.Context(), page)
	if errors.Is(err, ErrNoCursor) {
		return nil, muster.Refuse(muster.CodeRequestMalformed, "after: %w", err)
	} else if err != nil {
		return nil, err
	}
	answer := list[Refusal]{Items: append([]Refusal{}, items[:min(wanted, len(items))]...)}
	if len(items) > wanted {
		answer.Next = items[wanted-1].ID
	}
	return answer, nil
}

// pageOf reads the parameters after and limit; others are refused, so that a
// misspelt one is not overlooked.
func pageOf(r *http.Request) (Page, error) {
	page := Page{Limit: defaultLimit}
	for name, values := range r.URL.Query() {
		switch {
		case len(values) != 1:
			return page, muster.Refuse(muster.CodeRequestMalformed, "the parameter %q stands more than once", name)
		case name == "after":
			page.After = values[0]
		case name == "limit":
			limit, err := strconv.Atoi(values[0])
			if err != nil || limit < 1 || limit > maxLimit {
				return page, muster.Refuse(muster.CodeRequestMalformed, "limit is not a number from 1 to %d", maxLimit)
			}
			page.Limit = limit
		default:
			return page, muster.Refuse(muster.CodeRequestMalformed, "there is no parameter %q", name)
		}
	}
	return page, nil
}
