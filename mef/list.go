package mef

import (
	"context"
	"time"

	"muster"
)

// An EnrolmentState is what became of an enrolment for one MAF. A key is kept in
// the first two states; in the others the record is a tombstone.
type EnrolmentState string

// The states of an enrolment.
const (
	EnrolmentIssued     EnrolmentState = "issued"     // not fetched
	EnrolmentDelivered  EnrolmentState = "delivered"  // fetched, and perhaps again
	EnrolmentErased     EnrolmentState = "erased"     // confirmed, or its window ended
	EnrolmentSuperseded EnrolmentState = "superseded" // by a newer one of the Enrolee
	EnrolmentExpired    EnrolmentState = "expired"    // and swept
)

// An EnrolmentRecord is an enrolment for one MAF without its key.
type EnrolmentRecord struct {
	KeID        muster.KeID
	EnroleeID   muster.EnroleeID
	MAF         muster.FQDN
	Generation  int64
	Certificate muster.Digest
	State       EnrolmentState
	Created     time.Time
	Expires     time.Time
	FetchedAt   time.Time // of the first fetch; zero if not fetched
	Fetches     int
}

// An EnrolmentPosition is the place of a record in the order of a Register. The
// record need not be there any more.
type EnrolmentPosition struct {
	EnroleeID  string
	Generation int64
	MAF        string
}

// An EnrolmentQuery asks for a page of enrolments.
type EnrolmentQuery struct {
	KeID          muster.KeID       // zero for all
	EnroleePrefix string            // what the Enrolee-ID begins with, in whole characters; all do with ""
	After         EnrolmentPosition // of the last record of the page before; zero for the first page
	Limit         int               // at most so many, 1 or more
}

// A Register lists what a Store keeps, for an operator. Its methods may be called
// by many goroutines at once, and see what was stored before the call. What is
// stored or forgotten between two pages moves no other record from its place.
type Register interface {
	// Enrolments returns a page of the records, tombstones included, in the order
	// of Enrolee-ID, generation and MAF-ID, all by their octets. Fewer than q.Limit
	// are the last. A prefix or position that no identifier can have finds nothing.
	Enrolments(ctx context.Context, q EnrolmentQuery) ([]EnrolmentRecord, error)
}

// A KpmState is what became of a pre-provisioned key. It is kept in the first two
// states; in the others the record is a tombstone.
type KpmState string

// The states of a pre-provisioned key.
const (
	KpmImported   KpmState = "imported"   // not used
	KpmUsed       KpmState = "used"       // by a session
	KpmSuperseded KpmState = "superseded" // a newer one of the Enrolee was used
	KpmExpired    KpmState = "expired"    // its Until came, and it was swept
)

// A KpmRecord is a ProvisionedKpm without its key.
type KpmRecord struct {
	KpmID      muster.KpmID
	EnroleeID  muster.EnroleeID
	Generation int64 // counts the keys of an Enrolee from 1, in the order of import
	State      KpmState
	Created    time.Time
	Until      time.Time // zero for no end
}

// A KpmPosition is the place of a record in the order of a KpmRegister.
type KpmPosition struct {
	EnroleeID  string
	Generation int64
}

// A KpmQuery asks for a page of pre-provisioned keys, as an EnrolmentQuery does.
type KpmQuery struct {
	EnroleePrefix string
	After         KpmPosition
	Limit         int
}

// A KpmRegister lists what a KpmStore keeps, as a Register does.
type KpmRegister interface {
	// Kpms returns a page of the records, tombstones included, in the order of
	// Enrolee-ID, by its octets, and generation. Fewer than q.Limit are the last.
	Kpms(ctx context.Context, q KpmQuery) ([]KpmRecord, error)
}
