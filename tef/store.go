package tef

import (
	"context"
	"errors"
	"time"

	"muster"
)

// Sentinels of a Store. Every other error means that the store could not tell,
// and the same call may be made again.
var (
	// ErrUnknown: no registration has this identifier, or it has expired.
	ErrUnknown = errors.New("no such registration")
	// ErrConflict: the identifier exists with another client.
	ErrConflict = errors.New("the registration identifier belongs to another client")
	// ErrBusy: the store's queue is full; nothing was done.
	ErrBusy = errors.New("the store is busy")
)

// A ClientRegistration is the record of a MEF or MAF client that is registered
// for one administrating stakeholder (TS-0003 8.3.5.2.3, 8.8.2.3).
type ClientRegistration struct {
	ID        string      // resource identifier, unique within the function
	Function  muster.FQDN // the MEF or MAF
	ClientID  muster.EnroleeID
	AdminFQDN muster.FQDN
	Labels    []string // in their order; none is nil
	// AssignedSymmKeyID is the KmID of a client whose Km was remotely
	// provisioned, and zero on a MEF.
	AssignedSymmKeyID muster.KmID
	Created           time.Time // times are kept in whole seconds
	Modified          time.Time
	Expires           time.Time
	// CommandWaits is set in the answer of a MEF that has a command for the client.
	// No store keeps it.
	CommandWaits bool
}

// A RegistrationQuery asks for a page of the client registrations of a Function.
type RegistrationQuery struct {
	Function     muster.FQDN
	AdminFQDN    muster.FQDN // zero for those with every stakeholder
	ClientPrefix string      // what the client's identifier begins with; all do with ""
	After        string      // the last ID of the page before; "" for the first page
	Limit        int         // at most so many, 1 or more
	Now          time.Time   // those that have expired by then are left out
}

// A Store keeps client registrations. All its methods may be called by many
// goroutines at once; each is atomic, and what it did is durable when it returns
// nil. A context that ends stops the waiting and not the work: after an error that
// is none of the sentinels the caller repeats the call. A registration has expired
// at every time that is not before Expires.
type Store interface {
	// PutRegistration creates the registration of a Function with r.ID, or
	// replaces it if ClientID and AdminFQDN are the same; else ErrConflict, also
	// while an expired one is still kept. On replacement the stored Created is
	// kept. It returns what is stored.
	PutRegistration(ctx context.Context, r ClientRegistration) (ClientRegistration, error)

	// Registration returns a registration of the client that has not expired at
	// now, else ErrUnknown: one that is another client's does not exist for this
	// one, and the same look-up finds neither.
	Registration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string, now time.Time) (ClientRegistration, error)

	// DeleteRegistration removes a registration of the client, expired or not;
	// ErrUnknown if there is none, and so also when the call is repeated.
	DeleteRegistration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string) error

	// Registrations returns a page of registrations in the order of their ID, for
	// an operator. Fewer than q.Limit are the last.
	Registrations(ctx context.Context, q RegistrationQuery) ([]ClientRegistration, error)

	// SweepRegistrations removes at most limit registrations that have expired at
	// now, perhaps not all in one transaction, and returns their number; less
	// than limit means that nothing was left to do.
	SweepRegistrations(ctx context.Context, now time.Time, limit int) (int, error)
}
