package enrolee_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/primitive"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var errDown = errors.New("no answer")

// A world is a MEF and a MAF as a device meets them, a clock that only Sleep
// moves, and a keyring in memory.
type world struct {
	now      time.Time
	kept     enrolee.Credentials
	saves    int
	saveErr  error
	enrolled int
	dialled  []string // psk_identities
	slept    []time.Duration
	chance   float64

	mefDown, mafDown bool
	mefSilent        bool          // completes the handshake and answers nothing
	kmIDFails        bool          // refuses sessions under the newest KmID
	lifetime         time.Duration // of what the MAF registers
	clientID, kmID   string        // answers of the MAF in place of the right ones
	retired          string        // a KeID that the MAF refuses
	retryAfter       time.Duration
}

func newWorld() *world {
	return &world{now: time.Unix(1_800_000_000, 0).UTC(), lifetime: 24 * time.Hour, chance: 0.5}
}

func wire() *primitive.Wire { return must(primitive.NewWire(primitive.WireConfig{})) }

func (w *world) config() enrolee.Config {
	return enrolee.Config{
		EnroleeID: must(muster.ParseEnroleeID("//sp.example.com/dev")), MEF: must(muster.ParseFQDN("mef.example.com")),
		MAF: must(muster.ParseFQDN("maf.example.com")), AdminFQDN: must(muster.ParseFQDN("admin.example.com")),
		Derivation: muster.ProfileMasterCredential, Wire: wire(),
		Now: func() time.Time { return w.now }, Rand: func() float64 { return w.chance },
		Sleep: func(ctx context.Context, d time.Duration) error {
			w.slept = append(w.slept, d)
			w.now = w.now.Add(d)
			return ctx.Err()
		},
	}
}

func (w *world) device(t *testing.T) *enrolee.Enrolee {
	t.Helper()
	e, err := enrolee.New(w.config(), w, w)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) Load(context.Context) (enrolee.Credentials, error) {
	return enrolee.Credentials{Current: clone(w.kept.Current), Next: clone(w.kept.Next)}, nil
}

func (w *world) Save(_ context.Context, c enrolee.Credentials) error {
	if w.saveErr != nil {
		return w.saveErr
	}
	w.saves++
	w.kept = enrolee.Credentials{Current: clone(c.Current), Next: clone(c.Next)}
	return nil
}

func clone(c *enrolee.Credential) *enrolee.Credential {
	if c == nil {
		return nil
	}
	copied := *c
	return &copied
}

// exported is what the n-th handshake with the MEF exports.
func exported(n int) []byte { return bytes.Repeat([]byte{byte(n)}, 48) }

func (w *world) km(n int) muster.Km {
	ke := must(muster.NewKe(exported(n)[16:]))
	return must(ke.MasterCredential(muster.ProfileMasterCredential, w.config().MAF))
}

func (w *world) DialMEF(context.Context) (enrolee.Conn, error) {
	if w.mefDown {
		return nil, &enrolee.RetryError{After: w.retryAfter, Err: errDown}
	}
	w.enrolled++
	octets := exported(w.enrolled)
	session := muster.NewSession(muster.Peer{}, func(string, []byte, int) ([]byte, error) { return octets, nil })
	return &conn{w, session, ""}, nil
}

func (w *world) DialMAF(_ context.Context, identity string, km muster.Km) (enrolee.Conn, error) {
	w.dialled = append(w.dialled, identity)
	if w.mafDown || identity == w.retired || !km.Equal(w.kmOf(identity)) || w.kmIDFails && identity == w.km(w.enrolled).KmID(w.config().MAF).String() {
		return nil, errDown
	}
	return &conn{w, muster.NewSession(muster.Peer{PSKIdentity: identity}, nil), identity}, nil
}

func (w *world) kmOf(identity string) muster.Km {
	for n := 1; n <= w.enrolled; n++ {
		if identity == w.keID(n) || identity == w.km(n).KmID(w.config().MAF).String() {
			return w.km(n)
		}
	}
	return muster.Km{}
}

func (w *world) keID(n int) string {
	return muster.NewKeID([16]byte(exported(n)[:16]), w.config().MEF).String()
}

type conn struct {
	w        *world
	session  *muster.Session
	identity string
}

func (c *conn) Session() *muster.Session { return c.session }
func (c *conn) Close() error             { return nil }

func (c *conn) Do(_ context.Context, r *primitive.Request) (*primitive.Response, error) {
	if c.identity == "" && c.w.mefSilent {
		return nil, errDown
	}
	if r.Operation != primitive.Create {
		return &primitive.Response{Status: primitive.NotFound}, nil // any answer will do
	}
	if c.w.clientID == "busy" {
		return &primitive.Response{Status: primitive.RequestTimeout, RetryAfter: c.w.retryAfter}, nil
	}
	if c.w.clientID == "refuse" {
		return &primitive.Response{Status: primitive.OriginatorHasNoPrivilege}, nil
	}
	resource := primitive.NewResource(primitive.KindMAFClientReg).
		Set(primitive.ExpirationTime, c.w.now.Add(c.w.lifetime)).
		Set(primitive.ClientID, "//sp.example.com/dev").
		Set(primitive.AssignedSymmKeyID, c.w.km(c.w.enrolled).KmID(c.w.config().MAF).String())
	if c.w.clientID != "" {
		resource.Set(primitive.ClientID, c.w.clientID)
	}
	if c.w.kmID != "" {
		resource.Set(primitive.AssignedSymmKeyID, c.w.kmID)
	}
	content, err := wire().Encode(resource)
	return &primitive.Response{Status: primitive.Created, Content: content}, err
}

func TestEnrolAndAttach(t *testing.T) {
	w := newWorld()
	attachment, err := w.device(t).Ensure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kmID := w.km(1).KmID(w.config().MAF)
	if attachment.Credential.KmID != kmID || attachment.Credential.KeID.String() != w.keID(1) {
		t.Errorf("attached with %+v", attachment.Credential)
	}
	if got, want := fmt.Sprint(w.dialled), fmt.Sprint([]string{w.keID(1), kmID.String()}); got != want {
		t.Errorf("dialled %s, want %s", got, want)
	}
	if w.kept.Next != nil || w.kept.Current == nil || !w.kept.Current.Km.Equal(w.km(1)) {
		t.Errorf("kept %+v", w.kept)
	}
	w.dialled, w.mefDown = nil, true
	if _, err := w.device(t).Ensure(t.Context()); err != nil || fmt.Sprint(w.dialled) != "["+kmID.String()+"]" {
		t.Errorf("attached again with %v: %v", w.dialled, err)
	}
}

func TestOldCredentialServesUntilTheNewOneIsProved(t *testing.T) {
	w := newWorld()
	device := w.device(t)
	if _, err := device.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kmIDFails = true
	if _, err := device.Enrol(t.Context()); err != nil {
		t.Fatal(err)
	}
	attachment, err := device.Attach(t.Context())
	if err != nil || !attachment.Credential.Km.Equal(w.km(1)) {
		t.Fatalf("the old credential does not serve: %v", err)
	}
	if w.kept.Current == nil || !w.kept.Current.Km.Equal(w.km(1)) || w.kept.Next == nil {
		t.Fatalf("kept %+v", w.kept)
	}
	w.kmIDFails = false
	attachment, err = device.Attach(t.Context())
	if err != nil || !attachment.Credential.Km.Equal(w.km(2)) || w.kept.Next != nil || !w.kept.Current.Km.Equal(w.km(2)) {
		t.Errorf("the new credential did not take over: %v", err)
	}
}

func TestUnconfirmedEnrolmentIsForgotten(t *testing.T) {
	w := newWorld()
	w.mefSilent = true
	if _, err := w.device(t).Enrol(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("got %v", err)
	}
	if w.saves != 0 {
		t.Error("an enrolment that the MEF may not have stored was kept")
	}
	config := w.config()
	config.Unconfirmed = true
	if _, err := must(enrolee.New(config, w, w)).Enrol(t.Context()); err != nil || w.saves != 1 {
		t.Errorf("unconfirmed: %v", err)
	}
}

func TestRegistrationMustBeOurs(t *testing.T) {
	for name, change := range map[string]func(*world){
		"another Enrolee-ID": func(w *world) { w.clientID = "//sp.example.com/other" },
		"no Enrolee-ID":      func(w *world) { w.clientID = "x" },
		"another MAF's KmID": func(w *world) { w.kmID = "A@other.example.com" },
		"no KmID":            func(w *world) { w.kmID = "A" },
		"expired":            func(w *world) { w.lifetime = 0 },
		"refused":            func(w *world) { w.clientID = "refuse" },
	} {
		w := newWorld()
		change(w)
		if _, err := w.device(t).Ensure(t.Context()); err == nil {
			t.Errorf("%s: attached", name)
		}
		if w.kept.Current != nil || len(w.dialled) != 1 {
			t.Errorf("%s: kept %+v after %v", name, w.kept, w.dialled)
		}
	}
}

func TestExpiredCredentialIsNotUsed(t *testing.T) {
	w := newWorld()
	device := w.device(t)
	if _, err := device.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(w.lifetime)
	if _, err := device.Attach(t.Context()); !errors.Is(err, enrolee.ErrNotEnrolled) {
		t.Errorf("got %v", err)
	}
	if _, err := device.Ensure(t.Context()); err != nil || w.enrolled != 2 {
		t.Errorf("enrolled %d times: %v", w.enrolled, err)
	}
}

func TestFailedSaveKeepsNothingNew(t *testing.T) {
	w := newWorld()
	w.saveErr = errors.New("disk full")
	if _, err := w.device(t).Ensure(t.Context()); !errors.Is(err, w.saveErr) || len(w.dialled) != 0 {
		t.Errorf("dialled %v: %v", w.dialled, err)
	}
}

// maintain runs Maintain for a number of events.
func maintain(t *testing.T, w *world, events int, each func(n int, e enrolee.Event)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := w.device(t).Maintain(ctx, func(e enrolee.Event) {
		n++
		each(n, e)
		if n == events {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || n != events {
		t.Fatalf("ended after %d events: %v", n, err)
	}
}

func TestMaintainRenewsBeforeExpiry(t *testing.T) {
	w := newWorld()
	maintain(t, w, 6, func(n int, e enrolee.Event) {
		if e.Err != nil {
			t.Fatalf("event %d: %v", n, e.Err)
		}
		if left := e.Credential.Expires.Sub(w.now) - e.Wait; left < w.lifetime/10 {
			t.Errorf("event %d: only %s are left at renewal", n, left)
		}
		if e.Wait < w.lifetime/2 {
			t.Errorf("event %d: renewal after %s", n, e.Wait)
		}
	})
	if w.enrolled != 6 {
		t.Errorf("enrolled %d times in 6 lifetimes", w.enrolled)
	}
}

func TestMaintainBacksOff(t *testing.T) {
	w := newWorld()
	w.mefDown, w.chance = true, 0.999999
	previous := time.Duration(0)
	maintain(t, w, 14, func(n int, e enrolee.Event) {
		if !errors.Is(e.Err, errDown) || e.Wait < previous || e.Wait > 15*time.Minute {
			t.Errorf("event %d: %v, waits %s after %s", n, e.Err, e.Wait, previous)
		}
		previous = e.Wait
	})
	if w.slept[0] > 2*time.Second || w.slept[13] < 14*time.Minute {
		t.Errorf("slept from %s to %s", w.slept[0], w.slept[13])
	}
	w = newWorld()
	w.mefDown, w.chance = true, 0
	maintain(t, w, 3, func(_ int, e enrolee.Event) {
		if e.Wait != 0 {
			t.Errorf("full jitter never waits %s at chance 0", e.Wait)
		}
	})
	w.retryAfter = time.Minute
	maintain(t, w, 1, func(_ int, e enrolee.Event) {
		if e.Wait != time.Minute {
			t.Errorf("asked to wait a minute, waits %s", e.Wait)
		}
	})
	w = newWorld()
	w.clientID, w.chance = "busy", 0
	for asked, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, 1000 * time.Hour: time.Hour} {
		w.retryAfter = asked
		maintain(t, w, 1, func(_ int, e enrolee.Event) {
			if e.Wait != want {
				t.Errorf("asked by a refusal to wait %s, waits %s: %v", asked, e.Wait, e.Err)
			}
		})
	}
}

func TestMaintainEnrolsAgainWhenTheNewCredentialFails(t *testing.T) {
	w := newWorld()
	w.mafDown = true
	maintain(t, w, 8, func(n int, e enrolee.Event) {
		if n == 7 {
			w.mafDown = false
		}
		if ok := n == 8; ok != (e.Err == nil) {
			t.Errorf("event %d: %v", n, e.Err)
		}
	})
	if w.enrolled != 3 {
		t.Errorf("enrolled %d times, not once for every third failure", w.enrolled)
	}
}

func TestIncompleteConfigurations(t *testing.T) {
	w := newWorld()
	for name, spoil := range map[string]func(*enrolee.Config){
		"Enrolee-ID": func(c *enrolee.Config) { c.EnroleeID = muster.EnroleeID{} },
		"MEF":        func(c *enrolee.Config) { c.MEF = muster.FQDN{} },
		"MAF":        func(c *enrolee.Config) { c.MAF = muster.FQDN{} },
		"admin":      func(c *enrolee.Config) { c.AdminFQDN = muster.FQDN{} },
		"clock":      func(c *enrolee.Config) { c.Now = nil },
		"sleep":      func(c *enrolee.Config) { c.Sleep = nil },
		"chance":     func(c *enrolee.Config) { c.Rand = nil },
		"wire":       func(c *enrolee.Config) { c.Wire = nil },
	} {
		c := w.config()
		spoil(&c)
		if _, err := enrolee.New(c, w, w); err == nil {
			t.Errorf("made without %s", name)
		}
	}
}

func TestErrorsNameNoKey(t *testing.T) {
	w := newWorld()
	w.mafDown = true
	_, err := w.device(t).Ensure(t.Context())
	if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, fmt.Sprintf("%x", w.km(1).Reveal())) {
		t.Error(text)
	}
}
