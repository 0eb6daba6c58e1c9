package console

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

type fiveRefusals struct{}

func (fiveRefusals) Refusals(_ context.Context, page Page) (all []Refusal, err error) {
	begun := page.After == ""
	for i := range 5 {
		id := fmt.Sprint(i)
		if begun && len(all) < page.Limit {
			all = append(all, Refusal{ID: id, Code: muster.CodeExpired})
		}
		begun = begun || id == page.After
	}
	if !begun {
		return nil, ErrNoCursor
	}
	return all, nil
}

// world returns a server with one client for each role, and what sends requests.
func world(t *testing.T) (*mustertest.PKI, func(identity *mustertest.Identity, method, path string) (int, map[string]any)) {
	pki := mustertest.NewPKI(t)
	config := Config{Refusals: fiveRefusals{}, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return pki.Now }}
	for _, role := range Roles() {
		name := mustertest.Name(t, muster.FlavourFQDN, string(role)+".example.com")
		config.Clients = append(config.Clients, Client{Name: name, Anchors: pki.Trust(name, 0).Anchors, Role: role})
	}
	revoked := mustertest.Name(t, muster.FlavourFQDN, "revoked.example.com")
	config.Clients = append(config.Clients, Client{Name: revoked, Anchors: pki.Trust(revoked, 0).Anchors, Role: RoleAdmin,
		Status: func([]*x509.Certificate, time.Time) cert.Findings { return cert.Findings{{Code: muster.CodeRevoked}} }})
	server := New(config)
	listener := httptest.NewUnstartedServer(server)
	own := pki.Function(t, "console.example.com").TLS()
	listener.TLS = server.TLS(func() (*tls.Certificate, error) { return &own, nil })
	listener.StartTLS()
	t.Cleanup(listener.Close)
	return pki, func(identity *mustertest.Identity, method, path string) (int, map[string]any) {
		t.Helper()
		client := &tls.Config{InsecureSkipVerify: true}
		if identity != nil {
			client.Certificates = []tls.Certificate{identity.TLS()}
		}
		request, err := http.NewRequestWithContext(t.Context(), method, listener.URL+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: client}
		defer transport.CloseIdleConnections()
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var body map[string]any
		if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
			t.Fatalf("%s %s: %d, %v", method, path, response.StatusCode, err)
		}
		return response.StatusCode, body
	}
}

// TestEveryRouteAndRole sends every request as each role, as strangers and as nobody.
func TestEveryRouteAndRole(t *testing.T) {
	t.Parallel()
	pki, do := world(t)
	want := func(who string, identity *mustertest.Identity, path string, status int, code muster.Code) {
		t.Helper()
		got, body := do(identity, http.MethodGet, path)
		if text, _ := body["code"].(string); got != status || text != string(code) {
			t.Errorf("GET %s as %s: %d %v; want %d %s", path, who, got, body, status, code)
		}
	}
	other := mustertest.NewPKI(t)
	for _, r := range routes {
		for _, role := range Roles() {
			status, code := http.StatusOK, muster.Code("")
			if r.roles != nil && !slices.Contains(r.roles, role) {
				status, code = http.StatusForbidden, muster.CodeRequestNotAllowed
			}
			want(string(role), pki.Function(t, string(role)+".example.com"), r.path, status, code)
		}
		if r.roles == nil {
			want("nobody", nil, r.path, http.StatusOK, "")
			continue
		}
		want("nobody", nil, r.path, http.StatusUnauthorized, muster.CodeNoCertificate)
		want("a stranger", pki.Function(t, "stranger.example.com"), r.path, http.StatusUnauthorized, muster.CodeNameUnknown)
		want("a revoked operator", pki.Function(t, "revoked.example.com"), r.path, http.StatusUnauthorized, muster.CodeRevoked)
		want("an impostor", other.Function(t, "admin.example.com"), r.path, http.StatusUnauthorized, muster.CodeAnchorMismatch)
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

// TestPages follows the cursors, and sends parameters that are wrong.
func TestPages(t *testing.T) {
	t.Parallel()
	pki, do := world(t)
	viewer := pki.Function(t, "viewer.example.com")
	var seen []string
	for next := ""; ; {
		status, body := do(viewer, http.MethodGet, "/v1/refusals?limit=2"+next)
		if status != http.StatusOK {
			t.Fatal(status, body)
		}
		for _, item := range body["items"].([]any) {
			seen = append(seen, item.(map[string]any)["id"].(string))
		}
		after, more := body["next"].(string)
		if !more {
			break
		}
		next = "&after=" + after
	}
	if !slices.Equal(seen, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("the pages have %q", seen)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "limit=1&limit=2", "limit", "after=nothing", "Limit=1", "x=%00"} {
		if status, body := do(viewer, http.MethodGet, "/v1/refusals?"+query); status != http.StatusBadRequest || body["code"] != string(muster.CodeRequestMalformed) {
			t.Errorf("%s: %d %v", query, status, body)
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/refusals/", "/v1/../v2"} {
		if status, _ := do(nil, http.MethodGet, path); status != http.StatusNotFound {
			t.Errorf("GET %s: %d", path, status)
		}
	}
	if status, _ := do(viewer, http.MethodDelete, "/v1/refusals"); status != http.StatusNotFound {
		t.Errorf("DELETE: %d", status)
	}
}

func TestDocumentHasEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	var described struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(document, &described); err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, methods := range described.Paths {
		for method := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	for _, r := range routes {
		served = append(served, r.method+" "+r.path)
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("the document has %q, the server %q", documented, served)
	}
}
