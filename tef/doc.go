// Package tef is what a MEF and a MAF have in common as Trust Enabling Functions
// (TS-0003 6.2.6): the base resource, client registration and configuration, the
// registration and retrieval of keys, and MEF client commands; for each of them
// the function's end, Service, and the client's, Requester.
package tef

import "muster/primitive"

// A Party says whose resources are meant: a MEF's or a MAF's.
type Party struct {
	Base         primitive.Kind
	Registration primitive.Kind
}

// MEF returns the kinds of a MEF's resources.
func MEF() Party { return Party{primitive.KindMEFBase, primitive.KindMEFClientReg} }

// MAF returns the kinds of a MAF's resources.
func MAF() Party { return Party{primitive.KindMAFBase, primitive.KindMAFClientReg} }

// Stores are where a function keeps what it has in common with the other.
type Stores struct {
	Registrations Store
	Keys          KeyStore
	Commands      CommandStore // nil on a MAF
}
