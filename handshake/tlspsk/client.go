package tlspsk

import (
	"slices"

	"muster"
)

// start sends the ClientHello.
func (m *machine) start() error {
	if err := m.random(m.clientRandom[:]); err != nil {
		return err
	}
	hello := clientHello{version: version12, random: m.clientRandom, extensions: extensions{
		serverName: m.config.Name.String(), extendedMasterSecret: true, renegotiationInfo: true,
		encryptThenMAC: slices.Contains(m.config.Suites, TLS_PSK_WITH_AES_128_CBC_SHA256),
	}}
	for _, suite := range m.config.Suites {
		hello.suites = append(hello.suites, uint16(suite))
	}
	return m.send(messageClientHello, hello.marshal())
}

func (m *machine) receiveServerHello(body []byte) error {
	hello, err := parseServerHello(body)
	if err != nil {
		return err
	}
	if hello.version != version12 {
		return refuse(alertProtocolVersion, muster.CodeProtocolVersion, "the server chose the version %#04x", hello.version)
	}
	suite := Suite(hello.suite)
	if !slices.Contains(m.config.Suites, suite) {
		return failed(alertIllegalParameter, "the server chose the cipher suite %#04x, which was not offered", hello.suite)
	}
	if hello.compression != 0 {
		return failed(alertIllegalParameter, "the server chose the compression %d", hello.compression)
	}
	if !hello.extensions.extendedMasterSecret {
		return refuse(alertHandshakeFailure, muster.CodeNoExtendedMasterSecret, "the server has no extended_master_secret")
	}
	if !hello.extensions.renegotiationInfo {
		// Without it this handshake might be someone else's renegotiation.
		// RFC 5746 section 3.4
		return failed(alertHandshakeFailure, "the server has no renegotiation_info")
	}
	cbc := suite == TLS_PSK_WITH_AES_128_CBC_SHA256
	if hello.extensions.encryptThenMAC && !cbc {
		return failed(alertIllegalParameter, "the server chose encrypt_then_mac for a suite without a MAC")
	}
	if cbc && !hello.extensions.encryptThenMAC && m.config.RefuseMACThenEncrypt {
		return failed(alertHandshakeFailure, "the server has no encrypt_then_mac")
	}
	m.in.negotiated = true
	m.serverRandom, m.suite, m.encryptThenMAC = hello.random, suite, hello.extensions.encryptThenMAC
	m.state = awaitServerKeyExchange
	return nil
}

// receiveServerHelloDone answers with the identity and the proof of the key.
func (m *machine) receiveServerHelloDone(body []byte) error {
	if len(body) != 0 {
		return malformed("ServerHelloDone")
	}
	if err := m.send(messageClientKeyExchange, marshalClientKeyExchange(m.config.PSKIdentity)); err != nil {
		return err
	}
	m.deriveSecrets(m.config.Key)
	m.state = awaitChangeCipherSpec
	return m.sendFinished(labelClient)
}
