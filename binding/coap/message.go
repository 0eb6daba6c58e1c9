// Package coap carries oneM2M primitives over CoAP (TS-0008) on datagram
// connections that are through their handshake. It has the part of CoAP that this
// takes: the message layer of RFC 7252 with confirmable messages and
// deduplication, and the block-wise transfer of RFC 7959 in both directions.
// Observation, proxying, multicast and discovery are not in it.
package coap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A Type is the type of a message (RFC 7252 3).
type Type uint8

// The types.
const (
	Confirmable Type = iota
	NonConfirmable
	Acknowledgement
	Reset
)

// A Code is a method or a response code (RFC 7252 12.1): class and detail.
type Code uint8

// Codes, in the notation c.dd.
const (
	Empty                    Code = 0
	GET                      Code = 0<<5 | 1
	POST                     Code = 0<<5 | 2
	PUT                      Code = 0<<5 | 3
	DELETE                   Code = 0<<5 | 4
	CodeCreated              Code = 2<<5 | 1
	CodeDeleted              Code = 2<<5 | 2
	CodeChanged              Code = 2<<5 | 4
	CodeContent              Code = 2<<5 | 5
	CodeContinue             Code = 2<<5 | 31
	CodeBadRequest           Code = 4 << 5
	CodeBadOption            Code = 4<<5 | 2
	CodeForbidden            Code = 4<<5 | 3
	CodeNotFound             Code = 4<<5 | 4
	CodeMethodNotAllowed     Code = 4<<5 | 5
	CodeNotAcceptable        Code = 4<<5 | 6
	CodeEntityIncomplete     Code = 4<<5 | 8
	CodeEntityTooLarge       Code = 4<<5 | 13
	CodeUnsupportedFormat    Code = 4<<5 | 15
	CodeInternalServerError  Code = 5 << 5
	CodeNotImplemented       Code = 5<<5 | 1
	CodeGatewayTimeout       Code = 5<<5 | 4
	CodeProxyingNotSupported Code = 5<<5 | 5
)

// The classes of codes; the others are reserved.
const (
	classRequest     = 0
	classSuccess     = 2
	classClientError = 4
	classServerError = 5
)

// String returns the code as c.dd.
func (c Code) String() string { return fmt.Sprintf("%d.%02d", c>>5, c&31) }

func (c Code) class() int { return int(c >> 5) }

// A Message is a CoAP message.
type Message struct {
	Type    Type
	Code    Code
	ID      uint16
	Token   []byte // at most 8 octets
	Options Options
	Payload []byte
}

const (
	maxToken      = 8
	maxMessage    = 1500 // octets of a datagram
	maxOptions    = 48   // in a message
	payloadMarker = 0xff
	headerSize    = 4
	version1      = 1
	extendedByOne = 13
	extendedByTwo = 14
	oneOctetBase  = 13
	twoOctetsBase = 269
)

var (
	// ErrNotCoAP is wrapped by the error for octets that are silently ignored:
	// shorter than a header, or of another version (RFC 7252 3).
	ErrNotCoAP = errors.New("not a CoAP message")
	// ErrFormat is wrapped by the error for a message format error, which a
	// confirmable message has answered with a reset (RFC 7252 4.2).
	ErrFormat = errors.New("malformed CoAP message")
)

func formatError(text string) error { return fmt.Errorf("%w: %s", ErrFormat, text) }

// Parse reads a datagram. The message keeps no reference to it. With an error
// that wraps ErrFormat it returns the header, so that the message can be rejected.
func Parse(datagram []byte) (*Message, error) {
	if len(datagram) < headerSize || datagram[0]>>6 != version1 {
		return nil, ErrNotCoAP
	}
	m := &Message{
		Type: Type(datagram[0] >> 4 & 3),
		Code: Code(datagram[1]),
		ID:   binary.BigEndian.Uint16(datagram[2:]),
	}
	tokenSize := int(datagram[0] & 15)
	rest := bytes.Clone(datagram[headerSize:])
	switch {
	case len(datagram) > maxMessage:
		return m, formatError("it is too long")
	case m.Code == Empty && len(datagram) != headerSize:
		return m, formatError("it is empty and has octets after its header")
	case tokenSize > maxToken || tokenSize > len(rest):
		return m, formatError("its token length is reserved or exceeds it")
	}
	switch m.Code.class() {
	case classRequest, classSuccess, classClientError, classServerError:
	default:
		return m, formatError("its code is of a reserved class")
	}
	m.Token, rest = rest[:tokenSize:tokenSize], rest[tokenSize:]
	var err error
	m.Options, m.Payload, err = parseOptions(rest)
	return m, err
}

func parseOptions(rest []byte) (Options, []byte, error) {
	var options Options
	number := 0
	for len(rest) > 0 {
		if rest[0] == payloadMarker {
			if len(rest) == 1 {
				return nil, nil, formatError("a payload marker has no payload")
			}
			return options, rest[1:], nil
		}
		if len(options) == maxOptions {
			return nil, nil, formatError("it has too many options")
		}
		delta, size := int(rest[0]>>4), int(rest[0]&15)
		rest = rest[1:]
		var ok bool
		if delta, rest, ok = extended(delta, rest); !ok {
			return nil, nil, formatError("an option delta is reserved or cut off")
		}
		if size, rest, ok = extended(size, rest); !ok || size > len(rest) {
			return nil, nil, formatError("an option length is reserved or exceeds the message")
		}
		if number += delta; number > 65535 {
			return nil, nil, formatError("an option number exceeds 65535")
		}
		options = append(options, Option{OptionNumber(number), rest[:size:size]})
		rest = rest[size:]
	}
	return options, nil, nil
}

// extended reads the extension of an option delta or length (RFC 7252 3.1).
func extended(nibble int, rest []byte) (value int, remaining []byte, ok bool) {
	switch {
	case nibble == extendedByOne && len(rest) >= 1:
		return int(rest[0]) + oneOctetBase, rest[1:], true
	case nibble == extendedByTwo && len(rest) >= 2:
		return int(binary.BigEndian.Uint16(rest)) + twoOctetsBase, rest[2:], true
	case nibble >= extendedByOne:
		return 0, nil, false
	}
	return nibble, rest, true
}

// Marshal returns the octets of m. Options are put in order; those with the same
// number keep theirs.
func (m *Message) Marshal() ([]byte, error) {
	if len(m.Token) > maxToken {
		return nil, errors.New("a token has at most 8 octets")
	}
	b := make([]byte, 0, headerSize+len(m.Token)+len(m.Payload)+64)
	b = append(b, version1<<6|byte(m.Type)<<4|byte(len(m.Token)), byte(m.Code))
	b = binary.BigEndian.AppendUint16(b, m.ID)
	b = append(b, m.Token...)
	options := slices.Clone(m.Options)
	slices.SortStableFunc(options, func(a, b Option) int { return int(a.Number) - int(b.Number) })
	previous := OptionNumber(0)
	for _, o := range options {
		if len(o.Value) > 65535+twoOctetsBase {
			return nil, errors.New("an option is too long")
		}
		b = appendOption(b, int(o.Number-previous), o.Value)
		previous = o.Number
	}
	if len(m.Payload) > 0 {
		b = append(append(b, payloadMarker), m.Payload...)
	}
	return b, nil
}

func appendOption(b []byte, delta int, value []byte) []byte {
	d, dx := nibble(delta)
	l, lx := nibble(len(value))
	b = append(b, d<<4|l)
	b = append(append(b, dx...), lx...)
	return append(b, value...)
}

func nibble(n int) (byte, []byte) {
	switch {
	case n >= twoOctetsBase:
		return extendedByTwo, binary.BigEndian.AppendUint16(nil, uint16(n-twoOctetsBase))
	case n >= oneOctetBase:
		return extendedByOne, []byte{byte(n - oneOctetBase)}
	}
	return byte(n), nil
}
