package tlspsk

import (
	"bytes"
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"muster"
)

// TestRefusalTime has identities whose keys are found, or not found, after
// different times. On the clock of the test a refusal always takes the same one,
// and a success no more than it needs.
func TestRefusalTime(t *testing.T) {
	t.Parallel()
	for identity, search := range map[string]time.Duration{testIdentity: 0, "unknown-at-once": 0, "unknown-after-a-while": 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			cc, sc := config(t), config(t)
			sc.RefusalTime = 3 * time.Second
			sc.PSK = func(ctx context.Context, identity string) ([]byte, error) {
				time.Sleep(search)
				return findKey(ctx, identity)
			}
			cc.PSKIdentity = identity
			for _, wrong := range []bool{false, true} {
				if wrong {
					cc.Key = bytes.Repeat([]byte{1}, muster.KeySize)
				}
				begun, idle := time.Now(), time.Time{}
				sc.Idle = func(context.Context) { idle = time.Now() }
				err := over(t, cc, sc)
				if idle.IsZero() != (err == nil) || !idle.IsZero() && idle.Sub(begun) != search {
					t.Errorf("%s, wrong key %v: said to wait after %v", identity, wrong, idle.Sub(begun))
				}
				took, want := time.Since(begun), 3*time.Second
				if good := identity == testIdentity && !wrong; good != (err == nil) {
					t.Errorf("%s: %v", identity, err)
				} else if good {
					want = 0
				} else if muster.CodeOf(err) != muster.CodePeerAlert {
					t.Errorf("%s: the client has %v in place of an alert", identity, err)
				}
				if took != want {
					t.Errorf("%s, wrong key %v: %v, want %v", identity, wrong, took, want)
				}
			}
		})
	}
}

// over makes a handshake over a pipe and returns the client's error.
func over(t *testing.T, cc, sc Config) error {
	t.Helper()
	client, err := NewClient(cc)
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServer(sc)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = server.Handshake(t.Context(), b)
	}()
	_, err = client.Handshake(t.Context(), a)
	<-ended
	_, _ = a.Close(), b.Close()
	return err
}

func TestAccepts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		suites  []Suite
		offered []uint16
		want    bool
	}{
		{nil, []uint16{0xc02b, 0x00a8}, true},
		{nil, []uint16{0xc023, 0x00ae}, true},
		{nil, []uint16{0xc02b, 0x008c}, false},
		{nil, nil, false},
		{[]Suite{TLS_PSK_WITH_AES_128_GCM_SHA256}, []uint16{0x00ae}, false},
	} {
		server, err := NewServer(config(t, test.suites...))
		if err != nil {
			t.Fatal(err)
		}
		if got := server.Accepts(test.offered); got != test.want {
			t.Errorf("suites %v, offered %#04x: %v", test.suites, test.offered, got)
		}
	}
	c := config(t)
	c.RefusalTime = -1
	if _, err := NewServer(c); err == nil {
		t.Error("a negative refusal time")
	}
}
