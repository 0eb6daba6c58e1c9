package maf

import (
	"context"
	"errors"
	"time"

	"muster"
)

// Sentinels of a Store. Every other error means that the store could not tell,
// and the same call may be made again.
var (
	// ErrUnknown: no usable credential has this identifier.
	ErrUnknown = errors.New("no such credential")
	// ErrRetired: the KeID is that of a credential which is kept and may not be
	// used by it any more, so that asking the MEF again is of no use.
	ErrRetired = errors.New("the KeID is retired")
	// ErrConflict: the KeID or KmID exists with another key or Enrolee.
	ErrConflict = errors.New("the key identifier belongs to another credential")
	// ErrBusy: the store's queue is full; nothing was done.
	ErrBusy = errors.New("the store is busy")
)

// A Credential is a Master Credential as its MAF keeps it.
type Credential struct {
	KmID      muster.KmID
	KeID      muster.KeID // by which it was fetched; retired after the KmID's first success
	EnroleeID muster.EnroleeID
	MAF       muster.FQDN
	Km        muster.Km
	Created   time.Time // times are kept in whole seconds
	Expires   time.Time
	// KeIDUntil is the time from which the KeID is refused even if the KmID was
	// never used. It is moved to earlier times, never to a later one.
	KeIDUntil time.Time
}

// A Store keeps the credentials of one MAF. All its methods may be called by many
// goroutines at once; each is atomic and isolated from the others, and what it did
// is durable, beyond the death of process and machine, when it returns nil. A
// context that ends stops the waiting and not the work: after an error that is
// none of the sentinels the caller repeats the call, and a repeated call that had
// worked succeeds again.
//
// A credential has expired at every time that is not before Expires. A KeID is
// retired at every time that is not before KeIDUntil, and once its KmID was
// activated, whatever a clock says. A credential is retired whole when a newer one
// of its Enrolee is activated. What is retired never returns.
type Store interface {
	// PutCredential stores a credential. The same KeID with the same KmID,
	// Enrolee and Km is a replay and changes nothing, also when the stored key is
	// erased and cannot be compared; another credential under the same KeID or
	// KmID is ErrConflict.
	PutCredential(ctx context.Context, c Credential) error

	// CredentialByKeID returns the credential of a KeID. It is ErrRetired if the
	// credential is expired at now, replaced, or used by its KmID, or if its
	// KeIDUntil has come; ErrUnknown if there is none.
	CredentialByKeID(ctx context.Context, id muster.KeID, now time.Time) (Credential, error)

	// CredentialByKmID returns the credential of a KmID that is neither expired
	// nor retired at now, else ErrUnknown.
	CredentialByKmID(ctx context.Context, id muster.KmID, now time.Time) (Credential, error)

	// ActivateKmID notes that a session with the KmID has succeeded: its KeID is
	// retired from now on, and the credentials of the same Enrolee that were
	// stored before it are retired whole, their keys erased. Activating again
	// does nothing. ErrUnknown without a credential that CredentialByKmID returns.
	ActivateKmID(ctx context.Context, id muster.KmID, now time.Time) error

	// LimitKeID moves the KeIDUntil of a credential to until, if that is earlier.
	// ErrUnknown without such a credential.
	LimitKeID(ctx context.Context, id muster.KeID, until time.Time) error

	// SweepCredentials erases the keys of credentials that have expired at now
	// and forgets rows that had expired at now minus grace. It handles at most
	// limit rows, perhaps not all in one transaction, and returns their number;
	// less than limit means that nothing was left to do.
	SweepCredentials(ctx context.Context, now time.Time, grace time.Duration, limit int) (int, error)
}
