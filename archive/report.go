package archive

import (
	"fmt"
	"iter"
)

// An Opener opens what a store has sealed. It must be one that no store uses.
type Opener interface {
	// UseDataKey unwraps a data key, under its number.
	UseDataKey(id uint32, wrapped []byte) error
	// Open opens a sealed key for its data key and binding alone.
	Open(id uint32, record []byte, binding ...string) (key []byte, err error)
}

// A Report is what the check of a store found.
type Report struct {
	Schema   int // version of the engine's schema
	DataKeys int
	Sealed   int            // keys that were opened
	Rows     map[string]int // of each table but that of data keys
	Problems []string       // what is wrong, at most MaxProblems; none of them tells a key
}

// MaxProblems is how many problems a Report tells.
const MaxProblems = 100

// NewReport returns the report on a store of which nothing was read yet.
func NewReport() *Report {
	r := &Report{Rows: map[string]int{}}
	for _, table := range tables[1:] {
		r.Rows[table.Name] = 0
	}
	return r
}

// Wrong notes a problem.
func (r *Report) Wrong(format string, args ...any) {
	if len(r.Problems) < MaxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Sound reports whether nothing is wrong.
func (r *Report) Sound() bool { return len(r.Problems) == 0 }

// Look counts a record and notes what is wrong with it: its identifiers, or a key
// that does not open. An error means that a data key cannot be used, without which
// nothing can be told of the records.
func (r *Report) Look(record Record, opener Opener) error {
	sealed, err := record.open(opener)
	if record.Table() == tables[0].Name {
		r.DataKeys++
		return err
	}
	r.Rows[record.Table()]++
	if err != nil {
		r.Wrong("%v", err)
	}
	if sealed {
		r.Sealed++
	}
	return nil
}

// End notes what is wrong with a store that was read to its end.
func (r *Report) End() {
	if r.DataKeys == 0 {
		r.Wrong("there is no data key")
	}
}

// Confirm returns an error that wraps ErrDamaged if something is wrong with a store,
// or it does not have as many records of each table as were written to it.
func (r *Report) Confirm(written map[string]int) error {
	if !r.Sound() {
		return r.damaged()
	}
	for _, table := range tables {
		found := r.Rows[table.Name]
		if table.Name == tables[0].Name {
			found = r.DataKeys
		}
		if found != written[table.Name] {
			return fmt.Errorf("%w: %s has %d records, and %d were written", ErrDamaged, table.Name, found, written[table.Name])
		}
	}
	return nil
}

// Watch passes records on, and looks at each. What is wrong with one ends them, with
// an error that wraps ErrDamaged.
func (r *Report) Watch(records iter.Seq2[Record, error], opener Opener) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for record, err := range records {
			if err == nil {
				err = r.Look(record, opener)
			}
			if err == nil && !r.Sound() {
				err = r.damaged()
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(record, nil) {
				return
			}
		}
		if r.End(); !r.Sound() {
			yield(nil, r.damaged())
		}
	}
}

func (r *Report) damaged() error { return fmt.Errorf("%w: %s", ErrDamaged, r.Problems[0]) }
