package sqlite_test

import (
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"muster"
	"muster/sqlite"
)

// longVariable, if set, is by how much the runs of the fault suite are longer.
const longVariable = "MUSTER_FAULTS"

// long returns how many rounds a run has that has short ones in CI.
func long(t testing.TB, short int) int {
	t.Helper()
	text, ok := os.LookupEnv(longVariable)
	switch {
	case !ok && testing.Short():
		return (short + 2) / 3
	case !ok:
		return short
	}
	factor, err := strconv.Atoi(text)
	if err != nil || factor < 1 {
		t.Fatalf("%s is %q, want a factor", longVariable, text)
	}
	return short * factor
}

// A ledger knows which enrolments a store has acknowledged.
type ledger struct {
	mu           sync.Mutex
	acknowledged map[int]bool // guarded by mu
}

// A balance is what a store has of a ledger.
type balance struct{ acknowledged, present, lost, doubled int }

func (b balance) String() string {
	return fmt.Sprintf("acknowledged %d, present %d, lost %d, doubled %d", b.acknowledged, b.present, b.lost, b.doubled)
}

func newLedger() *ledger { return &ledger{acknowledged: map[int]bool{}} }

// enrol creates an enrolment and notes it if the store acknowledged it.
func (l *ledger) enrol(t testing.TB, store *sqlite.Store, n int) error {
	_, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 10)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.acknowledged[n] = true
	}
	return err
}

// count compares the ledger with the rows at path, acknowledged or not. It does
// not write. An error says that the database is damaged.
func (l *ledger) count(path string) (b balance, err error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return b, err
	}
	defer db.Close()
	var sound string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&sound); err != nil {
		return b, err
	} else if sound != "ok" {
		return b, fmt.Errorf("the database is not sound: %.60q", sound)
	}
	rows, err := db.Query("SELECT enrolee_id, count(*) FROM enrolment GROUP BY enrolee_id")
	if err != nil {
		return b, err
	}
	defer rows.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	b.acknowledged, b.lost = len(l.acknowledged), len(l.acknowledged)
	for rows.Next() {
		var enrolee string
		var times int
		if err := rows.Scan(&enrolee, &times); err != nil {
			return b, err
		}
		n, err := strconv.Atoi(strings.TrimPrefix(enrolee, "//sp.example.org/device"))
		if err != nil {
			return b, err
		}
		b.present++
		if l.acknowledged[n] {
			b.lost--
		}
		if times > 1 {
			b.doubled++
		}
	}
	return b, rows.Err()
}

// reconcile fails unless the store at path, which is closed, opens, has all that
// the ledger has, and takes a repeated enrolment for itself.
func (l *ledger) reconcile(t testing.TB, path string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{})
	if err != nil {
		t.Fatalf("the store does not open: %v", err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	b, err := l.count(path)
	t.Log(b)
	if err != nil || b.lost != 0 || b.doubled != 0 {
		t.Errorf("want none lost and none doubled, %v", err)
	}
	var all sync.WaitGroup
	callers := make(chan struct{}, 512) // fewer than the queue has room for
	for n := range l.acknowledged {
		callers <- struct{}{}
		all.Go(func() { wantWhole(t, store, n); <-callers })
	}
	all.Wait()
}

func wantStoreFailed(t testing.TB, err error) {
	t.Helper()
	if muster.CodeOf(err) != muster.CodeStoreFailed {
		t.Errorf("the failed write: %v, want the code %s", err, muster.CodeStoreFailed)
	}
}
