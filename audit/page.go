package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// A Place is where a page of a log begins, or for one read backwards, ends: at the
// entry with a number, and at an offset in octets in its file. The zero Place is
// the beginning, or the end, of the log. It stays good when the file is rotated.
type Place struct {
	Seq    uint64
	Offset int64
}

// maxPage bounds what is read for a page, in octets; a line has at most MaxLine.
const maxPage = 1 << 20

// ErrNoPlace is returned where the log has no such entry at the place (any more).
var ErrNoPlace = errors.New("the audit log has no entry there")

// Page returns at most limit entries of the log at path with its closed files, as
// they were written and without their ends, the oldest first; and the place of the
// entry after them, which is zero if there is none yet. A page may be shorter than
// limit.
func Page(path string, at Place, limit int) (lines []json.RawMessage, next Place, err error) {
	files, err := segments(path)
	if err != nil || len(files) == 0 {
		return nil, Place{}, err
	}
	n := 0
	if at != (Place{}) {
		n = fileOf(files, at.Seq)
	}
	lines, next, err = page(files[n], at, limit)
	if err == nil && next == (Place{}) && n+1 < len(files) {
		if next.Seq, err = firstOf(files[n+1]); errors.Is(err, io.EOF) { // it was begun, and has nothing yet
			err = nil
		}
	}
	return lines, next, err
}

// fileOf returns the index of the file with an entry: the first that does not end
// before it.
func fileOf(files []string, seq uint64) int {
	n := slices.IndexFunc(files[:len(files)-1], func(name string) bool {
		var last uint64
		_, err := fmt.Sscanf(name[len(name)-20:], "%d", &last)
		return err == nil && last >= seq
	})
	if n < 0 {
		n = len(files) - 1
	}
	return n
}

// seqOf returns the number of the entry in a line.
func seqOf(line []byte) (uint64, error) {
	var e struct{ Seq uint64 }
	if err := json.Unmarshal(line, &e); err != nil || e.Seq == 0 {
		return 0, fmt.Errorf("%w: a line is no entry", ErrBroken)
	}
	return e.Seq, nil
}

// edge returns the number of the entry in the first line of a page, which has to be
// the one of the place where the page begins, or in the first after it.
func (p Place) edge(line []byte, first bool) (uint64, error) {
	seq, err := seqOf(line)
	if first && p != (Place{}) && (err != nil || seq != p.Seq) {
		err = ErrNoPlace
	}
	return seq, err
}

// firstOf returns the number of the first entry of a file.
func firstOf(path string) (uint64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	block := make([]byte, MaxLine)
	n, err := file.ReadAt(block, 0)
	line, _, whole := bytes.Cut(block[:n], []byte("\n"))
	if !whole {
		return 0, errors.Join(io.EOF, err)
	}
	return seqOf(line)
}

// page reads forward in one file.
func page(path string, at Place, limit int) (lines []json.RawMessage, next Place, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, next, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, next, err
	}
	if at.Offset < 0 || at.Offset > info.Size() {
		return nil, next, ErrNoPlace
	}
	block := make([]byte, min(info.Size()-at.Offset, maxPage))
	n, err := file.ReadAt(block, at.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, next, err
	}
	offset := at.Offset
	for rest := block[:n]; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		switch {
		case whole:
		case offset+int64(len(rest)) < info.Size() && len(lines) > 0: // the page is full of octets
			last, err := seqOf(lines[len(lines)-1])
			return lines, Place{last + 1, offset}, err
		default: // the end, or a line that is being written
			return lines, Place{}, nil
		}
		if len(lines) == 0 || len(lines) == limit {
			seq, err := at.edge(line, len(lines) == 0)
			switch {
			case err != nil:
				return nil, next, err
			case len(lines) == limit:
				return lines, Place{seq, offset}, nil
			}
		}
		lines = append(lines, line)
		offset += int64(len(line)) + 1
		rest = after
	}
}

// PageBack returns at most limit entries, the newest first, that end with the one at
// a place: and the place of the entry before them, zero if there is none. Offset is
// that of the entry's end. A page may be shorter than limit.
func PageBack(path string, at Place, limit int) (lines []json.RawMessage, next Place, err error) {
	files, err := segments(path)
	if err != nil || len(files) == 0 {
		return nil, Place{}, err
	}
	n := len(files) - 1
	if at != (Place{}) {
		n = fileOf(files, at.Seq)
	}
	for {
		lines, next, err = pageBack(files[n], at, limit)
		if err != nil || next != (Place{}) || n == 0 {
			return lines, next, err
		}
		n, at = n-1, Place{}
		if len(lines) > 0 { // the file before is for the next page
			_, next, err = pageBack(files[n], at, 0)
			return lines, next, err
		}
	}
}

// pageBack reads backwards in one file.
func pageBack(path string, at Place, limit int) (lines []json.RawMessage, next Place, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, next, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, next, err
	}
	end := at.Offset
	if at == (Place{}) {
		end = info.Size()
	}
	if end < 0 || end > info.Size() {
		return nil, next, ErrNoPlace
	}
	block := make([]byte, min(end, maxPage))
	begin := end - int64(len(block))
	if _, err := file.ReadAt(block, begin); err != nil && !errors.Is(err, io.EOF) {
		return nil, next, err
	}
	whole := bytes.LastIndexByte(block, '\n') + 1 // what follows is being written
	if at != (Place{}) && whole != len(block) {
		return nil, next, ErrNoPlace
	}
	offset := begin + int64(whole)
	for rest := block[:whole]; len(rest) > 0; {
		start := bytes.LastIndexByte(rest[:len(rest)-1], '\n') + 1
		if start == 0 && begin > 0 && len(lines) > 0 { // the page is full of octets
			first, err := seqOf(lines[len(lines)-1])
			return lines, Place{first - 1, offset}, err
		}
		line := rest[start : len(rest)-1]
		if len(lines) == 0 || len(lines) == limit {
			seq, err := at.edge(line, len(lines) == 0)
			switch {
			case err != nil:
				return nil, next, err
			case len(lines) == limit:
				return lines, Place{seq, offset}, nil
			}
		}
		lines = append(lines, line)
		offset -= int64(len(line)) + 1
		rest = rest[:start]
	}
	return lines, Place{}, nil
}
