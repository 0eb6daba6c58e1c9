// Package tef is what a MEF and a MAF have in common as Trust Enabling Functions
// (TS-0003 6.2.6): the base resource and client registration, the function's end
// and the client's.
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
