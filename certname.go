package muster

import "fmt"

// A Flavour is a kind of certificate, by the kind of name in it (TS-0003 8.1.2.1).
type Flavour string

// The flavours of certificates.
const (
	// FlavourDevice names hardware: an object-identifier based M2M Device ID
	// (TS-0001 annex H) or a hardwareModuleName of RFC 4108.
	FlavourDevice Flavour = "device"
	// FlavourNodeID names a node by its M2M-Node-ID.
	FlavourNodeID Flavour = "node-id"
	// FlavourCSEID names a CSE by the public domain name of its CSE-ID.
	FlavourCSEID Flavour = "cse-id"
	// FlavourAEID names an AE by the URI of its Absolute AE-ID.
	FlavourAEID Flavour = "ae-id"
	// FlavourFQDN names a MEF or a MAF.
	FlavourFQDN Flavour = "fqdn"
	// FlavourRawKey names a raw public key by its digest (RFC 6920).
	FlavourRawKey Flavour = "raw-public-key"
)

// Flavours returns every flavour.
func Flavours() []Flavour {
	return []Flavour{FlavourDevice, FlavourNodeID, FlavourCSEID, FlavourAEID, FlavourFQDN, FlavourRawKey}
}

// UnmarshalText accepts the name of a flavour; anything else is an error.
func (f *Flavour) UnmarshalText(text []byte) error {
	for _, known := range Flavours() {
		if string(text) == string(known) {
			*f = known
			return nil
		}
	}
	return fmt.Errorf("%q is not a certificate flavour: want one of %v", text, Flavours())
}

// A CertName is the globally unique name that a certificate carries in its
// subjectAltName (TS-0003 8.1.2.4; CertName in the seed text): a flavour and the
// canonical text of the name, which package cert defines and parses. It is
// comparable; the zero CertName names nobody.
type CertName struct {
	Flavour Flavour
	Text    string
}

// IsZero reports whether n names nobody.
func (n CertName) IsZero() bool { return n == CertName{} }

// String returns the flavour, a colon and the text.
func (n CertName) String() string { return string(n.Flavour) + ":" + n.Text }
