package coap

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"muster/primitive"
)

// A block is the value of a Block1 or Block2 option (RFC 7959 2.2).
type block struct {
	number uint32
	more   bool
	szx    uint8 // the size is 2 to the power of szx+4
}

const (
	largestSZX    = 6 // 1024 octets
	reservedSZX   = 7
	largestNumber = 1<<20 - 1
)

func parseBlock(value uint32) (block, bool) {
	b := block{value >> 4, value&8 != 0, uint8(value & 7)}
	return b, b.szx != reservedSZX && b.number <= largestNumber
}

func (b block) value() uint32 {
	v := b.number<<4 | uint32(b.szx)
	if b.more {
		v |= 8
	}
	return v
}

func (b block) size() int   { return 1 << (b.szx + 4) }
func (b block) offset() int { return int(b.number) * b.size() }

// szxOf returns the largest szx whose block is not larger than size octets.
func szxOf(size int) uint8 {
	szx := uint8(largestSZX)
	for szx > 0 && (block{szx: szx}).size() > size {
		szx--
	}
	return szx
}

const (
	transferLifetime = 2 * time.Minute // for which a transfer waits for its next block
	maxTransfers     = 2               // in each direction on a connection
)

// A transfer is a body that comes or goes in blocks.
type transfer struct {
	body    []byte
	head    *Message // of a download: code and options of the answer
	expires time.Time
}

// transfers holds the transfers of one direction by the key of their request.
type transfers map[string]*transfer

func (t transfers) get(key string, now time.Time) *transfer {
	if found := t[key]; found != nil && now.Before(found.expires) {
		found.expires = now.Add(transferLifetime)
		return found
	}
	return nil
}

// put adds a transfer, in the place of the one that waits longest if there is no
// room.
func (t transfers) put(key string, added *transfer, now time.Time) {
	t.drop(key)
	if len(t) >= maxTransfers {
		t.drop(slices.MinFunc(slices.Collect(maps.Keys(t)), func(a, b string) int {
			return t[a].expires.Compare(t[b].expires)
		}))
	}
	added.expires = now.Add(transferLifetime)
	t[key] = added
}

// drop forgets a transfer and its octets, which may be of a key.
func (t transfers) drop(key string) {
	if found := t[key]; found != nil {
		clear(found.body)
		delete(t, key)
	}
}

// requestKey tells the requests of one connection apart, by their method and the
// options that a client repeats in each message of a transfer. The token is not
// among them: a client may take a new one for each block (RFC 7959 3.3).
func requestKey(m *Message, without ...OptionNumber) string {
	b := []byte{byte(m.Code)}
	for _, o := range m.Options {
		switch o.Number {
		case OptionBlock1, OptionBlock2, OptionSize1, OptionSize2:
			continue
		}
		if slices.Contains(without, o.Number) {
			continue
		}
		b = binary.BigEndian.AppendUint16(b, uint16(o.Number))
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.Value)))
		b = append(b, o.Value...)
	}
	return string(b)
}

// receive takes in a request message. It returns the request as a whole once it is
// there; until then, or if the transfer fails, it returns the reply.
func (t transfers) receive(m *Message, now time.Time) (whole, reply *Message) {
	value, ok := m.Options.Uint(OptionBlock1)
	if !ok {
		return m, nil
	}
	b, ok := parseBlock(value)
	if !ok || b.more && len(m.Payload) != b.size() || len(m.Payload) > b.size() {
		return nil, &Message{Code: CodeBadRequest}
	}
	key := requestKey(m)
	if b.number == 0 {
		t.put(key, &transfer{}, now)
	}
	found := t.get(key, now)
	if found == nil {
		return nil, &Message{Code: CodeEntityIncomplete}
	}
	switch end := b.offset() + len(m.Payload); {
	case end > primitive.MaxContent:
		t.drop(key)
		reply = &Message{Code: CodeEntityTooLarge}
		reply.Options.AddUint(OptionSize1, primitive.MaxContent)
		return nil, reply
	case b.offset() == len(found.body):
		found.body = append(found.body, m.Payload...)
	case !b.more || end != len(found.body) || !bytes.Equal(found.body[b.offset():], m.Payload):
		t.drop(key)
		return nil, &Message{Code: CodeEntityIncomplete}
	}
	if b.more {
		reply = &Message{Code: CodeContinue}
		reply.Options.AddUint(OptionBlock1, b.value())
		return nil, reply
	}
	assembled := *m
	assembled.Payload = found.body
	delete(t, key)
	return &assembled, nil
}

// downloadKey leaves out what describes the request's body, which is not repeated.
func downloadKey(request *Message) string {
	return requestKey(request, OptionContentFormat, OptionRequestTag)
}

// send returns the part of an answer that the request's Block2 option asks for,
// and keeps the answer if there is more to come. tag tells its versions apart.
func (t transfers) send(request, answer *Message, szx uint8, tag uint64, now time.Time) *Message {
	b, ok := requestedBlock(request, szx)
	if !ok {
		return &Message{Code: CodeBadRequest}
	}
	if b.number == 0 && len(answer.Payload) <= b.size() {
		return answer
	}
	head := *answer
	head.Options = slices.Clone(answer.Options)
	head.Options.Add(OptionETag, binary.BigEndian.AppendUint64(nil, tag))
	key := downloadKey(request)
	t.put(key, &transfer{body: bytes.Clone(answer.Payload), head: &head}, now)
	return t.part(key, t[key], b)
}

// resume answers a request for a later block of an answer that is kept; nil if
// none is.
func (t transfers) resume(request *Message, szx uint8, now time.Time) *Message {
	b, ok := requestedBlock(request, szx)
	if !ok {
		return &Message{Code: CodeBadRequest}
	}
	key := downloadKey(request)
	if b.number == 0 {
		return nil
	}
	found := t.get(key, now)
	if found == nil {
		return nil
	}
	return t.part(key, found, b)
}

func (t transfers) part(key string, found *transfer, b block) *Message {
	if b.offset() >= len(found.body) {
		return &Message{Code: CodeBadRequest}
	}
	end := min(b.offset()+b.size(), len(found.body))
	b.more = end < len(found.body)
	m := *found.head
	m.Payload = bytes.Clone(found.body[b.offset():end])
	m.Options = slices.Clone(m.Options)
	m.Options.AddUint(OptionBlock2, b.value())
	if b.number == 0 {
		m.Options.AddUint(OptionSize2, uint32(len(found.body)))
	}
	if !b.more {
		t.drop(key)
	}
	return &m
}

func requestedBlock(request *Message, szx uint8) (block, bool) {
	value, ok := request.Options.Uint(OptionBlock2)
	if !ok {
		return block{szx: szx}, true
	}
	b, ok := parseBlock(value)
	if b.number == 0 {
		b.szx = min(b.szx, szx)
	}
	return b, ok
}
