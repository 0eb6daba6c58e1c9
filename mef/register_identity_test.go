package mef

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"muster"
	"muster/cert"
)

// Whatever rules are accepted, no two devices get one Enrolee-ID: a device is a
// name under the roots of one rule. Rules, names and roots are drawn from sets
// that are so small that everything meets everything.
func TestNoTwoDevicesGetOneEnroleeID(t *testing.T) {
	roots := make([]*x509.Certificate, 3)
	for i := range roots {
		roots[i] = &x509.Certificate{RawSubjectPublicKeyInfo: []byte{byte(i)}, Subject: pkix.Name{CommonName: fmt.Sprint(i)}}
	}
	var names []muster.CertName
	for _, text := range []string{"0.2.1/1.1.1", "0.2.1/1.1.2", "0.2.1/1.2.1", "0.2.1/1.1.1.1", "0.2.1/2.1.1", "0.2.1.1/1.1.1", "0.2.2/1.1.1",
		"hwmodule:1.3.6:00", "hwmodule:1.3.6:0001", "hwmodule:1.3.6:01", "hwmodule:1.3.6.1:01"} {
		name, err := cert.ParseName(muster.FlavourDevice, text)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	patterns := []string{"*", "0.2.*", "0.2.1.*", "0.2.1/*", "0.2.1/1.*", "0.2.1/1.1.*", "0.2.1/2.*", "0.2.1/1.1.1.*", "hwmodule:*", "hwmodule:1.3.6:*", "hwmodule:1.3.6:00*", "hwmodule:1.3.6.*"}
	templates := []string{"//a.example/{name}", "//a.example/{rest}", "//a.example/{serial}", "//a.example/{model}-{serial}", "//a.example/1-{serial}",
		"//a.example/{manufacturer}-{model}-{serial}", "//b.example/{indication}/{manufacturer}-{model}-{serial}", "//b.example/{rest}", "//b.example/{type}-{serial}", "//b.example/1.3.6-{serial}"}
	written := []string{"//a.example/1", "//a.example/1-1", "//a.example/1-1-1", "//b.example/00", "//b.example/1.3.6-01", "//c.example/x"}

	random := rand.New(rand.NewPCG(1, 2))
	draw := func() (in Instruction, ok bool) {
		for i := range roots {
			if random.IntN(2) == 0 {
				in.Anchors = append(in.Anchors, roots[i])
			}
		}
		in.Targets, in.Lifetime = make([]muster.FQDN, 1), time.Hour
		in.Targets[0], _ = muster.ParseFQDN("maf.example")
		var err error
		if random.IntN(3) == 0 {
			in.Certificate = names[random.IntN(len(names))]
			in.EnroleeID, err = muster.ParseEnroleeID(written[random.IntN(len(written))])
			return in, err == nil && in.Anchors != nil
		}
		if in.Pattern, err = ParsePattern(muster.FlavourDevice, patterns[random.IntN(len(patterns))]); err != nil {
			t.Fatal(err)
		}
		in.Template, err = ParseTemplate(templates[random.IntN(len(templates))], in.Pattern)
		return in, err == nil && in.Anchors != nil
	}
	type device struct {
		name muster.CertName
		set  *anchorSet
	}
	accepted, several := 0, 0
	for range 12_000 {
		var rules Rules
		for len(rules.Instructions) < 3 {
			if in, ok := draw(); ok {
				rules.Instructions = append(rules.Instructions, in)
			}
		}
		r, err := newRegister(rules)
		if err != nil {
			continue
		}
		accepted++
		devices := map[muster.EnroleeID]device{}
		for _, name := range names {
			for _, root := range roots {
				p, _ := r.find(name, anchorOf(root))
				if p == nil {
					continue
				}
				one, err := p.instruction.of(name)
				if err != nil {
					continue
				}
				this := device{name, p.anchors}
				if other, taken := devices[one.EnroleeID]; taken && other != this {
					t.Fatalf("%v and %v are both %s by\n%v", other, this, one.EnroleeID, rules.Instructions)
				} else if taken {
					several++
				}
				devices[one.EnroleeID] = this
			}
		}
	}
	if accepted < 500 || several < 500 {
		t.Errorf("only %d sets of rules were accepted, with %d names under several roots", accepted, several)
	}
}
