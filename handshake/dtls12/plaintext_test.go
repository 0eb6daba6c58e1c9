package dtls12_test

import (
	"testing"
	"time"

	"muster/handshake"
	"muster/handshake/dtls12"
)

// plaintextRecord returns a record of epoch 0, as anybody can write one who knows
// the two addresses, with a sequence number that is not used yet.
func plaintextRecord(kind byte, body ...byte) []byte {
	const sequence = 200
	return append([]byte{kind, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, sequence, 0, byte(len(body))}, body...)
}

// TestPlaintextAfterTheHandshake has a stranger who forges the address of one end
// send unprotected records to the other. None may end the connection (RFC 6347
// 4.1.2.7).
func TestPlaintextAfterTheHandshake(t *testing.T) {
	t.Parallel()
	serverConfig, clientConfig := keyConfig(t)
	for name, record := range map[string][]byte{
		"application data":           plaintextRecord(23, 1),
		"fatal alert":                plaintextRecord(21, 2, 40),
		"close_notify":               plaintextRecord(21, 1, 0),
		"alert of one octet":         plaintextRecord(21, 2),
		"unknown type":               plaintextRecord(99, 1),
		"malformed change of cipher": plaintextRecord(20, 2),
		"empty change of cipher":     plaintextRecord(20),
		"octets after a record":      append(plaintextRecord(21, 2, 40), 1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener := listen(t, dtls12.Limits{})
			ended := serve(t, listener, newServer(t, serverConfig))
			conn := socket(t)
			atClient, err := newClient(t, clientConfig).Handshake(t.Context(), conn, listener.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer atClient.Close()
			atServer := <-ended
			if atServer.err != nil {
				t.Fatal(atServer.err)
			}
			defer atServer.conn.Close()
			send(t, conn, listener.Addr(), record)
			wantOctets(t, atClient, atServer.conn)
		})
		t.Run(name+" to the client", func(t *testing.T) {
			t.Parallel()
			near, far := socket(t), socket(t)
			ended := make(chan result, 1)
			go func() {
				conn, err := newServer(t, serverConfig).Handshake(t.Context(), far, near.LocalAddr())
				ended <- result{conn, err}
			}()
			atClient, err := newClient(t, clientConfig).Handshake(t.Context(), near, far.LocalAddr())
			if err != nil {
				t.Fatal(err)
			}
			defer atClient.Close()
			atServer := <-ended
			if atServer.err != nil {
				t.Fatal(atServer.err)
			}
			defer atServer.conn.Close()
			send(t, far, near.LocalAddr(), record)
			wantOctets(t, atServer.conn, atClient)
		})
	}
}

func wantOctets(t *testing.T, from, to *handshake.Conn) {
	t.Helper()
	const text = "still here"
	if _, err := from.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	octets := make([]byte, 100)
	if n, err := to.Read(octets); err != nil || string(octets[:n]) != text {
		t.Errorf("read %q, %v", octets[:n], err)
	}
}
