// Package postgres keeps enrolments, credentials, registrations, registered keys,
// commands and audit entries in a PostgreSQL database that several processes share.
// It implements mef.Store, mef.KpmStore, maf.Store, tef.Store, tef.KeyStore,
// tef.CommandStore and audit.Store, and the registers that list what they keep.
//
// A process keeps no state that matters: what one Store has written another reads
// at once, and any of them may be killed. Each event that may happen once hangs on
// one row that changes or on a unique key, never on what a process remembers.
// Writes that wait at the same time share a transaction. A transaction whose
// outcome is unknown is run again, which is why each of them is idempotent. The
// keys in the database are sealed.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Errors of Create, Migrate and Open.
var (
	// ErrExists: the schema holds a database of Muster already.
	ErrExists = errors.New("the database exists already")
	// ErrForeign: the schema holds no database of Muster.
	ErrForeign = errors.New("not a database of Muster")
	// ErrOlder: the database has to be brought forward by Migrate.
	ErrOlder = errors.New("the database is of an older version")
	// ErrNewer: the database was made by a newer version of Muster.
	ErrNewer = errors.New("the database is of a newer version")
	// ErrIrreversible: the version of the schema before cannot hold what is there, or
	// is the one that is there.
	ErrIrreversible = errors.New("the migration cannot be undone")
	// ErrUnreachable: no server answers, or the one that does is no primary.
	ErrUnreachable = errors.New("the database cannot be reached")
	// ErrSettings: the connection string asks for what would lose enrolments.
	ErrSettings = errors.New("unusable connection settings")
	// ErrClosed is returned by the methods of a Store that was closed; nothing was done.
	ErrClosed = errors.New("the store is closed")
)

// A Sealer protects the keys in the database. It knows the data keys that were
// put to use, by number. Its methods are called by many goroutines at once.
type Sealer interface {
	// NewDataKey draws a data key and returns it wrapped, not yet in use.
	NewDataKey(id uint32) (wrapped []byte, err error)
	// UseDataKey unwraps a data key that is durable.
	UseDataKey(id uint32, wrapped []byte) error
	// Seal seals the key of the record that the binding names.
	Seal(id uint32, key []byte, binding ...string) (record []byte, err error)
	// Open opens what Seal returned, for the same data key and binding alone.
	Open(id uint32, record []byte, binding ...string) (key []byte, err error)
}

// Options change what a Store does by default. The zero value is the default.
type Options struct {
	// Queue is how many writes may wait; one more is refused as busy. 0 means 8,192.
	Queue int
	// Patience bounds the time in which a write or read is tried again while the
	// database is away, before it is refused. 0 means 10 seconds.
	Patience time.Duration
	// Now is the clock by which data keys grow old. nil means time.Now.
	Now func() time.Time
}

const (
	defaultQueue    = 8192
	defaultPatience = 10 * time.Second

	// writers is the number of connections that write. Each takes the writes of
	// its share of the Enrolees.
	writers = 3
	// readers is the number of connections that read, unless the connection
	// string has pool_max_conns.
	readers = 8
)

// A Store is an open database. Its methods may be called by many goroutines at
// once. A method whose context ends returns the context's error at once, while
// its work may still be done. While the database is away or fails they return a
// muster.Refusal with CodeStoreFailed, while others are in the way one with CodeBusy:
// the call may be repeated.
type Store struct {
	sealer   Sealer
	now      func() time.Time
	patience time.Duration

	writePool *pgxpool.Pool
	readPool  *pgxpool.Pool
	away      atomic.Bool // the last attempt to reach the database failed
	keys      dataKeys
	seed      maphash.Seed // of the choice of a writer
	write     [writers]*writer
	kinds     kinds
	closed    atomic.Bool
}

// Open opens the database that a connection string names: a URL, or keywords and
// values as of libpq, in which several hosts may stand. Whatever it does not say,
// PostgreSQL's environment variables do. The database must have been made by
// Create in the current schema, and be of this version. The sealer unwraps its
// data keys; no other Store may use it. An error of the sealer, such as a wrong
// root key, is wrapped. No error tells a password.
func Open(ctx context.Context, connection string, sealer Sealer, options Options) (*Store, error) {
	s := &Store{sealer: sealer, now: options.Now, patience: options.Patience, seed: maphash.MakeSeed()}
	if s.now == nil {
		s.now = time.Now
	}
	if s.patience == 0 {
		s.patience = defaultPatience
	}
	queue := options.Queue
	if queue == 0 {
		queue = defaultQueue
	}
	if err := s.open(ctx, connection); err != nil {
		s.release()
		return nil, fmt.Errorf("open the database: %w", err)
	}
	s.kinds = s.newKinds()
	for i := range s.write {
		s.write[i] = startWriter(s, (queue+writers-1)/writers)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, connection string) error {
	config, err := parse(connection)
	if err != nil {
		return err
	}
	config.MaxConns = max(config.MaxConns, 1)
	if s.readPool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	config = config.Copy()
	config.MaxConns, config.MinConns, config.MinIdleConns = writers, 0, 0
	if s.writePool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	conn, err := s.readPool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer conn.Release()
	if err := checkVersion(ctx, conn); err != nil {
		return err
	}
	return s.loadDataKeys(ctx, conn.Conn())
}

// Pending returns how many writes wait in the queues.
func (s *Store) Pending() int {
	pending := 0
	for _, w := range s.write {
		pending += len(w.queue)
	}
	return pending
}

// Ping asks the database for an answer.
func (s *Store) Ping(ctx context.Context) error { return s.readPool.Ping(ctx) }

// Close lets the writes that wait finish, and closes the connections. Later calls
// of methods return ErrClosed. Closing again does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	for _, w := range s.write {
		w.stop()
	}
	s.release()
	return nil
}

func (s *Store) release() {
	for _, pool := range []*pgxpool.Pool{s.writePool, s.readPool} {
		if pool != nil {
			pool.Close()
		}
	}
}
