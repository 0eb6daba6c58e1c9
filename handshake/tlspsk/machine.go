package tlspsk

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"hash"
	"io"

	"muster"
)

// A state names what a machine waits for.
type state uint8

const (
	awaitClientHello state = iota
	awaitClientKeyExchange
	awaitKey // of this side's program, not of the peer
	awaitServerHello
	awaitServerKeyExchange // or ServerHelloDone, as this message is optional
	awaitServerHelloDone
	awaitChangeCipherSpec
	awaitFinished
	established
	closed // by the peer's close_notify
	stateCount
)

// An event is what the owner of a machine has to act upon.
type event uint8

const (
	needOctets      event = iota // nothing more without octets from the peer
	needKey                      // identity is known: call provide
	handshakeDone                // once
	applicationData              // in plaintext, until the next call of space
	peerClosed                   // nothing more will come
)

const (
	maxWarnings     = 4  // warning alerts without anything else between them
	maxEmptyRecords = 16 // records of no application data, likewise
)

// A machine is one end of a connection without its input and output. The owner
// puts octets into in, calls next until it needs more, and sends what out has
// collected, always before it waits or calls provide. After an error from next it
// is to be dropped; a fault tells which alert to send first.
//
// Once the handshake is done out belongs to the writer of the connection, and
// next touches it no more.
type machine struct {
	config *Config
	client bool
	state  state
	in     incoming
	out    outgoing

	handshake                  []byte // octets of an incomplete message
	transcript                 hash.Hash
	clientRandom, serverRandom [randomSize]byte
	suite                      Suite
	encryptThenMAC             bool
	pendingIn, pendingOut      protection

	identity  string
	standIn   [muster.KeySize]byte // for the key that is not found
	lookupErr error                // why the stand-in is in use
	secrets   *secrets             // nil before the key is known

	warnings, empty int
	plaintext       []byte
}

func newMachine(config *Config, client bool) *machine {
	m := &machine{config: config, client: client, transcript: sha256.New()}
	if client {
		m.state, m.identity = awaitServerHello, config.PSKIdentity
	}
	return m
}

// next acts on what has been received up to the next event.
func (m *machine) next() (event, error) {
	for {
		switch m.state {
		case awaitKey:
			return needKey, nil
		case closed:
			return peerClosed, nil
		}
		typ, plaintext, ok, err := m.in.next()
		if err != nil {
			return needOctets, err
		}
		if !ok {
			return needOctets, nil
		}
		e, err := m.record(typ, plaintext)
		if err != nil || e != needOctets {
			return e, err
		}
	}
}

// explain tells the operator what the peer must not learn: that its key did not
// fit because its identity is unknown. It is called when the alert has been sent,
// lest the time that it takes show.
func (m *machine) explain(err error) error {
	if m.lookupErr == nil {
		return err
	}
	f, ok := errors.AsType[*fault](err)
	if !ok {
		return err // the peer gave up first
	}
	code := muster.CodeOf(m.lookupErr)
	if code == "" {
		code = muster.CodeKeyUnknown
	}
	return refuse(f.alert, code, "no key for the psk_identity %q: %w", m.identity, m.lookupErr)
}

// record is the whole of the record protocol's dispatch, also of plaintext that
// a test makes up.
func (m *machine) record(typ contentType, content []byte) (event, error) {
	if len(content) == 0 && typ != typeApplicationData {
		return needOctets, failed(alertUnexpectedMessage, "an empty record of type %d", typ)
	}
	if typ != typeAlert {
		m.warnings = 0
	}
	switch typ {
	case typeAlert:
		return m.receiveAlert(content)
	case typeHandshake:
		return m.receiveHandshake(content)
	case typeChangeCipherSpec:
		return needOctets, m.receiveChangeCipherSpec(content)
	case typeApplicationData:
		return m.receiveApplicationData(content)
	}
	return needOctets, failed(alertUnexpectedMessage, "a record of type %d", typ)
}

func (m *machine) receiveAlert(content []byte) (event, error) {
	if len(content) != 2 {
		return needOctets, failed(alertDecodeError, "an alert of %d octets", len(content))
	}
	level, a := content[0], alert(content[1])
	switch {
	case a == alertCloseNotify && m.state == established:
		m.state = closed
		return peerClosed, nil
	case a == alertCloseNotify || level == levelFatal:
		return needOctets, muster.Refuse(muster.CodePeerAlert, "the peer ended the connection with %v", a)
	case level != levelWarning:
		return needOctets, failed(alertIllegalParameter, "an alert of level %d", level)
	}
	if m.warnings++; m.warnings > maxWarnings {
		return needOctets, failed(alertUnexpectedMessage, "more than %d warnings in a row, the last being %v", maxWarnings, a)
	}
	return needOctets, nil
}

// receiveChangeCipherSpec need not look for a message that is half received: the
// state in which this record may come expects none.
func (m *machine) receiveChangeCipherSpec(content []byte) error {
	if m.state != awaitChangeCipherSpec {
		return failed(alertUnexpectedMessage, "a ChangeCipherSpec in %v", m.state)
	}
	if len(content) != 1 || content[0] != 1 {
		return failed(alertDecodeError, "a malformed ChangeCipherSpec")
	}
	m.in.protect(m.pendingIn)
	m.state = awaitFinished
	return nil
}

func (m *machine) receiveApplicationData(content []byte) (event, error) {
	if m.state != established {
		return needOctets, failed(alertUnexpectedMessage, "application data in %v", m.state)
	}
	if len(content) > 0 {
		m.empty, m.plaintext = 0, content
		return applicationData, nil
	}
	if m.empty++; m.empty > maxEmptyRecords {
		return needOctets, failed(alertUnexpectedMessage, "more than %d empty records in a row", maxEmptyRecords)
	}
	return needOctets, nil
}

// receiveHandshake puts messages together from records and acts on each. Where
// the peer has to wait for this side or to change keys, no octet may follow.
func (m *machine) receiveHandshake(content []byte) (event, error) {
	m.handshake = append(m.handshake, content...)
	for len(m.handshake) > 0 {
		typ := messageType(m.handshake[0])
		if !m.expects(typ) {
			return needOctets, m.unexpected(typ)
		}
		if len(m.handshake) < messageHeaderSize {
			return needOctets, nil
		}
		length := int(m.handshake[1])<<16 | int(m.handshake[2])<<8 | int(m.handshake[3])
		if length > maxMessage {
			return needOctets, failed(alertIllegalParameter, "a handshake message of %d octets", length)
		}
		end := messageHeaderSize + length
		if len(m.handshake) < end {
			return needOctets, nil
		}
		if len(m.handshake) > end && typ != messageServerHello && typ != messageServerKeyExchange {
			return needOctets, failed(alertUnexpectedMessage, "octets behind the last message of a flight")
		}
		if err := m.receiveMessage(typ, m.handshake[:end]); err != nil {
			return needOctets, err
		}
		if m.handshake = m.handshake[end:]; len(m.handshake) == 0 {
			m.handshake = nil
		}
		switch m.state {
		case awaitKey:
			return needKey, nil
		case established:
			return handshakeDone, nil
		}
	}
	return needOctets, nil
}

// expects is the state machine's table: which message may come in which state.
func (m *machine) expects(typ messageType) bool {
	switch m.state {
	case awaitClientHello:
		return typ == messageClientHello
	case awaitClientKeyExchange:
		return typ == messageClientKeyExchange
	case awaitServerHello:
		return typ == messageServerHello
	case awaitServerKeyExchange:
		return typ == messageServerKeyExchange || typ == messageServerHelloDone
	case awaitServerHelloDone:
		return typ == messageServerHelloDone
	case awaitFinished:
		return typ == messageFinished
	}
	return false
}

// unexpected refuses a message that the state does not expect. A peer that wants
// to renegotiate gets the alert of RFC 5246 section 7.2.2 for that; as it would
// wait or give up, the connection ends too.
func (m *machine) unexpected(typ messageType) error {
	again := messageClientHello
	if m.client {
		again = messageHelloRequest
	}
	if m.state == established && typ == again {
		return failed(alertNoRenegotiation, "the peer wants to renegotiate")
	}
	return failed(alertUnexpectedMessage, "a handshake message of type %d in %v", typ, m.state)
}

// receiveMessage acts on a message that the state expects.
func (m *machine) receiveMessage(typ messageType, raw []byte) error {
	before := m.transcript.Sum(nil)
	m.transcript.Write(raw)
	body := raw[messageHeaderSize:]
	switch typ {
	case messageClientHello:
		return m.receiveClientHello(body)
	case messageClientKeyExchange:
		return m.receiveClientKeyExchange(body)
	case messageServerHello:
		return m.receiveServerHello(body)
	case messageServerKeyExchange:
		m.state = awaitServerHelloDone
		return parseServerKeyExchange(body)
	case messageServerHelloDone:
		return m.receiveServerHelloDone(body)
	case messageFinished:
		return m.receiveFinished(body, before)
	}
	return m.unexpected(typ)
}

// deriveSecrets takes the session hash of the messages so far.
func (m *machine) deriveSecrets(key []byte) {
	m.secrets = newSecrets(key, m.transcript.Sum(nil), m.clientRandom, m.serverRandom)
	client, server := protections(m.secrets, m.suite, m.encryptThenMAC, m.config.Rand)
	m.pendingIn, m.pendingOut = client, server
	if m.client {
		m.pendingIn, m.pendingOut = server, client
	}
}

func (m *machine) receiveFinished(body, before []byte) error {
	own, peer := labelServer, labelClient
	if m.client {
		own, peer = peer, own
	}
	if !hmac.Equal(body, m.secrets.verifyData(peer, before)) {
		return failed(alertDecryptError, "a Finished that does not verify")
	}
	if m.lookupErr != nil {
		return failed(alertBadRecordMAC, "a peer that knows the stand-in for a key")
	}
	if !m.client {
		if err := m.sendFinished(own); err != nil {
			return err
		}
	}
	m.state = established
	m.pendingIn, m.pendingOut, m.transcript = nil, nil, nil
	return nil
}

// sendFinished changes to the new keys and proves them.
func (m *machine) sendFinished(label string) error {
	if err := m.out.append(typeChangeCipherSpec, []byte{1}); err != nil {
		return err
	}
	m.out.protect(m.pendingOut)
	return m.send(messageFinished, m.secrets.verifyData(label, m.transcript.Sum(nil)))
}

func (m *machine) send(typ messageType, body []byte) error {
	raw := message(typ, body)
	m.transcript.Write(raw)
	return m.out.append(typeHandshake, raw)
}

func (m *machine) random(p []byte) error {
	if _, err := io.ReadFull(m.config.Rand, p); err != nil {
		return failed(alertInternalError, "reading randomness: %w", err)
	}
	return nil
}

// String names the state for errors.
func (s state) String() string {
	return [stateCount]string{
		awaitClientHello:       "wait for ClientHello",
		awaitClientKeyExchange: "wait for ClientKeyExchange",
		awaitKey:               "wait for the key",
		awaitServerHello:       "wait for ServerHello",
		awaitServerKeyExchange: "wait for ServerKeyExchange or ServerHelloDone",
		awaitServerHelloDone:   "wait for ServerHelloDone",
		awaitChangeCipherSpec:  "wait for ChangeCipherSpec",
		awaitFinished:          "wait for Finished",
		established:            "the established connection",
		closed:                 "the closed connection",
	}[s]
}
