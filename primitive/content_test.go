package primitive_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"muster/primitive"
)

func TestContentRefused(t *testing.T) {
	t.Parallel()
	many := strings.TrimSuffix(strings.Repeat("1,", primitive.MaxMembers+1), ",")
	for name, text := range map[string]string{
		"not an object":      `[]`,
		"null":               `null`,
		"cut off":            `{"a":`,
		"name twice":         `{"a":1,"a":2}`,
		"name twice inside":  `{"b":{"a":1,"\u0061":2}}`,
		"two values":         `{} {}`,
		"trailing octet":     `{}x`,
		"too deep":           strings.Repeat(`{"a":`, primitive.MaxDepth) + `{}` + strings.Repeat(`}`, primitive.MaxDepth),
		"array too deep":     `{"a":` + strings.Repeat(`[`, 100000/8) + strings.Repeat(`]`, 100000/8) + `}`,
		"too many elements":  `{"a":[` + many + `]}`,
		"string too long":    `{"a":"` + strings.Repeat("x", primitive.MaxString+1) + `"}`,
		"too long":           `{"a":"` + strings.Repeat(" ", primitive.MaxContent) + `"}`,
		"not UTF-8":          "{\"a\":\"\xff\"}",
		"half a pair":        `{"a":"\ud800"}`,
		"number too large":   `{"a":1e999}`,
		"comment":            `{/**/}`,
		"single quotes":      `{'a':1}`,
		"trailing comma":     `{"a":1,}`,
		"NaN":                `{"a":NaN}`,
		"leading zero":       `{"a":01}`,
		"byte order mark":    "\ufeff{}",
		"control in string":  "{\"a\":\"\x01\"}",
		"object without end": `{"a":[1}`,
	} {
		_, err := primitive.RawContent(primitive.JSON, []byte(text)).Object()
		if refusal, ok := errors.AsType[*primitive.Error](err); !ok || refusal.Status != primitive.BadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, digits := range map[string]string{
		"empty map cut off":  "a1",
		"array":              "80",
		"text":               "6161",
		"key of octets":      "a1416101",
		"key of number":      "a10101",
		"octets":             "a161614101",
		"key twice":          "a2616101616102",
		"tag":                "a16161c100",
		"simple value":       "a16161f8ff",
		"NaN":                "a16161f97e00",
		"infinity":           "a16161f97c00",
		"two values":         "a0a0",
		"not UTF-8":          "a1616161ff",
		"large unsigned":     "a161611bffffffffffffffff",
		"array of 2^32":      "a161619affffffff",
		"too deep":           strings.Repeat("a16161", primitive.MaxDepth+1) + "00",
		"indefinite cut off": "bf616101",
	} {
		octets, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		o, err := primitive.RawContent(primitive.CBOR, octets).Object()
		if refusal, ok := errors.AsType[*primitive.Error](err); !ok || refusal.Status != primitive.BadRequest {
			t.Errorf("%s: %v, %v", name, o, err)
		}
	}
}

func TestContentRoundTrip(t *testing.T) {
	t.Parallel()
	object := primitive.Object{
		"s": "text <&>", "n": int64(-1), "big": int64(1) << 60, "f": 1.5, "b": true, "z": nil,
		"l": []any{int64(1), "a", primitive.Object{}}, "o": primitive.Object{"i": []any{}},
	}
	for _, f := range []primitive.Format{primitive.JSON, primitive.CBOR} {
		octets, err := primitive.NewContent(object).Encode(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := primitive.RawContent(f, octets).Object()
		if err != nil || !reflect.DeepEqual(got, object) {
			t.Errorf("%v: %v, %v", f, got, err)
		}
	}
}

func FuzzContent(f *testing.F) {
	f.Add(true, []byte(`{"sec:macr":{"adfq":"admin.example.org","lbl":["a"],"et":"20270101T000000"}}`))
	f.Add(true, []byte(`{"a":[1,2.5,-3,null,true,{"b":"\ud83d\ude00"}]}`))
	f.Add(false, []byte{0xa1, 0x61, 'a', 0x82, 0x01, 0xf9, 0x3e, 0x00})
	f.Add(false, []byte{0xbf, 0x61, 'a', 0x7f, 0x61, 'b', 0xff, 0xff})
	wire := defaultWire(f)
	f.Fuzz(func(t *testing.T, json bool, octets []byte) {
		format, other := primitive.CBOR, primitive.JSON
		if json {
			format, other = other, format
		}
		c := primitive.RawContent(format, octets)
		for _, kind := range kinds() {
			for _, op := range []primitive.Operation{primitive.Create, primitive.Update} {
				r, err := wire.Decode(kind, op, c)
				if err != nil {
					continue
				}
				again, err := wire.Encode(r)
				if err != nil {
					t.Fatalf("%v is not encoded: %v", r, err)
				}
				if same, err := wire.Decode(kind, op, again); err != nil || !reflect.DeepEqual(r, same) {
					t.Fatalf("%v becomes %v, %v", r, same, err)
				}
			}
		}
		object, err := c.Object()
		if err != nil {
			return
		}
		for _, f := range []primitive.Format{format, other} {
			coded, err := primitive.NewContent(object).Encode(f)
			if err != nil {
				t.Fatal(err)
			}
			if len(coded) > primitive.MaxContent {
				continue
			}
			got, err := primitive.RawContent(f, coded).Object()
			if err != nil {
				t.Fatalf("%q is not read again: %v", coded, err)
			}
			recoded, err := primitive.NewContent(got).Encode(f)
			if err != nil || !bytes.Equal(coded, recoded) && f == primitive.CBOR {
				t.Fatalf("%x becomes %x, %v", coded, recoded, err)
			}
		}
	})
}
