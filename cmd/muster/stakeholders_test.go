package main

import (
	"testing"

	"muster"
	"muster/tef"
)

func TestStakeholders(t *testing.T) {
	t.Parallel()
	admin, err := muster.ParseFQDN("admin.lab.example")
	must(t, err)
	one, err := muster.ParseEnroleeID("//sp.lab.example/one")
	must(t, err)
	two, err := muster.ParseEnroleeID("//sp.lab.example/two")
	must(t, err)
	all, err := stakeholders([]stakeholderConfig{
		{FQDN: admin, Clients: []muster.EnroleeID{one}, Keys: []keyConfig{{SUID: 32, Targets: []string{two.String()}}}},
		{FQDN: admin},
	})
	must(t, err)
	if !all[0].Admits(one) || all[0].Admits(two) || all[1].Admits != nil || all[1].Configuration != nil {
		t.Error("the wrong clients are admitted")
	}
	wanted, ok := all[0].Configuration(one)
	if !ok || len(wanted.Keys) != 1 || wanted.Keys[0].Usage != tef.SUIDMAFForSAEF || wanted.Keys[0].Targets[0] != two.String() {
		t.Errorf("configured %+v", wanted)
	}
	for _, bad := range []stakeholderConfig{{}, {FQDN: admin, Keys: []keyConfig{{SUID: 11}}}} {
		_, err := stakeholders([]stakeholderConfig{bad})
		wantCode(t, err, muster.CodeConfiguration)
	}
}
