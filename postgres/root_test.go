package postgres_test

import (
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"muster"
	"muster/postgres"
	"muster/seal"
)

// TestRewrapDataKeys cuts a rotation of the root key off in its middle, completes it,
// and rotates again, while Stores have the database open that have the old root key
// alone, or both.
func TestRewrapDataKeys(t *testing.T) {
	t.Parallel()
	root := func(fill string) *seal.Root {
		r, err := seal.NewRoot([]byte(strings.Repeat(fill, seal.RootSize)))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, second, third := root("\x00"), root("2"), root("3")
	under := func(r *seal.Root, older ...*seal.Root) *seal.Sealer { return seal.New(r, rand.Reader, older...) }
	url := create(t)
	var late atomic.Bool
	open := func(s *seal.Sealer) *postgres.Store {
		t.Helper()
		store, err := postgres.Open(t.Context(), url, s, postgres.Options{Now: func() time.Time {
			if late.Load() {
				return time.Now().Add(31 * 24 * time.Hour)
			}
			return time.Now()
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		return store
	}
	old, both := open(under(first)), open(under(second, first))
	mustCreate(t, old, enrolment(t, 0))
	if err := old.RotateDataKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, both, enrolment(t, 1))

	const wrapped = "SELECT string_agg(encode(wrapped, 'hex'), ' ' ORDER BY id) FROM data_key"
	before := edit(t, url, wrapped)
	interrupted(t, url, under(second, first))
	if edit(t, url, wrapped) != before {
		t.Error("a rotation that was cut off has changed a data key")
	}
	mustCreate(t, open(under(first)), enrolment(t, 2))
	for range 2 { // the second time is after an answer that was lost
		if n, err := postgres.RewrapDataKeys(t.Context(), url, under(second, first)); n != 2 || err != nil {
			t.Fatalf("%d data keys, %v", n, err)
		}
	}
	if _, err := postgres.Open(t.Context(), url, under(first), postgres.Options{}); !errors.Is(err, seal.ErrRoot) {
		t.Errorf("the old root key still opens the database: %v", err)
	}
	all := func(store *postgres.Store, numbers ...int) {
		t.Helper()
		for _, n := range numbers {
			if err := whole(t.Context(), store, enrolment(t, n)); err != nil {
				t.Errorf("enrolment %d: %v", n, err)
			}
		}
	}
	mustCreate(t, old, enrolment(t, 3)) // goes on with what it knows
	all(old, 0, 1, 2, 3)

	late.Store(true)
	refused := func(what string, err error) {
		t.Helper()
		if muster.CodeOf(err) != muster.CodeStoreFailed || !errors.Is(err, seal.ErrRoot) {
			t.Errorf("%s: %v, want the code %s for a wrong root key", what, err, muster.CodeStoreFailed)
		}
	}
	_, err := old.CreateEnrolment(t.Context(), enrolment(t, 4), 9)
	refused("a write that needs a new data key, under the old root key", err)
	if n := edit(t, url, "SELECT count(*) FROM data_key"); n != "2" {
		t.Errorf("%s data keys, want 2", n)
	}
	all(old, 0, 3)
	mustCreate(t, both, enrolment(t, 4)) // adds the third data key
	refused("a read of what is under a data key that it does not know", whole(t.Context(), old, enrolment(t, 4)))
	all(open(under(second)), 0, 1, 2, 3, 4)

	if n, err := postgres.RewrapDataKeys(t.Context(), url, under(third, second)); n != 3 || err != nil {
		t.Errorf("the second rotation: %d data keys, %v", n, err)
	}
	all(open(under(third)), 0, 1, 2, 3, 4)
	if _, err := postgres.RewrapDataKeys(t.Context(), url, under(second, first)); !errors.Is(err, seal.ErrRoot) {
		t.Errorf("a rotation without the root key in use: %v", err)
	}
	all(open(under(third)), 4)
}

// interrupted has the server end a rotation that has wrapped one of two data keys.
func interrupted(t *testing.T, url string, sealer *seal.Sealer) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "BEGIN; SELECT 1 FROM data_key WHERE id = 2 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := postgres.RewrapDataKeys(t.Context(), url, sealer)
		ended <- err
	}()
	const terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE data_key SET wrapped%'"
	for edit(t, url, terminate) == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	if err := <-ended; err == nil {
		t.Error("a rotation whose connection was ended has succeeded")
	}
}
