package primitive_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"muster"
	"muster/primitive"
)

func defaultWire(t testing.TB) *primitive.Wire {
	t.Helper()
	w, err := primitive.NewWire(primitive.WireConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func kinds() []primitive.Kind {
	return []primitive.Kind{primitive.KindMAFBase, primitive.KindMAFClientReg, primitive.KindMEFBase,
		primitive.KindMEFClientReg, primitive.KindMEFClientCmd, primitive.KindSymmKeyReg}
}

func fqdn(t testing.TB, s string) muster.FQDN {
	t.Helper()
	f, err := muster.ParseFQDN(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDecode(t *testing.T) {
	t.Parallel()
	w := defaultWire(t)
	want := primitive.NewResource(primitive.KindMAFClientReg).
		Set(primitive.AdminFQDN, fqdn(t, "admin.example.org")).
		Set(primitive.FQDN, fqdn(t, "maf.example.org")).
		Set(primitive.ExpirationTime, now).
		Set(primitive.Labels, []string{"a", "b"})
	for _, text := range []string{
		`{"sec:macr":{"adfq":"admin.example.org","fq":"maf.example.org","et":"20261123T120000","lbl":["a","b"]}}`,
		`{"sec:mafClientReg":{"adminFQDN":"admin.example.org","fqdn":"maf.example.org","expirationTime":"20261123T120000","labels":["a","b"]}}`,
	} {
		got, err := w.Decode(primitive.KindMAFClientReg, primitive.Create, primitive.RawContent(primitive.JSON, []byte(text)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if at, ok := primitive.Get[muster.FQDN](want, primitive.AdminFQDN); !ok || at.String() != "admin.example.org" {
		t.Errorf("Get: %v, %v", at, ok)
	}
	if _, ok := primitive.Get[string](want, primitive.AdminFQDN); ok {
		t.Error("Get gives a value of another type")
	}
	c, err := w.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	const golden = `{"sec:macr":{"adfq":"admin.example.org","et":"20261123T120000","fq":"maf.example.org","lbl":["a","b"]}}`
	if octets, err := c.Encode(primitive.JSON); err != nil || string(octets) != golden {
		t.Errorf("%s, %v", octets, err)
	}
	cleared, err := w.Decode(primitive.KindMAFClientReg, primitive.Update, primitive.RawContent(primitive.JSON, []byte(`{"sec:macr":{"lbl":null}}`)))
	if err != nil || !cleared.Has(primitive.Labels) {
		t.Errorf("an update that removes labels: %v, %v", cleared, err)
	}
}

func TestDecodeRefused(t *testing.T) {
	t.Parallel()
	w := defaultWire(t)
	const mandatory = `"adfq":"admin.example.org","fq":"maf.example.org"`
	for _, tc := range []struct {
		kind  primitive.Kind
		op    primitive.Operation
		text  string
		named string
	}{
		{primitive.KindMAFClientReg, primitive.Create, ``, "no content"},
		{primitive.KindMAFClientReg, primitive.Create, `{}`, "not one resource"},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{},"sec:mecr":{}}`, "not one resource"},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:mecr":{` + mandatory + `}}`, "sec:macr"},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":[]}`, "sec:macr"},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"adfq":"admin.example.org"}}`, `"fqdn" is missing`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"adfq":null,"fq":"maf.example.org"}}`, `"adminFQDN" is null`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"lbl":null,` + mandatory + `}}`, `"labels" is null`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"aski":"x",` + mandatory + `}}`, `"assignedSymmKeyID" is not permitted in create`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"cid":"x",` + mandatory + `}}`, `"clientID" is not permitted`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"ri":"x",` + mandatory + `}}`, `"resourceID" is not permitted`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"new":1,` + mandatory + `}}`, `"new" is not one of`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"suid":21,` + mandatory + `}}`, `"suid" is not one of`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"et":"tomorrow",` + mandatory + `}}`, `"expirationTime"`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"et":20261123,` + mandatory + `}}`, `"expirationTime"`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"lbl":"a",` + mandatory + `}}`, `"labels"`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"lbl":[""],` + mandatory + `}}`, `"labels"`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"lbl":["a\u0007"],` + mandatory + `}}`, `"labels"`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"lbl":[` + strings.Repeat(`"a",`, 32) + `"a"],` + mandatory + `}}`, `"labels"`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"adfq":"*.example.org","fq":"maf.example.org"}}`, `"adminFQDN"`},
		{primitive.KindMAFClientReg, primitive.Create, `{"sec:macr":{"adminFQDN":"a.example",` + mandatory + `}}`, "both its names"},
		{primitive.KindMAFClientReg, primitive.Update, `{"sec:macr":{}}`, "no attribute"},
		{primitive.KindMAFClientReg, primitive.Update, `{"sec:macr":{` + mandatory + `}}`, "is not permitted in update"},
		{primitive.KindMAFClientReg, primitive.Update, `{"sec:macr":{"fq":null}}`, `"fqdn" is not permitted`},
		{primitive.KindMEFClientReg, primitive.Create, `{"sec:mecr":{"aski":"x",` + mandatory + `}}`, `"aski" is not one of`},
		{primitive.KindMEFClientCmd, primitive.Update, `{"sec:mecc":{"cmi":null,"csc":20}}`, `"cmdID" is null`},
		{primitive.KindMEFClientCmd, primitive.Update, `{"sec:mecc":{"cmi":"1","csc":-1}}`, `"cmdStatusCode"`},
		{primitive.KindSymmKeyReg, primitive.Create, `{"sec:skr":{"adfq":"a.example","suid":21,"kv":"c2VjcmV0LXNlY3JldA=="}}`, `"keyValue"`},
		{primitive.KindMAFBase, primitive.Update, `{"sec:mafb":{"poa":["x"]}}`, `"pointOfAccess" is not permitted`},
	} {
		_, err := w.Decode(tc.kind, tc.op, primitive.RawContent(primitive.JSON, []byte(tc.text)))
		refusal, ok := errors.AsType[*primitive.Error](err)
		if !ok || refusal.Status != primitive.BadRequest || !strings.Contains(refusal.Detail, tc.named) {
			t.Errorf("%v of %s: %v, want %q", tc.op, tc.text, err, tc.named)
		}
		if strings.Contains(refusal.Detail, "c2Vj") {
			t.Errorf("a key is in the detail: %s", refusal.Detail)
		}
	}
}

func TestDecodeRepresentation(t *testing.T) {
	t.Parallel()
	w := defaultWire(t)
	r, err := w.DecodeRepresentation(primitive.KindMAFClientReg, primitive.RawContent(primitive.JSON,
		[]byte(`{"sec:macr":{"ri":"1","ty":60002,"aski":"AB@maf.example.org","new":{},"ch":[{"nm":"c","typ":60005,"val":"-/1/c"}]}}`)))
	if err != nil {
		t.Fatal(err)
	}
	children, _ := primitive.Get[[]primitive.Reference](r, primitive.ChildResource)
	kmID, _ := primitive.Get[string](r, primitive.AssignedSymmKeyID)
	if kmID != "AB@maf.example.org" || len(children) != 1 || children[0] != (primitive.Reference{Name: "c", Type: 60005, To: "-/1/c"}) {
		t.Errorf("%v: %q, %v", r, kmID, children)
	}
	if _, err := w.Encode(r); err != nil {
		t.Errorf("it is not encoded again: %v", err)
	}
}

func TestEncodeRefused(t *testing.T) {
	t.Parallel()
	w := defaultWire(t)
	for _, r := range []*primitive.Resource{
		primitive.NewResource(primitive.KindMAFClientReg).Set(primitive.KeyValue, []byte("0123456789abcdef")),
		primitive.NewResource(primitive.KindMAFClientReg).Set(primitive.Labels, "a"),
		primitive.NewResource(primitive.KindMAFClientReg).Set(primitive.AdminFQDN, "a.example"),
		primitive.NewResource("nothing").Set(primitive.Labels, []string{}),
	} {
		if _, err := w.Encode(r); err == nil {
			t.Errorf("%v is encoded", r)
		}
	}
}

func TestNewWire(t *testing.T) {
	t.Parallel()
	w, err := primitive.NewWire(primitive.WireConfig{
		Base:       "maf/-",
		Kinds:      map[primitive.Kind]primitive.KindName{primitive.KindMAFClientReg: {Type: 2, Root: "sec:new"}},
		Attributes: map[primitive.Attribute]string{primitive.AdminFQDN: "afqdn"},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Encode(primitive.NewResource(primitive.KindMAFClientReg).Set(primitive.AdminFQDN, fqdn(t, "a.example")))
	if err != nil {
		t.Fatal(err)
	}
	if octets, err := c.Encode(primitive.JSON); err != nil || string(octets) != `{"sec:new":{"afqdn":"a.example"}}` {
		t.Errorf("%s, %v", octets, err)
	}
	if k, ok := w.KindOf(2); !ok || k != primitive.KindMAFClientReg || w.Type(k) != 2 || w.To("1") != "maf/-/1" {
		t.Errorf("%v, %v, %s", k, ok, w.To("1"))
	}
	for name, c := range map[string]primitive.WireConfig{
		"number twice":      {Kinds: map[primitive.Kind]primitive.KindName{primitive.KindMAFClientReg: {Type: 60001, Root: "x"}}},
		"root twice":        {Kinds: map[primitive.Kind]primitive.KindName{primitive.KindMAFClientReg: {Type: 2, Root: "sec:mafb"}}},
		"long root of else": {Kinds: map[primitive.Kind]primitive.KindName{primitive.KindMAFClientReg: {Type: 2, Root: "sec:MAFBase"}}},
		"number too large":  {Kinds: map[primitive.Kind]primitive.KindName{primitive.KindMAFClientReg: {Type: 65536, Root: "x"}}},
		"no root":           {Kinds: map[primitive.Kind]primitive.KindName{primitive.KindMAFClientReg: {Type: 2}}},
		"unknown kind":      {Kinds: map[primitive.Kind]primitive.KindName{"x": {Type: 2, Root: "x"}}},
		"unknown attribute": {Attributes: map[primitive.Attribute]string{"x": "y"}},
		"short name twice":  {Attributes: map[primitive.Attribute]string{primitive.AdminFQDN: "lbl"}},
		"empty short name":  {Attributes: map[primitive.Attribute]string{primitive.AdminFQDN: ""}},
		"base with slash":   {Base: "/-"},
		"base with escape":  {Base: "_/x"},
	} {
		if _, err := primitive.NewWire(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestParseTo(t *testing.T) {
	t.Parallel()
	w := defaultWire(t)
	for to, want := range map[string][]string{
		"-": nil, "-/1": {"1"}, "-/1/AB@x": {"1", "AB@x"}, "//maf.example.org/-": nil, "//maf.example.org/-/1": {"1"},
	} {
		if ids, ok := w.ParseTo(to, "maf.example.org"); !ok || !reflect.DeepEqual(ids, want) {
			t.Errorf("%s: %v, %v", to, ids, ok)
		}
	}
	for _, to := range []string{"", "/-", "-/", "-/.", "-/..", "-/1/2/3", "-/a b", "-/a%2Fb", "-x", "--", "//maf.example.org", "//mef.example.org/-", "//maf.example.org/-/", "/cse/-/1"} {
		if ids, ok := w.ParseTo(to, "maf.example.org"); ok {
			t.Errorf("%q names %v", to, ids)
		}
	}
}

func TestPath(t *testing.T) {
	t.Parallel()
	for to, segments := range map[string][]string{
		"-/1":            {"-", "1"},
		"/cse/-/1":       {"~", "cse", "-", "1"},
		"//sp.example/-": {"_", "sp.example", "-"},
		"cin00856":       {"cin00856"},
		"a~/_":           {"a~", "_"},
	} {
		if got, err := primitive.PathTo(segments); err != nil || got != to {
			t.Errorf("%v: %q, %v", segments, got, err)
		}
		if got := primitive.ToPath(to); !reflect.DeepEqual(got, segments) {
			t.Errorf("%s: %v", to, got)
		}
	}
	for _, segments := range [][]string{{""}, {"a", "", "b"}, {"a/b"}, {"a#b"}, {"a?b"}, {strings.Repeat("x", 513)}} {
		if got, err := primitive.PathTo(segments); err == nil {
			t.Errorf("%q gives %q", segments, got)
		}
	}
}
