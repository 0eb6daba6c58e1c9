package tlspsk

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"muster"
)

func goodClientHello() clientHello {
	return clientHello{
		version: version12, suites: []uint16{0x00a8, 0x00ae}, nullCompression: true,
		extensions: extensions{serverName: testName, extendedMasterSecret: true, encryptThenMAC: true, renegotiationInfo: true},
	}
}

// No prefix of a message parses, nor a message with an octet more, but for hellos
// that end where their extensions would begin.
func TestMessagesAreWhole(t *testing.T) {
	t.Parallel()
	ch := goodClientHello()
	sh := serverHello{version: version12, suite: 0x00ae, extensions: extensions{serverNameUsed: true, extendedMasterSecret: true, encryptThenMAC: true, renegotiationInfo: true}}
	for name, m := range map[string]struct {
		octets []byte
		parse  func([]byte) error
		bare   int // length without extensions
	}{
		"ClientHello":       {ch.marshal(), func(b []byte) error { _, err := parseClientHello(b); return err }, 2 + 32 + 1 + 2 + 4 + 2},
		"ServerHello":       {sh.marshal(), func(b []byte) error { _, err := parseServerHello(b); return err }, 2 + 32 + 1 + 2 + 1},
		"ServerKeyExchange": {[]byte{0, 2, 'h', 'i'}, parseServerKeyExchange, -1},
		"ClientKeyExchange": {marshalClientKeyExchange("id"), func(b []byte) error { _, err := parseClientKeyExchange(b); return err }, -1},
	} {
		if err := m.parse(m.octets); err != nil {
			t.Fatal(name, err)
		}
		for n := range m.octets {
			if err := m.parse(m.octets[:n]); (err == nil) != (n == m.bare) {
				t.Errorf("%s of %d octets: %v", name, n, err)
			} else if err != nil && alertOf(t, err) != alertDecodeError {
				t.Errorf("%s of %d octets: %v", name, n, alertOf(t, err))
			}
		}
		if err := m.parse(append(bytes.Clone(m.octets), 0)); err == nil || alertOf(t, err) != alertDecodeError {
			t.Errorf("%s with an octet more: %v", name, err)
		}
	}
}

// ext is an extension in octets.
func ext(typ uint16, data string) string {
	return string([]byte{byte(typ >> 8), byte(typ), byte(len(data) >> 8), byte(len(data))}) + data
}

func TestExtensionsAreStrict(t *testing.T) {
	t.Parallel()
	sni := "\x00\x04\x00\x00\x01x"
	for name, test := range map[string]struct {
		list   string
		client alert // in a ClientHello; 255 for none
		server alert // in a ServerHello
	}{
		"none at all":                        {"", 255, 255},
		"an unknown one":                     {ext(10, "\x00\x01"), 255, alertUnsupportedExtension},
		"tickets":                            {ext(35, ""), 255, alertUnsupportedExtension},
		"twice":                              {ext(23, "") + ext(23, ""), alertIllegalParameter, alertIllegalParameter},
		"an unknown one twice":               {ext(10, "") + ext(10, ""), alertIllegalParameter, alertUnsupportedExtension},
		"half a header":                      {"\x00\x17\x00", alertDecodeError, alertDecodeError},
		"longer than the list":               {"\x00\x17\x00\x01", alertDecodeError, alertDecodeError},
		"content of extended_master_secret":  {ext(23, "x"), alertDecodeError, alertDecodeError},
		"content of encrypt_then_mac":        {ext(22, "x"), alertDecodeError, alertDecodeError},
		"renegotiation_info":                 {ext(0xff01, "\x00"), 255, 255},
		"renegotiation_info of another":      {ext(0xff01, "\x0c"+strings.Repeat("v", 12)), alertHandshakeFailure, alertHandshakeFailure},
		"an empty renegotiation_info":        {ext(0xff01, ""), alertDecodeError, alertDecodeError},
		"a renegotiation_info with a tail":   {ext(0xff01, "\x00\x00"), alertDecodeError, alertDecodeError},
		"a server_name":                      {ext(0, sni), 255, alertDecodeError},
		"an empty server_name":               {ext(0, ""), alertDecodeError, 255},
		"an empty list of names":             {ext(0, "\x00\x00"), alertDecodeError, alertDecodeError},
		"an empty name":                      {ext(0, "\x00\x03\x00\x00\x00"), alertDecodeError, alertDecodeError},
		"two host names":                     {ext(0, "\x00\x08\x00\x00\x01x\x00\x00\x01y"), alertIllegalParameter, alertDecodeError},
		"a name of another kind before":      {ext(0, "\x00\x08\x07\x00\x01y\x00\x00\x01x"), 255, alertDecodeError},
		"a name that is longer than it says": {ext(0, "\x00\x04\x00\x00\x02x"), alertDecodeError, alertDecodeError},
		"a server_name with a tail":          {ext(0, sni+"x"), alertDecodeError, alertDecodeError},
	} {
		ch, sh := clientHello{version: version12, suites: []uint16{0xa8}}, serverHello{version: version12}
		list := append([]byte{byte(len(test.list) >> 8), byte(len(test.list))}, test.list...)
		whole := ch.marshal()
		_, err := parseClientHello(slices.Concat(whole[:len(whole)-2], list))
		check(t, name+" in a ClientHello", err, test.client)
		whole = sh.marshal()
		_, err = parseServerHello(slices.Concat(whole[:len(whole)-2], list))
		check(t, name+" in a ServerHello", err, test.server)
	}
}

func check(t *testing.T, name string, err error, want alert) {
	t.Helper()
	if want == 255 {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	} else if err == nil || alertOf(t, err) != want {
		t.Errorf("%s: %v", name, err)
	}
}

func TestClientHelloFields(t *testing.T) {
	t.Parallel()
	m := goodClientHello()
	good := m.marshal()
	at := 2 + randomSize // of the session id
	for name, change := range map[string]func([]byte) []byte{
		"a session id of 33 octets":  func(b []byte) []byte { b[at] = 33; return slices.Insert(b, at+1, make([]byte, 33)...) },
		"an odd list of suites":      func(b []byte) []byte { b[at+2] = 3; return slices.Delete(b, at+3, at+4) },
		"no suites":                  func(b []byte) []byte { b[at+2] = 0; return slices.Delete(b, at+3, at+7) },
		"no compression methods":     func(b []byte) []byte { b[at+7] = 0; return slices.Delete(b, at+8, at+9) },
		"extensions of other length": func(b []byte) []byte { b[at+10]--; return b },
	} {
		if _, err := parseClientHello(change(bytes.Clone(good))); err == nil || alertOf(t, err) != alertDecodeError {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := bytes.Clone(good)
	other[at+8] = 1 // DEFLATE only
	server := fixedSide(t, false)
	feed(server, piece{typeHandshake, message(messageClientHello, other)})
	if server.err == nil || alertOf(t, server.err) != alertIllegalParameter {
		t.Error(server.err)
	}
	resumed := slices.Insert(bytes.Clone(good), at+1, make([]byte, 32)...)
	resumed[at] = 32
	server = fixedSide(t, false)
	feed(server, piece{typeHandshake, message(messageClientHello, resumed)})
	if server.err != nil || server.state != awaitClientKeyExchange {
		t.Errorf("a session that is not to be resumed: %v", server.err)
	}
}

func TestIdentityLimits(t *testing.T) {
	t.Parallel()
	for identity, ok := range map[string]bool{
		"": true, "ö": true, strings.Repeat("x", muster.MaxPSKIdentity): true,
		strings.Repeat("x", muster.MaxPSKIdentity+1): false, "\xff": false,
	} {
		got, err := parseClientKeyExchange(marshalClientKeyExchange(identity))
		if ok && (err != nil || got != identity) || !ok && (err == nil || alertOf(t, err) != alertIllegalParameter) {
			t.Errorf("%d octets: %v", len(identity), err)
		}
	}
}
