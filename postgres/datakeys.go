package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"muster"
)

// A data key is replaced before random nonces could repeat under it, and once a
// month, so that its destruction after its last record's expiry means something.
const (
	maxSeals      = 1 << 28
	maxDataKeyAge = 30 * 24 * time.Hour
	// reserved is how many seals a Store takes from a data key's account at a
	// time. What it does not use before it ends is lost, which is no matter.
	reserved = 1 << 16
)

// dataKeys shares the newest data key with the other Stores of the database. Each
// of them books seals in advance on the key's row, so that their sum never passes
// the maximum, whoever dies when. The older keys are with the Sealer.
type dataKeys struct {
	mu      sync.Mutex
	id      uint32 // the data key in use; 0 before the first booking
	left    int    // seals that are booked and not used
	created int64

	known sync.Map // of the numbers that the sealer knows
}

const (
	selectDataKeys = "SELECT id, wrapped FROM data_key ORDER BY id"
	selectDataKey  = "SELECT id, wrapped FROM data_key WHERE id = $1"
)

// loadDataKeys gives every data key to the sealer.
func (s *Store) loadDataKeys(ctx context.Context, conn *pgx.Conn) error {
	n, err := s.learn(ctx, conn, selectDataKeys)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: it has no data key", ErrForeign)
	}
	return err
}

// learn gives the data keys of a query to the sealer and returns their number.
func (s *Store) learn(ctx context.Context, conn interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}, query string, args ...any) (int, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	n := 0
	var id uint32
	var wrapped []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &wrapped}, func() error {
		n++
		if err := s.sealer.UseDataKey(id, wrapped); err != nil {
			return muster.Refuse(muster.CodeStoreFailed, "%w", err)
		}
		s.keys.known.Store(id, true)
		return nil
	})
	return n, err
}

// dataKey returns the number of a data key under which n records may be sealed.
func (s *Store) dataKey(ctx context.Context, conn *pgx.Conn, n int) (uint32, error) {
	k := &s.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	for try := 1; k.left < n || s.tooOld(k.created); try++ {
		if try > maxTries {
			return 0, errors.New("no data key could be booked")
		}
		if err := s.book(ctx, conn); err != nil {
			return 0, err
		}
	}
	k.left -= n
	return k.id, nil
}

// newestDataKey returns the number of the database's newest data key, whose place
// a new one takes if it is too old, and books under no other from now on.
func (s *Store) newestDataKey(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	var newest uint32
	if err := conn.QueryRow(ctx, "SELECT max(id) FROM data_key").Scan(&newest); err != nil {
		return 0, err
	}
	s.keys.drop(func(booked uint32) bool { return booked != newest })
	return s.dataKey(ctx, conn, 0)
}

// drop gives a booking up, if it is under a data key that is not wanted any more.
func (k *dataKeys) drop(unwanted func(id uint32) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if unwanted(k.id) {
		k.left, k.created = 0, 0 // too old for everything
	}
}

// holdDataKey keeps a data key from being forgotten before the transaction ends,
// and reports whether it is the newest. It finds nothing if that is forgotten.
const holdDataKey = `SELECT NOT EXISTS (SELECT 1 FROM data_key AS n WHERE n.id > k.id)
	FROM data_key AS k WHERE k.id = $1 FOR KEY SHARE OF k`

// hold queues holdDataKey for a data key under which the statements that follow
// store records, unless it is forgotten.
func (s *Store) hold(t *transaction, dataKey uint32) {
	t.queue(holdDataKey, dataKey).Query(func(rows pgx.Rows) error {
		_, err := s.held(dataKey, rows)
		return err
	})
}

// holdAtOnce is hold in a transaction that goes on only if the data key is there;
// otherwise another one is to be booked.
func (s *Store) holdAtOnce(ctx context.Context, tx pgx.Tx, dataKey uint32) error {
	rows, err := tx.Query(ctx, holdDataKey, dataKey)
	if err != nil {
		return err
	}
	found, err := s.held(dataKey, rows)
	if err == nil && !found {
		err = errLostRace
	}
	return err
}

// held reads the answer to holdDataKey: whether the data key is there. The booking
// of one that is not the newest is given up.
func (s *Store) held(dataKey uint32, rows pgx.Rows) (found bool, err error) {
	var newest bool
	_, err = pgx.ForEachRow(rows, []any{&newest}, func() error { found = true; return nil })
	if err == nil && !newest {
		s.keys.drop(func(booked uint32) bool { return booked == dataKey })
	}
	return found, err
}

func (s *Store) tooOld(created int64) bool {
	return time.Duration(s.now().Unix()-created)*time.Second >= maxDataKeyAge
}

// book takes seals from the newest data key, or adds a data key when that one has
// done its share. Of several Stores that add the next key at once one succeeds,
// and all use its key.
func (s *Store) book(ctx context.Context, conn *pgx.Conn) error {
	var id uint32
	var created, seals int64
	err := conn.QueryRow(ctx, "SELECT id, created, seals FROM data_key ORDER BY id DESC LIMIT 1").Scan(&id, &created, &seals)
	if err != nil {
		return err
	}
	if seals+reserved > maxSeals || s.tooOld(created) {
		return s.addDataKey(ctx, conn, id)
	}
	if _, known := s.keys.known.Load(id); !known {
		if _, err := s.learn(ctx, conn, selectDataKey, id); err != nil {
			return err
		}
	}
	tag, err := conn.Exec(ctx, "UPDATE data_key SET seals = seals + $2 WHERE id = $1 AND seals <= $3", id, reserved, maxSeals-reserved)
	if err == nil && tag.RowsAffected() == 1 {
		s.keys.id, s.keys.left, s.keys.created = id, reserved, created
	}
	return err
}

// addDataKey adds the data key after the one that is the newest, unless another
// Store has. It is wrapped as that one is: see RewrapDataKeys, which this keeps
// waiting, or waits for. A Store whose root key is not the database's adds none.
func (s *Store) addDataKey(ctx context.Context, conn *pgx.Conn, newest uint32) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT 1 FROM muster_schema WHERE one = 1 FOR SHARE"); err != nil {
			return err
		}
		if _, err := s.learn(ctx, tx, selectDataKey, newest); err != nil {
			return err
		}
		wrapped, err := s.sealer.NewDataKey(newest + 1)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO data_key (id, wrapped, created, seals) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING",
			newest+1, wrapped, s.now().Unix())
		return err
	})
}

// RewrapDataKeys wraps every data key of a database anew by the first root key of
// the sealer, in one transaction, and returns their number. Stores may have the
// database open: what they have unwrapped stays good, and no data key is added
// meanwhile. Those that do not have the new root key go on until a data key is added,
// by whomever, and from then on refuse what needs it with CodeStoreFailed.
func RewrapDataKeys(ctx context.Context, connection string, sealer interface {
	Rewrap(id uint32, wrapped []byte) ([]byte, error)
}) (n int, err error) {
	conn, err := connectOnce(ctx, connection)
	if err == nil {
		defer conn.Close(context.WithoutCancel(ctx))
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			n, err = rewrap(ctx, tx, sealer.Rewrap)
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("wrap the data keys: %w", err)
	}
	return n, nil
}

func rewrap(ctx context.Context, tx pgx.Tx, anew func(id uint32, wrapped []byte) ([]byte, error)) (int, error) {
	if err := checkVersion(ctx, tx); err != nil {
		return 0, err
	}
	// The statements after this one see what those have added that held the row.
	if _, err := tx.Exec(ctx, "SELECT 1 FROM muster_schema WHERE one = 1 FOR UPDATE"); err != nil {
		return 0, err
	}
	rows, err := tx.Query(ctx, selectDataKeys)
	if err != nil {
		return 0, err
	}
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByPos[wrappedDataKey])
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		wrapped, err := anew(key.ID, key.Wrapped)
		if err != nil {
			return 0, err
		}
		if _, err := tx.Exec(ctx, "UPDATE data_key SET wrapped = $2 WHERE id = $1", key.ID, wrapped); err != nil {
			return 0, err
		}
	}
	return len(keys), nil
}

type wrappedDataKey struct {
	ID      uint32
	Wrapped []byte
}

// A record is a sealed key as a row holds it: both parts or none.
type record struct {
	dataKey *uint32
	sealed  []byte
}

// sealKey seals a key, which it clears, under a data key.
func (s *Store) sealKey(dataKey uint32, key []byte, binding ...string) (record, error) {
	defer clear(key)
	sealed, err := s.sealer.Seal(dataKey, key, binding...)
	return record{&dataKey, sealed}, err
}

// learnKeys makes sure that the sealer knows the data keys of some records, which
// another Store may have made since this one was opened.
func (s *Store) learnKeys(ctx context.Context, conn *pgx.Conn, records ...record) error {
	for _, r := range records {
		if r.dataKey == nil {
			continue
		}
		if _, known := s.keys.known.Load(*r.dataKey); known {
			continue
		}
		if _, err := s.learn(ctx, conn, selectDataKey, *r.dataKey); err != nil {
			return err
		}
	}
	return nil
}

// unseal opens what a row holds. A row whose key was erased has neither number
// nor record, and unsealing it yields nil.
func (s *Store) unseal(r record, binding ...string) ([]byte, error) {
	if r.dataKey == nil {
		return nil, nil
	}
	key, err := s.sealer.Open(*r.dataKey, r.sealed, binding...)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", binding[0], binding[2], err)
	}
	return key, nil
}
