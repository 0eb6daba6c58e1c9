package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"muster/binding/websocket"
	"muster/cert"
	"muster/handshake"
	"muster/primitive"
	"muster/tef"
)

// A device registers over WebSocket, in JSON and in CBOR, and a MEF that stops
// tells the connections that are still open.
func TestRegistrationOverWebSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	stop := w.startMEF()
	wire, err := primitive.NewWire(primitive.WireConfig{})
	must(t, err)
	for n, format := range []primitive.Format{primitive.JSON, primitive.CBOR} {
		config := w.deviceConfig(n, overTLS)
		client := w.webSocket(t, config, format)
		mmef := tef.Requester{
			Party: tef.MEF(), Function: w.mef.FQDN, From: config.EnroleeID.String(), Wire: wire, Doer: client, RequestID: rand.Text,
		}
		made, err := mmef.Register(t.Context(), tef.ClientRegistration{AdminFQDN: config.AdminFQDN, Labels: []string{"websocket"}})
		must(t, err)
		got, err := mmef.Registration(t.Context(), made.ID)
		must(t, err)
		if len(got.Labels) != 1 || got.Labels[0] != "websocket" || got.ClientID != config.EnroleeID {
			t.Errorf("%v: %+v", format, got)
		}
		if err := mmef.Deregister(t.Context(), made.ID); err != nil {
			t.Error(err)
		}
		_, err = mmef.Registration(t.Context(), made.ID)
		if refused, ok := errors.AsType[*primitive.Error](err); !ok || refused.Status != primitive.NotFound {
			t.Errorf("%v: after its end: %v", format, err)
		}
	}
	stop() // fails the test if a connection keeps it
}

// webSocket is a session of a device with the MEF, upgraded.
func (w *world) webSocket(t *testing.T, config *enroleeConfig, f primitive.Format) *websocket.Client {
	t.Helper()
	identity, err := config.Identity.load()
	must(t, err)
	verify, err := verifyServer(config.MEF, cert.ProfileOneM2M, nil)
	must(t, err)
	dialer, err := handshake.NewClient(handshake.Config{
		Name: w.mef.FQDN, Identity: func() (*tls.Certificate, error) { return identity, nil }, VerifyStapled: verify, Protocols: []string{handshake.ProtocolHTTP1},
	})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	socket, err := new(net.Dialer).DialContext(ctx, "tcp", w.mefAddresses.TLS)
	must(t, err)
	conn, err := dialer.Handshake(ctx, socket)
	must(t, err)
	client, err := websocket.Dial(ctx, conn, websocket.ClientConfig{Authority: w.mef.FQDN.String(), Format: f})
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}
