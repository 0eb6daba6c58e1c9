package coap_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"muster/binding/coap"
	"muster/primitive"
)

func octets(t testing.TB, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The first two are the examples of RFC 7252 appendix A.
func TestMessageGolden(t *testing.T) {
	t.Parallel()
	for digits, want := range map[string]*coap.Message{
		"40017d34 bb74656d7065726174757265": {Type: coap.Confirmable, Code: coap.GET, ID: 0x7d34,
			Options: coap.Options{{Number: coap.OptionURIPath, Value: []byte("temperature")}}, Token: []byte{}},
		"60457d34 ff 32322e332043": {Type: coap.Acknowledgement, Code: coap.CodeContent, ID: 0x7d34, Payload: []byte("22.3 C"), Token: []byte{}},
		"70000001":                 {Type: coap.Reset, ID: 1, Token: []byte{}},
		"52020001 aabb b12d d1001e e0002d ff 7b7d": {Type: coap.NonConfirmable, Code: coap.POST, ID: 1, Token: []byte{0xaa, 0xbb},
			Options: coap.Options{
				{Number: coap.OptionURIPath, Value: []byte("-")},
				{Number: 24, Value: []byte{0x1e}},
				{Number: 338, Value: []byte{}},
			}, Payload: []byte("{}")},
	} {
		got, err := coap.Parse(octets(t, digits))
		if err != nil {
			t.Errorf("%s: %v", digits, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", digits, got, want)
		}
		if back, err := got.Marshal(); err != nil || !bytes.Equal(back, octets(t, digits)) {
			t.Errorf("%s: written %x, %v", digits, back, err)
		}
	}
}

func TestMessageMalformed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		digits string
		want   error
	}{
		"nothing":                    {"", coap.ErrNotCoAP},
		"three octets":               {"400001", coap.ErrNotCoAP},
		"version 0":                  {"00010001", coap.ErrNotCoAP},
		"version 2":                  {"80010001", coap.ErrNotCoAP},
		"token length 9":             {"49010001 000000000000000000", coap.ErrFormat},
		"token cut off":              {"42010001 00", coap.ErrFormat},
		"empty with token":           {"41000001 00", coap.ErrFormat},
		"empty with payload":         {"40000001 ff00", coap.ErrFormat},
		"code 1.00":                  {"40200001", coap.ErrFormat},
		"code 3.01":                  {"40610001", coap.ErrFormat},
		"code 6.00":                  {"40c00001", coap.ErrFormat},
		"code 7.01":                  {"40e10001", coap.ErrFormat},
		"marker without payload":     {"40010001 ff", coap.ErrFormat},
		"reserved delta":             {"40010001 f0", coap.ErrFormat},
		"reserved length":            {"40010001 0f", coap.ErrFormat},
		"delta cut off":              {"40010001 d0", coap.ErrFormat},
		"long delta cut off":         {"40010001 e000", coap.ErrFormat},
		"length cut off":             {"40010001 bd", coap.ErrFormat},
		"long length cut off":        {"40010001 be00", coap.ErrFormat},
		"value cut off":              {"40010001 b261", coap.ErrFormat},
		"number above 65535":         {"40010001 e0ffff", coap.ErrFormat},
		"number above 65535 in two":  {"40010001 e0fef2 e0fef2", coap.ErrFormat},
		"too many options":           {"40010001" + strings.Repeat("00", 49), coap.ErrFormat},
		"too long":                   {"40010001 ff" + strings.Repeat("00", 1500), coap.ErrFormat},
		"payload marker in a length": {"40010001 bdff", coap.ErrFormat},
	} {
		if m, err := coap.Parse(octets(t, tc.digits)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// Whatever a peer sends, its connection stays in service.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\x40\x02\x00\x01\xb1-\xc1\x32"), []byte("\x40\x01\x00\x02\xb1-\xc1\x10"))
	f.Add(octets(f, message(f, registration(coap.Confirmable, 1))), octets(f, message(f, registration(coap.NonConfirmable, 2))))
	f.Add(octets(f, "41020001aab12dd10308ff"+strings.Repeat("61", 16)), octets(f, "41020002aab12dd10310ff62"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		conn, server := datagramPair(t, faithful, faithful)
		serve(t, primitive.HandlerFunc(echo), server)
		for _, datagram := range [][]byte{first, second, []byte("\x40\x00\xff\xff")} {
			if len(datagram) == 0 || len(datagram) > 1500 {
				continue
			}
			if _, err := conn.Write(datagram); err != nil {
				t.Fatal(err)
			}
		}
		buffer := make([]byte, 2048)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(buffer[:n], []byte("\x70\x00\xff\xff")) {
				return
			}
			if _, err := coap.Parse(buffer[:n]); err != nil {
				t.Fatalf("the server sends %x: %v", buffer[:n], err)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, digits := range []string{"40017d34bb74656d7065726174757265", "60457d34ff32322e332043", "70000001", "4401000100000000b12de10156610d0161ff01", "49010001"} {
		f.Add(octets(f, digits))
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		m, err := coap.Parse(datagram)
		if err != nil {
			if errors.Is(err, coap.ErrNotCoAP) == errors.Is(err, coap.ErrFormat) {
				t.Fatalf("error %v", err)
			}
			return
		}
		again, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		same, err := coap.Parse(again)
		if err != nil {
			t.Fatalf("%x is written %x and not read: %v", datagram, again, err)
		}
		if !reflect.DeepEqual(m, same) {
			t.Fatalf("%+v becomes %+v", m, same)
		}
	})
}
