package tlspsk

import (
	"encoding/binary"
	"math"
	"slices"
)

// A contentType is the type of a record. RFC 5246 section 6.2.1
type contentType uint8

const (
	typeChangeCipherSpec contentType = 20
	typeAlert            contentType = 21
	typeHandshake        contentType = 22
	typeApplicationData  contentType = 23
)

const (
	version12     = 0x0303
	headerSize    = 5
	maxPlaintext  = 1 << 14
	maxCiphertext = maxPlaintext + 2048

	// maxSealed bounds the records protected under one key, since there is no
	// way to replace the key: RFC 8446 section 5.5 allows 2^24.5 for AES-GCM.
	maxSealed = 1 << 24
)

// incoming cuts the octets of a peer into records and takes off their protection.
type incoming struct {
	octets     []byte // received; those before consumed are done with
	consumed   int
	seq        uint64
	protection protection // nil before ChangeCipherSpec
	negotiated bool       // the version is known to be TLS 1.2
}

// space returns where the next octets from the peer go: never empty, and with
// room for the rest of the current record. It invalidates the last plaintext.
func (r *incoming) space() []byte {
	rest := copy(r.octets, r.octets[r.consumed:])
	r.octets, r.consumed = r.octets[:rest], 0
	want := headerSize
	if rest >= headerSize {
		want += int(binary.BigEndian.Uint16(r.octets[3:]))
	}
	r.octets = slices.Grow(r.octets, max(want-rest, 1))
	return r.octets[rest:cap(r.octets)]
}

// received tells that n octets were put in space.
func (r *incoming) received(n int) { r.octets = r.octets[:len(r.octets)+n] }

// next returns the next record, or not ok when octets are missing. The header is
// judged before its fragment is waited for. The plaintext is valid until space
// is called.
func (r *incoming) next() (typ contentType, plaintext []byte, ok bool, err error) {
	octets := r.octets[r.consumed:]
	if len(octets) < headerSize {
		return 0, nil, false, nil
	}
	typ = contentType(octets[0])
	if typ < typeChangeCipherSpec || typ > typeApplicationData {
		return 0, nil, false, failed(alertUnexpectedMessage, "a record of type %d, which is not TLS", typ)
	}
	version := binary.BigEndian.Uint16(octets[1:])
	if version>>8 != version12>>8 || r.negotiated && version != version12 {
		return 0, nil, false, failed(alertProtocolVersion, "a record of version %#04x", version)
	}
	length := int(binary.BigEndian.Uint16(octets[3:]))
	if length > maxCiphertext || r.protection == nil && length > maxPlaintext {
		return 0, nil, false, failed(alertRecordOverflow, "a record of %d octets", length)
	}
	if len(octets) < headerSize+length {
		return 0, nil, false, nil
	}
	r.consumed += headerSize + length
	plaintext, err = r.open(typ, octets[headerSize:headerSize+length])
	return typ, plaintext, err == nil, err
}

func (r *incoming) open(typ contentType, fragment []byte) ([]byte, error) {
	if r.protection == nil {
		return fragment, nil
	}
	if r.seq == math.MaxUint64 {
		return nil, failed(alertInternalError, "the sequence numbers are used up")
	}
	plaintext, ok := r.protection.open(r.seq, typ, fragment)
	if !ok {
		return nil, failed(alertBadRecordMAC, "a record does not verify: it was altered, or the keys differ")
	}
	if len(plaintext) > maxPlaintext {
		return nil, failed(alertRecordOverflow, "a record of %d octets of plaintext", len(plaintext))
	}
	r.seq++
	return plaintext, nil
}

// protect changes the keys at the ChangeCipherSpec of the peer.
func (r *incoming) protect(p protection) { r.protection, r.seq = p, 0 }

// outgoing makes records and collects them until they are taken.
type outgoing struct {
	octets     []byte
	seq        uint64
	protection protection
}

// append adds a record with a fragment of at most maxPlaintext octets. On an error
// it adds nothing.
func (w *outgoing) append(typ contentType, fragment []byte) error {
	start := len(w.octets)
	w.octets = append(w.octets, byte(typ), version12>>8, version12&0xff, 0, 0)
	if w.protection == nil {
		w.octets = append(w.octets, fragment...)
	} else {
		// The last numbers are for the alert that ends the connection.
		if w.seq >= maxSealed && typ != typeAlert {
			w.octets = w.octets[:start]
			return failed(alertInternalError, "%d records are sealed, which is the limit for a key", w.seq)
		}
		octets, err := w.protection.seal(w.octets, w.seq, typ, fragment)
		if err != nil {
			w.octets = w.octets[:start]
			return failed(alertInternalError, "sealing a record: %w", err)
		}
		w.octets = octets
		w.seq++
	}
	binary.BigEndian.PutUint16(w.octets[start+3:], uint16(len(w.octets)-start-headerSize))
	return nil
}

// protect changes the keys at this side's ChangeCipherSpec.
func (w *outgoing) protect(p protection) { w.protection, w.seq = p, 0 }

// take returns the collected records. They are valid until the next append.
func (w *outgoing) take() []byte {
	octets := w.octets
	w.octets = w.octets[:0]
	return octets
}
