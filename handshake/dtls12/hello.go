package dtls12

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/pion/dtls/v3"
	"golang.org/x/crypto/cryptobyte"
)

// The parts of records and handshake messages that matter here (RFC 6347 4.1, 4.2.2).
const (
	recordHeader    = 13
	messageHeader   = 12
	recordChange    = 20
	recordAlert     = 21
	recordHandshake = 22
	typeClientHello = 1
	typeServerHello = 2
	typeHelloVerify = 3    // HelloVerifyRequest
	maxHello        = 4096 // octets; the hellos of the peers we know have 100 to 500
	majorVersion    = 0xfe
	version12       = 0xfefd
	versionSize     = 2  // octets
	randomSize      = 32 // octets
	maxSession      = 32 // octets

	extensionServerName           = 0  // RFC 6066 3
	extensionExtendedMasterSecret = 23 // RFC 7627 5.1
)

// A record is one plaintext or encrypted record of a datagram.
type record struct {
	kind    byte
	epoch   uint16
	version uint16
	body    []byte // shares the datagram's octets
}

// records yields the records of a datagram and stops at what is no record.
func records(datagram []byte) iter.Seq[record] {
	return func(yield func(record) bool) {
		for rest := datagram; len(rest) >= recordHeader; {
			end := recordHeader + int(binary.BigEndian.Uint16(rest[11:]))
			if end > len(rest) || !yield(record{
				kind:    rest[0],
				version: binary.BigEndian.Uint16(rest[1:]),
				epoch:   binary.BigEndian.Uint16(rest[3:]),
				body:    rest[recordHeader:end],
			}) {
				return
			}
			rest = rest[end:]
		}
	}
}

// A fragment is a part of a handshake message.
type fragment struct {
	kind     byte
	sequence uint16
	length   int // of the message
	offset   int
	part     []byte
}

// fragments yields the fragments in a plaintext handshake record.
func (r record) fragments() iter.Seq[fragment] {
	return func(yield func(fragment) bool) {
		if r.kind != recordHandshake || r.epoch != 0 {
			return
		}
		for body := r.body; len(body) >= messageHeader; {
			f := fragment{
				kind:     body[0],
				length:   uint24(body[1:]),
				sequence: binary.BigEndian.Uint16(body[4:]),
				offset:   uint24(body[6:]),
			}
			end := messageHeader + uint24(body[9:])
			if end > len(body) || f.offset+end-messageHeader > f.length {
				return
			}
			f.part, body = body[messageHeader:end], body[end:]
			if !yield(f) {
				return
			}
		}
	}
}

func uint24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// A random is what tells one hello of a client from another; it is the same in all
// that belong to one handshake.
type random [randomSize]byte

// opening reads what a ClientHello, or its first fragment, begins with.
func (f fragment) opening() (which random, cookie []byte, ok bool) {
	var version uint16
	var session, returned cryptobyte.String
	s := cryptobyte.String(f.part)
	ok = f.kind == typeClientHello && f.offset == 0 && f.length <= maxHello &&
		s.ReadUint16(&version) && version>>8 == majorVersion && s.CopyBytes(which[:]) &&
		s.ReadUint8LengthPrefixed(&session) && len(session) <= maxSession && s.ReadUint8LengthPrefixed(&returned)
	return which, returned, ok
}

// beginsHandshake reports whether a datagram may be the first of a client: a
// ClientHello or its first fragment, the first message, of DTLS, with no cookie
// that an earlier exchange would have given. Nothing else creates state.
func beginsHandshake(datagram []byte) (which random, ok bool) {
	for r := range records(datagram) {
		for f := range r.fragments() {
			which, cookie, ok := f.opening()
			return which, ok && r.version>>8 == majorVersion && f.sequence == 0 && len(cookie) == 0
		}
		break
	}
	return which, false
}

// A hello is what this package needs to know of a ClientHello or ServerHello,
// which pion does not tell.
type hello struct {
	version    uint16
	extended   bool // Extended Master Secret
	serverName string
	psk        bool // a ClientHello that offers a suite of ours with a pre-shared key
}

// An assembly collects the fragments of the peer's hello. A ClientHello comes
// twice, without and with the cookie; the later one counts.
type assembly struct {
	kind     byte // typeClientHello or typeServerHello
	sequence uint16
	body     []byte
	have     []bool
	missing  int
	complete bool
	hello    hello
}

// add takes a datagram from the peer.
func (a *assembly) add(datagram []byte) {
	for r := range records(datagram) {
		for f := range r.fragments() {
			if f.kind == a.kind && f.length <= maxHello {
				a.addFragment(f)
			}
		}
	}
}

func (a *assembly) addFragment(f fragment) {
	switch {
	case a.body == nil || f.sequence > a.sequence:
		a.sequence, a.complete = f.sequence, false
		a.body, a.have, a.missing = make([]byte, f.length), make([]bool, f.length), f.length
	case f.sequence < a.sequence || f.length != len(a.body) || a.complete:
		return
	}
	copy(a.body[f.offset:], f.part)
	for i := f.offset; i < f.offset+len(f.part); i++ {
		if !a.have[i] {
			a.have[i] = true
			a.missing--
		}
	}
	if a.missing == 0 {
		a.complete = true
		a.hello = parseHello(a.kind, a.body)
	}
}

// parseHello reads the body of a hello (RFC 5246 7.4.1, RFC 6347 4.2.1). It returns
// the zero hello for what is none; pion then fails, too. It is not pion that reads
// it here: a parse of every extension would cost 3 % of a handshake.
func parseHello(kind byte, body []byte) (h hello) {
	var suites, skipped, extensions cryptobyte.String
	s := cryptobyte.String(body)
	ok := s.ReadUint16(&h.version) && s.Skip(randomSize) && s.ReadUint8LengthPrefixed(&skipped) // the session
	if kind == typeClientHello {
		ok = ok && s.ReadUint8LengthPrefixed(&skipped) && s.ReadUint16LengthPrefixed(&suites) && s.ReadUint8LengthPrefixed(&skipped)
	} else {
		ok = ok && s.Skip(2+1) // suite and compression
	}
	ok = ok && (s.Empty() || s.ReadUint16LengthPrefixed(&extensions) && s.Empty())
	for ok && !suites.Empty() {
		var suite uint16
		ok = suites.ReadUint16(&suite)
		h.psk = h.psk || slices.Contains(pskSuites[:], dtls.CipherSuiteID(suite))
	}
	for ok && !extensions.Empty() {
		var extension uint16
		var data cryptobyte.String
		ok = extensions.ReadUint16(&extension) && extensions.ReadUint16LengthPrefixed(&data)
		switch {
		case extension == extensionExtendedMasterSecret:
			h.extended = true
		case extension == extensionServerName && kind == typeClientHello:
			ok = ok && readServerName(data, &h.serverName)
		}
	}
	if !ok {
		return hello{}
	}
	return h
}

// readServerName reads the one host_name of a ClientHello.
func readServerName(data cryptobyte.String, name *string) bool {
	var kind uint8
	var names, host cryptobyte.String
	ok := data.ReadUint16LengthPrefixed(&names) && names.ReadUint8(&kind) && names.ReadUint16LengthPrefixed(&host)
	*name = string(host)
	return ok && kind == 0 && names.Empty() && data.Empty()
}
