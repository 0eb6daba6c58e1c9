package mef

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"muster"
	"muster/cert"
)

// An Instruction is what the MEF is told about one Enrolee or a group of them
// (TS-0003 9.2.2, Bootstrap Instruction Configuration in the seed text): by which
// certificates or pre-provisioned keys to know them, who they are, and for which
// MAFs to enrol them.
type Instruction struct {
	// Certificate is the name that the Enrolee's certificate carries; zero for a
	// group, and for an Enrolee with a pre-provisioned key.
	Certificate muster.CertName
	// Pattern has the names in the certificates of a group; zero for one Enrolee.
	Pattern Pattern
	// Anchors are the roots, at least one, under which these names are meant. The
	// same name under another root is another certificate.
	Anchors []*x509.Certificate
	// KpmIDs name the pre-provisioned keys of an Enrolee, which then has neither
	// Certificate nor Anchors: one, or several while a newer one takes over.
	KpmIDs []muster.KpmID
	// EnroleeID is the identifier assigned to the Enrolee; zero for a group.
	EnroleeID muster.EnroleeID
	// Template, made for Pattern, forms the identifiers of a group.
	Template Template
	// Targets are the MAF-IDs that may fetch a key for the Enrolee, at least one.
	Targets []muster.FQDN
	// Lifetime bounds Ke and every key derived from it (TS-0003 10.7).
	Lifetime time.Duration
	// Status, if not nil, is asked about the certificates of a valid path, as
	// cert.Trust.Status is.
	Status Status
}

// A Status says what is known about the revocation of certificates in a path at
// a time, as cert.Trust.Status does.
type Status func(path []*x509.Certificate, now time.Time) cert.Findings

// A Client is a MAF that may ask for keys.
type Client struct {
	Name    muster.FQDN
	Anchors []*x509.Certificate
	Status  Status // as that of an Instruction
}

// String names the instruction by its certificates and the Enrolee-ID.
func (in *Instruction) String() string {
	switch {
	case in.isGroup():
		return fmt.Sprintf("the instruction for the group %s (%s)", in.Pattern, in.Template)
	case len(in.KpmIDs) > 0:
		return fmt.Sprintf("the instruction for %s (%s)", in.KpmIDs[0], in.EnroleeID)
	}
	return fmt.Sprintf("the instruction for %s (%s)", in.Certificate, in.EnroleeID)
}

func (in *Instruction) isGroup() bool { return !in.Pattern.IsZero() }

// Check returns what is wrong with the instruction by itself.
func (in *Instruction) Check() error {
	byKey := len(in.KpmIDs) > 0
	one := in.Certificate.IsZero() == byKey && !in.EnroleeID.IsZero() && in.Pattern.IsZero() && in.Template.IsZero()
	group := in.Certificate.IsZero() && in.EnroleeID.IsZero() && !in.Pattern.IsZero() && !in.Template.IsZero() && !byKey
	switch {
	case !one && !group:
		return fmt.Errorf("%s has neither one of a name and KpmIDs with an Enrolee-ID, nor a pattern with a template", in)
	case byKey && len(in.Anchors) > 0:
		return fmt.Errorf("%s pins a trust anchor for a pre-provisioned key", in)
	case group && in.Template.pattern != in.Pattern:
		return fmt.Errorf("%s has a template that was made for %s", in, in.Template.pattern)
	case len(in.Anchors) == 0 && !byKey:
		return fmt.Errorf("%s pins no trust anchor", in)
	case len(in.Targets) == 0:
		return fmt.Errorf("%s has no target", in)
	case in.Lifetime < time.Second:
		return fmt.Errorf("%s has the lifetime %s, less than a second", in, in.Lifetime)
	}
	seen := make(map[muster.FQDN]bool, len(in.Targets))
	for _, target := range in.Targets {
		if target.IsZero() || seen[target] {
			return fmt.Errorf("%s names the target %q twice or not at all", in, target)
		}
		seen[target] = true
	}
	return nil
}

// Takes reports whether the instruction decides about certificates that are those
// of a group, because it names them more exactly under one of the same roots.
func (in *Instruction) Takes(group *Instruction) bool {
	sameRoot := slices.ContainsFunc(in.Anchors, func(one *x509.Certificate) bool {
		return slices.ContainsFunc(group.Anchors, func(other *x509.Certificate) bool { return anchorOf(one) == anchorOf(other) })
	})
	switch {
	case !sameRoot:
		return false
	case in.isGroup():
		return len(in.Pattern.fixed) >= len(group.Pattern.fixed) && slices.ContainsFunc(in.Pattern.samples(), group.Pattern.Covers)
	}
	return group.Pattern.Covers(in.Certificate)
}

// of returns the instruction for one Enrolee of the group.
func (in *Instruction) of(name muster.CertName) (*Instruction, error) {
	if !in.isGroup() {
		return in, nil
	}
	id, err := in.Template.Form(name)
	if err != nil {
		return nil, muster.Refuse(muster.CodeEnroleeID, "%s forms no Enrolee-ID of %s: %w", in, name, err)
	}
	one := *in
	one.Certificate, one.EnroleeID = name, id
	one.Pattern, one.Template = Pattern{}, Template{}
	return &one, nil
}
