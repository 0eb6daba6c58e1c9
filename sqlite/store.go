// Package sqlite keeps enrolments, credentials, registrations, registered keys,
// commands and audit entries in one SQLite file. It implements the stores of mef,
// maf, tef and audit; one file may serve all, though a MEF and a MAF usually have
// one each.
//
// One goroutine writes, and commits together whatever waits, so that a single
// sync of the disk serves many callers; readers run beside it on the write-ahead
// log. What was written is durable beyond the loss of power when a method
// returns. The keys in the file are sealed.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Errors of Create and Open.
var (
	// ErrForeign: the file is not a database of Muster, or its creation was interrupted.
	ErrForeign = errors.New("not a database of Muster")
	// ErrNewer: the file was written by a newer version of Muster.
	ErrNewer = errors.New("the database is of a newer version")
	// ErrInUse: another process, or another Store of this one, has the file open.
	ErrInUse = errors.New("the database is in use")
	// ErrMode: others than the owner may read or write the file.
	ErrMode = errors.New("the database's file mode is not 0600")
	// ErrClosed is returned by the methods of a Store that was closed; nothing was done.
	ErrClosed = errors.New("the store is closed")
)

// A Sealer protects the keys in the file. It knows the data keys that were put
// to use, by number. Its methods are called by many goroutines at once.
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
	// Now is the clock by which data keys grow old. nil means time.Now.
	Now func() time.Time
}

const defaultQueue = 8192

// A Store is an open database. Its methods may be called by many goroutines at
// once. A method whose context ends returns the context's error at once, while
// its work may still be done.
type Store struct {
	sealer Sealer
	now    func() time.Time

	lock     *sql.DB // holds the lock file
	writerDB *sql.DB
	readerDB *sql.DB
	write    writer
	read     readStatements
	keys     dataKeys
}

// Create makes a new database at path with mode 0600 and its first data key, and
// leaves it closed. An existing file is never touched: the error then wraps
// fs.ErrExist.
func Create(ctx context.Context, path string, sealer Sealer) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create %s: %w", path, err), os.Remove(path))
		}
	}()
	if err := file.Close(); err != nil {
		return err
	}
	if path, err = realPath(path); err != nil {
		return err
	}
	db, err := connect(path, writerPragmas())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close(), syncDir(filepath.Dir(path))) }()
	wrapped, err := sealer.NewDataKey(1)
	if err != nil {
		return err
	}
	return create(ctx, db, wrapped, time.Now())
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Open opens the database at path, which must exist, brings its schema up to
// date and unwraps its data keys with the sealer, which no other Store may use.
// A Store has its file to itself: Open fails with ErrInUse while another has it.
// An error of the sealer, such as a wrong root key, is wrapped.
func Open(ctx context.Context, path string, sealer Sealer, options Options) (*Store, error) {
	s := &Store{sealer: sealer, now: options.Now}
	if s.now == nil {
		s.now = time.Now
	}
	queue := options.Queue
	if queue == 0 {
		queue = defaultQueue
	}
	if err := s.open(ctx, path, queue); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), s.release())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, path string, queue int) error {
	path, err := realPath(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&^fs.FileMode(0o600) != 0 {
		return fmt.Errorf("%w but %v", ErrMode, mode)
	}
	if s.lock, err = lockFile(ctx, path); err != nil {
		return err
	}
	if s.writerDB, err = connect(path, writerPragmas()); err != nil {
		return err
	}
	conn, err := s.writerDB.Conn(ctx)
	if err != nil {
		return identify(err)
	}
	s.write.conn = conn
	if _, err := bringForward(ctx, conn); err != nil {
		return err
	}
	if s.readerDB, err = connect(path, readerPragmas()); err != nil {
		return err
	}
	s.readerDB.SetMaxOpenConns(readers)
	s.readerDB.SetMaxIdleConns(readers)
	if err := s.read.prepare(ctx, s.readerDB); err != nil {
		return err
	}
	if err := s.loadDataKeys(ctx, conn); err != nil {
		return err
	}
	if err := s.write.start(ctx, queue, s.keys.save, s.rotateDataKey); err != nil {
		return err
	}
	return nil
}

// realPath makes one name of the many that a file can have, so that its lock
// file is one too.
func realPath(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// Pending returns how many writes wait in the queue.
func (s *Store) Pending() int { return len(s.write.queue) }

// Ping reads from the database.
func (s *Store) Ping(ctx context.Context) error { return s.readerDB.PingContext(ctx) }

// Close lets the writes that wait finish, and closes the file. Later calls of
// methods return ErrClosed. Closing again does nothing.
func (s *Store) Close() error {
	if !s.write.stop() {
		return nil
	}
	return s.release()
}

func (s *Store) release() error {
	// A Conn that has open statements keeps its files, and a DB the Conns that
	// were taken from it.
	errs := []error{closeStatements(s.write.all()), closeStatements(s.keys.all())}
	if s.write.conn != nil {
		errs = append(errs, s.write.conn.Close())
	}
	// The writer closes last of the two, and then folds the log into the file;
	// the lock goes when the file is whole.
	for _, db := range []*sql.DB{s.readerDB, s.writerDB, s.lock} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}
