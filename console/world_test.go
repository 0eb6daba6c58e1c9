package console

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

// A world is a console with one client for each role, and what it is fed with.
type world struct {
	t      *testing.T
	pki    *mustertest.PKI
	server *Server
	url    string

	mu         sync.Mutex
	now        time.Time
	configured Rules
	managed    Rules
	acts       []Act
	// contradiction is what is wrong with all rules together, if anything is.
	contradiction error
	orders        []CommandOrder
	unlisted      Role        // whose client is gone
	fickle        atomic.Bool // whether that client's certificate is revoked
	sound         atomic.Bool // whether the configuration is
	evil          string      // stands in every text, if it is set
	events        chan Event
	identities    map[string]*mustertest.Identity // by name under example.com
}

const nobody = "//nobody.example/"

const tenantScope = "//tenant.example/"

func newWorld(t *testing.T) *world {
	t.Helper()
	pki := mustertest.NewPKI(t)
	w := &world{t: t, pki: pki, now: pki.Now, events: make(chan Event, 8), identities: map[string]*mustertest.Identity{}}
	var clients []Client
	add := func(name string, role Role, scope Scope) *Client {
		as := mustertest.Name(t, muster.FlavourFQDN, name+".example.com")
		clients = append(clients, Client{Name: as, Anchors: pki.Trust(as, 0).Anchors, Role: role, Scope: scope})
		return &clients[len(clients)-1]
	}
	for _, role := range Roles() {
		add(string(role), role, Scope{})
	}
	stakeholder, err := muster.ParseFQDN("tenant.example")
	if err != nil {
		t.Fatal(err)
	}
	add("tenant", RoleOperator, Scope{stakeholder, tenantScope})
	add("small", RoleOperator, Scope{stakeholder, tenantScope}).MaxInstructions = 2
	add("fickle", RoleAdmin, Scope{}).Status = func([]*x509.Certificate, time.Time) cert.Findings {
		if w.fickle.Load() {
			return cert.Findings{{Code: muster.CodeRevoked}}
		}
		return nil
	}
	add("revoked", RoleAdmin, Scope{}).Status = func([]*x509.Certificate, time.Time) cert.Findings { return cert.Findings{{Code: muster.CodeRevoked}} }
	w.server = New(Config{
		Clients: func() []Client {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.DeleteFunc(slices.Clone(clients), func(c Client) bool { return w.unlisted != "" && c.Role == w.unlisted })
		},
		Sources: w.sources(), Logger: slog.New(slog.DiscardHandler), Now: w.clock,
	})
	listener := httptest.NewUnstartedServer(w.server)
	own := pki.Function(t, "console.example.com").TLS()
	listener.TLS = w.server.TLS(func() (*tls.Certificate, error) { return &own, nil })
	listener.StartTLS()
	t.Cleanup(listener.Close)
	w.url = listener.URL
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// five returns five items, and pages of them.
func five[T any](item func(i int, id string) T) List[T] {
	return func(_ context.Context, q Query) (page Page[T], err error) {
		begun := q.After == ""
		for i := range 5 {
			id := fmt.Sprint(i)
			if begun && len(page.Items) == q.Limit {
				page.Next = fmt.Sprint(i - 1)
				return page, nil
			}
			if begun {
				page.Items = append(page.Items, item(i, id))
			}
			begun = begun || id == q.After
		}
		if !begun {
			return page, ErrNoCursor
		}
		return page, nil
	}
}

func (w *world) sources() Sources {
	at := w.pki.Now
	or := func(text string) string {
		if w.evil != "" {
			return w.evil
		}
		return text
	}
	return Sources{
		Overview: func(context.Context) (Overview, error) { return w.overview(or), nil },
		Enrolments: func(ctx context.Context, q Query) (Page[Enrolment], error) {
			page, err := five(func(i int, id string) Enrolment {
				return Enrolment{KeID: or(id + "@mef.example.com"), EnroleeID: or("//sp.example/" + id), MAF: or("maf.example.com"), State: or("delivered"), Certificate: or(strings.Repeat("a", 64)), Created: at, Expires: at.Add(time.Hour), Fetched: &at, Fetches: i}
			})(ctx, q)
			if wanted, ok := q.Filter["ke_id"]; ok {
				page.Items = slices.DeleteFunc(page.Items, func(e Enrolment) bool { return e.KeID != wanted })
				for _, e := range page.Items[:min(len(page.Items), 1)] { // for another target, that has not asked
					e.MAF, e.State, e.Fetched, e.Fetches = or("maf-2.example.com"), or("issued"), nil, 0
					page.Items = append(page.Items, e)
				}
			}
			return page, err
		},
		Credentials: five(func(_ int, id string) Credential {
			return Credential{KmID: or("m" + id), KeID: or(id), EnroleeID: or("//sp.example/" + id), State: or("delivered"), Created: at, Expires: at, KeIDUntil: at}
		}),
		Kpms: five(func(_ int, id string) Kpm { return Kpm{KpmID: id, Created: at} }),
		Registrations: five(func(_ int, id string) Registration {
			return Registration{ID: id, ClientID: or("//sp.example/" + id), Stakeholder: or("sp.example"), Labels: []string{or("a")}, Created: at, Modified: at, Expires: at}
		}),
		Keys: five(func(_ int, id string) Key {
			return Key{ID: or(id), Source: or("//sp.example/" + id), Targets: []string{or("b")}, Labels: []string{or("c")}, Created: at, Modified: at, Expires: at}
		}),
		Commands: five(func(_ int, id string) Command {
			description, _ := json.Marshal(map[string]any{"class": or("1")})
			return Command{ID: or(id), EnroleeID: or("//sp.example/" + id), Status: 10, Description: description, Created: at, Changed: at}
		}),
		Refusals: five(func(_ int, id string) Refusal {
			return Refusal{ID: or(id), Time: at, Code: muster.CodeExpired, Detail: or("it expired"), Remote: or("192.0.2.1:1"), Transport: "tls", Certificate: strings.Repeat("0", 64)}
		}),
		Audit: five(func(_ int, id string) json.RawMessage {
			entry, _ := json.Marshal(map[string]any{"seq": 1, "time": at, "ke_id": or("0@mef.example.com"), "kind": "enrolled", "who": or("fqdn:a.example.com"), "what": or("x")})
			return entry
		}),
		Events: w,
		Rules:  w,
		Explain: func(context.Context, string) (json.RawMessage, error) {
			return json.Marshal(object{"accepted": false, "code": "expired", "time": at, "subject": or("CN=device"), "names": []string{or("fqdn:device.example.com")},
				"findings": []object{{"level": "error", "code": "expired", "subject": or("leaf"), "detail": or("it ended"), "rule": "r", "remedy": "m"}},
				"nearest":  object{"rule": or("near"), "differs": or("it is for another"), "anchors": []string{or("CN=root")}}})
		},
		Queue: func(_ context.Context, order CommandOrder) (Queued, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.orders = append(w.orders, order)
			if order.Prefix == nobody {
				return Queued{}, nil
			}
			return Queued{1}, nil
		},
		Reload: w.reload,
		Record: func(_ context.Context, act Act) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.acts = append(w.acts, act)
			return nil
		},
	}
}

// reload is what the function does when it is told to read its configuration again.
func (w *world) reload(context.Context) (Reloaded, error) {
	if !w.sound.Load() {
		return Reloaded{}, muster.Refuse(muster.CodeConfiguration, "it is wrong")
	}
	return Reloaded{Read: map[string]int{"instructions": 3, "mafs": 1}, Identity: true, Restart: []string{"listen.tls"}}, nil
}

// overview returns an Overview with the texts that or makes.
func (w *world) overview(or func(string) string) Overview {
	at := w.pki.Now
	o := Overview{
		Function: or("mef.example.com"), Role: or("mef"), Version: or("1"), Started: at.Add(-26 * time.Hour), Now: at,
		Checks: []Check{{Name: "store", OK: true}, {Name: or("certificate"), OK: w.evil == "", Code: muster.CodeExpired, Detail: or("")}},
		Certificates: []Certificate{
			{or("identity"), strings.Repeat("a", 64), or("CN=mef.example.com,O=Example"), at.Add(12 * 24 * time.Hour)},
			{"anchor", strings.Repeat("b", 64), "CN=Factory root", at.Add(900 * 24 * time.Hour)},
		},
		Totals: map[string]uint64{"enrolled": 48123, "fetched": 47001, "refused": 412, "refused/expired": 230, "refused/anchor-mismatch": 91, "refused/name-unknown": 64, "refused/clone-suspected": 3},
	}
	if w.evil != "" {
		o.Totals = map[string]uint64{"refused/" + w.evil: 1}
	}
	bucket := func(start time.Time, n int) Bucket {
		return Bucket{Start: start, Enrolled: uint64(9 + n*n%17), Fetched: uint64(7 + n*n%11), Refused: uint64(n * n % 7 / 3)}
	}
	for i := range 60 {
		o.Minutes = append(o.Minutes, bucket(at.Add(time.Duration(i-59)*time.Minute), i))
	}
	for i := range 96 {
		o.Quarters = append(o.Quarters, bucket(at.Add(time.Duration(i-95)*15*time.Minute), i))
	}
	return o
}

// Watch implements EventSource.
func (w *world) Watch(ctx context.Context, _ uint64, tell func(Event) error) error {
	for {
		select {
		case e := <-w.events:
			if err := tell(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Rules implements RuleKeeper, as do Edit, Check and Takes.
func (w *world) Rules(context.Context) (configured, managed Rules, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.configured, w.managed, nil
}

func (w *world) Edit(_ context.Context, act Act, try bool, edit func(Rules, *Rules) error) error {
	configured, managed, _ := w.Rules(context.Background())
	copied := Rules{slices.Clone(managed.Anchors), slices.Clone(managed.Instructions), slices.Clone(managed.Verdicts)}
	if err := edit(configured, &copied); err != nil || try {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.contradiction != nil {
		return w.contradiction
	}
	w.acts = append(w.acts, act)
	w.managed = copied
	return nil
}

func (w *world) Check(in Instruction) error {
	if len(in.Targets) == 0 {
		return muster.Refuse(muster.CodeConfiguration, "there is no target")
	}
	return nil
}

func (w *world) Takes(in, group Instruction) bool {
	return strings.HasPrefix(in.Name+in.Pattern, strings.TrimSuffix(group.Pattern, "*"))
}

// as returns the identity of a client with a name under example.com.
func (w *world) as(name string) *mustertest.Identity {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.identities[name] == nil {
		w.identities[name] = w.pki.Function(w.t, name+".example.com")
	}
	return w.identities[name]
}

// A request is what a test sends.
type request struct {
	identity     *mustertest.Identity
	method, path string
	body         any // marshalled, if it is no string
	header       http.Header
}

// send returns the response, whose body it has read.
func (w *world) send(r request) (*http.Response, []byte) {
	w.t.Helper()
	text, ok := r.body.(string)
	if !ok && r.body != nil {
		octets, err := json.Marshal(r.body)
		if err != nil {
			w.t.Fatal(err)
		}
		text = string(octets)
	}
	client := &tls.Config{InsecureSkipVerify: true}
	if r.identity != nil {
		client.Certificates = []tls.Certificate{r.identity.TLS()}
	}
	sent, err := http.NewRequestWithContext(w.t.Context(), r.method, w.url+r.path, strings.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	sent.Header.Set("Content-Type", "application/json")
	for name, values := range r.header {
		sent.Header[name] = values
	}
	transport := &http.Transport{TLSClientConfig: client}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(sent)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response, body
}

// do sends a request as a client and returns the status and the JSON object.
func (w *world) do(name, method, path string, body any) (int, map[string]any) {
	w.t.Helper()
	var identity *mustertest.Identity
	if name != "" {
		identity = w.as(name)
	}
	response, text := w.send(request{identity: identity, method: method, path: path, body: body})
	var answer map[string]any
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&answer); err != nil {
		w.t.Fatalf("%s %s: %d %q: %v", method, path, response.StatusCode, text, err)
	}
	return response.StatusCode, answer
}

// want sends a request as a client, and wants a status and a code.
func (w *world) want(name, method, path string, body any, status int, code muster.Code) map[string]any {
	w.t.Helper()
	got, answer := w.do(name, method, path, body)
	if text, _ := answer["code"].(string); got != status || text != string(code) {
		w.t.Errorf("%s %s as %s: %d %v; want %d %s", method, path, name, got, answer, status, code)
	}
	return answer
}

// anchor returns a root in PEM, and its identifier.
func (w *world) anchor() (text, id string) {
	name := mustertest.Name(w.t, muster.FlavourFQDN, "device.example.com")
	root := w.pki.Trust(name, 0).Anchors[0]
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})), muster.DigestOf(root.Raw).String()
}
