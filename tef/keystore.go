package tef

import (
	"context"
	"errors"
	"slices"
	"time"

	"muster"
)

// ErrTooMany: the source has its maximum of registered keys.
var ErrTooMany = errors.New("the client has too many registered keys")

// A KeyRegistration is a symmetric key that a Source Client has registered for
// its Target Clients (TS-0003 8.3.5.2.7, 8.8.2.7).
type KeyRegistration struct {
	ID        KeyID
	Source    muster.EnroleeID
	AdminFQDN muster.FQDN
	Usage     muster.SUID
	// Targets are who may retrieve the key: Enrolee-IDs in their canonical form
	// and FQDNs of MAFs, all different. Their order means nothing; a store returns
	// them sorted.
	Targets []string
	Labels  []string // in their order; none is nil
	// Key is absent where the function derives it from Ke when it is asked.
	Key      muster.Kc
	Created  time.Time // times are kept in whole seconds
	Modified time.Time
	Expires  time.Time
	// Latest is the time beyond which Expires must not be moved, for a key that was
	// exported or derived; zero where only the source's credential limits it.
	Latest time.Time
}

// For reports whether an identity is a target of the key.
func (r KeyRegistration) For(identity string) bool {
	return identity != "" && slices.Contains(r.Targets, identity)
}

// A KeyFetch is a target's request for a key, with the policy that bounds repetition.
type KeyFetch struct {
	ID     KeyID
	Target string
	Now    time.Time
	Window time.Duration // after the first fetch, in which the key is given again
	Max    int           // fetches in all
}

// A KeyStore keeps registered keys. All its methods may be called by many
// goroutines at once; each is atomic and isolated from the others, and what it
// did is durable, beyond the death of process and machine, when it returns nil. A
// context that ends stops the waiting and not the work: after an error that is
// none of the sentinels the caller repeats the call.
//
// A registration has expired at every time that is not before Expires. Until it is
// swept, its identifier stays taken, also when it was deleted.
type KeyStore interface {
	// CreateKey stores a new registration and returns it. An identifier that is
	// stored already is a replay if Source, AdminFQDN, Usage and Key are equal: the
	// stored registration is returned, with the stored Key, and nothing changes;
	// else, and also if the stored one is deleted, it is ErrConflict. ErrTooMany is
	// returned, and nothing changes, if a new one finds maxLive or more of the
	// source that are neither deleted nor expired at r.Created.
	CreateKey(ctx context.Context, r KeyRegistration, maxLive int) (KeyRegistration, error)

	// Key returns a registration, with its key, of which the identity is the source
	// or a target, and which is neither deleted nor expired at now. Everything else
	// is ErrUnknown.
	Key(ctx context.Context, id KeyID, identity string, now time.Time) (KeyRegistration, error)

	// FetchKey is Key for a target, counted before it returns: the registration must
	// be below f.Max fetches and f.Now not later than f.Window after the first one.
	// A repeated call counts again. Everything else is ErrUnknown.
	FetchKey(ctx context.Context, f KeyFetch) (KeyRegistration, error)

	// UpdateKey replaces Targets, Labels, Modified and Expires of the registration
	// with r.ID and r.Source, if it is neither deleted nor expired at r.Modified,
	// else ErrUnknown. It returns what is stored.
	UpdateKey(ctx context.Context, r KeyRegistration) (KeyRegistration, error)

	// DeleteKey erases the key of a source's registration, whose identifier stays
	// taken until its expiry; ErrUnknown if there is none, and so also when the
	// call is repeated.
	DeleteKey(ctx context.Context, id KeyID, source muster.EnroleeID) error

	// SweepKeys removes at most limit registrations that have expired at now,
	// perhaps not all in one transaction, and returns their number; less than limit
	// means that nothing was left to do.
	SweepKeys(ctx context.Context, now time.Time, limit int) (int, error)
}
