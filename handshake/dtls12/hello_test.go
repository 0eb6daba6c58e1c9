package dtls12

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pion/dtls/v3/pkg/protocol"
	"github.com/pion/dtls/v3/pkg/protocol/extension"
	"github.com/pion/dtls/v3/pkg/protocol/handshake"

	"muster"
)

// clientHello returns the body of a ClientHello for name.
func clientHello(t testing.TB, name string) []byte {
	t.Helper()
	message := handshake.MessageClientHello{
		Version: protocol.Version1_2, CipherSuiteIDs: []uint16{0xc0ae},
		CompressionMethods: []*protocol.CompressionMethod{{}},
		Extensions:         []extension.Extension{&extension.UseExtendedMasterSecret{Supported: true}, &extension.ServerName{ServerName: name}},
	}
	body, err := message.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// datagram returns one record with octets [from, to) of a hello's body.
func datagram(body []byte, sequence uint16, from, to int) []byte {
	var message []byte
	put24 := func(n int) { message = append(message, byte(n>>16), byte(n>>8), byte(n)) }
	message = append(message, typeClientHello)
	put24(len(body))
	message = binary.BigEndian.AppendUint16(message, sequence)
	put24(from)
	put24(to - from)
	message = append(message, body[from:to]...)
	record := []byte{recordHandshake, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0}
	record = binary.BigEndian.AppendUint16(record, uint16(len(message)))
	return append(record, message...)
}

// TestAssembly cuts hellos into overlapping pieces in any order.
func TestAssembly(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		a := assembly{kind: typeClientHello}
		for sequence, name := range []string{"first.example.com", "second.example.com"} {
			body := clientHello(t, name)
			var pieces [][]byte
			for from := 0; from < len(body); {
				to := min(from+1+random.IntN(40), len(body))
				pieces = append(pieces, datagram(body, uint16(sequence), max(0, from-random.IntN(10)), to))
				from = to
			}
			random.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
			for i, piece := range pieces {
				if i > 0 && a.complete && a.sequence == uint16(sequence) && a.missing != 0 {
					t.Fatal("complete too early")
				}
				a.add(piece)
			}
			if !a.complete || a.hello.serverName != name || !a.hello.extended || a.hello.version != version12 {
				t.Fatalf("the hello is %+v, complete: %v", a.hello, a.complete)
			}
			// Neither a repetition nor an earlier message changes it.
			a.add(datagram(clientHello(t, "other.example.com"), uint16(sequence), 0, 10))
			if a.hello.serverName != name {
				t.Fatal("a repetition changed the hello")
			}
		}
		a.add(datagram(clientHello(t, "first.example.com"), 0, 0, 10))
		if a.sequence != 1 {
			t.Fatal("an earlier message took over")
		}
	}
}

func TestAssemblyIsBounded(t *testing.T) {
	t.Parallel()
	a := assembly{kind: typeClientHello}
	a.add(datagram(make([]byte, maxHello+1), 0, 0, 100))
	if a.body != nil {
		t.Errorf("%d octets were set aside", len(a.body))
	}
}

func FuzzHello(f *testing.F) {
	body := clientHello(f, "mef.example.com")
	f.Add(datagram(body, 0, 0, len(body)))
	f.Add(datagram(body, 1, 0, 20))
	f.Add(append(datagram(body, 0, 0, 30), datagram(body, 0, 30, len(body))...))
	f.Add([]byte{recordAlert, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 42})
	f.Fuzz(func(t *testing.T, octets []byte) {
		before := bytes.Clone(octets)
		_, _ = beginsHandshake(octets)
		for _, kind := range []byte{typeClientHello, typeServerHello} {
			a := assembly{kind: kind}
			a.add(octets)
			a.add(octets)
			if len(a.body) > maxHello || a.missing < 0 || a.complete && a.missing != 0 {
				t.Errorf("an assembly of %d octets, %d missing", len(a.body), a.missing)
			}
		}
		total := 0
		for r := range records(octets) {
			total += recordHeader + len(r.body)
		}
		if total > len(octets) {
			t.Errorf("%d octets of records in %d", total, len(octets))
		}
		// An alert changes in its description only, and only in a copy.
		a := &attempt{ctx: t.Context()}
		_ = a.refuse(muster.Refuse(muster.CodeRevoked, "a test"))
		w := &wire{attempt: a}
		out := w.examine(octets)
		if !bytes.Equal(octets, before) || len(out) != len(octets) {
			t.Error("the datagram itself has changed")
		}
		for i := range out {
			if out[i] != octets[i] && (tls.AlertError(out[i]) != 44 || !slices.Contains(octets[:i], recordAlert)) {
				t.Errorf("octet %d has changed", i)
			}
		}
	})
}

// TestStrays has the hellos of a client arrive, and those that return with the cookie
// of another handshake, or to the handshake of another client.
func TestStrays(t *testing.T) {
	t.Parallel()
	w := &wire{attempt: &attempt{}}
	strays := func(random byte, cookie string) bool {
		body := clientHello(t, "mef.example.com")
		body[versionSize] = random
		const at = versionSize + randomSize + 1 // after an empty session
		body[at] = byte(len(cookie))
		body = slices.Insert(body, at+1, []byte(cookie)...)
		for r := range records(datagram(body, uint16(min(len(cookie), 1)), 0, len(body))) {
			return w.strays(r)
		}
		t.Fatal("no record")
		return false
	}
	if strays(1, "") {
		t.Error("the first hello is a stray")
	}
	request := datagram([]byte("\xfe\xfd\x06cookie"), 0, 0, 9)
	request[recordHeader] = typeHelloVerify
	for r := range records(request) {
		w.noteAnswer(r)
	}
	for _, c := range []struct {
		random byte
		cookie string
		want   bool
	}{{1, "", false}, {1, "cookie", false}, {1, "former", true}, {1, "cook", true}, {2, "cookie", true}, {2, "", true}} {
		if got := strays(c.random, c.cookie); got != c.want {
			t.Errorf("a hello of client %d with the cookie %q is a stray: %v", c.random, c.cookie, got)
		}
	}
}
