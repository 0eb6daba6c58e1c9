package mef

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"muster"
)

// A Template forms the Enrolee-IDs of a group from the names in the
// certificates. Two names of the group never give one Enrolee-ID. The zero
// Template forms none.
type Template struct {
	text     string
	pattern  Pattern
	elements []element
}

// An element is a literal or, with an alphabet, the place of a part.
type element struct {
	text     string // the literal, or the name of the part
	alphabet alphabet
}

func (e element) isPart() bool { return e.alphabet != none }

// An alphabet is what a part may consist of.
type alphabet int

const (
	none alphabet = iota
	digits
	dottedDigits
	hexDigits
	domainLetters
	anything
)

func (a alphabet) has(c byte) bool {
	isDigit, isLetter := '0' <= c && c <= '9', 'a' <= c && c <= 'z'
	switch a {
	case digits:
		return isDigit
	case dottedDigits:
		return isDigit || c == '.'
	case hexDigits:
		return isDigit || 'a' <= c && c <= 'f'
	case domainLetters:
		return isDigit || isLetter || c == '.' || c == '-'
	default:
		return a == anything
	}
}

// The parts of names that a template may ask for.
const (
	partName = "name" // all of it
	partRest = "rest" // what the asterisk stands for
	partID   = "id"   // a URI without its scheme
	// schemePart is what partID leaves away. No template can ask for it.
	schemePart = "scheme"
)

// ParseTemplate reads a template for the names of a pattern: an Enrolee-ID in
// ASCII with parts of the name in braces,
//
//   - everywhere: {name}, the whole name in canonical form, and {rest}, what the
//     asterisk of the pattern stands for;
//   - for patterns over M2M Device IDs: {indication}, {manufacturer}, {model} and
//     {serial}, which includes the expanded ID if there is one: "7" or "7.1";
//   - for patterns that begin with "hwmodule:": {type} and {serial}, in
//     hexadecimal;
//   - for ae-id: {id}, the Absolute AE-ID without the scheme of its URI.
//
// The template has to have every part of the name that the pattern leaves open,
// each once, and between two of them a text that neither can begin with, so that
// no two names give the same. Errors wrap muster.ErrSyntax.
func ParseTemplate(text string, pattern Pattern) (Template, error) {
	t, err := parseTemplate(text, pattern)
	if err != nil {
		return Template{}, fmt.Errorf("%w: template %.600q for %s: %w", muster.ErrSyntax, text, pattern, err)
	}
	return t, nil
}

func parseTemplate(text string, pattern Pattern) (Template, error) {
	t := Template{text: text, pattern: pattern}
	known := pattern.alphabets()
	for rest := text; rest != ""; {
		literal, after, isPart := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") || strings.ContainsFunc(literal, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return Template{}, fmt.Errorf("%q has a brace or something that is not visible ASCII", literal)
		}
		if literal != "" {
			t.elements = append(t.elements, element{text: literal})
		}
		if !isPart {
			break
		}
		part, after, closed := strings.Cut(after, "}")
		alphabet, ok := known[part]
		if !closed || !ok {
			return Template{}, fmt.Errorf("{%s is none of the parts %s", part, slices.Sorted(maps.Keys(known)))
		}
		t.elements = append(t.elements, element{part, alphabet})
		rest = after
	}
	if err := t.checkInjective(); err != nil {
		return Template{}, err
	}
	return t, t.checkForm()
}

// alphabets returns the parts that the names of the pattern have.
func (p Pattern) alphabets() map[string]alphabet {
	switch p.kind() {
	case kindDeviceID:
		return map[string]alphabet{partName: anything, partRest: anything,
			"indication": dottedDigits, "manufacturer": digits, "model": digits, "serial": dottedDigits}
	case kindModule:
		return map[string]alphabet{partName: anything, partRest: anything, "type": dottedDigits, "serial": hexDigits}
	case kindDomain:
		return map[string]alphabet{partName: domainLetters, partRest: domainLetters}
	case kindAEID:
		return map[string]alphabet{partName: anything, partRest: anything, partID: anything}
	default:
		return map[string]alphabet{partName: anything, partRest: anything}
	}
}

// A kind is a form of names with parts of its own.
type kind string

const (
	kindDeviceID kind = "M2M Device ID"
	kindModule   kind = "hardware module"
	kindDomain   kind = "domain"
	kindAEID     kind = "AE-ID"
	kindOther    kind = "other" // names that share no parts
)

const modulePrefix = "hwmodule:"

func (p Pattern) kind() kind {
	switch p.flavour {
	case muster.FlavourDevice:
		switch {
		case p.fixed == "":
			return kindOther
		case strings.HasPrefix(p.fixed, modulePrefix):
			return kindModule
		}
		return kindDeviceID
	case muster.FlavourFQDN, muster.FlavourCSEID:
		return kindDomain
	case muster.FlavourAEID:
		return kindAEID
	}
	if p.isSuffix() {
		return kindDomain
	}
	return kindOther
}

// partsOf takes a text of a kind apart. Of a text that is cut short, it returns
// the parts that are complete.
func partsOf(k kind, text string) map[string]string {
	parts := map[string]string{}
	switch k {
	case kindDeviceID:
		indication, arcs, ok := strings.Cut(text, "/")
		if !ok {
			return parts
		}
		parts["indication"] = indication
		for _, part := range []string{"manufacturer", "model"} {
			arc, after, ok := strings.Cut(arcs, ".")
			if !ok {
				return parts
			}
			parts[part], arcs = arc, after
		}
		parts["serial"] = arcs
	case kindModule:
		if kind, serial, ok := strings.Cut(strings.TrimPrefix(text, modulePrefix), ":"); ok {
			parts["type"], parts["serial"] = kind, serial
		}
	case kindAEID:
		if strings.HasPrefix(text, "//") {
			parts[schemePart], parts[partID] = "", text
		} else if scheme, id, ok := strings.Cut(text, ":"); ok {
			parts[schemePart], parts[partID] = scheme, id
		}
	}
	return parts
}

// fixedParts returns the parts that all names of the pattern share.
func (p Pattern) fixedParts() map[string]string {
	parts := partsOf(p.kind(), p.fixed)
	delete(parts, "serial") // the last part of a name goes on
	delete(parts, partID)
	return parts
}

// essential returns the parts that together make a name of the kind, or nil for
// a kind whose names have no other part than themselves.
func (k kind) essential() []string {
	switch k {
	case kindDeviceID:
		return []string{"indication", "manufacturer", "model", "serial"}
	case kindModule:
		return []string{"type", "serial"}
	case kindAEID:
		return []string{schemePart, partID}
	}
	return nil
}

func (t Template) has(part string) bool {
	return slices.ContainsFunc(t.elements, func(e element) bool { return e.isPart() && e.text == part })
}

// checkInjective makes sure that the name can be told from what is formed of it:
// every part is there or the same for all names, and each ends where the next
// octet cannot belong to it.
func (t Template) checkInjective() error {
	for i, e := range t.elements {
		if !e.isPart() {
			continue
		}
		if slices.ContainsFunc(t.elements[:i], func(other element) bool { return other == e }) {
			return fmt.Errorf("{%s} stands twice", e.text)
		}
		if i+1 == len(t.elements) {
			continue
		}
		if next := t.elements[i+1]; next.isPart() || e.alphabet.has(next.text[0]) {
			return fmt.Errorf("where {%s} ends cannot be told from what follows", e.text)
		}
	}
	if t.has(partName) || t.has(partRest) {
		return nil
	}
	fixed, essential := t.pattern.fixedParts(), t.pattern.kind().essential()
	if essential == nil {
		return fmt.Errorf("it has neither {%s} nor {%s}, so that all names would give the same", partName, partRest)
	}
	for _, part := range essential {
		if _, same := fixed[part]; !same && !t.has(part) {
			return fmt.Errorf("names that differ in their %s would give the same, for the template has no {%s}", part, part)
		}
	}
	return nil
}

// checkForm makes sure that the template can form an Enrolee-ID at all.
func (t Template) checkForm() (err error) {
	for _, name := range t.pattern.samples() {
		if _, err = t.Form(name); err == nil {
			return nil
		}
	}
	return err
}

// Form returns the Enrolee-ID of a name that the pattern covers. The error wraps
// muster.ErrSyntax: the name may have an octet that no Enrolee-ID has.
func (t Template) Form(name muster.CertName) (muster.EnroleeID, error) {
	if !t.pattern.Covers(name) {
		return muster.EnroleeID{}, fmt.Errorf("%w: %s does not cover %s", muster.ErrSyntax, t.pattern, name)
	}
	parts := partsOf(t.pattern.kind(), name.Text)
	parts[partName], parts[partRest] = name.Text, t.pattern.rest(name.Text)
	var id strings.Builder
	for _, e := range t.elements {
		if e.isPart() {
			id.WriteString(parts[e.text])
		} else {
			id.WriteString(e.text)
		}
	}
	return muster.ParseEnroleeID(id.String())
}

// couldForm reports whether an identifier has the form of those of the template.
// It may be true of one that no name gives.
func (t Template) couldForm(id string) bool {
	for _, e := range t.elements {
		if !e.isPart() {
			rest, ok := strings.CutPrefix(id, e.text)
			if !ok {
				return false
			}
			id = rest
			continue
		}
		n := 0
		for n < len(id) && e.alphabet.has(id[n]) {
			n++
		}
		if n == 0 {
			return false
		}
		id = id[n:]
	}
	return id == ""
}

// head returns what all identifiers of the template begin with.
func (t Template) head() string {
	if t.elements[0].isPart() {
		return ""
	}
	return t.elements[0].text
}

// function returns what tells the template from others as a function of names:
// two templates of one function give one identifier for one name only.
func (t Template) function() string {
	if t.has(partName) {
		return fmt.Sprintf("%q of %s", t.text, t.pattern.flavour)
	}
	if t.has(partRest) {
		return fmt.Sprintf("%q of %s", t.text, t.pattern)
	}
	constant := t.pattern.fixedParts()
	maps.DeleteFunc(constant, func(part, _ string) bool { return t.has(part) })
	return fmt.Sprintf("%q of %s %q with %q", t.text, t.pattern.flavour, t.pattern.kind(), constant)
}

// IsZero reports whether t is the zero Template.
func (t Template) IsZero() bool { return t.text == "" }

// String returns the text of the template.
func (t Template) String() string { return t.text }
