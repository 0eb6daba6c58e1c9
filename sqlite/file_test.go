package sqlite_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/seal"
	"muster/sqlite"
	"muster/tef"
)

func enrolment(t testing.TB, n int) mef.Enrolment {
	t.Helper()
	digest := sha256.Sum256([]byte(strconv.Itoa(n)))
	issuer, err1 := muster.ParseFQDN("mef.example.org")
	target, err2 := muster.ParseFQDN("maf.example.org")
	enrolee, err3 := muster.ParseEnroleeID("//sp.example.org/device" + strconv.Itoa(n))
	key := sha256.Sum256(digest[:])
	ke, err4 := muster.NewKe(key[:])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	return mef.Enrolment{
		KeID: muster.NewKeID([muster.RelativeSize]byte(digest[8:]), issuer), EnroleeID: enrolee, Targets: []muster.FQDN{target},
		Session: digest, Certificate: digest, Ke: ke, Created: now, Expires: now.Add(24 * time.Hour),
	}
}

func fetch(ctx context.Context, store *sqlite.Store, e mef.Enrolment) (mef.Enrolment, error) {
	return store.FetchEnrolment(ctx, mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Window: time.Hour, Max: 1 << 30})
}

func mustCreate(t testing.TB, store *sqlite.Store, e mef.Enrolment) {
	t.Helper()
	if _, err := store.CreateEnrolment(t.Context(), e, 10); err != nil {
		t.Fatal(err)
	}
}

// withOne returns the file of a store that was closed with one enrolment in it.
func withOne(t testing.TB) (path string) {
	t.Helper()
	path = create(t)
	store := openAt(t, path)
	mustCreate(t, store, enrolment(t, 1))
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// edit changes a closed database behind the back of its store.
func edit(t *testing.T, path, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result, err := db.Exec(statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s changed %d rows, %v", statement, n, err)
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	mustCreate(t, store, enrolment(t, 1))
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 3 {
		t.Fatalf("the files are %v, %v", files, err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", file, info.Mode(), err)
		}
	}
	if err := sqlite.Create(t.Context(), path, sealer(t)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating over a database: %v, want ErrExist", err)
	}
	if _, err := fetch(t.Context(), store, enrolment(t, 1)); err != nil {
		t.Errorf("after creating over the database: %v", err)
	}
	absent := filepath.Join(t.TempDir(), "no", "folder.db")
	if err := sqlite.Create(t.Context(), absent, sealer(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("creating in no folder: %v, want ErrNotExist", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	write := func(octets []byte) string {
		path := filepath.Join(t.TempDir(), "some.db")
		if err := os.WriteFile(path, octets, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	changed := func(statement string) string {
		path := create(t)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
		return path
	}
	readable := create(t)
	if err := os.Chmod(readable, 0o640); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		path string
		want error
	}{
		"no file":              {filepath.Join(t.TempDir(), "absent.db"), fs.ErrNotExist},
		"an empty file":        {write(nil), sqlite.ErrForeign},
		"a text":               {write(bytes.Repeat([]byte("no database\n"), 500)), sqlite.ErrForeign},
		"another application":  {changed("PRAGMA application_id = 7"), sqlite.ErrForeign},
		"a newer version":      {changed("PRAGMA user_version = 999"), sqlite.ErrNewer},
		"half a creation":      {changed("PRAGMA user_version = 0"), sqlite.ErrForeign},
		"no data key":          {changed("DELETE FROM data_key"), sqlite.ErrForeign},
		"a damaged data key":   {changed("UPDATE data_key SET wrapped = zeroblob(69)"), seal.ErrDataKey},
		"read by the group":    {readable, sqlite.ErrMode},
		"a folder":             {t.TempDir(), sqlite.ErrMode},
		"a data key of no use": {changed("UPDATE data_key SET wrapped = x'01'"), seal.ErrDataKey},
	} {
		store, err := sqlite.Open(t.Context(), c.path, sealer(t), sqlite.Options{})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		if err == nil {
			_ = store.Close()
		}
		if slices.Contains([]error{fs.ErrNotExist, sqlite.ErrForeign, sqlite.ErrNewer}, c.want) && what != "no data key" {
			_, _, forward := sqlite.Migrate(t.Context(), c.path)
			_, _, back := sqlite.MigrateBack(t.Context(), c.path)
			if !errors.Is(forward, c.want) || !errors.Is(back, c.want) {
				t.Errorf("%s: migrated with %v and back with %v, want %v", what, forward, back, c.want)
			}
		}
	}
	if files, _ := filepath.Glob(filepath.Join(t.TempDir(), "*")); len(files) != 0 {
		t.Errorf("refused opens created %v", files)
	}
}

func TestWrongRoot(t *testing.T) {
	t.Parallel()
	path := create(t)
	root, err := seal.NewRoot(bytes.Repeat([]byte{1}, seal.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), path, seal.New(root, rand.Reader), sqlite.Options{}); !errors.Is(err, seal.ErrRoot) {
		t.Errorf("another root key: %v, want ErrRoot", err)
	}
	openAt(t, path)
}

func TestOneStoreAtATime(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		if _, err := sqlite.Open(t.Context(), name, sealer(t), sqlite.Options{}); !errors.Is(err, sqlite.ErrInUse) {
			t.Errorf("a second Store: %v, want ErrInUse", err)
		}
		_, _, forward := sqlite.Migrate(t.Context(), name)
		_, _, back := sqlite.MigrateBack(t.Context(), name)
		if !errors.Is(forward, sqlite.ErrInUse) || !errors.Is(back, sqlite.ErrInUse) {
			t.Errorf("migrations beside a Store: %v and %v, want ErrInUse", forward, back)
		}
	}
	mustCreate(t, store, enrolment(t, 1))
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, path)
}

// A Sealer shared by two stores would give one number to two keys.
func TestSealerIsNotShared(t *testing.T) {
	t.Parallel()
	shared := sealer(t)
	store, err := sqlite.Open(t.Context(), create(t), shared, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := sqlite.Open(t.Context(), create(t), shared, sqlite.Options{}); !errors.Is(err, seal.ErrDataKey) {
		t.Errorf("a shared Sealer: %v, want ErrDataKey", err)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	e := enrolment(t, 1)
	for range 2 {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	ctx := t.Context()
	_, create := store.CreateEnrolment(ctx, e, 10)
	_, fetched := fetch(ctx, store, e)
	_, byKeID := store.CredentialByKeID(ctx, e.KeID, e.Created)
	_, byKmID := store.CredentialByKmID(ctx, muster.KmID{}, e.Created)
	_, registration := store.Registration(ctx, e.Targets[0], e.EnroleeID, "id", e.Created)
	_, put := store.PutRegistration(ctx, tef.ClientRegistration{})
	_, sweep := store.Sweep(ctx, e.Created, 0, 0, 1)
	for what, err := range map[string]error{
		"CreateEnrolment": create, "FetchEnrolment": fetched, "CredentialByKeID": byKeID, "CredentialByKmID": byKmID,
		"LimitKeID": store.LimitKeID(ctx, e.KeID, e.Created), "Registration": registration, "PutRegistration": put, "Sweep": sweep,
		"ActivateKmID": store.ActivateKmID(ctx, muster.KmID{}, e.Created),
	} {
		if !errors.Is(err, sqlite.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
}

// A closed store is one file, which the operator may copy or move.
func TestCloseLeavesOneFile(t *testing.T) {
	t.Parallel()
	path := withOne(t)
	files, err := filepath.Glob(path + "*")
	if err != nil || !slices.Equal(files, []string{path, path + "-lock"}) {
		t.Errorf("the files are %v, %v", files, err)
	}
	moved := filepath.Join(t.TempDir(), "moved.db")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t.Context(), openAt(t, moved), enrolment(t, 1)); err != nil {
		t.Errorf("after the move: %v", err)
	}
}

// What is in the file alone tells no key.
func TestNoKeyInTheFile(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	e := enrolment(t, 1)
	mustCreate(t, store, e)
	km, err := e.Ke.MasterCredential(muster.ProfileMasterCredential, e.Targets[0])
	if err != nil {
		t.Fatal(err)
	}
	err = store.PutCredential(t.Context(), maf.Credential{
		KmID: km.KmID(e.Targets[0]), KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: e.Targets[0], Km: km,
		Created: e.Created, Expires: e.Expires, KeIDUntil: e.Expires,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{path, path + "-wal"} {
		octets, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range [][]byte{km.Reveal(), e.Ke.Reveal()} {
			if n := bytes.Count(octets, key); n > 0 {
				t.Errorf("%s holds a key %d times", filepath.Base(file), n)
			}
		}
	}
}

// A record that is edited or moved behind the store's back does not open, and
// the attempt changes nothing.
func TestEditedRecords(t *testing.T) {
	t.Parallel()
	const swap = `UPDATE enrolment SET sealed = (SELECT o.sealed FROM enrolment o WHERE o.enrolee_id <> enrolment.enrolee_id)`
	for what, statement := range map[string]string{
		"swapped":                 swap,
		"prolonged":               "UPDATE enrolment SET expires = expires + 1",
		"for another MAF":         "UPDATE enrolment SET maf_id = 'evil.example.org'",
		"for another Enrolee":     "UPDATE enrolment SET enrolee_id = enrolee_id || 'x'",
		"under another KeID":      "UPDATE enrolment SET ke_id = CAST(x'00000000000000000000000000000000' || substr(ke_id, 17) AS BLOB) WHERE enrolee_id LIKE '%1'",
		"an octet of the record":  "UPDATE enrolment SET sealed = CAST(substr(sealed, 1, 60) || x'00' AS BLOB)",
		"under another data key":  "UPDATE enrolment SET data_key = 2",
		"shortened to its header": "UPDATE enrolment SET sealed = substr(sealed, 1, 13)",
	} {
		path := create(t)
		store := openAt(t, path)
		one, two := enrolment(t, 1), enrolment(t, 2)
		mustCreate(t, store, one)
		mustCreate(t, store, two)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		edit(t, path, statement)
		store = openAt(t, path)
		switch what {
		case "for another MAF":
			one.Targets[0], _ = muster.ParseFQDN("evil.example.org")
		case "under another KeID":
			one.KeID = muster.NewKeID([muster.RelativeSize]byte{}, one.KeID.MEF())
		}
		for range 2 {
			e, err := fetch(t.Context(), store, one)
			if err == nil || errors.Is(err, mef.ErrUnknown) || !e.Ke.IsZero() {
				t.Errorf("%s: fetched with error %v, want one that the record does not open", what, err)
			}
		}
	}
}

// A database of the first version is brought forward with what is in it.
func TestFirstVersionIsBroughtForward(t *testing.T) {
	t.Parallel()
	path, e := withOne(t), enrolment(t, 1)
	edit(t, path, `DROP TABLE key_target; DROP TABLE key_registration; DROP TABLE command; DROP TABLE kpm; DROP TABLE audit_entry; DROP TABLE audit_anchor; PRAGMA user_version = 1;
		DROP INDEX enrolment_data_key; DROP INDEX credential_data_key;
		UPDATE data_key SET seals = seals`)
	store := openAt(t, path)
	if got, err := fetch(t.Context(), store, e); err != nil || !got.Ke.Equal(e.Ke) {
		t.Errorf("an enrolment of the first version: %v", err)
	}
	kc, err := muster.NewKc(e.Ke.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	r := tef.KeyRegistration{
		ID: tef.NewKeyID(e.KeID.Relative(), e.KeID.MEF()), Source: e.EnroleeID, AdminFQDN: e.Targets[0], Usage: muster.SUIDForSAEF,
		Targets: []string{"//sp.example.org/b"}, Key: kc, Created: e.Created, Modified: e.Created, Expires: e.Expires,
	}
	if _, err := store.CreateKey(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Key(t.Context(), r.ID, r.Targets[0], e.Created); err != nil || !got.Key.Equal(kc) {
		t.Errorf("a key of the second version: %v", err)
	}
}

// No key stands in the file as it is, and what an edit of the file gives to
// another source does not open.
func TestRegisteredKeysAreSealed(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	e := enrolment(t, 1)
	kc, err := muster.NewKc(e.Ke.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	r := tef.KeyRegistration{
		ID: tef.NewKeyID(e.KeID.Relative(), e.KeID.MEF()), Source: e.EnroleeID, AdminFQDN: e.Targets[0], Usage: muster.SUIDForSAEF,
		Targets: []string{"//sp.example.org/b"}, Key: kc, Created: e.Created, Modified: e.Created, Expires: e.Expires,
	}
	if _, err := store.CreateKey(t.Context(), r, 1); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	octets, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(octets, kc.Reveal()) {
		t.Error("the key stands in the file")
	}
	edit(t, path, "UPDATE key_registration SET source_id = ?", "//sp.example.org/thief")
	store = openAt(t, path)
	if got, err := store.Key(t.Context(), r.ID, "//sp.example.org/thief", e.Created); err == nil {
		t.Errorf("the key of another source opened: %v", got)
	}
}
