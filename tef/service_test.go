package tef_test

import (
	"testing"
	"time"

	"muster"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var now = time.Unix(1_800_000_000, 0).UTC()

func service() *tef.Service {
	return &tef.Service{
		Party: tef.MAF(), FQDN: must(muster.ParseFQDN("maf.example.com")), Wire: must(primitive.NewWire(primitive.WireConfig{})),
		Store: mustertest.NewMemory(), Administrators: []muster.FQDN{must(muster.ParseFQDN("admin.example.com"))},
	}
}

func client(name string) tef.Client {
	id := must(muster.ParseEnroleeID("//sp.example.com/" + name))
	return tef.Client{Identity: id.String(), ID: id, KmID: must(muster.ParseKmID("AB@maf.example.com")), Expires: now.Add(time.Hour)}
}

func registration(s *tef.Service, c tef.Client) tef.ClientRegistration {
	return tef.ClientRegistration{Function: s.FQDN, ClientID: c.ID, AdminFQDN: s.Administrators[0]}
}

func create(t *testing.T, s *tef.Service, c tef.Client, r tef.ClientRegistration) (*primitive.Response, error) {
	t.Helper()
	return s.Serve(t.Context(), c, must(tef.CreateRegistration(s.Wire, s.Party, "1", r)), now)
}

func wantStatus(t *testing.T, what string, err error, want primitive.Status) {
	t.Helper()
	if got := primitive.StatusOf(err); err == nil || got != want {
		t.Errorf("%s: %v (%v), want %v", what, got, err, want)
	}
}

func TestRegistration(t *testing.T) {
	s, c := service(), client("a")
	wanted := registration(s, c)
	wanted.Labels, wanted.Expires = []string{"x", "y"}, now.Add(time.Minute)
	response, err := create(t, s, c, wanted)
	if err != nil || response.Status != primitive.Created {
		t.Fatal(response, err)
	}
	got := must(tef.ParseRegistration(s.Wire, s.Party, response))
	if got.ClientID != c.ID || got.AssignedSymmKeyID != c.KmID || !got.Expires.Equal(wanted.Expires) || len(got.Labels) != 2 || response.Location != s.Wire.To(got.ID) {
		t.Errorf("registered %+v at %s", got, response.Location)
	}

	retrieve := &primitive.Request{Operation: primitive.Retrieve, To: response.Location, From: c.Identity, RequestID: "2"}
	if again := must(tef.ParseRegistration(s.Wire, s.Party, must(s.Serve(t.Context(), c, retrieve, now)))); again.ID != got.ID {
		t.Errorf("retrieved %+v", again)
	}
	_, err = s.Serve(t.Context(), c, retrieve, wanted.Expires)
	wantStatus(t, "after its end", err, primitive.NotFound)

	absolute := *retrieve
	absolute.To = "//maf.example.com/" + response.Location
	if _, err := s.Serve(t.Context(), c, &absolute, now); err != nil {
		t.Errorf("by the absolute form: %v", err)
	}
}

func TestRegisteringAgainFindsTheSame(t *testing.T) {
	s, c := service(), client("a")
	first := must(tef.ParseRegistration(s.Wire, s.Party, must(create(t, s, c, registration(s, c)))))
	again := must(tef.ParseRegistration(s.Wire, s.Party, must(create(t, s, c, registration(s, c)))))
	other := must(tef.ParseRegistration(s.Wire, s.Party, must(create(t, s, client("b"), registration(s, client("b"))))))
	if first.ID != again.ID || first.ID == other.ID {
		t.Errorf("identifiers %s, %s, %s", first.ID, again.ID, other.ID)
	}
}

func TestRegistrationEndsWithTheCredential(t *testing.T) {
	s, c := service(), client("a")
	for name, asked := range map[string]time.Time{"absent": {}, "later": c.Expires.Add(time.Hour)} {
		wanted := registration(s, c)
		wanted.Expires = asked
		if got := must(tef.ParseRegistration(s.Wire, s.Party, must(create(t, s, c, wanted)))); !got.Expires.Equal(c.Expires) {
			t.Errorf("%s: until %s", name, got.Expires)
		}
	}
	wanted := registration(s, c)
	wanted.Expires = now
	_, err := create(t, s, c, wanted)
	wantStatus(t, "a time that is over", err, primitive.BadRequest)
}

func TestOriginatorIsTheAuthenticatedClient(t *testing.T) {
	s, c := service(), client("a")
	for _, from := range []string{"", "//sp.example.com/b", "//sp.example.com/A", "a", "admin"} {
		r := must(tef.CreateRegistration(s.Wire, s.Party, "1", registration(s, c)))
		r.From = from
		_, err := s.Serve(t.Context(), c, r, now)
		wantStatus(t, "from "+from, err, primitive.OriginatorNotAuthenticated)
	}
	none := tef.Client{}
	_, err := s.Serve(t.Context(), none, tef.RetrieveBase(s.Wire, "", "1"), now)
	wantStatus(t, "nobody", err, primitive.OriginatorNotAuthenticated)
}

func TestRegistrationsOfOthersDoNotExist(t *testing.T) {
	s, c := service(), client("a")
	response := must(create(t, s, c, registration(s, c)))
	for _, op := range []primitive.Operation{primitive.Retrieve, primitive.Update, primitive.Delete} {
		for name, to := range map[string]string{"another's": response.Location, "unknown": s.Wire.To("0123"), "deeper": s.Wire.To("0123", "4"), "elsewhere": "x"} {
			r := &primitive.Request{Operation: op, To: to, From: client("b").Identity, RequestID: "1"}
			_, err := s.Serve(t.Context(), client("b"), r, now)
			wantStatus(t, op.String()+" "+name, err, primitive.NotFound)
		}
	}
}

func TestUpdateAndDelete(t *testing.T) {
	s, c := service(), client("a")
	response := must(create(t, s, c, registration(s, c)))
	update := &primitive.Request{Operation: primitive.Update, To: response.Location, From: c.Identity, RequestID: "1",
		Content: must(s.Wire.Encode(primitive.NewResource(s.Party.Registration).
			Set(primitive.Labels, []string{"z"}).Set(primitive.ExpirationTime, now.Add(time.Minute))))}
	updated, err := s.Serve(t.Context(), c, update, now.Add(time.Second))
	if err != nil || updated.Status != primitive.Updated {
		t.Fatal(updated, err)
	}
	got := must(tef.ParseRegistration(s.Wire, s.Party, updated))
	if len(got.Labels) != 1 || !got.Expires.Equal(now.Add(time.Minute)) || !got.Created.Equal(now) || !got.Modified.Equal(now.Add(time.Second)) {
		t.Errorf("updated to %+v", got)
	}
	remove := &primitive.Request{Operation: primitive.Delete, To: response.Location, From: c.Identity, RequestID: "2"}
	if deleted, err := s.Serve(t.Context(), c, remove, now); err != nil || deleted.Status != primitive.Deleted {
		t.Fatal(deleted, err)
	}
	_, err = s.Serve(t.Context(), c, remove, now)
	wantStatus(t, "deleted twice", err, primitive.NotFound)
}

func TestRegistrationRefusals(t *testing.T) {
	s, c := service(), client("a")
	for name, x := range map[string]struct {
		change func(*primitive.Request, *tef.ClientRegistration)
		want   primitive.Status
	}{
		"another function":      {func(_ *primitive.Request, r *tef.ClientRegistration) { r.Function = s.Administrators[0] }, primitive.BadRequest},
		"unknown administrator": {func(_ *primitive.Request, r *tef.ClientRegistration) { r.AdminFQDN = s.FQDN }, primitive.OriginatorHasNoPrivilege},
		"another resource type": {func(r *primitive.Request, _ *tef.ClientRegistration) {
			r.ResourceType = s.Wire.Type(primitive.KindMEFClientCmd)
		}, primitive.InvalidChildResourceType},
		"an operation": {func(r *primitive.Request, _ *tef.ClientRegistration) {
			r.Operation, r.ResourceType = primitive.Delete, 0
		}, primitive.OperationNotAllowed},
	} {
		wanted := registration(s, c)
		x.change(&primitive.Request{}, &wanted)
		r := must(tef.CreateRegistration(s.Wire, s.Party, "1", wanted))
		x.change(r, &tef.ClientRegistration{})
		_, err := s.Serve(t.Context(), c, r, now)
		wantStatus(t, name, err, x.want)
	}
	maf := tef.Client{Identity: "maf.example.com"}
	r := must(tef.CreateRegistration(s.Wire, s.Party, "1", registration(s, c)))
	r.From = maf.Identity
	_, err := s.Serve(t.Context(), maf, r, now)
	wantStatus(t, "a client that is no Enrolee", err, primitive.OriginatorHasNoPrivilege)
}

func TestBase(t *testing.T) {
	s, c := service(), client("a")
	response, err := s.Serve(t.Context(), c, tef.RetrieveBase(s.Wire, c.Identity, "1"), now)
	if err != nil || response.Status != primitive.OK {
		t.Fatal(response, err)
	}
	base := must(s.Wire.DecodeRepresentation(primitive.KindMAFBase, response.Content))
	if name, _ := primitive.Get[muster.FQDN](base, primitive.FQDN); name != s.FQDN {
		t.Errorf("the base is that of %s", name)
	}
}

func TestParseRegistrationRefuses(t *testing.T) {
	s := service()
	for name, response := range map[string]*primitive.Response{
		"a failure":  {Status: primitive.Conflict},
		"no content": {Status: primitive.Created},
		"nothing in it": {Status: primitive.Created,
			Content: must(s.Wire.Encode(primitive.NewResource(s.Party.Registration)))},
		"a key identifier that is none": {Status: primitive.Created,
			Content: must(s.Wire.Encode(primitive.NewResource(s.Party.Registration).Set(primitive.ExpirationTime, now).
				Set(primitive.ClientID, "//sp.example.com/a").Set(primitive.AssignedSymmKeyID, "x")))},
	} {
		if r, err := tef.ParseRegistration(s.Wire, s.Party, response); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		}
	}
}
