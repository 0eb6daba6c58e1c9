package dtls12_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/mustertest"
)

// TestPanicEndsOneHandshake has a fault in what judges the peers, which pion calls
// in a goroutine of its own.
func TestPanicEndsOneHandshake(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	serverConfig, clientConfig := p.config(t, serverName), p.config(t, "device.example.com")
	serverConfig.Verify = func([]*x509.Certificate) (muster.Peer, error) { panic("a fault in Verify") }
	atServer, atClient := meet(t, newServer(t, serverConfig), newClient(t, clientConfig), mustertest.Loss{})
	wantFault(t, atServer, "a fault in Verify")
	wantCode(t, atClient.err, muster.CodePeerAlert)

	serverConfig, clientConfig = keyConfig(t)
	serverConfig.PSK = func(context.Context, string) ([]byte, error) { panic("a fault in PSK") }
	serverConfig.Timeout, clientConfig.Timeout = time.Second, time.Second
	atServer, atClient = meet(t, newServer(t, serverConfig), newClient(t, clientConfig), mustertest.Loss{})
	wantFault(t, atServer, "a fault in PSK")
	if atClient.err == nil {
		t.Error("the client has a session")
	}
}

func wantFault(t *testing.T, r result, fault string) {
	t.Helper()
	wantCode(t, r.err, muster.CodeHandshakeFailed)
	if r.err != nil && !strings.Contains(r.err.Error(), fault) {
		t.Errorf("the error does not tell the fault: %v", r.err)
	}
}
