package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"muster"
	"muster/console"
)

// A record is an instruction of a list, and the line where it begins, from 1.
type record struct {
	console.Instruction
	line int
}

// A lineFault is what is wrong with a line.
type lineFault struct {
	Line   int         `json:"line"`
	Code   muster.Code `json:"code"`
	Detail string      `json:"detail"`
}

// maxLineFaults is how many faults of one list are told.
const maxLineFaults = 100

// A recordList is a list of instructions in the reading.
type recordList struct {
	records []record
	wrong   []lineFault
	seen    map[string]int // lines, by the identifier of the instruction
}

// parseRecords reads a list as CSV or as JSON lines, and finds all that is wrong
// with it by itself, up to maxLineFaults faults.
func parseRecords(format string, octets []byte) (records []record, wrong []lineFault) {
	list := &recordList{seen: map[string]int{}}
	octets = bytes.TrimPrefix(octets, []byte("\uFEFF"))
	if format == formatCSV {
		list.readCSV(octets)
	} else {
		list.readLines(octets)
	}
	return list.records, list.wrong
}

// The formats of lists.
const (
	formatCSV   = "csv"
	formatLines = "jsonl"
)

// formatOf returns the format of a file by the end of its name, or that which is given.
func formatOf(path, given string) (string, error) {
	format := strings.TrimPrefix(filepath.Ext(path), ".")
	override(&format, given)
	switch format {
	case formatCSV, formatLines:
		return format, nil
	case "ndjson":
		return formatLines, nil
	}
	return "", muster.Refuse(muster.CodeUsage, "is %s CSV or JSON lines? --format csv or jsonl says so", path)
}

func (l *recordList) full() bool { return len(l.wrong) >= maxLineFaults }

func (l *recordList) fault(line int, format string, args ...any) {
	if !l.full() {
		l.wrong = append(l.wrong, lineFault{line, muster.CodeConfiguration, printable(fmt.Sprintf(format, args...))})
	}
}

// add adds an instruction, unless one for the same certificates or keys is there.
func (l *recordList) add(line int, in console.Instruction) {
	id := in.Identified().ID
	if before, twice := l.seen[id]; twice {
		l.fault(line, "it is for the same certificates or keys as line %d", before)
		return
	}
	l.seen[id] = line
	l.records = append(l.records, record{in, line})
}

// readLines reads JSON lines. Empty ones are left out.
func (l *recordList) readLines(octets []byte) {
	number := 0
	for line := range bytes.Lines(octets) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		var in console.Instruction
		var err error
		switch {
		case !utf8.Valid(line):
			err = errors.New("it is not UTF-8")
		case line[0] != '{':
			err = errors.New("it is not a JSON object")
		default:
			err = strictly(line, &in)
		}
		if err != nil {
			l.fault(number, "%v", err)
		} else {
			l.add(number, in)
		}
		if l.full() {
			return
		}
	}
}

// readCSV reads CSV whose first line names the members. Lists have semicolons.
func (l *recordList) readCSV(octets []byte) {
	reader := csv.NewReader(bytes.NewReader(octets))
	var columns []int // fields of an instruction
	for !l.full() {
		cells, err := reader.Read()
		if err == io.EOF {
			break
		}
		if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
			l.fault(wrong.StartLine, "%v", wrong.Err)
			if columns == nil {
				return // without a head, nothing below has a meaning
			}
			continue
		}
		line, _ := reader.FieldPos(0)
		if columns == nil {
			if columns = l.readHead(line, cells); len(l.wrong) > 0 {
				return
			}
			continue
		}
		in, ok := console.Instruction{}, true
		for i, cell := range cells {
			if !utf8.ValidString(cell) {
				l.fault(line, "column %d is not UTF-8", i+1)
				ok = false
			}
			setMember(reflect.ValueOf(&in).Elem().Field(columns[i]), strings.TrimSpace(cell))
		}
		if ok {
			l.add(line, in)
		}
	}
	if columns == nil && len(l.wrong) == 0 {
		l.fault(1, "there is no head with the names of the columns, which are some of %s", strings.Join(instructionMembers(), ","))
	}
}

// readHead returns the field of an instruction for each column.
func (l *recordList) readHead(line int, cells []string) []int {
	members := instructionMembers()
	columns := make([]int, len(cells))
	for i, cell := range cells {
		cell = strings.TrimSpace(cell)
		columns[i] = slices.Index(members, cell)
		switch {
		case columns[i] < 0:
			l.fault(line, "there is no column %q; the nearest is %q", cell, nearest(cell, members))
		case slices.Contains(columns[:i], columns[i]):
			l.fault(line, "the column %q stands twice", cell)
		}
	}
	return columns
}

// instructionMembers returns the members of an instruction in the order of its fields.
func instructionMembers() (names []string) {
	for field := range reflect.TypeFor[console.Instruction]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// setMember sets a text, or a list with semicolons in which empty items do not count.
func setMember(field reflect.Value, text string) {
	if field.Kind() == reflect.String {
		field.SetString(text)
		return
	}
	for one := range strings.SplitSeq(text, ";") {
		if one = strings.TrimSpace(one); one != "" {
			field.Set(reflect.Append(field, reflect.ValueOf(one)))
		}
	}
}
