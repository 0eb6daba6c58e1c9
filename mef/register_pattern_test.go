package mef_test

import (
	"errors"
	"strings"
	"testing"

	"muster"
	"muster/cert"
	"muster/mef"
	"muster/mustertest"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		flavour       muster.Flavour
		pattern       string
		in, out       string // names, separated by spaces
		canonicalised string
	}{
		{muster.FlavourDevice, "*", "0.2.481.1/1.2.3 hwmodule:1.3.6:00", "", ""},
		{muster.FlavourDevice, "0.2.481.*", "0.2.481.1/1.2.3 0.2.481.1.1/1.2.3", "0.2.48.1/1.2.3 0.2.4811.1/1.2.3 hwmodule:1.3.6:00", ""},
		{muster.FlavourDevice, "0.2.481.1/*", "0.2.481.1/1.2.3", "0.2.481.1.1/1.2.3 0.2.481.11/1.2.3", ""},
		{muster.FlavourDevice, "0.2.481.1/100.*", "0.2.481.1/100.2.3 0.2.481.1/100.2.3.4", "0.2.481.1/1001.2.3 0.2.481.1.100/1.2.3", ""},
		{muster.FlavourDevice, "0.2.481.1/100.30.*", "0.2.481.1/100.30.3", "0.2.481.1/100.3.30 0.2.481.1/100.301.3", ""},
		{muster.FlavourDevice, "0.2.481.1/100.30.7.*", "0.2.481.1/100.30.7.1", "0.2.481.1/100.30.7", ""},
		{muster.FlavourDevice, "hwmodule:*", "hwmodule:1.3.6.1:00 hwmodule:2.5.4:01", "0.2.481.1/1.2.3", ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.*", "hwmodule:1.3.6.1:00", "hwmodule:1.3.6:00 hwmodule:1.3.61.1:00", ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.1:*", "hwmodule:1.3.6.1:00", "hwmodule:1.3.6.1.1:00", ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.1:0A0b*", "hwmodule:1.3.6.1:0a0b0c", "hwmodule:1.3.6.1:0a0b hwmodule:1.3.6.1:0a", "device:hwmodule:1.3.6.1:0a0b*"},
		{muster.FlavourFQDN, "*.Region.example", "gw.region.example a.b.region.example", "region.example xregion.example region.example.com", "fqdn:*.region.example"},
		{muster.FlavourCSEID, "*.region.example", "gw.region.example", "region.example", ""},
		{muster.FlavourNodeID, "*.region.example", "gw.region.example", "region.example urn:x.region.example", ""},
		{muster.FlavourNodeID, "urn:dev:*", "urn:dev:1", "urn:device:1", ""},
		{muster.FlavourNodeID, "*", "urn:dev:1 gw.region.example", "", ""},
		{muster.FlavourAEID, "//sp.example/*", "//sp.example/C1 //sp.example/C1/S2", "//sp.example.com/C1 m2m://sp.example/C1", ""},
		{muster.FlavourAEID, "m2m://sp.example/C1/*", "m2m://sp.example/C1/S2", "m2m://sp.example/C12/S2 //sp.example/C1/S2", ""},
	} {
		p, err := mef.ParsePattern(c.flavour, c.pattern)
		if err != nil {
			t.Errorf("%s %s: %v", c.flavour, c.pattern, err)
			continue
		}
		if want := c.canonicalised; want != "" && p.String() != want || want == "" && p.String() != string(c.flavour)+":"+c.pattern {
			t.Errorf("%s %s is %s", c.flavour, c.pattern, p)
		}
		for text := range strings.FieldsSeq(c.in) {
			if !p.Covers(must(cert.ParseName(c.flavour, text))) {
				t.Errorf("%s does not cover %s", p, text)
			}
		}
		for text := range strings.FieldsSeq(c.out) {
			if p.Covers(must(cert.ParseName(c.flavour, text))) {
				t.Errorf("%s covers %s", p, text)
			}
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for flavour, patterns := range map[muster.Flavour]string{
		muster.FlavourDevice: "0.2.481.1 0.2.481.1/1.2.3 ** *.* 0.2.481* 0.2.481.1/100* 0.2.481.1/100.3.7* 0.2.481.1/1.2.3.4.* x.* 0.2.01.* 9.* " +
			"hwmodule:1.3.6.1:0* hwmodule:1.3.6.1:0g* hwmodule* hwmodule:1.3.6.1* *.example hwmodule:1.3.6.1:*0a 0.2.481.1//*",
		muster.FlavourFQDN:   "region.example *region.example gw*.region.example gw.*.example *.region.example. *.-x.example gw.* *.*.example *. .*",
		muster.FlavourNodeID: "urn:dev* //* http://* http://*.example/ http://gw.*",
		muster.FlavourAEID:   "sp.example/* //sp.example* //* ///* m2m://* //sp.example/C1* *.sp.example //sp.example/\x00*",
		muster.FlavourRawKey: "* ni:///sha-256;*",
		"tape":               "* *.example",
	} {
		for pattern := range strings.SplitSeq(patterns, " ") {
			if p, err := mef.ParsePattern(flavour, pattern); err == nil {
				t.Errorf("%s %q is %s", flavour, pattern, p)
			} else if !errors.Is(err, muster.ErrSyntax) {
				t.Errorf("%s %q: %v", flavour, pattern, err)
			}
		}
	}
	if _, err := mef.ParsePattern(muster.FlavourFQDN, "*."+strings.Repeat("a.", 150)+"example"); err == nil {
		t.Error("a pattern of more than 255 octets is accepted")
	}
}

func TestTemplates(t *testing.T) {
	for _, c := range []struct {
		flavour                       muster.Flavour
		pattern, template, name, want string // want is "" for a template that is refused
	}{
		{muster.FlavourDevice, "0.2.481.1/100.*", "//sp.example/{model}-{serial}", "0.2.481.1/100.3.7", "//sp.example/3-7"},
		{muster.FlavourDevice, "0.2.481.1/100.*", "//sp.example/{model}-{serial}", "0.2.481.1/100.3.7.9", "//sp.example/3-7.9"},
		{muster.FlavourDevice, "0.2.481.1/100.*", "//sp.example/{serial}.{model}", "", ""}, // 7.9.3: serial 7.9?
		{muster.FlavourDevice, "0.2.481.1/100.*", "//sp.example/{model}{serial}", "", ""},
		{muster.FlavourDevice, "0.2.481.1/100.*", "//sp.example/{model}0{serial}", "", ""},
		{muster.FlavourDevice, "0.2.481.1/100.*", "//sp.example/{model}.{serial}", "0.2.481.1/100.3.7", "//sp.example/3.7"},
		{muster.FlavourDevice, "0.2.481.1/100.*", "//sp.example/{serial}", "", ""},
		{muster.FlavourDevice, "0.2.481.1/100.3.*", "//sp.example/{serial}", "0.2.481.1/100.3.7", "//sp.example/7"},
		{muster.FlavourDevice, "0.2.481.1/100.3.7.*", "//sp.example/x{serial}", "0.2.481.1/100.3.7.1", "//sp.example/x7.1"},
		{muster.FlavourDevice, "0.2.481.*", "//sp.example/{indication}-{manufacturer}-{model}-{serial}", "0.2.481.1/100.3.7", "//sp.example/0.2.481.1-100-3-7"},
		{muster.FlavourDevice, "0.2.481.*", "//sp.example/{manufacturer}-{model}-{serial}", "", ""},
		{muster.FlavourDevice, "0.2.481.*", "//sp.example/{rest}", "0.2.481.1/100.3.7", "//sp.example/1/100.3.7"},
		{muster.FlavourDevice, "0.2.481.1/*", "//sp.example/{rest}x", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/{serial}", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/{name}", "hwmodule:1.3.6:0a", "//sp.example/hwmodule:1.3.6:0a"},
		{muster.FlavourDevice, "hwmodule:1.3.6.1:*", "//sp.example/m-{serial}", "hwmodule:1.3.6.1:0a", "//sp.example/m-0a"},
		{muster.FlavourDevice, "hwmodule:1.3.6.1:00*", "//sp.example/m-{rest}", "hwmodule:1.3.6.1:000a", "//sp.example/m-0a"},
		{muster.FlavourDevice, "hwmodule:1.3.6.*", "//sp.example/m-{serial}", "", ""},
		{muster.FlavourDevice, "hwmodule:1.3.6.*", "//sp.example/{type}-{serial}", "hwmodule:1.3.6.1:0a", "//sp.example/1.3.6.1-0a"},
		{muster.FlavourDevice, "hwmodule:1.3.6.*", "//sp.example/{serial}d{type}", "", ""},
		{muster.FlavourFQDN, "*.region.example", "//sp.example/{rest}", "gw.a.region.example", "//sp.example/gw.a"},
		{muster.FlavourFQDN, "*.region.example", "//{name}/cse", "gw.region.example", "//gw.region.example/cse"},
		{muster.FlavourFQDN, "*.region.example", "//{rest}.sp.example/cse", "", ""},
		{muster.FlavourFQDN, "*.region.example", "//sp.example/fixed", "", ""},
		{muster.FlavourNodeID, "urn:dev:*", "//sp.example/{rest}", "urn:dev:1", "//sp.example/1"},
		{muster.FlavourAEID, "//sp.example/*", "{id}", "//sp.example/C1", "//sp.example/C1"},
		{muster.FlavourAEID, "m2m://sp.example/*", "{id}", "m2m://sp.example/C1", "//sp.example/C1"},
		{muster.FlavourAEID, "*", "{id}", "", ""},
		{muster.FlavourAEID, "//sp.example/*", "//other.example/{rest}", "//sp.example/C1", "//other.example/C1"},
		{muster.FlavourAEID, "//sp.example/*", "//other.example/{rest}{id}", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/{name", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/name}", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/{}", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/{Name}", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/\u00e9{name}", "", ""},
		{muster.FlavourDevice, "*", "sp.example/{name}", "", ""},
		{muster.FlavourDevice, "*", "//sp.example/a/b/{name}", "", ""},
		{muster.FlavourDevice, "*", "", "", ""},
		{muster.FlavourDevice, "0.2.481.1/*", "//sp.example/{model}-{model}-{manufacturer}-{serial}", "", ""},
	} {
		p := must(mef.ParsePattern(c.flavour, c.pattern))
		template, err := mef.ParseTemplate(c.template, p)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s for %s is accepted", c.template, p)
			} else if !errors.Is(err, muster.ErrSyntax) {
				t.Errorf("%s for %s: %v", c.template, p, err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if id, err := template.Form(must(cert.ParseName(c.flavour, c.name))); err != nil || id.String() != c.want {
			t.Errorf("%s for %s forms %s of %s, %v; want %s", c.template, p, id, c.name, err, c.want)
		}
	}
	p := must(mef.ParsePattern(muster.FlavourDevice, "0.2.481.1/*"))
	if id, err := must(mef.ParseTemplate("//sp.example/{rest}", p)).Form(deviceNamed("0.2.482.1/1.2.3")); err == nil {
		t.Errorf("a name that is not covered is %s", id)
	}
}

// Whatever a pattern and a template are: the pattern prints as it parses, and two
// names that it covers never give one identifier.
func FuzzTemplate(f *testing.F) {
	f.Add("device", "0.2.481.1/100.*", "//sp.example/{model}-{serial}", "0.2.481.1/100.3.7", "0.2.481.1/100.3.7.1")
	f.Add("device", "0.2.481.*", "//sp.example/{indication}-{manufacturer}.{model}.{serial}", "0.2.481.1/1.2.3", "0.2.481.1.1/2.3.4")
	f.Add("device", "hwmodule:1.3.*", "//sp.example/{type}-{serial}", "hwmodule:1.3.6:0a", "hwmodule:1.3.6.0:0a")
	f.Add("fqdn", "*.region.example", "//sp.example/{rest}", "a.region.example", "a.b.region.example")
	f.Add("ae-id", "m2m://sp.example/*", "{id}", "m2m://sp.example/C1", "m2m://sp.example/C2")
	f.Add("node-id", "*", "//sp.example/{name}", "urn:a:b", "gw.example.com")
	f.Fuzz(func(t *testing.T, flavour, pattern, template, one, other string) {
		p, err := mef.ParsePattern(muster.Flavour(flavour), pattern)
		if err != nil {
			return
		}
		_, text, _ := strings.Cut(p.String(), ":")
		if again, err := mef.ParsePattern(muster.Flavour(flavour), text); err != nil || again != p {
			t.Fatalf("%s parses as %s, %v", p, again, err)
		}
		parsed, err := mef.ParseTemplate(template, p)
		if err != nil {
			return
		}
		a, errA := cert.ParseName(muster.Flavour(flavour), one)
		b, errB := cert.ParseName(muster.Flavour(flavour), other)
		if errA != nil || errB != nil || a == b {
			return
		}
		idA, errA := parsed.Form(a)
		idB, errB := parsed.Form(b)
		if errA == nil && errB == nil && idA == idB {
			t.Fatalf("%s for %s gives %s for %s and %s", parsed, p, idA, a, b)
		}
	})
}

// TestTakes asks which instructions decide about devices of a group.
func TestTakes(t *testing.T) {
	pki := mustertest.NewPKI(t)
	roots := pki.Trust(mustertest.Name(t, muster.FlavourFQDN, "device.example.com"), 0).Anchors
	others := mustertest.NewPKI(t).Trust(mustertest.Name(t, muster.FlavourFQDN, "device.example.com"), 0).Anchors
	group := mef.Instruction{Pattern: must(mef.ParsePattern(muster.FlavourDevice, "0.2.481.1/100.*")), Anchors: roots}
	named := func(name string) mef.Instruction {
		return mef.Instruction{Certificate: must(cert.ParseName(muster.FlavourDevice, name)), Anchors: roots}
	}
	patterned := func(pattern string) mef.Instruction {
		return mef.Instruction{Pattern: must(mef.ParsePattern(muster.FlavourDevice, pattern)), Anchors: roots}
	}
	for _, in := range []mef.Instruction{named("0.2.481.1/100.3.7"), patterned("0.2.481.1/100.*"), patterned("0.2.481.1/100.3.*")} {
		if !in.Takes(&group) {
			t.Errorf("%s takes nothing", &in)
		}
		if in.Anchors = others; in.Takes(&group) {
			t.Errorf("%s takes something under another root", &in)
		}
	}
	for _, in := range []mef.Instruction{named("0.2.481.1/101.3.7"), patterned("0.2.481.1/101.*"), patterned("0.2.481.*"), patterned("*"), {KpmIDs: make([]muster.KpmID, 1)}} {
		if in.Takes(&group) {
			t.Errorf("%s takes something", &in)
		}
	}
}
