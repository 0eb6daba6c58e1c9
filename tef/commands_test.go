package tef_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"muster/primitive"
	"muster/tef"
)

func node(path string) tef.CommandDescription {
	return tef.CommandDescription{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: path, Type: tef.NodeTrustAnchor}}
}

func (d *desk) queue(c tef.Client, id string, description tef.CommandDescription) {
	d.Helper()
	if err := tef.Queue(d.Context(), d.store, d.service.FQDN, c.ID, admin(), id, description, d.now); err != nil {
		d.Fatal(err)
	}
}

func wantCommand(t *testing.T, what string, got tef.Command, err error, id string, status tef.CommandStatus) {
	t.Helper()
	if err != nil || got.ID != id || got.Status != status {
		t.Errorf("%s: %+v, %v, want %s with %d", what, got, err, id, status)
	}
}

func TestCommandsFromRegistrationToTheEnd(t *testing.T) {
	d := newDesk(t, tef.MEF())
	c := d.source("a")
	d.queue(c, "one", node("./1"))
	d.queue(c, "two", node("./2"))
	line, q := d.call(c)
	response := must(line.Do(t.Context(), must(tef.CreateRegistration(d.service.Wire, tef.MEF(), "1", registration(d.service, c)))))
	resource := must(d.service.Wire.DecodeRepresentation(primitive.KindMEFClientReg, response.Content))
	children, _ := primitive.Get[[]primitive.Reference](resource, primitive.ChildResource)
	r := must(tef.ParseRegistration(d.service.Wire, tef.MEF(), response))
	if len(children) != 1 || children[0].To != d.service.Wire.To(r.ID, "cmd") || !r.CommandWaits {
		t.Errorf("the registration announces %v", children)
	}
	got, err := q.Command(t.Context(), r.ID)
	wantCommand(t, "first", got, err, "one", tef.CommandIssued)
	got, err = q.Command(t.Context(), r.ID)
	wantCommand(t, "first again", got, err, "one", tef.CommandReissued)
	got, err = q.ReportCommand(t.Context(), r.ID, "one", tef.CommandOK)
	wantCommand(t, "second, in the answer to the report", got, err, "two", tef.CommandIssued)
	got, err = q.ReportCommand(t.Context(), r.ID, "two", tef.NodeNotFound)
	if err != nil || got.Description.NoMore == nil || got.Description.NoMore.RetryAfter != time.Hour || got.Status != tef.CommandIssued {
		t.Errorf("at the end: %+v, %v", got, err)
	}
	if again := must(q.Command(t.Context(), r.ID)); again.Description.NoMore == nil || again.ID == got.ID {
		t.Errorf("later: %+v", again)
	}
	if r := must(q.Registration(t.Context(), r.ID)); r.CommandWaits {
		t.Error("a command is announced at the end")
	}
	all := must(d.store.Commands(t.Context(), d.service.FQDN, r.ID))
	if len(all) != 2 || all[0].Status != tef.CommandOK || all[1].Status != tef.NodeNotFound {
		t.Errorf("the operator sees %+v", all)
	}
}

func TestReportsOfNoUse(t *testing.T) {
	d := newDesk(t, tef.MEF())
	c, line, q := d.registered("a")
	d.queue(c, "one", node("./1"))
	id := tef.RegistrationID(c.ID, admin())
	got, err := q.ReportCommand(t.Context(), id, "one", tef.CommandOK)
	wantCommand(t, "a report of what was never issued", got, err, "one", tef.CommandIssued)
	got, err = q.ReportCommand(t.Context(), id, "unknown", tef.CommandOK)
	wantCommand(t, "a report of what does not exist", got, err, "one", tef.CommandReissued)
	for what, text := range map[string]string{
		"the MEF's status":  `{"sec:mecc":{"cmi":"one","csc":10}}`,
		"an unknown status": `{"sec:mecc":{"cmi":"one","csc":99}}`,
		"no status":         `{"sec:mecc":{"cmi":"one"}}`,
		"no identifier":     `{"sec:mecc":{"csc":20}}`,
		"a description":     `{"sec:mecc":{"cmi":"one","csc":20,"cmd":{}}}`,
		"nothing":           `{}`,
	} {
		response := must(line.Do(t.Context(), &primitive.Request{Operation: primitive.Update, To: d.service.Wire.To(id, "cmd"), From: c.Identity, RequestID: "1",
			Content: primitive.RawContent(primitive.JSON, []byte(text))}))
		if response.Status != primitive.BadRequest {
			t.Errorf("%s: %v", what, response.Status)
		}
	}
	all := must(d.store.Commands(t.Context(), d.service.FQDN, id))
	if len(all) != 1 || all[0].Status != tef.CommandReissued {
		t.Errorf("after all reports: %+v", all)
	}
	for _, op := range []primitive.Operation{primitive.Delete, primitive.Create} {
		r := &primitive.Request{Operation: op, To: d.service.Wire.To(id, "cmd"), From: c.Identity, RequestID: "1"}
		if op == primitive.Create {
			r.ResourceType = d.service.Wire.Type(primitive.KindMEFClientCmd)
		}
		if response := must(line.Do(t.Context(), r)); response.Status != primitive.OperationNotAllowed {
			t.Errorf("%v: %v", op, response.Status)
		}
	}
}

func TestAMAFHasNoCommands(t *testing.T) {
	d := newDesk(t, tef.MAF())
	c, _, q := d.registered("a")
	_, err := q.Command(t.Context(), tef.RegistrationID(c.ID, admin()))
	wantRefusal(t, "at a MAF", err, primitive.NotFound)
}

func TestQueueRefuses(t *testing.T) {
	d := newDesk(t, tef.MEF())
	c := client("a")
	for _, id := range []string{"", string(make([]byte, 65))} {
		if tef.Queue(t.Context(), d.store, d.service.FQDN, c.ID, admin(), id, node("./1"), now) == nil {
			t.Errorf("%d octets of an identifier were queued", len(id))
		}
	}
	if tef.Queue(t.Context(), d.store, d.service.FQDN, c.ID, admin(), "x", tef.CommandDescription{Class: 1}, now) == nil {
		t.Error("a description without arguments was queued")
	}
}

func TestParseCommandKeepsTheIdentifier(t *testing.T) {
	wire := must(primitive.NewWire(primitive.WireConfig{}))
	c, err := tef.ParseCommand(wire, &primitive.Response{Status: primitive.OK, Content: primitive.RawContent(primitive.JSON,
		[]byte(`{"sec:mecc":{"cmi":"one","csc":10,"cmd":{"cmdClassID":1,"cmdArgs":{}}}}`))})
	if !errors.Is(err, tef.ErrArguments) || c.ID != "one" || c.Description.Class != tef.ClassCertificate {
		t.Errorf("%+v, %v", c, err)
	}
	for _, text := range []string{`{"sec:mecc":{"cmi":"one","csc":10}}`, `{"sec:mecc":{"csc":10,"cmd":{"cmdClassID":1}}}`, `{"sec:mecc":{"cmi":"one","cmd":{"cmdClassID":1}}}`, `{"sec:mecc":7}`} {
		if c, err := tef.ParseCommand(wire, &primitive.Response{Status: primitive.OK, Content: primitive.RawContent(primitive.JSON, []byte(text))}); err == nil || errors.Is(err, tef.ErrArguments) {
			t.Errorf("%s read as %+v, %v", text, c, err)
		}
	}
}

// A group is who is registered with the stakeholder, however many pages they are.
func TestQueueForGroup(t *testing.T) {
	d := newDesk(t, tef.MEF())
	const members = 450
	for i := range members {
		c := d.source(fmt.Sprintf("member-%d", i))
		r := registration(d.service, c)
		r.ID, r.Expires = tef.RegistrationID(c.ID, admin()), d.now.Add(time.Hour)
		must(d.store.PutRegistration(t.Context(), r))
	}
	stranger := registration(d.service, d.source("stranger"))
	stranger.ID, stranger.Expires = tef.RegistrationID(stranger.ClientID, admin()), d.now.Add(time.Hour)
	must(d.store.PutRegistration(t.Context(), stranger))
	prefix := strings.TrimSuffix(d.source("member-0").Identity, "0")
	for range 2 { // the second time is a replay
		n, err := tef.QueueForGroup(t.Context(), d.store, d.store, d.service.FQDN, prefix, admin(), "all", node("./a"), d.now)
		if err != nil || n != members {
			t.Fatalf("queued for %d clients, %v", n, err)
		}
	}
	if _, err := tef.QueueForGroup(t.Context(), d.store, d.store, d.service.FQDN, prefix, admin(), "all", node("./b"), d.now); !errors.Is(err, tef.ErrConflict) {
		t.Errorf("another command under the same identifier: %v", err)
	}
	for _, who := range []struct {
		name string
		want int
	}{{"member-7", 1}, {"member-449", 1}, {"stranger", 0}} {
		queue := must(d.store.Commands(t.Context(), d.service.FQDN, tef.RegistrationID(d.source(who.name).ID, admin())))
		if len(queue) != who.want {
			t.Errorf("%s has %d commands", who.name, len(queue))
		}
	}
}

// An answer of a function is read as a registration or a command that has what the
// client needs of it, or not at all.
func FuzzAnswers(f *testing.F) {
	wire := must(primitive.NewWire(primitive.WireConfig{}))
	const times = `"ct":"20250101T000000","lt":"20250101T000000","et":"20300101T000000"`
	for _, text := range []string{
		`{"sec:macr":{"ri":"x",` + times + `,"adfq":"a.example.com","fq":"maf.example.com","cid":"//sp.example.com/a","aski":"1@maf.example.com","lbl":["x"]}}`,
		`{"sec:mecr":{"ri":"x",` + times + `,"adfq":"a.example.com","fq":"mef.example.com","cid":"//sp.example.com/a","ch":[{"nm":"cmd","typ":60005,"val":"x/cmd"}]}}`,
		`{"sec:mecr":{"cid":"//sp.example.com/a"}}`,
		`{"sec:mecc":{"cmi":"one","csc":10,"cmd":{"cmdClassID":0,"cmdArgs":{"noMoreCmdArgs":{"retryDuration":"PT1S"}}}}}`,
		`{"sec:mecc":{"cmi":"","csc":10,"cmd":{"cmdClassID":1,"cmdArgs":{}}}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		answer := &primitive.Response{Status: primitive.OK, Content: primitive.RawContent(primitive.JSON, octets)}
		for _, party := range []tef.Party{tef.MAF(), tef.MEF()} {
			if r, err := tef.ParseRegistration(wire, party, answer); err == nil && (r.ClientID.IsZero() || r.Expires.IsZero()) {
				t.Errorf("read as %+v", r)
			}
		}
		c, err := tef.ParseCommand(wire, answer)
		if (err == nil || errors.Is(err, tef.ErrArguments)) && (c.ID == "" || len(c.ID) > 64) {
			t.Errorf("read as %+v, %v", c, err)
		}
	})
}
