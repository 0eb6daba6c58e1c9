package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// segmentName is the name of a file that rotation has closed: its last entry's
// number has twenty digits, so that names sort as entries do.
const segmentName = "%s.%020d"

// segments returns the files of the log at path that exist, the oldest first.
func segments(path string) ([]string, error) {
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, f := range files {
		var last uint64
		name := filepath.Join(filepath.Dir(path), f.Name())
		if len(name) == len(path)+21 && name[:len(path)] == path {
			if _, err := fmt.Sscanf(name[len(path)+1:], "%d", &last); err == nil && name == fmt.Sprintf(segmentName, path, last) {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	if _, err := os.Stat(path); err == nil {
		all = append(all, path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return all, nil
}

// Verify reads the log at path with its closed files, and gives each entry to
// visit, which may be nil. The chain has to begin after from: the zero Head, or the
// end of what was archived. It has to contain pinned, unless that is zero. Verify
// returns the end of the chain; an error that wraps ErrBroken names the first
// entry that is not what was written.
func Verify(path string, from, pinned Head, visit func(Entry)) (Head, error) {
	files, err := segments(path)
	if err != nil {
		return from, err
	}
	chain := Begin(from, pinned)
	for _, file := range files {
		_, err = verifyFile(file, chain.Head, func(e Entry, at Head) {
			chain.pass(at)
			if visit != nil {
				visit(e)
			}
		})
		if err != nil {
			return chain.Head, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return chain.Head, chain.End()
}

// A Chain is the entries of a log that were followed, wherever they are read.
type Chain struct {
	Head   Head // the last entry so far
	pinned Head
	seen   bool
}

// Begin returns the chain after from: the zero Head, or the end of what was archived.
// It has to contain pinned, unless that is zero.
func Begin(from, pinned Head) Chain { return Chain{from, pinned, pinned == Head{} || pinned == from} }

// Follow adds the entry in a line, without its end. An error that wraps ErrBroken
// says that it is not the one that comes next.
func (c *Chain) Follow(line []byte) (Entry, error) {
	e, next, err := c.Head.Follow(line)
	if err == nil {
		c.pass(next)
	}
	return e, err
}

func (c *Chain) pass(next Head) {
	c.Head = next
	c.seen = c.seen || next == c.pinned
}

// End returns an error that wraps ErrBroken if the chain lacks what it has to contain.
func (c *Chain) End() error {
	if !c.seen {
		return fmt.Errorf("%w: it ends with %d and does not contain %s", ErrBroken, c.Head.Seq, c.pinned)
	}
	return nil
}

func verifyFile(path string, head Head, visit func(Entry, Head)) (Head, error) {
	file, err := os.Open(path)
	if err != nil {
		return head, err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewReaderSize(file, MaxLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == io.EOF && len(line) == 0:
			return head, nil
		case err == io.EOF || errors.Is(err, bufio.ErrBufferFull):
			return head, fmt.Errorf("%w: after entry %d comes a line without end", ErrBroken, head.Seq)
		case err != nil:
			return head, err
		}
		e, next, err := head.Follow(line[:len(line)-1])
		if err != nil {
			return head, err
		}
		head = next
		visit(e, head)
	}
}

// beginning returns the head that the first entry of a file follows: head, unless
// that is zero, as where older files were archived, or the file is empty.
func beginning(path string, head Head) (Head, error) {
	if (head != Head{}) {
		return head, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return head, err
	}
	defer func() { _ = file.Close() }()
	line, err := bufio.NewReaderSize(file, MaxLine).ReadSlice('\n')
	if err == io.EOF && len(line) == 0 {
		return head, nil
	} else if err != nil {
		return head, fmt.Errorf("%w: %s begins without an entry: %v", ErrBroken, filepath.Base(path), err)
	}
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil || e.Seq == 0 {
		return head, fmt.Errorf("%w: %s begins without an entry", ErrBroken, filepath.Base(path))
	}
	return ParseHead(fmt.Sprintf("%d:%s", e.Seq-1, e.Prev))
}
