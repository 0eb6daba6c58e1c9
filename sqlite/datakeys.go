package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// A data key is replaced before random nonces could repeat under it, and once a
// month, so that its destruction after its last record's expiry means something.
const (
	maxSeals      = 1 << 28
	maxDataKeyAge = 30 * 24 * time.Hour
)

// A dataKey is the newest data key, under which new records are sealed.
type dataKey struct {
	id      uint32
	created int64
	seals   atomic.Int64
	saved   int64 // of seals; used by the writer alone
}

// dataKeys knows the newest data key and counts its use. The older ones are with
// the Sealer.
type dataKeys struct {
	current atomic.Pointer[dataKey]
	count   *sql.Stmt
	stored  *sql.Stmt
	insert  *sql.Stmt
}

func (k *dataKeys) all() []statement {
	return []statement{
		{&k.count, "UPDATE data_key SET seals = ? WHERE id = ?"},
		{&k.stored, "SELECT wrapped, created FROM data_key WHERE id = ?"},
		{&k.insert, "INSERT INTO data_key (id, wrapped, created, seals) VALUES (?, ?, ?, 0)"},
	}
}

func (s *Store) loadDataKeys(ctx context.Context, conn *sql.Conn) error {
	if err := prepare(ctx, conn, s.keys.all()); err != nil {
		return err
	}
	rows, err := conn.QueryContext(ctx, "SELECT id, wrapped, created, seals FROM data_key ORDER BY id")
	if err != nil {
		return err
	}
	defer rows.Close()
	var newest *dataKey
	for rows.Next() {
		newest = new(dataKey)
		var wrapped []byte
		if err := rows.Scan(&newest.id, &wrapped, &newest.created, &newest.saved); err != nil {
			return err
		}
		newest.seals.Store(newest.saved)
		if err := s.sealer.UseDataKey(newest.id, wrapped); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if newest == nil {
		return fmt.Errorf("%w: it has no data key", ErrForeign)
	}
	s.keys.current.Store(newest)
	return nil
}

// seal seals a key under the newest data key and returns that key's number.
func (s *Store) seal(key []byte, binding ...string) (uint32, []byte, error) {
	defer clear(key)
	current := s.keys.current.Load()
	current.seals.Add(1)
	record, err := s.sealer.Seal(current.id, key, binding...)
	return current.id, record, err
}

// replaced reports, in the writer, whether a key that was sealed before its turn
// came must be sealed again: under an older data key no new record begins, so that
// it can be forgotten when it has none.
func (s *Store) replaced(dataKey uint32) bool { return dataKey != s.keys.current.Load().id }

// unseal opens what a row holds. A row whose key was erased has neither number
// nor record, and unsealing it yields nil.
func (s *Store) unseal(id *uint32, record []byte, binding ...string) ([]byte, error) {
	if id == nil {
		return nil, nil
	}
	key, err := s.sealer.Open(*id, record, binding...)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", binding[0], binding[2], err)
	}
	return key, nil
}

// save counts the seals since the last batch, in the batch's transaction. Should
// that fail, the next batch counts them.
func (k *dataKeys) save() error {
	current := k.current.Load()
	seals := current.seals.Load()
	if seals == current.saved {
		return nil
	}
	n, err := changed(k.count.Exec(seals, current.id))
	if err == nil && n != 1 {
		err = fmt.Errorf("data key %d is gone", current.id)
	}
	if err == nil {
		current.saved = seals
	}
	return err
}

// rotateDataKey makes a new data key when the newest has done its share. It runs
// in the writer, between batches.
func (s *Store) rotateDataKey() error {
	current := s.keys.current.Load()
	age := time.Duration(s.now().Unix()-current.created) * time.Second
	// A key from far in the future was made by a clock that has been set back since.
	if current.seals.Load() < maxSeals && age.Abs() < maxDataKeyAge {
		return nil
	}
	next := &dataKey{id: current.id + 1, created: s.now().Unix()}
	wrapped, err := s.insertDataKey(next)
	if err == nil {
		err = s.sealer.UseDataKey(next.id, wrapped)
	}
	if err != nil {
		return fmt.Errorf("replace data key %d: %w", current.id, err)
	}
	s.keys.current.Store(next)
	return nil
}

// insertDataKey makes a data key durable and returns it wrapped. If an earlier
// attempt did so and failed later, or was told of a failure that was none, its key
// is the one.
func (s *Store) insertDataKey(next *dataKey) (wrapped []byte, err error) {
	if wrapped, err = s.sealer.NewDataKey(next.id); err != nil {
		return nil, err
	}
	err = s.write.transaction(func() error {
		err := s.keys.stored.QueryRow(next.id).Scan(&wrapped, &next.created)
		if errors.Is(err, sql.ErrNoRows) {
			_, err = s.keys.insert.Exec(next.id, wrapped, next.created)
		}
		return errors.Join(err, s.keys.save())
	})
	return wrapped, err
}
