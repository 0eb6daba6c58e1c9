package tef

import (
	"encoding/hex"
	"fmt"
	"strings"

	"muster"
)

// A KeyID identifies a registered key (TS-0003 10.3.5): the 16 octets of its
// RelativeKeyID and the FQDN of the MEF or MAF at which it is registered. It has
// the form of a KeID, and a key that a MEF derives from Ke has the KeID as its
// identifier. It is comparable; the zero KeyID identifies nothing.
type KeyID struct{ id muster.KeID }

// NewKeyID returns the identifier of a key at a MEF or MAF.
func NewKeyID(relative [muster.RelativeSize]byte, function muster.FQDN) KeyID {
	return KeyID{muster.NewKeID(relative, function)}
}

// ParseKeyID reads 32 hexadecimal digits of either case, an at sign and an FQDN.
// Errors wrap muster.ErrSyntax.
func ParseKeyID(s string) (KeyID, error) {
	id, err := muster.ParseKeID(s)
	if err != nil {
		return KeyID{}, fmt.Errorf("key identifier: %w", err)
	}
	return KeyID{id}, nil
}

// Relative returns the RelativeKeyID.
func (k KeyID) Relative() [muster.RelativeSize]byte { return k.id.Relative() }

// Function returns the FQDN of the MEF or MAF that hands the key out.
func (k KeyID) Function() muster.FQDN { return k.id.MEF() }

// KeID returns k as the identifier of an Enrolment Key, which it is only where a
// MEF says so.
func (k KeyID) KeID() muster.KeID { return k.id }

// IsZero reports whether k identifies nothing.
func (k KeyID) IsZero() bool { return k.id.IsZero() }

// String returns the wire form with upper-case digits, and "" for the zero KeyID.
func (k KeyID) String() string { return k.id.String() }

// resource returns the RelativeKeyID as the identifier of the resource.
func (k KeyID) resource() string {
	relative := k.Relative()
	return strings.ToUpper(hex.EncodeToString(relative[:]))
}

// parseResource reads the identifier of a key's resource at a function. No other
// resource of these interfaces has an identifier of this form.
func parseResource(id string, function muster.FQDN) (KeyID, bool) {
	octets, err := hex.DecodeString(id)
	if err != nil || len(octets) != muster.RelativeSize {
		return KeyID{}, false
	}
	return NewKeyID([muster.RelativeSize]byte(octets), function), true
}
