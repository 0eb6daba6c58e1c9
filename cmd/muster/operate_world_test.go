package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/audit"
	"muster/console"
	"muster/mustertest"
)

// An operatorWorld is a function's interface for operators without the function.
type operatorWorld struct {
	t      *testing.T
	pki    *mustertest.PKI
	server *httptest.Server
	dir    string
	log    string // the audit log

	sound atomic.Bool // whether the function's configuration is

	mu     sync.Mutex
	rules  console.Rules // guarded by mu, as are all below
	orders []console.CommandOrder
	events []console.Event
	wake   chan struct{}         // closed and replaced with each event
	before func(r *http.Request) // sees requests before they are answered
}

const operatorServer = "mef.example.com"

// newOperatorWorld has operators for each role, in the files ROLE.yaml of dir.
func newOperatorWorld(t *testing.T) *operatorWorld {
	t.Helper()
	w := &operatorWorld{t: t, pki: mustertest.NewPKI(t), dir: t.TempDir(), wake: make(chan struct{})}
	var clients []console.Client
	for _, role := range console.Roles() {
		name := mustertest.Name(t, muster.FlavourFQDN, string(role)+".example.com")
		clients = append(clients, console.Client{Name: name, Anchors: w.pki.Trust(name, 0).Anchors, Role: role})
	}
	w.writeAudit()
	operators := console.New(console.Config{
		Clients: func() []console.Client { return clients }, Sources: w.sources(), Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		before := w.before
		w.mu.Unlock()
		if before != nil {
			before(r)
		}
		operators.ServeHTTP(rw, r)
	}))
	own := w.pki.Function(t, operatorServer).TLS()
	w.server.TLS = operators.TLS(func() (*tls.Certificate, error) { return &own, nil })
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	for _, role := range console.Roles() {
		w.configure(string(role), w.server.URL)
	}
	return w
}

// configure writes the configuration of an operator for a server.
func (w *operatorWorld) configure(name, url string) (file string) {
	w.t.Helper()
	chain, key := w.pki.Function(w.t, name+".example.com").WriteFiles(w.t)
	file = filepath.Join(w.dir, name+".yaml")
	must(w.t, os.WriteFile(file, fmt.Appendf(nil, "server: %s\nserver_name: %s\nca: %s\ncertificate: %s\nkey: %s\n", url, operatorServer, w.pki.Root.WriteFile(w.t), chain, key), 0o600))
	return file
}

// as runs muster admin as an operator with a role.
func (w *operatorWorld) as(role, stdin string, args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	var out, err bytes.Buffer
	line := append([]string{"admin", "--config", filepath.Join(w.dir, role+".yaml")}, args...)
	code = run(w.t.Context(), line, strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

// want runs muster admin as an admin, and wants an exit code and a text on the
// standard output or, if it fails, error.
func (w *operatorWorld) want(code int, text string, args ...string) string {
	w.t.Helper()
	got, stdout, stderr := w.as("admin", "", args...)
	where := stdout
	if code != exitOK {
		where = stderr
	}
	if got != code || !strings.Contains(where, text) {
		w.t.Errorf("muster admin %q: exit code %d\n%s%s\nwant %d and %q", args, got, stdout, stderr, code, text)
	}
	return stdout
}

// file writes a file and returns its path.
func (w *operatorWorld) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	must(w.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func (w *operatorWorld) writeAudit() {
	w.t.Helper()
	w.log = filepath.Join(w.dir, "audit.log")
	log, err := audit.Open(audit.Config{Path: w.log, Writer: operatorServer})
	must(w.t, err)
	for i := range 7 {
		must(w.t, log.Record(w.t.Context(), audit.Entry{Kind: audit.KindEnrolled, Who: "device:<1>", Enrolee: fmt.Sprintf("//sp.example/%d", i)}))
	}
	must(w.t, log.Close())
}

// listed returns pages of items.
func listed[T any](items func() []T, id func(T) string) console.List[T] {
	return func(_ context.Context, q console.Query) (page console.Page[T], err error) {
		all := items()
		if q.After != "" {
			i := slices.IndexFunc(all, func(item T) bool { return id(item) == q.After })
			if i < 0 {
				return page, console.ErrNoCursor
			}
			all = all[i+1:]
		}
		page.Items = all[:min(q.Limit, len(all))]
		if len(all) > q.Limit {
			page.Next = id(all[q.Limit-1])
		}
		return page, nil
	}
}

func (w *operatorWorld) sources() console.Sources {
	at := time.Now().UTC().Truncate(time.Second)
	return console.Sources{
		Overview: func(context.Context) (console.Overview, error) {
			return console.Overview{Function: operatorServer, Role: "mef", Version: "1", Started: at, Now: at,
				Checks:       []console.Check{{Name: "store", OK: true}, {Name: "certificate", Code: muster.CodeExpired, Detail: "yesterday"}},
				Certificates: []console.Certificate{{Use: "identity", ID: "ab", Subject: "CN=\x1b[31mmef", NotAfter: at.Add(time.Hour)}},
				Totals:       map[string]uint64{"enrolled": 7, "refused/expired": 2}, Minutes: []console.Bucket{{Start: at, Enrolled: 3}},
				Quarters: []console.Bucket{{Enrolled: 1}, {Enrolled: 4}, {}, {Enrolled: 8}}}, nil
		},
		Enrolments: listed(func() (all []console.Enrolment) {
			for i := range 700 {
				all = append(all, console.Enrolment{KeID: fmt.Sprintf("%04d@%s", i, operatorServer), EnroleeID: "//sp.example/1", MAF: "maf.example.com", State: "delivered", Created: at, Expires: at.Add(time.Hour)})
			}
			return all
		}, func(e console.Enrolment) string { return e.KeID }),
		Refusals: listed(func() []console.Refusal {
			return []console.Refusal{{ID: "00c0ffee", Time: at, Code: muster.CodeNameUnknown, Detail: "name-unknown: \x1b]0;x\a", Remote: "192.0.2.1:5"}}
		}, func(r console.Refusal) string { return r.ID }),
		Audit: listed(func() (lines []json.RawMessage) {
			text, err := os.ReadFile(w.log)
			if err != nil {
				w.t.Error(err)
			}
			for line := range bytes.Lines(text) {
				lines = append(lines, json.RawMessage(bytes.TrimSpace(line)))
			}
			return lines
		}, func(line json.RawMessage) string { return muster.DigestOf(line).String() }),
		Events: w, Rules: w,
		Explain: func(_ context.Context, id string) (json.RawMessage, error) {
			if id != "00c0ffee" {
				return nil, muster.Refuse(muster.CodeResourceUnknown, "there is no refusal %s", id)
			}
			return json.Marshal(explanation{Code: muster.CodeNameUnknown, Time: at, Certificate: "ab", Names: []string{"device:1"},
				Findings: []explainedFinding{{Level: "error", Code: muster.CodeNameUnknown, Subject: "chain", Detail: "nobody is \x1b[2Jcalled so", Rule: "rule", Remedy: "remedy"}}})
		},
		Queue: func(_ context.Context, order console.CommandOrder) (console.Queued, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.orders = append(w.orders, order)
			return console.Queued{Clients: 2}, nil
		},
		Reload: func(context.Context) (console.Reloaded, error) {
			if w.sound.Load() {
				return console.Reloaded{Read: map[string]int{"mafs": 1, "instructions": 2}, Identity: true, Restart: []string{"listen.tls"}}, nil
			}
			return console.Reloaded{}, muster.Refuse(muster.CodeConfiguration, "mef.yaml: it is wrong")
		},
	}
}

// Rules implements console.RuleKeeper, as do Edit and Check.
func (w *operatorWorld) Rules(context.Context) (configured, managed console.Rules, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	configured.Verdicts = []console.Verdict{{ID: "fixed", Verdict: "ban", EnroleeID: "//sp.example/thief", Origin: console.FromConfiguration}}
	return configured, w.rules, nil
}

func (w *operatorWorld) Edit(ctx context.Context, _ console.Act, try bool, edit func(console.Rules, *console.Rules) error) error {
	configured, managed, _ := w.Rules(ctx)
	copied := console.Rules{Anchors: slices.Clone(managed.Anchors), Instructions: slices.Clone(managed.Instructions), Verdicts: slices.Clone(managed.Verdicts)}
	if err := edit(configured, &copied); err != nil || try {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules = copied
	return nil
}

func (w *operatorWorld) Takes(in, group console.Instruction) bool { return false }

func (w *operatorWorld) Check(in console.Instruction) error {
	if len(in.Targets) == 0 {
		return muster.Refuse(muster.CodeConfiguration, "there is no target")
	}
	return nil
}

// happen lets an event happen.
func (w *operatorWorld) happen(e console.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
	close(w.wake)
	w.wake = make(chan struct{})
}

// Watch implements console.EventSource: it tells all events after the one numbered
// after, which is a position among them here.
func (w *operatorWorld) Watch(ctx context.Context, after uint64, tell func(console.Event) error) error {
	for {
		w.mu.Lock()
		wake := w.wake
		var news []console.Event
		for i, e := range w.events {
			if e.ID > after && e.ID != 0 {
				news = slices.Clone(w.events[i:])
				break
			}
		}
		w.mu.Unlock()
		for _, e := range news {
			if err := tell(e); err != nil {
				return err
			}
			after = e.ID
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
