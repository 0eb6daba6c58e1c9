package primitive

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"muster"
)

// A Resource is the representation of a resource, whole or partial: a kind and
// attributes with typed values. It may hold a key: no verb of fmt and no logger
// shows a value. Its methods are not safe for concurrent use with Set.
type Resource struct {
	kind Kind
	veil veil[map[Attribute]any]
}

// A Reference names a child resource (TS-0004 6.3.5.29).
type Reference struct {
	Name string
	Type int
	To   string
}

// NewResource returns a resource of a kind without attributes.
func NewResource(k Kind) *Resource { return &Resource{k, cover(map[Attribute]any{})} }

func (r *Resource) values() map[Attribute]any { return *r.veil.value() }

// Kind returns the resource's kind.
func (r *Resource) Kind() Kind { return r.kind }

// Set gives an attribute a value of the type in its Rule and returns r. A nil value
// asks, in an update, for the attribute's removal.
func (r *Resource) Set(a Attribute, value any) *Resource {
	r.values()[a] = value
	return r
}

// Has reports whether the attribute is present, be it with nil.
func (r *Resource) Has(a Attribute) bool { _, ok := r.values()[a]; return ok }

// Attributes returns the names of the attributes present, in alphabetical order.
func (r *Resource) Attributes() []Attribute { return slices.Sorted(maps.Keys(r.values())) }

// Get returns the value of an attribute; ok is false if it is absent, nil or of
// another type than T.
func Get[T any](r *Resource, a Attribute) (value T, ok bool) {
	value, ok = r.values()[a].(T)
	return value, ok
}

// Format writes the kind and the names of the attributes for every verb.
func (r *Resource) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.describe()) }

// LogValue returns the kind and the names of the attributes.
func (r *Resource) LogValue() slog.Value { return slog.StringValue(r.describe()) }

// MarshalJSON returns ErrContentExposed.
func (r *Resource) MarshalJSON() ([]byte, error) { return nil, ErrContentExposed }

func (r *Resource) describe() string { return fmt.Sprintf("%s%s", r.kind, r.Attributes()) }

// Encode returns the resource as content. It is an error if an attribute is not of
// the kind or its value not of the type in its Rule.
func (w *Wire) Encode(r *Resource) (Content, error) {
	o := make(Object, len(r.values()))
	for a, value := range r.values() {
		rule, ok := ruleFor(r.kind, a)
		if !ok {
			return Content{}, fmt.Errorf("%s has no attribute %s", r.kind, a)
		}
		v, err := rule.Type.encode(value)
		if err != nil {
			return Content{}, fmt.Errorf("%s of %s: %w", a, r.kind, err)
		}
		o[w.attributes[a]] = v
	}
	return NewContent(Object{w.kinds[r.kind].Root: o}), nil
}

// Decode returns the resource in the content of a create or update request,
// checked against the rules of its kind. Every error is an *Error that names the
// attribute.
func (w *Wire) Decode(k Kind, op Operation, c Content) (*Resource, error) {
	r, err := w.decode(k, c, true)
	if err != nil {
		return nil, err
	}
	for _, rule := range Rules(k) {
		presence := rule.presence(op)
		value, present := r.values()[rule.Attribute]
		switch {
		case present && presence == NotPermitted:
			return nil, attributeError(rule.Attribute, "is not permitted in %v", op)
		case !present && presence == Mandatory:
			return nil, attributeError(rule.Attribute, "is missing")
		case present && value == nil && (op != Update || presence == Mandatory):
			return nil, attributeError(rule.Attribute, "is null")
		}
	}
	if op == Update && len(r.values()) == 0 {
		return nil, &Error{Status: BadRequest, Detail: "the update has no attribute"}
	}
	return r, nil
}

// DecodeRepresentation returns the resource in the content of a response. Types
// are checked; attributes that the rules do not know are passed over.
func (w *Wire) DecodeRepresentation(k Kind, c Content) (*Resource, error) {
	return w.decode(k, c, false)
}

func (w *Wire) decode(k Kind, c Content, strict bool) (*Resource, error) {
	o, err := c.Object()
	if err != nil {
		return nil, err
	}
	if len(o) != 1 {
		return nil, &Error{Status: BadRequest, Detail: "the content is not one resource"}
	}
	r := NewResource(k)
	for root, value := range o {
		members, ok := value.(Object)
		if found, known := w.byRoot[root]; !known || found != k || !ok {
			return nil, &Error{Status: BadRequest, Detail: fmt.Sprintf("the content is not an object named %q", w.kinds[k].Root)}
		}
		if err := w.decodeAttributes(r, members, strict); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// decodeAttributes goes through the members in alphabetical order, so that of two
// faults always the same one is reported.
func (w *Wire) decodeAttributes(r *Resource, members Object, strict bool) error {
	for _, name := range slices.Sorted(maps.Keys(members)) {
		a, known := w.byName[name]
		rule, ofKind := ruleFor(r.kind, a)
		if !known || !ofKind {
			if !strict {
				continue
			}
			return attributeError(Attribute(name), "is not one of %s", r.kind)
		}
		if r.Has(a) {
			return attributeError(a, "occurs by both its names")
		}
		if members[name] == nil {
			r.values()[a] = nil
			continue
		}
		value, err := rule.Type.decode(members[name])
		if err != nil {
			return attributeError(a, "%v", err)
		}
		r.values()[a] = value
	}
	return nil
}

func attributeError(a Attribute, format string, args ...any) *Error {
	return &Error{Status: BadRequest, Detail: fmt.Sprintf("attribute %.64q %s", string(a), fmt.Sprintf(format, args...))}
}

// A ValueType is the type of an attribute's value.
type ValueType int

// The types, with the Go type of the value.
const (
	TypeText       ValueType = iota + 1 // string of 1 to 512 octets
	TypeTimestamp                       // time.Time
	TypeNumber                          // int64, not negative
	TypeFQDN                            // muster.FQDN
	TypeTexts                           // []string of at most 32 texts
	TypeKey                             // []byte of 16 to 64 octets, base64 on the wire
	TypeReferences                      // []Reference of at most 32
	TypeObject                          // Object
	TypeObjects                         // []Object of at most 32
)

const maxTexts = 32

func (t ValueType) decode(v any) (any, error) {
	switch t {
	case TypeText:
		return decodeText(v)
	case TypeTimestamp:
		s, _ := v.(string)
		return ParseTimestamp(s)
	case TypeNumber:
		n, ok := v.(int64)
		if !ok || n < 0 {
			return nil, errors.New("is not a number of 0 or more")
		}
		return n, nil
	case TypeFQDN:
		s, _ := v.(string)
		return muster.ParseFQDN(s)
	case TypeTexts:
		return decodeList(v, decodeText)
	case TypeKey:
		return decodeKey(v)
	case TypeReferences:
		return decodeList(v, decodeReference)
	case TypeObject:
		return decodeMember(v)
	case TypeObjects:
		return decodeList(v, decodeMember)
	}
	return nil, errors.New("has no type")
}

func decodeText(v any) (string, error) {
	s, ok := v.(string)
	if !ok || s == "" || len(s) > MaxIdentifier || strings.ContainsFunc(s, isControl) {
		return "", fmt.Errorf("is not a text of 1 to %d octets without control characters", MaxIdentifier)
	}
	return s, nil
}

func decodeMember(v any) (Object, error) {
	if o, ok := v.(Object); ok {
		return o, nil
	}
	return nil, errors.New("is not an object")
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 }

func decodeList[T any](v any, element func(any) (T, error)) ([]T, error) {
	list, ok := v.([]any)
	if !ok || len(list) > maxTexts {
		return nil, fmt.Errorf("is not an array of at most %d elements", maxTexts)
	}
	decoded := make([]T, len(list))
	for i := range list {
		var err error
		if decoded[i], err = element(list[i]); err != nil {
			return nil, err
		}
	}
	return decoded, nil
}

// decodeKey puts nothing of a key into its error.
func decodeKey(v any) ([]byte, error) {
	s, _ := v.(string)
	key, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(key) < 16 || len(key) > 64 {
		return nil, errors.New("is not the base64 of a key of 16 to 64 octets")
	}
	return key, nil
}

func decodeReference(v any) (Reference, error) {
	o, ok := v.(Object)
	name, nameOK := o[memberName].(string)
	kind, kindOK := o[memberType].(int64)
	to, toOK := o[memberValue].(string)
	if !ok || !nameOK || !kindOK || !toOK || kind < 1 || kind > largestResourceType {
		return Reference{}, errors.New("is not a reference with nm, typ and val")
	}
	return Reference{name, int(kind), to}, nil
}

func (t ValueType) encode(value any) (any, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		if t == TypeText {
			return v, nil
		}
	case time.Time:
		if t == TypeTimestamp {
			return FormatTimestamp(v), nil
		}
	case int64:
		if t == TypeNumber {
			return v, nil
		}
	case muster.FQDN:
		if t == TypeFQDN {
			return v.String(), nil
		}
	case []string:
		if t == TypeTexts {
			return anys(v, func(s string) any { return s }), nil
		}
	case Object:
		if t == TypeObject {
			return v, nil
		}
	case []Object:
		if t == TypeObjects {
			return anys(v, func(o Object) any { return o }), nil
		}
	case []byte:
		if t == TypeKey {
			return base64.StdEncoding.EncodeToString(v), nil
		}
	case []Reference:
		if t == TypeReferences {
			return anys(v, func(r Reference) any {
				return Object{memberName: r.Name, memberType: int64(r.Type), memberValue: r.To}
			}), nil
		}
	}
	return nil, fmt.Errorf("a value of Go type %T does not fit", value)
}

func anys[T any](list []T, f func(T) any) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = f(list[i])
	}
	return out
}
