package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"muster"
	"muster/audit"
	"muster/console"
	"muster/maf"
	"muster/mef"
)

// An operator sends requests to a function as a party of the laboratory.
type operator struct {
	t        *testing.T
	address  func() net.Addr
	identity tls.Certificate
}

// admin gives the MEF of a world an operator with a role, whose certificate is the
// MAF's, and an audit log.
func (w *world) admin(t *testing.T, role console.Role) operator {
	t.Helper()
	w.mef.Audit = auditConfig{File: w.lab.path("audit.log")}
	w.mef.Admin = adminConfig{Listen: "127.0.0.1:0", Rules: w.lab.path("rules.json"), Clients: []adminClientConfig{{
		Certificate: certificateConfig{Flavour: muster.FlavourFQDN, Name: w.maf.FQDN.String()}, Anchors: w.mef.MAFs[0].Anchors, Role: role,
	}}}
	identity, err := tls.LoadX509KeyPair(w.maf.Identity.Certificate, w.maf.Identity.Key)
	must(t, err)
	return operator{t, func() net.Addr { return w.mefService.admin.Addr() }, identity}
}

// send returns the status, and what is answered in the form of answer, which may be nil.
func (o operator) send(method, path string, body, answer any) int {
	o.t.Helper()
	text, err := json.Marshal(body)
	must(o.t, err)
	request, err := http.NewRequestWithContext(o.t.Context(), method, "https://"+o.address().String()+path, bytes.NewReader(text))
	must(o.t, err)
	request.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{o.identity}}}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	must(o.t, err)
	defer response.Body.Close()
	octets, err := io.ReadAll(response.Body)
	must(o.t, err)
	if answer != nil && response.StatusCode == http.StatusOK {
		must(o.t, json.Unmarshal(octets, answer))
	}
	if response.StatusCode != http.StatusOK {
		o.t.Logf("%s %s: %s", method, path, octets)
	}
	return response.StatusCode
}

// ok sends what has to be answered well.
func (o operator) ok(method, path string, body, answer any) {
	o.t.Helper()
	if status := o.send(method, path, body, answer); status != http.StatusOK {
		o.t.Fatalf("%s %s: %d", method, path, status)
	}
}

// TestOperatorGovernsEnrolments has an operator admit a device that the configuration
// does not know, see it enrol, and ban it; what they gave outlives the process.
func TestOperatorGovernsEnrolments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	o := w.admin(t, console.RoleAdmin)
	configured := w.mef.Instructions[0]
	roots, err := os.ReadFile(configured.Anchors[0])
	must(t, err)
	w.mef.Instructions = nil
	stop := w.startMEF()
	w.startMAF()

	device, closeDevice, err := newEnrolee(w.deviceConfig(0, overTLS), io.Discard)
	must(t, err)
	if _, err := device.Ensure(t.Context()); err == nil {
		t.Fatal("a device enrols without an instruction")
	}
	w.mefLog.await(t, muster.CodeNameUnknown)
	var refusals struct{ Items []console.Refusal }
	o.ok(http.MethodGet, "/v1/refusals", nil, &refusals)
	var why explanation
	o.ok(http.MethodGet, "/v1/refusals/"+refusals.Items[0].ID+"/explanation", nil, &why)
	if why.Accepted || why.Code != muster.CodeNameUnknown {
		t.Errorf("the explanation is %+v", why)
	}

	var anchor console.Anchor
	o.ok(http.MethodPost, "/v1/anchors", console.AnchorOrder{PEM: string(roots)}, &anchor)
	in := console.Instruction{
		Flavour: string(configured.Certificate.Flavour), Name: configured.Certificate.Name, Anchors: []string{anchor.ID},
		EnroleeID: configured.EnroleeID.String(), Targets: []string{w.maf.FQDN.String()}, Lifetime: "1h",
	}
	wrong := in
	wrong.EnroleeID = "nobody"
	if status := o.send(http.MethodPost, "/v1/instructions", wrong, nil); status != http.StatusUnprocessableEntity {
		t.Errorf("a wrong instruction: %d", status)
	}
	o.ok(http.MethodPost, "/v1/instructions", in, &in)
	attachment, err := device.Ensure(t.Context())
	must(t, err)
	must(t, errors.Join(attachment.Close(), closeDevice()))

	var enrolments struct{ Items []console.Enrolment }
	o.ok(http.MethodGet, "/v1/enrolments?enrolee="+in.EnroleeID, nil, &enrolments)
	if len(enrolments.Items) != 1 || enrolments.Items[0].State != string(mef.EnrolmentErased) && enrolments.Items[0].Fetches != 1 {
		t.Errorf("the enrolments are %+v", enrolments.Items)
	}
	var overview console.Overview
	o.ok(http.MethodGet, "/v1/overview", nil, &overview)
	if overview.Totals["enrolled"] != 1 || overview.Totals["fetched"] != 1 || overview.Totals["refused/name-unknown"] == 0 || overview.Minutes[59].Enrolled+overview.Minutes[58].Enrolled != 1 || len(overview.Certificates) == 0 {
		t.Errorf("the overview is %+v", overview)
	}
	for _, path := range []string{"/v1/registrations", "/v1/kpms", "/v1/keys", "/v1/audit", "/v1/audit?order=newest", "/v1/instructions", "/v1/verdicts", "/v1/commands?enrolee=" + in.EnroleeID + "&stakeholder=" + labAdmin} {
		o.ok(http.MethodGet, path, nil, nil)
	}
	order := console.CommandOrder{ID: "1", Stakeholder: labAdmin, EnroleeID: in.EnroleeID, Command: []string{"device", "1:coap://" + labMEF}}
	o.ok(http.MethodPost, "/v1/commands", order, nil)
	order.Command[1] = "2:coap://" + labMEF
	if status := o.send(http.MethodPost, "/v1/commands", order, nil); status != http.StatusConflict {
		t.Errorf("another command under the identifier: %d", status)
	}

	stop()
	config := *w.mef
	config.managed, err = readManaged(config.Admin.Rules)
	must(t, err)
	w.mef = &config
	w.startMEF()
	device = w.device(w.deviceConfig(0, overTLS))
	_, err = device.Enrol(t.Context())
	must(t, err)
	o.ok(http.MethodPost, "/v1/verdicts", console.Verdict{Verdict: "ban", EnroleeID: in.EnroleeID, Reason: "stolen"}, nil)
	if _, err := device.Enrol(t.Context()); err == nil {
		t.Error("a banned device enrols")
	}
	w.mefLog.await(t, muster.CodeBanned)
	var acts []string
	_, err = audit.Verify(w.mef.Audit.File, audit.Head{}, audit.Head{}, func(e audit.Entry) {
		if e.Kind == audit.KindAdmin {
			acts = append(acts, e.What)
		}
	})
	must(t, err)
	want := []string{"add anchor " + anchor.ID, "create instruction " + in.ID, "queue the command 1 for " + in.EnroleeID, "queue the command 1 for " + in.EnroleeID, "ban " + in.EnroleeID}
	if !slices.Equal(acts, want) {
		t.Errorf("the audit log has %q, not %q", acts, want)
	}
}

// TestGroupsAreKept asks whether instructions would take devices of a group.
func TestGroupsAreKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.admin(t, console.RoleAdmin)
	w.startMEF()
	keeper := w.mefService.rules
	err := keeper.Edit(t.Context(), console.Act{}, true, func(configured console.Rules, _ *console.Rules) error {
		one := configured.Instructions[0]
		group := one
		group.Name, group.EnroleeID, group.Pattern, group.Template = "", "", "*", "//sp.example/{rest}"
		if !keeper.Takes(one, group) {
			t.Error("one of the group is not in it")
		}
		other := group
		if other.Flavour, other.Pattern = "fqdn", "*.example.org"; keeper.Takes(one, other) {
			t.Error("one of another flavour is in the group")
		}
		if group.Template = "{"; !keeper.Takes(one, group) {
			t.Error("a group that cannot be read has no device")
		}
		return nil
	})
	must(t, err)
}

// TestRulesAreShared has another process change the file of the operators' rules.
func TestRulesAreShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.admin(t, console.RoleAdmin)
	w.startMEF()
	keeper := w.mefService.rules
	ban := console.Verdict{Verdict: "ban", EnroleeID: w.mef.Instructions[0].EnroleeID.String()}.Identified()
	text, err := json.Marshal(console.Rules{Verdicts: []console.Verdict{ban}})
	must(t, err)
	must(t, os.WriteFile(w.mef.Admin.Rules, text, 0o600))
	keeper.refresh()
	if _, managed, _ := keeper.Rules(t.Context()); len(managed.Verdicts) != 1 {
		t.Errorf("the rules are %+v", managed)
	}
	if _, err := w.device(w.deviceConfig(0, overTLS)).Enrol(t.Context()); err == nil {
		t.Error("a banned device enrols")
	}
	for _, wrong := range []string{`{`, `{"bans":[]}`, `{}{}`, `{"verdicts":[{"verdict":"pardon"}]}`, `{"anchors":[{"id":"1"}]}`, `{"instructions":[{"lifetime":"1h"}]}`} {
		must(t, os.WriteFile(w.mef.Admin.Rules, []byte(wrong), 0o600))
		keeper.refresh()
		if _, managed, _ := keeper.Rules(t.Context()); len(managed.Verdicts) != 1 {
			t.Errorf("%s has changed the rules to %+v", wrong, managed)
		}
	}
	w.mefLog.await(t, muster.CodeConfiguration)
}

// TestRulesAreChangedByOneAtATime has two keepers of one file, as two processes have
// them, add to it at once; and somebody change it who takes no lock.
func TestRulesAreChangedByOneAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.admin(t, console.RoleAdmin)
	w.startMEF()
	one := w.mefService.rules
	other := &ruleKeeper{service: newService(one.service.log), assemble: one.assemble, slot: one.slot, watched: true}
	other.put(&one.running, one.configured)
	const each = 20
	ban := func(n int) console.Verdict {
		return console.Verdict{Verdict: "ban", EnroleeID: fmt.Sprintf("//sp.lab.example/thief-%d", n)}.Identified()
	}
	add := func(k *ruleKeeper, v console.Verdict, meanwhile func()) error {
		return k.Edit(t.Context(), console.Act{}, false, func(_ console.Rules, managed *console.Rules) error {
			managed.Verdicts = append(managed.Verdicts, v)
			meanwhile()
			return nil
		})
	}
	var both sync.WaitGroup
	for i, k := range []*ruleKeeper{one, other} {
		both.Go(func() {
			for n := range each {
				if err := add(k, ban(i*each+n), func() {}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	both.Wait()
	kept, err := readManaged(w.mef.Admin.Rules)
	must(t, err)
	if len(kept.Verdicts) != 2*each {
		t.Errorf("%d verdicts are left of %d", len(kept.Verdicts), 2*each)
	}
	err = add(one, ban(2*each), func() {
		must(t, os.WriteFile(w.mef.Admin.Rules, []byte(`{"verdicts":[]}`), 0o600))
	})
	wantCode(t, err, muster.CodeBusy)
	kept, err = readManaged(w.mef.Admin.Rules)
	must(t, err)
	if len(kept.Verdicts) != 0 {
		t.Errorf("what an editor wrote has become %+v", kept)
	}
}

// TestOperatorsChangeOnReload takes the only client away.
func TestOperatorsChangeOnReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	o := w.admin(t, console.RoleViewer)
	file, err := os.ReadFile(w.mef.file)
	must(t, err)
	section := func(role string) {
		text := fmt.Sprintf("%s\nadmin: {listen: \"127.0.0.1:0\", rules: rules.json, clients: [{certificate: {flavour: fqdn, name: %s}, anchors: [pki/operator-root.pem], role: %s}]}\n", file, w.maf.FQDN, role)
		must(t, os.WriteFile(w.mef.file, []byte(text), 0o600))
	}
	w.startMEF()
	if status := o.send(http.MethodPost, "/v1/reload", nil, nil); status != http.StatusForbidden {
		t.Errorf("a viewer reloads: %d", status)
	}
	section("admin")
	must(t, errorOf(w.mefService.reload()))
	var done console.Reloaded
	o.ok(http.MethodPost, "/v1/reload", nil, &done)
	if want := (console.Reloaded{
		Read: map[string]int{"instructions": 1, "mafs": 1, "verdicts": 0, "admin.clients": 1}, Restart: []string{"listen.tls", "listen.dtls", "audit.file"},
	}); !reflect.DeepEqual(done, want) {
		t.Errorf("it was reloaded: %+v, not %+v", done, want)
	}
	section("root")
	if status := o.send(http.MethodPost, "/v1/reload", nil, nil); status != http.StatusUnprocessableEntity {
		t.Errorf("a wrong configuration: %d", status)
	}
	must(t, os.WriteFile(w.mef.file, file, 0o600))
	must(t, errorOf(w.mefService.reload()))
	if status := o.send(http.MethodGet, "/v1/whoami", nil, nil); status != http.StatusUnauthorized {
		t.Errorf("who is no client any more: %d", status)
	}
}

// TestOperatorOfMAF looks at what a MAF has.
func TestOperatorOfMAF(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.maf.Admin = adminConfig{Listen: "127.0.0.1:0", Clients: []adminClientConfig{{
		Certificate: certificateConfig{Flavour: muster.FlavourFQDN, Name: labMAF}, Anchors: w.mef.MAFs[0].Anchors, Role: console.RoleViewer,
	}}}
	w.startMEF()
	w.startMAF()
	credential := w.attached(w.deviceConfig(0, overTLS))
	identity, err := tls.LoadX509KeyPair(w.maf.Identity.Certificate, w.maf.Identity.Key)
	must(t, err)
	o := operator{t, func() net.Addr { return w.mafService.admin.Addr() }, identity}
	var page struct{ Items []console.Credential }
	o.ok(http.MethodGet, "/v1/credentials?km_id="+credential.KmID.String(), nil, &page)
	if len(page.Items) != 1 || page.Items[0].State != string(maf.CredentialUsed) {
		t.Errorf("the credentials are %+v", page.Items)
	}
	if status := o.send(http.MethodGet, "/v1/instructions", nil, nil); status != http.StatusNotFound {
		t.Errorf("the instructions of a MAF: %d", status)
	}
}

func TestAdminConfigIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.admin(t, console.RoleViewer)
	for _, spoil := range []func(*adminClientConfig){
		func(c *adminClientConfig) { c.Anchors = []string{filepath.Join(t.TempDir(), "none.pem")} },
		func(c *adminClientConfig) { c.Anchors = nil },
		func(c *adminClientConfig) { c.Role = "" },
		func(c *adminClientConfig) { c.Certificate.Name = "" },
		func(c *adminClientConfig) { c.Enrolees = "//sp.example" },
		func(c *adminClientConfig) { c.MaxInstructions = 1 },
		func(c *adminClientConfig) { c.Enrolees, c.MaxInstructions = "//sp.example/", -1 },
	} {
		config := adminConfig{Clients: slices.Clone(w.mef.Admin.Clients)}
		spoil(&config.Clients[0])
		_, err := config.read(nil)
		wantCode(t, err, muster.CodeConfiguration)
	}
}

// TestOperatorsConnectionsAreBounded has one place left at the listener.
func TestOperatorsConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	listener := &boundedListener{Listener: socket}
	for n := range maxHandshakes - 1 {
		listener.threshold.comes(byte(n/maxFromNetwork), n)
	}
	accepted := make(chan net.Conn, 3)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	})
	defer accepting.Wait()
	defer listener.Close()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", socket.Addr().String())
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	dial()
	first := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil || len(accepted) != 0 {
		t.Errorf("a connection too many: %v", err)
	}
	for range 2 { // net/http may close twice
		_ = first.Close()
	}
	dial()
	_ = (<-accepted).Close()
	if got := listener.threshold.count(); got != maxHandshakes-1 {
		t.Errorf("%d connections are counted", got)
	}
}
