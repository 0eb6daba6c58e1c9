package enrolee_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

// A hub is a MAF to which devices are attached already.
type hub struct {
	*testing.T
	service *tef.Service
	now     time.Time
	dials   int
	down    bool   // answers nothing
	renames string // a key identifier in place of the one exported
}

func newHub(t *testing.T) *hub {
	t.Helper()
	store := mustertest.NewMemory()
	return &hub{T: t, now: time.Unix(1_800_000_000, 0).UTC(), service: &tef.Service{
		Party: tef.MAF(), FQDN: must(muster.ParseFQDN("maf.example.com")), Wire: wire(), Store: store, Keys: store,
		Administrators: []muster.FQDN{admin()}, MaxKeys: 9, Rand: new(counter),
	}}
}

// A hubDevice is a device with a credential that works.
type hubDevice struct {
	*hub
	id muster.EnroleeID
}

func (d *hubDevice) Load(context.Context) (enrolee.Credentials, error) {
	return enrolee.Credentials{Current: &enrolee.Credential{
		KmID: must(muster.ParseKmID("AB@maf.example.com")), MAF: d.service.FQDN, Km: must(muster.NewKm(exported(1)[:32])), Expires: d.now.Add(time.Hour),
	}}, nil
}
func (d *hubDevice) Save(context.Context, enrolee.Credentials) error { return nil }
func (d *hubDevice) DialMEF(context.Context) (enrolee.Conn, error)   { return nil, errDown }
func (d *hubDevice) Session() *muster.Session                        { return nil }

func (d *hubDevice) DialMAF(_ context.Context, identity string, _ muster.Km) (enrolee.Conn, error) {
	d.dials++
	export := func(label string, _ []byte, n int) ([]byte, error) {
		return []byte(strings.Repeat(d.id.String()+label, n)[:n]), nil
	}
	ours, theirs := muster.NewSession(muster.Peer{}, export), muster.NewSession(muster.Peer{PSKIdentity: identity}, export)
	return &hubConn{d, ours, tef.Client{Identity: d.id.String(), ID: d.id, Expires: d.now.Add(time.Hour),
		Export: func(context.Context, muster.SUID, []string) (tef.ExportedKey, error) {
			kc, relative, err := muster.ConnectionKey(theirs)
			if d.renames != "" {
				copy(relative[:], d.renames)
			}
			return tef.ExportedKey{Relative: relative, Key: kc, Latest: d.now.Add(time.Hour)}, err
		}}, false}, nil
}

type hubConn struct {
	*hubDevice
	session *muster.Session
	client  tef.Client
	closed  bool
}

func (c *hubConn) Session() *muster.Session { return c.session }
func (c *hubConn) Close() error             { c.closed = true; return nil }
func (c *hubConn) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	if c.down || c.closed {
		c.closed = true
		return nil, errDown
	}
	return primitive.Serve(ctx, primitive.HandlerFunc(func(ctx context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		return c.service.Serve(ctx, c.client, r, c.now)
	}), nil, r, c.now), nil
}

func (h *hub) device(name string) *enrolee.Enrolee {
	h.Helper()
	d := &hubDevice{h, must(muster.ParseEnroleeID("//sp.example.com/" + name))}
	config := newWorld().config()
	config.EnroleeID, config.Now = d.id, func() time.Time { return h.now }
	return must(enrolee.New(config, d, d))
}

// registered is a device's session with the MAF, on which it is registered.
func (h *hub) registered(name string) *enrolee.Attachment {
	h.Helper()
	attachment := must(h.device(name).Attach(h.Context()))
	must(attachment.Mmaf().Register(h.Context(), tef.ClientRegistration{AdminFQDN: admin()}))
	return attachment
}

var forB = tef.KeyRegistration{Usage: tef.SUIDMAFForSAEF, Targets: []string{"//sp.example.com/b"}}

func TestKeyFromAttachmentToKeys(t *testing.T) {
	h := newHub(t)
	a := h.registered("a")
	made, err := a.RegisterKey(t.Context(), forB)
	if err != nil || made.Key.IsZero() || made.AdminFQDN != admin() {
		t.Fatalf("registered %+v, %v", made, err)
	}
	if _, err := a.RegisterKey(t.Context(), forB); muster.CodeOf(err) != muster.CodeAlreadyExported {
		t.Errorf("a second key of the session: %v", err)
	}
	dials := h.dials
	keys := enrolee.NewKeys(h.device("b"))
	for range 3 {
		if got, err := keys.RetrieveKey(t.Context(), made.ID); err != nil || !got.Key.Equal(made.Key) {
			t.Errorf("retrieved %+v, %v", got, err)
		}
	}
	if h.dials != dials+1 {
		t.Errorf("%d sessions for three keys", h.dials-dials)
	}
	for id, want := range map[tef.KeyID]muster.Code{
		tef.NewKeyID([16]byte{9}, h.service.FQDN):                                  muster.CodeKeyUnknown,
		tef.NewKeyID([16]byte{9}, must(muster.ParseFQDN("other-maf.example.com"))): muster.CodeMAFNotListed,
	} {
		if _, err := keys.RetrieveKey(t.Context(), id); muster.CodeOf(err) != want {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
	if err := keys.Close(); err != nil {
		t.Error(err)
	}
	if _, err := keys.RetrieveKey(t.Context(), made.ID); err != nil {
		t.Errorf("after Close, which ends the session alone: %v", err)
	}
}

func TestLostSessionIsOpenedAgain(t *testing.T) {
	h := newHub(t)
	made := must(h.registered("a").RegisterKey(t.Context(), forB))
	keys := enrolee.NewKeys(h.device("b"))
	must(keys.RetrieveKey(t.Context(), made.ID))
	h.down = true
	if _, err := keys.RetrieveKey(t.Context(), made.ID); muster.CodeOf(err) != muster.CodeMAFUnreachable {
		t.Errorf("while the MAF is down: %v", err)
	}
	h.down = false
	dials := h.dials
	if _, err := keys.RetrieveKey(t.Context(), made.ID); err != nil || h.dials != dials+1 {
		t.Errorf("when it is back: %v, %d sessions", err, h.dials-dials)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	h.down = true
	if _, err := keys.RetrieveKey(ended, made.ID); muster.CodeOf(err) != muster.CodeMAFUnreachable {
		t.Errorf("a caller that gives up: %v", err)
	}
}

func TestMAFThatRenamesAKey(t *testing.T) {
	h := newHub(t)
	a := h.registered("a")
	h.renames = "another identifi"
	if made, err := a.RegisterKey(t.Context(), forB); muster.CodeOf(err) != muster.CodeRegistrationWrong || !made.Key.IsZero() {
		t.Errorf("registered %+v, %v", made, err)
	}
	brought := forB
	brought.Key = must(muster.NewKc(exported(2)[:32]))
	if made, err := a.RegisterKey(t.Context(), brought); err != nil || !made.Key.Equal(brought.Key) {
		t.Errorf("a key that the device brings: %+v, %v", made, err)
	}
}

func TestKeyRegistrationThatIsRefused(t *testing.T) {
	h := newHub(t)
	a := must(h.device("a").Attach(t.Context()))
	if _, err := a.RegisterKey(t.Context(), forB); muster.CodeOf(err) != muster.CodePeerRefused {
		t.Errorf("without a client registration: %v", err)
	}
}
