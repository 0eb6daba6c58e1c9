package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrEarlier: what should tell how a store went on after a moment is older than that.
var ErrEarlier = errors.New("the later store is earlier than the backup")

// A Later reads what a store held after the moment to which it returns. It visits the
// records of a table that can be read; an error says that there may be others.
type Later func(ctx context.Context, table Table, visit func(Record) error) error

// Carried counts what a store that returns to an earlier state took over from a later
// one.
type Carried struct {
	Ended  int      // records whose end, or use, the later one knows
	Gone   int      // records that the later one had no more
	Unread []string // tables that could not be read to their end
}

// Withdraws tells of which tables a store that has carried this over takes back what
// may have ended: all, or those of which it does not know the whole if the others are
// to be kept.
func (c Carried) Withdraws(keep bool) func(table string) bool {
	return func(table string) bool { return !keep || slices.Contains(c.Unread, table) }
}

// Follow refuses a later store that is another than the one with some data keys, or
// is not later: the newest data key has a number that grows, and a count of its uses
// that does.
func (l Later) Follow(ctx context.Context, own []DataKey, opener Opener) error {
	var last, newest DataKey
	for _, key := range own {
		if err := opener.UseDataKey(key.ID, key.Wrapped); err != nil {
			return err
		}
		if key.ID >= last.ID {
			last = key
		}
	}
	err := l(ctx, tables[0], func(r Record) error {
		if key, ok := r.(*DataKey); ok && key.ID >= newest.ID {
			newest = *key
		}
		return NewReport().Look(r, opener)
	})
	if err == nil && (newest.ID < last.ID || newest.ID == last.ID && newest.Seals < last.Seals) {
		err = ErrEarlier
	}
	if err != nil {
		return fmt.Errorf("the later store: %w", err)
	}
	return nil
}
