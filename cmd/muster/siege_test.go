package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/binding/coap"
	"muster/cert"
	"muster/handshake"
	"muster/handshake/dtls12"
)

// A siege is a fortress under attack, and what an honest device costs it.
type siege struct {
	*fortress
	cost map[*process]time.Duration // CPU time of one honest enrolment and attachment
	idle map[*process]footprint
}

// The devices of a siege: two are honest, and one has turned bad.
const (
	honestTLS = iota
	honestDTLS
	traitor
	siegeDevices
)

// TestSiege attacks a MEF and a MAF in several ways, from strangers' networks and
// with the credentials of a device. Under each attack honest devices get through,
// memory and goroutines stay within bounds, and an act of the attacker costs no
// more than what an honest device does. Afterwards all is as before.
func TestSiege(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	s := &siege{fortress: newFortress(t, siegeDevices, func(function, config string) string {
		if function == "mef" {
			config += "admin: {listen: \"127.0.0.1:0\", clients: [{certificate: {flavour: fqdn, name: maf.lab.example}, anchors: [pki/operator-root.pem], role: viewer}]}\n"
		}
		return config
	})}
	s.measurePeace(t)
	for _, attack := range []struct {
		name   string
		heap   int // octets at most, with what is not collected yet
		attack func(t *testing.T) (acts int)
	}{
		{"streams that trickle", 128 << 20, s.trickle},
		{"streams that say nothing", 160 << 20, s.silence},
		{"datagrams from forged addresses", 192 << 20, s.forgedHellos},
		{"messages without end", 192 << 20, s.oversizedHandshakes},
		{"handshakes that begin again", 128 << 20, s.restarts},
		{"requests without end", 128 << 20, s.oversizedRequests},
		{"hellos to operators", 128 << 20, s.adminHellos},
		{"sessions of one device", 128 << 20, s.manySessions},
	} {
		t.Run(attack.name, func(t *testing.T) { s.under(t, attack.heap, attack.attack) })
	}
}

func (s *siege) measurePeace(t *testing.T) {
	t.Helper()
	const rounds = 5
	s.honest(t, "before all") // the first of all is not like the others
	s.cost, s.idle = map[*process]time.Duration{}, map[*process]footprint{}
	begun := map[*process]footprint{}
	for _, p := range s.both() {
		begun[p] = p.mustFootprint(t)
	}
	for range rounds {
		s.honest(t, "in peace")
	}
	for _, p := range s.both() {
		s.idle[p] = p.mustFootprint(t)
		s.cost[p] = max((s.idle[p].cpu-begun[p].cpu)/(2*rounds), 100*time.Microsecond)
	}
}

func (s *siege) both() []*process { return []*process{s.mef, s.maf} }

// honest takes two devices through all. Like any device, they try again while
// there is no answer.
func (s *siege) honest(t *testing.T, when string) {
	t.Helper()
	for n, via := range []transport{honestTLS: overTLS, honestDTLS: overDTLS} {
		device := s.device(n, via)
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		attachment, err := attach(ctx, device, true, patience)
		cancel()
		if err != nil {
			t.Errorf("%s, over %s: %v", when, via, err)
			continue
		}
		must(t, attachment.Close())
	}
}

// under carries an attack out, with honest devices in the midst of it, and holds
// what it has cost against the bounds.
func (s *siege) under(t *testing.T, heap int, attack func(t *testing.T) int) {
	before, most := map[*process]footprint{}, map[*process]footprint{}
	for _, p := range s.both() {
		before[p] = p.mustFootprint(t)
	}
	watching, stop := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		for sleep(watching, 250*time.Millisecond) == nil {
			for _, p := range s.both() {
				now, peak := p.mustFootprint(t), most[p]
				peak.goroutines, peak.heap = max(peak.goroutines, now.goroutines), max(peak.heap, now.heap)
				most[p] = peak
			}
		}
	})
	acts := attack(t)
	stop()
	watch.Wait()
	for _, p := range s.both() {
		name, now := p.cmd.Args[1], p.mustFootprint(t)
		t.Logf("the %s: %d acts, %v of CPU where an honest device costs %v, at most %d goroutines and %d KiB", name, acts, now.cpu-before[p].cpu, s.cost[p], most[p].goroutines, most[p].heap>>10)
		if most[p].heap > heap {
			t.Errorf("the heap of the %s has %d octets, and %d before", name, most[p].heap, before[p].heap)
		}
		if bound := s.idle[p].goroutines + 8*maxHandshakes; most[p].goroutines > bound {
			t.Errorf("the %s has %d goroutines", name, most[p].goroutines)
		}
		if used := now.cpu - before[p].cpu; used > time.Duration(acts)*s.cost[p]+5*time.Second {
			t.Errorf("%d acts cost the %s %v, and an honest device %v", acts, name, used, s.cost[p])
		}
		await(t, "the "+name+" keeps what the attack has made", func() (struct{}, bool) {
			now := p.mustFootprint(t)
			return struct{}{}, now.goroutines <= s.idle[p].goroutines+50 && now.files <= s.idle[p].files+20
		})
	}
}

func (p *process) mustFootprint(t *testing.T) footprint {
	t.Helper()
	f, err := p.footprint()
	must(t, err)
	return f
}

// network is an address in one of many networks of this machine.
func network(n int) net.IP { return net.IPv4(127, 77, byte(n), 1) }

// dialFrom opens a stream from a network, or returns nil if that fails, as it may
// while the other side is besieged.
func dialFrom(ctx context.Context, n int, address string) net.Conn {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: network(n)}, Timeout: patience}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil
	}
	return conn
}

// trickle sends an octet now and then on many streams, each at another stage.
func (s *siege) trickle(t *testing.T) int {
	hello := append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 500)...)
	request := []byte("GET /livez HTTP/1.1\r\nX-Long: " + strings.Repeat("a", 500))
	header := []byte("POST /~/x HTTP/1.1\r\nHost: mef.lab.example\r\nX-Long: " + strings.Repeat("a", 500))
	body := []byte("POST / HTTP/1.1\r\nHost: mef.lab.example\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("a", 500))
	chunks := []byte("POST / HTTP/1.1\r\nHost: mef.lab.example\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + strings.Repeat("a", 500))
	var all sync.WaitGroup
	var acts atomic.Int64
	hold := func(conn net.Conn, text []byte, at int) {
		acts.Add(1)
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write(text[:at]); err != nil {
			return
		}
		for n := at; n < len(text); n++ {
			if _, err := conn.Write(text[n : n+1]); err != nil {
				return
			}
			// A read that times out ends when the other side has closed.
			_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			for {
				if _, err := conn.Read(make([]byte, 4096)); err != nil {
					if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
						break
					}
					return
				}
			}
		}
		t.Error("a stream that trickles is not ended")
	}
	for n, target := range []struct {
		address string
		text    []byte
	}{{s.mef.addresses["tls"], hello}, {s.maf.addresses["tls"], hello}, {s.mef.addresses["admin"], hello}, {s.mef.addresses["http"], request}, {s.maf.addresses["http"], request}} {
		for range 2 * maxFromNetwork {
			all.Go(func() {
				if conn := dialFrom(t.Context(), n, target.address); conn != nil {
					hold(conn, target.text, 1)
				}
			})
		}
	}
	for _, text := range [][]byte{header, body, chunks} {
		for range 10 {
			all.Go(func() {
				if conn := s.session(t, traitor); conn != nil {
					hold(conn, text, len(text)-500)
				}
			})
		}
	}
	s.honest(t, "while streams trickle")
	all.Wait()
	return int(acts.Load())
}

// session is an authenticated stream of a device to the MEF, or nil if it is not
// let in.
func (s *siege) session(t *testing.T, n int) net.Conn {
	t.Helper()
	client, err := handshake.NewClient(s.credentials(t, n))
	must(t, err)
	socket := dialFrom(t.Context(), 50+n, s.mef.addresses["tls"])
	if socket == nil {
		return nil
	}
	conn, err := client.Handshake(t.Context(), socket)
	if err != nil {
		return nil
	}
	return conn
}

func (s *siege) credentials(t *testing.T, n int) handshake.Config {
	t.Helper()
	config, err := readEnroleeConfig(s.lab.path(s.lab.deviceFile(n) + ".yaml"))
	must(t, err)
	identity, err := config.Identity.load()
	must(t, err)
	verify, err := verifyServer(config.MEF, cert.ProfileOneM2M, nil)
	must(t, err)
	return handshake.Config{
		Name: config.MEF.FQDN, Identity: func() (*tls.Certificate, error) { return identity, nil }, VerifyStapled: verify,
		Protocols: []string{handshake.ProtocolHTTP1}, Timeout: patience,
	}
}

// silence opens more streams than a listener has places, from many networks, and
// says nothing on half of them and one whole ClientHello on the others.
func (s *siege) silence(t *testing.T) int {
	var hello bytes.Buffer
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: labMEF, MaxVersion: tls.VersionTLS12}).Handshake()
	}()
	octets := make([]byte, 4096)
	n, err := far.Read(octets)
	must(t, err)
	hello.Write(octets[:n])
	_ = far.Close()

	const streams = maxHandshakes + 200
	var held sync.WaitGroup
	var opened atomic.Int64
	for n := range streams {
		held.Go(func() {
			conn := dialFrom(t.Context(), n%12, []string{s.mef.addresses["tls"], s.maf.addresses["tls"]}[n%8/7])
			if conn == nil {
				return
			}
			defer func() { _ = conn.Close() }()
			opened.Add(1)
			if n%2 == 0 {
				_, _ = conn.Write(hello.Bytes())
			}
			_ = conn.SetReadDeadline(time.Now().Add(2 * patience))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("a stream that says nothing is not ended")
			}
		})
	}
	s.honest(t, "while streams say nothing")
	held.Wait()
	return int(opened.Load())
}

// adminHellos has the listener for operators sign again and again, for strangers from
// many networks who go away then, while honest devices come.
func (s *siege) adminHellos(t *testing.T) int {
	const least = 1000
	served, done := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var acts atomic.Int64
	for n := range 32 {
		flood.Go(func() {
			for served.Err() == nil || acts.Load() < least {
				conn := dialFrom(t.Context(), n, s.mef.addresses["admin"])
				if conn == nil {
					return
				}
				_ = tls.Client(conn, &tls.Config{ServerName: labMEF, MinVersion: tls.VersionTLS13}).HandshakeContext(t.Context())
				acts.Add(1)
				_ = conn.Close()
			}
		})
	}
	s.honest(t, "in a flood of hellos to operators")
	done()
	flood.Wait()
	return int(acts.Load())
}

// helloOf returns the first datagram of a DTLS handshake.
func (s *siege) helloOf(t *testing.T) []byte {
	t.Helper()
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = sink.Close() }()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	config := s.credentials(t, traitor)
	client, err := dtls12.NewClient(dtls12.Config{Name: config.Name, Identity: config.Identity, Timeout: time.Second, Verify: unstapled(config)})
	must(t, err)
	var ended sync.WaitGroup
	defer ended.Wait()
	ended.Go(func() { _, _ = client.Handshake(t.Context(), conn, sink.LocalAddr()) })
	octets := make([]byte, 2048)
	n, _, err := sink.ReadFrom(octets)
	must(t, err)
	return octets[:n]
}

// forgedHellos sends hellos from addresses of many networks, none of which returns
// with the cookie, and hellos with a made-up cookie, and garbage.
func (s *siege) forgedHellos(t *testing.T) int {
	hello := s.helloOf(t)
	guessed := withCookie(hello, bytes.Repeat([]byte{7}, 20))
	sent := 0
	const rounds = 1500 // at least
	served, done := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	flood.Go(func() {
		for n := 0; n < rounds || served.Err() == nil; n++ {
			for _, p := range s.both() {
				for _, datagram := range [][]byte{hello, guessed, []byte("garbage")} {
					sendFrom(t, n%200, p.addresses["dtls"], datagram)
					sent++
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	s.honest(t, "in a flood of hellos")
	done()
	flood.Wait()
	return sent
}

// sendFrom sends a datagram from a new socket in a network.
func sendFrom(t *testing.T, n int, address string, datagram []byte) {
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: network(n)}}
	conn, err := dialer.DialContext(t.Context(), "udp", address)
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = conn.Write(datagram)
	_ = conn.Close()
}

// withCookie returns the ClientHello of a datagram with a cookie and as the second
// message of its handshake.
func withCookie(datagram, cookie []byte) []byte {
	const record, message, fixed = 13, 12, 2 + 32
	body := datagram[record+message:]
	at := fixed + 1 + int(body[fixed]) // of the length of the cookie
	body = slices.Concat(body[:at], []byte{byte(len(cookie))}, cookie, body[at+1+int(body[at]):])
	length := []byte{0, byte(len(body) >> 8), byte(len(body))}
	size := message + len(body)
	return slices.Concat(datagram[:10], []byte{9, byte(size >> 8), byte(size)}, []byte{1}, length, []byte{0, 1, 0, 0, 0}, length, body)
}

// oversizedHandshakes sends messages of 16 MiB as slowly as they can be told from
// others: over TLS, and over DTLS in fragments, before the cookie and after it.
func (s *siege) oversizedHandshakes(t *testing.T) int {
	acts := 0
	for _, address := range []string{s.mef.addresses["tls"], s.maf.addresses["tls"], s.mef.addresses["admin"]} {
		for range 20 {
			conn := dialFrom(t.Context(), 1, address)
			if conn == nil {
				continue
			}
			record := append([]byte{22, 3, 3, 0x40, 0}, bytes.Repeat([]byte{1}, 1<<14)...)
			copy(record[5:], []byte{1, 0xff, 0xff, 0xff}) // a ClientHello
			total := 0
			for range 1024 {
				n, err := conn.Write(record)
				if total += n; err != nil {
					break
				}
			}
			_ = conn.Close()
			if acts++; total > 8<<20 { // with what sockets hold
				t.Errorf("%s takes %d octets of one message", address, total)
			}
		}
	}
	hello := s.helloOf(t)
	var all sync.WaitGroup
	for _, p := range s.both() {
		for begin := range 4 {
			all.Go(func() {
				for n := begin; n < 60; n += 4 {
					s.fragments(t, n, p.addresses["dtls"], hello)
				}
			})
		}
		acts += 60 * fragmentsEach
	}
	s.honest(t, "among messages without end")
	all.Wait()
	return acts
}

// fragmentsEach is how many fragments follow one hello.
const fragmentsEach = 300

// fragments sends a hello, perhaps that with the right cookie, and then fragments
// of messages to come that overlap.
func (s *siege) fragments(t *testing.T, n int, address string, hello []byte) {
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: network(n)}}
	conn, err := dialer.DialContext(t.Context(), "udp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write(hello)
	if n%2 == 0 {
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		answer := make([]byte, 2048)
		if size, err := conn.Read(answer); err == nil && size > 28 && answer[13] == 3 { // HelloVerifyRequest
			_, _ = conn.Write(withCookie(hello, answer[28:28+int(answer[27])]))
			_, _ = conn.Read(answer)
		}
	}
	for i := range fragmentsEach {
		part := make([]byte, 7000)
		size := 12 + len(part)
		header := []byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, byte(i >> 8), byte(i), byte(size >> 8), byte(size),
			11, 0xff, 0xff, 0xff, 0, byte(5 + i%40), 0, byte(i >> 8), byte(i), 0, byte(len(part) >> 8), byte(len(part) & 0xff)}
		_, _ = conn.Write(append(header, part...))
	}
}

// restarts begins handshakes again and again from one address, in the midst of one
// and beside an association that is established and goes on.
func (s *siege) restarts(t *testing.T) int {
	hello := s.helloOf(t)
	acts := 0
	for _, p := range s.both() {
		to, err := net.ResolveUDPAddr("udp", p.addresses["dtls"])
		must(t, err)
		conn, err := net.DialUDP("udp", &net.UDPAddr{IP: network(3)}, to)
		must(t, err)
		for n := range 1000 {
			again := bytes.Clone(hello)
			again[13+12+2] = byte(n) // of the random
			again[13+12+3] = byte(n >> 8)
			again[10] = byte(n) // the record's number
			again[9] = byte(n >> 8)
			_, _ = conn.Write(again)
			acts++
		}
		_ = conn.Close()
	}
	conn, socket, to := s.association(t, traitor)
	defer func() { _ = conn.Close() }()
	for range 300 {
		_, _ = socket.WriteTo(hello, to)
		acts++
	}
	if !ping(conn) {
		t.Error("beside handshakes that begin again, an association does not go on")
	}
	s.honest(t, "after handshakes that began again")
	return acts
}

// oversizedRequests sends what no request needs, with and without a credential.
func (s *siege) oversizedRequests(t *testing.T) int {
	long := bytes.Repeat([]byte("a"), 1<<20)
	acts := 0
	var all sync.WaitGroup
	ask := func(name string, conn net.Conn, head string) {
		if conn == nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, head)
		total := 0
		for range 8 {
			n, err := conn.Write(long)
			if total += n; err != nil {
				break
			}
		}
		answer, _ := io.ReadAll(io.LimitReader(conn, 4096))
		if status := string(answer[:min(len(answer), 12)]); strings.HasPrefix(status, "HTTP/1.1 2") {
			t.Errorf("%s is answered with %q", name, status)
		}
	}
	for range 5 {
		for name, head := range map[string]string{
			"a header of 8 MiB": "GET / HTTP/1.1\r\nHost: mef.lab.example\r\nX-Long: ",
			"a body of 8 MiB":   "POST / HTTP/1.1\r\nHost: mef.lab.example\r\nContent-Type: application/json\r\nContent-Length: 8388608\r\n\r\n",
			"chunks of 8 MiB":   "POST / HTTP/1.1\r\nHost: mef.lab.example\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n800000\r\n",
			"a WebSocket frame": "GET / HTTP/1.1\r\nHost: mef.lab.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: oneM2M.json\r\n\r\n\x81\xff\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00",
		} {
			all.Go(func() { ask(name, s.session(t, traitor), head) })
			acts++
		}
		for _, p := range s.both() {
			all.Go(func() {
				ask("a header of 8 MiB for metrics", dialFrom(t.Context(), 5, p.addresses["http"]), "GET /metrics HTTP/1.1\r\nX-Long: ")
			})
			acts++
		}
	}
	acts += s.endlessBlocks(t)
	s.honest(t, "among requests without end")
	all.Wait()
	return acts
}

// manySessions opens more sessions than one device may have, and leaves them idle.
func (s *siege) manySessions(t *testing.T) int {
	const sessions = maxSessions + 20
	opened := 0
	for range sessions {
		if conn := s.session(t, traitor); conn != nil {
			opened++
			defer func() { _ = conn.Close() }()
		}
	}
	s.honest(t, "beside many sessions")
	if opened != sessions {
		t.Errorf("%d of %d sessions were let in", opened, sessions)
	}
	if open := s.mef.mustFootprint(t).sessions; open > maxSessions+8 {
		t.Errorf("%d sessions of a device are open", open)
	}
	return opened
}

// unstapled is what a client over DTLS, where nothing is stapled, thinks of a chain.
func unstapled(c handshake.Config) handshake.Verify {
	return func(chain []*x509.Certificate) (muster.Peer, error) { return c.VerifyStapled(chain, nil) }
}

// ping sends an empty confirmable message and reports whether the answer is the
// reset of a CoAP server that is there (RFC 7252 4.3).
func ping(conn net.Conn) bool {
	answer := make([]byte, 2048)
	for range 5 { // datagrams may be lost
		if _, err := conn.Write([]byte{0x40, 0, 0x12, 0x34}); err != nil {
			return false
		}
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		for n, err := conn.Read(answer); err == nil; n, err = conn.Read(answer) {
			if n == 4 && answer[0]>>4 == 7 {
				return true
			}
		}
	}
	return false
}

// association is an established association of a device with the MEF, and its
// socket.
func (s *siege) association(t *testing.T, n int) (net.Conn, net.PacketConn, net.Addr) {
	t.Helper()
	socket, err := net.ListenPacket("udp", (&net.UDPAddr{IP: network(60 + n)}).String())
	must(t, err)
	to, err := net.ResolveUDPAddr("udp", s.mef.addresses["dtls"])
	must(t, err)
	config := s.credentials(t, n)
	client, err := dtls12.NewClient(dtls12.Config{Name: config.Name, Identity: config.Identity, Timeout: patience, Verify: unstapled(config)})
	must(t, err)
	conn, err := client.Handshake(t.Context(), socket, to)
	must(t, err)
	return conn, socket, to
}

// endlessBlocks sends the bodies of many requests in blocks, none of which is the
// last.
func (s *siege) endlessBlocks(t *testing.T) int {
	conn, _, _ := s.association(t, traitor)
	defer func() { _ = conn.Close() }()
	block := bytes.Repeat([]byte("a"), 1024)
	const requests, blocks = 10, 100
	for request := range requests {
		for n := range blocks {
			m := coap.Message{Type: coap.Confirmable, Code: coap.POST, ID: uint16(request*blocks + n), Payload: block}
			m.Options.Add(coap.OptionURIPath, []byte{'a' + byte(request)})
			m.Options.AddUint(coap.OptionBlock1, uint32(n)<<4|8|6)
			datagram, err := m.Marshal()
			must(t, err)
			_, _ = conn.Write(datagram)
		}
	}
	if !ping(conn) {
		t.Error("after blocks without end, a session does not go on")
	}
	return requests * blocks
}
