package tlspsk

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"testing"
	"time"
)

func testCBC(encryptThenMAC bool) *cbc {
	return newCBC(bytes.Repeat([]byte{1}, keySize), bytes.Repeat([]byte{2}, macSize), encryptThenMAC, &counter{})
}

// sealWith makes a record of MAC-then-encrypt with any padding: the last octets of
// the plaintext as they stand.
func sealWith(c *cbc, seq uint64, typ contentType, content, padding []byte) []byte {
	data := slices.Concat(content, c.sum(seq, typ, content), padding)
	return encrypt(c, data)
}

func encrypt(c *cbc, data []byte) []byte {
	out := make([]byte, aes.BlockSize+len(data))
	cipher.NewCBCEncrypter(c.block, out[:aes.BlockSize]).CryptBlocks(out[aes.BlockSize:], data)
	return out
}

func paddingFor(n, extraBlocks int) []byte {
	p := aes.BlockSize - (n+macSize)%aes.BlockSize + extraBlocks*aes.BlockSize
	return bytes.Repeat([]byte{byte(p - 1)}, p)
}

func TestProtectionRoundTrip(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]protection{
		"gcm": newGCM(make([]byte, keySize), make([]byte, gcmSaltSize)), "cbc": testCBC(true), "cbc plain": testCBC(false),
	} {
		for n := range 600 {
			content := digits(n + 1)[:n]
			sealed, err := p.seal([]byte("before"), 7, typeApplicationData, content)
			if err != nil {
				t.Fatal(err)
			}
			sealed = bytes.TrimPrefix(sealed, []byte("before"))
			for _, other := range []struct {
				seq uint64
				typ contentType
			}{{8, typeApplicationData}, {7, typeAlert}} {
				if _, ok := p.open(other.seq, other.typ, bytes.Clone(sealed)); ok {
					t.Fatalf("%s: %d octets open as record %d of type %d", name, n, other.seq, other.typ)
				}
			}
			if got, ok := p.open(7, typeApplicationData, bytes.Clone(sealed)); !ok || !bytes.Equal(got, content) {
				t.Fatalf("%s: %d octets: %q, %v", name, n, got, ok)
			}
		}
	}
}

func TestProtectionDetectsEveryBit(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]protection{
		"gcm": newGCM(make([]byte, keySize), make([]byte, gcmSaltSize)), "cbc": testCBC(true), "cbc plain": testCBC(false),
	} {
		sealed, err := p.seal(nil, 0, typeApplicationData, digits(40))
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(sealed) {
			altered := bytes.Clone(sealed)
			altered[bit/8] ^= 1 << (bit % 8)
			if _, ok := p.open(0, typeApplicationData, altered); ok {
				t.Fatalf("%s: bit %d may be altered", name, bit)
			}
		}
		for n := range sealed {
			if _, ok := p.open(0, typeApplicationData, bytes.Clone(sealed[:n])); ok {
				t.Fatalf("%s: %d octets will do", name, n)
			}
			if _, ok := p.open(0, typeApplicationData, bytes.Clone(sealed[n+1:])); ok {
				t.Fatalf("%s: the last %d octets will do", name, len(sealed)-n-1)
			}
		}
	}
}

// Every legal length of padding opens, and every single wrong octet of it makes
// the record as worthless as a wrong MAC does.
func TestPadding(t *testing.T) {
	t.Parallel()
	c := testCBC(false)
	for _, n := range []int{0, 1, 15, 16, 31, 200, 300} {
		content := digits(n + 1)[:n]
		for extra := range 16 {
			padding := paddingFor(n, extra)
			if got, ok := c.open(0, typeApplicationData, sealWith(c, 0, typeApplicationData, content, padding)); !ok || !bytes.Equal(got, content) {
				t.Fatalf("%d octets with %d of padding do not open", n, len(padding))
			}
			for i := range padding {
				wrong := bytes.Clone(padding)
				wrong[i] ^= 0x10
				if _, ok := c.open(0, typeApplicationData, sealWith(c, 0, typeApplicationData, content, wrong)); ok {
					t.Fatalf("%d octets: octet %d of %d of padding may be anything", n, i, len(padding))
				}
			}
		}
	}
	for n := 0; n <= 20*aes.BlockSize; n += aes.BlockSize { // padding that leaves no room for the MAC
		for _, last := range []byte{0, 15, 31, 47, 63, 128, 254, 255} {
			if _, ok := c.open(0, typeApplicationData, encrypt(c, bytes.Repeat([]byte{last}, n))); ok {
				t.Fatalf("%d octets %d open", n, last)
			}
		}
	}
}

// openPlainly is MAC-then-encrypt as the RFC tells it, with no regard to time.
func openPlainly(c *cbc, seq uint64, typ contentType, fragment []byte) ([]byte, bool) {
	n := len(fragment) - aes.BlockSize
	if n < macSize+aes.BlockSize || n%aes.BlockSize != 0 {
		return nil, false
	}
	data := c.decrypt(fragment)
	padding := int(data[n-1]) + 1
	if padding+macSize > n {
		return nil, false
	}
	for _, b := range data[n-padding:] {
		if int(b) != padding-1 {
			return nil, false
		}
	}
	length := n - padding - macSize
	if !hmac.Equal(c.sum(seq, typ, data[:length]), data[length:length+macSize]) {
		return nil, false
	}
	return data[:length], true
}

// trace is a SHA-256 that writes down what is asked of it.
type trace struct {
	hash.Hash
	asked *[]string
}

func (h trace) note(format string, args ...any) {
	*h.asked = append(*h.asked, fmt.Sprintf(format, args...))
}

func (h trace) Write(p []byte) (int, error) { h.note("write %d", len(p)); return h.Hash.Write(p) }
func (h trace) Sum(b []byte) []byte         { h.note("sum"); return h.Hash.Sum(b) }
func (h trace) Reset()                      { h.note("reset"); h.Hash.Reset() }

// forgeries are records of one length that differ in what an attacker would like
// to learn: how much padding they have, and whether it is right.
func forgeries(c *cbc, size int) (all [][]byte) {
	for last := range 256 {
		all = append(all, encrypt(c, bytes.Repeat([]byte{byte(last)}, size))) // right padding, wrong MAC
		wrong := make([]byte, size)
		wrong[size-1] = byte(last)
		all = append(all, encrypt(c, wrong)) // wrong padding
		if n := size - macSize - last - 1; n >= 0 {
			all = append(all, sealWith(c, 0, typeApplicationData, make([]byte, n), bytes.Repeat([]byte{byte(last)}, last+1)))
		}
	}
	return all
}

// TestHashingIsIndependentOfPadding counts: whatever the padding, the same is
// hashed in the same portions, so that Lucky 13 has nothing to measure.
func TestHashingIsIndependentOfPadding(t *testing.T) {
	t.Parallel()
	for _, size := range []int{48, 64, 256, 272, 288, 304, 320, 1024} {
		c := testCBC(false)
		var asked, first []string
		c.newHash = func() hash.Hash { return trace{sha256.New(), &asked} }
		opened := 0
		for i, record := range forgeries(c, size) {
			asked = nil
			if _, ok := c.open(0, typeApplicationData, record); ok {
				opened++
			}
			if i == 0 {
				first = asked
				if len(first) < min(size-macSize, maxPadding) {
					t.Fatalf("%d octets: only %d operations are counted", size, len(first))
				}
			}
			if !slices.Equal(asked, first) {
				t.Fatalf("%d octets: forgery %d is hashed differently", size, i)
			}
		}
		if want := min(256, size-macSize); opened != want {
			t.Errorf("%d octets: %d genuine records open, not %d", size, opened, want)
		}
	}
}

// TestTimeIsIndependentOfPadding measures the two forgeries that are furthest
// apart without care: right padding of 256 octets and of one. Medians of
// interleaved measurements may differ by a fifth, where openPlainly differs by
// a factor; a machine that is disturbed gets more than one chance.
func TestTimeIsIndependentOfPadding(t *testing.T) {
	c := testCBC(false)
	const size, rounds = 320, 400
	long := encrypt(c, bytes.Repeat([]byte{255}, size))
	short := encrypt(c, make([]byte, size))
	wrong := encrypt(c, append(bytes.Repeat([]byte{1}, size-1), 255))
	measure := func(open func(uint64, contentType, []byte) ([]byte, bool)) (ratio float64) {
		kinds := [][]byte{long, short, wrong}
		times := make([][]time.Duration, len(kinds))
		for range rounds {
			for i, k := range kinds {
				fragment := bytes.Clone(k)
				start := time.Now()
				open(0, typeApplicationData, fragment)
				times[i] = append(times[i], time.Since(start))
			}
		}
		var medians []float64
		for _, ts := range times {
			slices.Sort(ts)
			medians = append(medians, float64(ts[len(ts)/2]))
		}
		return slices.Max(medians) / slices.Min(medians)
	}
	plainly := measure(func(seq uint64, typ contentType, f []byte) ([]byte, bool) { return openPlainly(c, seq, typ, f) })
	var ratios []float64
	for range 10 {
		ratio := measure(c.open)
		if ratios = append(ratios, ratio); ratio < 1.2 {
			t.Logf("the slowest forgery takes %.3f times the fastest; opened plainly, %.3f times", ratio, plainly)
			return
		}
	}
	t.Errorf("the slowest forgery takes %.3v times the fastest", ratios)
}

// The specification of encrypt-then-MAC: what the MAC covers. RFC 7366 section 3
func TestEncryptThenMACCoversCiphertext(t *testing.T) {
	t.Parallel()
	c := testCBC(true)
	sealed, err := c.seal(nil, 5, typeApplicationData, []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if want := aes.BlockSize + aes.BlockSize + macSize; len(sealed) != want {
		t.Fatalf("%d octets, not %d", len(sealed), want)
	}
	n := len(sealed) - macSize
	mac := hmac.New(sha256.New, bytes.Repeat([]byte{2}, macSize))
	mac.Write([]byte{0, 0, 0, 0, 0, 0, 0, 5, 23, 3, 3, 0, byte(n)})
	mac.Write(sealed[:n])
	if !bytes.Equal(mac.Sum(nil), sealed[n:]) {
		t.Error("the MAC covers something else")
	}
	// Padding that is wrong below a right MAC is refused too.
	bad := encrypt(c, bytes.Repeat([]byte{16}, 16))
	bad = append(bad, c.sum(0, typeApplicationData, bad)...)
	if _, ok := c.open(0, typeApplicationData, bad); ok {
		t.Error("padding longer than the record is accepted")
	}
}

func TestRecordLimits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header  []byte
		protect bool
		alert   alert
	}{
		"HTTP":                      {[]byte("GET /"), false, alertUnexpectedMessage},
		"an SSLv2 hello":            {[]byte{0x80, 0x2e, 1, 3, 3}, false, alertUnexpectedMessage},
		"heartbeat":                 {[]byte{24, 3, 3, 0, 1}, false, alertUnexpectedMessage},
		"version 2":                 {[]byte{22, 2, 0, 0, 1}, false, alertProtocolVersion},
		"too long a plaintext":      {[]byte{22, 3, 3, 0x40, 1}, false, alertRecordOverflow},
		"too long a ciphertext":     {[]byte{22, 3, 3, 0x48, 1}, true, alertRecordOverflow},
		"TLS 1.1 after negotiation": {[]byte{23, 3, 2, 0, 1}, true, alertProtocolVersion},
	} {
		in := &incoming{negotiated: test.protect}
		if test.protect {
			in.protect(testCBC(true))
		}
		in.received(copy(in.space()[:headerSize], test.header))
		_, _, ok, err := in.next()
		if ok || err == nil || alertOf(t, err) != test.alert {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	p := testCBC(true)
	sealed, err := p.seal(nil, 0, typeApplicationData, make([]byte, maxPlaintext+1))
	if err != nil {
		t.Fatal(err)
	}
	in := &incoming{}
	in.protect(p)
	octets := record(typeApplicationData, sealed)
	for len(octets) > 0 {
		n := copy(in.space(), octets)
		in.received(n)
		octets = octets[n:]
	}
	if _, _, _, err := in.next(); err == nil || alertOf(t, err) != alertRecordOverflow {
		t.Errorf("too long a plaintext under protection: %v", err)
	}
}

func TestSequenceNumbersEnd(t *testing.T) {
	t.Parallel()
	w := &outgoing{seq: maxSealed, protection: testCBC(true)}
	if err := w.append(typeApplicationData, []byte("x")); err == nil {
		t.Error("a key seals without a bound")
	}
	w.take()
	if err := w.append(typeAlert, []byte{levelWarning, 0}); err != nil {
		t.Errorf("no close_notify at the bound: %v", err)
	}
	in := &incoming{seq: 1<<64 - 1, protection: testCBC(true)}
	if _, err := in.open(typeApplicationData, nil); err == nil || alertOf(t, err) != alertInternalError {
		t.Errorf("sequence numbers wrap: %v", err)
	}
}
