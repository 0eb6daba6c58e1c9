package maf_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/maf"
	"muster/primitive"
	"muster/tef"
)

// A line is a client's session with the MAF.
type line struct {
	*scene
	session *muster.Session
}

func (l *line) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	handler := primitive.HandlerFunc(func(ctx context.Context, session *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		return l.function.Serve(ctx, session, r, begin)
	})
	return primitive.Serve(ctx, handler, l.session, r, begin), nil
}

// attached is a client that the MAF knows, with a session that exports octets of
// its name, and that is registered.
func (s *scene) attached(name string) *tef.Requester {
	s.Helper()
	km := must(muster.NewKm([]byte(strings.Repeat(name, 32)[:32])))
	id := must(muster.ParseEnroleeID("//sp.example.com/" + name))
	credential := maf.Credential{
		KmID: km.KmID(mafFQDN), KeID: muster.NewKeID([16]byte([]byte(strings.Repeat(name, 16)[:16])), mefFQDN), EnroleeID: id, MAF: mafFQDN, Km: km,
		Created: begin, Expires: begin.Add(time.Hour), KeIDUntil: begin.Add(time.Hour),
	}
	if err := s.store.PutCredential(s.Context(), credential); err != nil {
		s.Fatal(err)
	}
	session := muster.NewSession(muster.Peer{PSKIdentity: credential.KmID.String()}, func(label string, _ []byte, n int) ([]byte, error) {
		return []byte(strings.Repeat(name+label, n)[:n]), nil
	})
	n := 0
	q := &tef.Requester{
		Party: tef.MAF(), Function: mafFQDN, From: id.String(), Wire: config().Wire, Doer: &line{s, session},
		RequestID: func() string { n++; return strconv.Itoa(n) },
	}
	if _, err := q.Register(s.Context(), tef.ClientRegistration{AdminFQDN: config().Administrators[0]}); err != nil {
		s.Fatal(err)
	}
	return q
}

func TestKeyFromOneClientToAnother(t *testing.T) {
	s := newScene(t)
	a, b, c := s.attached("a"), s.attached("b"), s.attached("c")
	wanted := tef.KeyRegistration{AdminFQDN: config().Administrators[0], Usage: tef.SUIDMAFForSAEF, Targets: []string{b.From}}
	made, err := a.RegisterKey(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	const label = "EXPORTER-oneM2M-Connection"
	octets := strings.Repeat("a"+label, 48)[:48]
	if relative := made.ID.Relative(); string(relative[:]) != octets[:16] {
		t.Errorf("the key identifier is %s", made.ID)
	}
	got, err := b.RetrieveKey(t.Context(), made.ID)
	if err != nil || string(got.Key.Reveal()) != octets[16:] || got.Source.String() != a.From {
		t.Errorf("retrieved %+v, %v", got, err)
	}
	if _, err := c.RetrieveKey(t.Context(), made.ID); primitive.StatusOf(err) != primitive.NotFound {
		t.Errorf("a client that is no target: %v", err)
	}
	if _, err := a.RegisterKey(t.Context(), wanted); primitive.StatusOf(err) != primitive.Conflict {
		t.Errorf("a second key from one session: %v", err)
	}
}
