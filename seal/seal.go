// Package seal protects keys at rest by envelope encryption. A root key, kept in
// a file of its own, wraps data keys; a data key seals the keys of many records,
// each bound to its record, so that a store's file alone tells no key and a
// sealed key that is moved to another record does not open.
//
// Both layers are AES-256-GCM with random nonces of 96 bits. A data key seals at
// most 2^28 records, which keeps the probability that a nonce ever repeats under
// it below 2^-41 (NIST SP 800-38D allows 2^-32).
package seal

import (
	"cmp"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	version   = 1 // of both record formats
	nonceSize = 12
	tagSize   = 16

	// Overhead is the number of octets by which a sealed record is longer than
	// what was sealed: version, nonce and tag.
	Overhead = 1 + nonceSize + tagSize

	wrappedSize = 1 + rootIDSize + nonceSize + RootSize + tagSize
)

var (
	// ErrRecord is returned for a sealed record that does not open: it was
	// altered, belongs to another record, or was sealed with another data key.
	ErrRecord = errors.New("the sealed record does not open")
	// ErrRoot is wrapped by the error for a data key that another root key wrapped.
	ErrRoot = errors.New("wrong root key")
	// ErrDataKey is wrapped by the errors for a data key that is absent, damaged
	// or contradicts the one in use.
	ErrDataKey = errors.New("unusable data key")
)

// A Sealer seals and opens the records of one store with the data keys that the
// store keeps for it in wrapped form. Two stores must not share a Sealer, for
// each numbers its data keys from 1. Its methods may be called by many goroutines
// at once.
type Sealer struct {
	root   *Root
	older  []*Root
	random io.Reader

	mu     sync.RWMutex
	keys   map[uint32]dataKey // guarded by mu, as the next two
	newest uint32             // the highest number among them
	under  *Root              // that has wrapped the newest, as it was last put to use
}

// A dataKey is one unwrapped data key, and its digest, which tells it from another
// under the same number.
type dataKey struct {
	aead   cipher.AEAD
	digest [sha256.Size]byte
}

// New returns a Sealer without data keys. Those that root or one of the older root
// keys has wrapped can be put to use. A new data key is wrapped as the newest is, so
// that Rewrap alone makes a store change its root key: by root if there is none. The
// random source must be one that many goroutines may read at once, as
// crypto/rand.Reader is.
func New(root *Root, random io.Reader, older ...*Root) *Sealer {
	return &Sealer{root: root, older: older, random: random, keys: make(map[uint32]dataKey)}
}

// Format writes the root key's public identifier for every verb.
func (s *Sealer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "sealer under "+s.root.String())
}

// NewDataKey draws the data key with a number and returns it wrapped by a root
// key: version ‖ root key identifier ‖ nonce ‖ ciphertext ‖ tag, 69 octets. It is
// not in use before UseDataKey, so that the store can make it durable first.
func (s *Sealer) NewDataKey(id uint32) ([]byte, error) {
	var octets [RootSize]byte
	defer clear(octets[:])
	if _, err := io.ReadFull(s.random, octets[:]); err != nil {
		return nil, fmt.Errorf("draw data key %d: %w", id, err)
	}
	s.mu.RLock()
	root := cmp.Or(s.under, s.root)
	s.mu.RUnlock()
	return s.wrap(root, id, octets[:])
}

func (s *Sealer) wrap(root *Root, id uint32, octets []byte) ([]byte, error) {
	wrapped := append(append(make([]byte, 0, wrappedSize), version), root.id[:]...)
	wrapped = wrapped[:len(wrapped)+nonceSize]
	nonce := wrapped[1+rootIDSize:]
	if _, err := io.ReadFull(s.random, nonce); err != nil {
		return nil, fmt.Errorf("draw a nonce for data key %d: %w", id, err)
	}
	return root.aead.Seal(wrapped, nonce, octets, root.associated(id)), nil
}

// Rewrap returns a data key, which any of the root keys has wrapped, wrapped anew
// by the first of them. The errors are those of UseDataKey.
func (s *Sealer) Rewrap(id uint32, wrapped []byte) ([]byte, error) {
	octets, _, err := s.unwrap(id, wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(octets)
	return s.wrap(s.root, id, octets)
}

func (r *Root) associated(id uint32) []byte {
	return associated("muster data key", id, []string{string(r.id[:])})
}

// UseDataKey unwraps a data key, after which Seal and Open know its number. The
// same key may be put to use again, also when Rewrap has changed its form; another
// one under a number in use is an error that wraps ErrDataKey. So is a damaged one,
// and ErrRoot is wrapped if another root key wrapped it.
func (s *Sealer) UseDataKey(id uint32, wrapped []byte) error {
	octets, root, err := s.unwrap(id, wrapped)
	if err != nil {
		return err
	}
	defer clear(octets)
	digest := sha256.Sum256(octets)
	aead, err := newAEAD(octets)
	if err != nil {
		return fmt.Errorf("%w: data key %d: %w", ErrDataKey, id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.keys[id]; ok && known.digest != digest {
		return fmt.Errorf("%w: number %d is in use, perhaps by another store", ErrDataKey, id)
	}
	s.keys[id] = dataKey{aead, digest}
	if id >= s.newest {
		s.newest, s.under = id, root
	}
	return nil
}

// unwrap returns the octets of a data key, and the root key that has wrapped it.
func (s *Sealer) unwrap(id uint32, wrapped []byte) ([]byte, *Root, error) {
	if len(wrapped) != wrappedSize || wrapped[0] != version {
		return nil, nil, fmt.Errorf("%w: data key %d has a format that is not known", ErrDataKey, id)
	}
	rootID, rest := [rootIDSize]byte(wrapped[1:]), wrapped[1+rootIDSize:]
	root := s.root
	for _, older := range s.older {
		if rootID == older.id {
			root = older
		}
	}
	if rootID != root.id {
		return nil, nil, fmt.Errorf("%w: data key %d is wrapped by root key %x, and this is %s", ErrRoot, id, rootID, root.ID())
	}
	octets, err := root.aead.Open(nil, rest[:nonceSize], rest[nonceSize:], root.associated(id))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: data key %d is damaged", ErrDataKey, id)
	}
	return octets, root, nil
}

// Seal returns version ‖ nonce ‖ ciphertext ‖ tag, 61 octets for a key of 32. The
// binding names the record: its kind, the function that owns it and its
// identifiers. Open needs the same strings in the same order.
func (s *Sealer) Seal(id uint32, key []byte, binding ...string) ([]byte, error) {
	aead, err := s.key(id)
	if err != nil {
		return nil, err
	}
	record := make([]byte, 1+nonceSize, Overhead+len(key))
	record[0] = version
	nonce := record[1:]
	if _, err := io.ReadFull(s.random, nonce); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	return aead.Seal(record, nonce, key, associated("muster record", id, binding)), nil
}

// Open returns what was sealed. The error is ErrRecord, or wraps ErrDataKey if
// the data key is not in use.
func (s *Sealer) Open(id uint32, record []byte, binding ...string) ([]byte, error) {
	aead, err := s.key(id)
	if err != nil {
		return nil, err
	}
	if len(record) < Overhead || record[0] != version {
		return nil, ErrRecord
	}
	nonce, ciphertext := record[1:1+nonceSize], record[1+nonceSize:]
	key, err := aead.Open(nil, nonce, ciphertext, associated("muster record", id, binding))
	if err != nil {
		return nil, ErrRecord
	}
	return key, nil
}

func (s *Sealer) key(id uint32) (cipher.AEAD, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	key, ok := s.keys[id]
	if !ok {
		return nil, fmt.Errorf("%w: there is no data key %d", ErrDataKey, id)
	}
	return key.aead, nil
}

// associated encodes what a sealed value is bound to. Each part carries its
// length, so that no two lists of parts have the same encoding.
func associated(format string, id uint32, binding []string) []byte {
	size := 4 + len(format) + 1 + 4
	for _, part := range binding {
		size += 4 + len(part)
	}
	octets := make([]byte, 0, size)
	octets = binary.BigEndian.AppendUint32(octets, uint32(len(format)))
	octets = append(append(octets, format...), version)
	octets = binary.BigEndian.AppendUint32(octets, id)
	for _, part := range binding {
		octets = binary.BigEndian.AppendUint32(octets, uint32(len(part)))
		octets = append(octets, part...)
	}
	return octets
}
