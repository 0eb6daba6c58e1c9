package tef_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/primitive"
	"muster/tef"
)

func ownKey() muster.Kc { return must(muster.NewKc(bytes.Repeat([]byte("k"), muster.KeySize))) }

// kc is a key registration for a target of security association establishment.
func kc(targets ...string) tef.KeyRegistration {
	return tef.KeyRegistration{AdminFQDN: admin(), Usage: tef.SUIDMAFForSAEF, Targets: targets}
}

func TestKeyFromSourceToTarget(t *testing.T) {
	for name, key := range map[string]muster.Kc{"exported": {}, "brought": ownKey()} {
		for _, format := range []primitive.Format{primitive.JSON, primitive.CBOR} {
			t.Run(name+" "+format.String(), func(t *testing.T) {
				d := newDesk(t, tef.MAF())
				d.format = format
				a, _, source := d.registered("a")
				_, target := d.call(client("b"))
				wanted := kc("//sp.example.com/b")
				wanted.Key, wanted.Labels = key, []string{"x"}
				made, err := source.RegisterKey(t.Context(), wanted)
				if err != nil {
					t.Fatal(err)
				}
				if !made.Key.IsZero() || made.Source != a.ID || !slices.Equal(made.Targets, wanted.Targets) || !made.Expires.Equal(a.Expires) || made.ID.Function() != d.service.FQDN {
					t.Errorf("registered %+v", made)
				}
				got, err := target.RetrieveKey(t.Context(), made.ID)
				if err != nil {
					t.Fatal(err)
				}
				relative, want := exported("a")
				if name == "brought" {
					want = key
				} else if made.ID.Relative() != relative {
					t.Errorf("the identifier is %s, not what both ends exported", made.ID)
				}
				if !got.Key.Equal(want) || got.Source != a.ID || got.Usage != tef.SUIDMAFForSAEF || got.Targets != nil || len(got.Labels) != 1 {
					t.Errorf("retrieved %+v", got)
				}
			})
		}
	}
}

func TestSourceDoesNotGetItsKeyBack(t *testing.T) {
	d := newDesk(t, tef.MAF())
	_, line, source := d.registered("a")
	made := must(source.RegisterKey(t.Context(), kc("//sp.example.com/b")))
	if _, err := source.RetrieveKey(t.Context(), made.ID); err == nil {
		t.Error("the source got the key")
	}
	response := must(line.Do(t.Context(), &primitive.Request{Operation: primitive.Retrieve, To: d.service.Wire.To(keyName(made.ID)), From: line.client.Identity, RequestID: "1"}))
	got := must(tef.ParseKey(d.service.Wire, d.service.FQDN, response))
	if !slices.Equal(got.Targets, made.Targets) || !got.Key.IsZero() {
		t.Errorf("the source sees %+v", got)
	}
}

func keyName(id tef.KeyID) string { name, _, _ := strings.Cut(id.String(), "@"); return name }

func TestSecondExportIsAConflict(t *testing.T) {
	d := newDesk(t, tef.MAF())
	_, _, source := d.registered("a")
	must(source.RegisterKey(t.Context(), kc("//sp.example.com/b")))
	_, err := source.RegisterKey(t.Context(), kc("//sp.example.com/b"))
	wantRefusal(t, "from the same session", err, primitive.Conflict)

	again := d.source("a") // a session that exports what another one did
	_, q := d.call(again)
	if _, err := q.RegisterKey(t.Context(), kc("//sp.example.com/b")); err != nil {
		t.Errorf("a replay: %v", err)
	}
	thief := d.source("a")
	thief.ID, thief.Identity = client("c").ID, client("c").Identity
	_, q = d.call(thief)
	must(q.Register(t.Context(), tef.ClientRegistration{AdminFQDN: admin()}))
	_, err = q.RegisterKey(t.Context(), kc("//sp.example.com/b"))
	wantRefusal(t, "another source's", err, primitive.Conflict)
}

func TestTargetsOfUsages(t *testing.T) {
	b, c := "//sp.example.com/b", "//sp.example.com/c"
	maf := "other-maf.example.com"
	for _, x := range []struct {
		party   tef.Party
		usage   muster.SUID
		targets []string
		want    primitive.Status
	}{
		{tef.MAF(), tef.SUIDMAFForSAEF, []string{b}, 0},
		{tef.MAF(), tef.SUIDMAFForESPrim, []string{b}, 0},
		{tef.MAF(), tef.SUIDMAFForESDataEncryption, []string{b, c}, 0},
		{tef.MAF(), tef.SUIDMAFForESDataIntegrity, []string{b}, 0},
		{tef.MEF(), muster.SUIDForMAF, []string{maf}, 0},
		{tef.MEF(), muster.SUIDForESDataIntegrity, []string{b, c}, 0},
		{tef.MAF(), tef.SUIDMAFForSAEF, []string{b, c}, primitive.BadRequest},
		{tef.MAF(), tef.SUIDMAFForSAEF, nil, primitive.BadRequest},
		{tef.MAF(), tef.SUIDMAFForESPrim, []string{b, c}, primitive.BadRequest},
		{tef.MAF(), tef.SUIDMAFForESDataEncryption, []string{b, b}, primitive.BadRequest},
		{tef.MAF(), tef.SUIDMAFForSAEF, []string{maf}, primitive.BadRequest},
		{tef.MAF(), tef.SUIDMAFForSAEF, []string{"b"}, primitive.BadRequest},
		{tef.MEF(), muster.SUIDForMAF, []string{b}, primitive.BadRequest},
		{tef.MEF(), muster.SUIDForMAF, []string{maf, "x.example.com"}, primitive.BadRequest},
		{tef.MAF(), muster.SUIDForMAF, []string{maf}, primitive.BadRequest},
		{tef.MAF(), muster.SUIDForSAEF, []string{b}, primitive.BadRequest},
		{tef.MEF(), tef.SUIDMAFForSAEF, []string{b}, primitive.BadRequest},
		{tef.MAF(), 11, []string{b}, primitive.BadRequest},
	} {
		d := newDesk(t, x.party)
		_, _, source := d.registered("a")
		_, err := source.RegisterKey(t.Context(), tef.KeyRegistration{AdminFQDN: admin(), Usage: x.usage, Targets: x.targets, Key: ownKey()})
		if x.want == 0 && err != nil {
			t.Errorf("SUID %s for %v: %v", x.usage, x.targets, err)
		} else if x.want != 0 {
			wantRefusal(t, x.usage.String()+" for "+strings.Join(x.targets, " "), err, x.want)
		}
	}
}

func TestKeyRegistrationRefusals(t *testing.T) {
	d := newDesk(t, tef.MAF())
	_, stranger := d.call(d.source("stranger"))
	_, err := stranger.RegisterKey(t.Context(), kc("//sp.example.com/b"))
	wantRefusal(t, "a client that has not registered", err, primitive.OriginatorHasNoPrivilege)

	_, _, source := d.registered("a")
	other := kc("//sp.example.com/b")
	other.AdminFQDN = must(muster.ParseFQDN("other.example.com"))
	_, err = source.RegisterKey(t.Context(), other)
	wantRefusal(t, "a stakeholder that the client has not registered for", err, primitive.OriginatorHasNoPrivilege)

	over := kc("//sp.example.com/b")
	over.Expires = d.now
	_, err = source.RegisterKey(t.Context(), over)
	wantRefusal(t, "a time that is over", err, primitive.BadRequest)

	late := kc("//sp.example.com/b")
	late.Expires = d.now.Add(48 * time.Hour)
	if made := must(source.RegisterKey(t.Context(), late)); !made.Expires.Equal(d.now.Add(time.Hour)) {
		t.Errorf("the key outlives the credential: %s", made.Expires)
	}

	line, maf := d.call(tef.Client{Identity: "maf.example.net"})
	_, err = maf.RegisterKey(t.Context(), kc("//sp.example.com/b"))
	wantRefusal(t, "a client that is no Enrolee", err, primitive.OriginatorHasNoPrivilege)

	for what, text := range map[string]string{
		"a short key":   `{"sec:skr":{"adfq":"admin.example.com","suid":32,"tgis":["//sp.example.com/b"],"kv":"AAAAAAAAAAAAAAAAAAAAAA=="}}`,
		"no SUID":       `{"sec:skr":{"adfq":"admin.example.com","tgis":["//sp.example.com/b"]}}`,
		"an identifier": `{"sec:skr":{"adfq":"admin.example.com","suid":32,"tgis":["//sp.example.com/b"],"ri":"x"}}`,
		"a source":      `{"sec:skr":{"adfq":"admin.example.com","suid":32,"tgis":["//sp.example.com/b"],"scid":"x"}}`,
	} {
		line.client = d.source("a")
		response := must(line.Do(t.Context(), &primitive.Request{Operation: primitive.Create, To: "-", From: line.client.Identity, RequestID: "1",
			ResourceType: d.service.Wire.Type(primitive.KindSymmKeyReg), Content: primitive.RawContent(primitive.JSON, []byte(text))}))
		if response.Status != primitive.BadRequest {
			t.Errorf("%s: %v", what, response.Status)
		}
	}
}

func TestNumberOfKeysIsBounded(t *testing.T) {
	d := newDesk(t, tef.MAF())
	_, _, source := d.registered("a")
	wanted := kc("//sp.example.com/b")
	wanted.Key = ownKey()
	var err error
	for range d.service.MaxKeys {
		_, err = source.RegisterKey(t.Context(), wanted)
	}
	if err != nil {
		t.Error(err)
	}
	_, err = source.RegisterKey(t.Context(), wanted)
	wantRefusal(t, "beyond the maximum", err, primitive.OriginatorHasNoPrivilege)
}

func TestKeyUpdate(t *testing.T) {
	d := newDesk(t, tef.MAF())
	_, _, source := d.registered("a")
	b, c := client("b"), client("c")
	_, bs := d.call(b)
	_, cs := d.call(c)
	made := must(source.RegisterKey(t.Context(), kc(b.Identity)))
	if _, err := cs.RetrieveKey(t.Context(), made.ID); err == nil {
		t.Error("c got the key before it was a target")
	}
	got, err := source.UpdateKey(t.Context(), made.ID, []string{"new"}, []string{c.Identity}, d.now.Add(time.Minute))
	if err != nil || !slices.Equal(got.Targets, []string{c.Identity}) || !slices.Equal(got.Labels, []string{"new"}) || !got.Expires.Equal(d.now.Add(time.Minute)) {
		t.Errorf("updated to %+v, %v", got, err)
	}
	if _, err := cs.RetrieveKey(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
	_, err = bs.RetrieveKey(t.Context(), made.ID)
	wantRefusal(t, "b, which is no target any more", err, primitive.NotFound)
	if got := must(source.UpdateKey(t.Context(), made.ID, nil, nil, d.now.Add(99*time.Hour))); !got.Expires.Equal(d.now.Add(time.Hour)) {
		t.Errorf("prolonged to %s", got.Expires)
	}
	for what, targets := range map[string][]string{"no target": {}, "two targets": {b.Identity, c.Identity}, "a MAF": {"maf.example.com"}} {
		_, err := source.UpdateKey(t.Context(), made.ID, nil, targets, time.Time{})
		wantRefusal(t, what, err, primitive.BadRequest)
	}
	_, err = cs.UpdateKey(t.Context(), made.ID, []string{"x"}, nil, time.Time{})
	wantRefusal(t, "an update by a target", err, primitive.OriginatorHasNoPrivilege)
	wantRefusal(t, "a deletion by a target", cs.DeregisterKey(t.Context(), made.ID), primitive.OriginatorHasNoPrivilege)
}

func TestDeletedKeyIsGone(t *testing.T) {
	d := newDesk(t, tef.MAF())
	_, _, source := d.registered("a")
	_, target := d.call(client("b"))
	made := must(source.RegisterKey(t.Context(), kc("//sp.example.com/b")))
	if err := source.DeregisterKey(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "again", source.DeregisterKey(t.Context(), made.ID), primitive.NotFound)
	_, err := target.RetrieveKey(t.Context(), made.ID)
	wantRefusal(t, "for its target", err, primitive.NotFound)
}

func TestExpiredKeyIsGone(t *testing.T) {
	d := newDesk(t, tef.MAF())
	_, _, source := d.registered("a")
	_, target := d.call(client("b"))
	made := must(source.RegisterKey(t.Context(), kc("//sp.example.com/b")))
	d.now = made.Expires
	_, err := target.RetrieveKey(t.Context(), made.ID)
	wantRefusal(t, "at its end", err, primitive.NotFound)
}

func TestWithheldKeyIsNotHandedOut(t *testing.T) {
	d := newDesk(t, tef.MEF())
	_, _, source := d.registered("a")
	_, target := d.call(client("b"))
	made := must(source.RegisterKey(t.Context(), tef.KeyRegistration{AdminFQDN: admin(), Usage: muster.SUIDForSAEF, Targets: []string{"//sp.example.com/b"}, Key: ownKey()}))
	must(target.RetrieveKey(t.Context(), made.ID))
	d.service.Withheld = func(r tef.KeyRegistration) string {
		if r.ID == made.ID {
			return "banned"
		}
		return ""
	}
	_, err := target.RetrieveKey(t.Context(), made.ID)
	wantRefusal(t, "a banned source's", err, primitive.NotFound)
}

// What is another's and what does not exist is answered by the same octets, after
// the same questions to the store.
func TestGuessesLookLikeTheUnknown(t *testing.T) {
	d := newDesk(t, tef.MEF())
	_, _, source := d.registered("a")
	made := must(source.RegisterKey(t.Context(), tef.KeyRegistration{AdminFQDN: admin(), Usage: muster.SUIDForSAEF, Targets: []string{"//sp.example.com/b"}, Key: ownKey()}))
	line, _ := d.call(client("guesser"))
	guess := func(op primitive.Operation, ids ...string) ([]byte, []string) {
		d.store.calls = nil
		r := &primitive.Request{Operation: op, To: d.service.Wire.To(ids...), From: line.client.Identity, RequestID: "1"}
		if op == primitive.Update {
			r.Content = must(d.service.Wire.Encode(primitive.NewResource(primitive.KindSymmKeyReg).Set(primitive.Labels, []string{"x"})))
		}
		return must(must(line.Do(t.Context(), r)).Encode(primitive.JSON)), d.store.calls
	}
	registration := tef.RegistrationID(client("a").ID, admin())
	for what, pair := range map[string][2][]string{
		"a key":                            {{keyName(made.ID)}, {strings.Repeat("0", 32)}},
		"a registration":                   {{registration}, {strings.Repeat("0", 24)}},
		"the command of a registration":    {{registration, "cmd"}, {strings.Repeat("0", 24), "cmd"}},
		"the configuration of one":         {{registration, "cfg"}, {strings.Repeat("0", 24), "cfg"}},
		"something below a registration":   {{registration, "x"}, {strings.Repeat("0", 24), "x"}},
		"something below a registered key": {{keyName(made.ID), "x"}, {strings.Repeat("0", 32), "x"}},
	} {
		for _, op := range []primitive.Operation{primitive.Retrieve, primitive.Update, primitive.Delete} {
			octets, calls := guess(op, pair[0]...)
			want, wantCalls := guess(op, pair[1]...)
			if !bytes.Equal(octets, want) || !bytes.Contains(octets, []byte("4004")) {
				t.Errorf("%v of %s: %s, and for the unknown %s", op, what, octets, want)
			}
			if !slices.Equal(calls, wantCalls) || len(calls) != 1 {
				t.Errorf("%v of %s: the store was asked %v, and for the unknown %v", op, what, calls, wantCalls)
			}
		}
	}
}
