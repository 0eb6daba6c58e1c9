package binding

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"muster/primitive"
)

// The header fields of TS-0009 6.4.
const (
	headerOrigin         = "X-M2M-Origin"
	headerRequestID      = "X-M2M-RI"
	headerReleaseVersion = "X-M2M-RVI"
	headerStatus         = "X-M2M-RSC"
	headerOriginating    = "X-M2M-OT"
	headerRequestExpiry  = "X-M2M-RET"
	headerResultExpiry   = "X-M2M-RST"
	headerExecution      = "X-M2M-OET"
	headerEventCategory  = "X-M2M-EC"
)

const (
	mediaJSON         = "application/json"
	mediaCBOR         = "application/cbor"
	mediaResourceJSON = "application/vnd.onem2m-res+json"
	mediaResourceCBOR = "application/vnd.onem2m-res+cbor"
)

// HTTPStatus returns the status code of HTTP for a response status code (TS-0009
// 6.3.2). An unknown one has that of its class.
func HTTPStatus(s primitive.Status) int {
	switch s {
	case primitive.OK, primitive.Deleted, primitive.Updated:
		return http.StatusOK
	case primitive.Created:
		return http.StatusCreated
	case primitive.CreatorHasNoPrivilege, primitive.OriginatorHasNoPrivilege, primitive.OriginatorNotAuthenticated,
		primitive.SecurityAssociationRequired, primitive.InvalidChildResourceType, primitive.OriginatorHasAlreadyRegistered:
		return http.StatusForbidden
	case primitive.NotFound, primitive.TargetNotReachable:
		return http.StatusNotFound
	case primitive.OperationNotAllowed:
		return http.StatusMethodNotAllowed
	case primitive.NotAcceptable:
		return http.StatusNotAcceptable
	case primitive.Conflict:
		return http.StatusConflict
	case primitive.UnsupportedMediaType:
		return http.StatusUnsupportedMediaType
	case primitive.ReleaseVersionNotSupported, primitive.NotImplemented:
		return http.StatusNotImplemented
	case primitive.RequestTimeout:
		return http.StatusGatewayTimeout
	case primitive.BadRequest, primitive.ContentsUnacceptable:
		return http.StatusBadRequest
	}
	switch {
	case s.Success():
		return http.StatusOK
	case s >= 4000 && s < 5000:
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// readRequest maps an HTTP request to a request primitive. Its error is an *Error;
// the request is then incomplete and has what an answer to it needs.
func readRequest(r *http.Request) (*primitive.Request, error) {
	p := &primitive.Request{}
	if err := readHeader(p, r.Header); err != nil {
		return p, err
	}
	mediaType, parameters, err := contentType(r.Header)
	if err != nil {
		return p, err
	}
	if err := readOperation(p, r.Method, parameters); err != nil {
		return p, err
	}
	if p.To, err = pathTo(r.URL); err != nil {
		return p, err
	}
	if err := readQuery(p, r.URL.RawQuery); err != nil {
		return p, err
	}
	p.Content, err = readContent(r.Body, mediaType)
	if err == nil && !p.Content.IsZero() && (p.Operation == primitive.Retrieve || p.Operation == primitive.Delete) {
		err = &primitive.Error{Status: primitive.BadRequest, Detail: "the request has a body"}
	}
	return p, err
}

func readHeader(p *primitive.Request, h http.Header) error {
	for _, field := range []struct {
		name string
		set  func(value string) error
	}{
		{headerRequestID, func(v string) error { p.RequestID = v; return primitive.CheckIdentifier(headerRequestID, v) }},
		{headerReleaseVersion, func(v string) error { p.ReleaseVersion = v; return nil }},
		{headerOrigin, func(v string) error { p.From = v; return primitive.CheckIdentifier(headerOrigin, v) }},
		{headerOriginating, func(v string) (err error) { p.OriginatingTimestamp, err = primitive.ParseTimestamp(v); return err }},
		{headerRequestExpiry, func(v string) (err error) { p.RequestExpiration, err = primitive.ParseMoment(v); return err }},
		{headerResultExpiry, func(v string) (err error) { p.ResultExpiration, err = primitive.ParseMoment(v); return err }},
		{headerExecution, func(v string) (err error) { p.OperationExecution, err = primitive.ParseMoment(v); return err }},
		{headerEventCategory, func(v string) (err error) { p.EventCategory, err = strconv.Atoi(v); return err }},
	} {
		values := h.Values(field.name)
		if len(values) == 0 {
			continue
		}
		if err := field.set(values[0]); err != nil || len(values) > 1 {
			return &primitive.Error{Status: primitive.BadRequest, Detail: "the header field " + field.name + " is malformed or occurs twice"}
		}
	}
	return nil
}

func contentType(h http.Header) (mediaType string, parameters map[string]string, err error) {
	value := h.Get("Content-Type")
	if value == "" {
		return "", nil, nil
	}
	mediaType, parameters, err = mime.ParseMediaType(value)
	if err != nil {
		return "", nil, &primitive.Error{Status: primitive.BadRequest, Detail: "the Content-Type is malformed"}
	}
	return mediaType, parameters, nil
}

func readOperation(p *primitive.Request, method string, parameters map[string]string) error {
	ty, create := parameters["ty"]
	switch method {
	case http.MethodPost:
		p.Operation = primitive.Notify
		if create {
			n, err := strconv.Atoi(ty)
			if err != nil || n < 1 || n > 65535 {
				return &primitive.Error{Status: primitive.BadRequest, Detail: "the ty of the Content-Type is not a number from 1 to 65535"}
			}
			p.Operation, p.ResourceType = primitive.Create, n
		}
	case http.MethodGet:
		p.Operation = primitive.Retrieve
	case http.MethodPut:
		p.Operation = primitive.Update
	case http.MethodDelete:
		p.Operation = primitive.Delete
	default:
		return &primitive.Error{Status: primitive.OperationNotAllowed}
	}
	return nil
}

func pathTo(u *url.URL) (string, error) {
	var segments []string
	for segment := range strings.SplitSeq(strings.Trim(u.EscapedPath(), "/"), "/") {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			return "", &primitive.Error{Status: primitive.BadRequest, Detail: "the path is malformed"}
		}
		segments = append(segments, decoded)
	}
	to, err := primitive.PathTo(segments)
	if err != nil {
		return "", err
	}
	return to, primitive.CheckIdentifier("to", to)
}

func readQuery(p *primitive.Request, raw string) error {
	if raw == "" {
		return nil
	}
	for field := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(field, "=")
		if err := p.SetQuery(name, value); err != nil {
			return err
		}
	}
	return nil
}

// readContent reads a body of at most primitive.MaxContent octets.
func readContent(body io.Reader, mediaType string) (primitive.Content, error) {
	octets, err := io.ReadAll(io.LimitReader(body, primitive.MaxContent+1))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || len(octets) > primitive.MaxContent {
		return primitive.Content{}, &primitive.Error{Status: primitive.BadRequest, Detail: "the body is too large"}
	}
	if err != nil {
		return primitive.Content{}, &primitive.Error{Status: primitive.BadRequest, Detail: "the body ends early"}
	}
	if len(octets) == 0 {
		return primitive.Content{}, nil
	}
	format, ok := formatOf(mediaType)
	if !ok {
		return primitive.Content{}, &primitive.Error{Status: primitive.UnsupportedMediaType}
	}
	return primitive.RawContent(format, octets), nil
}

func formatOf(mediaType string) (primitive.Format, bool) {
	switch mediaType {
	case mediaJSON, mediaResourceJSON:
		return primitive.JSON, true
	case mediaCBOR, mediaResourceCBOR:
		return primitive.CBOR, true
	}
	return 0, false
}

// negotiate chooses the format of the answer: what Accept prefers, else that of
// the request's content, else JSON. ok is false if Accept admits none.
func negotiate(r *http.Request) (format primitive.Format, media string, ok bool) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" {
		mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if format, ok := formatOf(mediaType); ok {
			return format, mediaType, true
		}
		return primitive.JSON, mediaResourceJSON, true
	}
	best := 0.0
	for item := range strings.SplitSeq(accept, ",") {
		mediaType, parameters, err := mime.ParseMediaType(item)
		if err != nil {
			continue
		}
		switch mediaType {
		case "*/*", "application/*":
			mediaType = mediaResourceJSON
		}
		f, known := formatOf(mediaType)
		if q := quality(parameters); known && q > best {
			format, media, best = f, mediaType, q
		}
	}
	return format, media, best > 0
}

func quality(parameters map[string]string) float64 {
	value, ok := parameters["q"]
	if !ok {
		return 1
	}
	q, err := strconv.ParseFloat(value, 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 0
	}
	return q
}

// writeResponse maps a response primitive to an HTTP response. None may be cached:
// every answer is for one peer only, and some carry keys.
func writeResponse(w http.ResponseWriter, r *primitive.Response, format primitive.Format, media string) {
	body, err := r.Content.Encode(format)
	if err != nil {
		r = &primitive.Response{Status: primitive.InternalServerError, RequestID: r.RequestID, ReleaseVersion: r.ReleaseVersion}
		body = nil
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set(headerStatus, strconv.Itoa(int(r.Status)))
	setHeader(h, headerRequestID, r.RequestID)
	setHeader(h, headerReleaseVersion, r.ReleaseVersion)
	if r.Location != "" {
		h.Set("Content-Location", escapedPath(r.Location))
	}
	if r.Status == primitive.OperationNotAllowed {
		h.Set("Allow", "GET, POST, PUT, DELETE")
	}
	setRetryAfter(h, r.RetryAfter)
	if len(body) > 0 {
		h.Set("Content-Type", media)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(HTTPStatus(r.Status))
	_, _ = w.Write(body) // a peer that is gone needs no answer
}

func setRetryAfter(h http.Header, wait time.Duration) {
	if wait > 0 {
		h.Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
	}
}

func setHeader(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}

func escapedPath(to string) string {
	var b strings.Builder
	for _, segment := range primitive.ToPath(to) {
		b.WriteString("/" + url.PathEscape(segment))
	}
	return b.String()
}

// writeHeader is the inverse of readHeader.
func writeHeader(h http.Header, p *primitive.Request) {
	setHeader(h, headerRequestID, p.RequestID)
	setHeader(h, headerReleaseVersion, p.ReleaseVersion)
	setHeader(h, headerOrigin, p.From)
	setHeader(h, headerOriginating, stamp(p.OriginatingTimestamp))
	setHeader(h, headerRequestExpiry, p.RequestExpiration.String())
	setHeader(h, headerResultExpiry, p.ResultExpiration.String())
	setHeader(h, headerExecution, p.OperationExecution.String())
	if p.EventCategory != 0 {
		h.Set(headerEventCategory, strconv.Itoa(p.EventCategory))
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return primitive.FormatTimestamp(t)
}
