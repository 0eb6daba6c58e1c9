package primitive

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// The short names of primitive parameters (TS-0004 8.2.2) that the interfaces use.
const (
	nameOperation            = "op"
	nameTo                   = "to"
	nameFrom                 = "fr"
	nameRequestID            = "rqi"
	nameResourceType         = "ty"
	nameContent              = "pc"
	nameOriginatingTimestamp = "ot"
	nameRequestExpiration    = "rqet"
	nameResultExpiration     = "rset"
	nameOperationExecution   = "oet"
	nameResponseType         = "rt"
	nameResultContent        = "rcn"
	nameEventCategory        = "ec"
	nameStatus               = "rsc"
	nameReleaseVersion       = "rvi"
)

// shortNames returns the short names of all parameters by their long names.
func shortNames() map[string]string {
	return map[string]string{
		"operation": nameOperation, "to": nameTo, "from": nameFrom, "requestIdentifier": nameRequestID,
		"resourceType": nameResourceType, "primitiveContent": nameContent, "roleIDs": "rids",
		"originatingTimestamp": nameOriginatingTimestamp, "requestExpirationTimestamp": nameRequestExpiration,
		"resultExpirationTimestamp": nameResultExpiration, "operationExecutionTime": nameOperationExecution,
		"responseType": nameResponseType, "resultPersistence": "rp", "resultContent": nameResultContent,
		"eventCategory": nameEventCategory, "deliveryAggregation": "da", "groupRequestIdentifier": "gid",
		"filterCriteria": "fc", "desiredIdentifierResultType": "drt", "responseStatusCode": nameStatus,
		"tokens": "tkns", "tokenIDs": "tids", "tokenRequestIndicator": "tqi", "localTokenIDs": "ltids",
		"groupRequestTargetMembers": "grtm", "assignedTokenIdentifiers": "ati", "tokenRequestInformation": "tqf",
		"contentStatus": "cnst", "contentOffset": "cnot", "authorSignIndicator": "asi", "authorSignReqInfo": "asri",
		"authorSigns": "aus", "authorRelIndicator": "auri", "semanticQueryIndicator": "sqi",
		"releaseVersionIndicator": nameReleaseVersion, "vendorInformation": "vsi",
	}
}

// blocking is the Response Type blockingRequest, the only one supported.
const blocking = 3

// DecodeRequest reads a request primitive coded as a whole. Every error is an
// *Error: BadRequest, or NotImplemented for a parameter that is not supported. The
// request is then incomplete and has what an answer to it needs.
func DecodeRequest(f Format, octets []byte) (*Request, error) {
	r := &Request{}
	o, err := decodeObject(f, octets)
	if err != nil {
		return r, err
	}
	err = eachParameter(o, r.set)
	if err == nil {
		return r, nil
	}
	answerable, long := &Request{}, shortNames()
	for _, name := range slices.Sorted(maps.Keys(o)) {
		value := o[name]
		if short, ok := long[name]; ok {
			name = short
		}
		if name == nameRequestID || name == nameReleaseVersion {
			_ = answerable.set(name, value) // what is malformed stays absent
		}
	}
	return answerable, err
}

// DecodeResponse reads a response primitive coded as a whole. Every error is an
// *Error.
func DecodeResponse(f Format, octets []byte) (*Response, error) {
	o, err := decodeObject(f, octets)
	if err != nil {
		return nil, err
	}
	r := &Response{}
	if err := eachParameter(o, r.set); err != nil {
		return nil, err
	}
	if r.Status == 0 {
		return nil, parameterError(nameStatus, "is missing")
	}
	return r, nil
}

// eachParameter calls set with the short name of each member, in alphabetical
// order, so that of two faults always the same one is reported.
func eachParameter(o Object, set func(name string, value any) error) error {
	long := shortNames()
	short := map[string]bool{}
	for _, name := range long {
		short[name] = true
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		parameter := name
		if s, ok := long[name]; ok {
			parameter = s
		} else if !short[name] {
			return parameterError(name, "is not known")
		}
		if seen[parameter] {
			return parameterError(name, "occurs by both its names")
		}
		seen[parameter] = true
		if err := set(parameter, o[name]); err != nil {
			return err
		}
	}
	return nil
}

func parameterError(name, text string) *Error {
	return &Error{Status: BadRequest, Detail: fmt.Sprintf("parameter %.40q %s", name, text)}
}

func (r *Request) set(name string, value any) (err error) {
	switch name {
	case nameOperation:
		var n int
		n, err = integer(name, value, 1, 5)
		r.Operation = Operation(n)
	case nameTo:
		r.To, err = identifier(name, value)
	case nameFrom:
		r.From, err = identifier(name, value)
	case nameRequestID:
		r.RequestID, err = identifier(name, value)
	case nameResourceType:
		r.ResourceType, err = integer(name, value, 1, largestResourceType)
	case nameReleaseVersion:
		r.ReleaseVersion, err = version(value)
	case nameEventCategory:
		r.EventCategory, err = integer(name, value, 1, 999)
	case nameResultContent:
		var n int
		n, err = integer(name, value, 0, 99)
		if err == nil {
			err = r.SetResultContent(n)
		}
	case nameResponseType:
		o, _ := value.(Object)
		if rtv, _ := o["rtv"].(int64); rtv != blocking {
			err = unsupported(name)
		}
	case nameOriginatingTimestamp:
		r.OriginatingTimestamp, err = timestamp(name, value)
	case nameRequestExpiration:
		r.RequestExpiration, err = moment(name, value)
	case nameResultExpiration:
		r.ResultExpiration, err = moment(name, value)
	case nameOperationExecution:
		r.OperationExecution, err = moment(name, value)
	case nameContent:
		r.Content, err = object(name, value)
	case "vsi": // no procedure is defined for vendor information
	default:
		err = unsupported(name)
	}
	return err
}

// unsupported names a parameter that exists in oneM2M and not here.
func unsupported(name string) *Error {
	return &Error{Status: NotImplemented, Detail: fmt.Sprintf("parameter %q is not supported with this value", name)}
}

// SetQuery sets the parameter that a binding carries as a field of a URI's query
// (TS-0008 6.2.2.3, TS-0009 6.2.2.2). Its error is an *Error.
func (r *Request) SetQuery(name, value string) error {
	n, err := strconv.Atoi(value)
	switch {
	case name == nameResultContent && err == nil:
		if r.ResultContent != ResultDefault {
			return parameterError(name, "occurs twice")
		}
		return r.SetResultContent(n)
	case name == nameResponseType && err == nil && n == blocking:
		return nil
	case err != nil && (name == nameResultContent || name == nameResponseType):
		return parameterError(name, "is not a number")
	}
	return unsupported(name)
}

// SetResultContent sets the Result Content from its number on the wire.
func (r *Request) SetResultContent(n int) error {
	switch n {
	case 0:
		r.ResultContent = ResultNothing
	case int(ResultAttributes):
		r.ResultContent = ResultAttributes
	default:
		return unsupported(nameResultContent)
	}
	return nil
}

// Query returns the parameters that a binding carries as fields of a URI's query,
// each as name=value.
func (r *Request) Query() []string {
	switch r.ResultContent {
	case ResultNothing:
		return []string{nameResultContent + "=0"}
	case ResultAttributes:
		return []string{nameResultContent + "=1"}
	}
	return nil
}

// set passes over parameters that a client has no use for.
func (r *Response) set(name string, value any) (err error) {
	switch name {
	case nameStatus:
		var n int
		n, err = integer(name, value, 1000, 9999)
		r.Status = Status(n)
	case nameRequestID:
		r.RequestID, err = identifier(name, value)
	case nameReleaseVersion:
		r.ReleaseVersion, err = version(value)
	case nameContent:
		r.Content, err = object(name, value)
	}
	return err
}

func integer(name string, value any, low, high int64) (int, error) {
	n, ok := value.(int64)
	if !ok || n < low || n > high {
		return 0, parameterError(name, fmt.Sprintf("is not a number from %d to %d", low, high))
	}
	return int(n), nil
}

// CheckIdentifier returns an *Error unless s may stand as To, From or Request
// Identifier: at most MaxIdentifier octets of text without control characters.
func CheckIdentifier(name, s string) error {
	_, err := identifier(name, s)
	return err
}

func identifier(name string, value any) (string, error) {
	s, err := decodeText(value)
	if err != nil {
		return "", parameterError(name, err.Error())
	}
	return s, nil
}

func version(value any) (string, error) {
	s, ok := value.(string)
	if !ok || len(s) < 1 || len(s) > 2 {
		return "", parameterError(nameReleaseVersion, "is not a text of 1 or 2 characters")
	}
	return s, nil
}

func timestamp(name string, value any) (time.Time, error) {
	s, _ := value.(string)
	t, err := ParseTimestamp(s)
	if err != nil {
		return t, parameterError(name, "is not a timestamp")
	}
	return t, nil
}

// moment accepts a relative time as a number also, as TS-0004 8.4.2 may be read.
func moment(name string, value any) (Moment, error) {
	s, ok := value.(string)
	if n, number := value.(int64); number {
		s, ok = strconv.FormatInt(n, 10), true
	}
	m, err := ParseMoment(s)
	if !ok || err != nil {
		return m, parameterError(name, "is not a timestamp or a number of milliseconds")
	}
	return m, nil
}

func object(name string, value any) (Content, error) {
	o, ok := value.(Object)
	if !ok {
		return Content{}, parameterError(name, "is not an object")
	}
	return NewContent(o), nil
}

// Encode returns the request coded as a whole.
func (r *Request) Encode(f Format) ([]byte, error) {
	o := Object{nameOperation: int64(r.Operation)}
	o.put(nameTo, r.To)
	o.put(nameFrom, r.From)
	o.put(nameRequestID, r.RequestID)
	o.put(nameReleaseVersion, r.ReleaseVersion)
	o.put(nameRequestExpiration, r.RequestExpiration.String())
	o.put(nameResultExpiration, r.ResultExpiration.String())
	o.put(nameOperationExecution, r.OperationExecution.String())
	if !r.OriginatingTimestamp.IsZero() {
		o[nameOriginatingTimestamp] = FormatTimestamp(r.OriginatingTimestamp)
	}
	if r.ResourceType != 0 {
		o[nameResourceType] = int64(r.ResourceType)
	}
	if r.EventCategory != 0 {
		o[nameEventCategory] = int64(r.EventCategory)
	}
	if r.ResultContent != ResultDefault {
		o[nameResultContent] = int64(max(r.ResultContent, 0))
	}
	return o.encodeWith(f, r.Content)
}

// Encode returns the response coded as a whole.
func (r *Response) Encode(f Format) ([]byte, error) {
	o := Object{nameStatus: int64(r.Status)}
	o.put(nameRequestID, r.RequestID)
	o.put(nameReleaseVersion, r.ReleaseVersion)
	return o.encodeWith(f, r.Content)
}

func (o Object) put(name, value string) {
	if value != "" {
		o[name] = value
	}
}

func (o Object) encodeWith(f Format, c Content) ([]byte, error) {
	if !c.IsZero() {
		content, err := c.Object()
		if err != nil {
			return nil, err
		}
		o[nameContent] = content
	}
	return encodeObject(f, o)
}
