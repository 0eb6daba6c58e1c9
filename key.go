package muster

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// KeySize is the size in octets of Ke, Kpm, Km, Kc and Kpsa.
const KeySize = 32

// ErrKeyExposed is what a marshaller gets that tries to write a key.
var ErrKeyExposed = errors.New("a key cannot be marshalled")

const redacted = "[key]"

// secret holds key octets so that they appear in no output by accident. Its
// methods redact every format verb and fail every marshaller; where a key sits
// in an unexported field, fmt cannot call those methods and reflects instead,
// and then finds only the address behind the first of two pointers. The function
// array makes == a compile-time error: Equal compares in constant time.
type secret struct {
	_      [0]func()
	octets **[KeySize]byte
}

func newSecret(octets []byte) (secret, error) {
	if len(octets) != KeySize {
		return secret{}, fmt.Errorf("a key has %d octets, not %d", KeySize, len(octets))
	}
	p := new([KeySize]byte)
	copy(p[:], octets)
	return secret{octets: &p}, nil
}

// IsZero reports whether the key is absent: the zero value, which is no key.
func (s secret) IsZero() bool { return s.octets == nil }

// Reveal returns a copy of the 32 octets for a cipher, a store's seal or a
// handshake. The zero key reveals nil.
func (s secret) Reveal() []byte {
	if s.octets == nil {
		return nil
	}
	return append([]byte(nil), (*s.octets)[:]...)
}

func (s secret) equal(t secret) bool {
	return s.octets != nil && t.octets != nil && subtle.ConstantTimeCompare((*s.octets)[:], (*t.octets)[:]) == 1
}

// Format writes a placeholder for every verb.
func (secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String returns a placeholder.
func (secret) String() string { return redacted }

// GoString returns a placeholder.
func (secret) GoString() string { return redacted }

// LogValue returns a placeholder.
func (secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns ErrKeyExposed.
func (secret) MarshalText() ([]byte, error) { return nil, ErrKeyExposed }

// MarshalJSON returns ErrKeyExposed.
func (secret) MarshalJSON() ([]byte, error) { return nil, ErrKeyExposed }

// MarshalBinary returns ErrKeyExposed.
func (secret) MarshalBinary() ([]byte, error) { return nil, ErrKeyExposed }

// Ke is an Enrolment Key (TS-0003 10.3.1; Kte in the seed text): 32 octets that an
// Enrolee and a MEF exported from their handshake. It never leaves either of them.
type Ke struct{ secret }

// Kpm is a pre-provisioned symmetric Enrolee key (TS-0003 8.3.2.1): 32 octets that
// a factory or an operator put into an Enrolee and its MEF.
type Kpm struct{ secret }

// Km is a Master Credential (TS-0003 10.3.2; Kmm in the seed text): 32 octets
// shared by an Enrolee and one MAF.
type Km struct{ secret }

// Kc is an M2M Secure Connection Key (TS-0003 10.3.1): 32 octets that a MAF client
// and its MAF exported from their handshake.
type Kc struct{ secret }

// Kpsa is a Provisioned Secure Connection Key (TS-0003 10.3.3): 32 octets shared
// by two Enrolees.
type Kpsa struct{ secret }

// A UsageKey is a usage-constrained symmetric key (TS-0003 10.3.7): 32 octets
// shared by an Enrolee and one Enrolment Target for one SUID.
type UsageKey struct{ secret }

// NewKe copies 32 octets into a Ke.
func NewKe(octets []byte) (Ke, error) { s, err := newSecret(octets); return Ke{s}, err }

// NewKpm copies 32 octets into a Kpm.
func NewKpm(octets []byte) (Kpm, error) { s, err := newSecret(octets); return Kpm{s}, err }

// NewKm copies 32 octets into a Km.
func NewKm(octets []byte) (Km, error) { s, err := newSecret(octets); return Km{s}, err }

// NewKc copies 32 octets into a Kc.
func NewKc(octets []byte) (Kc, error) { s, err := newSecret(octets); return Kc{s}, err }

// NewKpsa copies 32 octets into a Kpsa.
func NewKpsa(octets []byte) (Kpsa, error) { s, err := newSecret(octets); return Kpsa{s}, err }

// Equal compares in constant time; an absent key equals nothing.
func (k Ke) Equal(other Ke) bool { return k.equal(other.secret) }

// Equal compares in constant time; an absent key equals nothing.
func (k Kpm) Equal(other Kpm) bool { return k.equal(other.secret) }

// Equal compares in constant time; an absent key equals nothing.
func (k Km) Equal(other Km) bool { return k.equal(other.secret) }

// Equal compares in constant time; an absent key equals nothing.
func (k Kc) Equal(other Kc) bool { return k.equal(other.secret) }

// Equal compares in constant time; an absent key equals nothing.
func (k Kpsa) Equal(other Kpsa) bool { return k.equal(other.secret) }

// Equal compares in constant time; an absent key equals nothing.
func (k UsageKey) Equal(other UsageKey) bool { return k.equal(other.secret) }
