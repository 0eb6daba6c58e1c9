package muster_test

import (
	"encoding"
	"errors"
	"strings"
	"testing"

	"muster"
)

const relative = "000102030405060708090A0B0C0D0E0F"

var accepted = map[string]map[string]string{
	"FQDN": {
		"mef.example.com": "mef.example.com", "a.b": "a.b", "xn--bcher-kva.example": "xn--bcher-kva.example", "1.2.3.4a": "1.2.3.4a",
		strings.Repeat("a", 63) + ".example": strings.Repeat("a", 63) + ".example",
	},
	"Enrolee-ID": {
		"//sp.example.com/cse-b": "//sp.example.com/cse-b", "//sp.example.com/cse1/C9": "//sp.example.com/cse1/C9",
		"//sp.example.com/\ufb01eld": "//sp.example.com/field", "//sp.example.com/cse\u00e9": "//sp.example.com/cse\u00e9",
		"//sp.example.com/csee\u0301": "//sp.example.com/cse\u00e9",
	},
	"KeID": {
		relative + "@mef.example.com":                  relative + "@mef.example.com",
		strings.ToLower(relative) + "@mef.example.com": relative + "@mef.example.com",
	},
	"KpmID": {
		"Device-01.2_b@factory.example.com":          "Device-01.2_b@factory.example.com",
		strings.Repeat("x", 64) + "@mef.example.com": strings.Repeat("x", 64) + "@mef.example.com",
	},
	"KmID": {
		"a.b_c-9@maf.example.com": "A.B_C-9@maf.example.com", relative + "@maf.example.com": relative + "@maf.example.com",
	},
	"SUID":          {"10": "10", "21": "21", "45": "45"},
	"Credential-ID": {"11-a@b.example": "11-a@b.example", "31-x_Y-z.9": "31-x_Y-z.9"},
}

var refused = map[string][]string{
	"FQDN": {"", ".", "mef", "MEF.example.com", "mef.example.com.", ".mef.example", "mef..example", "-a.example", "a-.example", "*.example.com",
		"b\u00fccher.example", "a_b.example", "10.0.0.1", "mef.example.com\x00", "mef example.com", "[::1].x", "mef.example/x", "mef@x.example",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "example"},
	"Enrolee-ID": {"", "/", "//", "//sp.example.com", "//sp.example.com/", "/cse-b", "cse-b", "///cse", "//SP.example.com/x", "//sp.example.com/a/b/c",
		"//sp.example.com//x", "//sp.example.com/../x", "//sp.example.com/.", "//sp.example.com/a b", "//sp.example.com/a\x00", "//sp.example.com/a\n",
		"//sp.example.com/\u2100", "//sp.example.com\uff0fx", "//sp.example.com/a\uff0fb\uff0fc", "//sp.example.com/a?b", "//sp.example.com/a#b", "//sp.example.com/\xff",
		"//sp.example.com/\u202ex", "//sp.example.com/" + strings.Repeat("a", 512), "//sp.example.com/" + strings.Repeat("\ufdfa", 90)},
	"KeID": {"", "@", relative, "@mef.example.com", relative + "@", relative + "@mef", relative[2:] + "@mef.example.com", "00" + relative + "@mef.example.com",
		"G" + relative[1:] + "@mef.example.com", relative + "@MEF.example.com", relative + "@x@mef.example.com", " " + relative + "@mef.example.com",
		relative + "@mef.example.com\x00"},
	"KpmID": {"", "@mef.example.com", "a", "a@b", "a b@mef.example.com", "a/b@mef.example.com", "a@b@mef.example.com", "a@MEF.example.com",
		strings.Repeat("x", 65) + "@mef.example.com"},
	"KmID": {"", "@maf.example.com", "a", "a@", "a@b", "a b@maf.example.com", "a/b@maf.example.com", "\u00e9@maf.example.com", "a@b@maf.example.com",
		strings.Repeat("a", 65) + "@maf.example.com"},
	"SUID":          {"", "9", "46", "021", "+21", "-21", "0x15", "21 ", "2\u0661", "99999999999999999999"},
	"Credential-ID": {"", "-", "11", "11-", "-a", "0-a", "100-a", "+11-a", "011-a", "11-a b", "11-a/b", "11-\u00e9", "11-" + strings.Repeat("a", 513)},
}

func parse(kind, s string) (string, error) {
	switch kind {
	case "FQDN":
		v, err := muster.ParseFQDN(s)
		return v.String(), err
	case "Enrolee-ID":
		v, err := muster.ParseEnroleeID(s)
		return v.String(), err
	case "KeID":
		v, err := muster.ParseKeID(s)
		return v.String(), err
	case "KpmID":
		v, err := muster.ParseKpmID(s)
		return v.String(), err
	case "KmID":
		v, err := muster.ParseKmID(s)
		return v.String(), err
	case "SUID":
		v, err := muster.ParseSUID(s)
		return v.String(), err
	default:
		v, err := muster.ParseCredentialID(s)
		return v.String(), err
	}
}

func TestParse(t *testing.T) {
	for kind, cases := range accepted {
		for in, want := range cases {
			if got, err := parse(kind, in); err != nil || got != want {
				t.Errorf("%s %q = %q, %v; want %q", kind, in, got, err, want)
			}
		}
	}
	for kind, cases := range refused {
		for _, in := range cases {
			if got, err := parse(kind, in); !errors.Is(err, muster.ErrSyntax) {
				t.Errorf("%s %q was read as %q, %v", kind, in, got, err)
			}
		}
	}
}

func TestEqualSpellings(t *testing.T) {
	lower := must(muster.ParseKeID(strings.ToLower(relative) + "@mef.example.com"))
	if upper := must(muster.ParseKeID(relative + "@mef.example.com")); lower != upper {
		t.Error("two spellings of one KeID differ")
	}
	if a, b := must(muster.ParseKmID("ab@maf.example.com")), must(muster.ParseKmID("AB@maf.example.com")); a != b {
		t.Error("two spellings of one KmID differ")
	}
	if a, b := must(muster.ParseEnroleeID("//sp.example.com/\ufb01")), must(muster.ParseEnroleeID("//sp.example.com/fi")); a != b {
		t.Error("two spellings of one Enrolee-ID differ")
	}
}

func TestZeroIDsPrintNothing(t *testing.T) {
	if s := (muster.KeID{}).String() + (muster.KmID{}).String() + (muster.KpmID{}).String() + (muster.FQDN{}).String() + (muster.EnroleeID{}).String() + (muster.CredentialID{}).String(); s != "" {
		t.Errorf("the zero identifiers print %q", s)
	}
}

func TestTextMarshalling(t *testing.T) {
	for text, v := range map[string]interface {
		encoding.TextMarshaler
		encoding.TextUnmarshaler
	}{
		"mef.example.com": new(muster.FQDN), "//sp.example.com/x": new(muster.EnroleeID),
		relative + "@mef.example.com": new(muster.KeID), "X@maf.example.com": new(muster.KmID), "x@factory.example.com": new(muster.KpmID),
	} {
		if err := v.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if got := must(v.MarshalText()); string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
		if v.UnmarshalText([]byte("@")) == nil {
			t.Errorf("%T accepts an at sign alone", v)
		}
	}
}

func TestLongestPSKIdentity(t *testing.T) {
	label := strings.Repeat("a", 63)
	id := relative + "@" + strings.Join([]string{label, label, label, label[:61]}, ".")
	if _, err := muster.ParseKeID(id); err != nil || len(id) != muster.MaxPSKIdentity {
		t.Errorf("%d octets: %v", len(id), err)
	}
}

func FuzzParse(f *testing.F) {
	for kind, cases := range accepted {
		for in := range cases {
			f.Add(kind, in)
		}
	}
	for kind, cases := range refused {
		for _, in := range cases {
			f.Add(kind, in)
		}
	}
	f.Fuzz(func(t *testing.T, kind, in string) {
		out, err := parse(kind, in)
		if err != nil {
			if !errors.Is(err, muster.ErrSyntax) {
				t.Errorf("%s %q: the error is no ErrSyntax: %v", kind, in, err)
			}
			return
		}
		if again, err := parse(kind, out); err != nil || again != out {
			t.Errorf("%s %q became %q became %q, %v", kind, in, out, again, err)
		}
	})
}
