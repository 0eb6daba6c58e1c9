package tlspsk

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"io"
)

// A protection turns fragments of one direction into ciphertext or back. It is
// used by one goroutine at a time.
type protection interface {
	// seal appends the protected form of plaintext to dst. Its error is that of
	// the source of randomness.
	seal(dst []byte, seq uint64, typ contentType, plaintext []byte) ([]byte, error)
	// open returns the plaintext, which overwrites fragment. Without ok nothing
	// is known of it; why is not told, so that no caller can tell it on.
	open(seq uint64, typ contentType, fragment []byte) (plaintext []byte, ok bool)
}

const (
	keySize       = 16 // AES-128
	macSize       = hashSize
	gcmSaltSize   = 4
	gcmNonceSize  = 8 // the explicit part: RFC 5288 section 3
	gcmTagSize    = 16
	maxPadding    = 256 // with its length octet
	hashBlockSize = sha256.BlockSize
)

// protections returns both directions for a suite from a session's key block, in
// the order of RFC 5246 section 6.3.
func protections(s *secrets, suite Suite, encryptThenMAC bool, rand io.Reader) (client, server protection) {
	if suite == TLS_PSK_WITH_AES_128_GCM_SHA256 {
		b := s.keyBlock(2*keySize + 2*gcmSaltSize)
		salts := b[2*keySize:]
		return newGCM(b[:keySize], salts[:gcmSaltSize]), newGCM(b[keySize:2*keySize], salts[gcmSaltSize:])
	}
	b := s.keyBlock(2*macSize + 2*keySize)
	keys := b[2*macSize:]
	return newCBC(keys[:keySize], b[:macSize], encryptThenMAC, rand),
		newCBC(keys[keySize:], b[macSize:2*macSize], encryptThenMAC, rand)
}

func newBlock(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has keySize octets
	}
	return block
}

// pseudoHeader is what a MAC or an AEAD covers beside the octets.
// RFC 5246 section 6.2.3
func pseudoHeader(seq uint64, typ contentType, length int) [13]byte {
	var h [13]byte
	binary.BigEndian.PutUint64(h[:], seq)
	h[8] = byte(typ)
	binary.BigEndian.PutUint16(h[9:], version12)
	binary.BigEndian.PutUint16(h[11:], uint16(length))
	return h
}

// gcm is AEAD_AES_128_GCM with the sequence number as explicit nonce, which no
// two records of a direction share. RFC 5288
type gcm struct {
	aead cipher.AEAD
	salt [gcmSaltSize]byte
}

func newGCM(key, salt []byte) *gcm {
	aead, err := cipher.NewGCM(newBlock(key))
	if err != nil {
		panic(err) // AES has the block size of GCM
	}
	return &gcm{aead, [gcmSaltSize]byte(salt)}
}

func (g *gcm) seal(dst []byte, seq uint64, typ contentType, plaintext []byte) ([]byte, error) {
	nonce := binary.BigEndian.AppendUint64(g.salt[:], seq)
	aad := pseudoHeader(seq, typ, len(plaintext))
	dst = append(dst, nonce[gcmSaltSize:]...)
	return g.aead.Seal(dst, nonce, plaintext, aad[:]), nil
}

func (g *gcm) open(seq uint64, typ contentType, fragment []byte) ([]byte, bool) {
	if len(fragment) < gcmNonceSize+gcmTagSize {
		return nil, false
	}
	nonce := append(g.salt[:], fragment[:gcmNonceSize]...)
	sealed := fragment[gcmNonceSize:]
	aad := pseudoHeader(seq, typ, len(sealed)-gcmTagSize)
	plaintext, err := g.aead.Open(sealed[:0], nonce, sealed, aad[:])
	return plaintext, err == nil
}

// cbc is AES-128-CBC with HMAC-SHA-256: encrypt-then-MAC (RFC 7366) or the
// MAC-then-encrypt of RFC 5246 section 6.2.3.2.
type cbc struct {
	block          cipher.Block
	mac            hash.Hash // HMAC, for what needs no care about time
	inner, outer   [hashBlockSize]byte
	encryptThenMAC bool
	rand           io.Reader
	newHash        func() hash.Hash // SHA-256; a test counts what is asked of it
}

func newCBC(key, macKey []byte, encryptThenMAC bool, rand io.Reader) *cbc {
	c := &cbc{
		block: newBlock(key), mac: hmac.New(sha256.New, macKey),
		encryptThenMAC: encryptThenMAC, rand: rand, newHash: sha256.New,
	}
	copy(c.inner[:], macKey)
	copy(c.outer[:], macKey)
	for i := range hashBlockSize {
		c.inner[i] ^= 0x36
		c.outer[i] ^= 0x5c
	}
	return c
}

func (c *cbc) sum(seq uint64, typ contentType, octets []byte) []byte {
	header := pseudoHeader(seq, typ, len(octets))
	c.mac.Reset()
	c.mac.Write(header[:])
	c.mac.Write(octets)
	return c.mac.Sum(nil)
}

func (c *cbc) seal(dst []byte, seq uint64, typ contentType, plaintext []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, make([]byte, aes.BlockSize)...)
	if _, err := io.ReadFull(c.rand, dst[start:]); err != nil {
		return nil, err
	}
	dst = append(dst, plaintext...)
	if !c.encryptThenMAC {
		dst = append(dst, c.sum(seq, typ, plaintext)...)
	}
	padding := aes.BlockSize - (len(dst)-start)%aes.BlockSize
	for range padding {
		dst = append(dst, byte(padding-1))
	}
	iv, body := dst[start:start+aes.BlockSize], dst[start+aes.BlockSize:]
	cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(body, body)
	if c.encryptThenMAC {
		dst = append(dst, c.sum(seq, typ, dst[start:])...)
	}
	return dst, nil
}

func (c *cbc) open(seq uint64, typ contentType, fragment []byte) (plaintext []byte, ok bool) {
	if c.encryptThenMAC {
		return c.openEncryptThenMAC(seq, typ, fragment)
	}
	subtle.WithDataIndependentTiming(func() {
		plaintext, ok = c.openMACThenEncrypt(seq, typ, fragment)
	})
	return plaintext, ok
}

func (c *cbc) openEncryptThenMAC(seq uint64, typ contentType, fragment []byte) ([]byte, bool) {
	n := len(fragment) - macSize
	if n < 2*aes.BlockSize || n%aes.BlockSize != 0 {
		return nil, false
	}
	if !hmac.Equal(c.sum(seq, typ, fragment[:n]), fragment[n:]) {
		return nil, false
	}
	data := c.decrypt(fragment[:n])
	padding, good := paddingOf(data, 0)
	return data[:len(data)-padding], good == 1
}

func (c *cbc) decrypt(fragment []byte) []byte {
	iv, data := fragment[:aes.BlockSize], fragment[aes.BlockSize:]
	cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(data, data)
	return data
}

// openMACThenEncrypt takes the same steps on the same addresses whatever the
// padding and its validity, so that an attacker who alters a record learns
// nothing from the time of the answer (Lucky 13). Where the content ends is
// secret until the MAC has been found right, so the inner hash is finished after
// each octet at which it could end, and a mask keeps the one that counts. The
// price is at most 256 finished hashes a record. Branches depend on the record's
// length only.
func (c *cbc) openMACThenEncrypt(seq uint64, typ contentType, fragment []byte) ([]byte, bool) {
	n := len(fragment) - aes.BlockSize
	if n < macSize+aes.BlockSize || n%aes.BlockSize != 0 {
		return nil, false
	}
	data := c.decrypt(fragment)
	padding, good := paddingOf(data, macSize)
	length := n - macSize - padding // of the content: secret
	longest := n - macSize - 1
	shortest := max(0, n-macSize-maxPadding)

	header := pseudoHeader(seq, typ, length)
	h := c.newHash()
	h.Write(c.inner[:])
	h.Write(header[:])
	h.Write(data[:shortest])
	var sum, inner, received [macSize]byte
	for end := shortest; ; end++ {
		h.Sum(sum[:0])
		here := subtle.ConstantTimeEq(int32(end), int32(length))
		subtle.ConstantTimeCopy(here, inner[:], sum[:])
		subtle.ConstantTimeCopy(here, received[:], data[end:end+macSize])
		if end == longest {
			break
		}
		h.Write(data[end : end+1])
	}
	h.Reset()
	h.Write(c.outer[:])
	h.Write(inner[:])
	h.Sum(sum[:0])
	good &= subtle.ConstantTimeCompare(sum[:], received[:])
	if good != 1 {
		return nil, false
	}
	return data[:length], true
}

// paddingOf returns how many octets at the end of data are padding, with its
// length octet, and 1 if all of them have the right value and leave room octets.
// For bad padding it returns 1 and 0, so that a MAC is computed all the same.
// Time and addresses depend on len(data) and room only; data is not empty.
func paddingOf(data []byte, room int) (padding, good int) {
	last := data[len(data)-1]
	padding = int(last) + 1
	good = subtle.ConstantTimeLessOrEq(padding, len(data)-room)
	for i := range min(maxPadding, len(data)) {
		outside := 1 ^ subtle.ConstantTimeLessOrEq(i+1, padding)
		good &= outside | subtle.ConstantTimeByteEq(data[len(data)-1-i], last)
	}
	return subtle.ConstantTimeSelect(good, padding, 1), good
}
