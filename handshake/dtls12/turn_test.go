package dtls12_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/mustertest"
)

// turns notes which turns a server takes, and how many have not ended.
type turns struct {
	taken  []handshake.Stage // by the server's handshake
	open   atomic.Int32
	refuse error // the turn at
	at     handshake.Stage
}

func (t *turns) take(_ context.Context, at handshake.Stage) (func(), error) {
	t.taken = append(t.taken, at)
	if t.refuse != nil && at == t.at {
		return nil, t.refuse
	}
	t.open.Add(1)
	return func() { t.open.Add(-1) }, nil
}

// TestTurns has a server ask for its turns before it computes, and give back each.
func TestTurns(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	t.Run("certificates", func(t *testing.T) {
		t.Parallel()
		var turns turns
		config := p.config(t, serverName)
		config.Turn = turns.take
		atServer, atClient := meet(t, newServer(t, config), newClient(t, p.config(t, "device.example.com")), mustertest.Loss{})
		export(t, atServer)
		export(t, atClient)
		if !slices.Equal(turns.taken, []handshake.Stage{handshake.Unproved, handshake.Newcomer, handshake.Begun}) || turns.open.Load() != 0 {
			t.Errorf("the turns were %v, of which %d have not ended", turns.taken, turns.open.Load())
		}
	})
	t.Run("key", func(t *testing.T) {
		t.Parallel()
		var turns turns
		config, client := keyConfig(t)
		config.Turn = turns.take
		atServer, _ := meet(t, newServer(t, config), newClient(t, client), mustertest.Loss{})
		export(t, atServer)
		if !slices.Equal(turns.taken, []handshake.Stage{handshake.Unproved, handshake.Newcomer}) || turns.open.Load() != 0 {
			t.Errorf("the turns were %v, of which %d have not ended", turns.taken, turns.open.Load())
		}
	})
}

// TestNoTurn has a server without capacity: it signs nothing and looks nothing up,
// forgets the client and tells it nothing, so that the client comes back later.
func TestNoTurn(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	certificates, device := p.config(t, serverName), p.config(t, "device.example.com")
	certificates.Identity = func() (*tls.Certificate, error) {
		t.Error("the server's certificate was asked for")
		return nil, errors.New("not now")
	}
	keys, keyDevice := keyConfig(t)
	keys.PSK = func(context.Context, string) ([]byte, error) {
		t.Error("the key was looked up")
		return nil, errors.New("not now")
	}
	for name, configs := range map[string][2]dtls12.Config{"certificates": {certificates, device}, "key": {keys, keyDevice}} {
		for last, taken := range [][]handshake.Stage{{handshake.Unproved}, {handshake.Unproved, handshake.Newcomer}} {
			t.Run(fmt.Sprint(name, " ", last+1), func(t *testing.T) {
				t.Parallel()
				turns := turns{refuse: muster.Refuse(muster.CodeBusy, "no turn"), at: taken[last]}
				server, client := configs[0], configs[1]
				server.Turn, client.Timeout = turns.take, time.Second
				atServer, atClient := meet(t, newServer(t, server), newClient(t, client), mustertest.Loss{})
				wantCode(t, atServer.err, muster.CodeBusy)
				wantCode(t, atClient.err, muster.CodeHandshakeTimeout)
				if !slices.Equal(turns.taken, taken) {
					t.Errorf("the turns were %v", turns.taken)
				}
			})
		}
	}
}

// TestTurnEndsWithoutAnAnswer has a hello and a key to which a server says nothing: no
// turn lasts longer than it computes.
func TestTurnEndsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	client := newClient(t, p.config(t, "device.example.com"))
	keys, wrong := keyConfig(t)
	wrong.PSKKey = func() []byte { return make([]byte, 32) }
	wrong.Timeout = time.Second
	keys.FlightInterval, wrong.FlightInterval = time.Minute, time.Minute // nobody says anything twice
	for name, tt := range map[string]struct {
		config dtls12.Config
		last   handshake.Stage
		come   func(to net.Addr)
	}{
		"hello": {p.config(t, serverName), handshake.Unproved, func(to net.Addr) {
			hello := firstHello(t, client)
			rest := hello[25+2+32:] // after version and random: session, cookie, suites, compression, extensions
			rest = rest[1+rest[0]:]
			rest = rest[1+rest[0]:]
			rest = rest[2+binary.BigEndian.Uint16(rest):]
			rest = rest[1+rest[0]:]
			rest[0]++ // the extensions end after the message
			send(t, socket(t), to, hello)
		}},
		"key": {keys, handshake.Newcomer, func(to net.Addr) {
			wantCode(t, dial(t, newClient(t, wrong), to).err, muster.CodeHandshakeTimeout)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			left := make(chan handshake.Stage, 2)
			tt.config.Turn = func(_ context.Context, at handshake.Stage) (func(), error) {
				return sync.OnceFunc(func() { left <- at }), nil
			}
			tt.config.CookieTimeout = time.Minute
			listener := listen(t, dtls12.Limits{})
			ended := serve(t, listener, newServer(t, tt.config))
			tt.come(listener.Addr())
			for at := range left {
				if at == tt.last {
					break
				}
			}
			select {
			case r := <-ended:
				t.Errorf("the handshake has ended: %v", r.err)
			default:
			}
		})
	}
}

// TestTurnTooLate has a handshake given up while it waits for its turn: the turn
// that it is given then ends at once, and the client, which is to come back, is told
// nothing.
func TestTurnTooLate(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	var turns turns
	config := p.config(t, serverName)
	given := make(chan struct{})
	config.Turn = func(ctx context.Context, at handshake.Stage) (func(), error) {
		<-ctx.Done()
		defer close(given)
		return turns.take(ctx, at)
	}
	config.Timeout = 200 * time.Millisecond
	client := p.config(t, "device.example.com")
	client.Timeout = time.Second
	atServer, atClient := meet(t, newServer(t, config), newClient(t, client), mustertest.Loss{})
	wantCode(t, atServer.err, muster.CodeHandshakeTimeout)
	wantCode(t, atClient.err, muster.CodeHandshakeTimeout)
	<-given
	if turns.open.Load() != 0 {
		t.Error("a handshake that was given up keeps its turn")
	}
}
