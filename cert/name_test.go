package cert_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flavour    muster.Flavour
		text, want string // want is empty for what is refused
	}{
		{muster.FlavourDevice, "0.2.481.1/100.3030.10011", "0.2.481.1/100.3030.10011"},
		{muster.FlavourDevice, "0.2.481.1/100.3030.10011.5", "0.2.481.1/100.3030.10011.5"},
		{muster.FlavourDevice, "0.2.481.1/0.0.0", "0.2.481.1/0.0.0"},
		{muster.FlavourDevice, "0.2.481.1.100.3030.10011", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3030", ""},
		{muster.FlavourDevice, "0.2.481.1/1.2.3.4.5", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3030.010011", ""},
		{muster.FlavourDevice, "0.2.0481.1/100.3030.10011", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3030.-1", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3030.", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3030.1/2", ""},
		{muster.FlavourDevice, "0.40.1/100.3030.1", ""},
		{muster.FlavourDevice, "3.1/100.3030.1", ""},
		{muster.FlavourDevice, "/100.3030.10011", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3030.*", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3030." + strings.Repeat("9", 200), ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1:0a0b0c", "hwmodule:1.3.6.1.4.1.99999.1:0a0b0c"},
		{muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1:0A0b0C", "hwmodule:1.3.6.1.4.1.99999.1:0a0b0c"},
		{muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1:", ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1:0a0", ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1", ""},
		{muster.FlavourDevice, "hwmodule:1:0a", ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.1.4.1.99999.1:" + strings.Repeat("00", 65), ""},
		{muster.FlavourNodeID, "urn:imei:356938035643809", "urn:imei:356938035643809"},
		{muster.FlavourNodeID, "Node-7.SP.example", "node-7.sp.example"},
		{muster.FlavourNodeID, "node 7", ""},
		{muster.FlavourNodeID, "//sp.example/N7", ""},
		{muster.FlavourNodeID, ":7", ""},
		{muster.FlavourCSEID, "CSE-7.sp.example", "cse-7.sp.example"},
		{muster.FlavourCSEID, "*.sp.example", ""},
		{muster.FlavourCSEID, "/CSE7", ""},
		{muster.FlavourAEID, "//sp.example/CSE7/S1", "//sp.example/CSE7/S1"},
		{muster.FlavourAEID, "M2M://SP.example/C7%2fS1", "M2M://SP.example/C7%2fS1"},
		{muster.FlavourAEID, "//sp.example/*", ""},
		{muster.FlavourAEID, "sp.example/CSE7/S1", ""},
		{muster.FlavourAEID, "/CSE7/S1", ""},
		{muster.FlavourAEID, "//", ""},
		{muster.FlavourAEID, "m2m:", ""},
		{muster.FlavourAEID, "m2m:///", ""},
		{muster.FlavourAEID, "7m:x", ""},
		{muster.FlavourAEID, "//sp.example/C7%2", ""},
		{muster.FlavourAEID, "//sp.example/C7 ", ""},
		{muster.FlavourAEID, "//sp.example/C\u00e9", ""},
		{muster.FlavourAEID, "//sp.example/C7\x00", ""},
		{muster.FlavourAEID, "//sp.example/" + strings.Repeat("x", 1024), ""},
		{muster.FlavourFQDN, "MEF.SP.example", "mef.sp.example"},
		{muster.FlavourFQDN, "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{muster.FlavourFQDN, "b\u00fccher.example", ""},
		{muster.FlavourFQDN, "\u212aelvin.example", ""}, // KELVIN SIGN, which Unicode folds to k
		{muster.FlavourFQDN, "mef.example.", ""},
		{muster.FlavourFQDN, "mef", ""},
		{muster.FlavourFQDN, "https://mef.example", ""},
		{muster.FlavourFQDN, "", ""},
		{"", "mef.example", ""},
		{"mef", "mef.example", ""},
	} {
		name, err := cert.ParseName(c.flavour, c.text)
		switch {
		case c.want == "" && !errors.Is(err, muster.ErrSyntax):
			t.Errorf("%s %q: %v, %v; want a syntax error", c.flavour, c.text, name, err)
		case c.want == "" && !name.IsZero():
			t.Errorf("%s %q: %v beside an error", c.flavour, c.text, name)
		case c.want != "" && (err != nil || name != muster.CertName{Flavour: c.flavour, Text: c.want}):
			t.Errorf("%s %q: %v, %v; want %q", c.flavour, c.text, name, err, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	device := mustertest.DeviceName(t, 7)
	domain := func(text string) []muster.CertName {
		return []muster.CertName{{Flavour: muster.FlavourFQDN, Text: text}, {Flavour: muster.FlavourCSEID, Text: text}, {Flavour: muster.FlavourNodeID, Text: text}}
	}
	uri := func(text string) []muster.CertName {
		return []muster.CertName{{Flavour: muster.FlavourAEID, Text: text}, {Flavour: muster.FlavourNodeID, Text: text}}
	}
	ae := func(text string) muster.CertName { return mustertest.Name(t, muster.FlavourAEID, text) }
	for _, c := range []struct {
		name string
		flaw mustertest.Flaw
		want []muster.CertName
	}{
		{"device", mustertest.Names(device), []muster.CertName{device}},
		{"domain", mustertest.Domains("Cse.Example"), domain("cse.example")},
		{"two spellings of a domain", mustertest.Domains("Cse.Example", "cse.example"), domain("cse.example")},
		{"wildcard and single label", mustertest.Domains("*.example", "localhost"), nil},
		{"common name", mustertest.CommonNameOnly("mef.example"), nil},
		{"URI", mustertest.Names(ae("m2m://sp.example/C1")), uri("m2m://sp.example/C1")},
		{"bare URI", mustertest.Names(ae("//sp.example/C1")), []muster.CertName{ae("//sp.example/C1")}},
		{"URI of a domain", mustertest.Names(ae("https://MEF.example/")),
			append(uri("https://MEF.example/"), muster.CertName{Flavour: muster.FlavourFQDN, Text: "mef.example"})},
		{"URI with a port", mustertest.Names(ae("https://mef.example:443/")), uri("https://mef.example:443/")},
		{"URI with a path", mustertest.Names(ae("https://mef.example/x")), uri("https://mef.example/x")},
		{"several", mustertest.Names(device, ae("//sp.example/C1")), []muster.CertName{device, ae("//sp.example/C1")}},
	} {
		got, err := cert.Names(p.Enrolee(t, device, c.flaw).Leaf())
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}

func TestFQDNByURI(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.Name(t, muster.FlavourFQDN, "mef.example")
	trust := p.Trust(name, cert.UsageServer)
	accepted(t, p, p.Function(t, "mef.example", mustertest.Names(mustertest.Name(t, muster.FlavourAEID, "coaps://mef.example"))), trust)
}

func TestRawKey(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	key, other := p.Root.Certificate.RawSubjectPublicKeyInfo, p.OtherRoot.Certificate.RawSubjectPublicKeyInfo
	names := cert.RawKeyNames(key)
	if len(names) != 3 {
		t.Fatalf("%d names", len(names))
	}
	for _, name := range names {
		if parsed := mustertest.Name(t, name.Flavour, name.Text); parsed != name {
			t.Errorf("%v is read as %v", name, parsed)
		}
		if !cert.MatchRawKey(name, key) || cert.MatchRawKey(name, other) {
			t.Errorf("%v does not match its key only", name)
		}
		if cert.MatchRawKey(muster.CertName{Flavour: muster.FlavourAEID, Text: name.Text}, key) {
			t.Errorf("%v matches under another flavour", name)
		}
	}
	if cert.MatchRawKey(muster.CertName{Flavour: muster.FlavourRawKey}, key) {
		t.Error("an empty digest matches")
	}
}

func TestRawKeyDigests(t *testing.T) {
	t.Parallel()
	// The SHA-256 of the empty string, cut by hand.
	want := []string{
		"ni:///sha-256;47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
		"ni:///sha-256-128;47DEQpj8HBSa-_TImW-5JA",
		"ni:///sha-256-120;47DEQpj8HBSa-_TImW-5",
	}
	for i, name := range cert.RawKeyNames(nil) {
		if name.Text != want[i] {
			t.Errorf("%s, want %s", name.Text, want[i])
		}
	}
	for _, text := range []string{
		"", "ni:///", "ni:///sha-256", "ni:///sha-256;",
		"ni:///sha-256;47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
		"ni:///sha-256;47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
		"ni:///sha-256;47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFV", // other spare bits
		"ni:///sha-256-128;47DEQpj8HBSa-_TImW-5",
		"ni:///sha-256-32;47DEQg",
		"ni://example.com/sha-256-120;47DEQpj8HBSa-_TImW-5",
		"ni:///sha-256-120;47DEQpj8HBSa-_TImW-5?ct=x",
		"NI:///sha-256-120;47DEQpj8HBSa-_TImW-5",
		"ni:///sha-256-120;47DEQpj8HBSa-_TIm\nW-5",
	} {
		if name, err := cert.ParseName(muster.FlavourRawKey, text); err == nil {
			t.Errorf("%q is read as %v", text, name)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, name := range goodNames(f) {
		f.Add(string(name.Flavour), name.Text)
	}
	for _, name := range cert.RawKeyNames(nil) {
		f.Add(string(name.Flavour), name.Text)
	}
	p := mustertest.NewPKI(f)
	f.Fuzz(func(t *testing.T, flavour, text string) {
		name, err := cert.ParseName(muster.Flavour(flavour), text)
		if err != nil {
			return
		}
		again, err := cert.ParseName(name.Flavour, name.Text)
		if err != nil || again != name {
			t.Fatalf("%q is read as %v and then %v, %v", text, name, again, err)
		}
		if name.Flavour == muster.FlavourRawKey {
			return
		}
		extension, err := cert.SubjectAltName(name)
		if err != nil {
			t.Fatalf("%v does not go into a certificate: %v", name, err)
		}
		leaf := *p.Root.Certificate
		leaf.Extensions = append(leaf.Extensions[:len(leaf.Extensions):len(leaf.Extensions)], extension)
		if names, err := cert.Names(&leaf); err != nil || !slices.Contains(names, name) {
			t.Fatalf("%v comes out of a certificate as %v, %v", name, names, err)
		}
	})
}
