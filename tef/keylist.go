package tef

import (
	"context"
	"time"
)

// A KeyRecord is a registered key without its value.
type KeyRecord struct {
	KeyRegistration      // its Key is absent
	Sealed          bool // false if the key is derived from Ke when it is asked for, or deleted
	Deleted         bool // and its identifier taken until it expires
	Fetches         int
}

// A KeyPosition is the place of a record in the order of a KeyRegister. The record
// need not be there any more.
type KeyPosition struct {
	Source string
	ID     KeyID
}

// A KeyQuery asks for a page of registered keys.
type KeyQuery struct {
	SourcePrefix string      // what the source's identifier begins with, in whole characters; all do with ""
	After        KeyPosition // of the last record of the page before; zero for the first page
	Limit        int         // at most so many, 1 or more
	Now          time.Time   // those that have expired by then are left out; none with the zero Time
}

// A KeyRegister lists what a KeyStore keeps, for an operator. Its methods may be
// called by many goroutines at once, and see what was stored before the call. What
// is stored or forgotten between two pages moves no other record from its place.
type KeyRegister interface {
	// RegisteredKeys returns a page of the records, deleted ones included, in the
	// order of source and identifier, both by their octets. Fewer than q.Limit are
	// the last. A prefix or position that no identifier can have finds nothing.
	RegisteredKeys(ctx context.Context, q KeyQuery) ([]KeyRecord, error)
}
