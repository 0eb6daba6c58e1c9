package tlspsk

import (
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"

	"muster"
)

// A messageType is the type of a handshake message. RFC 5246 section 7.4
type messageType uint8

const (
	messageHelloRequest      messageType = 0
	messageClientHello       messageType = 1
	messageServerHello       messageType = 2
	messageServerKeyExchange messageType = 12
	messageServerHelloDone   messageType = 14
	messageClientKeyExchange messageType = 16
	messageFinished          messageType = 20
)

const (
	messageHeaderSize = 4
	// maxMessage bounds a handshake message without its header. The largest that
	// serves a purpose is a ClientHello that also offers TLS 1.3.
	maxMessage   = 8 << 10
	maxSessionID = 32
)

const (
	extensionServerName           = 0      // RFC 6066 section 3
	extensionEncryptThenMAC       = 22     // RFC 7366
	extensionExtendedMasterSecret = 23     // RFC 7627
	extensionRenegotiationInfo    = 0xff01 // RFC 5746
)

const (
	suiteRenegotiationInfo uint16 = 0x00ff // RFC 5746 section 3.3
	suiteFallback          uint16 = 0x5600 // RFC 7507
)

// malformed is the fault of a message that does not parse.
func malformed(what string) error { return failed(alertDecodeError, "a malformed %s", what) }

// extensions are those of either hello that this package knows.
type extensions struct {
	serverName           string // of a ClientHello, empty if absent
	serverNameUsed       bool   // of a ServerHello
	extendedMasterSecret bool
	encryptThenMAC       bool
	renegotiationInfo    bool // in a ClientHello also by its signalling suite
}

func (e *extensions) marshal(b *cryptobyte.Builder) {
	if e.serverName != "" {
		b.AddUint16(extensionServerName)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint8(0) // host_name
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(e.serverName)) })
			})
		})
	}
	empty := func(present bool, extension uint16) {
		if present {
			b.AddUint16(extension)
			b.AddUint16(0)
		}
	}
	empty(e.serverNameUsed, extensionServerName)
	empty(e.extendedMasterSecret, extensionExtendedMasterSecret)
	empty(e.encryptThenMAC, extensionEncryptThenMAC)
	if e.renegotiationInfo {
		b.AddUint16(extensionRenegotiationInfo)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
	}
}

// parse reads the extensions at the end of a hello, where they may be absent
// altogether. No type may come twice, and a server may send only what was
// offered. RFC 5246 section 7.4.1.4
func (e *extensions) parse(s cryptobyte.String, fromServer bool) error {
	if s.Empty() {
		return nil
	}
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() {
		return malformed("list of extensions")
	}
	seen := make(map[uint16]bool)
	for !list.Empty() {
		var extension uint16
		var data cryptobyte.String
		if !list.ReadUint16(&extension) || !list.ReadUint16LengthPrefixed(&data) {
			return malformed("extension")
		}
		if seen[extension] {
			return failed(alertIllegalParameter, "the extension %d twice", extension)
		}
		seen[extension] = true
		if err := e.parseOne(extension, data, fromServer); err != nil {
			return err
		}
	}
	return nil
}

func (e *extensions) parseOne(extension uint16, data cryptobyte.String, fromServer bool) (err error) {
	mustBeEmpty := true
	switch extension {
	case extensionServerName:
		if !fromServer {
			e.serverName, err = parseServerName(data)
			return err
		}
		e.serverNameUsed = true
	case extensionExtendedMasterSecret:
		e.extendedMasterSecret = true
	case extensionEncryptThenMAC:
		e.encryptThenMAC = true
	case extensionRenegotiationInfo:
		e.renegotiationInfo = true
		return parseRenegotiationInfo(data)
	default:
		if fromServer {
			return failed(alertUnsupportedExtension, "the extension %d, which was not offered", extension)
		}
		mustBeEmpty = false
	}
	if mustBeEmpty && !data.Empty() {
		return malformed("extension, which is to be empty")
	}
	return nil
}

func parseServerName(data cryptobyte.String) (name string, err error) {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || list.Empty() || !data.Empty() {
		return "", malformed("server_name")
	}
	for !list.Empty() {
		var kind uint8
		var octets cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&octets) || octets.Empty() {
			return "", malformed("server_name")
		}
		if kind != 0 {
			continue
		}
		if name != "" {
			return "", failed(alertIllegalParameter, "two host names in server_name")
		}
		name = string(octets)
	}
	return name, nil
}

// parseRenegotiationInfo wants an empty renegotiated_connection, since every
// handshake here is the first of its connection. RFC 5746 sections 3.4 and 3.6
func parseRenegotiationInfo(data cryptobyte.String) error {
	var connection cryptobyte.String
	if !data.ReadUint8LengthPrefixed(&connection) || !data.Empty() {
		return malformed("renegotiation_info")
	}
	if !connection.Empty() {
		return failed(alertHandshakeFailure, "renegotiation_info of another handshake")
	}
	return nil
}

type clientHello struct {
	version         uint16
	random          [randomSize]byte
	suites          []uint16
	nullCompression bool
	extensions      extensions
}

func (m *clientHello) marshal() []byte {
	var b cryptobyte.Builder
	b.AddUint16(m.version)
	b.AddBytes(m.random[:])
	b.AddUint8(0) // no session to resume
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, s := range m.suites {
			b.AddUint16(s)
		}
	})
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
	b.AddUint16LengthPrefixed(m.extensions.marshal)
	return b.BytesOrPanic()
}

func parseClientHello(body []byte) (*clientHello, error) {
	m := new(clientHello)
	s := cryptobyte.String(body)
	var session, suites, compressions cryptobyte.String
	if !s.ReadUint16(&m.version) || !s.CopyBytes(m.random[:]) ||
		!s.ReadUint8LengthPrefixed(&session) || len(session) > maxSessionID ||
		!s.ReadUint16LengthPrefixed(&suites) || suites.Empty() ||
		!s.ReadUint8LengthPrefixed(&compressions) || compressions.Empty() {
		return nil, malformed("ClientHello")
	}
	for !suites.Empty() {
		var suite uint16
		if !suites.ReadUint16(&suite) {
			return nil, malformed("list of cipher suites")
		}
		m.suites = append(m.suites, suite)
	}
	m.nullCompression = slices.Contains(compressions, 0)
	m.extensions.renegotiationInfo = slices.Contains(m.suites, suiteRenegotiationInfo)
	return m, m.extensions.parse(s, false)
}

type serverHello struct {
	version     uint16
	random      [randomSize]byte
	suite       uint16
	compression uint8
	extensions  extensions
}

func (m *serverHello) marshal() []byte {
	var b cryptobyte.Builder
	b.AddUint16(m.version)
	b.AddBytes(m.random[:])
	b.AddUint8(0) // the session cannot be resumed
	b.AddUint16(m.suite)
	b.AddUint8(m.compression)
	b.AddUint16LengthPrefixed(m.extensions.marshal)
	return b.BytesOrPanic()
}

func parseServerHello(body []byte) (*serverHello, error) {
	m := new(serverHello)
	s := cryptobyte.String(body)
	var session cryptobyte.String
	if !s.ReadUint16(&m.version) || !s.CopyBytes(m.random[:]) ||
		!s.ReadUint8LengthPrefixed(&session) || len(session) > maxSessionID ||
		!s.ReadUint16(&m.suite) || !s.ReadUint8(&m.compression) {
		return nil, malformed("ServerHello")
	}
	return m, m.extensions.parse(s, true)
}

// parseServerKeyExchange checks the identity hint, which is then ignored as
// there is no profile that gives it a meaning. RFC 4279 section 5.2
func parseServerKeyExchange(body []byte) error {
	s := cryptobyte.String(body)
	var hint cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&hint) || !s.Empty() {
		return malformed("ServerKeyExchange")
	}
	return nil
}

func marshalClientKeyExchange(identity string) []byte {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(identity)) })
	return b.BytesOrPanic()
}

// parseClientKeyExchange returns the psk_identity, which is UTF-8 of at most
// muster.MaxPSKIdentity octets. RFC 4279 sections 2 and 5.1
func parseClientKeyExchange(body []byte) (identity string, err error) {
	s := cryptobyte.String(body)
	var octets cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&octets) || !s.Empty() {
		return "", malformed("ClientKeyExchange")
	}
	if len(octets) > muster.MaxPSKIdentity || !utf8.Valid(octets) {
		return "", failed(alertIllegalParameter, "a psk_identity of %d octets, which is too long or not UTF-8", len(octets))
	}
	return string(octets), nil
}

// message puts the header before a body. RFC 5246 section 7.4
func message(typ messageType, body []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint8(uint8(typ))
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(body) })
	return b.BytesOrPanic()
}
