// Package archive is the form in which a store leaves its engine: what its tables
// hold, record by record, as lines of JSON. It also holds what all engines must
// agree on for that: to what each key is sealed, what a check finds and what a
// return to an earlier state withdraws.
//
// An archive begins with a header, has a line for each record, and ends with a
// line that counts the records and has the SHA-256 of all before it:
//
//	{"format":"muster-store","version":2,"engine":"sqlite","schema":4,"function":"mef.example.org","created":"2026-01-31T12:00:00Z"}
//	{"table":"data_key","id":1,"wrapped":"…","created":1769860800,"seals":1}
//	{"table":"enrolment","ke_id":"0123…@mef.example.org", …}
//	{"table":"end","counts":{"data_key":1,"enrolment":1},"sha256":"…"}
//
// Members have the names of the columns, octets are in base64, times in Unix
// seconds. The tables follow each other in the order of Tables, the records of one
// in that of their keys, so that a store has one archive at a time but for its
// header, whatever its engine. Nothing else is read: a line that Write would write
// otherwise is refused.
//
// Keys leave a store as they stand in it, sealed under data keys that are wrapped
// by the root key; an archive alone gives none of them. The digest finds accidents;
// what is sealed is bound to its record by the seal, and the rest is as safe from
// forgers as the file is.
package archive

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	format  = "muster-store"
	version = 2 // 1 has no audit logs
	// maxLine bounds a line, in octets. The longest by far describes a command.
	maxLine = 4 << 20
)

var (
	// ErrFormat is returned for what is no archive.
	ErrFormat = errors.New("not an archive of a store")
	// ErrNewer: a newer version of Muster wrote the archive.
	ErrNewer = errors.New("the archive is of a newer version")
	// ErrDamaged is wrapped by the errors for an archive that is not as it was
	// written: cut off, altered, with records out of order or twice.
	ErrDamaged = errors.New("the archive is damaged")
)

// A Header says where an archive comes from.
type Header struct {
	Engine   string // of the store that was exported
	Schema   int    // version of that engine's schema
	Function string // FQDN of the MEF or MAF
	Created  time.Time
}

// header is a Header as a line.
type header struct {
	Format   string `json:"format"`
	Version  int    `json:"version"`
	Engine   string `json:"engine"`
	Schema   int    `json:"schema"`
	Function string `json:"function,omitempty"`
	Created  string `json:"created"`
}

// end is the last line.
type end struct {
	Counts map[string]int `json:"counts"`
	SHA256 string         `json:"sha256"`
}

const endTable = "end"

// Write writes the archive of some records, which must be in order. An error of
// theirs ends it, and is returned as it is.
func Write(w io.Writer, h Header, records iter.Seq2[Record, error]) error {
	digest := sha256.New()
	out := bufio.NewWriter(w)
	both := io.MultiWriter(out, digest)
	first, err := json.Marshal(header{format, version, h.Engine, h.Schema, h.Function, h.Created.UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	if _, err := both.Write(append(first, '\n')); err != nil {
		return err
	}
	order := sequence{counts: map[string]int{}}
	for r, err := range records {
		if err != nil {
			return err
		}
		if err := order.next(r); err != nil {
			return err
		}
		text, err := line(r.Table(), r)
		if err != nil {
			return err
		}
		if _, err := both.Write(text); err != nil {
			return err
		}
	}
	last, err := line(endTable, end{order.counts, hex.EncodeToString(digest.Sum(nil))})
	if err != nil {
		return err
	}
	if _, err := out.Write(last); err != nil {
		return err
	}
	return out.Flush()
}

// line returns a value as a line that names its table first.
func line(table string, value any) ([]byte, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	text := append([]byte(`{"table":"`+table+`",`), body[1:]...)
	if len(text) >= maxLine {
		return nil, fmt.Errorf("a record of %s has %d octets", table, len(text))
	}
	return append(text, '\n'), nil
}

// A sequence sees to the order of records, and counts them.
type sequence struct {
	table  int // index in tables
	key    string
	counts map[string]int
}

func (s *sequence) next(r Record) error {
	table := slices.IndexFunc(tables, func(t Table) bool { return t.Name == r.Table() })
	key := r.key()
	switch {
	case table < s.table:
		return fmt.Errorf("a record of %s after one of %s", r.Table(), tables[s.table].Name)
	case table == s.table && s.counts[r.Table()] > 0 && (key < s.key || key == s.key && tables[table].unique):
		return fmt.Errorf("records of %s twice or out of order", r.Table())
	}
	s.table, s.key = table, key
	s.counts[r.Table()]++
	return nil
}

// A Reader reads an archive.
type Reader struct {
	Header Header

	in     *bufio.Reader
	digest hash.Hash
	number int // of the line last read
}

// NewReader reads the header of an archive.
func NewReader(r io.Reader) (*Reader, error) {
	reader := &Reader{in: bufio.NewReaderSize(r, maxLine), digest: sha256.New()}
	text, err := reader.line()
	if err != nil {
		return nil, err
	}
	var known struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	var h header
	switch err := json.Unmarshal(text, &known); {
	case err != nil || known.Format != format || known.Version < 1:
		return nil, ErrFormat
	case known.Version > version:
		return nil, fmt.Errorf("%w: %d, and this Muster knows %d", ErrNewer, known.Version, version)
	}
	if err := exactly(text, &h, func() ([]byte, error) { return json.Marshal(h) }); err != nil {
		return nil, reader.damaged(err)
	}
	created, err := time.Parse(time.RFC3339, h.Created)
	if err != nil {
		return nil, reader.damaged(err)
	}
	reader.Header = Header{h.Engine, h.Schema, h.Function, created.UTC()}
	reader.note(text)
	return reader, nil
}

// Records reads the records, which are worth nothing before the last: an archive
// that is cut off or altered shows by the error that comes in the place of its end.
func (r *Reader) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		order := sequence{counts: map[string]int{}}
		for {
			text, err := r.line()
			if err != nil {
				yield(nil, err)
				return
			}
			name, body, err := split(text)
			if err == nil && name == endTable {
				if err := r.end(body, order.counts); err != nil {
					yield(nil, err)
				}
				return
			}
			var record Record
			if err == nil {
				record, err = parse(name, body)
			}
			if err == nil {
				err = order.next(record)
			}
			if err != nil {
				yield(nil, r.damaged(err))
				return
			}
			r.note(text)
			if !yield(record, nil) {
				return
			}
		}
	}
}

// line reads one line, without its end.
func (r *Reader) line() ([]byte, error) {
	r.number++
	text, err := r.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull) && r.number == 1:
		return nil, ErrFormat
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, r.damaged(fmt.Errorf("the line has more than %d octets", maxLine))
	case errors.Is(err, io.EOF) && r.number == 1:
		return nil, ErrFormat
	case errors.Is(err, io.EOF):
		return nil, r.damaged(errors.New("it is cut off"))
	case err != nil:
		return nil, err
	}
	return text[:len(text)-1], nil
}

// note adds a line to the digest.
func (r *Reader) note(text []byte) {
	r.digest.Write(text)
	r.digest.Write([]byte{'\n'})
}

func (r *Reader) damaged(err error) error {
	return fmt.Errorf("%w: line %d: %w", ErrDamaged, r.number, err)
}

// end compares what was read with the last line.
func (r *Reader) end(body []byte, counts map[string]int) error {
	var e end
	if err := exactly(body, &e, func() ([]byte, error) { return json.Marshal(e) }); err != nil {
		return r.damaged(err)
	}
	if e.SHA256 != hex.EncodeToString(r.digest.Sum(nil)) || !maps.Equal(e.Counts, counts) {
		return r.damaged(errors.New("the count of records or the digest is another"))
	}
	switch _, err := r.in.ReadByte(); {
	case err == nil:
		return r.damaged(errors.New("something follows its end"))
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// split takes a line apart into the name of its table and an object of the rest.
func split(text []byte) (name string, body []byte, err error) {
	rest, ok := strings.CutPrefix(string(text), `{"table":"`)
	name, rest, ok2 := strings.Cut(rest, `",`)
	if !ok || !ok2 {
		return "", nil, errors.New("the line does not begin with its table")
	}
	return name, []byte("{" + rest), nil
}

// parse reads a record, in the one form in which it is written.
func parse(name string, body []byte) (Record, error) {
	for _, table := range tables {
		if table.Name == name {
			record := table.New()
			return record, exactly(body, record, func() ([]byte, error) { return json.Marshal(record) })
		}
	}
	return nil, fmt.Errorf("the table %q is unknown", name)
}

// Sequence returns the records that read visits, until it fails or the caller has
// enough, with which visit ends it by an error.
func Sequence(read func(visit func(Record) error) error) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := read(func(r Record) error {
			if !yield(r, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// errEnough ends the reading for one who wants no more.
var errEnough = errors.New("no more records are wanted")

// exactly decodes an object and refuses it if it would be encoded otherwise: with
// members that are unknown, missing, twice or in another order.
func exactly(text []byte, into any, encode func() ([]byte, error)) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	again, err := encode()
	if err == nil && !bytes.Equal(again, text) {
		err = errors.New("the line is not in the form in which it is written")
	}
	return err
}
