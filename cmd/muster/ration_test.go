package main

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"muster"
	"muster/handshake"
	"muster/metrics"
)

func TestRationBoundsEachNetwork(t *testing.T) {
	t.Parallel()
	var fetches ration
	now := time.Unix(1_000_000, 0)
	from := func(ip string) context.Context {
		return withSource(t.Context(), &net.UDPAddr{IP: net.ParseIP(ip), Port: 5684})
	}
	take := func(ip string, want muster.Code) {
		t.Helper()
		if got := muster.CodeOf(fetches.take(from(ip), now)); got != want {
			t.Fatalf("%s: %q, not %q", ip, got, want)
		}
	}
	for range fetchBurst {
		take("192.0.2.1", "")
	}
	take("192.0.2.77", muster.CodeBusy) // the same /24
	take("::ffff:192.0.2.1", muster.CodeBusy)
	take("198.51.100.1", "")
	now = now.Add(fetchInterval)
	take("192.0.2.1", "")
	take("192.0.2.1", muster.CodeBusy)
	for range 2 * fetchBurst {
		take("127.0.0.1", "")
		take("::1", "")
	}
}

// TestRationForgets has more networks ask than are remembered.
func TestRationForgets(t *testing.T) {
	t.Parallel()
	var fetches ration
	now, shed := time.Unix(1_000_000, 0), 0
	ask := func(n int) {
		addr := &net.TCPAddr{IP: net.IPv4(11, byte(n>>8), byte(n), 1)}
		if fetches.take(withSource(t.Context(), addr), now) != nil {
			shed++
		}
	}
	for n := range 2 * maxSources {
		ask(n)
	}
	if len(fetches.spent) != maxSources+1 || shed != maxSources-fetchBurst {
		t.Errorf("%d networks are remembered, %d fetches refused", len(fetches.spent), shed)
	}
	now = now.Add(fetchBurst * fetchInterval)
	shed = 0
	for n := range maxSources {
		ask(2*maxSources + n)
	}
	if len(fetches.spent) > maxSources || shed != 0 {
		t.Errorf("%d networks are remembered, %d fetches refused after a while", len(fetches.spent), shed)
	}
}

// TestFetchesAreRationed lets a stranger use up its ration with a KeID that it
// made up, which is faster than the ration is restored on any machine as the
// refusal is remembered, and then a client from elsewhere come with a genuine one.
func TestFetchesAreRationed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	device := w.device(w.deviceConfig(0, overTLS))
	enrolled, err := device.Enrol(t.Context())
	must(t, err)
	store, err := openStore(t.Context(), w.maf.Store)
	must(t, err)
	defer func() { _ = store.Close() }()
	identity, err := w.maf.Identity.open(w.maf.FQDN)
	must(t, err)
	function, mefs, err := newMAF(w.maf, store, identity.get, nil, metrics.New(metrics.MAF), nil)
	must(t, err)
	defer func() { _ = mefs.close() }()
	psk := mafRole(function, newLogger(w.mafLog), w.ledger.observer(), nil).psk

	stranger := withSource(t.Context(), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)})
	madeUp := muster.NewKeID([16]byte{1}, w.mef.FQDN).String()
	tries := await(t, "the stranger has no bound", func() (tries int, busy bool) {
		for range 10 * fetchBurst {
			tries++
			if _, err := psk(stranger, madeUp); muster.CodeOf(err) == muster.CodeBusy {
				return tries, true
			}
		}
		return tries, false
	})
	if tries <= fetchBurst {
		t.Errorf("the stranger was refused at its try %d", tries)
	}
	client := withSource(t.Context(), &net.TCPAddr{IP: net.IPv4(198, 51, 100, 1)})
	if _, err := psk(client, enrolled.KeID.String()); err != nil {
		t.Errorf("a client from elsewhere: %v", err)
	}
	if _, err := psk(stranger, enrolled.KeID.String()); err != nil {
		t.Errorf("a key that the MAF has is refused: %v", err)
	}
}

// A fixedServer notes the context of a handshake, which it ends.
type fixedServer struct{ heard chan context.Context }

func (s fixedServer) Handshake(ctx context.Context, conn net.Conn) (*handshake.Conn, error) {
	s.heard <- ctx
	return nil, errors.Join(errors.New("no handshake here"), conn.Close())
}

func TestEntranceTellsTheSource(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	door := &entrance{log: newLogger(newJournal()), turns: newTurnstile(1)}
	server := fixedServer{make(chan context.Context, 1)}
	go func() { _ = door.acceptTLS(t.Context(), listener, server) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	if got, want := (<-server.heard).Value(sourceKey{}), networkOf(conn.LocalAddr()); got != want {
		t.Errorf("the source is %v, not %v", got, want)
	}
	must(t, conn.Close())
	must(t, listener.Close())
	door.wait(t.Context())
}
