package tlspsk

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
)

// FuzzClientHello: what parses has bounds, and what it says survives marshalling.
func FuzzClientHello(f *testing.F) {
	client := newSide(f, config(f), true)
	f.Add(client.taken()[headerSize+messageHeaderSize:])
	for _, r := range firstRecords(f, "client") {
		f.Add(r[headerSize+messageHeaderSize:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseClientHello(body)
		if err != nil {
			alertOf(t, err)
			return
		}
		m.nullCompression = true
		if m.extensions.serverName != "" && len(m.extensions.serverName) > len(body) {
			t.Fatal("more comes out than went in")
		}
		again, err := parseClientHello(m.marshal())
		if err != nil || again.random != m.random || again.extensions != m.extensions || len(again.suites) != len(m.suites) {
			t.Fatalf("%+v becomes %+v, %v", m, again, err)
		}
	})
}

func FuzzServerHello(f *testing.F) {
	for _, r := range firstRecords(f, "server") {
		f.Add(r[headerSize+messageHeaderSize:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseServerHello(body)
		if err != nil {
			alertOf(t, err)
			return
		}
		again, err := parseServerHello(m.marshal())
		if err != nil || *again != *m {
			t.Fatalf("%+v becomes %+v, %v", m, again, err)
		}
	})
}

// firstRecords are the first records of foreign peers in a role.
func firstRecords(f *testing.F, role string) (all [][]byte) {
	for _, file := range recordings(f) {
		r := load(f, file)
		if r.facts["role"] != role {
			continue
		}
		for _, flow := range r.flows {
			if !flow.sent {
				all = append(all, records(f, flow.octets)[0])
				break
			}
		}
	}
	return all
}

func FuzzKeyExchange(f *testing.F) {
	f.Add(marshalClientKeyExchange(testIdentity))
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		identity, err := parseClientKeyExchange(body)
		if err != nil {
			alertOf(t, err)
		} else if !bytes.Equal(marshalClientKeyExchange(identity), body) {
			t.Fatalf("%q", identity)
		}
		if err := parseServerKeyExchange(body); err != nil {
			alertOf(t, err)
		}
	})
}

// FuzzMAC compares the careful way to open a record with the plain one.
func FuzzMAC(f *testing.F) {
	for _, n := range []int{48, 64, 304, 320} {
		for _, last := range []byte{0, 1, 15, 16, 255} {
			f.Add(bytes.Repeat([]byte{last}, n), false, byte(0))
			f.Add(bytes.Repeat([]byte{last}, n), true, last)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, seal bool, padding byte) {
		if len(data) > 2048 {
			return
		}
		c := testCBC(false)
		fragment := encrypt(c, data[:len(data)/16*16])
		if seal { // make the MAC right, and then perhaps the padding too
			n := len(data) + macSize + int(padding) + 1
			data = append(data, make([]byte, (16-n%16)%16)...)
			fragment = sealWith(c, 1, typeHandshake, data, bytes.Repeat([]byte{padding}, int(padding)+1))
		}
		want, wantOK := openPlainly(c, 1, typeHandshake, bytes.Clone(fragment))
		got, ok := c.open(1, typeHandshake, fragment)
		if ok != wantOK || !bytes.Equal(got, want) || seal && !ok {
			t.Fatalf("%x, %v instead of %x, %v", got, ok, want, wantOK)
		}
	})
}

// FuzzTranscript alters what foreign peers sent, octet by octet and record by
// record, and plays it to the side that it was recorded from.
func FuzzTranscript(f *testing.F) {
	files := recordings(f)
	for i := range files {
		f.Add(byte(i), []byte{})
		f.Add(byte(i), []byte{opFlip, 0, 9, opSwap, 1, 0})
		f.Add(byte(i), []byte{opRepeat, 1, 0, opDrop, 2, 0, opTruncate, 0, 20})
	}
	loaded := make([]recording, len(files))
	for i, file := range files {
		loaded[i] = load(f, filepath.Clean(file))
	}
	f.Fuzz(func(t *testing.T, which byte, ops []byte) {
		r := loaded[int(which)%len(loaded)]
		c := config(t)
		c.Rand = &counter{seed: r.facts["seed"]}
		s := newSide(t, c, r.facts["role"] == "server")
		var received [][]byte
		for _, flow := range r.flows {
			if !flow.sent {
				received = append(received, records(t, flow.octets)...)
			}
		}
		altered := bytes.Join(alter(received, ops), nil)
		s.put(altered)
		checkBounds(t, s)
		if s.done && len(ops) == 0 && s.err != nil {
			t.Fatal(s.err)
		}
		if s.done && !sameHandshake(bytes.Join(received, nil), altered) {
			t.Fatal("another handshake is accepted in place of the recorded one")
		}
	})
}

// sameHandshake reports whether two streams have the same content up to the first
// record after ChangeCipherSpec, which holds the Finished. Warnings are no part of
// a handshake and are passed over.
func sameHandshake(a, b []byte) bool {
	content := func(octets []byte) (out []byte) {
		for last := false; len(octets) >= headerSize; {
			end := min(headerSize+int(octets[3])<<8+int(octets[4]), len(octets))
			typ, fragment := contentType(octets[0]), octets[headerSize:end]
			octets = octets[end:]
			if typ != typeAlert || last {
				out = append(append(out, byte(typ)), fragment...)
			}
			if last {
				break
			}
			last = typ == typeChangeCipherSpec
		}
		return out
	}
	return bytes.Equal(content(a), content(b))
}

const (
	opFlip byte = iota
	opSwap
	opRepeat
	opDrop
	opTruncate
	opInsert
	opCount
)

// alter applies operations of three octets: what, on which record, and with what.
func alter(rs [][]byte, ops []byte) [][]byte {
	rs = append([][]byte(nil), rs...)
	for ; len(ops) >= 3 && len(rs) > 0 && len(rs) < 64; ops = ops[3:] {
		i, arg := int(ops[1])%len(rs), ops[2]
		switch ops[0] % opCount {
		case opFlip:
			r := bytes.Clone(rs[i])
			if len(r) > 0 {
				r[int(arg>>3)%len(r)] ^= 1 << (arg & 7)
			}
			rs[i] = r
		case opSwap:
			j := int(arg) % len(rs)
			rs[i], rs[j] = rs[j], rs[i]
		case opRepeat:
			rs = append(rs[:i+1:i+1], rs[i:]...)
		case opDrop:
			rs = append(rs[:i:i], rs[i+1:]...)
		case opTruncate:
			n := min(int(arg), len(rs[i]))
			r := bytes.Clone(rs[i][:n])
			if n >= headerSize && ops[1]&0x80 != 0 { // with a header that fits
				r[3], r[4] = 0, byte(n-headerSize)
			}
			rs[i] = r
		case opInsert:
			types := []contentType{typeChangeCipherSpec, typeAlert, typeHandshake, typeApplicationData}
			r := record(types[arg&3], [][]byte{{1}, {1, 90}, {1, 0}, {0, 0, 0, 0}}[arg>>2&3])
			rs = append(rs[:i:i], append([][]byte{r}, rs[i:]...)...)
		}
	}
	return rs
}

// checkBounds looks at a side after hostile input.
func checkBounds(t *testing.T, s *side) {
	t.Helper()
	if n := len(s.handshake); n > messageHeaderSize+maxMessage+maxPlaintext {
		t.Fatalf("%d octets of a message are kept", n)
	}
	if n := cap(s.in.octets); n > 4*(headerSize+maxCiphertext) {
		t.Fatalf("%d octets of records are kept", n)
	}
	if f, ok := errors.AsType[*fault](s.err); ok && f.err == nil {
		t.Fatal("a fault without a reason")
	}
}

// FuzzMachine feeds raw octets to both roles.
func FuzzMachine(f *testing.F) {
	client := newSide(f, config(f), true)
	f.Add(client.taken())
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	for _, r := range append(firstRecords(f, "client"), firstRecords(f, "server")...) {
		f.Add(r)
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		for _, asClient := range []bool{true, false} {
			s := fixedSide(t, asClient)
			s.put(octets)
			checkBounds(t, s)
			if s.done {
				t.Fatal("a handshake without a key")
			}
		}
	})
}

// FuzzContents feeds contents of records as if they had been opened, which gets a
// fuzzer behind the protection: each chunk is a type, a length and octets, and a
// length of 255 stands for the genuine content that is due.
func FuzzContents(f *testing.F) {
	f.Add(true, []byte{22, 255, 22, 255, 20, 255, 22, 255, 23, 1, 'x', 21, 2, 1, 0})
	f.Add(false, []byte{22, 255, 22, 255, 20, 255, 22, 255, 23, 1, 'x', 21, 2, 1, 0})
	f.Add(true, []byte{22, 255, 22, 8, 12, 0, 0, 4, 0, 2, 'h', 'i', 22, 255, 20, 255, 22, 255})
	f.Fuzz(func(t *testing.T, asClient bool, script []byte) {
		pieces := genuine(t, asClient)
		s := fixedSide(t, asClient)
		next := 0
		for len(script) >= 2 && s.err == nil && s.state != closed {
			p := piece{typ: contentType(script[0])}
			n := int(script[1])
			script = script[2:]
			if n == 255 && next < len(pieces) {
				p = pieces[next]
				next++
			} else {
				n = min(n, len(script))
				p.content, script = script[:n], script[n:]
			}
			feed(s, p)
			checkBounds(t, s)
		}
		if s.done && next < len(pieces) && !asClient {
			t.Fatal("a handshake without all its messages")
		}
	})
}

// FuzzMiddle puts an attacker between two sides, who reads, alters, reorders,
// repeats and drops records in both directions. Whatever it does, a side that is
// done shares its secrets with a side that is done or has sent its Finished, and
// data arrive as a prefix of what was sent.
func FuzzMiddle(f *testing.F) {
	f.Add(false, []byte{})
	f.Add(true, []byte{0, opFlip, 0, 9})
	f.Add(true, []byte{1, opSwap, 0, 1, 2, opRepeat, 1, 1})
	f.Add(false, []byte{2, opRepeat, 0, 0, 2, opDrop, 1, 0, 3, opTruncate, 0x80, 20, 3, opInsert, 0, 7})
	f.Fuzz(func(t *testing.T, plain bool, ops []byte) {
		cc := config(t)
		if plain {
			cc.Suites = []Suite{TLS_PSK_WITH_AES_128_CBC_SHA256}
		}
		cc.Rand = &counter{seed: "client"}
		sc := config(t)
		sc.Rand = &counter{seed: "server"}
		client, server := newSide(t, cc, true), newSide(t, sc, false)
		const text = "some data"
		sent := map[*side]bool{}
		for flight := byte(0); flight < 12; flight++ {
			from, to := client, server
			if flight%2 == 1 {
				from, to = server, client
			}
			rs := records(t, from.taken())
			for rest := ops; len(rest) >= 4; rest = rest[4:] {
				if rest[0]%12 == flight {
					rs = alter(rs, rest[1:4])
				}
			}
			to.put(bytes.Join(rs, nil))
			checkBounds(t, to)
			for _, s := range []*side{client, server} {
				if s.done && s.err == nil && !sent[s] {
					sent[s] = true
					for range 3 {
						if err := s.out.append(typeApplicationData, []byte(text)); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		}
		if client.done && !server.done {
			t.Fatal("only the client is done")
		}
		if server.done {
			a, _ := client.secrets.export(testLabel, nil, 48)
			b, _ := server.secrets.export(testLabel, nil, 48)
			if !bytes.Equal(a, b) || server.identity != testIdentity ||
				client.suite != server.suite || client.encryptThenMAC != server.encryptThenMAC {
				t.Fatal("the sides disagree")
			}
		}
		for _, s := range []*side{client, server} {
			if !bytes.HasPrefix([]byte(text+text+text), s.data) {
				t.Fatalf("received %q", s.data)
			}
		}
	})
}
