package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/archive"
	"muster/mef"
	"muster/seal"
)

var errOrdinary = errors.New("an ordinary failure")

func newSealer(t testing.TB) *seal.Sealer {
	t.Helper()
	root, err := seal.NewRoot(make([]byte, seal.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	return seal.New(root, rand.Reader)
}

func openNew(t testing.TB, options Options) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "muster.db")
	if err := Create(t.Context(), path, newSealer(t)); err != nil {
		t.Fatal(err)
	}
	store, err := Open(t.Context(), path, newSealer(t), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func sample(t testing.TB, n int) mef.Enrolment {
	t.Helper()
	mefID, err1 := muster.ParseFQDN("mef.example.org")
	mafID, err2 := muster.ParseFQDN("maf.example.org")
	enrolee, err3 := muster.ParseEnroleeID(fmt.Sprintf("//sp.example.org/device%d", n))
	ke, err4 := muster.NewKe([]byte(fmt.Sprintf("%032d", n)))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return mef.Enrolment{
		KeID: muster.NewKeID([muster.RelativeSize]byte([]byte(fmt.Sprintf("%016d", n))), mefID), EnroleeID: enrolee,
		Targets: []muster.FQDN{mafID}, Ke: ke, Created: time.Unix(1000, 0), Expires: time.Unix(5000, 0),
	}
}

// occupy keeps the writer busy until the returned function is called.
func occupy(t testing.TB, s *Store) (release func()) {
	t.Helper()
	started, gate := make(chan struct{}), make(chan struct{})
	err := s.write.enqueue(task{func() error { close(started); <-gate; return nil }, make(chan error, 1)}, errOrdinary)
	if err != nil {
		t.Fatal(err)
	}
	<-started
	return sync.OnceFunc(func() { close(gate) })
}

func (s *Store) count(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	if err := s.readerDB.QueryRow(query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	const queue = 3
	s := openNew(t, Options{Queue: queue})
	release := occupy(t, s)
	defer release()
	results := make(chan error, queue)
	for n := range queue {
		go func() {
			_, err := s.CreateEnrolment(t.Context(), sample(t, n), 1)
			results <- err
		}()
	}
	for len(s.write.queue) < queue {
		time.Sleep(time.Millisecond)
	}
	if _, err := s.CreateEnrolment(t.Context(), sample(t, 9), 1); !errors.Is(err, mef.ErrBusy) {
		t.Errorf("with a full queue: %v, want ErrBusy", err)
	}
	release()
	for range queue {
		if err := <-results; err != nil {
			t.Errorf("a write that waited: %v", err)
		}
	}
	if n := s.count(t, "SELECT count(*) FROM enrolment"); n != queue {
		t.Errorf("%d rows, want %d", n, queue)
	}
}

// A batch waits for company, and ends the wait when it has enough or the queue is closed.
func TestBatchWaitsForCompany(t *testing.T) {
	t.Parallel()
	w := writer{queue: make(chan task, 2*company)}
	for range company + 1 {
		w.queue <- task{}
	}
	if batch := w.await(make([]task, 1)); len(batch) != company+2 {
		t.Errorf("%d in the batch, want all %d that were there", len(batch), company+2)
	}
	go func() {
		w.queue <- task{}
		close(w.queue)
	}()
	if batch := w.await(make([]task, company-2)); len(batch) > company-1 {
		t.Errorf("%d in the batch after the last came", len(batch))
	}
	if batch := w.await(nil); len(batch) > 1 {
		t.Errorf("%d in the batch after the end", len(batch))
	}
}

// Who writes alone does not wait, and it is found out again and again whether it is so.
func TestPatience(t *testing.T) {
	t.Parallel()
	var p patience
	waits := func(batches int) (n int) {
		for range batches {
			if p.pays(1) {
				p.learn(false)
				n++
			}
		}
		return n
	}
	if n := waits(10 * maxHaste); n < 10 || n > 20 {
		t.Errorf("%d of %d lone writes wait", n, 10*maxHaste)
	}
	for !p.pays(1) {
	}
	p.learn(true)
	for range 100 {
		if !p.pays(company - 1) {
			t.Fatal("a batch does not wait although waiting pays")
		}
		if p.learn(true); p.pays(company) {
			t.Fatal("a batch waits that has company enough")
		}
	}
}

// A caller that gives up does not take its write with it, and Close waits for it.
func TestCancelledWriteIsDone(t *testing.T) {
	t.Parallel()
	s := openNew(t, Options{})
	release := occupy(t, s)
	defer release()
	ctx, cancel := context.WithCancelCause(t.Context())
	given := make(chan error)
	go func() {
		_, err := s.CreateEnrolment(ctx, sample(t, 1), 1)
		given <- err
	}()
	for len(s.write.queue) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel(errOrdinary)
	if err := <-given; !errors.Is(err, errOrdinary) {
		t.Errorf("the caller that gave up got %v", err)
	}
	if n := s.count(t, "SELECT count(*) FROM enrolment"); n != 0 {
		t.Fatal("the write was not waiting")
	}
	release()
	stored, err := s.CreateEnrolment(t.Context(), sample(t, 1), 1)
	if err != nil || stored.Generation != 1 {
		t.Errorf("the repeated call: %v, %v", stored, err)
	}
}

func TestCloseDrains(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "muster.db")
	if err := Create(t.Context(), path, newSealer(t)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path, newSealer(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	release := occupy(t, s)
	const writes = 20
	results := make(chan error, writes)
	for n := range writes {
		go func() {
			_, err := s.CreateEnrolment(t.Context(), sample(t, n), 1)
			results <- err
		}()
	}
	for len(s.write.queue) < writes {
		time.Sleep(time.Millisecond)
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	for !s.write.isClosed() {
		time.Sleep(time.Millisecond)
	}
	release()
	for range writes {
		if err := <-results; err != nil {
			t.Errorf("a write that waited: %v", err)
		}
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	if s, err = Open(t.Context(), path, newSealer(t), Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := s.count(t, "SELECT count(*) FROM enrolment"); n != writes {
		t.Errorf("%d rows after the restart, want %d", n, writes)
	}
}

// One write that fails takes neither its neighbours with it nor leaves half of
// itself behind.
func TestOneBadWriteFailsAlone(t *testing.T) {
	t.Parallel()
	s := openNew(t, Options{})
	release := occupy(t, s)
	defer release()
	bad := sample(t, 100)
	bad.Targets = append(bad.Targets, bad.KeID.MEF())
	_, rows, err := s.sealEnrolment(bad)
	if err != nil {
		t.Fatal(err)
	}
	rows[1].sealed = nil // the second of two rows breaks a constraint
	failed := make(chan error)
	good := make(chan error)
	const writes = 10
	for n := range writes {
		go func() {
			_, err := s.CreateEnrolment(t.Context(), sample(t, n), 1)
			good <- err
		}()
		if n == writes/2 {
			go func() {
				_, err := do(t.Context(), &s.write, errOrdinary, func() (mef.Enrolment, error) { return s.createEnrolment(bad, rows, 1) })
				failed <- err
			}()
		}
	}
	for len(s.write.queue) < writes+1 {
		time.Sleep(time.Millisecond)
	}
	release()
	for range writes {
		if err := <-good; err != nil {
			t.Errorf("a neighbour of the bad write: %v", err)
		}
	}
	if err := <-failed; err == nil || decided(err) {
		t.Errorf("the bad write: %v, want a failure", err)
	}
	if n := s.count(t, "SELECT count(*) FROM enrolment"); n != writes {
		t.Errorf("%d rows, want %d", n, writes)
	}
}

func TestIncompleteRecordsAreRefused(t *testing.T) {
	t.Parallel()
	s := openNew(t, Options{})
	for what, change := range map[string]func(*mef.Enrolment){
		"no KeID":        func(e *mef.Enrolment) { e.KeID = muster.KeID{} },
		"no Enrolee":     func(e *mef.Enrolment) { e.EnroleeID = muster.EnroleeID{} },
		"no key":         func(e *mef.Enrolment) { e.Ke = muster.Ke{} },
		"no target":      func(e *mef.Enrolment) { e.Targets = nil },
		"a target twice": func(e *mef.Enrolment) { e.Targets = append(e.Targets, e.Targets[0]) },
	} {
		e := sample(t, 1)
		change(&e)
		if _, err := s.CreateEnrolment(t.Context(), e, 1); err == nil || decided(err) {
			t.Errorf("%s: %v, want a failure", what, err)
		}
	}
	if n := s.count(t, "SELECT count(*) FROM enrolment"); n != 0 {
		t.Errorf("%d rows, want none", n)
	}
}

// Old data keys stay in use for their records, and new ones begin when the age
// or the number of seals says so, across restarts.
func TestDataKeysRotate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "muster.db")
	if err := Create(t.Context(), path, newSealer(t)); err != nil {
		t.Fatal(err)
	}
	created := time.Now()
	var ahead time.Duration
	reopen := func() *Store {
		s, err := Open(t.Context(), path, newSealer(t), Options{Now: func() time.Time { return created.Add(ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	store := func(s *Store, n int) {
		if _, err := s.CreateEnrolment(t.Context(), sample(t, n), 1); err != nil {
			t.Fatal(err)
		}
	}
	s := reopen()
	store(s, 1)
	store(s, 2)
	if n := s.count(t, "SELECT seals FROM data_key WHERE id = 1"); n != 2 {
		t.Errorf("data key 1 counts %d seals, want 2", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ahead = maxDataKeyAge + time.Hour
	s = reopen()
	store(s, 3) // is sealed before the writer replaces the key, and again after
	store(s, 4)
	s.keys.current.Load().seals.Store(maxSeals)
	store(s, 5)
	store(s, 6)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen()
	defer s.Close()
	for n, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3} {
		e := sample(t, n)
		if got := s.count(t, "SELECT data_key FROM enrolment WHERE ke_id = ?", archive.KeIDOctets(e.KeID)); got != want {
			t.Errorf("enrolment %d is sealed with data key %d, want %d", n, got, want)
		}
		f, err := s.FetchEnrolment(t.Context(), mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Max: 1})
		if err != nil || !f.Ke.Equal(e.Ke) {
			t.Errorf("enrolment %d: %v", n, err)
		}
	}
}

// A write that comes during a long sweep waits behind one slice of it.
func TestSweepYields(t *testing.T) {
	t.Parallel()
	s := openNew(t, Options{})
	const due = 3 * sweepSlice
	var all sync.WaitGroup
	for n := range due {
		all.Go(func() {
			if _, err := s.CreateEnrolment(t.Context(), sample(t, n), 1); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	release := occupy(t, s)
	defer release()
	swept := make(chan int, 1)
	go func() {
		n, err := s.Sweep(t.Context(), time.Unix(5000, 0), time.Hour, time.Hour, 10*due)
		if err != nil {
			t.Error(err)
		}
		swept <- n
	}()
	for len(s.write.queue) == 0 {
		time.Sleep(time.Millisecond)
	}
	var before int
	next := task{func() error {
		return s.write.conn.QueryRowContext(t.Context(), "SELECT count(*) FROM enrolment WHERE state = 5").Scan(&before)
	}, make(chan error, 1)}
	if err := s.write.enqueue(next, errOrdinary); err != nil {
		t.Fatal(err)
	}
	release()
	if n := <-swept; n != due {
		t.Errorf("swept %d, want %d", n, due)
	}
	if before != sweepSlice {
		t.Errorf("the next write waited for %d rows, want %d", before, sweepSlice)
	}
}

// A forgetful sealer fails to put a data key to use, a number of times.
type forgetfulSealer struct {
	Sealer
	failures int
}

func (f *forgetfulSealer) UseDataKey(id uint32, wrapped []byte) error {
	if id > 1 && f.failures > 0 {
		f.failures--
		return errOrdinary
	}
	return f.Sealer.UseDataKey(id, wrapped)
}

// A data key that is durable although its replacement failed is the one that the
// next attempt puts to use: otherwise no write would pass until a restart.
func TestDataKeyOfAFailedRotationIsUsed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "muster.db")
	if err := Create(t.Context(), path, newSealer(t)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path, &forgetfulSealer{newSealer(t), 2}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.keys.current.Load().seals.Store(maxSeals)
	for try := range 4 {
		_, err := s.CreateEnrolment(t.Context(), sample(t, try), 1)
		if failed := errors.Is(err, errOrdinary); failed != (try < 2) || failed && muster.CodeOf(err) != muster.CodeStoreFailed {
			t.Errorf("write %d: %v", try, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(t.Context(), path, newSealer(t), Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := s.count(t, "SELECT max(id) FROM data_key"); n != 2 {
		t.Errorf("the newest data key is %d, want 2", n)
	}
	for n, want := range map[int]int{2: 2, 3: 2} {
		e := sample(t, n)
		if got := s.count(t, "SELECT data_key FROM enrolment WHERE ke_id = ?", archive.KeIDOctets(e.KeID)); got != want {
			t.Errorf("enrolment %d is sealed with data key %d, want %d", n, got, want)
		}
		if f, err := s.FetchEnrolment(t.Context(), mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Max: 1}); err != nil || !f.Ke.Equal(e.Ke) {
			t.Errorf("enrolment %d: %v", n, err)
		}
	}
}

// Every statement finds its rows by an index, for a scan of ten million rows in
// the only writer would stop a MEF.
func TestStatementsUseIndexes(t *testing.T) {
	t.Parallel()
	s := openNew(t, Options{})
	for _, statement := range append((&writeStatements{}).all(), (&readStatements{}).all()...) {
		if strings.Contains(statement.text, "BEGIN") || statement.text == "COMMIT" || statement.text == "ROLLBACK" {
			continue
		}
		rows, err := s.readerDB.Query("EXPLAIN QUERY PLAN "+statement.text, make([]any, 11)...)
		if err != nil {
			t.Fatalf("%s: %v", statement.text, err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(plan, "; ")
		text = strings.ReplaceAll(text, "SCAN CONSTANT ROW", "ONE ROW") // of no table
		sweeps := strings.Contains(statement.text, "LIMIT")
		if strings.Contains(text, "SCAN") || !sweeps && strings.Contains(text, "_expiry") {
			t.Errorf("%s\nis planned as %s", statement.text, text)
		}
		if sweeps && strings.Contains(text, "TEMP B-TREE FOR ORDER BY") {
			t.Errorf("%s\nsorts more than a page: %s", statement.text, text)
		}
	}
}

// The settings on which durability and erasure rest are in force.
func TestPragmas(t *testing.T) {
	t.Parallel()
	s := openNew(t, Options{})
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "secure_delete": "1", "wal_autocheckpoint": "4000",
		"busy_timeout": "5000", "temp_store": "2", "cache_size": "-131072", "trusted_schema": "0",
	} {
		var got string
		if err := s.write.conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, want %q, %v", pragma, got, want, err)
		}
	}
	if _, err := s.readerDB.Exec("DELETE FROM data_key"); err == nil {
		t.Error("a reading connection writes")
	}
}
