package tef_test

import (
	"reflect"
	"testing"
	"time"

	"muster"
	"muster/primitive"
	"muster/tef"
)

// twoStakeholders are one that admits a alone and wants a key of it, and one that
// admits everybody and wants nothing.
func twoStakeholders(targets ...string) []tef.Stakeholder {
	return []tef.Stakeholder{
		{
			FQDN:   must(muster.ParseFQDN("one.example.com")),
			Admits: func(id muster.EnroleeID) bool { return id == client("a").ID },
			Configuration: func(id muster.EnroleeID) (tef.ClientConfiguration, bool) {
				return tef.ClientConfiguration{
					Labels: []string{"x"}, Expires: now.Add(time.Hour), HTTPPort: 443, CoAPPort: 5684, WebSocketPort: 65535,
					Keys: []tef.KeyConfiguration{
						{Usage: tef.SUIDMAFForSAEF, Targets: targets, Labels: []string{"y"}, Expires: now.Add(time.Minute)},
						{Usage: tef.SUIDMAFForESPrim},
					},
				}, id == client("a").ID
			},
		},
		{FQDN: must(muster.ParseFQDN("two.example.com"))},
	}
}

func TestConfiguration(t *testing.T) {
	for _, party := range []tef.Party{tef.MAF(), tef.MEF()} {
		for _, format := range []primitive.Format{primitive.JSON, primitive.CBOR} {
			d := newDesk(t, party)
			d.format, d.service.Stakeholders = format, twoStakeholders("//sp.example.com/b")
			_, q := d.call(d.source("a"))
			one := must(q.Register(t.Context(), tef.ClientRegistration{AdminFQDN: d.service.Stakeholders[0].FQDN}))
			two := must(q.Register(t.Context(), tef.ClientRegistration{AdminFQDN: d.service.Stakeholders[1].FQDN}))
			if one.ID == two.ID {
				t.Error("two stakeholders share a registration")
			}
			got, err := q.Configuration(t.Context(), one.ID)
			want, _ := d.service.Stakeholders[0].Configuration(client("a").ID)
			want.Function, want.AdminFQDN = d.service.FQDN, d.service.Stakeholders[0].FQDN
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("configured\n%+v, %v, want\n%+v", got, err, want)
			}
			_, err = q.Configuration(t.Context(), two.ID)
			wantRefusal(t, "a stakeholder without a wish", err, primitive.NotFound)
			line, _ := d.call(d.source("a"))
			response := must(line.Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: d.service.Wire.To(one.ID, "cfg"), From: line.client.Identity, RequestID: "1"}))
			if response.Status != primitive.OperationNotAllowed {
				t.Errorf("deletion of a configuration: %v", response.Status)
			}
		}
	}
}

func TestStakeholdersAdmitWhomTheyWant(t *testing.T) {
	d := newDesk(t, tef.MAF())
	d.service.Stakeholders = twoStakeholders("//sp.example.com/b")
	_, b := d.call(client("b"))
	_, err := b.Register(t.Context(), tef.ClientRegistration{AdminFQDN: d.service.Stakeholders[0].FQDN})
	wantRefusal(t, "one that does not admit b", err, primitive.OriginatorHasNoPrivilege)
	must(b.Register(t.Context(), tef.ClientRegistration{AdminFQDN: d.service.Stakeholders[1].FQDN}))

	_, a := d.call(client("a"))
	r := must(a.Register(t.Context(), tef.ClientRegistration{AdminFQDN: d.service.Stakeholders[0].FQDN}))
	d.service.Stakeholders[0].Admits = func(muster.EnroleeID) bool { return false }
	_, err = a.UpdateRegistration(t.Context(), r.ID, []string{"x"}, time.Time{})
	wantRefusal(t, "an update after the stakeholder changed its mind", err, primitive.OriginatorHasNoPrivilege)
	if err := a.Deregister(t.Context(), r.ID); err != nil {
		t.Errorf("de-registration after that: %v", err)
	}
}

func TestConfiguredTargetsServeARequestWithoutAny(t *testing.T) {
	d := newDesk(t, tef.MAF())
	d.service.Stakeholders = twoStakeholders("//sp.example.com/b")
	_, q := d.call(d.source("a"))
	must(q.Register(t.Context(), tef.ClientRegistration{AdminFQDN: d.service.Stakeholders[0].FQDN}))
	wanted := kc()
	wanted.AdminFQDN = d.service.Stakeholders[0].FQDN
	made := must(q.RegisterKey(t.Context(), wanted))
	if len(made.Targets) != 1 || made.Targets[0] != "//sp.example.com/b" {
		t.Errorf("registered for %v", made.Targets)
	}
	wanted.Usage, wanted.Key = tef.SUIDMAFForESPrim, ownKey()
	_, err := q.RegisterKey(t.Context(), wanted)
	wantRefusal(t, "a usage for which no target is configured", err, primitive.BadRequest)
}

func FuzzParseConfiguration(f *testing.F) {
	wire := must(primitive.NewWire(primitive.WireConfig{}))
	f.Add([]byte(`{"sec:ccfg":{"fq":"maf.example.com","adfq":"a.example.com","hpt":443,"krc":[{"SUID":32,"targetIDs":["x"],"labels":["y"],"expirationTime":"20300101T000000"}]}}`))
	f.Add([]byte(`{"sec:ccfg":{"fq":"maf.example.com","adfq":"a.example.com","hpt":70000}}`))
	f.Add([]byte(`{"sec:ccfg":{"fq":"maf.example.com","adfq":"a.example.com","krc":[{"SUID":-1}]}}`))
	f.Fuzz(func(t *testing.T, octets []byte) {
		c, err := tef.ParseConfiguration(wire, &primitive.Response{Status: primitive.OK, Content: primitive.RawContent(primitive.JSON, octets)})
		if err == nil && (c.Function.IsZero() || c.AdminFQDN.IsZero() || c.HTTPPort < 0 || c.HTTPPort > 65535) {
			t.Errorf("read as %+v", c)
		}
	})
}
