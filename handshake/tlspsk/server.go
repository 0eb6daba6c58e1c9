package tlspsk

import (
	"fmt"
	"slices"

	"muster"
)

// receiveClientHello judges the hello and answers with ServerHello and
// ServerHelloDone: there is no identity hint. RFC 4279 section 2
func (m *machine) receiveClientHello(body []byte) error {
	hello, err := parseClientHello(body)
	if err != nil {
		return err
	}
	if err := m.judgeClientHello(hello); err != nil {
		return err
	}
	m.in.negotiated = true
	m.clientRandom = hello.random
	if err := m.random(m.serverRandom[:]); err != nil {
		return err
	}
	answer := serverHello{version: version12, random: m.serverRandom, suite: uint16(m.suite), extensions: extensions{
		serverNameUsed: true, extendedMasterSecret: true,
		encryptThenMAC: m.encryptThenMAC, renegotiationInfo: hello.extensions.renegotiationInfo,
	}}
	if err := m.send(messageServerHello, answer.marshal()); err != nil {
		return err
	}
	m.state = awaitClientKeyExchange
	return m.send(messageServerHelloDone, nil)
}

func (m *machine) judgeClientHello(hello *clientHello) error {
	if hello.version < version12 {
		if slices.Contains(hello.suites, suiteFallback) {
			return refuse(alertInappropriateFallback, muster.CodeProtocolVersion, "the client fell back to the version %#04x", hello.version)
		}
		return refuse(alertProtocolVersion, muster.CodeProtocolVersion, "the client offers the version %#04x", hello.version)
	}
	if !hello.nullCompression {
		return failed(alertIllegalParameter, "the client offers no null compression")
	}
	if name := m.config.Name.String(); lowerASCII(hello.extensions.serverName) != name {
		return refuse(alertUnrecognizedName, muster.CodeServerName, "the client asks for the server_name %.80q, not %q", hello.extensions.serverName, name)
	}
	if !hello.extensions.extendedMasterSecret {
		return refuse(alertHandshakeFailure, muster.CodeNoExtendedMasterSecret, "the client offers no extended_master_secret")
	}
	for _, suite := range m.config.Suites {
		if !slices.Contains(hello.suites, uint16(suite)) {
			continue
		}
		if suite != TLS_PSK_WITH_AES_128_CBC_SHA256 {
			m.suite = suite
			return nil
		}
		if hello.extensions.encryptThenMAC || !m.config.RefuseMACThenEncrypt {
			m.suite, m.encryptThenMAC = suite, hello.extensions.encryptThenMAC
			return nil
		}
	}
	some := hello.suites[:min(len(hello.suites), 16)] // hellos do not fill the log
	return failed(alertHandshakeFailure, "no cipher suite in common; the client offers %d, first %#04x", len(hello.suites), some)
}

// lowerASCII folds what DNS folds, and nothing else: to fold all of Unicode would
// make the Kelvin sign a k.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// receiveClientKeyExchange draws the stand-in before the identity is looked up,
// so that this costs the same for every identity.
func (m *machine) receiveClientKeyExchange(body []byte) error {
	identity, err := parseClientKeyExchange(body)
	if err != nil {
		return err
	}
	if err := m.random(m.standIn[:]); err != nil {
		return err
	}
	m.identity, m.state = identity, awaitKey
	return nil
}

// provide continues after needKey with the key for the identity or with the
// error of the search for it. A key of a size that cannot serve counts as an
// error. Either way the same work is done, and the peer learns no difference.
// RFC 4279 section 2
func (m *machine) provide(key []byte, err error) {
	if err == nil && (len(key) < minKey || len(key) > maxKey) {
		err = fmt.Errorf("a key of %d octets, not %d to %d", len(key), minKey, maxKey)
	}
	if err != nil {
		m.lookupErr, key = err, m.standIn[:]
	}
	m.deriveSecrets(key)
	clear(m.standIn[:])
	m.state = awaitChangeCipherSpec
}
