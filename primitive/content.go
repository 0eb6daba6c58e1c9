package primitive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// A Format is a coding of primitives and contents.
type Format int

// The codings (TS-0004 8.4, 8.5).
const (
	JSON Format = iota + 1
	CBOR
)

// String returns "json" or "cbor".
func (f Format) String() string {
	switch f {
	case JSON:
		return "json"
	case CBOR:
		return "cbor"
	}
	return fmt.Sprintf("format %d", int(f))
}

// An Object is a decoded JSON object or CBOR map. Its values are string, bool,
// int64, float64, nil, []any and Object.
type Object map[string]any

// Content is the Content parameter of a primitive. It holds octets as they came,
// which are decoded only when Object is called, or an Object that Encode codes in
// the format a binding has agreed with the peer. It may hold keys: no verb of fmt
// and no logger shows what is in it. The zero Content is absent.
type Content struct{ body veil[contentBody] }

type contentBody struct {
	format Format
	octets []byte
	object Object // if format is 0
}

// A veil holds a value that may contain a key. Where it sits in an unexported
// field, fmt cannot call a redacting method and reflects instead, and then finds
// only the address behind the first of two pointers.
type veil[T any] struct{ at **T }

func cover[T any](value T) veil[T] {
	p := &value
	return veil[T]{&p}
}

// value is nil in the zero veil.
func (v veil[T]) value() *T {
	if v.at == nil {
		return nil
	}
	return *v.at
}

// RawContent returns content that arrived in a format. It keeps octets, and an
// empty slice is no content.
func RawContent(f Format, octets []byte) Content {
	if len(octets) == 0 {
		return Content{}
	}
	return Content{cover(contentBody{format: f, octets: octets})}
}

// NewContent returns content to be sent. It keeps o.
func NewContent(o Object) Content { return Content{cover(contentBody{object: o})} }

// IsZero reports whether there is no content.
func (c Content) IsZero() bool { return c.body.value() == nil }

// Object decodes the content. Its error is an *Error with BadRequest.
func (c Content) Object() (Object, error) {
	body := c.body.value()
	switch {
	case body == nil:
		return nil, &Error{Status: BadRequest, Detail: "there is no content"}
	case body.format == 0:
		return body.object, nil
	}
	return decodeObject(body.format, body.octets)
}

// Encode returns the octets of the content in a format; nil without content.
func (c Content) Encode(f Format) ([]byte, error) {
	body := c.body.value()
	switch {
	case body == nil:
		return nil, nil
	case body.format == f:
		return body.octets, nil
	}
	o, err := c.Object()
	if err != nil {
		return nil, err
	}
	return encodeObject(f, o)
}

func (c Content) describe() string {
	if c.IsZero() {
		return "[no content]"
	}
	return "[content]"
}

// Format tells for every verb whether there is content, and not what.
func (c Content) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.describe()) }

// LogValue tells whether there is content.
func (c Content) LogValue() slog.Value { return slog.StringValue(c.describe()) }

// ErrContentExposed is what a general marshaller gets that tries to write content.
var ErrContentExposed = errors.New("content is coded by Encode alone")

// MarshalJSON returns ErrContentExposed.
func (c Content) MarshalJSON() ([]byte, error) { return nil, ErrContentExposed }

func decodeObject(f Format, octets []byte) (Object, error) {
	if len(octets) > MaxContent {
		return nil, &Error{Status: BadRequest, Detail: fmt.Sprintf("the content exceeds %d octets", MaxContent)}
	}
	var o Object
	var err error
	switch f {
	case JSON:
		o, err = decodeJSON(octets)
	case CBOR:
		o, err = decodeCBOR(octets)
	default:
		return nil, fmt.Errorf("no coding is called %v", f)
	}
	if err != nil {
		return nil, &Error{Status: BadRequest, Detail: fmt.Sprintf("the content is not an object in %v: %v", f, err)}
	}
	return o, nil
}

func encodeObject(f Format, o Object) ([]byte, error) {
	switch f {
	case JSON:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(o); err != nil {
			return nil, err
		}
		return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
	case CBOR:
		mode, err := cbor.EncOptions{Sort: cbor.SortBytewiseLexical}.EncMode()
		if err != nil {
			return nil, err
		}
		return mode.Marshal(o)
	}
	return nil, fmt.Errorf("no coding is called %v", f)
}

// decodeJSON is stricter than encoding/json, as TS-0004 8.4.2 asks: names are
// unique, text is UTF-8, and one object is all there is.
func decodeJSON(octets []byte) (Object, error) {
	if !utf8.Valid(octets) {
		return nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(octets))
	d.UseNumber()
	v, err := decodeJSONValue(d, 1)
	if err != nil {
		return nil, err
	}
	o, ok := v.(Object)
	if !ok {
		return nil, errors.New("it is another kind of value")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the object")
	}
	return o, nil
}

func decodeJSONValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, errors.New("it has a syntax error")
	}
	switch t := token.(type) {
	case json.Delim:
		if depth > MaxDepth {
			return nil, fmt.Errorf("it is nested deeper than %d", MaxDepth)
		}
		if t == '{' {
			return decodeJSONObject(d, depth)
		}
		return decodeJSONArray(d, depth)
	case json.Number:
		return decodeNumber(t)
	case string:
		return checkString(t)
	}
	return token, nil
}

func decodeJSONObject(d *json.Decoder, depth int) (any, error) {
	o := Object{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errors.New("it has a syntax error")
		}
		key, err := checkString(name.(string))
		if err != nil {
			return nil, err
		}
		if _, twice := o[key]; twice {
			return nil, fmt.Errorf("the name %.40q occurs twice", key)
		}
		if len(o) == MaxMembers {
			return nil, fmt.Errorf("an object has more than %d members", MaxMembers)
		}
		if o[key], err = decodeJSONValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	return o, closing(d)
}

func decodeJSONArray(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		if len(list) == MaxMembers {
			return nil, fmt.Errorf("an array has more than %d elements", MaxMembers)
		}
		v, err := decodeJSONValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, closing(d)
}

func closing(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return errors.New("it has a syntax error")
	}
	return nil
}

func decodeNumber(n json.Number) (any, error) {
	if i, err := n.Int64(); err == nil {
		return i, nil
	}
	f, err := n.Float64()
	if err != nil {
		return nil, fmt.Errorf("the number %.40q is out of range", n.String())
	}
	return f, nil
}

// checkString refuses what a decoder would have to replace: half of a surrogate
// pair becomes U+FFFD, and two different strings would then be equal.
func checkString(s string) (string, error) {
	if len(s) > MaxString {
		return "", fmt.Errorf("a string exceeds %d octets", MaxString)
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		return "", errors.New("a string is not Unicode text")
	}
	return s, nil
}

func decodeCBOR(octets []byte) (Object, error) {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  MaxDepth,
		MaxArrayElements: MaxMembers,
		MaxMapPairs:      MaxMembers,
		IndefLength:      cbor.IndefLengthAllowed,
		TagsMd:           cbor.TagsForbidden,
		IntDec:           cbor.IntDecConvertSignedOrFail,
		DefaultMapType:   reflect.TypeFor[map[string]any](),
		NaN:              cbor.NaNDecodeForbidden,
		Inf:              cbor.InfDecodeForbidden,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	if err := mode.Unmarshal(octets, &m); err != nil {
		return nil, errors.New("it has a syntax error or exceeds a limit")
	}
	v, err := normalise(m)
	if err != nil {
		return nil, err
	}
	return v.(Object), nil
}

// normalise brings decoded CBOR to the kinds of value that JSON has.
func normalise(v any) (any, error) {
	switch t := v.(type) {
	case nil, bool, int64:
		return v, nil
	case float64:
		if math.IsNaN(t) || math.IsInf(t, 0) {
			return nil, errors.New("a number is not finite")
		}
		return t, nil
	case string:
		return checkString(t)
	case []any:
		for i := range t {
			element, err := normalise(t[i])
			if err != nil {
				return nil, err
			}
			t[i] = element
		}
		return t, nil
	case map[string]any:
		o := make(Object, len(t))
		for name, value := range t {
			key, err := checkString(name)
			if err != nil {
				return nil, err
			}
			if o[key], err = normalise(value); err != nil {
				return nil, err
			}
		}
		return o, nil
	}
	return nil, errors.New("it has a value of a kind that JSON lacks")
}
