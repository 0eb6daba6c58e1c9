package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	lib "modernc.org/sqlite/lib"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/sqlite"
)

// putCredential keeps a credential that reads can ask for.
func putCredential(t testing.TB, store *sqlite.Store) maf.Credential {
	t.Helper()
	e := enrolment(t, -1)
	km, err := e.Ke.MasterCredential(muster.ProfileMasterCredential, e.Targets[0])
	if err != nil {
		t.Fatal(err)
	}
	c := maf.Credential{
		KmID: km.KmID(e.Targets[0]), KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: e.Targets[0], Km: km,
		Created: e.Created, Expires: e.Expires, KeIDUntil: e.Expires,
	}
	if err := store.PutCredential(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func wantRead(t testing.TB, store *sqlite.Store, c maf.Credential) {
	t.Helper()
	if got, err := store.CredentialByKmID(t.Context(), c.KmID, c.Created); err != nil || !got.Km.Equal(c.Km) {
		t.Errorf("a read beside failing writes: %v", err)
	}
}

// hardship is a time in which the disk fails in one way.
type hardship struct {
	fault func(op diskOp, chance *rand.Rand) int32
	// always says that no write passes meanwhile.
	always bool
}

func hardships() map[string]hardship {
	return map[string]hardship{
		"a full disk": {func(op diskOp, _ *rand.Rand) int32 {
			if op.kind == opWrite {
				return lib.SQLITE_FULL
			}
			return lib.SQLITE_OK
		}, true},
		"a disk that is full now and then": {func(op diskOp, chance *rand.Rand) int32 {
			if op.kind == opWrite && chance.IntN(8) == 0 {
				return lib.SQLITE_FULL
			}
			return lib.SQLITE_OK
		}, false},
		"a read-only disk": {func(op diskOp, _ *rand.Rand) int32 {
			if op.kind == opSync {
				return lib.SQLITE_OK
			}
			return lib.SQLITE_IOERR_WRITE
		}, true},
		"syncs that fail": {func(op diskOp, _ *rand.Rand) int32 {
			if op.kind == opSync {
				return lib.SQLITE_IOERR_FSYNC
			}
			return lib.SQLITE_OK
		}, true},
		"syncs that fail now and then": {func(op diskOp, chance *rand.Rand) int32 {
			if op.kind == opSync && chance.IntN(3) == 0 {
				return lib.SQLITE_IOERR_FSYNC
			}
			return lib.SQLITE_OK
		}, false},
		"checkpoints that fail": {func(op diskOp, _ *rand.Rand) int32 {
			if strings.HasSuffix(op.file, "-wal") {
				return lib.SQLITE_OK
			}
			return lib.SQLITE_IOERR
		}, false},
	}
}

// While a disk fails, writes are refused with a code or acknowledged truly, and
// reads go on; when it is well again, writes resume without a restart. A crash
// afterwards loses nothing.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	for what, h := range hardships() {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := create(t)
			d := newDisk(t, filepath.Dir(path))
			store := openAt(t, path)
			if err := store.Pragma(t.Context(), "wal_autocheckpoint = 40"); err != nil {
				t.Fatal(err)
			}
			l, credential := newLedger(), putCredential(t, store)
			for round := range long(t, 3) {
				chance := rand.New(rand.NewPCG(uint64(round), 1))
				hits := 0
				d.fail(func(op diskOp) int32 {
					result := h.fault(op, chance)
					if result != lib.SQLITE_OK {
						hits++
					}
					return result
				})
				failed := endure(t, l, store, round*100, 60)
				wantRead(t, store, credential)
				d.fail(nil)
				if hits == 0 || h.always && failed != 60 {
					t.Errorf("%d of 60 writes failed by %d faults", failed, hits)
				}
				if failed := endure(t, l, store, round*100+60, 40); failed > 0 {
					t.Errorf("%d writes failed on a disk that is well again", failed)
				}
			}
			l.reconcile(t, crashed(t, path))
		})
	}
}

// endure has 8 goroutines enrol n devices, and returns how many failed.
func endure(t *testing.T, l *ledger, store *sqlite.Store, first, n int) int {
	t.Helper()
	var all sync.WaitGroup
	failed := make(chan error, n)
	for g := range 8 {
		all.Go(func() {
			for i := g; i < n; i += 8 {
				if err := l.enrol(t, store, first+i); err != nil {
					failed <- err
				}
			}
		})
	}
	all.Wait()
	close(failed)
	count := 0
	for err := range failed {
		count++
		wantStoreFailed(t, err)
	}
	return count
}

// crashed copies the files of an idle store as a crash would leave them, and
// returns the path of the copy.
func crashed(t testing.TB, path string) string {
	t.Helper()
	folder := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		octets, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(path)+suffix), octets, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(folder, filepath.Base(path))
}

// A disk that takes its time makes writers wait together, never wrong: a caller
// that gives up learns from its next try what became of the first.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	path := create(t)
	d := newDisk(t, filepath.Dir(path))
	store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{Queue: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	l, credential := newLedger(), putCredential(t, store)
	d.fail(func(op diskOp) int32 {
		if op.kind == opSync {
			time.Sleep(20 * time.Millisecond)
		}
		return lib.SQLITE_OK
	})
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			for n := g; n < long(t, 256); n += 64 {
				patience, cancel := context.WithTimeout(t.Context(), time.Duration(n%40)*time.Millisecond)
				_, err := store.CreateEnrolment(patience, enrolment(t, n), 10)
				cancel()
				if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, mef.ErrBusy) {
					t.Errorf("enrolment %d: %v", n, err)
				}
				for err = l.enrol(t, store, n); errors.Is(err, mef.ErrBusy); err = l.enrol(t, store, n) {
					time.Sleep(time.Millisecond)
				}
				if err != nil {
					t.Errorf("enrolment %d: %v", n, err)
				}
			}
		})
	}
	wantRead(t, store, credential)
	all.Wait()
	if len(l.acknowledged) != long(t, 256) {
		t.Errorf("%d enrolled", len(l.acknowledged))
	}
	l.reconcile(t, crashed(t, path))
}

// A log with a torn end gives back what was acknowledged before the end; a log
// that lost octets of what was synced gives back a beginning of it, without
// holes. Neither keeps a store from opening.
func TestTruncatedLog(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	l := newLedger()
	const enrolments = 60
	for n := range enrolments {
		if err := l.enrol(t, store, n); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	for range long(t, 10) {
		torn := crashed(t, path)
		log, err := os.OpenFile(torn+"-wal", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.CopyN(log, zeros{}, rand.Int64N(10_000))
		if err := errors.Join(err, log.Close()); err != nil {
			t.Fatal(err)
		}
		l.reconcile(t, torn)

		short := crashed(t, path)
		if err := os.Truncate(short+"-wal", rand.Int64N(whole.Size())); err != nil {
			t.Fatal(err)
		}
		store, err := sqlite.Open(t.Context(), short, sealer(t), sqlite.Options{})
		if errors.Is(err, sqlite.ErrForeign) {
			continue // not even its creation is left
		} else if err != nil {
			t.Fatal(err)
		}
		b, err := l.count(short)
		if err != nil || b.doubled != 0 {
			t.Errorf("a shortened log: %v, %v", b, err)
		}
		for n := range b.present {
			wantWhole(t, store, n)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A clock that jumps harms no record, and a far jump makes one new data key.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	path := create(t)
	var mu sync.Mutex
	ahead := time.Duration(0)
	now := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Add(ahead)
	}
	store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	const year = 365 * 24 * time.Hour
	jumps := []time.Duration{0, 10 * year, 0, -10 * year, time.Hour, -50 * year, 0, 80 * year, 0}
	for round, jump := range jumps {
		mu.Lock()
		ahead = jump
		mu.Unlock()
		for n := range 10 {
			if err := l.enrol(t, store, 10*round+n); err != nil {
				t.Errorf("the clock at %v: %v", jump, err)
			}
		}
		// What a sweep finds due by a clock that is behind is nothing.
		if jump < 0 {
			if swept, err := store.Sweep(t.Context(), now(), time.Hour, time.Hour, 1000); err != nil || swept != 0 {
				t.Errorf("the clock at %v: swept %d, %v", jump, swept, err)
			}
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	l.reconcile(t, path)
	if n := dataKeysAt(t, path); n != len(jumps) {
		t.Errorf("%d data keys after %d far jumps", n, len(jumps)-1)
	}
}

func dataKeysAt(t testing.TB, path string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM data_key").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
