package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// readers is the number of connections that only read. Lookups take some 10 µs,
// so a few serve many goroutines.
const readers = 4

// Sizes are in KiB and negative, as the pragma wants them. The log is folded
// into the file every 4,000 pages (16 MiB): more often costs syncs, less often
// a longer log to search. secure_delete overwrites what is erased.
//
// A page in the cache, 4 KiB and what SQLite knows of it, takes 8 KiB of memory: the
// allocator of this SQLite gives powers of two.
func writerPragmas() []string {
	return []string{
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)", "secure_delete(ON)",
		"temp_store(MEMORY)", "wal_autocheckpoint(4000)", "cache_size(-131072)", "trusted_schema(OFF)",
	}
}

// A reader keeps the inner pages of all indexes at 10^7 rows, so that a lookup reads
// one page of an index and one of the table: 1.9 reads, and 2.8 with 16 MiB.
func readerPragmas() []string {
	return []string{"busy_timeout(5000)", "query_only(ON)", "temp_store(MEMORY)", "cache_size(-65536)", "trusted_schema(OFF)"}
}

// connect returns a pool of connections to an existing file: mode=rw never
// creates one. No connection is made yet.
func connect(path string, pragmas []string) (*sql.DB, error) {
	query := url.Values{"mode": {"rw"}, "_pragma": pragmas, "_dqs": {"0"}, "_defensive": {"1"}, "_error_rc": {"1"}}
	// Opaque, for the first part of a path that is relative would be taken for a host.
	name := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}
	connector, err := driver.NewConnector(name.String())
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// lockFile takes the lock on a database that keeps other processes and Stores
// off it: they would not learn of a new data key, and their group commits would
// wait for each other. It is an exclusive transaction on an empty database beside
// the real one, for SQLite knows how to lock a file on each system and the
// lock ends with the process. The file itself remains, empty.
func lockFile(ctx context.Context, path string) (*sql.DB, error) {
	path += "-lock"
	// Only a new file is opened here: to close a file that SQLite has open in this
	// process would, by the rules of POSIX, drop SQLite's locks on it.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = file.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	db, err := connect(path, []string{"busy_timeout(0)"})
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
		if code(err) == lib.SQLITE_BUSY {
			err = fmt.Errorf("%w by another process or Store", ErrInUse)
		}
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// code returns the primary result code of an error of SQLite, and 0 for another error.
func code(err error) int {
	if e, ok := errors.AsType[*driver.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// identify names the errors by which SQLite refuses a file at its first use.
func identify(err error) error {
	if code(err) == lib.SQLITE_NOTADB {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return err
}
