package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/mustertest"
)

// TestEveryRouteAndRole sends every request as each role, as strangers and as nobody.
func TestEveryRouteAndRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := mustertest.NewPKI(t)
	for _, r := range routes() {
		path := strings.ReplaceAll(r.path, "{id}", "1")
		if r.stream != nil {
			continue // TestEvents
		}
		for _, role := range append(Roles(), "tenant") {
			allowed := r.roles == nil || slices.Contains(r.roles, role) || role == "tenant" && slices.Contains(r.roles, RoleOperator) && !r.unscoped
			status, answer := w.do(string(role), r.method, path, "{}")
			detail := fmt.Sprint(answer["detail"])
			refused := status == http.StatusForbidden && (strings.Contains(detail, "the role") || strings.Contains(detail, "for clients without stakeholder"))
			if refused == allowed {
				t.Errorf("%s %s as %s: %d %v", r.method, path, role, status, answer)
			}
		}
		if r.roles == nil {
			w.want("", r.method, path, "{}", http.StatusOK, "")
			continue
		}
		w.want("", r.method, path, "{}", http.StatusUnauthorized, muster.CodeNoCertificate)
		w.want("stranger", r.method, path, "{}", http.StatusUnauthorized, muster.CodeNameUnknown)
		w.want("revoked", r.method, path, "{}", http.StatusUnauthorized, muster.CodeRevoked)
		if response, _ := w.send(request{identity: other.Function(t, "admin.example.com"), method: r.method, path: path, body: "{}"}); response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s as an impostor: %d", r.method, path, response.StatusCode)
		}
	}
}

// TestRefusalIsLoggedWithCode is what the log cuts floods of strangers by.
func TestRefusalIsLoggedWithCode(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	server := New(Config{Logger: slog.New(slog.NewJSONHandler(&log, nil)), Now: time.Now})
	server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/whoami", nil))
	if want := fmt.Sprintf(`"code":%q`, muster.CodeNoCertificate); !strings.Contains(log.String(), want) {
		t.Errorf("%s is not in %s", want, &log)
	}
}

// TestPages follows the cursors of every list, and sends parameters that are wrong.
func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 5 {
		w.managed.Instructions = append(w.managed.Instructions, Instruction{ID: fmt.Sprint("i", i)})
		w.managed.Anchors = append(w.managed.Anchors, Anchor{ID: fmt.Sprint("a", i)})
		w.managed.Verdicts = append(w.managed.Verdicts, Verdict{ID: fmt.Sprint("v", i)})
	}
	for _, r := range routes() {
		if !r.list {
			continue
		}
		seen := 0
		for next := ""; ; {
			status, body := w.do("admin", http.MethodGet, r.path+"?limit=2"+next, nil)
			if status != http.StatusOK {
				t.Fatal(r.path, status, body)
			}
			seen += len(body["items"].([]any))
			after, more := body["next"].(string)
			if !more {
				break
			}
			next = "&after=" + after
		}
		if seen != 5 {
			t.Errorf("%s: the pages have %d items", r.path, seen)
		}
		for _, query := range []string{"limit=0", "limit=501", "limit=x", "limit=1&limit=2", "limit", "after=nothing", "Limit=1", "x=%00", "after=%00", "after=%ff", "limit=%zz", "a;b"} {
			w.want("admin", http.MethodGet, r.path+"?"+query, nil, http.StatusBadRequest, muster.CodeRequestMalformed)
		}
	}
	for _, path := range []string{"/v1", "/v1/refusals/", "/v1/../v2"} {
		w.want("", http.MethodGet, path, nil, http.StatusNotFound, muster.CodeResourceUnknown)
	}
	w.want("viewer", http.MethodDelete, "/v1/refusals", nil, http.StatusNotFound, muster.CodeResourceUnknown)
}

// TestEntityTags asks again for what is known.
func TestEntityTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, _ := w.send(request{identity: w.as("viewer"), method: http.MethodGet, path: "/v1/enrolments"})
	tag := first.Header.Get("ETag")
	for list, want := range map[string]int{tag: http.StatusNotModified, `"x", W/` + tag: http.StatusNotModified, `"x"`: http.StatusOK, "": http.StatusOK} {
		again, _ := w.send(request{identity: w.as("viewer"), method: http.MethodGet, path: "/v1/enrolments", header: http.Header{"If-None-Match": {list}}})
		if again.StatusCode != want || again.Header.Get("ETag") != tag {
			t.Errorf("If-None-Match %s: %d %s, want %d", list, again.StatusCode, again.Header.Get("ETag"), want)
		}
	}
}

// TestTokens issues tokens and uses them.
func TestTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	issue := func(as string, order TokenOrder) string {
		answer := w.want(as, http.MethodPost, "/v1/tokens", order, http.StatusOK, "")
		secret, _ := answer["token"].(string)
		return secret
	}
	want := func(secret, method, path string, status int) {
		t.Helper()
		response, body := w.send(request{method: method, path: path, body: "{}", header: http.Header{"Authorization": {"Bearer " + secret}}})
		if response.StatusCode != status {
			t.Errorf("%s %s: %d %s, want %d", method, path, response.StatusCode, body, status)
		}
	}
	auditor, viewer, given := issue("auditor", TokenOrder{}), issue("auditor", TokenOrder{Role: RoleViewer}), issue("admin", TokenOrder{Seconds: 60})
	want(auditor, http.MethodGet, "/v1/audit", http.StatusOK)
	want(viewer, http.MethodGet, "/v1/audit", http.StatusForbidden)
	want(given, http.MethodPost, "/v1/reload", http.StatusUnprocessableEntity)
	want(issue("admin", TokenOrder{Role: RoleOperator}), http.MethodPost, "/v1/reload", http.StatusForbidden)
	want(given, http.MethodPost, "/v1/tokens", http.StatusForbidden)
	want("muster_x", http.MethodGet, "/v1/whoami", http.StatusUnauthorized)
	want(issue("admin", TokenOrder{SignIn: true}), http.MethodGet, "/v1/whoami", http.StatusUnauthorized)
	w.want("viewer", http.MethodPost, "/v1/tokens", TokenOrder{Role: RoleAdmin}, http.StatusForbidden, muster.CodeRequestNotAllowed)
	w.want("operator", http.MethodPost, "/v1/tokens", TokenOrder{Role: RoleAuditor}, http.StatusForbidden, muster.CodeRequestNotAllowed)
	for _, order := range []any{TokenOrder{Seconds: 3601}, TokenOrder{Seconds: -1}, `{"role":"root"}`, `{"rolle":"admin"}`, `{} {}`, ``} {
		w.want("admin", http.MethodPost, "/v1/tokens", order, http.StatusBadRequest, muster.CodeRequestMalformed)
	}
	repeated := request{identity: w.as("viewer"), method: http.MethodPost, path: "/v1/tokens", body: "{}", header: http.Header{"Idempotency-Key": {"k"}}}
	_, first := w.send(repeated)
	if _, second := w.send(repeated); bytes.Equal(first, second) || len(w.server.memory.kept) != 0 {
		t.Error("a secret is remembered")
	}
	w.mu.Lock()
	w.unlisted = RoleAuditor
	w.mu.Unlock()
	want(auditor, http.MethodGet, "/v1/whoami", http.StatusUnauthorized)
	w.mu.Lock()
	w.unlisted, w.now = "", w.now.Add(time.Minute)
	w.mu.Unlock()
	want(auditor, http.MethodGet, "/v1/whoami", http.StatusOK)
	want(given, http.MethodGet, "/v1/whoami", http.StatusUnauthorized)
	for _, act := range w.acts {
		if strings.Contains(act.What, tokenPrefix) {
			t.Errorf("a secret is written down: %s", act.What)
		}
	}
}

// TestTokensEndWithTheirCertificate has a certificate revoked, and one expire, that
// tokens were issued to.
func TestTokensEndWithTheirCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	look := func(header http.Header) int {
		response, _ := w.send(request{method: http.MethodGet, path: "/v1/whoami", header: header})
		return response.StatusCode
	}
	bearer := func() http.Header {
		answer := w.want("fickle", http.MethodPost, "/v1/tokens", TokenOrder{Role: RoleViewer}, http.StatusOK, "")
		return http.Header{"Authorization": {"Bearer " + fmt.Sprint(answer["token"])}}
	}
	token, cookie := bearer(), http.Header{"Cookie": {w.session("fickle", RoleAdmin)}}
	for _, revoked := range []bool{false, true, false} {
		w.fickle.Store(revoked)
		want := http.StatusOK
		if revoked {
			want = http.StatusUnauthorized
		}
		for _, header := range []http.Header{token, cookie} {
			if got := look(header); got != want {
				t.Errorf("with its certificate revoked: %v, a token has %d", revoked, got)
			}
		}
	}
	end := w.as("fickle").TLS().Leaf.NotAfter
	w.mu.Lock()
	w.now = end.Add(-time.Minute)
	w.mu.Unlock()
	token = bearer()
	w.mu.Lock()
	w.now = end.Add(time.Minute)
	w.mu.Unlock()
	if got := look(token); got != http.StatusUnauthorized {
		t.Errorf("after its certificate a token has %d", got)
	}
}

// TestTokensAreBounded fills the table of one client.
func TestTokensAreBounded(t *testing.T) {
	t.Parallel()
	var kept tokens
	now := time.Now()
	for range maxTokens {
		_, err := kept.issue(token{until: now.Add(time.Second)}, now)
		if err != nil {
			t.Fatal(err)
		}
	}
	later := token{until: now.Add(time.Hour)}
	if _, err := kept.issue(later, now); muster.CodeOf(err) != muster.CodeBusy {
		t.Errorf("one too many: %v", err)
	}
	if _, err := kept.issue(token{client: mustertest.Name(t, muster.FlavourFQDN, "other.example.com"), until: now.Add(time.Second)}, now); err != nil {
		t.Errorf("of another client: %v", err)
	}
	if _, err := kept.issue(later, now.Add(time.Second)); err != nil || len(kept.kept) != 1 {
		t.Errorf("after their time: %v, %d kept", err, len(kept.kept))
	}
}

// TestIdempotency repeats requests under a key.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	send := func(as, key string, order any) (int, string) {
		response, body := w.send(request{identity: w.as(as), method: http.MethodPost, path: "/v1/commands", body: order, header: http.Header{"Idempotency-Key": {key}}})
		return response.StatusCode, string(body)
	}
	order := CommandOrder{ID: "1", EnroleeID: "//sp.example/1", Command: []string{"device", "1:coap://x"}}
	first, firstBody := send("operator", "k", order)
	again, againBody := send("operator", "k", order)
	if first != http.StatusOK || again != first || againBody != firstBody || len(w.orders) != 1 {
		t.Errorf("%d %s, then %d %s; %d orders", first, firstBody, again, againBody, len(w.orders))
	}
	if status, _ := send("admin", "k", order); status != http.StatusOK || len(w.orders) != 2 {
		t.Errorf("the key of another: %d, %d orders", status, len(w.orders))
	}
	order.ID = "2"
	if status, body := send("operator", "k", order); status != http.StatusConflict {
		t.Errorf("another request under the key: %d %s", status, body)
	}
	if status, body := send("operator", strings.Repeat("k", 65), order); status != http.StatusBadRequest {
		t.Errorf("a long key: %d %s", status, body)
	}
	for range 2 {
		if status, body := send("operator", "wrong", `{"unknown":1}`); status != http.StatusBadRequest {
			t.Errorf("a wrong request: %d %s", status, body)
		}
	}
	if status, _ := send("operator", "wrong", order); status != http.StatusOK {
		t.Errorf("a failure is remembered: %d", status)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	var m memory
	now := time.Now()
	enter := func(id remembered, at time.Time) bool {
		t.Helper()
		_, first, err := m.enter(id, muster.Digest{}, at)
		if err != nil {
			t.Fatal(err)
		}
		return first
	}
	other := remembered{who: mustertest.Name(t, muster.FlavourFQDN, "other.example.com"), key: "0"}
	enter(other, now)
	for i := range maxRemembered + 1 {
		if !enter(remembered{key: fmt.Sprint(i)}, now.Add(time.Duration(i))) {
			t.Fatal(i, "was there")
		}
	}
	if enter(other, now) || enter(remembered{key: "1"}, now) {
		t.Error("more is forgotten than the oldest of whoever has too many")
	}
	if !enter(remembered{key: "0"}, now) {
		t.Error("the oldest is remembered")
	}
	if !enter(remembered{key: "1", role: RoleViewer}, now) || !enter(remembered{key: "1", scope: Scope{Enrolees: tenantScope}}, now) {
		t.Error("what was answered to another role or scope is remembered")
	}
	if !enter(remembered{key: "0"}, now.Add(2*memoryTime)) || len(m.kept) != 1 {
		t.Errorf("after a day %d are kept", len(m.kept))
	}
}

// TestDocument compares what is served with docs/openapi.json, and every answer
// with its schema.
func TestDocument(t *testing.T) {
	t.Parallel()
	const file = "../docs/openapi.json"
	w := newWorld(t)
	text := append(slices.Clone(document(routes())), '\n')
	if os.Getenv("MUSTER_UPDATE") != "" {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadFile(file); err != nil || !bytes.Equal(kept, text) {
		t.Errorf("%s is not what the routes make (%v): run MUSTER_UPDATE=1 go test ./console", file, err)
	}
	var doc struct {
		Paths      map[string]map[string]operation
		Components struct{ Schemas map[string]map[string]any }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	pem, id := w.anchor()
	w.want("admin", http.MethodPost, "/v1/anchors", AnchorOrder{pem}, http.StatusOK, "")
	in := Instruction{Flavour: "fqdn", Name: "device.example.com", Anchors: []string{id}, EnroleeID: "//sp.example/1", Targets: []string{"maf.example.com"}}
	made := w.want("admin", http.MethodPost, "/v1/instructions", in, http.StatusOK, "")
	w.want("admin", http.MethodPost, "/v1/verdicts", Verdict{Verdict: "evict", EnroleeID: "//sp.example/1"}, http.StatusOK, "")
	for path, operations := range doc.Paths {
		if _, ok := operations["get"]; !ok || path == "/v1/events" {
			continue
		}
		response, body := w.send(request{identity: w.as("admin"), method: http.MethodGet, path: strings.ReplaceAll(path, "{id}", fmt.Sprint(made["id"]))})
		if response.StatusCode != http.StatusOK {
			t.Errorf("GET %s: %d", path, response.StatusCode)
		}
		var answer any
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatal(err)
		}
		schema := operations["get"].Responses["200"].Content["application/json"].Schema
		if err := conforms(answer, schema, doc.Components.Schemas); err != nil {
			t.Errorf("GET %s: %v in %s", path, err, body)
		}
	}
	w.sound.Store(true)
	_, done := w.do("admin", http.MethodPost, "/v1/reload", "{}")
	if err := conforms(done, doc.Components.Schemas["Reloaded"], doc.Components.Schemas); err != nil || len(done) == 0 {
		t.Errorf("POST /v1/reload: %v in %v", err, done)
	}
	_, refusal := w.do("viewer", http.MethodPost, "/v1/reload", "{}")
	if err := conforms(refusal, doc.Components.Schemas["Problem"], doc.Components.Schemas); err != nil {
		t.Error(err)
	}
}

type operation struct {
	Responses map[string]struct {
		Content map[string]struct{ Schema map[string]any }
	}
}

// conforms checks a value against as much of JSON Schema as the document has.
func conforms(value any, schema map[string]any, schemas map[string]map[string]any) error {
	if ref, ok := schema["$ref"].(string); ok {
		return conforms(value, schemas[strings.TrimPrefix(ref, "#/components/schemas/")], schemas)
	}
	if values, ok := schema["enum"].([]any); ok {
		if !slices.Contains(values, value) {
			return fmt.Errorf("%v is not one of %v", value, values)
		}
		return nil
	}
	kind, ok := schema["type"].(string)
	if !ok {
		return nil
	}
	switch v := value.(type) {
	case string:
		if schema["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339, v); err != nil {
				return err
			}
		}
		value = "string"
	case bool:
		value = "boolean"
	case float64:
		value = "integer"
	case []any:
		items, _ := schema["items"].(map[string]any)
		for _, item := range v {
			if err := conforms(item, items, schemas); err != nil {
				return err
			}
		}
		value = "array"
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				return fmt.Errorf("there is no %s", name)
			}
		}
		for name, member := range v {
			property, ok := properties[name].(map[string]any)
			if !ok {
				if property, ok = schema["additionalProperties"].(map[string]any); !ok {
					return fmt.Errorf("%s is not in the schema", name)
				}
			}
			if err := conforms(member, property, schemas); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		value = "object"
	}
	if value != kind {
		return fmt.Errorf("%v is not of type %s", value, kind)
	}
	return nil
}

// TestStrangersAreDismissed wants connections to end with what is answered to nobody.
func TestStrangersAreDismissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		as, path string
		closed   bool
	}{{"", "/livez", true}, {"", "/v1/whoami", true}, {"stranger", "/v1/whoami", true}, {"viewer", "/v1/whoami", false}, {"viewer", "/v1/audit", false}} {
		r := request{method: http.MethodGet, path: c.path}
		if c.as != "" {
			r.identity = w.as(c.as)
		}
		if response, _ := w.send(r); response.Close != c.closed {
			t.Errorf("%s as %q: the connection ends: %v", c.path, c.as, response.Close)
		}
	}
}

// TestBodiesAreBounded sends more than a request needs.
func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	verdict := Verdict{Verdict: banned, EnroleeID: "//sp.example/1", Reason: strings.Repeat("x", maxOne)}
	w.want("admin", http.MethodPost, "/v1/verdicts", verdict, http.StatusRequestEntityTooLarge, muster.CodeRequestMalformed)
	many := `{"instructions":[{}` + strings.Repeat(`,{}`, maxImport) + `]}`
	answer := w.want("operator", http.MethodPost, "/v1/instructions/import", many, http.StatusBadRequest, muster.CodeRequestMalformed)
	if want := fmt.Sprint("more than ", maxImport); !strings.Contains(fmt.Sprint(answer["detail"]), want) {
		t.Errorf("%v does not tell of %s", answer, want)
	}
	for _, wrong := range []string{`{"instructions":{}}`, `{"instructions":[1]}`, `{"instructions":[{"nam":""}]}`} {
		w.want("operator", http.MethodPost, "/v1/instructions/import", wrong, http.StatusBadRequest, muster.CodeRequestMalformed)
	}
}
