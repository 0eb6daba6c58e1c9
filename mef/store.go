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
	// ErrTooMany: the Enrolee has its maximum of unexpired enrolments.
	ErrTooMany = errors.New("the Enrolee has too many enrolments")
	// ErrBusy: the store's queue is full; nothing was done.
	ErrBusy = errors.New("the store is busy")
)

// An Enrolment is what a MEF keeps of one handshake: Ke, and for which MAFs it is.
type Enrolment struct {
	KeID      muster.KeID
	EnroleeID muster.EnroleeID
	Targets   []muster.FQDN // MAF-IDs, at least one, all different
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

// A Store keeps enrolments. All its methods may be called by many goroutines at
// once; each is atomic and isolated from the others, and what it did is durable,
// beyond the death of process and machine, when it returns nil. A context that
// ends stops the waiting and not the work: after an error that is none of the
// sentinels the caller repeats the call, and a repeated call that had worked
// succeeds again.
type Store interface {
	// CreateEnrolment stores a new enrolment for each of its targets and returns
	// it with its generation, one above the highest that the Enrolee ever had
	// among the rows still kept. A KeID that is stored already is a replay if
	// Session, Certificate, EnroleeID and Targets are equal: the stored enrolment
	// is returned and nothing changes; else it is ErrConflict. The older
	// enrolments of the Enrolee that no MAF has fetched are superseded and their
	// key is erased for each target of the new one; rows stay as tombstones, so
	// that an identifier never returns. ErrTooMany is returned if the Enrolee has
	// maxLive or more enrolments that have not expired at e.Created, erased ones
	// included.
	CreateEnrolment(ctx context.Context, e Enrolment, maxLive int) (Enrolment, error)

	// FetchEnrolment hands the enrolment to a MAF: it must be a target, the
	// enrolment must not be expired, superseded or erased at f.Now, and the MAF
	// must be within f.Window of its first fetch and below f.Max fetches. The
	// fetch is counted before it returns. Older enrolments of the Enrolee for
	// the same MAF are erased by it. Everything else is ErrUnknown.
	FetchEnrolment(ctx context.Context, f Fetch) (Enrolment, error)

	// EraseEnrolment erases the key for one MAF, which has confirmed it or lost
	// its right to it; erasing again does nothing. ErrUnknown without such a row.
	EraseEnrolment(ctx context.Context, id muster.KeID, maf muster.FQDN) error

	// Sweep erases the keys of enrolments that expired, or whose fetch window of
	// the given length ended, before now, and forgets rows that expired before
	// now minus grace. It handles at most limit rows and returns their number.
	Sweep(ctx context.Context, now time.Time, window, grace time.Duration, limit int) (int, error)
}
