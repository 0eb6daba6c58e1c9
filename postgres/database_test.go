package postgres_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/postgres"
	"muster/seal"
	"muster/tef"
)

func TestCreate(t *testing.T) {
	t.Parallel()
	url := create(t)
	store := openAt(t, url)
	mustCreate(t, store, enrolment(t, 1))
	if err := postgres.Create(t.Context(), url, sealer(t)); !errors.Is(err, postgres.ErrExists) {
		t.Errorf("creating over a database: %v, want ErrExists", err)
	}
	if err := whole(t.Context(), store, enrolment(t, 1)); err != nil {
		t.Errorf("after creating over the database: %v", err)
	}
	if from, to, err := postgres.Migrate(t.Context(), url); from != postgres.Schema() || to != from || err != nil {
		t.Errorf("migrating what is up to date: from %d to %d, %v", from, to, err)
	}
}

// Opening never makes or changes a table.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	open := func(url string, want error) {
		t.Helper()
		store, err := postgres.Open(t.Context(), url, sealer(t), postgres.Options{})
		if err == nil {
			_ = store.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", url, err, want)
		}
	}
	empty := schema(t)
	open(empty, postgres.ErrForeign)
	if tables := edit(t, empty, "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema"); tables != "0" {
		t.Errorf("opening made %s tables", tables)
	}
	_, _, forward := postgres.Migrate(t.Context(), empty)
	_, _, back := postgres.MigrateBack(t.Context(), empty)
	if !errors.Is(forward, postgres.ErrForeign) || !errors.Is(back, postgres.ErrForeign) {
		t.Errorf("migrating an empty schema: %v, and back: %v, want ErrForeign", forward, back)
	}
	for statement, want := range map[string]error{
		"UPDATE muster_schema SET version = 0":   postgres.ErrOlder,
		"UPDATE muster_schema SET version = 999": postgres.ErrNewer,
		"DELETE FROM muster_schema":              postgres.ErrForeign,
		"DELETE FROM data_key":                   postgres.ErrForeign,
	} {
		url := create(t)
		edit(t, url, statement)
		open(url, want)
	}
	url := create(t, "synchronous_commit", "on")
	open(strings.Replace(url, "synchronous_commit=on", "synchronous_commit=off", 1), postgres.ErrSettings)
	open(strings.Replace(url, "synchronous_commit=on", "synchronous_commit=remote_write", 1), postgres.ErrSettings)
	open("postgres://postgres@127.0.0.1:1/x", postgres.ErrUnreachable)
}

// No error tells a password, however wrong the string is in which it stands.
func TestErrorsTellNoPassword(t *testing.T) {
	t.Parallel()
	const secret = "hunter2secret"
	for _, connection := range []string{
		"postgres://u:" + secret + "@127.0.0.1:1/d?sslmode=disable",
		"postgres://u:" + secret + "@127.0.0.1:port/d",
		"postgres://u:" + secret + "%zz@127.0.0.1/d",
		"postgres://u:" + secret + "@127.0.0.1/d?sslmode=" + "never",
		"host=127.0.0.1 port=1 password=" + secret + " sslmode=disable",
		"host=127.0.0.1 port=x password='" + secret + "'",
		"host=127.0.0.1 password=" + secret + " pool_max_conns=many",
		"password=" + secret + " host",
		"//u:" + secret + "@h/d",
		strings.Replace(cluster(t).URL(), "postgres@", "nobody:"+secret+"@", 1),
	} {
		_, err1 := postgres.Open(t.Context(), connection, sealer(t), postgres.Options{})
		err2 := postgres.Create(t.Context(), connection, sealer(t))
		_, _, err3 := postgres.Migrate(t.Context(), connection)
		_, _, err4 := postgres.MigrateBack(t.Context(), connection)
		for _, err := range []error{err1, err2, err3, err4} {
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", connection, err)
			}
		}
	}
}

func TestWrongRoot(t *testing.T) {
	t.Parallel()
	root, err := seal.NewRoot(bytes.Repeat([]byte{1}, seal.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), create(t), seal.New(root, rand.Reader), postgres.Options{}); !errors.Is(err, seal.ErrRoot) {
		t.Errorf("with another root key: %v, want ErrRoot", err)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	store := openAt(t, create(t))
	e := enrolment(t, 1)
	for range 2 {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	_, err1 := store.CreateEnrolment(t.Context(), e, 1)
	_, err2 := store.EnrolmentOf(t.Context(), e.EnroleeID, e.Session, e.Created)
	_, err3 := store.CredentialByKeID(t.Context(), e.KeID, e.Created)
	_, err4 := store.Sweep(t.Context(), e.Created, 0, 0, 1)
	for _, err := range []error{err1, err2, err3, err4} {
		if !errors.Is(err, postgres.ErrClosed) {
			t.Errorf("after closing: %v, want ErrClosed", err)
		}
	}
}

// What is in the database alone tells no key.
func TestNoKeyInTheDatabase(t *testing.T) {
	t.Parallel()
	url := create(t)
	store := openAt(t, url)
	e := enrolment(t, 1)
	mustCreate(t, store, e)
	km, err1 := e.Ke.MasterCredential(muster.ProfileMasterCredential, e.Targets[0])
	kc, err2 := muster.NewKc(bytes.Repeat([]byte{7}, 32))
	err3 := store.PutCredential(t.Context(), maf.Credential{
		KmID: km.KmID(e.Targets[0]), KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: e.Targets[0], Km: km,
		Created: e.Created, Expires: e.Expires, KeIDUntil: e.Expires,
	})
	_, err4 := store.CreateKey(t.Context(), tef.KeyRegistration{
		ID: tef.NewKeyID(e.KeID.Relative(), e.Targets[0]), Source: e.EnroleeID, AdminFQDN: e.Targets[0], Usage: 21, Key: kc,
		Created: e.Created, Modified: e.Created, Expires: e.Expires,
	}, 1)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	dump := edit(t, url, "SELECT e::text FROM enrolment e UNION ALL SELECT c::text FROM credential c "+
		"UNION ALL SELECT k::text FROM key_registration k UNION ALL SELECT d::text FROM data_key d")
	if strings.Count(dump, "\n") != 3 {
		t.Fatalf("the dump is %q", dump)
	}
	for _, key := range [][]byte{km.Reveal(), e.Ke.Reveal(), kc.Reveal()} {
		if strings.Contains(dump, hex.EncodeToString(key)) {
			t.Error("the database holds a key")
		}
	}
}

// A record that is edited or moved behind the store's back does not open.
func TestEditedRecords(t *testing.T) {
	t.Parallel()
	for what, statement := range map[string]string{
		"swapped":                 "UPDATE enrolment e SET sealed = (SELECT o.sealed FROM enrolment o WHERE o.enrolee_id <> e.enrolee_id)",
		"prolonged":               "UPDATE enrolment SET expires = expires + 1",
		"for another MAF":         "UPDATE enrolment SET maf_id = 'evil.example.org'",
		"for another Enrolee":     "UPDATE enrolment SET enrolee_id = enrolee_id || 'x'",
		"an octet of the record":  "UPDATE enrolment SET sealed = set_byte(sealed, 60, get_byte(sealed, 60) # 1)",
		"under another data key":  "UPDATE enrolment SET data_key = 2",
		"shortened to its header": "UPDATE enrolment SET sealed = substr(sealed, 1, 13)",
	} {
		url := create(t)
		store := openAt(t, url)
		one := enrolment(t, 1)
		mustCreate(t, store, one)
		mustCreate(t, store, enrolment(t, 2))
		edit(t, url, statement)
		if what == "for another MAF" {
			one.Targets[0], _ = muster.ParseFQDN("evil.example.org")
		}
		e, err := fetch(t.Context(), store, one)
		if err == nil || errors.Is(err, mef.ErrUnknown) || !e.Ke.IsZero() {
			t.Errorf("%s: fetched with error %v, want one that the record does not open", what, err)
		}
	}
}

// Stores of one database share their data keys, also those that one of them adds
// while the others run. A data key never seals more than its maximum.
func TestDataKeysAreShared(t *testing.T) {
	t.Parallel()
	url := create(t)
	const replicas = 4
	now := time.Now()
	month := func() time.Time { return now.Add(31 * 24 * time.Hour) }
	old := openAt(t, url)
	mustCreate(t, old, enrolment(t, 0))
	stores := make([]*postgres.Store, replicas)
	for i := range stores {
		stores[i] = openWith(t, url, postgres.Options{Now: month})
	}
	edit(t, url, "UPDATE data_key SET seals = 268435456 - 65536 WHERE id = 1")
	var all sync.WaitGroup
	for i, store := range stores {
		all.Go(func() { mustCreate(t, store, enrolment(t, 1+i)) })
	}
	all.Wait()
	if out := edit(t, url, "SELECT count(*), max(id) FROM data_key"); out != "2|2" {
		t.Errorf("number of data keys and the newest: %s, want 2|2", out)
	}
	for n := range 1 + replicas {
		for _, store := range append(stores, old) {
			if err := whole(t.Context(), store, enrolment(t, n)); err != nil {
				t.Errorf("enrolment %d: %v", n, err)
			}
		}
	}
	if out := edit(t, url, "SELECT count(*) FROM data_key WHERE seals > 268435456"); out != "0" {
		t.Error("a data key seals too much")
	}
}

// What a Store has booked of a data key is worth nothing when another Store has put
// a new one in its place and forgotten it: no record is ever under a data key that
// is not there.
func TestForgottenDataKey(t *testing.T) {
	t.Parallel()
	url := create(t)
	behind, ahead := openAt(t, url), openAt(t, url)
	mustCreate(t, behind, enrolment(t, 0)) // books data key 1
	n := 0
	for what, write := range map[string]func(e mef.Enrolment) error{
		"an enrolment": func(e mef.Enrolment) error { _, err := behind.CreateEnrolment(t.Context(), e, 1); return err },
		"a credential": func(e mef.Enrolment) error {
			km, err := e.Ke.MasterCredential(muster.ProfileMasterCredential, e.Targets[0])
			return errors.Join(err, behind.PutCredential(t.Context(), maf.Credential{
				KmID: km.KmID(e.Targets[0]), KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: e.Targets[0], Km: km,
				Created: e.Created, Expires: e.Expires, KeIDUntil: e.Expires,
			}))
		},
		"a registered key": func(e mef.Enrolment) error {
			kc, err1 := muster.NewKc(e.Ke.Reveal())
			_, err2 := behind.CreateKey(t.Context(), tef.KeyRegistration{
				ID: tef.NewKeyID(e.KeID.Relative(), e.Targets[0]), Source: e.EnroleeID, AdminFQDN: e.Targets[0], Usage: 21, Key: kc,
				Created: e.Created, Modified: e.Created, Expires: e.Expires,
			}, 1)
			return errors.Join(err1, err2)
		},
		"a pre-provisioned key": func(e mef.Enrolment) error {
			kpm, err1 := muster.NewKpm(e.Ke.Reveal())
			id, err2 := muster.ParseKpmID("device-1@factory.example.org")
			_, err3 := behind.ImportKpms(t.Context(), mef.Import{Kpms: []mef.ProvisionedKpm{{KpmID: id, EnroleeID: e.EnroleeID, Kpm: kpm, Created: e.Created}}})
			return errors.Join(err1, err2, err3)
		},
	} {
		if err := reseal(t.Context(), ahead); err != nil {
			t.Fatal(err)
		}
		if out := edit(t, url, "SELECT count(*) FROM data_key"); out != "1" {
			t.Fatalf("%s data keys before %s, want 1", out, what)
		}
		n++
		if err := write(enrolment(t, n)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, table := range []string{"enrolment", "credential", "key_registration", "kpm"} {
			if out := edit(t, url, "SELECT count(*) FROM "+table+" WHERE data_key NOT IN (SELECT id FROM data_key)"); out != "0" {
				t.Errorf("after %s: %s rows of %s without their data key", what, out, table)
			}
		}
	}
}

// reseal puts everything under a new data key, in slices.
func reseal(ctx context.Context, store *postgres.Store) error {
	err := store.RotateDataKey(ctx)
	for n := 1; n > 0 && err == nil; {
		n, err = store.Reseal(ctx, 20)
	}
	return err
}

// Two Stores create enrolments of the same Enrolees at the same time.
func TestReplicasRace(t *testing.T) {
	t.Parallel()
	url := create(t)
	stores := []*postgres.Store{openAt(t, url), openAt(t, url), openAt(t, url)}
	const enrolees, each = 8, 12
	seen := make([]sync.Map, enrolees)
	spread(t, 24, len(stores)*enrolees*each, func(n int) error {
		e := enrolment(t, n)
		owner := n % enrolees
		e.EnroleeID = enrolment(t, 1_000_000+owner).EnroleeID
		stored, err := stores[n/enrolees%len(stores)].CreateEnrolment(t.Context(), e, 1000)
		if _, twice := seen[owner].LoadOrStore(stored.Generation, n); twice && err == nil {
			err = errors.New("a generation was given twice")
		}
		return err
	})
	if out := edit(t, url, "SELECT min(generation), max(generation), count(*) FROM enrolment WHERE state = 1"); out != "36|36|8" {
		t.Errorf("generations and number of what is live: %s, want 36|36|8", out)
	}
}

// What fails for lack of room or time among others is busy; what somebody has to
// repair is not. The server says so after some tries or at once.
func TestFailuresHaveCodes(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]muster.Code{
		"40001": muster.CodeBusy,        // a race that is lost again and again
		"55P03": muster.CodeBusy,        // a lock that is not had
		"53300": muster.CodeBusy,        // too many connections
		"53100": muster.CodeStoreFailed, // a full disk
		"57P03": muster.CodeStoreFailed, // a server that starts
		"58030": muster.CodeStoreFailed, // an error of the disk
		"XX001": muster.CodeStoreFailed, // a damaged page
		"42501": muster.CodeStoreFailed, // no privilege
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			url := create(t)
			store := openWith(t, url, postgres.Options{Patience: 4 * time.Second})
			mustCreate(t, store, enrolment(t, 1))
			edit(t, url, "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '"+state+"'; END $$; "+
				"CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON enrolment EXECUTE FUNCTION fail()")
			if _, err := store.CreateEnrolment(t.Context(), enrolment(t, 2), 10); muster.CodeOf(err) != want {
				t.Errorf("a write: %v, want the code %s", err, want)
			}
			edit(t, url, "DROP TRIGGER fail ON enrolment")
			mustCreate(t, store, enrolment(t, 2))
			edit(t, url, "ALTER TABLE enrolment RENAME TO gone")
			e := enrolment(t, 1)
			if _, err := store.EnrolmentFor(t.Context(), e.KeID, e.Targets[0]); muster.CodeOf(err) != muster.CodeStoreFailed {
				t.Errorf("a read of a table that is not there: %v, want the code %s", err, muster.CodeStoreFailed)
			}
		})
	}
}

// A key identifier's maximum holds over all Stores.
func TestReplicasKeepToTheMaximum(t *testing.T) {
	t.Parallel()
	url := create(t)
	stores := []*postgres.Store{openAt(t, url), openAt(t, url)}
	var mu sync.Mutex
	created := 0
	const most = 5
	spread(t, 8, 24, func(n int) error {
		e := enrolment(t, n)
		_, err := stores[n%2].CreateKey(context.Background(), tef.KeyRegistration{
			ID: tef.NewKeyID(e.KeID.Relative(), e.Targets[0]), Source: enrolment(t, 0).EnroleeID, AdminFQDN: e.Targets[0], Usage: 21,
			Created: e.Created, Modified: e.Created, Expires: e.Expires,
		}, most)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			created++
		} else if errors.Is(err, tef.ErrTooMany) || muster.CodeOf(err) == muster.CodeBusy {
			err = nil
		}
		return err
	})
	if out := edit(t, url, "SELECT count(*) FROM key_registration"); created != most || out != "5" {
		t.Errorf("%d keys created, %s stored, want %d", created, out, most)
	}
}
