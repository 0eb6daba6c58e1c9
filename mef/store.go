package mef

import (
	"context"
	"errors"
	"time"

	"muster"
)

// Sentinels of a Store. Every other error means that the store could not tell,
// and the same call may be made again.
var (
	// ErrUnknown: no enrolment answers the description. It does not say which
	// part of the description failed.
	ErrUnknown = errors.New("no such enrolment")
	// ErrConflict: the KeID exists with another session, certificate or Enrolee.
	ErrConflict = errors.New("the KeID belongs to another enrolment")
	// ErrTooMany: the Enrolee has its maximum of unexpired enrolments that were fetched.
	ErrTooMany = errors.New("the Enrolee has too many enrolments")
	// ErrBusy: the store's queue is full; nothing was done.
	ErrBusy = errors.New("the store is busy")
)

// An Enrolment is what a MEF keeps of one handshake: Ke, and for which MAFs it is.
type Enrolment struct {
	KeID      muster.KeID
	EnroleeID muster.EnroleeID
	// Targets are MAF-IDs, at least one, all different. Their order means nothing;
	// a store returns them sorted.
	Targets []muster.FQDN
	// Generation counts the enrolments of an Enrolee from 1. The store assigns it.
	Generation  int64
	Session     muster.Digest // muster.Session.Binding
	Certificate muster.Digest
	Ke          muster.Ke // absent once erased
	Created     time.Time // times are kept in whole seconds
	Expires     time.Time
}

// A Fetch is a MAF's request for a key, with the policy that bounds repetition.
type Fetch struct {
	KeID   muster.KeID
	MAF    muster.FQDN
	Now    time.Time
	Window time.Duration // after the first delivery, in which the key is given again
	Max    int           // deliveries in all
}

// A Store keeps enrolments, one row for each pair of an enrolment and a target.
// All its methods may be called by many goroutines at once; each is atomic and
// isolated from the others, and what it did is durable, beyond the death of
// process and machine, when it returns nil. A context that ends stops the waiting
// and not the work: after an error that is none of the sentinels the caller
// repeats the call, and a repeated call that had worked succeeds again.
//
// An enrolment has expired at every time that is not before Expires.
type Store interface {
	// CreateEnrolment stores a new enrolment for each of its targets and returns
	// it with its generation, one above the highest that the Enrolee has among
	// the rows still kept. A KeID that is stored already is a replay if Session,
	// Certificate, EnroleeID and Targets are equal: the stored enrolment is
	// returned, without Ke if that is erased for all targets, and nothing changes;
	// else it is ErrConflict. For each target of the new enrolment, the older rows
	// of the Enrolee that this MAF has not fetched are superseded: their key is
	// erased, and the row stays as a tombstone, so that an identifier never
	// returns. What a MAF has fetched already stays until the MAF fetches the new
	// enrolment. ErrTooMany is returned, and nothing changes, if a new enrolment
	// finds maxLive or more of the Enrolee that a MAF has fetched and that have not
	// expired at e.Created, erased ones included. Those that no MAF has fetched do
	// not count: whoever cuts handshakes off at their end would else use up the
	// Enrolee's number. They are forgotten whole when maxLive newer ones came.
	CreateEnrolment(ctx context.Context, e Enrolment, maxLive int) (Enrolment, error)

	// FetchEnrolment hands the enrolment to a MAF: it must be a target, the row
	// must not be expired, superseded or erased at f.Now, and the MAF must be
	// below f.Max fetches and not later than f.Window after its first one. The
	// fetch is counted before it returns, and a repeated call counts again. The
	// older rows of the Enrolee for the same MAF are erased by it. The enrolment
	// is returned with f.MAF as its only target. Everything else is ErrUnknown.
	FetchEnrolment(ctx context.Context, f Fetch) (Enrolment, error)

	// EnrolmentFor returns what is known of the row of an enrolment for a MAF, in
	// whatever state it is, with that MAF as its only target and without Ke. It
	// counts and changes nothing. ErrUnknown without such a row.
	EnrolmentFor(ctx context.Context, id muster.KeID, maf muster.FQDN) (Enrolment, error)

	// EnrolmentOf returns the enrolment that a session of the Enrolee made, with all
	// its targets that are still kept, and with Ke unless that is erased for all of
	// them. ErrUnknown if there is none that has not expired at now.
	EnrolmentOf(ctx context.Context, enrolee muster.EnroleeID, session muster.Digest, now time.Time) (Enrolment, error)

	// EraseEnrolment erases the key for one MAF, which has confirmed it or lost
	// its right to it; erasing again does nothing. ErrUnknown without such a row.
	EraseEnrolment(ctx context.Context, id muster.KeID, maf muster.FQDN) error

	// Sweep erases the keys of rows that have expired at now, or whose fetch
	// window of the given length ended before now, and forgets rows that had
	// expired at now minus grace. It handles at most limit rows, perhaps not all
	// in one transaction, and returns their number; less than limit means that
	// nothing was left to do.
	Sweep(ctx context.Context, now time.Time, window, grace time.Duration, limit int) (int, error)
}
