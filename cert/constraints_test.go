package cert_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

func TestNameConstraints(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	device := func(text string) muster.CertName { return mustertest.Name(t, muster.FlavourDevice, text) }
	domain := mustertest.Name(t, muster.FlavourFQDN, "mef.sp.example")
	ae := mustertest.Name(t, muster.FlavourAEID, "//sp.example/C1/S1")
	permitDevices := func(subtrees ...string) cert.Constraints { return cert.Constraints{PermittedDevices: subtrees} }
	excludeDevices := func(subtrees ...string) cert.Constraints { return cert.Constraints{ExcludedDevices: subtrees} }
	for _, c := range []struct {
		what        string
		constraints cert.Constraints
		name        muster.CertName
		ok          bool
	}{
		{"device within", permitDevices("0.2.481.1/100"), device("0.2.481.1/100.3030.7"), true},
		{"device within the model", permitDevices("0.2.481.1/100.3030"), device("0.2.481.1/100.3030.7"), true},
		{"the device itself", permitDevices("0.2.481.1/100.3030.7"), device("0.2.481.1/100.3030.7"), true},
		{"within one of two", permitDevices("0.2.481.1/99", "0.2.481.1/100"), device("0.2.481.1/100.3030.7"), true},
		{"of another manufacturer", permitDevices("0.2.481.1/100"), device("0.2.481.1/101.3030.7"), false},
		{"arc that begins alike", permitDevices("0.2.481.1/1"), device("0.2.481.1/128.3030.7"), false},
		{"same arcs, other split", permitDevices("0.2.481/1.100"), device("0.2.481.1/100.3030.7"), true},
		{"another manufacturer by another split", permitDevices("0.2.481.1/100"), device("0.2.481/1.101.7"), false},
		{"another country", permitDevices("0.2.481.1/100"), device("0.2.410.1/100.3030.7"), false},
		{"device excluded", excludeDevices("0.2.481.1/100.3030"), device("0.2.481.1/100.3030.7"), false},
		{"device not excluded", excludeDevices("0.2.481.1/100.3031"), device("0.2.481.1/100.3030.7"), true},
		{"excluded within permitted", cert.Constraints{PermittedDevices: []string{"0.2.481.1/100"}, ExcludedDevices: []string{"0.2.481.1/100.3030"}}, device("0.2.481.1/100.3030.7"), false},
		{"module within its type", permitDevices("hwmodule:1.3.6.1.4.1.99999:"), device("hwmodule:1.3.6.1.4.1.99999:0a0b"), true},
		{"module within a prefix", permitDevices("hwmodule:1.3.6.1.4.1.99999:0a"), device("hwmodule:1.3.6.1.4.1.99999:0a0b"), true},
		{"module outside a prefix", permitDevices("hwmodule:1.3.6.1.4.1.99999:0b"), device("hwmodule:1.3.6.1.4.1.99999:0a0b"), false},
		{"module of a type below", permitDevices("hwmodule:1.3.6.1.4.1.99999:"), device("hwmodule:1.3.6.1.4.1.99999.1:0a0b"), false},
		{"module, ids constrained", permitDevices("0.2.481.1/100"), device("hwmodule:1.3.6.1.4.1.99999:0a0b"), true},
		{"domain, ids constrained", permitDevices("0.2.481.1/100"), domain, true},
		{"domain within", cert.Constraints{PermittedDomains: []string{"sp.example"}}, domain, true},
		{"domain outside", cert.Constraints{PermittedDomains: []string{"other.example"}}, domain, false},
		{"domain excluded", cert.Constraints{ExcludedDomains: []string{"sp.example"}}, domain, false},
		{"AE-ID within", cert.Constraints{PermittedDomains: []string{"sp.example"}}, ae, true},
		{"AE-ID on a host below", cert.Constraints{PermittedDomains: []string{"example.net", "m2m.sp.example"}}, mustertest.Name(t, muster.FlavourAEID, "//x.m2m.sp.example/C1"), true},
		{"AE-ID outside", cert.Constraints{PermittedDomains: []string{"other.example"}}, ae, false},
		{"AE-ID excluded", cert.Constraints{ExcludedDomains: []string{"sp.example"}}, ae, false},
		{"both kinds", cert.Constraints{PermittedDomains: []string{"sp.example"}, PermittedDevices: []string{"0.2.481.1/100"}}, device("0.2.481.1/101.1.1"), false},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			intermediate := p.NewIntermediate(t, p.Root, "Constrained", mustertest.Constrained(t, p, c.constraints))
			root := p.NewRoot(t, "Constrained Root", mustertest.Constrained(t, p, c.constraints))
			for _, issuer := range []*mustertest.Authority{intermediate, root} {
				trust := p.Trust(c.name, cert.UsageClient)
				trust.Anchors = append(trust.Anchors, root.Certificate)
				identity := p.NewLeaf(t, issuer, []muster.CertName{c.name}, nil)
				peer, findings := cert.Verify(identity.Chain, trust, p.Now)
				if c.ok && (findings.Err() != nil || peer.Name != c.name) {
					t.Errorf("%s: %v", issuer.Certificate.Subject, findings)
				}
				if !c.ok && muster.CodeOf(findings.Err()) != muster.CodeNameConstraints {
					t.Errorf("%s: %v", issuer.Certificate.Subject, findings)
				}
			}
		})
	}
}

func TestNameConstraintsBindFurtherNames(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	within, outside := mustertest.DeviceName(t, 1), mustertest.Name(t, muster.FlavourDevice, "0.2.481.1/101.1.1")
	intermediate := p.NewIntermediate(t, p.Root, "Constrained",
		mustertest.Constrained(t, p, cert.Constraints{PermittedDevices: []string{"0.2.481.1/100"}}))
	identity := p.NewLeaf(t, intermediate, []muster.CertName{within, outside}, nil)
	if _, findings := cert.Verify(identity.Chain, p.Trust(within, cert.UsageClient), p.Now); muster.CodeOf(findings.Err()) != muster.CodeNameConstraints {
		t.Errorf("%v", findings)
	}
}

func TestMissingNameConstraints(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	domain := mustertest.Name(t, muster.FlavourFQDN, "mef.example")
	trust := p.Trust(domain, cert.UsageServer)
	if findings := accepted(t, p, p.Function(t, "mef.example"), trust); !warned(findings, muster.CodeNameConstraints, cert.NoIndex) {
		t.Errorf("no warning of missing constraints: %v", findings)
	}
	trust.Profile = cert.ProfileConstrained
	if _, findings := cert.Verify(p.Function(t, "mef.example").Chain, trust, p.Now); muster.CodeOf(findings.Err()) != muster.CodeNameConstraints {
		t.Errorf("the profile that demands constraints found %v", findings)
	}
	intermediate := p.NewIntermediate(t, p.Root, "Constrained",
		mustertest.Constrained(t, p, cert.Constraints{PermittedDomains: []string{"mef.example"}}))
	if findings := accepted(t, p, p.NewLeaf(t, intermediate, []muster.CertName{domain}, nil), trust); len(findings) != 0 {
		t.Errorf("a path that conforms has findings: %v", findings)
	}
}

func TestUncheckableNameConstraints(t *testing.T) {
	t.Parallel()
	p := mustertest.NewPKI(t)
	name := mustertest.DeviceName(t, 1)
	base := func(bases ...[]byte) []byte { return der(0x30, der(0xa0, der(0x30, bases...))) }
	deviceSubtree := der(0xa0, unhex(t, "060402836101"), der(0xa0, der(0x0d, []byte{100})))
	for what, c := range map[string]struct {
		value []byte
		ok    bool
	}{
		"whole arc, empty remainder": {base(der(0xa0, unhex(t, "060402836101"), der(0xa0, der(0x0d)))), true},
		"other arc, empty remainder": {base(der(0xa0, unhex(t, "060402836102"), der(0xa0, der(0x0d)))), false},
		"another otherName":          {base(der(0xa0, unhex(t, "060a2b060104018237140203"), der(0xa0, der(0x0c, []byte("x"))))), false},
		"minimum":                    {base(deviceSubtree, der(0x80, []byte{1})), false},
		"malformed subtree":          {base(der(0xa0, unhex(t, "060402836101"), der(0xa0, der(0x0d, []byte{0x80, 1})))), false},
		"malformed module":           {base(der(0xa0, unhex(t, "06082b06010505070804"), der(0xa0, der(0x0c, []byte("x"))))), false},
		"directoryName":              {directoryConstraint(), false},
		"registeredID":               {base(der(0x88, []byte{2, 0x83, 0x61, 1})), false},
	} {
		extension := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: c.value}
		intermediate := p.NewIntermediate(t, p.Root, "Constrained", mustertest.Extension(extension))
		_, findings := cert.Verify(p.NewLeaf(t, intermediate, []muster.CertName{name}, nil).Chain, p.Trust(name, cert.UsageClient), p.Now)
		want := muster.CodeNameConstraints
		if c.ok {
			want = ""
		}
		if got := muster.CodeOf(findings.Err()); got != want {
			t.Errorf("%s: %v, want %q", what, findings, want)
		}
	}
}
