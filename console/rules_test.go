package console

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"muster"
)

func TestInstructions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pem, anchor := w.anchor()
	w.want("operator", http.MethodPost, "/v1/anchors", AnchorOrder{pem}, http.StatusForbidden, muster.CodeRequestNotAllowed)
	w.want("admin", http.MethodPost, "/v1/anchors", AnchorOrder{"x"}, http.StatusBadRequest, muster.CodeRequestMalformed)
	w.want("admin", http.MethodPost, "/v1/anchors", AnchorOrder{pem + pem}, http.StatusBadRequest, muster.CodeRequestMalformed)
	in := Instruction{Flavour: "fqdn", Name: "device.example.com", Anchors: []string{anchor}, EnroleeID: tenantScope + "1", Targets: []string{"maf.example.com"}}
	w.want("operator", http.MethodPost, "/v1/instructions", in, http.StatusUnprocessableEntity, muster.CodeConfiguration) // no such anchor
	w.want("admin", http.MethodPost, "/v1/anchors", AnchorOrder{pem}, http.StatusOK, "")

	made := w.want("tenant", http.MethodPost, "/v1/instructions", in, http.StatusOK, "")
	id := fmt.Sprint(made["id"])
	path := "/v1/instructions/" + id
	w.want("operator", http.MethodPost, "/v1/instructions", in, http.StatusOK, "")
	if len(w.managed.Instructions) != 1 || w.managed.Instructions[0].Lifetime != "24h0m0s" || w.managed.Instructions[0].Origin != FromOperators {
		t.Fatalf("there are %+v", w.managed.Instructions)
	}
	changed := in
	changed.Lifetime = "1h"
	w.want("operator", http.MethodPost, "/v1/instructions", changed, http.StatusConflict, muster.CodeResourceConflict)
	shown, _ := w.send(request{identity: w.as("operator"), method: http.MethodGet, path: path})
	put := func(tag string) int {
		response, _ := w.send(request{identity: w.as("operator"), method: http.MethodPut, path: path, body: changed, header: http.Header{"If-Match": {tag}}})
		return response.StatusCode
	}
	for _, status := range []int{http.StatusOK, http.StatusPreconditionFailed} { // what was seen is there once
		if got := put(shown.Header.Get("ETag")); got != status {
			t.Errorf("PUT: %d, want %d", got, status)
		}
	}
	w.want("operator", http.MethodPut, "/v1/instructions/1", changed, http.StatusBadRequest, muster.CodeRequestMalformed)
	for _, wrong := range []any{`{"targets":[],"nam":""}`, `[]`, ``, `{"targets":[]}{}`} {
		w.want("operator", http.MethodPost, "/v1/instructions", wrong, http.StatusBadRequest, muster.CodeRequestMalformed)
	}
	changed.Targets = nil
	w.want("operator", http.MethodPut, path, changed, http.StatusUnprocessableEntity, muster.CodeConfiguration)
	if got := w.managed.Instructions[0]; len(got.Targets) != 1 || got.Lifetime != "1h0m0s" {
		t.Errorf("what was refused has changed %+v", got)
	}
	w.want("admin", http.MethodDelete, "/v1/anchors/"+anchor, nil, http.StatusConflict, muster.CodeResourceConflict)
	w.want("operator", http.MethodDelete, path, nil, http.StatusOK, "")
	w.want("operator", http.MethodDelete, path, nil, http.StatusNotFound, muster.CodeResourceUnknown)
	w.want("admin", http.MethodDelete, "/v1/anchors/"+anchor, nil, http.StatusOK, "")
}

// TestConfiguredRulesStay tries to change what stands in the configuration.
func TestConfiguredRulesStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := Instruction{Name: "a", EnroleeID: "//sp.example/1", Targets: []string{"maf.example.com"}}
	in = in.Identified()
	in.Origin = FromConfiguration
	ban := Verdict{Verdict: banned, EnroleeID: "//sp.example/1"}
	ban = ban.Identified()
	w.configured = Rules{[]Anchor{{ID: "a"}}, []Instruction{in}, []Verdict{ban}}
	w.want("admin", http.MethodPost, "/v1/instructions", Instruction{Name: "a", Targets: []string{"x"}}, http.StatusConflict, muster.CodeResourceConflict)
	w.want("admin", http.MethodPost, "/v1/verdicts", Verdict{Verdict: "suspend", EnroleeID: "//sp.example/1"}, http.StatusConflict, muster.CodeResourceConflict)
	for _, path := range []string{"/v1/instructions/" + in.ID, "/v1/anchors/a", "/v1/verdicts/" + ban.ID} {
		w.want("admin", http.MethodDelete, path, nil, http.StatusConflict, muster.CodeResourceConflict)
	}
}

// TestTenantsAreApart has a client with a scope look at and reach for what is not in it.
func TestTenantsAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := Instruction{Name: "a", EnroleeID: "//sp.example/1", Targets: []string{"maf.example.com"}}
	foreign = foreign.Identified()
	group := Instruction{Pattern: "0.2.*", Template: "//{serial}", Targets: []string{"maf.example.com"}}
	group = group.Identified()
	w.managed.Instructions = []Instruction{foreign, group}
	for _, in := range w.managed.Instructions {
		w.want("tenant", http.MethodGet, "/v1/instructions/"+in.ID, nil, http.StatusNotFound, muster.CodeResourceUnknown)
		w.want("tenant", http.MethodPut, "/v1/instructions/"+in.ID, in, http.StatusNotFound, muster.CodeResourceUnknown)
		w.want("tenant", http.MethodDelete, "/v1/instructions/"+in.ID, nil, http.StatusNotFound, muster.CodeResourceUnknown)
		w.want("tenant", http.MethodPost, "/v1/instructions", in, http.StatusForbidden, muster.CodeRequestNotAllowed)
	}
	taken := foreign
	taken.EnroleeID = tenantScope + "1" // the same certificates, for an Enrolee of one's own
	w.want("tenant", http.MethodPut, "/v1/instructions/"+foreign.ID, taken, http.StatusNotFound, muster.CodeResourceUnknown)
	w.want("tenant", http.MethodPost, "/v1/instructions/import", Import{Instructions: []Instruction{taken}, Replace: true}, http.StatusUnprocessableEntity, muster.CodeConfiguration)
	taken.Name = "0.2.1" // one of the group, named exactly
	w.want("tenant", http.MethodPost, "/v1/instructions", taken, http.StatusForbidden, muster.CodeRequestNotAllowed)
	w.want("tenant", http.MethodPost, "/v1/instructions/import", Import{Instructions: []Instruction{taken}}, http.StatusUnprocessableEntity, muster.CodeConfiguration)
	if !reflect.DeepEqual(w.managed.Instructions, []Instruction{foreign, group}) {
		t.Errorf("a tenant has changed the rules to %+v", w.managed.Instructions)
	}
	if _, page := w.do("tenant", http.MethodGet, "/v1/instructions", nil); len(page["items"].([]any)) != 0 {
		t.Errorf("a tenant sees %v", page)
	}
	w.contradiction = muster.Refuse(muster.CodeConfiguration, "the instruction for fqdn:secret.example.com (//sp.example/1) and another assign one Enrolee-ID")
	mine := Instruction{KpmIDs: []string{"1"}, EnroleeID: tenantScope + "1", Targets: []string{"maf.example.com"}}
	if answer := w.want("tenant", http.MethodPost, "/v1/instructions", mine, http.StatusConflict, muster.CodeResourceConflict); strings.Contains(fmt.Sprint(answer), "sp.example") {
		t.Errorf("a tenant is told %v", answer)
	}
	if answer := w.want("operator", http.MethodPost, "/v1/instructions", mine, http.StatusUnprocessableEntity, muster.CodeConfiguration); !strings.Contains(fmt.Sprint(answer), "secret.example.com") {
		t.Errorf("an operator is told %v", answer)
	}
	w.contradiction = nil
	lax := Instruction{KpmIDs: []string{"1"}, EnroleeID: tenantScope + "1", Targets: []string{"maf.example.com"}, Status: "off"}
	w.want("tenant", http.MethodPost, "/v1/instructions", lax, http.StatusForbidden, muster.CodeRequestNotAllowed)
	for _, order := range []CommandOrder{{EnroleeID: "//sp.example/1", Stakeholder: "tenant.example"}, {EnroleeID: tenantScope + "1", Stakeholder: "sp.example"}, {Prefix: "//", Stakeholder: "tenant.example"}} {
		w.want("tenant", http.MethodPost, "/v1/commands", order, http.StatusForbidden, muster.CodeRequestNotAllowed)
	}
	w.want("tenant", http.MethodPost, "/v1/commands", CommandOrder{EnroleeID: tenantScope + "1", Stakeholder: "tenant.example"}, http.StatusOK, "")
}

// TestTenantsAreBounded has a tenant give as many instructions as it may, and one more.
func TestTenantsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	give := func(as, name string, status int, code muster.Code) Instruction {
		in := Instruction{KpmIDs: []string{name}, EnroleeID: tenantScope + name, Targets: []string{"maf.example.com"}}.Identified()
		w.want(as, http.MethodPost, "/v1/instructions", in, status, code)
		return in
	}
	give("tenant", "1", http.StatusOK, "") // whoever gave it
	give("small", "2", http.StatusOK, "")
	give("small", "3", http.StatusConflict, muster.CodeQuotaExceeded)
	two := give("small", "2", http.StatusOK, "") // which is there
	two.Lifetime = "1h"
	w.want("small", http.MethodPut, "/v1/instructions/"+two.ID, two, http.StatusOK, "")
	all := Import{Instructions: []Instruction{{KpmIDs: []string{"3"}, EnroleeID: tenantScope + "3", Targets: two.Targets}}}
	w.want("small", http.MethodPost, "/v1/instructions/import", all, http.StatusUnprocessableEntity, muster.CodeConfiguration)
	give("operator", "4", http.StatusOK, "")
	for _, id := range []string{two.ID, w.managed.Instructions[0].ID} {
		w.want("small", http.MethodDelete, "/v1/instructions/"+id, nil, http.StatusOK, "")
	}
	w.want("small", http.MethodPost, "/v1/instructions/import", all, http.StatusOK, "")
}

func TestImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := func(n int, lifetime string) Instruction {
		return Instruction{KpmIDs: []string{fmt.Sprint(n)}, EnroleeID: fmt.Sprint("//sp.example/", n), Targets: []string{"maf.example.com"}, Lifetime: lifetime}
	}
	list := Import{Instructions: []Instruction{one(1, ""), one(2, ""), one(1, "24h")}, DryRun: true}
	want := func(created, replaced, unchanged float64) {
		t.Helper()
		answer := w.want("operator", http.MethodPost, "/v1/instructions/import", list, http.StatusOK, "")
		if answer["created"] != created || answer["replaced"] != replaced || answer["unchanged"] != unchanged {
			t.Errorf("%v, want %v %v %v", answer, created, replaced, unchanged)
		}
	}
	want(2, 0, 1)
	if len(w.managed.Instructions) != 0 || len(w.acts) != 0 {
		t.Fatalf("a dry run left %+v and %+v", w.managed.Instructions, w.acts)
	}
	list.DryRun = false
	want(2, 0, 1)
	want(0, 0, 3)
	list.Instructions = []Instruction{one(3, ""), one(2, "1h"), {Name: "x"}}
	answer := w.want("operator", http.MethodPost, "/v1/instructions/import", list, http.StatusUnprocessableEntity, muster.CodeConfiguration)
	var told struct{ Faults []Fault }
	text, _ := json.Marshal(answer)
	if err := json.Unmarshal(text, &told); err != nil || len(told.Faults) != 2 || told.Faults[0].Index != 1 || told.Faults[0].Code != muster.CodeResourceConflict || told.Faults[1].Index != 2 {
		t.Errorf("the faults are %+v: %v", told, err)
	}
	if len(w.managed.Instructions) != 2 {
		t.Errorf("a part was imported: %+v", w.managed.Instructions)
	}
	list.Instructions, list.Replace = list.Instructions[:2], true
	want(1, 1, 0)
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	suspended := w.want("operator", http.MethodPost, "/v1/verdicts", Verdict{Verdict: "suspend", EnroleeID: "//sp.example/1"}, http.StatusOK, "")
	evicted := w.want("operator", http.MethodPost, "/v1/verdicts", Verdict{Verdict: "evict", Digest: strings.Repeat("a", 64)}, http.StatusOK, "")
	if evicted["before"] == nil {
		t.Error("an eviction is without its time")
	}
	w.want("operator", http.MethodDelete, "/v1/verdicts/"+fmt.Sprint(evicted["id"]), nil, http.StatusOK, "")
	w.want("operator", http.MethodPost, "/v1/verdicts", Verdict{Verdict: "ban", EnroleeID: "//sp.example/1"}, http.StatusOK, "")
	if len(w.managed.Verdicts) != 1 || w.managed.Verdicts[0].Verdict != banned {
		t.Fatalf("the verdicts are %+v", w.managed.Verdicts)
	}
	path := "/v1/verdicts/" + fmt.Sprint(suspended["id"])
	w.want("operator", http.MethodPost, "/v1/verdicts", Verdict{Verdict: "suspend", EnroleeID: "//sp.example/1"}, http.StatusForbidden, muster.CodeRequestNotAllowed)
	w.want("operator", http.MethodDelete, path, nil, http.StatusForbidden, muster.CodeRequestNotAllowed)
	w.want("admin", http.MethodDelete, path, nil, http.StatusOK, "")
}

// TestEvents follows them, and loses the right to.
func TestEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want("tenant", http.MethodGet, "/v1/events", nil, http.StatusForbidden, muster.CodeRequestNotAllowed)
	w.want("", http.MethodGet, "/v1/events", nil, http.StatusUnauthorized, muster.CodeNoCertificate)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{w.as("viewer").TLS()}}}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(sent)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	w.events <- Event{ID: 7, Kind: "enrolled", Enrolee: "//sp.example/1"}
	lines := bufio.NewScanner(response.Body)
	var seen []string
	for lines.Scan() && len(seen) < 3 {
		if line := lines.Text(); line != "" && line[0] != ':' {
			seen = append(seen, line)
		}
	}
	if got := strings.Join(seen, "\n"); !strings.HasPrefix(got, "id: 7\nevent: enrolled\ndata: {\"id\":7,") {
		t.Errorf("the stream is %s", got)
	}
}

// A patientWriter notes the deadline for what a client sends.
type patientWriter struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (w *patientWriter) SetReadDeadline(t time.Time) error { w.read = t; return nil }
func (*patientWriter) SetWriteDeadline(time.Time) error    { return nil }

// TestEventsOutliveRequests wants the time that a request may take not to end a stream.
func TestEventsOutliveRequests(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	stream := &patientWriter{httptest.NewRecorder(), time.Now()}
	err := newWorld(t).server.events(caller{}, stream, httptest.NewRequestWithContext(gone, http.MethodGet, "/v1/events", nil))
	if err != nil || !stream.read.IsZero() {
		t.Errorf("the stream ends at %v: %v", stream.read, err)
	}
}
