package binding

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"muster"
	"muster/primitive"
)

// fetchSegment is the first path segment of the alias by which TS-0003 8.3.2.1
// retrieves a key.
const fetchSegment = "fetchCredentials"

// A FetchRequest asks a MEF for the key of an Enrolee.
type FetchRequest struct {
	From string // as the peer claims: X-M2M-Origin
	KeID muster.KeID
	SUID muster.SUID
}

// A Credential is a MEF's answer to a FetchRequest.
type Credential struct {
	Km        muster.Km
	EnroleeID muster.EnroleeID
	Lifetime  time.Duration // what remains, whole seconds
}

// A FetchFunc answers a FetchRequest of an authenticated peer. It compares From
// with the peer. Its error is mapped by primitive.StatusOf.
type FetchFunc func(ctx context.Context, s *muster.Session, r FetchRequest) (Credential, error)

// credentialMessage is the body of an answer (TS-0003 8.3.2.1, tables 5 and 6).
type credentialMessage struct {
	Status      bool   `json:"Status"`
	Credential  []byte `json:"Credential,omitempty"`
	EnroleeID   string `json:"EnroleeID,omitempty"`
	Lifetime    int64  `json:"Lifetime,omitempty"`
	ErrorString string `json:"ErrorString,omitempty"`
}

// fetchPath reports whether a request is for the alias, and its two parameters,
// still unchecked.
func fetchPath(r *http.Request) (keID, suid string, ok bool) {
	segments := strings.Split(r.URL.EscapedPath(), "/")
	if len(segments) != 4 || segments[0] != "" || segments[1] != fetchSegment {
		return "", "", false
	}
	keID, err := url.PathUnescape(segments[2])
	return keID, segments[3], err == nil
}

func (s *Server) serveFetch(ctx context.Context, w http.ResponseWriter, r *http.Request, session *muster.Session, keID, suid string) {
	credential, err := s.fetch(ctx, r, session, keID, suid)
	message := credentialMessage{Status: true, EnroleeID: credential.EnroleeID.String(), Lifetime: int64(credential.Lifetime / time.Second)}
	status, retryAfter := primitive.OK, time.Duration(0)
	if err != nil {
		refusal := primitive.ErrorOf(err)
		status, retryAfter = refusal.Status, refusal.RetryAfter
		message = credentialMessage{ErrorString: failureText(status)}
	} else {
		message.Credential = credential.Km.Reveal()
		defer clear(message.Credential)
	}
	body, err := json.Marshal(message)
	if err != nil {
		status, body = primitive.InternalServerError, nil
	}
	defer clear(body)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", mediaJSON)
	h.Set(headerStatus, strconv.Itoa(int(status)))
	if id := r.Header.Get(headerRequestID); primitive.CheckIdentifier(headerRequestID, id) == nil {
		h.Set(headerRequestID, id)
	}
	setRetryAfter(h, retryAfter)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(HTTPStatus(status))
	_, _ = w.Write(body) // a peer that is gone needs no answer
}

// failureText depends on the status alone, so that every key that is not handed
// out is refused with the same octets.
func failureText(s primitive.Status) string {
	if s == primitive.NotFound {
		return "no such credential"
	}
	return s.String()
}

func (s *Server) fetch(ctx context.Context, r *http.Request, session *muster.Session, keID, suid string) (Credential, error) {
	if r.Method != http.MethodGet {
		return Credential{}, &primitive.Error{Status: primitive.OperationNotAllowed}
	}
	request := &primitive.Request{}
	if err := readHeader(request, r.Header); err != nil {
		return Credential{}, err
	}
	id, err := muster.ParseKeID(keID)
	if err != nil {
		return Credential{}, &primitive.Error{Status: primitive.BadRequest}
	}
	usage, err := muster.ParseSUID(suid)
	if err != nil {
		return Credential{}, &primitive.Error{Status: primitive.BadRequest}
	}
	credential, err := s.config.Fetch(ctx, session, FetchRequest{request.From, id, usage})
	if err == nil && (credential.Km.IsZero() || credential.EnroleeID.IsZero() || credential.Lifetime < time.Second) {
		err = errors.New("the credential is incomplete")
	}
	return credential, err
}

// parseCredential reads the body of a successful answer. Its error never shows it.
func parseCredential(body []byte) (Credential, error) {
	var m credentialMessage
	if err := json.Unmarshal(body, &m); err != nil {
		return Credential{}, errors.New("the answer is not the JSON of a credential")
	}
	defer clear(m.Credential)
	if !m.Status {
		return Credential{}, errors.New("the answer has no credential")
	}
	km, err := muster.NewKm(m.Credential)
	if err != nil {
		return Credential{}, err
	}
	id, err := muster.ParseEnroleeID(m.EnroleeID)
	if err != nil {
		return Credential{}, err
	}
	if m.Lifetime < 1 || m.Lifetime > maxLifetime {
		return Credential{}, fmt.Errorf("the lifetime of %d seconds is not from 1 to %d", m.Lifetime, int64(maxLifetime))
	}
	return Credential{km, id, time.Duration(m.Lifetime) * time.Second}, nil
}

const maxLifetime = 100 * 365 * 24 * 3600 // seconds
