package mef

import (
	"slices"

	"muster"
)

// An index finds the instructions for an Enrolee-ID, as it stands in a stored
// enrolment, which does not know the name in the certificate.
type index struct {
	written map[muster.EnroleeID]*pin
	formed  map[string][]*pin // by the head of the template; no head begins with another
	lengths map[int]bool      // of the heads
}

func newIndex(r *register) index {
	x := index{written: map[muster.EnroleeID]*pin{}, formed: map[string][]*pin{}, lengths: map[int]bool{}}
	for _, p := range r.single() {
		x.written[p.instruction.EnroleeID] = p
	}
	for _, pins := range r.patterns.at {
		for _, p := range uniquePins(pins) {
			head := p.instruction.Template.head()
			x.formed[head], x.lengths[len(head)] = append(x.formed[head], p), true
		}
	}
	return x
}

// serves reports whether a MAF is a target of an Enrolee by the instructions. Of
// several that could form one Enrolee-ID any will do.
func (x index) serves(maf muster.FQDN, id muster.EnroleeID) bool {
	if p := x.written[id]; p != nil {
		return slices.Contains(p.instruction.Targets, maf)
	}
	text := id.String()
	for length := range x.lengths {
		if length > len(text) {
			continue
		}
		for _, p := range x.formed[text[:length]] {
			if p.instruction.Template.couldForm(text) && slices.Contains(p.instruction.Targets, maf) {
				return true
			}
		}
	}
	return false
}
