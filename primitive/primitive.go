// Package primitive holds the wire forms of oneM2M that the Mmef and Mmaf
// interfaces use: request and response primitives (TS-0004), response status
// codes, resources with their attribute tables, and the JSON and CBOR codings.
//
// A binding turns what arrives into a Request, calls Serve with the handler of a
// procedure, and turns the Response into what leaves. The same Request therefore
// gets the same Response over every binding. Names and numbers of TS-0032 stand
// in one table, Wire, and a configuration can replace them.
//
// Everything here is pure: time enters as a value.
package primitive

import (
	"context"
	"fmt"
	"time"

	"muster"
)

// Limits on what a peer may send. They hold in every binding and coding.
const (
	MaxContent    = 64 << 10 // octets of a primitive or its content
	MaxDepth      = 8        // nesting of arrays and objects
	MaxMembers    = 128      // members of an object, elements of an array
	MaxString     = 16 << 10 // octets of a string
	MaxIdentifier = 512      // octets of To, From and Request Identifier
)

// An Operation is what a request asks for (TS-0004 6.3.4.2.5).
type Operation int

// The operations.
const (
	Create   Operation = 1
	Retrieve Operation = 2
	Update   Operation = 3
	Delete   Operation = 4
	Notify   Operation = 5
)

// String returns the name of the operation in lower case.
func (o Operation) String() string {
	switch o {
	case Create:
		return "create"
	case Retrieve:
		return "retrieve"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Notify:
		return "notify"
	}
	return fmt.Sprintf("operation %d", int(o))
}

// A ResultContent says how much of a resource the answer shows (TS-0004 6.3.4.2.7).
type ResultContent int

// The values that these interfaces support. The zero value is none of them and
// stands for an absent parameter.
const (
	ResultDefault    ResultContent = 0
	ResultNothing    ResultContent = -1 // 0 on the wire
	ResultAttributes ResultContent = 1
)

// A Request is a request primitive (TS-0004 6.4.1). Bindings and decoders make
// only requests within the limits of this package; whether From is the
// authenticated peer is for the procedure to check.
type Request struct {
	Operation      Operation
	To             string // without the escapes of a binding: "-/id", "/cse/-/id" or "//sp/cse/-/id"
	From           string
	RequestID      string
	ResourceType   int    // of the resource to create, else 0
	ReleaseVersion string // "" if absent
	ResultContent  ResultContent
	EventCategory  int // 0 if absent

	OriginatingTimestamp time.Time // zero if absent, as the next three
	RequestExpiration    Moment
	ResultExpiration     Moment
	OperationExecution   Moment

	Content Content
}

// A Response is a response primitive (TS-0004 6.4.2).
type Response struct {
	Status         Status
	RequestID      string
	ReleaseVersion string
	Content        Content
	// Location is the To by which a created resource is reached. The bindings
	// carry it beside the content; a response coded as a whole does not have it.
	Location string
	// RetryAfter is that of the Error, and goes the way of Location.
	RetryAfter time.Duration
}

// A Handler answers requests of an authenticated peer. It returns either a
// response or an error, of which the peer learns what ErrorOf says and nothing
// more. It may be called by many goroutines at once. Decorators for audit, limits
// and authorisation wrap a Handler in a Handler and see the error.
type Handler interface {
	Serve(ctx context.Context, s *muster.Session, r *Request) (*Response, error)
}

// HandlerFunc makes a Handler of a function.
type HandlerFunc func(ctx context.Context, s *muster.Session, r *Request) (*Response, error)

// Serve calls f.
func (f HandlerFunc) Serve(ctx context.Context, s *muster.Session, r *Request) (*Response, error) {
	return f(ctx, s, r)
}

// Serve is what every binding does with a request: it makes the checks that do
// not depend on the resource (TS-0004 7.3.2.1), calls h, and returns the answer
// with the request's identifier and release version. The result is never nil.
func Serve(ctx context.Context, h Handler, s *muster.Session, r *Request, now time.Time) *Response {
	response, err := (*Response)(nil), r.admissible(now)
	if err == nil {
		response, err = h.Serve(ctx, s, r)
	}
	if err == nil && response == nil {
		err = fmt.Errorf("the handler gave no response to %v", r.Operation)
	}
	if err != nil {
		response = Fail(err)
	}
	answer := *response
	answer.RequestID, answer.ReleaseVersion = r.RequestID, r.ReleaseVersion
	return &answer
}

// Fail returns the response to a request that failed with err.
func Fail(err error) *Response {
	refusal := ErrorOf(err)
	response := &Response{Status: refusal.Status, RetryAfter: refusal.RetryAfter}
	if refusal.Detail != "" {
		response.Content = NewContent(Object{memberDebug: refusal.Detail})
	}
	return response
}

// memberDebug is the member by which implementations of oneM2M carry a text for
// the developer in an error's content.
const memberDebug = "m2m:dbg"

// Detail returns the developer's text in the content of a response that reports
// an error, and "" without one.
func (r *Response) Detail() string {
	if r.Status.Success() || r.Content.IsZero() {
		return ""
	}
	object, err := r.Content.Object()
	if err != nil {
		return ""
	}
	detail, _ := object[memberDebug].(string)
	return detail
}

// Err returns the failure that a response reports, which is an *Error, and nil if
// it reports none.
func (r *Response) Err() error {
	if r.Status.Success() {
		return nil
	}
	return &Error{Status: r.Status, Detail: r.Detail(), RetryAfter: r.RetryAfter}
}

// Versions returns the release versions that the interfaces exist in.
func Versions() []string { return []string{"2a", "3", "4", "5"} }

func (r *Request) admissible(now time.Time) error {
	switch {
	case r.RequestID == "":
		return &Error{Status: BadRequest, Detail: "the Request Identifier is missing"}
	case r.To == "":
		return &Error{Status: BadRequest, Detail: "the To parameter is missing"}
	case r.Operation < Create || r.Operation > Notify:
		return &Error{Status: BadRequest, Detail: "the Operation is not one of 1 to 5"}
	case r.Operation == Create && r.ResourceType == 0:
		return &Error{Status: BadRequest, Detail: "the Resource Type is missing"}
	case r.Operation != Create && r.ResourceType != 0:
		return &Error{Status: BadRequest, Detail: "the Resource Type is for create only"}
	case !supported(r.ReleaseVersion):
		return &Error{Status: ReleaseVersionNotSupported}
	case r.RequestExpiration.Before(now), r.ResultExpiration.Before(now):
		return &Error{Status: RequestTimeout, Detail: "the request has expired"}
	case !r.OperationExecution.IsZero():
		return &Error{Status: NotImplemented, Detail: "the Operation Execution Time is not supported"}
	}
	return nil
}

// supported accepts an absent version as well: TS-0004 reads it as Release 1, in
// which these interfaces do not exist, so that it can only be an omission.
func supported(version string) bool {
	if version == "" {
		return true
	}
	for _, v := range Versions() {
		if v == version {
			return true
		}
	}
	return false
}
