package primitive

import (
	"context"
	"errors"
	"strconv"
	"time"

	"muster"
)

// A Status is a Response Status Code (TS-0004 6.6.3).
type Status int

// The status codes that apply to the Mmef and Mmaf interfaces.
const (
	OK                             Status = 2000
	Created                        Status = 2001
	Deleted                        Status = 2002
	Updated                        Status = 2004
	BadRequest                     Status = 4000
	ReleaseVersionNotSupported     Status = 4001
	NotFound                       Status = 4004
	OperationNotAllowed            Status = 4005
	RequestTimeout                 Status = 4008
	UnsupportedMediaType           Status = 4015
	CreatorHasNoPrivilege          Status = 4101
	ContentsUnacceptable           Status = 4102
	OriginatorHasNoPrivilege       Status = 4103
	Conflict                       Status = 4105
	OriginatorNotAuthenticated     Status = 4106
	SecurityAssociationRequired    Status = 4107
	InvalidChildResourceType       Status = 4108
	OriginatorHasAlreadyRegistered Status = 4117
	InternalServerError            Status = 5000
	NotImplemented                 Status = 5001
	TargetNotReachable             Status = 5103
	NotAcceptable                  Status = 5207
)

// Statuses returns every status with its name in TS-0004.
func Statuses() map[Status]string {
	return map[Status]string{
		OK:                             "OK",
		Created:                        "CREATED",
		Deleted:                        "DELETED",
		Updated:                        "UPDATED",
		BadRequest:                     "BAD_REQUEST",
		ReleaseVersionNotSupported:     "RELEASE_VERSION_NOT_SUPPORTED",
		NotFound:                       "NOT_FOUND",
		OperationNotAllowed:            "OPERATION_NOT_ALLOWED",
		RequestTimeout:                 "REQUEST_TIMEOUT",
		UnsupportedMediaType:           "UNSUPPORTED_MEDIA_TYPE",
		CreatorHasNoPrivilege:          "SUBSCRIPTION_CREATOR_HAS_NO_PRIVILEGE",
		ContentsUnacceptable:           "CONTENTS_UNACCEPTABLE",
		OriginatorHasNoPrivilege:       "ORIGINATOR_HAS_NO_PRIVILEGE",
		Conflict:                       "CONFLICT",
		OriginatorNotAuthenticated:     "ORIGINATOR_NOT_AUTHENTICATED",
		SecurityAssociationRequired:    "SECURITY_ASSOCIATION_REQUIRED",
		InvalidChildResourceType:       "INVALID_CHILD_RESOURCE_TYPE",
		OriginatorHasAlreadyRegistered: "ORIGINATOR_HAS_ALREADY_REGISTERED",
		InternalServerError:            "INTERNAL_SERVER_ERROR",
		NotImplemented:                 "NOT_IMPLEMENTED",
		TargetNotReachable:             "TARGET_NOT_REACHABLE",
		NotAcceptable:                  "NOT_ACCEPTABLE",
	}
}

// Success reports whether s is of the successful class.
func (s Status) Success() bool { return s >= 2000 && s < 3000 }

// String returns the number and, if known, the name.
func (s Status) String() string {
	text := strconv.Itoa(int(s))
	if name, ok := Statuses()[s]; ok {
		text += " " + name
	}
	return text
}

// An Error is a failure as a peer learns of it: a status and a text that helps its
// developer. It is the only kind of error whose text leaves this side. On the
// side that asked, it is what the other side answered.
type Error struct {
	Status Status
	Detail string
	// RetryAfter, unless zero, is how long the peer is to wait before it asks
	// again, in whole seconds.
	RetryAfter time.Duration
}

// busyTime is for how long a function that cannot answer now asks to be left alone: a few seconds see
// a queue emptied or a database fail over, and the peers add their own jitter.
const busyTime = 3 * time.Second

// Error returns the status and the detail.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Status.String()
	}
	return e.Status.String() + ": " + e.Detail
}

// StatusOf returns the status that answers err: that of the Error in its tree, or
// the one fixed for the code of the muster.Refusal in it. Everything else is
// InternalServerError.
//
// Every reason for which a key is not handed out gives NotFound, so that a peer
// cannot tell a key that is unknown from one that is not for it.
func StatusOf(err error) Status { return ErrorOf(err).Status }

// ErrorOf returns what the peer learns of err: the Error in its tree, or the
// status of StatusOf without a detail. A refusal that is temporary says when to
// come back.
func ErrorOf(err error) Error {
	if refusal, ok := errors.AsType[*Error](err); ok {
		return *refusal
	}
	switch code := muster.CodeOf(err); {
	case code == "":
	case code.Temporary():
		return Error{Status: statusOfCode(code), RetryAfter: busyTime}
	default:
		return Error{Status: statusOfCode(code)}
	}
	switch {
	case errors.Is(err, muster.ErrExported):
		return Error{Status: Conflict}
	case errors.Is(err, context.DeadlineExceeded):
		return Error{Status: RequestTimeout}
	}
	return Error{Status: InternalServerError}
}

func statusOfCode(code muster.Code) Status {
	switch code {
	case muster.CodeKeyUnknown, muster.CodeKeyRetired, muster.CodeKeyExpired, muster.CodeNotTarget,
		muster.CodeFetchesExhausted, muster.CodeMEFNotListed, muster.CodeNotOfMEF, muster.CodeMAFNotListed, muster.CodeKeyConflict:
		return NotFound
	case muster.CodeOriginMismatch:
		return OriginatorNotAuthenticated
	case muster.CodeRequestMalformed:
		return BadRequest
	case muster.CodeRequestNotAllowed, muster.CodeCloneSuspected, muster.CodeNameUnknown,
		muster.CodeEnroleeID, muster.CodeBanned, muster.CodeSuspended:
		return OriginatorHasNoPrivilege
	case muster.CodeAlreadyExported, muster.CodeCommandConflict:
		return Conflict
	case muster.CodeBusy, muster.CodeStoreFailed:
		return RequestTimeout
	case muster.CodeMEFUnreachable, muster.CodeMAFUnreachable:
		return TargetNotReachable
	}
	return InternalServerError
}
