package entity_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/entity"
	"muster/tef"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	begin = time.Unix(1_800_000_000, 0).UTC()
	maf   = must(muster.ParseFQDN("maf.example.com"))
	known = tef.NewKeyID([16]byte{1}, maf)
	kc    = must(muster.NewKc([]byte(strings.Repeat("k", 32))))
)

// A mafStub is the MAF as an entity meets it.
type mafStub struct {
	calls atomic.Int32
	key   tef.KeyRegistration
	delay time.Duration
	err   error
}

func (m *mafStub) RetrieveKey(ctx context.Context, id tef.KeyID) (tef.KeyRegistration, error) {
	m.calls.Add(1)
	if m.delay > 0 {
		select {
		case <-time.After(m.delay):
		case <-ctx.Done():
			return tef.KeyRegistration{}, muster.Refuse(muster.CodeMAFUnreachable, "%w", ctx.Err())
		}
	}
	if m.err != nil {
		return tef.KeyRegistration{}, m.err
	}
	if id != known {
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeKeyUnknown, "none")
	}
	return m.key, nil
}

type scene struct {
	*testing.T
	maf    *mafStub
	entity *entity.Entity
}

func config() entity.Config {
	return entity.Config{MAFs: []muster.FQDN{maf}, Usage: tef.SUIDMAFForSAEF, Timeout: 3 * time.Second, RefusalMemory: 30 * time.Second, MaxKeys: 2}
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, maf: &mafStub{key: tef.KeyRegistration{
		ID: known, Key: kc, Usage: tef.SUIDMAFForSAEF, Source: must(muster.ParseEnroleeID("//sp.example.com/a")), Expires: begin.Add(time.Hour),
	}}}
	s.entity = must(entity.New(config(), s.maf))
	return s
}

func (s *scene) wantPSK(what, identity string, after time.Duration, want muster.Code) {
	s.Helper()
	key, err := s.entity.PSK(s.Context(), identity, begin.Add(after))
	if got := muster.CodeOf(err); got != want || err == nil && !key.Equal(kc) || err != nil && !key.IsZero() {
		s.Errorf("%s: code %q (%v), want %q", what, got, err, want)
	}
}

func (s *scene) wantCalls(what string, want int32) {
	s.Helper()
	if got := s.maf.calls.Load(); got != want {
		s.Errorf("%s: the MAF was asked %d times, not %d", what, got, want)
	}
}

func TestKeyIsRetrievedOnceAndKept(t *testing.T) {
	s := newScene(t)
	for range 3 {
		s.wantPSK("known", known.String(), 0, "")
	}
	s.wantPSK("known, in lower case", strings.ToLower(known.String()), time.Minute, "")
	s.wantCalls("all", 1)
	session := muster.NewSession(muster.Peer{PSKIdentity: known.String()}, nil)
	if peer, err := s.entity.Peer(session, begin); err != nil || peer.Source.String() != "//sp.example.com/a" {
		t.Errorf("the peer is %+v, %v", peer, err)
	}
	s.entity.Forget(known)
	if _, err := s.entity.Peer(session, begin); muster.CodeOf(err) != muster.CodeKeyExpired {
		t.Errorf("forgotten: %v", err)
	}
	s.wantPSK("after it was forgotten", known.String(), 0, "")
	s.wantCalls("after it was forgotten", 2)
}

func TestExpiredKeyIsNotUsed(t *testing.T) {
	s := newScene(t)
	s.wantPSK("known", known.String(), 0, "")
	s.wantPSK("at its end", known.String(), time.Hour, muster.CodeKeyExpired)
	session := muster.NewSession(muster.Peer{PSKIdentity: known.String()}, nil)
	if _, err := s.entity.Peer(session, begin.Add(time.Hour)); muster.CodeOf(err) != muster.CodeKeyExpired {
		t.Errorf("a session after the end of its key: %v", err)
	}
}

func TestIdentitiesThatAreRefusedWithoutAsking(t *testing.T) {
	s := newScene(t)
	for identity, want := range map[string]muster.Code{
		"": muster.CodeKeyUnknown, "x": muster.CodeKeyUnknown, "x@maf.example.com": muster.CodeKeyUnknown, strings.Repeat("a", 5000): muster.CodeKeyUnknown,
		tef.NewKeyID([16]byte{1}, must(muster.ParseFQDN("maf.example.net"))).String(): muster.CodeMAFNotListed,
	} {
		s.wantPSK(identity, identity, 0, want)
	}
	s.wantCalls("none of them", 0)
	if _, err := s.entity.Peer(muster.NewSession(muster.Peer{}, nil), begin); muster.CodeOf(err) != muster.CodeKeyUnknown {
		t.Errorf("a session without an identity: %v", err)
	}
}

func TestAnswersThatDoNotFit(t *testing.T) {
	for what, spoil := range map[string]func(*tef.KeyRegistration){
		"another usage":      func(r *tef.KeyRegistration) { r.Usage = tef.SUIDMAFForESPrim },
		"another identifier": func(r *tef.KeyRegistration) { r.ID = tef.NewKeyID([16]byte{2}, maf) },
		"no key":             func(r *tef.KeyRegistration) { r.Key = muster.Kc{} },
		"no source":          func(r *tef.KeyRegistration) { r.Source = muster.EnroleeID{} },
		"over":               func(r *tef.KeyRegistration) { r.Expires = begin },
	} {
		s := newScene(t)
		spoil(&s.maf.key)
		if key, err := s.entity.PSK(t.Context(), known.String(), begin); err == nil || !key.IsZero() {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestRefusalIsRememberedAndFailureIsNot(t *testing.T) {
	s := newScene(t)
	unknown := tef.NewKeyID([16]byte{9}, maf).String()
	for range 5 {
		s.wantPSK("unknown", unknown, 0, muster.CodeKeyUnknown)
	}
	s.wantCalls("repeated", 1)
	s.wantPSK("later", unknown, 30*time.Second, muster.CodeKeyUnknown)
	s.wantCalls("later", 2)
	s.maf.err = errors.New("down")
	if _, err := s.entity.PSK(t.Context(), known.String(), begin); err == nil {
		t.Error("a key from a MAF that is down")
	}
	s.maf.err = nil
	s.wantPSK("up", known.String(), 0, "")
	s.wantCalls("down and up", 4)
}

func TestHandshakesShareARetrieval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.maf.delay = time.Second
		first, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for n := range 50 {
			ctx := t.Context()
			if n == 0 {
				ctx = first
			}
			group.Go(func() {
				if key, err := s.entity.PSK(ctx, known.String(), begin); err != nil || !key.Equal(kc) {
					t.Errorf("handshake %d: %v", n, err)
				}
			})
		}
		synctest.Wait()
		cancel() // the first to come gives up, and ends the retrieval for nobody
		group.Wait()
		s.wantCalls("fifty at once", 1)
	})
}

func TestRetrievalEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.maf.delay = time.Hour
		start := time.Now()
		s.wantPSK("slow", known.String(), 0, muster.CodeMAFUnreachable)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the retrieval took %s", took)
		}
	})
}

// everyKey is a MAF that has a key for every identifier.
type everyKey struct{ calls atomic.Int32 }

func (m *everyKey) RetrieveKey(_ context.Context, id tef.KeyID) (tef.KeyRegistration, error) {
	m.calls.Add(1)
	return tef.KeyRegistration{ID: id, Key: kc, Usage: tef.SUIDMAFForSAEF, Source: must(muster.ParseEnroleeID("//sp.example.com/a")), Expires: begin.Add(time.Hour)}, nil
}

func TestKeptKeysAreBounded(t *testing.T) {
	all := &everyKey{}
	e := must(entity.New(config(), all))
	ask := func(n byte) {
		if _, err := e.PSK(t.Context(), tef.NewKeyID([16]byte{n}, maf).String(), begin); err != nil {
			t.Error(err)
		}
	}
	for n := range byte(5) {
		ask(n)
	}
	if n := e.Kept(); n != 2 {
		t.Errorf("%d keys are kept, not 2", n)
	}
	ask(4)
	if got := all.calls.Load(); got != 5 {
		t.Errorf("the MAF was asked %d times, and the newest key is dropped", got)
	}
}

func TestIncompleteConfigurations(t *testing.T) {
	for what, spoil := range map[string]func(*entity.Config){
		"MAFs": func(c *entity.Config) { c.MAFs = nil }, "usage": func(c *entity.Config) { c.Usage = 0 },
		"timeout": func(c *entity.Config) { c.Timeout = 0 }, "maximum": func(c *entity.Config) { c.MaxKeys = 0 },
	} {
		c := config()
		spoil(&c)
		if _, err := entity.New(c, &mafStub{}); err == nil {
			t.Errorf("made with a wrong %s", what)
		}
	}
}
