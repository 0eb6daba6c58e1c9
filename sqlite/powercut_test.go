package sqlite_test

import (
	"database/sql"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	lib "modernc.org/sqlite/lib"

	"muster/sqlite"
)

// A recording is a run of a store on a disk that remembers.
type recording struct {
	start        image
	history      []diskOp
	acknowledged map[int]int // enrolment → number of operations before the answer
}

// record enrols on a disk whose syncs fail now and then, if troubled. The log is
// folded into the file often, and the keys are put under a new data key now and
// then, so that cuts meet that as well.
func record(t *testing.T, enrolments int, troubled bool, settings ...string) recording {
	t.Helper()
	path := create(t)
	octets, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := recording{start: image{filepath.Base(path): octets}, acknowledged: map[int]int{}}
	d := newDisk(t, filepath.Dir(path))
	d.record = true
	store := openAt(t, path)
	for _, setting := range append(settings, "wal_autocheckpoint = 40") {
		if err := store.Pragma(t.Context(), setting); err != nil {
			t.Fatal(err)
		}
	}
	chance := rand.New(rand.NewPCG(7, 11))
	if troubled {
		d.fail(func(op diskOp) int32 {
			if op.kind == opSync && chance.IntN(5) == 0 {
				return lib.SQLITE_IOERR_FSYNC
			}
			return lib.SQLITE_OK
		})
	}
	for n := range enrolments {
		_, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 10)
		switch {
		case err == nil:
			r.acknowledged[n] = d.moment()
		case troubled:
			wantStoreFailed(t, err)
		default:
			t.Fatal(err)
		}
		if n%20 != 19 {
			continue
		}
		if err := reseal(t.Context(), store); err != nil && !troubled {
			t.Fatal(err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r.history = slices.Clone(d.history)
	return r
}

// restore puts what a power cut left into a folder, and returns the path of the
// database and the ledger of what was acknowledged by then.
func (r recording) restore(t *testing.T, cut int, chance *rand.Rand) (string, *ledger) {
	t.Helper()
	files := image{}
	for name, octets := range r.start {
		files[name] = slices.Clone(octets)
	}
	files.afterPowerCut(r.history[:cut], chance.IntN)
	folder := t.TempDir()
	for name, octets := range files {
		if err := os.WriteFile(filepath.Join(folder, name), octets, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := newLedger()
	for n, moment := range r.acknowledged {
		if moment <= cut {
			l.acknowledged[n] = true
		}
	}
	return filepath.Join(folder, slices.Collect(maps.Keys(r.start))[0]), l
}

// cuts returns points of the history: all of them in a long run, as many as
// asked for otherwise.
func (r recording) cuts(t *testing.T, short int, chance *rand.Rand) []int {
	points := chance.Perm(len(r.history) + 1)
	return points[:min(long(t, short), len(points))]
}

// Wherever the power is cut, and whatever the disk has of what was not synced,
// the store opens and has what it acknowledged, and every key opens.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	chance := rand.New(rand.NewPCG(1, 2))
	for what, troubled := range map[string]bool{"a sound disk": false, "a disk whose syncs fail": true} {
		r := record(t, 60, troubled)
		var sum balance
		for _, cut := range r.cuts(t, 40, chance) {
			path, l := r.restore(t, cut, chance)
			store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{})
			if err != nil {
				t.Fatalf("%s: after a cut at %d of %d: %v", what, cut, len(r.history), err)
			}
			b, err := l.count(path)
			if err != nil || b.lost != 0 || b.doubled != 0 {
				t.Errorf("%s: after a cut at %d of %d: %v, %v", what, cut, len(r.history), b, err)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
			if report, err := sqlite.Check(t.Context(), path, sealer(t)); err != nil || !report.Sound() {
				t.Errorf("%s: after a cut at %d of %d: %+v, %v", what, cut, len(r.history), report, err)
			}
			sum = balance{sum.acknowledged + b.acknowledged, sum.present + b.present, sum.lost + b.lost, sum.doubled + b.doubled}
		}
		t.Logf("%s, %d operations: %v in all", what, len(r.history), sum)
		if sum.acknowledged == 0 {
			t.Errorf("%s: no cut came after an answer", what)
		}
	}
}

// Wherever the power is cut while a schema goes one version back and forward again,
// the file is of one of the two versions, and of the one that was told.
func TestPowerCutOfMigration(t *testing.T) {
	t.Parallel()
	path := withOne(t)
	tables := func(path string) string {
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var all string
		err = db.QueryRow(`SELECT user_version || ' ' || (SELECT group_concat(x) FROM (
			SELECT name || coalesce(sql, '') AS x FROM sqlite_schema ORDER BY name)) FROM pragma_user_version`).Scan(&all)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	octets, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := recording{start: image{filepath.Base(path): octets}}
	newer := tables(path)
	d := newDisk(t, filepath.Dir(path))
	d.record = true
	if _, _, err := sqlite.MigrateBack(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	back := d.moment()
	older := tables(path)
	if _, _, err := sqlite.Migrate(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	r.history = d.history
	chance := rand.New(rand.NewPCG(5, 6))
	seen := map[string]int{}
	for cut := range len(r.history) + 1 {
		path, _ := r.restore(t, cut, chance)
		got := tables(path)
		seen[got]++
		told := map[int]string{back: older, len(r.history): newer}[cut]
		if got != older && got != newer || told != "" && got != told {
			t.Errorf("after a cut at %d of %d, %d of them back: %s", cut, len(r.history), back, got)
		}
		store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{})
		if err != nil {
			t.Fatalf("after a cut at %d: %v", cut, err)
		}
		wantWhole(t, store, 1)
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		if tables(path) != newer {
			t.Errorf("after a cut at %d the next start leaves %s", cut, tables(path))
		}
	}
	if seen[older] == 0 || seen[newer] == 0 {
		t.Errorf("of %d cuts %d found the older version and %d the newer", len(r.history), seen[older], seen[newer])
	}
}

// Without syncs the same cuts must lose, or the simulator proves nothing. What
// they leave may not even open.
func TestPowerCutWithoutSync(t *testing.T) {
	t.Parallel()
	chance := rand.New(rand.NewPCG(3, 4))
	r := record(t, 60, false, "synchronous = OFF")
	for _, cut := range r.cuts(t, 40, chance) {
		path, l := r.restore(t, cut, chance)
		store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{})
		if err != nil {
			t.Logf("after a cut at %d: %v", cut, err)
			return
		}
		b, damage := l.count(path)
		_ = store.Close() // may find the damage too
		if damage != nil || b.lost > 0 {
			t.Logf("after a cut at %d: %v, %v", cut, b, damage)
			return
		}
	}
	t.Error("nothing was lost without syncs")
}
