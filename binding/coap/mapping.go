package coap

import (
	"fmt"
	"strings"
	"time"

	"muster/primitive"
)

// Content formats: those of RFC 7252 and RFC 8949, which are sent, and those that
// implementations of TS-0008 use for the media types of oneM2M, which are accepted.
const (
	formatJSON             = 50
	formatCBOR             = 60
	formatResourceJSON     = 10001
	formatResourceCBOR     = 10010
	formatResourceJSONLate = 10014
	formatResourceCBORLate = 10015
)

func formatOf(contentFormat uint32) (primitive.Format, bool) {
	switch contentFormat {
	case formatJSON, formatResourceJSON, formatResourceJSONLate:
		return primitive.JSON, true
	case formatCBOR, formatResourceCBOR, formatResourceCBORLate:
		return primitive.CBOR, true
	}
	return 0, false
}

func contentFormatOf(f primitive.Format) uint32 {
	if f == primitive.CBOR {
		return formatCBOR
	}
	return formatJSON
}

// CodeOf returns the response code for a response status code (TS-0008 6.2.4). An
// unknown one has that of its class.
func CodeOf(s primitive.Status, op primitive.Operation) Code {
	switch s {
	case primitive.OK:
		if op == primitive.Notify {
			return CodeChanged
		}
		return CodeContent
	case primitive.Created:
		return CodeCreated
	case primitive.Deleted:
		return CodeDeleted
	case primitive.Updated:
		return CodeChanged
	case primitive.BadRequest, primitive.ContentsUnacceptable:
		return CodeBadRequest
	case primitive.CreatorHasNoPrivilege, primitive.OriginatorHasNoPrivilege, primitive.Conflict,
		primitive.OriginatorNotAuthenticated, primitive.SecurityAssociationRequired,
		primitive.InvalidChildResourceType, primitive.OriginatorHasAlreadyRegistered:
		return CodeForbidden
	case primitive.NotFound, primitive.TargetNotReachable:
		return CodeNotFound
	case primitive.OperationNotAllowed:
		return CodeMethodNotAllowed
	case primitive.NotAcceptable:
		return CodeNotAcceptable
	case primitive.UnsupportedMediaType:
		return CodeUnsupportedFormat
	case primitive.ReleaseVersionNotSupported, primitive.NotImplemented:
		return CodeNotImplemented
	case primitive.RequestTimeout:
		return CodeGatewayTimeout
	}
	switch {
	case s.Success():
		return CodeContent
	case s >= 4000 && s < 5000:
		return CodeBadRequest
	}
	return CodeInternalServerError
}

// readRequest maps a request message, whole and with options that are understood,
// to a request primitive. Its error is an *Error; the request is then incomplete
// and has what an answer to it needs.
func readRequest(m *Message) (*primitive.Request, error) {
	r := &primitive.Request{}
	if err := readOptions(r, m.Options); err != nil {
		return r, err
	}
	ty, create := m.Options.Uint(OptionTY)
	switch m.Code {
	case POST:
		r.Operation = primitive.Notify
		if create {
			r.Operation = primitive.Create
		}
	case GET:
		r.Operation = primitive.Retrieve
	case PUT:
		r.Operation = primitive.Update
	case DELETE:
		r.Operation = primitive.Delete
	default:
		return r, &primitive.Error{Status: primitive.OperationNotAllowed}
	}
	r.ResourceType = int(ty)
	if create && ty == 0 {
		return r, &primitive.Error{Status: primitive.BadRequest, Detail: "the oneM2M-TY option is 0"}
	}
	var err error
	if r.To, err = primitive.PathTo(trimPath(m.Options.Texts(OptionURIPath))); err != nil {
		return r, err
	}
	if err := primitive.CheckIdentifier("to", r.To); err != nil {
		return r, err
	}
	for _, field := range m.Options.Texts(OptionURIQuery) {
		name, value, _ := strings.Cut(field, "=")
		if err := r.SetQuery(name, value); err != nil {
			return r, err
		}
	}
	r.Content, err = readContent(m)
	if err == nil && !r.Content.IsZero() && (r.Operation == primitive.Retrieve || r.Operation == primitive.Delete) {
		err = &primitive.Error{Status: primitive.BadRequest, Detail: "the request has a body"}
	}
	return r, err
}

// trimPath removes the empty last segment of a path that ends in a slash.
func trimPath(segments []string) []string {
	if n := len(segments); n > 1 && segments[n-1] == "" {
		return segments[:n-1]
	}
	return segments
}

func readOptions(r *primitive.Request, o Options) error {
	for _, field := range []struct {
		number OptionNumber
		name   string
		set    func(value string) error
	}{
		{OptionRQI, "RQI", func(v string) error { r.RequestID = v; return primitive.CheckIdentifier("rqi", v) }},
		{OptionRVI, "RVI", func(v string) error { r.ReleaseVersion = v; return nil }},
		{OptionFR, "FR", func(v string) error { r.From = v; return primitive.CheckIdentifier("fr", v) }},
		{OptionOT, "OT", func(v string) (err error) { r.OriginatingTimestamp, err = primitive.ParseTimestamp(v); return err }},
		{OptionRQET, "RQET", func(v string) (err error) { r.RequestExpiration, err = primitive.ParseMoment(v); return err }},
		{OptionRSET, "RSET", func(v string) (err error) { r.ResultExpiration, err = primitive.ParseMoment(v); return err }},
		{OptionOET, "OET", func(v string) (err error) { r.OperationExecution, err = primitive.ParseMoment(v); return err }},
		{OptionEC, "EC", func(v string) error { r.EventCategory = int(decodeUint([]byte(v))); return nil }},
	} {
		if value, ok := o.Get(field.number); ok && field.set(string(value)) != nil {
			return &primitive.Error{Status: primitive.BadRequest, Detail: "the oneM2M-" + field.name + " option is malformed"}
		}
	}
	return nil
}

func readContent(m *Message) (primitive.Content, error) {
	if len(m.Payload) == 0 {
		return primitive.Content{}, nil
	}
	if len(m.Payload) > primitive.MaxContent {
		return primitive.Content{}, &primitive.Error{Status: primitive.BadRequest, Detail: "the body is too large"}
	}
	contentFormat, _ := m.Options.Uint(OptionContentFormat)
	format, ok := formatOf(contentFormat)
	if !ok {
		return primitive.Content{}, &primitive.Error{Status: primitive.UnsupportedMediaType}
	}
	return primitive.RawContent(format, m.Payload), nil
}

// negotiate chooses the format of the answer: what Accept asks for, else that of
// the request's content, else JSON. ok is false if Accept asks for another.
func negotiate(o Options) (f primitive.Format, ok bool) {
	if accept, present := o.Uint(OptionAccept); present {
		return formatOf(accept)
	}
	contentFormat, _ := o.Uint(OptionContentFormat)
	if f, ok = formatOf(contentFormat); ok {
		return f, true
	}
	return primitive.JSON, true
}

// writeResponse maps a response primitive to a message without type, identifier
// and token. No answer may be cached: each is for one peer only, and some carry
// keys. The Max-Age of one that is busy is when to ask again (RFC 7252 5.9.3.4).
func writeResponse(r *primitive.Response, op primitive.Operation, f primitive.Format) *Message {
	payload, err := r.Content.Encode(f)
	if err != nil {
		r = &primitive.Response{Status: primitive.InternalServerError, RequestID: r.RequestID, ReleaseVersion: r.ReleaseVersion}
		payload = nil
	}
	m := &Message{Code: CodeOf(r.Status, op), Payload: payload}
	m.Options.AddUint(OptionMaxAge, uint32(r.RetryAfter/time.Second))
	m.Options.AddUint(OptionRSC, uint32(r.Status))
	addText(&m.Options, OptionRQI, r.RequestID)
	addText(&m.Options, OptionRVI, r.ReleaseVersion)
	if r.Location != "" {
		for _, segment := range primitive.ToPath(r.Location) {
			m.Options.Add(OptionLocationPath, []byte(segment))
		}
	}
	if len(payload) > 0 {
		m.Options.AddUint(OptionContentFormat, contentFormatOf(f))
	}
	return m
}

// addText leaves out what does not fit into an option; only an answer to a request
// over another binding could have such a value.
func addText(o *Options, n OptionNumber, text string) {
	if text != "" && len(text) <= 255 {
		o.Add(n, []byte(text))
	}
}

// writeRequest maps a request primitive to a message without type, identifier and
// token.
func writeRequest(r *primitive.Request, f primitive.Format) (*Message, error) {
	m := &Message{}
	switch r.Operation {
	case primitive.Create, primitive.Notify:
		m.Code = POST
	case primitive.Retrieve:
		m.Code = GET
	case primitive.Update:
		m.Code = PUT
	case primitive.Delete:
		m.Code = DELETE
	default:
		return nil, fmt.Errorf("CoAP has no method for %v", r.Operation)
	}
	for _, segment := range primitive.ToPath(r.To) {
		m.Options.Add(OptionURIPath, []byte(segment))
	}
	for _, field := range r.Query() {
		m.Options.Add(OptionURIQuery, []byte(field))
	}
	for _, text := range []struct {
		number OptionNumber
		value  string
	}{
		{OptionFR, r.From},
		{OptionRQI, r.RequestID},
		{OptionRVI, r.ReleaseVersion},
		{OptionOT, stamp(r.OriginatingTimestamp)},
		{OptionRQET, stamp(r.RequestExpiration.Time)},
		{OptionRSET, stamp(r.ResultExpiration.Time)},
		{OptionOET, stamp(r.OperationExecution.Time)},
	} {
		if len(text.value) > 255 {
			return nil, fmt.Errorf("a value of %d octets does not fit into the CoAP option %d", len(text.value), text.number)
		}
		addText(&m.Options, text.number, text.value)
	}
	if r.RequestExpiration.Relative != 0 || r.ResultExpiration.Relative != 0 || r.OperationExecution.Relative != 0 {
		return nil, fmt.Errorf("CoAP carries no relative time")
	}
	if r.EventCategory != 0 {
		m.Options.AddUint(OptionEC, uint32(r.EventCategory))
	}
	if r.ResourceType != 0 {
		m.Options.AddUint(OptionTY, uint32(r.ResourceType))
	}
	var err error
	if m.Payload, err = r.Content.Encode(f); err != nil {
		return nil, err
	}
	if len(m.Payload) > 0 {
		m.Options.AddUint(OptionContentFormat, contentFormatOf(f))
	}
	m.Options.AddUint(OptionAccept, contentFormatOf(f))
	return m, nil
}

// stamp writes whole seconds, which is what the options have room for.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return primitive.FormatTimestamp(t.Truncate(time.Second))
}

// readResponse maps a response message, whole and with options that are
// understood, to a response primitive.
func readResponse(m *Message, requestID string) (*primitive.Response, error) {
	status, ok := m.Options.Uint(OptionRSC)
	if !ok {
		return nil, fmt.Errorf("the answer %v has no oneM2M-RSC option", m.Code)
	}
	if id, ok := m.Options.Get(OptionRQI); ok && string(id) != requestID {
		return nil, fmt.Errorf("the answer is for another request")
	}
	r := &primitive.Response{Status: primitive.Status(status), RequestID: requestID}
	if v, ok := m.Options.Get(OptionRVI); ok {
		r.ReleaseVersion = string(v)
	}
	if seconds, ok := m.Options.Uint(OptionMaxAge); ok && m.Code.class() == classServerError {
		r.RetryAfter = time.Duration(seconds) * time.Second
	}
	var err error
	if location := m.Options.Texts(OptionLocationPath); len(location) > 0 {
		if r.Location, err = primitive.PathTo(location); err != nil {
			return nil, err
		}
	}
	r.Content, err = readContent(m)
	return r, err
}
