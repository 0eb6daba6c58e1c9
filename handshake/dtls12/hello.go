package dtls12

import (
	"encoding/binary"
	"slices"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/protocol"
	"github.com/pion/dtls/v3/pkg/protocol/extension"
	"github.com/pion/dtls/v3/pkg/protocol/handshake"
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
	maxHello        = 4096 // octets; the hellos of the peers we know have 100 to 500
)

// A record is one plaintext or encrypted record of a datagram.
type record struct {
	kind    byte
	epoch   uint16
	version uint16
	body    []byte // shares the datagram's octets
}

// records splits a datagram and stops at what is no record.
func records(datagram []byte) (all []record) {
	for len(datagram) >= recordHeader {
		length := int(binary.BigEndian.Uint16(datagram[11:]))
		if length > len(datagram)-recordHeader {
			break
		}
		all = append(all, record{
			kind:    datagram[0],
			version: binary.BigEndian.Uint16(datagram[1:]),
			epoch:   binary.BigEndian.Uint16(datagram[3:]),
			body:    datagram[recordHeader : recordHeader+length],
		})
		datagram = datagram[recordHeader+length:]
	}
	return all
}

// A fragment is a part of a handshake message.
type fragment struct {
	kind     byte
	sequence uint16
	length   int // of the message
	offset   int
	part     []byte
}

// fragments returns the fragments in a plaintext handshake record.
func (r record) fragments() (all []fragment) {
	if r.kind != recordHandshake || r.epoch != 0 {
		return nil
	}
	for body := r.body; len(body) >= messageHeader; {
		f := fragment{
			kind:     body[0],
			length:   uint24(body[1:]),
			sequence: binary.BigEndian.Uint16(body[4:]),
			offset:   uint24(body[6:]),
		}
		size := uint24(body[9:])
		if size > len(body)-messageHeader || f.offset+size > f.length {
			break
		}
		f.part = body[messageHeader : messageHeader+size]
		all = append(all, f)
		body = body[messageHeader+size:]
	}
	return all
}

func uint24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// beginsHandshake reports whether a datagram may be the first of a client: a
// ClientHello or its first fragment, the first message, of DTLS, with no cookie
// that an earlier exchange would have given. Nothing else creates state.
func beginsHandshake(datagram []byte) bool {
	all := records(datagram)
	if len(all) == 0 || all[0].version>>8 != 0xfe {
		return false
	}
	parts := all[0].fragments()
	if len(parts) == 0 {
		return false
	}
	const random, session = 2, 34 // offsets: the version comes first
	f := parts[0]
	if f.kind != typeClientHello || f.sequence != 0 || f.offset != 0 || f.length > maxHello || len(f.part) < session+2 || f.part[0] != 0xfe {
		return false
	}
	cookie := session + 1 + int(f.part[session])
	return f.part[session] <= 32 && cookie < len(f.part) && f.part[cookie] == 0
}

// A hello is what this package needs to know of a ClientHello or ServerHello,
// which pion does not tell.
type hello struct {
	version    protocol.Version
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
	for _, r := range records(datagram) {
		for _, f := range r.fragments() {
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

// parseHello returns the zero hello for a body that pion cannot read; pion then
// fails, too.
func parseHello(kind byte, body []byte) (h hello) {
	var extensions []extension.Extension
	if kind == typeClientHello {
		var message handshake.MessageClientHello
		if message.Unmarshal(slices.Clone(body)) != nil {
			return hello{}
		}
		h.version, extensions = message.Version, message.Extensions
		h.psk = slices.ContainsFunc(pskSuites(), func(s dtls.CipherSuiteID) bool {
			return slices.Contains(message.CipherSuiteIDs, uint16(s))
		})
	} else {
		var message handshake.MessageServerHello
		if message.Unmarshal(slices.Clone(body)) != nil {
			return hello{}
		}
		h.version, extensions = message.Version, message.Extensions
	}
	for _, e := range extensions {
		switch e := e.(type) {
		case *extension.UseExtendedMasterSecret:
			h.extended = true
		case *extension.ServerName:
			h.serverName = e.ServerName
		}
	}
	return h
}
