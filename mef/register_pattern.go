package mef

import (
	"fmt"
	"iter"
	"strings"

	"muster"
	"muster/cert"
)

// maxPattern bounds a pattern in octets, and with it the steps of a look-up.
const maxPattern = 255

// A Pattern is a set of names of one flavour, for an instruction that is about
// a group of Enrolees. It is comparable; the zero Pattern has no name in it.
//
// A pattern lives in the rules of an operator only: a certificate with an
// asterisk in it has no name.
type Pattern struct {
	flavour muster.Flavour
	fixed   string // what names begin with or, from a dot on, end in; "" for all
}

// ParsePattern reads a pattern of at most 255 octets, whose asterisk stands for
// one octet or more:
//
//   - "*": every name of the flavour.
//   - device: "0.2.481.1/100.3030.*", all below some arcs, also within the M2M
//     Device Indication ID ("0.2.481.*"); "hwmodule:1.3.6.1.4.1.99999.1:0a0b*",
//     a hwType and the first octets of hwSerialNum, or none of them; and
//     "hwmodule:1.3.6.1.4.1.99999.*", all hwTypes below some arcs.
//   - fqdn, cse-id, and domain names as node-id: "*.region.example", all below a
//     domain, at any depth, without the domain itself.
//   - ae-id, and URIs as node-id: "//sp.example/C1/*", all that begin so; the
//     asterisk follows a slash or colon, and not one before the end of the host.
//
// A raw public key has no pattern. Errors wrap muster.ErrSyntax.
func ParsePattern(flavour muster.Flavour, text string) (Pattern, error) {
	p, err := parsePattern(flavour, text)
	if err != nil {
		return Pattern{}, fmt.Errorf("%w: %s pattern %.300q: %w", muster.ErrSyntax, flavour, text, err)
	}
	return p, nil
}

func parsePattern(flavour muster.Flavour, text string) (Pattern, error) {
	switch {
	case flavour == muster.FlavourRawKey:
		return Pattern{}, fmt.Errorf("a raw public key is named by its digest alone")
	case len(text) > maxPattern:
		return Pattern{}, fmt.Errorf("%d octets exceed %d", len(text), maxPattern)
	case strings.Count(text, "*") != 1:
		return Pattern{}, fmt.Errorf("a pattern has exactly one asterisk")
	case text == "*":
		p := Pattern{flavour: flavour}
		if len(p.samples()) == 0 {
			return Pattern{}, fmt.Errorf("there is no such flavour")
		}
		return p, nil
	case strings.HasPrefix(text, "*."):
		return completed(Pattern{flavour, text[1:]})
	case !strings.HasSuffix(text, "*"):
		return Pattern{}, fmt.Errorf("the asterisk is neither the last octet nor the first label")
	}
	p := Pattern{flavour, strings.TrimSuffix(text, "*")}
	if err := p.checkBoundary(); err != nil {
		return Pattern{}, err
	}
	return completed(p)
}

// checkBoundary refuses a prefix that ends within an arc, a segment or a host,
// where "1*" would mean 1, 10 and 173.
func (p Pattern) checkBoundary() error {
	last := p.fixed[len(p.fixed)-1]
	if p.flavour == muster.FlavourDevice {
		_, module, _ := strings.Cut(p.fixed, ":")
		if _, serial, ok := strings.Cut(module, ":"); ok && len(serial)%2 == 0 || last == '.' || last == '/' || last == ':' {
			return nil
		}
		return fmt.Errorf("the asterisk follows a dot, a slash or a colon, or whole octets of hwSerialNum")
	}
	if last != '/' && last != ':' {
		return fmt.Errorf("the asterisk follows a slash or a colon")
	}
	if _, authority, ok := strings.Cut(p.fixed, "//"); ok && strings.IndexByte(authority, '/') < 1 {
		return fmt.Errorf("the asterisk stands for the host or a part of it")
	}
	return nil
}

// completed returns p in canonical form, if a name can be made of it: so the
// grammar of patterns is that of names.
func completed(p Pattern) (Pattern, error) {
	var err error
	for _, rest := range completions(p.flavour) {
		var name muster.CertName
		if p.isSuffix() {
			if name, err = cert.ParseName(p.flavour, "x"+p.fixed); err == nil {
				p.fixed = strings.TrimPrefix(name.Text, "x")
				return p, nil
			}
			continue
		}
		if name, err = cert.ParseName(p.flavour, p.fixed+rest); err == nil {
			p.fixed = strings.TrimSuffix(name.Text, rest)
			return p, nil
		}
	}
	return Pattern{}, err
}

// completions are texts of which at least one makes a name of any prefix that
// is that of a name.
func completions(flavour muster.Flavour) []string {
	switch flavour {
	case muster.FlavourDevice:
		return []string{"1", "1.1", "1.1.1", "1/1.1.1", "2/1.1.1", "00", "1:00", "1.3.6:00"}
	case muster.FlavourNodeID, muster.FlavourAEID:
		return []string{"x", "//sp.example/x"}
	default:
		return []string{"x.example"}
	}
}

// samples returns some names that the pattern covers.
func (p Pattern) samples() []muster.CertName {
	rests := completions(p.flavour)
	switch {
	case p.isSuffix():
		rests = []string{"x"}
	case p.fixed == "":
		rests = []string{"x.example", "//sp.example/x", "urn:x:y", "0.2.481.1/1.1.1", "hwmodule:1.3.6:00"}
	}
	var names []muster.CertName
	for _, rest := range rests {
		text := p.fixed + rest
		if p.isSuffix() {
			text = rest + p.fixed
		}
		if name, err := cert.ParseName(p.flavour, text); err == nil {
			names = append(names, name)
		}
	}
	return names
}

func (p Pattern) isSuffix() bool { return strings.HasPrefix(p.fixed, ".") }

// IsZero reports whether p is the zero Pattern.
func (p Pattern) IsZero() bool { return p == Pattern{} }

// Covers reports whether a name is in the pattern.
func (p Pattern) Covers(name muster.CertName) bool {
	if p.flavour != name.Flavour || p.IsZero() || len(name.Text) <= len(p.fixed) {
		return false
	}
	if p.isSuffix() {
		return strings.HasSuffix(name.Text, p.fixed) && !isURI(name)
	}
	return strings.HasPrefix(name.Text, p.fixed)
}

// isURI reports whether a name has a colon, as no domain name has.
func isURI(name muster.CertName) bool { return strings.Contains(name.Text, ":") }

// rest returns what the asterisk stands for in a name that the pattern covers.
func (p Pattern) rest(text string) string {
	if p.isSuffix() {
		return strings.TrimSuffix(text, p.fixed)
	}
	return strings.TrimPrefix(text, p.fixed)
}

// String returns the flavour, a colon and the pattern.
func (p Pattern) String() string {
	if p.isSuffix() {
		return string(p.flavour) + ":*" + p.fixed
	}
	return string(p.flavour) + ":" + p.fixed + "*"
}

// An overlay finds the patterns that cover a name, the longest first, in as many
// steps as there are lengths of patterns: two patterns of one length that cover
// one name are the same.
type overlay[T any] struct {
	at       map[Pattern]T
	prefixes map[muster.Flavour]*[maxPattern + 1]bool // the lengths in use
	suffixes map[muster.Flavour]*[maxPattern + 1]bool
}

func newOverlay[T any]() overlay[T] {
	lengths := func() map[muster.Flavour]*[maxPattern + 1]bool { return map[muster.Flavour]*[maxPattern + 1]bool{} }
	return overlay[T]{map[Pattern]T{}, lengths(), lengths()}
}

func (o overlay[T]) set(p Pattern, v T) {
	o.at[p] = v
	lengths := o.prefixes
	if p.isSuffix() {
		lengths = o.suffixes
	}
	if lengths[p.flavour] == nil {
		lengths[p.flavour] = new([maxPattern + 1]bool)
	}
	lengths[p.flavour][len(p.fixed)] = true
}

// covering yields what is set for the patterns that cover a name, the longest
// pattern first.
func (o overlay[T]) covering(name muster.CertName) iter.Seq[T] {
	return func(yield func(T) bool) {
		prefixes, suffixes := o.prefixes[name.Flavour], o.suffixes[name.Flavour]
		if isURI(name) {
			suffixes = nil
		}
		for n := min(len(name.Text)-1, maxPattern); n >= 0; n-- {
			if prefixes != nil && prefixes[n] {
				if v, ok := o.at[Pattern{name.Flavour, name.Text[:n]}]; ok && !yield(v) {
					return
				}
			}
			if suffixes != nil && suffixes[n] {
				if v, ok := o.at[Pattern{name.Flavour, name.Text[len(name.Text)-n:]}]; ok && !yield(v) {
					return
				}
			}
		}
	}
}
