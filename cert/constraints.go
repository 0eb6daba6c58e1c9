package cert

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"muster"
)

// crypto/x509 checks the name constraints on dNSName, URI, rfc822Name and
// iPAddress, and refuses a critical extension with any other form. This file
// checks the forms that name a device, so that an authority for devices can be
// constrained as TS-0003 10.1.1.4.2 recommends.

// A hardware is a device's name, or a subtree of such names: the same form and
// a prefix of the octets.
type hardware struct {
	// form is the content of the hwType of a hardwareModuleName. It is empty
	// for an M2M Device ID: all of these are one form of name, wherever the
	// type-id is split from the value, or an authority for one subtree could
	// leave it by another split.
	form string
	// octets are the hwSerialNum, or the content of the whole object
	// identifier, whose arcs are self-delimiting: a prefix of octets that ends
	// with an arc is a prefix of arcs.
	octets string
}

func (h hardware) within(subtree hardware) bool {
	return h.form == subtree.form && strings.HasPrefix(h.octets, subtree.octets)
}

// hardwareOf reads the content of an otherName; ok is false for one that names
// no device. A subtree may leave out all that follows the type-id or the hwType.
func hardwareOf(content cryptobyte.String, subtree bool) (h hardware, ok bool, err error) {
	kind, value, err := splitOtherName(content)
	if err != nil {
		return hardware{}, false, err
	}
	if kind.EqualASN1OID(oidHardwareModuleName) {
		module, err := readHardwareModule(value)
		if err != nil {
			return hardware{}, false, err
		}
		return hardware{string(oidContent(module.kind)), string(module.serial)}, true, nil
	}
	if subtree && bytes.Equal(value, []byte{byte(relativeOID), 0}) {
		return hardware{octets: string(oidContent(kind))}, true, nil
	}
	arcs, ok, err := readRelativeOID(value)
	return hardware{octets: string(oidContent(kind)) + string(arcs)}, ok, err
}

// nameConstraints are those of an authority on devices.
type nameConstraints struct {
	permitted, excluded []hardware
	// complete means that crypto/x509 and this package together check every
	// subtree of the extension.
	complete bool
}

// constraintsOf returns the constraints in c, which are complete if it has none.
func constraintsOf(c *x509.Certificate) (nameConstraints, error) {
	for _, extension := range c.Extensions {
		if extension.Id.Equal(oidNameConstraints) {
			return readNameConstraints(extension.Value)
		}
	}
	return nameConstraints{complete: true}, nil
}

func readNameConstraints(der []byte) (nameConstraints, error) {
	constraints := nameConstraints{complete: true}
	input := cryptobyte.String(der)
	var both, permitted, excluded cryptobyte.String
	var unused bool
	if !input.ReadASN1(&both, cryptobyte_asn1.SEQUENCE) || !input.Empty() ||
		!both.ReadOptionalASN1(&permitted, &unused, cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) ||
		!both.ReadOptionalASN1(&excluded, &unused, cryptobyte_asn1.Tag(1).ContextSpecific().Constructed()) || !both.Empty() {
		return nameConstraints{}, fmt.Errorf("its name constraints are malformed")
	}
	var err error
	if constraints.permitted, err = constraints.readSubtrees(permitted); err != nil {
		return nameConstraints{}, err
	}
	constraints.excluded, err = constraints.readSubtrees(excluded)
	return constraints, err
}

func (n *nameConstraints) readSubtrees(subtrees cryptobyte.String) (read []hardware, err error) {
	for !subtrees.Empty() {
		var subtree, base cryptobyte.String
		var tag cryptobyte_asn1.Tag
		if !subtrees.ReadASN1(&subtree, cryptobyte_asn1.SEQUENCE) || !subtree.ReadAnyASN1(&base, &tag) {
			return nil, fmt.Errorf("its name constraints are malformed")
		}
		// minimum and maximum are not used with any form (RFC 5280 4.2.1.10).
		if !subtree.Empty() {
			return nil, fmt.Errorf("a name constraint has a minimum or maximum")
		}
		form, ok := formOf(tag)
		if !ok {
			return nil, fmt.Errorf("its name constraints are malformed")
		}
		switch form {
		case formOtherName:
			h, ok, err := hardwareOf(base, true)
			if err != nil {
				return nil, err
			}
			if ok {
				read = append(read, h)
			} else {
				n.complete = false
			}
		case formDNSName, formURI, formRFC822Name, formIPAddress:
		default:
			n.complete = false
		}
	}
	return read, nil
}

// check returns an error for a device outside the constraints.
func (n nameConstraints) check(devices []hardware) error {
	for _, device := range devices {
		contains := func(subtree hardware) bool { return device.within(subtree) }
		alike := func(subtree hardware) bool { return (device.form == "") == (subtree.form == "") }
		if slices.ContainsFunc(n.permitted, alike) && !slices.ContainsFunc(n.permitted, contains) {
			return fmt.Errorf("a hardware identifier lies in no permitted subtree")
		}
		if slices.ContainsFunc(n.excluded, contains) {
			return fmt.Errorf("a hardware identifier lies in an excluded subtree")
		}
	}
	return nil
}

// devicesOf returns the devices that c names.
func devicesOf(c *x509.Certificate) (devices []hardware, err error) {
	for _, extension := range c.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			continue
		}
		input := cryptobyte.String(extension.Value)
		var names cryptobyte.String
		if !input.ReadASN1(&names, cryptobyte_asn1.SEQUENCE) {
			return nil, malformedAltName("it is not a sequence of names")
		}
		for !names.Empty() {
			var content cryptobyte.String
			var tag cryptobyte_asn1.Tag
			if !names.ReadAnyASN1(&content, &tag) {
				return nil, malformedAltName("a name is cut short")
			}
			if form, ok := formOf(tag); !ok || form != formOtherName {
				continue
			}
			h, ok, err := hardwareOf(content, false)
			if err != nil {
				return nil, malformedAltName("%v", err)
			}
			if ok {
				devices = append(devices, h)
			}
		}
	}
	return devices, nil
}

// constraints holds every certificate of a path against the constraints of all
// authorities above it (RFC 5280 6.1.4 g), the anchor included.
func (f *pathFinder) constraints(path []*x509.Certificate) Findings {
	var found Findings
	var above []nameConstraints
	for _, c := range slices.Backward(path) {
		index := f.candidate(c).index
		devices, err := devicesOf(c)
		if err != nil {
			found.addError(muster.CodeCertificateMalformed, index, err)
			return found
		}
		for _, constraints := range above {
			if err := constraints.check(devices); err != nil {
				found.addError(muster.CodeNameConstraints, index, err)
				return found
			}
		}
		own, err := constraintsOf(c)
		if err != nil {
			found.addError(muster.CodeNameConstraints, index, err)
			return found
		}
		above = append(above, own)
	}
	return found
}

// withoutReadExtensions returns c or, if it lists as unhandled an extension that
// this package handles in full, a copy that does not: a critical subjectAltName
// of otherNames only, and critical constraints on devices.
func withoutReadExtensions(c *x509.Certificate) *x509.Certificate {
	if len(c.UnhandledCriticalExtensions) == 0 {
		return c
	}
	handled := func(id asn1.ObjectIdentifier) bool {
		switch {
		case id.Equal(oidSubjectAltName):
			_, err := altNamesOf(c)
			return err == nil
		case id.Equal(oidNameConstraints):
			constraints, err := constraintsOf(c)
			return err == nil && constraints.complete
		default:
			return false
		}
	}
	copied := *c
	copied.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions), handled)
	return &copied
}
