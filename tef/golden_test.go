package tef_test

import (
	"slices"
	"testing"
	"time"

	"muster"
	"muster/primitive"
	"muster/tef"
)

// TestGolden holds each procedure, and each status with which it can end, to the
// pairs of requests and responses in testdata, which authors of clients may use.
func TestGolden(t *testing.T) {
	for file, party := range map[string]tef.Party{"testdata/mmaf.json": tef.MAF(), "testdata/mmef.json": tef.MEF()} {
		t.Run(file, func(t *testing.T) {
			d := newDesk(t, party)
			g := &golden{d, d.source("a"), client("b"), d.service.Wire.Type(primitive.KindSymmKeyReg)}
			g.registrations()
			g.keys()
			if party == tef.MEF() {
				g.commands()
			}
			g.failures()
			seen := map[primitive.Status]bool{}
			for _, p := range d.pairs {
				seen[must(primitive.DecodeResponse(primitive.JSON, p.Response)).Status] = true
			}
			for _, status := range []primitive.Status{2000, 2001, 2002, 2004, 4000, 4001, 4004, 4005, 4008, 4103, 4105, 4106, 4108, 5001} {
				if !seen[status] {
					t.Errorf("no pair ends with %v", status)
				}
			}
			d.wantPairs(file)
		})
	}
}

type golden struct {
	*desk
	a, b tef.Client
	key  int // the resource type of keys
}

// ask sends a request of a client and keeps the pair under a name.
func (g *golden) ask(name string, c tef.Client, op primitive.Operation, to string, kind int, content string) *primitive.Response {
	g.Helper()
	r := &primitive.Request{Operation: op, To: to, From: c.Identity, RequestID: "r1", ReleaseVersion: "3", ResourceType: kind}
	if content != "" {
		r.Content = primitive.RawContent(primitive.JSON, []byte(content))
	}
	return g.send(name, c, r)
}

func (g *golden) send(name string, c tef.Client, r *primitive.Request) *primitive.Response {
	g.Helper()
	line, _ := g.call(c)
	line.name = name
	response, err := line.Do(g.Context(), r)
	if err != nil {
		g.Fatal(err)
	}
	return response
}

func (g *golden) roots() (registration string, kind int, base string) {
	if g.service.Party == tef.MEF() {
		return "sec:mecr", 60004, g.service.Wire.Base()
	}
	return "sec:macr", 60002, g.service.Wire.Base()
}

func (g *golden) registrations() {
	root, kind, base := g.roots()
	fqdn := g.service.FQDN.String()
	g.service.Stakeholders = []tef.Stakeholder{{FQDN: must(muster.ParseFQDN("other.example.com")), Configuration: func(muster.EnroleeID) (tef.ClientConfiguration, bool) {
		return tef.ClientConfiguration{HTTPPort: 443, Keys: []tef.KeyConfiguration{{Usage: g.saef(), Targets: []string{g.b.Identity}}}}, true
	}}}
	g.ask("base resource", g.a, primitive.Retrieve, base, 0, "")
	made := g.ask("client registration", g.a, primitive.Create, base, kind, `{"`+root+`":{"adfq":"admin.example.com","fq":"`+fqdn+`","lbl":["x"],"et":"20270115T083000"}}`)
	at := base + "/" + must(tef.ParseRegistration(g.service.Wire, g.service.Party, made)).ID
	other := g.ask("client registration for another stakeholder", g.a, primitive.Create, base, kind, `{"`+root+`":{"adfq":"other.example.com","fq":"`+fqdn+`"}}`)
	g.ask("client registration retrieval", g.a, primitive.Retrieve, at, 0, "")
	g.ask("client configuration retrieval", g.a, primitive.Retrieve, base+"/"+must(tef.ParseRegistration(g.service.Wire, g.service.Party, other)).ID+"/cfg", 0, "")
	g.ask("client configuration retrieval, none there", g.a, primitive.Retrieve, at+"/cfg", 0, "")
	g.ask("client registration update", g.a, primitive.Update, at, 0, `{"`+root+`":{"lbl":["y"]}}`)
	g.ask("client registration update, nothing in it", g.a, primitive.Update, at, 0, `{"`+root+`":{}}`)
	g.ask("client registration, unknown stakeholder", g.a, primitive.Create, base, kind, `{"`+root+`":{"adfq":"none.example.com","fq":"`+fqdn+`"}}`)
	g.ask("client registration, another function", g.a, primitive.Create, base, kind, `{"`+root+`":{"adfq":"admin.example.com","fq":"none.example.com"}}`)
	g.ask("client registration retrieval, another's", g.b, primitive.Retrieve, at, 0, "")
}

// saef is the usage of the function's keys for one target.
func (g *golden) saef() muster.SUID {
	if g.service.Party == tef.MEF() {
		return muster.SUIDForSAEF
	}
	return tef.SUIDMAFForSAEF
}

func (g *golden) keys() {
	base, suid := g.service.Wire.Base(), g.saef().String()
	body := func(more string) string {
		return `{"sec:skr":{"adfq":"admin.example.com","suid":` + suid + `,"tgis":["//sp.example.com/b"]` + more + `}}`
	}
	made := g.ask("key registration, exported", g.a, primitive.Create, base, g.key, body(""))
	g.ask("key registration, exported twice", g.a, primitive.Create, base, g.key, body(""))
	at := base + "/" + keyName(must(tef.ParseKey(g.service.Wire, g.service.FQDN, made)).ID)
	g.ask("key registration, key brought", g.a, primitive.Create, base, g.key, body(`,"lbl":["x"],"et":"20270115T083000","kv":"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="`))
	g.ask("key registration, two targets", g.a, primitive.Create, base, g.key, `{"sec:skr":{"adfq":"admin.example.com","suid":`+suid+`,"tgis":["//sp.example.com/b","//sp.example.com/c"]}}`)
	g.ask("key registration, not registered", g.b, primitive.Create, base, g.key, body(""))
	g.ask("key retrieval by the source", g.a, primitive.Retrieve, at, 0, "")
	g.ask("key retrieval by the target", g.b, primitive.Retrieve, at, 0, "")
	g.ask("key retrieval by another", client("c"), primitive.Retrieve, at, 0, "")
	g.ask("key registration update", g.a, primitive.Update, at, 0, `{"sec:skr":{"tgis":["//sp.example.com/c"],"lbl":["y"]}}`)
	g.ask("key registration update by a target", client("c"), primitive.Update, at, 0, `{"sec:skr":{"lbl":["z"]}}`)
	g.ask("key registration, an operation it lacks", g.a, primitive.Create, at, g.key, body(""))
	g.ask("key de-registration", g.a, primitive.Delete, at, 0, "")
	g.ask("key de-registration, again", g.a, primitive.Delete, at, 0, "")
}

func (g *golden) commands() {
	at := g.service.Wire.To(tef.RegistrationID(g.a.ID, admin()))
	kinds := []tef.CommandDescription{}
	for _, d := range descriptions() {
		if d.Class != tef.ClassNoMore {
			kinds = append(kinds, d)
		}
	}
	slices.SortFunc(kinds, func(a, b tef.CommandDescription) int {
		if a.Class == b.Class {
			return a.Node.Type - b.Node.Type
		}
		return int(a.Class - b.Class)
	})
	for i, d := range kinds {
		g.queue(g.a, string(rune('1'+i)), d)
	}
	g.ask("client registration retrieval, a command waits", g.a, primitive.Retrieve, at, 0, "")
	g.ask("command retrieval", g.a, primitive.Retrieve, at+"/cmd", 0, "")
	g.ask("command retrieval, again", g.a, primitive.Retrieve, at+"/cmd", 0, "")
	g.ask("command update", g.a, primitive.Update, at+"/cmd", 0, `{"sec:mecc":{"cmi":"1","csc":20}}`)
	g.ask("command update, unknown identifier", g.a, primitive.Update, at+"/cmd", 0, `{"sec:mecc":{"cmi":"x","csc":20}}`)
	g.ask("command update, unknown status", g.a, primitive.Update, at+"/cmd", 0, `{"sec:mecc":{"cmi":"2","csc":21}}`)
	g.ask("command update, not supported", g.a, primitive.Update, at+"/cmd", 0, `{"sec:mecc":{"cmi":"2","csc":41}}`)
	g.ask("command update, node not found", g.a, primitive.Update, at+"/cmd", 0, `{"sec:mecc":{"cmi":"3","csc":300}}`)
	g.ask("command update, no more commands", g.a, primitive.Update, at+"/cmd", 0, `{"sec:mecc":{"cmi":"4","csc":20}}`)
	g.ask("command retrieval, another's", g.b, primitive.Retrieve, at+"/cmd", 0, "")
}

func (g *golden) failures() {
	root, kind, base := g.roots()
	at := g.service.Wire.To(tef.RegistrationID(g.a.ID, admin()))
	stranger := g.a
	stranger.Identity, stranger.ID = "//sp.example.com/x", client("x").ID
	g.send("another originator", stranger, &primitive.Request{Operation: primitive.Retrieve, To: base, From: g.a.Identity, RequestID: "r1", ReleaseVersion: "3"})
	g.ask("unknown resource", g.a, primitive.Retrieve, base+"/none", 0, "")
	g.ask("resource of another type", g.a, primitive.Create, base, 3, `{"m2m:cnt":{}}`)
	g.ask("operation that the base lacks", g.a, primitive.Delete, base, 0, "")
	g.ask("attribute that is not permitted", g.a, primitive.Create, base, kind, `{"`+root+`":{"adfq":"admin.example.com","fq":"`+g.service.FQDN.String()+`","cid":"//sp.example.com/a"}}`)
	g.ask("content that is none", g.a, primitive.Create, base, kind, "")
	old := &primitive.Request{Operation: primitive.Retrieve, To: base, From: g.a.Identity, RequestID: "r1", ReleaseVersion: "1"}
	g.send("release that is not supported", g.a, old)
	late := &primitive.Request{Operation: primitive.Retrieve, To: base, From: g.a.Identity, RequestID: "r1", ReleaseVersion: "3",
		RequestExpiration: primitive.Moment{Time: g.now.Add(-time.Second)}}
	g.send("request that has expired", g.a, late)
	planned := &primitive.Request{Operation: primitive.Retrieve, To: base, From: g.a.Identity, RequestID: "r1", ReleaseVersion: "3",
		OperationExecution: primitive.Moment{Time: g.now.Add(time.Hour)}}
	g.send("execution at a time", g.a, planned)
	g.ask("client de-registration", g.a, primitive.Delete, at, 0, "")
	g.ask("client de-registration, again", g.a, primitive.Delete, at, 0, "")
}
