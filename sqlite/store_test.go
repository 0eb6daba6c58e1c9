package sqlite_test

import (
	"crypto/rand"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"muster/mustertest"
	"muster/seal"
	"muster/sqlite"
)

func sealer(t testing.TB) *seal.Sealer {
	t.Helper()
	root, err := seal.NewRoot(make([]byte, seal.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	return seal.New(root, rand.Reader)
}

// create makes a database in a temporary folder and returns its path.
func create(t testing.TB) string {
	t.Helper()
	return createIn(t, t.TempDir())
}

func createIn(t testing.TB, folder string) string {
	t.Helper()
	path := filepath.Join(folder, "muster.db")
	if err := sqlite.Create(t.Context(), path, sealer(t)); err != nil {
		t.Fatal(err)
	}
	return path
}

func openAt(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return store
}

func open(t testing.TB) (*sqlite.Store, func() *sqlite.Store) {
	path := create(t)
	store := openAt(t, path)
	return store, func() *sqlite.Store {
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		return openAt(t, path)
	}
}

func TestMEFStore(t *testing.T) { mustertest.MEFStore(t, open) }
func TestKpmStore(t *testing.T) { mustertest.KpmStore(t, open) }
func TestMAFStore(t *testing.T) { mustertest.MAFStore(t, open) }
func TestTEFStore(t *testing.T) { mustertest.TEFStore(t, open) }

func TestKeyStore(t *testing.T)     { mustertest.KeyStore(t, open) }
func TestCommandStore(t *testing.T) { mustertest.CommandStore(t, open) }
func TestAuditStore(t *testing.T)   { mustertest.AuditStore(t, open) }
func TestRegisters(t *testing.T)    { mustertest.Registers(t, open) }

func TestSealedStore(t *testing.T) {
	mustertest.SealedStore(t, func(t testing.TB) (*sqlite.Store, func() *sqlite.Store, func(string) string) {
		path := create(t)
		store := openAt(t, path)
		reopen := func() *sqlite.Store {
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			store = openAt(t, path)
			return store
		}
		return store, reopen, func(statement string) string { return query(t, path, statement) }
	})
}

// query runs a statement on a database, which may be open, and returns the first
// value of the answer.
func query(t testing.TB, path, statement string) (answer string) {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(statement).Scan(&answer); err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.Fatal(err)
	}
	return answer
}
