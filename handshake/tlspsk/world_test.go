package tlspsk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"muster"
)

const (
	testName     = "maf.example.com"
	testIdentity = "00112233445566778899AABBCCDDEEFF@mef.example.com"
	testLabel    = "EXPORTER-oneM2M-Connection"
)

var errNoSuchKey = errors.New("no such key")

func testKey() []byte {
	key := sha256.Sum256([]byte("the key of the tests"))
	return key[:]
}

func name(t testing.TB, s string) muster.FQDN {
	t.Helper()
	n, err := muster.ParseFQDN(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func findKey(_ context.Context, identity string) ([]byte, error) {
	if identity != testIdentity {
		return nil, errNoSuchKey
	}
	return testKey(), nil
}

// config is fit for either side.
func config(t testing.TB, suites ...Suite) Config {
	return Config{
		Name: name(t, testName), PSK: findKey,
		PSKIdentity: testIdentity, Key: testKey(), Suites: suites,
	}
}

func complete(t testing.TB, c Config) *Config {
	t.Helper()
	done, err := c.complete()
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// counter is a source of fixed "randomness": SHA-256 in counter mode.
type counter struct {
	seed string
	n    uint64
	rest []byte
}

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		if len(c.rest) == 0 {
			c.n++
			block := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(c.seed), c.n))
			c.rest = block[:]
		}
		p[i], c.rest = c.rest[0], c.rest[1:]
	}
	return len(p), nil
}

// side is a machine with what it told its owner.
type side struct {
	*machine
	err  error
	done bool
	data []byte
	eof  bool
}

func newSide(t testing.TB, c Config, client bool) *side {
	t.Helper()
	m := newMachine(complete(t, c), client)
	s := &side{machine: m}
	if client {
		s.err = m.start()
	}
	return s
}

// put hands octets over and acts until there is need of more.
func (s *side) put(octets []byte) {
	for s.err == nil && !s.eof {
		e, err := s.next()
		switch {
		case err != nil:
			s.err = err
		case e == needKey:
			s.provide(s.config.PSK(context.Background(), s.identity))
		case e == handshakeDone:
			s.done = true
		case e == applicationData:
			s.data = append(s.data, s.plaintext...)
		case e == peerClosed:
			s.eof = true
		case len(octets) == 0:
			return
		default:
			n := copy(s.in.space(), octets)
			s.in.received(n)
			octets = octets[n:]
		}
	}
}

// taken returns a copy of what the side sends, with the alert for its fault.
func (s *side) taken() []byte {
	if f, ok := errors.AsType[*fault](s.err); ok && s.state != stateCount {
		s.state = stateCount // the alert is sent once
		_ = s.out.append(typeAlert, []byte{f.alert.level(), byte(f.alert)})
	}
	return bytes.Clone(s.out.take())
}

// meet lets two sides talk until both are silent.
func meet(client, server *side) {
	for {
		a := client.taken()
		server.put(a)
		b := server.taken()
		client.put(b)
		if len(a)+len(b) == 0 {
			return
		}
	}
}

// alertOf returns the alert that a side's fault sends.
func alertOf(t testing.TB, err error) alert {
	t.Helper()
	f, ok := errors.AsType[*fault](err)
	if !ok {
		t.Fatalf("the error %v sends no alert", err)
	}
	return f.alert
}

// records cuts octets into whole records.
func records(t testing.TB, octets []byte) (rs [][]byte) {
	t.Helper()
	for len(octets) > 0 {
		if len(octets) < headerSize || len(octets) < headerSize+int(binary.BigEndian.Uint16(octets[3:])) {
			t.Fatalf("%d octets are left over", len(octets))
		}
		n := headerSize + int(binary.BigEndian.Uint16(octets[3:]))
		rs, octets = append(rs, octets[:n]), octets[n:]
	}
	return rs
}

func record(typ contentType, content []byte) []byte {
	var w outgoing
	if err := w.append(typ, content); err != nil {
		panic(err)
	}
	return w.take()
}

// loopback returns both ends of a TCP connection.
func loopback(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}
