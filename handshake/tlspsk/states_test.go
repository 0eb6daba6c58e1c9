package tlspsk

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// piece is the content of a record.
type piece struct {
	typ     contentType
	content []byte
}

// genuine returns what a side is sent in a good handshake, without protection.
// Randomness is fixed, so that another side of the same role understands it too.
func genuine(t *testing.T, asClient bool) (pieces []piece) {
	t.Helper()
	client, server := fixedSide(t, true), fixedSide(t, false)
	here, there := server, client
	if asClient {
		here, there = client, server
		there.put(here.taken())
	}
	for !here.done {
		octets := there.taken()
		if len(octets) == 0 {
			t.Fatalf("%v, %v", client.err, server.err)
		}
		for len(octets) > 0 {
			n := copy(here.in.space(), octets)
			here.in.received(n)
			octets = octets[n:]
		}
		for {
			typ, content, ok, err := here.in.next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			pieces = append(pieces, piece{typ, bytes.Clone(content)})
			feed(here, pieces[len(pieces)-1])
		}
		there.put(here.taken())
	}
	return pieces
}

func fixedSide(t testing.TB, client bool) *side {
	c := config(t)
	c.Rand = &counter{seed: fmt.Sprint("client ", client)}
	return newSide(t, c, client)
}

// feed gives a side the content of a record as if it had been opened.
func feed(s *side, p piece) {
	var e event
	e, s.err = s.machine.record(p.typ, bytes.Clone(p.content))
	if e == needKey {
		s.provide(testKey(), nil)
	}
	s.done = s.done || e == handshakeDone
}

// TestEveryMessageInEveryState drives each role to each of its states and tries
// everything there that a peer could send. The table of what may come stands here
// a second time, on purpose.
func TestEveryMessageInEveryState(t *testing.T) {
	t.Parallel()
	hint := piece{typeHandshake, message(messageServerKeyExchange, []byte{0, 4, 'h', 'i', 'n', 't'})}
	for _, asClient := range []bool{false, true} {
		own, other := genuine(t, asClient), genuine(t, !asClient)
		type at struct {
			state state
			path  []piece
			takes []piece
		}
		var states []at
		if asClient {
			states = []at{
				{awaitServerHello, nil, own[:1]},
				{awaitServerKeyExchange, own[:1], []piece{hint, own[1]}},
				{awaitServerHelloDone, []piece{own[0], hint}, own[1:2]},
				{awaitChangeCipherSpec, own[:2], own[2:3]},
				{awaitFinished, own[:3], own[3:4]},
				{established, own[:4], []piece{{typeApplicationData, []byte("x")}}},
			}
		} else {
			states = []at{
				{awaitClientHello, nil, own[:1]},
				{awaitClientKeyExchange, own[:1], own[1:2]},
				{awaitChangeCipherSpec, own[:2], own[2:3]},
				{awaitFinished, own[:3], own[3:4]},
				{established, own[:4], []piece{{typeApplicationData, []byte("x")}}},
			}
		}
		candidates := append(append([]piece{hint}, own...), other...)
		for typ := range 32 {
			candidates = append(candidates,
				piece{typeHandshake, message(messageType(typ), nil)},
				piece{typeHandshake, message(messageType(typ), make([]byte, 40))})
		}
		for typ := range 256 {
			candidates = append(candidates, piece{contentType(typ), nil}, piece{contentType(typ), []byte("x")})
		}
		for _, s := range states {
			for _, c := range candidates {
				tryIn(t, asClient, s.state, s.path, s.takes, c)
			}
			checkAlerts(t, asClient, s.state, s.path)
		}
	}
}

func reach(t *testing.T, asClient bool, want state, path []piece) *side {
	t.Helper()
	s := fixedSide(t, asClient)
	for _, p := range path {
		if feed(s, p); s.err != nil {
			t.Fatal(s.err)
		}
	}
	if s.state != want {
		t.Fatalf("reached %v, not %v", s.state, want)
	}
	return s
}

func tryIn(t *testing.T, asClient bool, in state, path, takes []piece, c piece) {
	t.Helper()
	s := reach(t, asClient, in, path)
	s.out.take()
	feed(s, c)
	for _, p := range takes {
		if p.typ == c.typ && bytes.Equal(p.content, c.content) {
			if s.err != nil {
				t.Errorf("client %v, %v: a genuine message is refused: %v", asClient, in, s.err)
			}
			return
		}
	}
	emptyData := c.typ == typeApplicationData && in == established
	if emptyData && s.err == nil {
		return
	}
	if s.err == nil {
		t.Errorf("client %v, %v: %d %x is accepted", asClient, in, c.typ, c.content)
		return
	}
	if octets := s.out.take(); len(octets) != 0 {
		t.Errorf("client %v, %v: %d %x is answered by %x", asClient, in, c.typ, c.content, octets)
	}
	want := []alert{alertUnexpectedMessage}
	if len(c.content) > 0 && expectedType(takes, c) {
		// of the right type and malformed, or of another handshake
		want = []alert{alertDecodeError, alertIllegalParameter, alertDecryptError, alertProtocolVersion}
	}
	if in == established && c.typ == typeHandshake && len(c.content) > 0 &&
		(asClient && c.content[0] == byte(messageHelloRequest) || !asClient && c.content[0] == byte(messageClientHello)) {
		want = []alert{alertNoRenegotiation}
	}
	if c.typ == typeAlert && len(c.content) == 1 {
		want = []alert{alertDecodeError}
	}
	f, ok := errors.AsType[*fault](s.err)
	if !ok {
		t.Fatalf("client %v, %v: %d %x: %v", asClient, in, c.typ, c.content, s.err)
	}
	for _, a := range want {
		if f.alert == a {
			return
		}
	}
	t.Errorf("client %v, %v: %d %x is answered with %v, not %v: %v", asClient, in, c.typ, c.content, f.alert, want, s.err)
}

func expectedType(takes []piece, c piece) bool {
	for _, p := range takes {
		if p.typ == c.typ && (c.typ != typeHandshake || c.content[0] == p.content[0]) {
			return true
		}
	}
	return false
}

// checkAlerts sends each alert at each level.
func checkAlerts(t *testing.T, asClient bool, in state, path []piece) {
	t.Helper()
	for level := range 4 {
		for a := range 256 {
			s := reach(t, asClient, in, path)
			feed(s, piece{typeAlert, []byte{byte(level), byte(a)}})
			_, sends := errors.AsType[*fault](s.err)
			var ok bool
			switch {
			case a == 0 && in == established:
				ok = s.err == nil && s.state == closed
			case a == 0 || level == levelFatal:
				ok = s.err != nil && !sends
			case level == levelWarning:
				ok = s.err == nil && s.state == in
			default:
				ok = s.err != nil && sends
			}
			if !ok {
				t.Errorf("client %v, %v: alert %d at level %d: %v", asClient, in, a, level, s.err)
			}
		}
	}
}

// Nothing may interrupt a handshake message, and nothing may follow the message
// after which the peer has to wait or to change keys.
func TestMessagesEndWhereKeysChange(t *testing.T) {
	t.Parallel()
	pieces := genuine(t, false)
	hello, exchange, ccs, finished := pieces[0], pieces[1], pieces[2], pieces[3]
	join := func(a, b []byte) piece { return piece{typeHandshake, append(bytes.Clone(a), b...)} }
	for name, path := range map[string][]piece{
		"ClientKeyExchange with ClientHello":      {join(hello.content, exchange.content)},
		"part of it with ClientHello":             {join(hello.content, exchange.content[:2])},
		"Finished with ClientKeyExchange":         {hello, join(exchange.content, finished.content)},
		"part of it with ClientKeyExchange":       {hello, join(exchange.content, finished.content[:1])},
		"ChangeCipherSpec in ClientKeyExchange":   {hello, {typeHandshake, exchange.content[:5]}, ccs},
		"an octet before ChangeCipherSpec":        {hello, exchange, {typeHandshake, finished.content[:1]}},
		"a ClientHello behind Finished":           {hello, exchange, ccs, join(finished.content, hello.content)},
		"an octet of a hello after the handshake": {hello, exchange, ccs, finished, {typeHandshake, hello.content[:1]}},
		"two ChangeCipherSpecs":                   {hello, exchange, ccs, ccs},
		"ChangeCipherSpec of two octets":          {hello, exchange, {typeChangeCipherSpec, []byte{1, 1}}},
		"ChangeCipherSpec of another value":       {hello, exchange, {typeChangeCipherSpec, []byte{2}}},
		"ChangeCipherSpec after the handshake":    {hello, exchange, ccs, finished, ccs},
		"a Finished that is longer":               {hello, exchange, ccs, {typeHandshake, message(messageFinished, append(finished.content[4:16:16], 0))}},
		"a Finished that is shorter":              {hello, exchange, ccs, {typeHandshake, message(messageFinished, finished.content[4:15])}},
		"a message of more than maxMessage":       {{typeHandshake, []byte{1, 0, 0x20, 1}}},
		"a Finished without ChangeCipherSpec":     {hello, exchange, finished},
		"ChangeCipherSpec before the key (2014)":  {hello, ccs},
	} {
		s := fixedSide(t, false)
		for i, p := range path {
			if feed(s, p); s.err != nil && i < len(path)-1 {
				t.Errorf("%s: ends early: %v", name, s.err)
			}
		}
		if s.err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		alertOf(t, s.err)
	}
}

func TestFloodsEnd(t *testing.T) {
	t.Parallel()
	pieces := genuine(t, false)
	for name, test := range map[string]struct {
		path []piece
		p    piece
		n    int
	}{
		"warnings in the handshake":  {pieces[:1], piece{typeAlert, []byte{levelWarning, 112}}, maxWarnings},
		"warnings after it":          {pieces, piece{typeAlert, []byte{levelWarning, 90}}, maxWarnings},
		"empty application data":     {pieces, piece{typeApplicationData, nil}, maxEmptyRecords},
		"empty records of handshake": {nil, piece{typeHandshake, nil}, 0},
	} {
		s := fixedSide(t, false)
		for _, p := range test.path {
			feed(s, p)
		}
		n := 0
		for ; s.err == nil && n <= test.n; n++ {
			feed(s, test.p)
		}
		if n != test.n+1 || alertOf(t, s.err) != alertUnexpectedMessage {
			t.Errorf("%s: %d are accepted, then %v", name, n-1, s.err)
		}
	}
}

// Messages may come in fragments of any size, and octets in any portions.
func TestFragments(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 7, 100} {
		client, server := newSide(t, config(t), true), newSide(t, config(t), false)
		refragment := func(octets []byte) (out []byte) {
			encrypted := false
			for _, r := range records(t, octets) {
				typ, content := contentType(r[0]), r[headerSize:]
				encrypted = encrypted || typ == typeChangeCipherSpec
				if typ != typeHandshake || encrypted {
					out = append(out, r...)
					continue
				}
				for len(content) > 0 {
					n := min(size, len(content))
					out, content = append(out, record(typ, content[:n])...), content[n:]
				}
			}
			return out
		}
		for range 3 {
			for _, b := range refragment(client.taken()) {
				server.put([]byte{b})
			}
			for _, b := range refragment(server.taken()) {
				client.put([]byte{b})
			}
		}
		checkEstablished(t, client, server)
	}
}

// A protected Finished may come in fragments too.
func TestFragmentsUnderProtection(t *testing.T) {
	t.Parallel()
	pieces := genuine(t, false)
	s := fixedSide(t, false)
	for _, p := range pieces[:3] {
		feed(s, p)
	}
	for _, b := range pieces[3].content {
		feed(s, piece{typeHandshake, []byte{b}})
	}
	if s.err != nil || !s.done {
		t.Error(s.err)
	}
}
