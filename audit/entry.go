package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"muster"
)

// A Kind is the stable name of a kind of act.
type Kind string

// The kinds.
const (
	KindStarted  Kind = "started"        // the function begins
	KindStopped  Kind = "stopped"        // the function has ended as it should
	KindEnrolled Kind = "enrolled"       // a MEF has an enrolment of an Enrolee
	KindAttached Kind = "attached"       // a MAF accepted a session of an Enrolee
	KindFetched  Kind = "fetched"        // a MAF got a key over the interface for that alone
	KindRead     Kind = "read"           // a client retrieved a resource, a key among others
	KindRefused  Kind = "refused"        // a peer, in the handshake or with a request
	KindChanged  Kind = "changed"        // a resource was made, updated or deleted by a client
	KindRules    Kind = "rules-replaced" // the configuration was read anew
	KindAdmin    Kind = "admin"          // an operator changed something
)

// maxText bounds each text of an entry in octets, and with them the entry.
const maxText = 512

// MaxLine bounds the line of an entry in octets, whatever JSON has to escape.
const MaxLine = 32 << 10

// An Entry is one act. Record sets Seq, Time and Writer; each text is cut at 512
// octets.
type Entry struct {
	Seq     uint64      `json:"seq"`               // counts from 1 without a gap
	Time    time.Time   `json:"time"`              // UTC
	Writer  string      `json:"writer"`            // the function, by its FQDN
	Kind    Kind        `json:"kind"`              // of the act, one of those below
	Who     string      `json:"who,omitempty"`     // the authenticated party, or the address of one that is not
	What    string      `json:"what,omitempty"`    // was done, or to what
	Rule    string      `json:"rule,omitempty"`    // that decided
	Enrolee string      `json:"enrolee,omitempty"` // the Enrolee-ID that it is about
	KeID    string      `json:"ke_id,omitempty"`   // that it is about
	Code    muster.Code `json:"code,omitempty"`    // of a refusal; empty when the act was done
	Prev    string      `json:"prev"`              // the Hash of the entry before, 64 zeros for the first
	Hash    string      `json:"hash"`              // of Prev and the entry without Hash
}

// A Head is the end of a chain. The zero Head is before the first entry.
type Head struct {
	Seq  uint64
	Hash muster.Digest
}

// String returns the number, a colon and the hash.
func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Seq, h.Hash) }

// ParseHead reads what String returns.
func ParseHead(s string) (h Head, err error) {
	var digits string
	if _, err = fmt.Sscanf(strings.Replace(s, ":", " ", 1), "%d %64s", &h.Seq, &digits); err != nil {
		return Head{}, fmt.Errorf("%q is not a head, as 12:HASH", s)
	}
	octets, err := hex.DecodeString(digits)
	if err == nil && len(octets) == len(h.Hash) {
		h.Hash = muster.Digest(octets)
	}
	if h.String() != s {
		return Head{}, fmt.Errorf("%q is not a head, as 12:HASH", s)
	}
	return h, nil
}

// chain makes e the entry after h, and returns its line and the new head.
func (h Head) chain(e Entry) ([]byte, Head, error) {
	e.Seq, e.Prev, e.Hash = h.Seq+1, h.Hash.String(), ""
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	for _, text := range []*string{&e.Writer, &e.Who, &e.What, &e.Rule, &e.Enrolee, &e.KeID} {
		*text = bounded(*text)
	}
	body, err := json.Marshal(e)
	if err != nil {
		return nil, h, err
	}
	// Marshalling a struct is canonical: its fields have one order, and its
	// texts one form.
	next := Head{e.Seq, sha256.Sum256(append(h.Hash[:], body...))}
	e.Hash = next.Hash.String()
	line, err := json.Marshal(e)
	return append(line, '\n'), next, err
}

func bounded(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// ErrBroken is wrapped by the errors of Verify that tell of a chain which is not
// the one that was written.
var ErrBroken = errors.New("the audit log is not what was written")

// Follow checks that line, without its end, is the entry after h, and returns it with
// the head that it makes. An error that wraps ErrBroken says why it is not.
func (h Head) Follow(line []byte) (Entry, Head, error) {
	var e Entry
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&e); err != nil {
		return e, h, fmt.Errorf("%w: after entry %d comes none: %v", ErrBroken, h.Seq, err)
	}
	if e.Seq != h.Seq+1 {
		return e, h, fmt.Errorf("%w: after entry %d comes %d", ErrBroken, h.Seq, e.Seq)
	}
	written, next, err := h.chain(e)
	if err != nil {
		return e, h, err
	}
	if !bytes.Equal(written[:len(written)-1], line) {
		return e, h, fmt.Errorf("%w: entry %d, or the one before it, was changed", ErrBroken, e.Seq)
	}
	return e, next, nil
}
