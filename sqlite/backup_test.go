package sqlite_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/archive"
	"muster/maf"
	"muster/mef"
	"muster/seal"
	"muster/sqlite"
)

// A filled database has one of everything that is sealed.
func filled(t *testing.T) (path string, store *sqlite.Store, e mef.Enrolment, c maf.Credential, k mef.ProvisionedKpm) {
	t.Helper()
	path = create(t)
	store = openAt(t, path)
	e = enrolment(t, 1)
	if _, err := store.CreateEnrolment(t.Context(), e, 9); err != nil {
		t.Fatal(err)
	}
	km, err1 := e.Ke.MasterCredential(muster.ProfileMasterCredential, e.Targets[0])
	kpm, err2 := muster.NewKpm(e.Ke.Reveal())
	kpmID, err3 := muster.ParseKpmID("device-1@factory.example.org")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	c = maf.Credential{
		KmID: km.KmID(e.Targets[0]), KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: e.Targets[0], Km: km,
		Created: e.Created, Expires: e.Expires, KeIDUntil: e.Expires,
	}
	k = mef.ProvisionedKpm{KpmID: kpmID, EnroleeID: e.EnroleeID, Kpm: kpm, Created: e.Created}
	_, err := store.ImportKpms(t.Context(), mef.Import{Kpms: []mef.ProvisionedKpm{k}})
	if err := errors.Join(err, store.PutCredential(t.Context(), c)); err != nil {
		t.Fatal(err)
	}
	return path, store, e, c, k
}

// TestBackupWhileWriting backs a database up again and again under load: each
// backup is sound and has every enrolment that was acknowledged before it began.
func TestBackupWhileWriting(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	ctx, stop := context.WithCancel(t.Context())
	acknowledged := make(chan int, 1)
	acknowledged <- 0
	var load sync.WaitGroup
	load.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if _, err := store.CreateEnrolment(context.Background(), enrolment(t, n), 9); err != nil {
				t.Error(err)
				return
			}
			<-acknowledged
			acknowledged <- n + 1
		}
	})
	for i := range 5 {
		before := <-acknowledged
		acknowledged <- before
		report, err := sqlite.Backup(t.Context(), path, filepath.Join(t.TempDir(), "backup"), sealer(t))
		if err != nil {
			t.Fatal(err)
		}
		if report.Rows["enrolment"] < before || report.Sealed != report.Rows["enrolment"] {
			t.Errorf("backup %d has %d enrolments and %d keys, and %d were acknowledged before it", i, report.Rows["enrolment"], report.Sealed, before)
		}
	}
	stop()
	load.Wait()
}

func TestBackupIsPrivateAndNew(t *testing.T) {
	t.Parallel()
	path, _, e, _, _ := filled(t)
	dir := t.TempDir()
	to := filepath.Join(dir, "backup")
	if _, err := sqlite.Backup(t.Context(), path, to, sealer(t)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(to)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	octets, err := os.ReadFile(to)
	if err != nil || strings.Contains(string(octets), string(e.Ke.Reveal())) {
		t.Errorf("the key stands in the backup: %v", err)
	}
	if _, err := sqlite.Backup(t.Context(), path, to, sealer(t)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	other, err := seal.NewRoot([]byte(strings.Repeat("x", seal.RootSize)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Backup(t.Context(), path, filepath.Join(dir, "other"), seal.New(other, rand.Reader)); !errors.Is(err, seal.ErrRoot) {
		t.Errorf("under another root key: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}

// TestRestoreRevivesNothing restores a backup that was made before a key was
// erased, a KeID was retired and a pre-provisioned key was replaced.
func TestRestoreRevivesNothing(t *testing.T) {
	t.Parallel()
	path, store, e, c, k := filled(t)
	backup := filepath.Join(t.TempDir(), "backup")
	if _, err := sqlite.Backup(t.Context(), path, backup, sealer(t)); err != nil {
		t.Fatal(err)
	}
	newer := k
	id, err := muster.ParseKpmID("device-1.b@factory.example.org")
	if err != nil {
		t.Fatal(err)
	}
	newer.KpmID = id
	_, err = store.ImportKpms(t.Context(), mef.Import{Kpms: []mef.ProvisionedKpm{newer}, Overlap: time.Hour})
	err = errors.Join(err, store.EraseEnrolment(t.Context(), e.KeID, e.Targets[0]), store.ActivateKmID(t.Context(), c.KmID, c.Created),
		store.ActivateKpm(t.Context(), newer.KpmID, k.Created), store.Close())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sqlite.Restore(t.Context(), backup, path, sealer(t), false, nil); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("over the database: %v", err)
	}

	leftover := filepath.Join(t.TempDir(), "left.db")
	if err := os.WriteFile(leftover+"-wal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sqlite.Restore(t.Context(), backup, leftover, sealer(t), false, nil); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("beside the log of another database: %v", err)
	}

	for _, keep := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "restored.db")
		w, _, err := sqlite.Restore(t.Context(), backup, path, sealer(t), keep, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := (archive.Withdrawn{Enrolments: 1, KeIDs: 1, Kpms: 1}); !keep && w != want || keep && w != (archive.Withdrawn{}) {
			t.Errorf("keep %t: withdrawn %+v", keep, w)
		}
		store := openAt(t, path)
		_, fetched := store.FetchEnrolment(t.Context(), mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Window: time.Hour, Max: 3})
		_, byKeID := store.CredentialByKeID(t.Context(), c.KeID, c.Created)
		_, kpm := store.Kpm(t.Context(), k.KpmID, k.Created)
		for what, err := range map[string]error{"Ke": fetched, "KeID": byKeID, "Kpm": kpm} {
			if (err == nil) != keep {
				t.Errorf("keep %t: %s: %v", keep, what, err)
			}
		}
		if got, err := store.CredentialByKmID(t.Context(), c.KmID, c.Created); err != nil || !got.Km.Equal(c.Km) {
			t.Errorf("keep %t: KmID: %v", keep, err)
		}
		if _, err := store.CreateEnrolment(t.Context(), e, 9); err != nil {
			t.Errorf("keep %t: the same enrolment again: %v", keep, err)
		}
		if _, err := store.ImportKpms(t.Context(), mef.Import{Kpms: []mef.ProvisionedKpm{newer}, Overlap: time.Hour}); err != nil {
			t.Errorf("keep %t: the list as it is now: %v", keep, err)
		}
	}
}

// TestRestoreRetiresOlderCredentials restores a backup that was made between the
// fetch of an Enrolee's second credential and its activation, which would have
// retired the first: the older one does not open sessions beside it for good.
func TestRestoreRetiresOlderCredentials(t *testing.T) {
	t.Parallel()
	path, store, _, older, _ := filled(t)
	newer, e := older, enrolment(t, 2)
	km, err := e.Ke.MasterCredential(muster.ProfileMasterCredential, older.MAF)
	newer.KeID, newer.Km, newer.KmID = e.KeID, km, km.KmID(older.MAF)
	err = errors.Join(err, store.ActivateKmID(t.Context(), older.KmID, older.Created), store.PutCredential(t.Context(), newer), store.Close())
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{false, true} {
		restored := filepath.Join(t.TempDir(), "restored.db")
		w, _, err := sqlite.Restore(t.Context(), path, restored, sealer(t), keep, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := (archive.Withdrawn{Enrolments: 1, Credentials: 1, KeIDs: 1, Kpms: 1}); !keep && w != want {
			t.Errorf("withdrawn %+v", w)
		}
		store := openAt(t, restored)
		if _, err := store.CredentialByKmID(t.Context(), older.KmID, older.Created); errors.Is(err, maf.ErrUnknown) == keep {
			t.Errorf("keep %t: the older KmID: %v", keep, err)
		}
		if err := store.ActivateKmID(t.Context(), newer.KmID, newer.Created); err != nil {
			t.Errorf("keep %t: the newer KmID: %v", keep, err)
		}
		if _, err := store.CredentialByKmID(t.Context(), older.KmID, older.Created); !errors.Is(err, maf.ErrUnknown) {
			t.Errorf("keep %t: the older KmID, when the newer was used: %v", keep, err)
		}
	}
}

// TestCheckFindsDamage has files in which somebody has edited something.
func TestCheckFindsDamage(t *testing.T) {
	t.Parallel()
	for what, statement := range map[string]string{
		"a sealed key of another record": "UPDATE enrolment SET enrolee_id = '//sp.example.org/thief'",
		"a prolonged credential":         "UPDATE credential SET expires = expires + 1",
		"a damaged record":               "UPDATE kpm SET sealed = zeroblob(61)",
		"an identifier that is none":     "UPDATE credential SET km_id = 'x'",
		"a missing data key":             "PRAGMA foreign_keys = OFF; UPDATE kpm SET data_key = 7",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path, store, _, _, _ := filled(t)
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if report, err := sqlite.Check(t.Context(), path, sealer(t)); err != nil || !report.Sound() || report.Sealed != 3 {
				t.Fatalf("before: %+v, %v", report, err)
			}
			edit(t, path, statement)
			report, err := sqlite.Check(t.Context(), path, sealer(t))
			if err != nil || report.Sound() {
				t.Errorf("after: %+v, %v", report, err)
			}
			if _, err := sqlite.Backup(t.Context(), path, filepath.Join(t.TempDir(), "backup"), sealer(t)); !errors.Is(err, sqlite.ErrDamaged) {
				t.Errorf("backed up: %v", err)
			}
		})
	}
}

// TestCheckFindsBrokenPages overwrites the middle of a file.
func TestCheckFindsBrokenPages(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	for n := range 200 {
		if _, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 9); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte(strings.Repeat("\xff", 8192)), info.Size()/2/4096*4096)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	if report, err := sqlite.Check(t.Context(), path, sealer(t)); err == nil && report.Sound() {
		t.Error("broken pages are sound")
	}
}

// A database that was closed is one file: its log is folded into it.
func TestClosedDatabaseIsWhole(t *testing.T) {
	t.Parallel()
	path, store, _, _, _ := filled(t)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if _, err := os.Lstat(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", suffix, err)
		}
	}
}

func TestRewrapDataKeys(t *testing.T) {
	t.Parallel()
	path, store, e, _, _ := filled(t)
	root := func(fill string) *seal.Root {
		r, err := seal.NewRoot([]byte(strings.Repeat(fill, seal.RootSize)))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	older, newer := root("\x00"), root("n")
	both := func() *seal.Sealer { return seal.New(newer, rand.Reader, older) }
	if _, err := sqlite.RewrapDataKeys(t.Context(), path, both()); !errors.Is(err, sqlite.ErrInUse) {
		t.Errorf("while it is open: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time is after a crash
		if n, err := sqlite.RewrapDataKeys(t.Context(), path, both()); err != nil || n != 1 {
			t.Fatalf("%d data keys, %v", n, err)
		}
	}
	if _, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{}); !errors.Is(err, seal.ErrRoot) {
		t.Errorf("the old root key still opens the database: %v", err)
	}
	again, err := sqlite.Open(t.Context(), path, seal.New(newer, rand.Reader), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	got, err := again.FetchEnrolment(t.Context(), mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Window: time.Hour, Max: 3})
	if err != nil || !got.Ke.Equal(e.Ke) {
		t.Errorf("under the new root key: %v", err)
	}
}
