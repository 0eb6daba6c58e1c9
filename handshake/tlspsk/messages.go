package tlspsk

import (
	"math"
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

type clientHello struct {
	version              uint16
	random               [randomSize]byte
	suites               []uint16
	nullCompression      bool
	serverName           string // empty if absent
	extendedMasterSecret bool
	encryptThenMAC       bool
	renegotiationInfo    bool // by extension or by signalling suite
	fallback             bool
}

func (m *clientHello) marshal() ([]byte, error) {
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
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		if m.serverName != "" {
			b.AddUint16(extensionServerName)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
					b.AddUint8(0) // host_name
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(m.serverName)) })
				})
			})
		}
		addFlags(b, m.extendedMasterSecret, m.encryptThenMAC, m.renegotiationInfo)
	})
	return b.Bytes()
}

// addFlags adds the extensions whose presence is their content.
func addFlags(b *cryptobyte.Builder, extendedMasterSecret, encryptThenMAC, renegotiationInfo bool) {
	if extendedMasterSecret {
		b.AddUint16(extensionExtendedMasterSecret)
		b.AddUint16(0)
	}
	if encryptThenMAC {
		b.AddUint16(extensionEncryptThenMAC)
		b.AddUint16(0)
	}
	if renegotiationInfo {
		b.AddUint16(extensionRenegotiationInfo)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
	}
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
	m.renegotiationInfo = slices.Contains(m.suites, suiteRenegotiationInfo)
	m.fallback = slices.Contains(m.suites, suiteFallback)
	return m, parseExtensions(s, func(extension uint16, data cryptobyte.String) (err error) {
		switch extension {
		case extensionServerName:
			m.serverName, err = parseServerName(data)
		case extensionExtendedMasterSecret:
			m.extendedMasterSecret, err = true, parseEmpty(data)
		case extensionEncryptThenMAC:
			m.encryptThenMAC, err = true, parseEmpty(data)
		case extensionRenegotiationInfo:
			m.renegotiationInfo, err = true, parseRenegotiationInfo(data)
		}
		return err
	})
}

// parseExtensions calls each for the extensions at the end of a hello, where
// they may be absent altogether. No type may come twice. RFC 5246 section 7.4.1.4
func parseExtensions(s cryptobyte.String, each func(extension uint16, data cryptobyte.String) error) error {
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
		if err := each(extension, data); err != nil {
			return err
		}
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

func parseEmpty(data cryptobyte.String) error {
	if !data.Empty() {
		return malformed("extension, which is to be empty")
	}
	return nil
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

type serverHello struct {
	version              uint16
	random               [randomSize]byte
	suite                uint16
	compression          uint8
	serverName           bool
	extendedMasterSecret bool
	encryptThenMAC       bool
	renegotiationInfo    bool
}

func (m *serverHello) marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16(m.version)
	b.AddBytes(m.random[:])
	b.AddUint8(0) // the session cannot be resumed
	b.AddUint16(m.suite)
	b.AddUint8(m.compression)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		if m.serverName {
			b.AddUint16(extensionServerName)
			b.AddUint16(0)
		}
		addFlags(b, m.extendedMasterSecret, m.encryptThenMAC, m.renegotiationInfo)
	})
	return b.Bytes()
}

// parseServerHello refuses every extension that the ClientHello of this package
// does not offer. RFC 5246 section 7.4.1.4
func parseServerHello(body []byte) (*serverHello, error) {
	m := new(serverHello)
	s := cryptobyte.String(body)
	var session cryptobyte.String
	if !s.ReadUint16(&m.version) || !s.CopyBytes(m.random[:]) ||
		!s.ReadUint8LengthPrefixed(&session) || len(session) > maxSessionID ||
		!s.ReadUint16(&m.suite) || !s.ReadUint8(&m.compression) {
		return nil, malformed("ServerHello")
	}
	return m, parseExtensions(s, func(extension uint16, data cryptobyte.String) error {
		switch extension {
		case extensionServerName:
			m.serverName = true
			return parseEmpty(data)
		case extensionExtendedMasterSecret:
			m.extendedMasterSecret = true
			return parseEmpty(data)
		case extensionEncryptThenMAC:
			m.encryptThenMAC = true
			return parseEmpty(data)
		case extensionRenegotiationInfo:
			m.renegotiationInfo = true
			return parseRenegotiationInfo(data)
		}
		return failed(alertUnsupportedExtension, "the extension %d, which was not offered", extension)
	})
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

func marshalClientKeyExchange(identity string) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(identity)) })
	return b.Bytes()
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
	if len(body) > math.MaxUint16 {
		panic("tlspsk: a message of this package is short")
	}
	return append([]byte{byte(typ), 0, byte(len(body) >> 8), byte(len(body))}, body...)
}
