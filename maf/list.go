package maf

import (
	"context"
	"time"

	"muster"
)

// A CredentialState is what became of a credential. Its key is kept in the first
// two states; in the others the record is a tombstone.
type CredentialState string

// The states of a credential.
const (
	CredentialIssued     CredentialState = "issued"     // not used by its KmID
	CredentialUsed       CredentialState = "used"       // by its KmID, which retired the KeID
	CredentialErased     CredentialState = "erased"     // by decision
	CredentialSuperseded CredentialState = "superseded" // a newer one of the Enrolee was used
	CredentialExpired    CredentialState = "expired"    // and swept
)

// A CredentialRecord is a Credential without its key.
type CredentialRecord struct {
	KmID       muster.KmID
	KeID       muster.KeID
	EnroleeID  muster.EnroleeID
	Generation int64 // one above the highest that the Enrolee had among the records kept, from 1
	State      CredentialState
	Created    time.Time
	Expires    time.Time
	KeIDUntil  time.Time
}

// A CredentialPosition is the place of a record in the order of a Register. The
// record need not be there any more.
type CredentialPosition struct {
	EnroleeID  string
	Generation int64
}

// A CredentialQuery asks for a page of credentials.
type CredentialQuery struct {
	KeID          muster.KeID        // zero for all
	KmID          muster.KmID        // zero for all
	EnroleePrefix string             // what the Enrolee-ID begins with, in whole characters; all do with ""
	After         CredentialPosition // of the last record of the page before; zero for the first page
	Limit         int                // at most so many, 1 or more
}

// A Register lists what a Store keeps, for an operator. Its methods may be called
// by many goroutines at once, and see what was stored before the call. What is
// stored or forgotten between two pages moves no other record from its place.
type Register interface {
	// Credentials returns a page of the records, tombstones included, in the order
	// of Enrolee-ID, by its octets, and generation. Fewer than q.Limit are the last.
	// A prefix or position that no identifier can have finds nothing.
	Credentials(ctx context.Context, q CredentialQuery) ([]CredentialRecord, error)
}
