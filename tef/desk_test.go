package tef_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

// A desk is a function with its stores, as clients meet it: every request and
// response passes through JSON or CBOR on its way.
type desk struct {
	*testing.T
	service *tef.Service
	store   *watched
	now     time.Time
	format  primitive.Format
	pairs   []pair
}

// A pair is a request and the response to it, as golden files keep them.
type pair struct {
	Name     string          `json:"name"`
	Request  json.RawMessage `json:"request"`
	Response json.RawMessage `json:"response"`
}

// counter is a source of identifiers that are the same in every run.
type counter struct{ n byte }

func (c *counter) Read(p []byte) (int, error) {
	c.n++
	for i := range p {
		p[i] = c.n
	}
	return len(p), nil
}

// A watched store notes which calls it gets.
type watched struct {
	*mustertest.Memory
	mu    sync.Mutex
	calls []string // guarded by mu
}

func (w *watched) note(call string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, call)
}

func (w *watched) Key(ctx context.Context, id tef.KeyID, identity string, now time.Time) (tef.KeyRegistration, error) {
	w.note("Key")
	return w.Memory.Key(ctx, id, identity, now)
}

func (w *watched) Registration(ctx context.Context, function muster.FQDN, c muster.EnroleeID, id string, now time.Time) (tef.ClientRegistration, error) {
	w.note("Registration")
	return w.Memory.Registration(ctx, function, c, id, now)
}

func (w *watched) DeleteKey(ctx context.Context, id tef.KeyID, source muster.EnroleeID) error {
	w.note("DeleteKey")
	return w.Memory.DeleteKey(ctx, id, source)
}

func newDesk(t *testing.T, party tef.Party) *desk {
	t.Helper()
	store := &watched{Memory: mustertest.NewMemory()}
	d := &desk{T: t, store: store, now: now, format: primitive.JSON}
	d.service = &tef.Service{
		Party: party, FQDN: must(muster.ParseFQDN("maf.example.com")), Wire: must(primitive.NewWire(primitive.WireConfig{})),
		Store: store, Keys: store, Administrators: []muster.FQDN{admin()}, MaxKeys: 4, Rand: new(counter), RetryDuration: time.Hour,
	}
	if party == tef.MEF() {
		d.service.FQDN, d.service.Commands = must(muster.ParseFQDN("mef.example.com")), store
	}
	return d
}

func admin() muster.FQDN { return must(muster.ParseFQDN("admin.example.com")) }

// exported is what both ends of a client's session export.
func exported(name string) ([muster.RelativeSize]byte, muster.Kc) {
	digest := sha256.Sum256([]byte(name))
	return [muster.RelativeSize]byte(digest[:]), must(muster.NewKc(digest[:]))
}

// source is a client that can register keys, once from its session.
func (d *desk) source(name string) tef.Client {
	c := client(name)
	c.KmID = muster.KmID{}
	spent := false
	c.Export = func(context.Context, muster.SUID, []string) (tef.ExportedKey, error) {
		if spent {
			return tef.ExportedKey{}, muster.Refuse(muster.CodeAlreadyExported, "a second time")
		}
		spent = true
		relative, kc := exported(name)
		return tef.ExportedKey{Relative: relative, Key: kc, Latest: c.Expires}, nil
	}
	return c
}

// A line is a client's session with the desk.
type line struct {
	*desk
	client tef.Client
	name   string // of the next pair, which is kept if it is not empty
}

func (l *line) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	request := must(primitive.DecodeRequest(l.format, must(r.Encode(l.format))))
	handler := primitive.HandlerFunc(func(ctx context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		return l.service.Serve(ctx, l.client, r, l.now)
	})
	response := primitive.Serve(ctx, handler, nil, request, l.now)
	if l.name != "" {
		l.pairs = append(l.pairs, pair{l.name, must(r.Encode(primitive.JSON)), must(response.Encode(primitive.JSON))})
		l.name = ""
	}
	return primitive.DecodeResponse(l.format, must(response.Encode(l.format)))
}

// call returns the client's end of a session.
func (d *desk) call(c tef.Client) (*line, *tef.Requester) {
	l, n := &line{desk: d, client: c}, 0
	return l, &tef.Requester{
		Party: d.service.Party, Function: d.service.FQDN, From: c.Identity, Wire: d.service.Wire, Doer: l,
		RequestID: func() string { n++; return strconv.Itoa(n) },
	}
}

// registered is a client that is registered for the administrator.
func (d *desk) registered(name string) (tef.Client, *line, *tef.Requester) {
	d.Helper()
	c := d.source(name)
	l, q := d.call(c)
	if _, err := q.Register(d.Context(), tef.ClientRegistration{AdminFQDN: admin()}); err != nil {
		d.Fatal(err)
	}
	return c, l, q
}

var update = flag.Bool("update", false, "write the golden files anew")

// wantPairs compares what passed with a golden file.
func (d *desk) wantPairs(file string) {
	d.Helper()
	got := must(json.MarshalIndent(d.pairs, "", "  "))
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			d.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		d.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(got), bytes.TrimSpace(want)) {
		d.Errorf("%s differs; got\n%s", file, got)
	}
}

func wantRefusal(t *testing.T, what string, err error, want primitive.Status) {
	t.Helper()
	if refusal, ok := errors.AsType[*primitive.Error](err); !ok || refusal.Status != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
