package mef

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"muster"
)

// checkIdentities makes sure that no two devices can get one Enrolee-ID, be it
// written down or formed. A device is a name under the roots of one rule.
//
// Templates are told apart by their heads: what an identifier begins with says
// which template could have formed it. Templates of one function form one
// identifier for one name only, so that they may share a head if no name is
// covered twice under different roots.
func (r *register) checkIdentities() error {
	heads := map[string]*pin{}
	formed := map[formedBy]*pin{}
	for pattern, pins := range r.patterns.at {
		for _, p := range pins.byAnchor {
			template := p.instruction.Template
			key := formedBy{template.function(), pattern}
			if other := formed[key]; other != nil && other != p {
				return fmt.Errorf("%s pins its names twice under different roots with one template; write one instruction with all these roots, or another template", p)
			}
			formed[key] = p
			if other := heads[template.head()]; other != nil && other.instruction.Template.function() != template.function() {
				return sharedHead(other, p)
			}
			heads[template.head()] = p
		}
	}
	if err := checkHeads(heads); err != nil {
		return err
	}
	if err := r.checkNested(formed); err != nil {
		return err
	}
	return r.checkWritten(heads, formed)
}

// formedBy is a template's function and the names to which it is applied.
type formedBy struct {
	function string
	pattern  Pattern
}

func sharedHead(one, other *pin) error {
	return fmt.Errorf("%s and %s could give two devices one Enrolee-ID; let the templates begin differently before their first part", one, other)
}

// checkHeads refuses a head that begins with another.
func checkHeads(heads map[string]*pin) error {
	sorted := slices.Sorted(maps.Keys(heads))
	for i := 1; i < len(sorted); i++ {
		if strings.HasPrefix(sorted[i], sorted[i-1]) {
			return sharedHead(heads[sorted[i-1]], heads[sorted[i]])
		}
	}
	return nil
}

// checkNested refuses patterns of one function, one within the other, under
// different roots: a name in both would be two devices with one Enrolee-ID.
func (r *register) checkNested(formed map[formedBy]*pin) error {
	for key, p := range formed {
		for outer := range r.around(key.pattern) {
			other := formed[formedBy{key.function, outer}]
			if other != nil && other.anchors != p.anchors {
				return fmt.Errorf("%s and %s would give devices under different roots one Enrolee-ID; let them pin the same roots or have other templates", other, p)
			}
		}
	}
	return nil
}

// around yields the patterns that cover all that p covers, and more.
func (r *register) around(p Pattern) func(yield func(Pattern) bool) {
	return func(yield func(Pattern) bool) {
		for _, name := range p.samples()[:1] {
			for pins := range r.patterns.covering(name) {
				for _, other := range pins.byAnchor {
					outer := other.instruction.Pattern
					if len(outer.fixed) < len(p.fixed) && !yield(outer) {
						return
					}
					break // all have one pattern
				}
			}
		}
	}
}

// checkWritten refuses an Enrolee-ID that is written down twice, or that could be
// formed for another device.
func (r *register) checkWritten(heads map[string]*pin, formed map[formedBy]*pin) error {
	lengths := make(map[int]bool, len(heads))
	for head := range heads {
		lengths[len(head)] = true
	}
	written := make(map[muster.EnroleeID]*pin, len(r.exact)+len(r.keys))
	for name, p := range r.single() {
		id := p.instruction.EnroleeID
		if other := written[id]; other != nil {
			return fmt.Errorf("%s and %s assign one Enrolee-ID", other, p)
		}
		written[id] = p
		for length := range lengths {
			if length > len(id.String()) {
				continue
			}
			other := heads[id.String()[:length]]
			if other != nil && other.instruction.Template.couldForm(id.String()) && !r.isOverride(name, p, other, formed) {
				return fmt.Errorf("%s has an Enrolee-ID that %s could form for another device", p, other)
			}
		}
	}
	return nil
}

// single yields the instructions for one Enrolee each, with the name that is
// zero for those with pre-provisioned keys.
func (r *register) single() iter.Seq2[muster.CertName, *pin] {
	return func(yield func(muster.CertName, *pin) bool) {
		for name, pins := range r.exact {
			for _, p := range pins {
				if p.instruction != nil && !yield(name, p) {
					return
				}
			}
		}
		for id, p := range r.keys {
			if id == p.instruction.KpmIDs[0] && !yield(muster.CertName{}, p) {
				return
			}
		}
	}
}

// isOverride reports whether p says of a name, under the same roots, what a
// template of the same function as other's says: it replaces the rest of that
// instruction for one device.
func (r *register) isOverride(name muster.CertName, p, other *pin, formed map[formedBy]*pin) bool {
	function := other.instruction.Template.function()
	for pins := range r.patterns.covering(name) {
		for _, group := range pins.byAnchor {
			if formed[formedBy{function, group.instruction.Pattern}] != group || group.anchors != p.anchors {
				continue
			}
			id, err := group.instruction.Template.Form(name)
			return err == nil && id == p.instruction.EnroleeID
		}
	}
	return false
}
