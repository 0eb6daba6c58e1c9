package coap

import (
	"encoding/binary"
)

// An OptionNumber names an option.
type OptionNumber uint16

// The options of RFC 7252 5.10, RFC 7959 2, RFC 9175 3 and TS-0008 6.2.2.4.
const (
	OptionURIHost       OptionNumber = 3
	OptionETag          OptionNumber = 4
	OptionURIPort       OptionNumber = 7
	OptionLocationPath  OptionNumber = 8
	OptionURIPath       OptionNumber = 11
	OptionContentFormat OptionNumber = 12
	OptionMaxAge        OptionNumber = 14
	OptionURIQuery      OptionNumber = 15
	OptionAccept        OptionNumber = 17
	OptionLocationQuery OptionNumber = 20
	OptionBlock2        OptionNumber = 23
	OptionBlock1        OptionNumber = 27
	OptionSize2         OptionNumber = 28
	OptionProxyURI      OptionNumber = 35
	OptionProxyScheme   OptionNumber = 39
	OptionSize1         OptionNumber = 60
	OptionOT            OptionNumber = 259
	OptionTY            OptionNumber = 267
	OptionRVI           OptionNumber = 271
	OptionFR            OptionNumber = 279
	OptionRQI           OptionNumber = 283
	OptionRQET          OptionNumber = 291
	OptionRequestTag    OptionNumber = 292
	OptionRSET          OptionNumber = 295
	OptionOET           OptionNumber = 299
	OptionEC            OptionNumber = 303
	OptionRSC           OptionNumber = 307
)

// Critical reports whether a recipient must understand the option.
func (n OptionNumber) Critical() bool { return n&1 == 1 }

// An Option is one option of a message.
type Option struct {
	Number OptionNumber
	Value  []byte
}

// Options are the options of a message.
type Options []Option

// Add appends an option with a value of text or octets.
func (o *Options) Add(n OptionNumber, value []byte) { *o = append(*o, Option{n, value}) }

// AddUint appends an option with a number, in as few octets as it takes.
func (o *Options) AddUint(n OptionNumber, value uint32) { o.Add(n, encodeUint(value)) }

// Get returns the value of the first option with a number.
func (o Options) Get(n OptionNumber) (value []byte, ok bool) {
	for i := range o {
		if o[i].Number == n {
			return o[i].Value, true
		}
	}
	return nil, false
}

// Uint returns the number in the first option with a number; values of more than
// four octets have none.
func (o Options) Uint(n OptionNumber) (value uint32, ok bool) {
	octets, ok := o.Get(n)
	if !ok || len(octets) > 4 {
		return 0, false
	}
	return decodeUint(octets), true
}

// Texts returns the values of all options with a number.
func (o Options) Texts(n OptionNumber) []string {
	var texts []string
	for i := range o {
		if o[i].Number == n {
			texts = append(texts, string(o[i].Value))
		}
	}
	return texts
}

func encodeUint(value uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, value)
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

func decodeUint(octets []byte) (value uint32) {
	for _, b := range octets {
		value = value<<8 | uint32(b)
	}
	return value
}

// A definition is what the texts say of an option.
type definition struct {
	smallest, largest int // octets
	repeatable        bool
}

// understood returns the definition of an option of a request or of a response
// that this package understands. TS-0008 gives timestamps 15 octets; TS-0004
// has a receiver accept the fraction that needs seven more.
func understood(n OptionNumber, response bool) (definition, bool) {
	switch n {
	case OptionContentFormat:
		return definition{0, 2, false}, true
	case OptionBlock1, OptionBlock2:
		return definition{0, 3, false}, true
	case OptionSize1, OptionSize2, OptionMaxAge:
		return definition{0, 4, false}, true
	case OptionETag:
		return definition{1, 8, !response}, true
	case OptionRQI, OptionFR:
		return definition{0, 255, false}, true
	case OptionRVI:
		return definition{1, 2, false}, true
	case OptionOT, OptionRSET:
		return definition{15, 22, false}, true
	case OptionEC:
		return definition{0, 1, false}, true
	}
	if response {
		return understoodInResponse(n)
	}
	return understoodInRequest(n)
}

func understoodInRequest(n OptionNumber) (definition, bool) {
	switch n {
	case OptionURIHost:
		return definition{1, 255, false}, true
	case OptionURIPort, OptionAccept, OptionTY:
		return definition{0, 2, false}, true
	case OptionURIPath, OptionURIQuery:
		return definition{0, 255, true}, true
	case OptionRequestTag:
		return definition{0, 8, true}, true
	case OptionRQET, OptionOET:
		return definition{15, 22, false}, true
	}
	return definition{}, false
}

func understoodInResponse(n OptionNumber) (definition, bool) {
	switch n {
	case OptionLocationPath, OptionLocationQuery:
		return definition{0, 255, true}, true
	case OptionRSC:
		return definition{0, 2, false}, true
	}
	return definition{}, false
}

// filter returns the options without the elective ones that are not understood. An
// option of the wrong length, or a second one that is not repeatable, is not
// understood (RFC 7252 5.4.3, 5.4.5). bad is the first critical option that is
// not; ok is false if there is one.
func (o Options) filter(response bool) (kept Options, bad OptionNumber, ok bool) {
	for i, option := range o {
		d, known := understood(option.Number, response)
		again := i > 0 && o[i-1].Number == option.Number
		if !known || len(option.Value) < d.smallest || len(option.Value) > d.largest || again && !d.repeatable {
			if option.Number.Critical() {
				return nil, option.Number, false
			}
			continue
		}
		kept = append(kept, option)
	}
	return kept, 0, true
}
