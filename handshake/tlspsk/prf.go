package tlspsk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
)

const (
	masterSize   = 48
	verifySize   = 12
	randomSize   = 32
	maxExport    = 1 << 12 // octets in one call of an exporter
	hashSize     = sha256.Size
	labelMaster  = "extended master secret" // RFC 7627 section 4
	labelKeys    = "key expansion"
	labelClient  = "client finished"
	labelServer  = "server finished"
	labelClassic = "master secret"
)

// prf fills out from P_SHA256, the pseudorandom function of both suites.
// RFC 5246 section 5, RFC 5487 section 3.1
func prf(out, secret []byte, label string, seeds ...[]byte) {
	seed := []byte(label)
	for _, s := range seeds {
		seed = append(seed, s...)
	}
	h := hmac.New(sha256.New, secret)
	var a, block [hashSize]byte
	h.Write(seed)
	h.Sum(a[:0])
	for len(out) > 0 {
		h.Reset()
		h.Write(a[:])
		h.Write(seed)
		out = out[copy(out, h.Sum(block[:0])):]
		h.Reset()
		h.Write(a[:])
		h.Sum(a[:0])
	}
	clear(block[:])
}

// premaster is a run of zeros as long as the key, and the key, each after its
// length. RFC 4279 section 2
func premaster(key []byte) []byte {
	n := len(key)
	p := make([]byte, 0, 4+2*n)
	p = binary.BigEndian.AppendUint16(p, uint16(n))
	p = append(p, make([]byte, n)...)
	p = binary.BigEndian.AppendUint16(p, uint16(n))
	return append(p, key...)
}

// secrets are what a handshake establishes. It is always used by pointer, so
// that a format verb that reaches a holder prints an address.
type secrets struct {
	master  [masterSize]byte
	randoms [2 * randomSize]byte // of the client, then of the server
}

// newSecrets derives the master secret from the key and the hash of the messages
// up to ClientKeyExchange. RFC 7627 section 4
func newSecrets(key, sessionHash []byte, client, server [randomSize]byte) *secrets {
	s := new(secrets)
	copy(s.randoms[:], client[:])
	copy(s.randoms[randomSize:], server[:])
	p := premaster(key)
	prf(s.master[:], p, labelMaster, sessionHash)
	clear(p)
	return s
}

// keyBlock returns n octets of key material. RFC 5246 section 6.3
func (s *secrets) keyBlock(n int) []byte {
	block := make([]byte, n)
	prf(block, s.master[:], labelKeys, s.randoms[randomSize:], s.randoms[:randomSize])
	return block
}

// verifyData is the content of a Finished. RFC 5246 section 7.4.9
func (s *secrets) verifyData(label string, transcript []byte) []byte {
	data := make([]byte, verifySize)
	prf(data, s.master[:], label, transcript)
	return data
}

// export is a muster.Exporter: no context and an empty one give different octets.
// RFC 5705 section 4
func (s *secrets) export(label string, context []byte, length int) ([]byte, error) {
	switch label {
	case labelClient, labelServer, labelClassic, labelMaster, labelKeys:
		return nil, fmt.Errorf("the label %q is reserved for TLS", label)
	}
	if length < 1 || length > maxExport {
		return nil, fmt.Errorf("an export has 1 to %d octets, not %d", maxExport, length)
	}
	if len(context) > math.MaxUint16 {
		return nil, fmt.Errorf("an exporter context of %d octets exceeds %d", len(context), math.MaxUint16)
	}
	seed := s.randoms[:]
	if context != nil {
		seed = binary.BigEndian.AppendUint16(append([]byte(nil), seed...), uint16(len(context)))
		seed = append(seed, context...)
	}
	out := make([]byte, length)
	prf(out, s.master[:], label, seed)
	return out, nil
}
