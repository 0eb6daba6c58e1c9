package console

import (
	"fmt"
	"html"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/mustertest"
)

// load returns the response to a browser that asks for a page as a client.
func (w *world) load(name, path string) (*http.Response, string) {
	w.t.Helper()
	var identity *mustertest.Identity
	if name != "" {
		identity = w.as(name)
	}
	response, body := w.send(request{identity: identity, method: http.MethodGet, path: path, header: http.Header{"Accept": {"text/html"}}})
	return response, string(body)
}

// submit sends a form as the browser of a client does.
func (w *world) submit(name, path string, form url.Values, header http.Header) (*http.Response, string) {
	w.t.Helper()
	var identity *mustertest.Identity
	if name != "" {
		identity = w.as(name)
	}
	all := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {w.url}, "Sec-Fetch-Site": {"same-origin"}, "Accept": {"text/html"}}
	for field, values := range header {
		all[field] = values
	}
	response, body := w.send(request{identity: identity, method: http.MethodPost, path: path, body: form.Encode(), header: all})
	return response, string(body)
}

// redeem opens a link, and confirms who it is for.
func (w *world) redeem(secret string) (*http.Response, string) {
	w.t.Helper()
	shown, _ := w.submit("", "/sign-in", url.Values{"token": {secret}}, nil)
	header := http.Header{}
	for _, c := range shown.Cookies() {
		header.Add("Cookie", c.Name+"="+c.Value)
	}
	return w.submit("", "/sign-in", url.Values{"token": {secret}, "confirmed": {"yes"}}, header)
}

// session signs in by a one-time token, and returns the cookie.
func (w *world) session(as string, role Role) string {
	w.t.Helper()
	secret, _ := w.want(as, http.MethodPost, "/v1/tokens", TokenOrder{Role: role, SignIn: true}, http.StatusOK, "")["token"].(string)
	response, body := w.redeem(secret)
	if response.StatusCode != http.StatusSeeOther || len(response.Cookies()) != 2 {
		w.t.Fatalf("sign-in: %d %s", response.StatusCode, body)
	}
	c := response.Cookies()[1] // after the one that goes
	if c.Name != sessionCookie || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge != int(sessionTime/time.Second) {
		w.t.Errorf("the cookie is %s", response.Header.Get("Set-Cookie"))
	}
	return c.Name + "=" + c.Value
}

// concrete returns the path of a page with the identifier of something that is there.
func concrete(w *world, p page) string {
	id := "0"
	switch {
	case strings.HasPrefix(p.path, "/enrolments"):
		id = url.PathEscape("0@mef.example.com")
	case strings.HasPrefix(p.path, "/instructions"):
		id = w.managed.Instructions[0].ID
	}
	return strings.NewReplacer("{id}", id, "{$}", "").Replace(p.path)
}

// ruled gives a world a rule of each kind.
func (w *world) ruled() {
	in := Instruction{Flavour: "fqdn", Name: "a.example.com", Origin: FromOperators, Targets: []string{"maf.example.com"}, EnroleeID: "//sp.example/1"}
	in = in.Identified()
	w.managed = Rules{[]Anchor{{ID: "0", Origin: FromOperators, Subject: "CN=root"}}, []Instruction{in}, []Verdict{{ID: "0", Origin: FromOperators, Verdict: banned, EnroleeID: "//sp.example/1"}}}
}

// accessRefused is in what is told to whoever lacks the access.
var accessRefused = regexp.MustCompile("Refused: (the role|.* is for clients without stakeholder)")

// TestEveryPageAndRole loads every page as each role, as strangers and as nobody;
// what a form does has the access of the route that does the same.
func TestEveryPageAndRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ruled()
	for _, p := range pages() {
		path := concrete(w, p)
		for _, role := range append(Roles(), "tenant") {
			allowed := slices.Contains(p.roles, role) || role == "tenant" && slices.Contains(p.roles, RoleOperator) && !p.unscoped
			if p.method == http.MethodPost {
				if response, body := w.submit(string(role), path, url.Values{"pem": {"x"}}, nil); (response.StatusCode == http.StatusForbidden && accessRefused.MatchString(body)) == allowed {
					t.Errorf("%s %s as %s: %d", p.method, path, role, response.StatusCode)
				}
				w.ruled()
				continue
			}
			response, body := w.load(string(role), path)
			want := http.StatusOK
			switch {
			case !allowed:
				want = http.StatusForbidden
			case p.path == "/{$}" && role == "tenant":
				want = http.StatusSeeOther
			case strings.HasPrefix(p.path, "/instructions/{") && role == "tenant":
				want = http.StatusNotFound // that of another stakeholder
			}
			if response.StatusCode != want {
				t.Errorf("%s as %s: %d, want %d\n%s", path, role, response.StatusCode, want, body)
			}
		}
		for name, code := range map[string]muster.Code{"": muster.CodeNoCertificate, "stranger": muster.CodeNameUnknown, "revoked": muster.CodeRevoked} {
			var response *http.Response
			var body string
			if p.method == http.MethodPost {
				response, body = w.submit(name, path, url.Values{}, nil)
			} else {
				response, body = w.load(name, path)
			}
			if response.StatusCode != http.StatusUnauthorized || strings.Contains(body, string(code)) != (name != "") || !strings.Contains(body, "muster admin sign-in") || strings.Contains(body, "mef.example.com") {
				t.Errorf("%s as %q: %d %s", path, name, response.StatusCode, body)
			}
		}
	}
}

// TestMenu has what a role may see, and nothing that the function does not have.
func TestMenu(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	links := func(body string) (found []string) {
		for _, match := range regexp.MustCompile(`<li><a href="([^"]*)"`).FindAllStringSubmatch(body, -1) {
			found = append(found, match[1])
		}
		return found
	}
	all := []string{"/", "/enrolments", "/credentials", "/registrations", "/keys", "/commands", "/instructions", "/anchors", "/verdicts", "/refusals", "/audit"}
	governed := slices.Insert(slices.Clone(all), 9, "/configuration")
	devices := all[1:8]
	for name, want := range map[string][]string{"admin": governed, "auditor": all, "viewer": all[:10], "operator": all[:10], "tenant": devices} {
		_, body := w.load(name, "/enrolments")
		if got := links(body); !slices.Equal(got, want) {
			t.Errorf("%s sees %v, want %v", name, got, want)
		}
		for _, path := range want {
			if response, _ := w.load(name, path); response.StatusCode != http.StatusOK {
				t.Errorf("%s: %s: %d", name, path, response.StatusCode)
			}
		}
	}
	for name, offered := range map[string]bool{"viewer": false, "auditor": false, "operator": true, "tenant": true} {
		if _, body := w.load(name, "/instructions"); strings.Contains(body, `href="/instructions/new"`) != offered {
			t.Errorf("%s is offered a new instruction: %v", name, !offered)
		}
	}
	few := New(Config{Clients: w.server.config.Clients, Sources: Sources{Credentials: w.server.config.Credentials}, Logger: w.server.config.Logger, Now: w.clock})
	for _, p := range few.pages {
		if p.menu != "" && p.path != "/credentials" {
			t.Errorf("a function with credentials alone has the page %s", p.path)
		}
	}
}

// TestEveryAnswerIsHeaded looks at what keeps browsers strict.
func TestEveryAnswerIsHeaded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"/", "/enrolments", "/sign-in", "/style.css", "/nothing", "/v1/whoami", "/v1/nothing"} {
		response, _ := w.load("viewer", path)
		for name, want := range map[string]string{"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
	for _, loose := range []string{"unsafe", "*", "http:", "https:"} {
		if strings.Contains(policy, loose) {
			t.Errorf("the policy has %s", loose)
		}
	}
	if response, body := w.load("", "/style.css"); response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/css") || body == "" {
		t.Errorf("style.css: %d %s", response.StatusCode, response.Header)
	}
	outside := regexp.MustCompile(`(?i)\b(?:https?:)?//[a-z]|\bstyle=|\bon[a-z]+=|<script>|<style`)
	for name := range templates {
		body, err := files.ReadFile("pages/" + name + ".html")
		if found := outside.FindString(string(body)); err != nil || found != "" {
			t.Errorf("%s.html has %q, %v", name, found, err)
		}
	}
}

// TestSessions signs in, once for each link, and out.
func TestSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret, _ := w.want("admin", http.MethodPost, "/v1/tokens", TokenOrder{Role: RoleOperator, SignIn: true}, http.StatusOK, "")["token"].(string)
	bearer, _ := w.want("admin", http.MethodPost, "/v1/tokens", TokenOrder{}, http.StatusOK, "")["token"].(string)
	for _, wrong := range []string{"", "x", bearer} {
		if response, body := w.submit("admin", "/sign-in", url.Values{"token": {wrong}}, nil); response.StatusCode != http.StatusUnauthorized || len(response.Cookies()) != 0 || wrong != "" && strings.Contains(body, wrong+`"`) {
			t.Errorf("sign-in with %q: %d", wrong, response.StatusCode)
		}
	}
	first, _ := w.redeem(secret)
	if again, _ := w.redeem(secret); first.StatusCode != http.StatusSeeOther || again.StatusCode != http.StatusUnauthorized {
		t.Errorf("a link is good for %d, then %d", first.StatusCode, again.StatusCode)
	}
	secret, _ = w.want("admin", http.MethodPost, "/v1/tokens", TokenOrder{Role: RoleOperator, SignIn: true}, http.StatusOK, "")["token"].(string)
	shown, body := w.submit("viewer", "/sign-in", url.Values{"token": {secret}}, nil)
	if c := shown.Cookies(); len(c) != 1 || c[0].Name != shownCookie || c[0].SameSite != http.SameSiteStrictMode || strings.Contains(c[0].Value, secret) ||
		!strings.Contains(body, "<strong>fqdn:admin.example.com</strong>") || !strings.Contains(body, "acts as fqdn:viewer.example.com, viewer") {
		t.Errorf("before a session it is shown\n%s\nwith %v", body, c)
	}
	confirmed := url.Values{"token": {secret}, "confirmed": {"yes"}}
	for _, other := range []string{"", shownCookie + "=", shownCookie + "=" + markOf(bearer)} { // of one that was shown nothing, or another link
		if response, _ := w.submit("", "/sign-in", confirmed, http.Header{"Cookie": {other}}); response.StatusCode != http.StatusForbidden || len(response.Cookies()) != 0 {
			t.Errorf("a browser with %q that was not shown as whom: %d", other, response.StatusCode)
		}
	}
	cookie := w.session("admin", RoleOperator)
	with := http.Header{"Cookie": {cookie}, "Accept": {"text/html"}}
	see := func(path string) (*http.Response, string) {
		response, body := w.send(request{method: http.MethodGet, path: path, header: with})
		return response, string(body)
	}
	if _, body := see("/"); !strings.Contains(body, `<span class="role">operator</span>`) || !strings.Contains(body, "Sign out") {
		t.Errorf("the session is not the operator's: %s", body)
	}
	if response, _ := see("/audit"); response.StatusCode != http.StatusForbidden {
		t.Errorf("the operator's session sees the audit log: %d", response.StatusCode)
	}
	if response, _ := see("/v1/overview"); response.StatusCode != http.StatusOK {
		t.Errorf("the interface for programs refuses the session: %d", response.StatusCode)
	}
	out, _ := w.submit("", "/sign-out", nil, http.Header{"Cookie": {cookie}})
	if response, _ := see("/"); out.StatusCode != http.StatusSeeOther || response.StatusCode != http.StatusUnauthorized || response.Cookies()[0].MaxAge >= 0 {
		t.Errorf("after sign-out: %d, %d", out.StatusCode, response.StatusCode)
	}
	with.Set("Cookie", w.session("admin", RoleViewer))
	w.mu.Lock()
	w.now = w.now.Add(sessionTime)
	w.mu.Unlock()
	if response, _ := see("/"); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("after its time a session has %d", response.StatusCode)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.acts, func(a Act) bool { return strings.HasPrefix(a.What, "sign in") }) {
		t.Error("a sign-in is not written down")
	}
}

// TestForeignSitesAreRefused sends what a page of another site can have a browser send.
func TestForeignSitesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cookie := w.session("admin", RoleAdmin)
	verdict := url.Values{"verdict": {banned}, "enrolee_id": {"//sp.example/1"}}
	for _, header := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}},
		{"Sec-Fetch-Site": nil, "Origin": {"https://evil.example"}}, {"Sec-Fetch-Site": nil, "Origin": {"null"}},
	} {
		for _, path := range []string{"/verdicts", "/sign-in", "/sign-out", "/v1/verdicts", "/v1/tokens"} {
			sent := header.Clone()
			sent.Set("Cookie", cookie)
			for _, as := range []string{"", "admin"} { // by cookie, by certificate
				if response, body := w.submit(as, path, verdict, sent); response.StatusCode != http.StatusForbidden || !strings.Contains(body, "another site") {
					t.Errorf("%s with %v: %d %s", path, header, response.StatusCode, body)
				}
			}
		}
	}
	if len(w.managed.Verdicts) != 0 {
		t.Fatal("a foreign site passed a verdict")
	}
	if response, body := w.submit("", "/verdicts", verdict, http.Header{"Cookie": {cookie}}); response.StatusCode != http.StatusSeeOther {
		t.Errorf("the own form: %d %s", response.StatusCode, body)
	}
	w.want("admin", http.MethodPost, "/v1/verdicts", Verdict{Verdict: "suspend", EnroleeID: "//sp.example/2"}, http.StatusOK, "") // a program sends neither header
}

// TestForms makes, changes and deletes rules, and is told what is wrong with them.
func TestForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pem, anchor := w.anchor()
	done := func(as, path string, form url.Values, to string) {
		t.Helper()
		response, body := w.submit(as, path, form, nil)
		if got := response.Header.Get("Location"); response.StatusCode != http.StatusSeeOther || !regexp.MustCompile("^"+to+"$").MatchString(got) {
			t.Fatalf("%s: %d %s %s", path, response.StatusCode, got, body)
		}
		if page, body := w.load(as, response.Header.Get("Location")); page.StatusCode != http.StatusOK || !strings.Contains(body, `role="status"`) {
			t.Errorf("%s leads to %d %s", path, page.StatusCode, body)
		}
	}
	wrong := func(as, path string, form url.Values, status int, code muster.Code, kept string) {
		t.Helper()
		response, body := w.submit(as, path, form, nil)
		meaning, _ := code.Meaning()
		for _, part := range []string{string(code), html.EscapeString(meaning.Rule), html.EscapeString(meaning.Remedy), kept} {
			if response.StatusCode != status || !strings.Contains(body, part) {
				t.Errorf("%s: %d, without %q in\n%s", path, response.StatusCode, part, body)
			}
		}
	}
	wrong("admin", "/anchors", url.Values{"pem": {"no certificate"}}, http.StatusBadRequest, muster.CodeRequestMalformed, ">no certificate</textarea>")
	done("admin", "/anchors", url.Values{"pem": {pem}}, `/anchors\?done=added`)

	form := url.Values{"flavour": {"fqdn"}, "name": {"device.example.com"}, "anchors": {anchor}, "enrolee_id": {"//sp.example/1"}, "lifetime": {"1h"}}
	wrong("operator", "/instructions", form, http.StatusUnprocessableEntity, muster.CodeConfiguration, `value="device.example.com"`)
	form.Set("targets", "maf.example.com\r\nmaf2.example.com\r\n")
	done("operator", "/instructions", form, `/instructions/[0-9a-f]{32}\?done=created`)
	in := w.managed.Instructions[0]
	if !slices.Equal(in.Targets, []string{"maf.example.com", "maf2.example.com"}) || !slices.Equal(in.Anchors, []string{anchor}) || in.EnroleeID != "//sp.example/1" || in.Lifetime != "1h0m0s" {
		t.Fatalf("the form made %+v", in)
	}
	path := "/instructions/" + in.ID
	_, body := w.load("operator", path)
	tag := html.UnescapeString(regexp.MustCompile(`name="tag" value="([^"]*)"`).FindStringSubmatch(body)[1])
	form = url.Values{"tag": {tag}, "enrolee_id": {"//sp.example/1"}, "targets": {"maf3.example.com"}, "lifetime": {"2h"}}
	done("operator", path, form, path+`\?done=changed`)
	if got := w.managed.Instructions[0]; got.Lifetime != "2h0m0s" || got.Name != in.Name || !slices.Equal(got.Anchors, in.Anchors) {
		t.Fatalf("the form made %+v", got)
	}
	form.Set("lifetime", "3h")
	wrong("operator", path, form, http.StatusPreconditionFailed, muster.CodeResourceChanged, `value="3h"`) // others changed it
	wrong("operator", path+"/delete", url.Values{"tag": {tag}}, http.StatusPreconditionFailed, muster.CodeResourceChanged, "Delete")
	wrong("admin", "/anchors/"+anchor+"/delete", nil, http.StatusConflict, muster.CodeResourceConflict, anchor)
	done("operator", path+"/delete", nil, `/instructions\?done=deleted`)
	done("admin", "/anchors/"+anchor+"/delete", nil, `/anchors\?done=distrusted`)

	done("operator", "/verdicts", url.Values{"verdict": {banned}, "enrolee_id": {"//sp.example/1"}, "flavour": {"fqdn"}, "reason": {"stolen"}}, `/verdicts\?done=passed`)
	verdict := w.managed.Verdicts[0]
	if verdict.Flavour != "" || verdict.Reason != "stolen" {
		t.Errorf("the form made %+v", verdict)
	}
	lift := "/verdicts/" + verdict.ID + "/lift"
	if _, body := w.load("operator", "/verdicts"); strings.Contains(body, lift) {
		t.Error("an operator is offered to lift a ban")
	}
	wrong("operator", lift, nil, http.StatusForbidden, muster.CodeRequestNotAllowed, "only an admin")
	wrong("operator", "/verdicts", url.Values{"verdict": {"suspend"}, "enrolee_id": {"//sp.example/1"}, "reason": {"milder"}}, http.StatusForbidden, muster.CodeRequestNotAllowed, `value="milder"`)
	done("admin", lift, nil, `/verdicts\?done=lifted`)

	form = url.Values{"id": {"7"}, "stakeholder": {"admin.example"}, "enrolee": {"//sp.example/1"}, "server": {"1:coap://dm.example"}, "ca": {"https://ca.example"}}
	wrong("operator", "/commands", form, http.StatusBadRequest, muster.CodeRequestMalformed, `value="1:coap://dm.example"`) // no class
	form.Set("class", "device")
	done("operator", "/commands", form, `/commands\?enrolee=%2F%2Fsp.example%2F1&stakeholder=admin.example&done=queued`)
	form.Set("class", "certificate")
	wrong("operator", "/commands", form, http.StatusBadRequest, muster.CodeRequestMalformed, "the command lacks its protocol")
	for name, value := range map[string]string{"protocol": "est", "subject_type": "node", "subject": "s", "path": "p", "node_type": "trust-anchor"} {
		form.Set(name, value)
	}
	form.Set("prefix", form.Get("enrolee"))
	form.Del("enrolee")
	done("operator", "/commands", form, `/commands\?done=queued-group`)
	form.Set("class", "node")
	form.Set("prefix", nobody)
	done("operator", "/commands", form, `/commands\?done=queued-nobody`)
	if want := []CommandOrder{
		{ID: "7", Stakeholder: "admin.example", EnroleeID: "//sp.example/1", Command: []string{"device", "1:coap://dm.example"}},
		{ID: "7", Stakeholder: "admin.example", Prefix: "//sp.example/1", Command: []string{"certificate", "est", "https://ca.example", "node", "s"}},
		{ID: "7", Stakeholder: "admin.example", Prefix: nobody, Command: []string{"node", "p", "trust-anchor"}},
	}; !reflect.DeepEqual(w.orders, want) {
		t.Errorf("the form ordered %+v, not %+v", w.orders, want)
	}
	wrong("tenant", "/commands", form, http.StatusForbidden, muster.CodeRequestNotAllowed, "are not those of the caller")
	if _, body := w.load("viewer", "/commands"); strings.Contains(body, `action="/commands"><fieldset`) {
		t.Error("a viewer is offered to queue a command")
	}
	for page, link := range map[string]string{"/registrations": "/commands?enrolee=%2f%2fsp.example%2f0&amp;stakeholder=sp.example", "/enrolments/0@mef.example.com": "/commands?enrolee=%2f%2fsp.example%2f0#new"} {
		if _, body := w.load("operator", page); !strings.Contains(strings.ToLower(body), link) {
			t.Errorf("%s does not lead to %s", page, link)
		}
	}

	wrong("admin", "/configuration", nil, http.StatusUnprocessableEntity, muster.CodeConfiguration, "it is wrong")
	w.sound.Store(true)
	if response, body := w.submit("admin", "/configuration", nil, nil); response.StatusCode != http.StatusOK || !strings.Contains(body, "read again. The function has another certificate") || !strings.Contains(body, "<code>listen.tls</code>") || !strings.Contains(body, "instructions</th>") {
		t.Errorf("a reload: %d %s", response.StatusCode, body)
	}

	w.configured.Instructions = []Instruction{{ID: "c", Origin: FromConfiguration, EnroleeID: "//sp.example/1"}}
	if _, body := w.load("admin", "/instructions/c"); strings.Contains(body, "<form class") || !strings.Contains(body, "changed there only") {
		t.Errorf("an instruction of the configuration can be changed: %s", body)
	}
	wrong("admin", "/instructions/c/delete", nil, http.StatusConflict, muster.CodeResourceConflict, "configuration")
}

// whose is what the page of commands has to be told.
func whose(p page) string {
	if p.path == "/commands" {
		return "&enrolee=%2F%2Fsp.example%2F1&stakeholder=admin.example"
	}
	return ""
}

// TestListPages walks through the pages of the lists, and finds.
func TestListPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 5 {
		w.managed.Instructions = append(w.managed.Instructions, Instruction{ID: fmt.Sprint("i", i)})
		w.managed.Anchors = append(w.managed.Anchors, Anchor{ID: fmt.Sprint("a", i)})
		w.managed.Verdicts = append(w.managed.Verdicts, Verdict{ID: fmt.Sprint("v", i), EnroleeID: "//e"})
	}
	next := regexp.MustCompile(`rel="next" href="([^"]*)"`)
	for _, p := range pages() {
		if p.menu == "" || p.menu == "Overview" || p.menu == "Configuration" {
			continue
		}
		rows := 0
		for path := p.path + "?limit=2" + whose(p); path != ""; {
			response, body := w.load("admin", path)
			if response.StatusCode != http.StatusOK {
				t.Fatal(path, response.StatusCode, body)
			}
			rows += strings.Count(body, `<th scope="row"`)
			path = ""
			if match := next.FindStringSubmatch(body); match != nil {
				path = html.UnescapeString(match[1])
			}
		}
		if rows != 5 {
			t.Errorf("%s: the pages have %d rows", p.path, rows)
		}
		for _, query := range []string{"limit=0", "after=nothing", "x=1", "limit=1&limit=2"} {
			if response, body := w.load("admin", p.path+"?"+query+whose(p)); response.StatusCode != http.StatusBadRequest || !strings.Contains(body, string(muster.CodeRequestMalformed)) {
				t.Errorf("%s?%s: %d %s", p.path, query, response.StatusCode, body)
			}
		}
	}
	if _, body := w.load("admin", "/instructions?origin=operators&enrolee=%2F%2Fnobody"); !strings.Contains(body, "There is nothing that fits") || !strings.Contains(body, `value="//nobody"`) {
		t.Errorf("what was looked for is forgotten: %s", body)
	}
	if response, body := w.load("admin", "/commands"); response.StatusCode != http.StatusOK || !strings.Contains(body, "Say whose") || strings.Contains(body, "<table>") {
		t.Errorf("commands of nobody: %d %s", response.StatusCode, body)
	}
	if response, body := w.load("admin", "/enrolments/nothing"); response.StatusCode != http.StatusNotFound || !strings.Contains(body, string(muster.CodeResourceUnknown)) {
		t.Errorf("an unknown enrolment: %d", response.StatusCode)
	}
}

// TestHostileTextsAreText shows pages what devices and strangers can write into them.
func TestHostileTextsAreText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	evil := hostile(w)
	for path, times := range evil {
		response, body := w.load("admin", path)
		if response.StatusCode != http.StatusOK || strings.Count(body, "evil&lt;/") < times {
			t.Errorf("%s: %d, with %d of it", path, response.StatusCode, strings.Count(body, "evil&lt;/"))
		}
		for _, alive := range []string{"<img src=x", "<script>", `" onload=`, `' onload=`, `"javascript:`} {
			if strings.Contains(body, alive) {
				t.Errorf("%s has %q\n%s", path, alive, body)
			}
		}
	}
}

// hostile fills a world with texts that no page may interpret, and returns where they
// show, and at least how often.
func hostile(w *world) map[string]int {
	const evil = `evil</td></svg></title><img src=x onerror=alert(1)><script>alert(1)</script>" onload="alert(1)' onload='alert(1)`
	w.evil = evil
	in := Instruction{ID: "1", Origin: FromOperators, Flavour: evil, Name: evil, EnroleeID: evil, Targets: []string{evil}, Lifetime: evil}
	w.managed = Rules{[]Anchor{{ID: evil, Origin: evil, Subject: evil}}, []Instruction{in}, []Verdict{{ID: evil, Origin: FromOperators, Verdict: evil, EnroleeID: evil, Reason: evil}}}
	return map[string]int{
		"/": 6, "/enrolments": 10, "/enrolments/" + url.PathEscape(evil): 4, "/credentials": 10, "/registrations": 10, "/keys": 10, "/commands?enrolee=a&stakeholder=b": 5, "/commands?enrolee=" + url.QueryEscape(evil): 2,
		"/refusals": 10, "/refusals/" + url.PathEscape(evil): 8, "/audit": 10, "/instructions": 2, "/instructions/1": 3, "/anchors": 2, "/verdicts": 3,
		"/instructions?enrolee=" + url.QueryEscape(evil): 1, "/verdicts?enrolee=" + url.QueryEscape(evil): 1,
		"/instructions/new?flavour=a&name=" + url.QueryEscape(evil): 1,
	}
}

// TestChart draws what is there, within its bounds.
func TestChart(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 31, 11, 7, 0, 0, time.UTC)
	var minutes []Bucket
	for i := range 60 {
		minutes = append(minutes, Bucket{Start: start.Add(time.Duration(i) * time.Minute), Enrolled: uint64(i * i), Refused: uint64(i % 7)})
	}
	c := newChart("hour", "x", minutes, time.Minute, 10*time.Minute, seriesOf("mef"))
	if len(c.Bars) != 60 || len(c.Rows) != 59 || len(c.Ticks) != 6 || c.Ticks[0].Label != "11:10" || c.Summary != "70\u202f210 enrolled, 0 fetched, 174 refused" {
		t.Errorf("%d bars, %d rows, ticks %v, %s", len(c.Bars), len(c.Rows), c.Ticks, c.Summary)
	}
	for _, b := range c.Bars {
		for _, p := range b.Parts {
			if p.Y < chartTop || p.Y+p.Height > chartTop+chartHeight+minBar+1 {
				t.Errorf("%s: %+v is outside", b.Title, p)
			}
		}
	}
	last := c.Bars[59]
	if len(last.Parts) != 2 || last.Parts[0].Y+last.Parts[0].Height != c.Grid[0].Y || last.Parts[1].Y <= c.Grid[0].Y {
		t.Errorf("what was refused does not hang below the axis: %+v", last)
	}
	if empty := newChart("hour", "x", nil, time.Minute, 10*time.Minute, seriesOf("maf")); len(empty.Bars) != 0 || empty.Summary == "" {
		t.Errorf("without buckets there is %+v", empty)
	}
	for n, want := range map[uint64]uint64{1: 1, 3: 3, 7: 8, 41: 50, 9: 10, 11: 20, 999: 1000} {
		if got := roundUp(n); got != want {
			t.Errorf("%d is rounded up to %d, want %d", n, got, want)
		}
	}
}

// TestLifetime is written as people do.
func TestLifetime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"24h0m0s": "24h", "1h30m0s": "1h30m", "20m0s": "20m", "10h20m30s": "10h20m30s", "50s": "50s", "24h": "24h", "0s": "0s", "x": "x"} {
		if got := lifetime(text); got != want {
			t.Errorf("%s becomes %s, want %s", text, got, want)
		}
	}
}

// TestStepsFollowTheFigure tells each state in words.
func TestStepsFollowTheFigure(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for state, want := range map[string][2]string{"issued": {"awaited", "awaited"}, "delivered": {"done", "awaited"}, "erased": {"done", "done"}, "erased unfetched": {"ended", "done"}, "superseded": {"ended", "ended"}, "expired": {"ended", "ended"}} {
		e := Enrolment{State: strings.TrimSuffix(state, " unfetched"), MAF: "maf.example.com"}
		if want[0] == "done" {
			e.Fetched, e.Fetches = &now, 2
		}
		steps := stepsOf(e)
		if len(steps) != 2 || steps[0].Class != want[0] || steps[1].Class != want[1] || !strings.Contains(steps[0].Title, "maf.example.com") {
			t.Errorf("%s: %+v", state, steps)
		}
	}
}
