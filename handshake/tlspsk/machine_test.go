package tlspsk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"muster"
)

func TestHandshake(t *testing.T) {
	t.Parallel()
	const gcmSuite, cbcSuite = TLS_PSK_WITH_AES_128_GCM_SHA256, TLS_PSK_WITH_AES_128_CBC_SHA256
	for name, test := range map[string]struct {
		client, server         []Suite
		clientStrict, strict   bool
		offerNoEncryptThenMAC  bool
		want                   Suite
		wantEncryptThenMAC     bool
		clientAlert, serverErr alert
	}{
		"both prefer GCM":                    {want: gcmSuite},
		"the server's order counts":          {server: []Suite{cbcSuite, gcmSuite}, want: cbcSuite, wantEncryptThenMAC: true},
		"CBC":                                {client: []Suite{cbcSuite}, want: cbcSuite, wantEncryptThenMAC: true},
		"CBC strict":                         {client: []Suite{cbcSuite}, clientStrict: true, strict: true, want: cbcSuite, wantEncryptThenMAC: true},
		"CBC plain":                          {client: []Suite{cbcSuite}, offerNoEncryptThenMAC: true, want: cbcSuite},
		"CBC plain refused by the server":    {client: []Suite{cbcSuite}, offerNoEncryptThenMAC: true, strict: true, serverErr: alertHandshakeFailure},
		"strict server goes on to GCM":       {server: []Suite{cbcSuite, gcmSuite}, offerNoEncryptThenMAC: true, strict: true, want: gcmSuite},
		"no suite in common":                 {client: []Suite{cbcSuite}, server: []Suite{gcmSuite}, serverErr: alertHandshakeFailure},
		"CBC plain with a client that cares": {client: []Suite{cbcSuite}, offerNoEncryptThenMAC: true, clientStrict: true, clientAlert: alertHandshakeFailure},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cc, sc := config(t, test.client...), config(t, test.server...)
			cc.RefuseMACThenEncrypt, sc.RefuseMACThenEncrypt = test.clientStrict, test.strict
			client, server := newSide(t, cc, true), newSide(t, sc, false)
			if test.offerNoEncryptThenMAC {
				rehello(client, func(h *clientHello) { h.extensions.encryptThenMAC = false })
			}
			meet(client, server)
			if test.serverErr != 0 {
				if got := alertOf(t, server.err); got != test.serverErr {
					t.Errorf("the alert is %v", got)
				}
				return
			}
			if test.clientAlert != 0 {
				if got := alertOf(t, client.err); got != test.clientAlert {
					t.Errorf("the alert is %v", got)
				}
				return
			}
			checkEstablished(t, client, server)
			if server.suite != test.want || server.encryptThenMAC != test.wantEncryptThenMAC {
				t.Errorf("%v, %v", server.suite, server.encryptThenMAC)
			}
		})
	}
}

// rehello replaces the ClientHello that a fresh client has made.
func rehello(client *side, change func(*clientHello)) {
	h, err := parseClientHello(client.out.take()[headerSize+messageHeaderSize:])
	if err != nil {
		panic(err)
	}
	change(h)
	client.transcript.Reset()
	client.err = client.send(messageClientHello, h.marshal())
}

func checkEstablished(t *testing.T, client, server *side) {
	t.Helper()
	if !client.done || !server.done {
		t.Fatalf("client: %v, server: %v", client.err, server.err)
	}
	a, errA := client.secrets.export(testLabel, nil, 48)
	b, errB := server.secrets.export(testLabel, nil, 48)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Fatalf("exports: %x %v, %x %v", a, errA, b, errB)
	}
	if server.identity != client.config.PSKIdentity {
		t.Fatalf("the client is %q to the server", server.identity)
	}
	for i, pair := range [][2]*side{{client, server}, {server, client}} {
		text := fmt.Sprintf("data %d", i)
		if err := pair[0].out.append(typeApplicationData, []byte(text)); err != nil {
			t.Fatal(err)
		}
		pair[1].put(pair[0].taken())
		if string(pair[1].data) != text {
			t.Fatalf("%q, %v", pair[1].data, pair[1].err)
		}
	}
}

func TestServerRefusesHellos(t *testing.T) {
	t.Parallel()
	extension := func(n int) func(*clientHello) { // an extension of n octets that is unknown
		return func(h *clientHello) { h.extensions.serverName = string(make([]byte, n)) }
	}
	for name, test := range map[string]struct {
		change func(*clientHello)
		alert  alert
		code   muster.Code
	}{
		"TLS 1.1":          {func(h *clientHello) { h.version = 0x0302 }, alertProtocolVersion, muster.CodeProtocolVersion},
		"SSL 3":            {func(h *clientHello) { h.version = 0x0300 }, alertProtocolVersion, muster.CodeProtocolVersion},
		"fallback":         {func(h *clientHello) { h.version, h.suites = 0x0302, append(h.suites, suiteFallback) }, alertInappropriateFallback, muster.CodeProtocolVersion},
		"no server_name":   {func(h *clientHello) { h.extensions.serverName = "" }, alertUnrecognizedName, muster.CodeServerName},
		"another name":     {func(h *clientHello) { h.extensions.serverName = "mef.example.com" }, alertUnrecognizedName, muster.CodeServerName},
		"a trailing dot":   {func(h *clientHello) { h.extensions.serverName += "." }, alertUnrecognizedName, muster.CodeServerName},
		"a Kelvin sign":    {func(h *clientHello) { h.extensions.serverName = "maf.example.com\u212a" }, alertUnrecognizedName, muster.CodeServerName},
		"a NUL":            {func(h *clientHello) { h.extensions.serverName += "\x00" }, alertUnrecognizedName, muster.CodeServerName},
		"no EMS":           {func(h *clientHello) { h.extensions.extendedMasterSecret = false }, alertHandshakeFailure, muster.CodeNoExtendedMasterSecret},
		"other suites":     {func(h *clientHello) { h.suites = []uint16{0xc02b, 0x1301} }, alertHandshakeFailure, muster.CodeHandshakeFailed},
		"too long a hello": {extension(maxMessage), alertIllegalParameter, muster.CodeHandshakeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := newSide(t, config(t), true), newSide(t, config(t), false)
			rehello(client, test.change)
			meet(client, server)
			if got := alertOf(t, server.err); got != test.alert {
				t.Errorf("the alert is %v: %v", got, server.err)
			}
			if got := muster.CodeOf(server.err); got != test.code {
				t.Errorf("the code is %v", got)
			}
			if client.done || client.err == nil {
				t.Error("the client does not fail")
			}
		})
	}
}

func TestServerAcceptsHellos(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*clientHello){
		"a later version":               func(h *clientHello) { h.version = 0x0304 },
		"upper case":                    func(h *clientHello) { h.extensions.serverName = "MAF.Example.com" },
		"other suites too":              func(h *clientHello) { h.suites = append([]uint16{0x1301, 0x0a0a}, h.suites...) },
		"renegotiation_info by a suite": func(h *clientHello) { h.suites = append(h.suites, suiteRenegotiationInfo) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := newSide(t, config(t), true), newSide(t, config(t), false)
			rehello(client, change)
			meet(client, server)
			checkEstablished(t, client, server)
		})
	}
}

// A server answers renegotiation_info only to who asked: RFC 5746 section 3.6
func TestServerSignalsRenegotiationInfoWhenAsked(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{true, false} {
		client, server := newSide(t, config(t), true), newSide(t, config(t), false)
		rehello(client, func(h *clientHello) { h.extensions.renegotiationInfo = asked })
		server.put(client.taken())
		hello, err := parseServerHello(records(t, server.taken())[0][headerSize+messageHeaderSize:])
		if err != nil || hello.extensions.renegotiationInfo != asked {
			t.Errorf("asked %v: %+v, %v", asked, hello, err)
		}
	}
}

func TestClientRefusesHellos(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*serverHello)
		alert  alert
		code   muster.Code
	}{
		"TLS 1.1":                {func(h *serverHello) { h.version = 0x0302 }, alertProtocolVersion, muster.CodeProtocolVersion},
		"TLS 1.3":                {func(h *serverHello) { h.version = 0x0304 }, alertProtocolVersion, muster.CodeProtocolVersion},
		"a suite not offered":    {func(h *serverHello) { h.suite = 0x00a9 }, alertIllegalParameter, muster.CodeHandshakeFailed},
		"NULL cipher":            {func(h *serverHello) { h.suite = 0 }, alertIllegalParameter, muster.CodeHandshakeFailed},
		"compression":            {func(h *serverHello) { h.compression = 1 }, alertIllegalParameter, muster.CodeHandshakeFailed},
		"no EMS":                 {func(h *serverHello) { h.extensions.extendedMasterSecret = false }, alertHandshakeFailure, muster.CodeNoExtendedMasterSecret},
		"no renegotiation_info":  {func(h *serverHello) { h.extensions.renegotiationInfo = false }, alertHandshakeFailure, muster.CodeHandshakeFailed},
		"encrypt_then_mac, GCM":  {func(h *serverHello) { h.extensions.encryptThenMAC = true }, alertIllegalParameter, muster.CodeHandshakeFailed},
		"a server_name of names": {func(h *serverHello) { h.extensions.serverName, h.extensions.serverNameUsed = "x", false }, alertDecodeError, muster.CodeHandshakeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := newSide(t, config(t), true), newSide(t, config(t), false)
			server.put(client.taken())
			answer := records(t, server.taken())
			hello, err := parseServerHello(answer[0][headerSize+messageHeaderSize:])
			if err != nil {
				t.Fatal(err)
			}
			test.change(hello)
			client.put(record(typeHandshake, message(messageServerHello, hello.marshal())))
			if got := alertOf(t, client.err); got != test.alert {
				t.Errorf("the alert is %v: %v", got, client.err)
			}
			if got := muster.CodeOf(client.err); got != test.code {
				t.Errorf("the code is %v", got)
			}
		})
	}
}

// An unknown identity, a wrong key and a key of a size that cannot serve are
// answered with the same octets. Only the operator learns more.
func TestIdentityIsNoOracle(t *testing.T) {
	t.Parallel()
	answer := func(suite Suite, psk func(context.Context, string) ([]byte, error)) ([]byte, error) {
		cc, sc := config(t, suite), config(t)
		cc.Rand, sc.Rand, sc.PSK = &counter{seed: "client"}, &counter{seed: "server"}, psk
		client, server := newSide(t, cc, true), newSide(t, sc, false)
		server.put(client.taken())
		octets := server.taken()
		client.put(octets)
		server.put(client.taken())
		if server.done || server.err == nil {
			t.Fatal("the server accepts")
		}
		return append(octets, server.taken()...), server.explain(server.err)
	}
	for _, suite := range []Suite{TLS_PSK_WITH_AES_128_GCM_SHA256, TLS_PSK_WITH_AES_128_CBC_SHA256} {
		wrong, err := answer(suite, func(context.Context, string) ([]byte, error) { return make([]byte, 32), nil })
		if got := muster.CodeOf(err); got != muster.CodeHandshakeFailed {
			t.Errorf("a wrong key has the code %v", got)
		}
		if !bytes.HasSuffix(wrong, record(typeAlert, []byte{levelFatal, byte(alertBadRecordMAC)})) {
			t.Errorf("a wrong key ends in %x", wrong[len(wrong)-7:])
		}
		for name, psk := range map[string]func(context.Context, string) ([]byte, error){
			string(muster.CodeKeyUnknown): func(context.Context, string) ([]byte, error) { return nil, errNoSuchKey },
			string(muster.CodeMEFNotListed): func(context.Context, string) ([]byte, error) {
				return nil, muster.Refuse(muster.CodeMEFNotListed, "no")
			},
			"short": func(context.Context, string) ([]byte, error) { return make([]byte, minKey-1), nil },
			"long":  func(context.Context, string) ([]byte, error) { return make([]byte, maxKey+1), nil },
			"empty": func(context.Context, string) ([]byte, error) { return nil, nil },
		} {
			got, err := answer(suite, psk)
			if !bytes.Equal(got, wrong) {
				t.Errorf("%s is answered differently", name)
			}
			want := muster.CodeKeyUnknown
			if name == string(muster.CodeMEFNotListed) {
				want = muster.CodeMEFNotListed
			}
			if muster.CodeOf(err) != want {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Who guesses the stand-in, as with a broken source of randomness, is refused.
func TestStandInOpensNothing(t *testing.T) {
	t.Parallel()
	cc, sc := config(t), config(t)
	sc.Rand = zeros{}
	sc.PSK = func(context.Context, string) ([]byte, error) { return nil, errNoSuchKey }
	cc.Key = make([]byte, muster.KeySize)
	client, server := newSide(t, cc, true), newSide(t, sc, false)
	meet(client, server)
	if server.done || client.done || alertOf(t, server.err) != alertBadRecordMAC || !errors.Is(server.explain(server.err), errNoSuchKey) {
		t.Errorf("server: %v, client: %v", server.err, client.err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A Finished that is well protected and wrong has an alert of its own: only a
// peer with the key can get so far.
func TestFinishedIsVerified(t *testing.T) {
	t.Parallel()
	for _, asClient := range []bool{true, false} {
		pieces := genuine(t, asClient)
		victim := fixedSide(t, asClient)
		last := len(pieces) - 1
		for _, p := range pieces[:last] {
			feed(victim, p)
		}
		for bit := range 8 * verifySize {
			wrong := bytes.Clone(pieces[last].content)
			wrong[messageHeaderSize+bit/8] ^= 1 << (bit % 8)
			if err := victim.receiveFinished(wrong[messageHeaderSize:], victim.transcript.Sum(nil)); err == nil || alertOf(t, err) != alertDecryptError {
				t.Fatalf("client %v, bit %d: %v", asClient, bit, err)
			}
		}
		if feed(victim, pieces[last]); !victim.done {
			t.Fatal(victim.err)
		}
	}
}

func TestRandomnessFails(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{0, randomSize, 2 * randomSize} {
		c := config(t, TLS_PSK_WITH_AES_128_CBC_SHA256)
		server := newSide(t, c, false)
		server.config.Rand = io.LimitReader(&counter{}, n)
		client := newSide(t, c, true)
		meet(client, server)
		if server.done || alertOf(t, server.err) != alertInternalError {
			t.Errorf("with %d octets of randomness: %v", n, server.err)
		}
	}
}

// A server that finds fault with what comes with the Finished confirms nothing.
func TestFaultBehindFinishedConfirmsNothing(t *testing.T) {
	t.Parallel()
	pieces := genuine(t, false)
	server := fixedSide(t, false)
	for _, p := range pieces[:3] {
		feed(server, p)
	}
	server.out.take()
	feed(server, piece{typeHandshake, append(bytes.Clone(pieces[3].content), 0)})
	if server.done || alertOf(t, server.err) != alertUnexpectedMessage || len(server.out.take()) != 0 {
		t.Error(server.err)
	}
}

// The alert for a fault comes behind what was sent before and under its keys, so
// that the peer can read it.
func TestAlertFollowsTheFlight(t *testing.T) {
	t.Parallel()
	client, server := newSide(t, config(t), true), newSide(t, config(t), false)
	server.put(client.taken())
	client.put(append(server.taken(), record(typeApplicationData, []byte("early"))...))
	if alertOf(t, client.err) != alertUnexpectedMessage {
		t.Fatal(client.err)
	}
	server.put(client.taken())
	if muster.CodeOf(server.err) != muster.CodePeerAlert || !server.done {
		t.Error(server.err)
	}
}

// A server answers a hello before it looks for a key, even if the client did not
// wait for the answer.
func TestServerAnswersBeforeItLooks(t *testing.T) {
	t.Parallel()
	looked := make(chan struct{})
	c := config(t)
	c.PSK = func(context.Context, string) ([]byte, error) {
		<-looked
		return nil, errNoSuchKey
	}
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	transport, conn := loopback(t)
	client := newSide(t, config(t), true)
	early := record(typeHandshake, message(messageClientKeyExchange, marshalClientKeyExchange(testIdentity)))
	if _, err := transport.Write(append(client.taken(), early...)); err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		_, err := s.Handshake(t.Context(), conn)
		result <- err
	}()
	if _, err := io.ReadFull(transport, make([]byte, headerSize)); err != nil {
		t.Error(err)
	}
	close(looked)
	transport.Close()
	if err := <-result; err == nil {
		t.Error("the server accepts")
	}
}
