package console

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"muster"
	"muster/cert"
)

// A Config describes a Server.
type Config struct {
	Clients func() []Client // those of now
	Profile cert.Profile    // how strict the clients' certificates are judged
	Sources
	Logger *slog.Logger
	Now    func() time.Time
}

// A Server answers operators.
type Server struct {
	config   Config
	mux      *http.ServeMux
	pages    []page
	origins  *http.CrossOriginProtection
	document json.RawMessage
	tokens   tokens
	memory   memory
	watchers chan struct{}
}

// The bounds of a page, and of a request.
const (
	defaultLimit = 50
	maxLimit     = 500
	MaxBody      = 8 << 20  // octets: some twenty thousand instructions
	maxOne       = 64 << 10 // octets of a request about one of something
	maxWatchers  = 64       // who follow events
)

// New returns a Server.
func New(config Config) *Server {
	s := &Server{config: config, mux: http.NewServeMux(), origins: http.NewCrossOriginProtection(), watchers: make(chan struct{}, maxWatchers)}
	served := slices.DeleteFunc(routes(), func(r route) bool { return r.has != nil && !r.has(&config.Sources) })
	s.document = document(served)
	for _, r := range served {
		s.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, request *http.Request) { s.answer(w, request, r) })
	}
	s.addPages()
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
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("X-Frame-Options", "DENY")
	if err := s.origins.Check(r); err != nil { // a browser adds cookies and certificates to what any site sends
		s.refuse(w, r, muster.Refuse(muster.CodeRequestNotAllowed, "a page of another site sent the request: %w", err))
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		err := muster.Refuse(muster.CodeResourceUnknown, "this function has no %s %s", r.Method, r.URL.Path)
		if wantsPage(r) {
			s.refusePage(w, r, err)
		} else {
			s.refuse(w, r, err)
		}
		return
	}
	s.mux.ServeHTTP(w, r)
}

// answer serves a request of the interface for programs.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, at route) {
	if at.roles == nil {
		dismiss(w)
	}
	who, err := s.admit(r, at.method+" "+at.path, at.access)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if at.stream != nil {
		if err := at.stream(s, who, w, r); err != nil {
			s.refuse(w, r, err)
		}
		return
	}
	if !at.large {
		r.Body = http.MaxBytesReader(w, r.Body, maxOne)
	}
	var answer reply
	if key := r.Header.Get("Idempotency-Key"); key != "" && at.method == http.MethodPost && !at.secret {
		answer, err = s.once(r, who, key, at)
	} else {
		answer, err = s.perform(r, who, at)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	w.Header().Set("ETag", answer.tag)
	if r.Method == http.MethodGet && matches(r.Header.Get("If-None-Match"), answer.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.write(w, http.StatusOK, "application/json", answer.body)
}

// A reply is what a route answers.
type reply struct {
	body []byte
	tag  string // entity tag
}

func (s *Server) perform(r *http.Request, who caller, at route) (reply, error) {
	result, err := at.serve(s, who, r)
	if err != nil {
		return reply{}, err
	}
	body, err := json.Marshal(result)
	return reply{append(body, '\n'), tagOf(body)}, err
}

// tagOf returns the entity tag of what is answered: others for other octets.
func tagOf(body []byte) string { return strconv.Quote(muster.DigestOf(body).String()[:32]) }

// matches reports whether a tag is in the value of If-Match or If-None-Match.
func matches(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
			return true
		}
	}
	return false
}

// admit returns who sent the request, if they may do so.
func (s *Server) admit(r *http.Request, what string, a access) (caller, error) {
	if a.roles == nil {
		return caller{}, nil
	}
	who, err := s.authenticate(r, s.config.Now())
	if err != nil {
		return who, err
	}
	switch {
	case !slices.Contains(a.roles, who.Role):
		err = muster.Refuse(muster.CodeRequestNotAllowed, "the role %s may not %s", who.Role, what)
	case a.unscoped && !who.Scope.IsZero():
		err = muster.Refuse(muster.CodeRequestNotAllowed, "%s is for clients without stakeholder", what)
	default:
		return who, nil
	}
	if recorded := s.record(r.Context(), who, what, muster.CodeOf(err)); recorded != nil {
		return who, recorded
	}
	return who, err
}

// record writes down an act of a caller.
func (s *Server) record(ctx context.Context, who caller, what string, code muster.Code) error {
	if s.config.Record == nil {
		return nil
	}
	act := who.act(what)
	act.Code = code
	return s.config.Record(ctx, act)
}

func (who caller) act(what string) Act {
	if who.token {
		what += " (by token)"
	}
	return Act{Who: who.Name.String(), What: what}
}

// decode reads the body of a request, in which nothing may be that body does not have.
func decode(r *http.Request, body any) error {
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/json" {
		return muster.Refuse(muster.CodeRequestMalformed, "the content type is not application/json")
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(body)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the value")
		}
	}
	if err != nil {
		return muster.Refuse(muster.CodeRequestMalformed, "the body: %w", err)
	}
	return nil
}

// A problem is a refusal in the form of RFC 9457.
type problem struct {
	Type   string      `json:"type"`
	Title  string      `json:"title"`
	Status int         `json:"status"`
	Detail string      `json:"detail,omitempty"`
	Code   muster.Code `json:"code,omitempty"`
	Remedy string      `json:"remedy,omitempty"`
	Faults []Fault     `json:"faults,omitempty"` // of an import
}

// statusOf returns the status with which an error is answered.
func statusOf(err error) int {
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge
	}
	switch muster.CodeOf(err) {
	case muster.CodeRequestMalformed:
		return http.StatusBadRequest
	case muster.CodeNoCertificate, muster.CodeTokenInvalid, muster.CodeNameUnknown, muster.CodeAnchorMismatch, muster.CodeExpired, muster.CodeRevoked:
		return http.StatusUnauthorized
	case muster.CodeRequestNotAllowed:
		return http.StatusForbidden
	case muster.CodeResourceUnknown:
		return http.StatusNotFound
	case muster.CodeResourceConflict, muster.CodeCommandConflict, muster.CodeQuotaExceeded:
		return http.StatusConflict
	case muster.CodeResourceChanged:
		return http.StatusPreconditionFailed
	case muster.CodeConfiguration:
		return http.StatusUnprocessableEntity
	case muster.CodeBusy, muster.CodeStoreFailed:
		return http.StatusServiceUnavailable
	case muster.CodeStoreDamaged, "":
		return http.StatusInternalServerError
	}
	return http.StatusUnauthorized // every other code is one of certificates
}

// busyDelay is after how many seconds a client that was told so may come back.
const busyDelay = "5"

// refuse answers with a problem. What failed within is for the log alone, whose
// line has a code, as all have that strangers cause, so that a flood can be cut.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p := s.problemOf(r, err)
	switch p.Status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", busyDelay)
	case http.StatusUnauthorized:
		dismiss(w)
	}
	body, _ := json.Marshal(p) // of texts and numbers: never fails
	s.write(w, p.Status, "application/problem+json", append(body, '\n'))
}

// dismiss has the connection end with the answer, so that strangers cannot take the
// places of all others at the listener by asking again and again.
func dismiss(w http.ResponseWriter) { w.Header().Set("Connection", "close") }

// problemOf logs an error and returns what is told of it.
func (s *Server) problemOf(r *http.Request, err error) problem {
	status := statusOf(err)
	s.config.Logger.Warn("operator refused", "code", muster.CodeOf(err), "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr, "status", status, "error", err)
	p := problem{Type: "about:blank", Title: http.StatusText(status), Status: status}
	if meaning, ok := muster.CodeOf(err).Meaning(); ok && status != http.StatusInternalServerError {
		p.Title, p.Code, p.Remedy = meaning.Rule, meaning.Code, meaning.Remedy
		if meaning.Code != muster.CodeStoreFailed {
			p.Detail = err.Error()
		}
	}
	if faulty, ok := errors.AsType[*faults](err); ok {
		p.Faults = faulty.list
	}
	return p
}

func (s *Server) write(w http.ResponseWriter, status int, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	if _, err := io.Copy(w, bytes.NewReader(body)); err != nil {
		s.config.Logger.Debug("answer not sent", "error", err)
	}
}
