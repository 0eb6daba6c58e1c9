package archive_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"testing"

	"muster"
	"muster/archive"
	"muster/seal"
)

// What one engine has exported another makes a store of that has the same archive,
// and serves what the first served.
func TestFromEngineToEngine(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, from engine) {
		source, _ := from.made(t)
		first := from.written(t, source)
		for _, table := range archive.Tables() {
			if !strings.Contains(string(first), `{"table":"`+table.Name+`",`) {
				t.Errorf("the archive has no record of %s", table.Name)
			}
		}
		for n := range 4000 {
			if bytes.Contains(first, []byte(base64.StdEncoding.EncodeToString(octets(n)))) != (n < 8) { // those of sessions are no keys
				t.Errorf("the archive has, or lacks, the octets %d", n)
			}
		}
		for _, to := range []engine{onSQLite(), onPostgres()} {
			t.Run("to "+to.name, func(t *testing.T) {
				place := to.place(t)
				w, report, err := to.fill(t.Context(), place, read(t, first), sealer(t, 0), true)
				if err != nil {
					t.Fatal(err)
				}
				if w != (archive.Withdrawn{}) || !report.Sound() || report.Sealed == 0 {
					t.Errorf("withdrawn %+v, report %+v", w, report)
				}
				second := to.written(t, place)
				if records(first) != records(second) {
					t.Errorf("exported\n%s\nimported, and exported again\n%s", first, second)
				}
				served(t, to.opened(t, place))
				if records(to.written(t, place)) == records(second) {
					t.Error("the store that was made does not change")
				}
			})
		}
	})
}

// served asks a store for what populate has left, and for something new.
func served(t *testing.T, s store) {
	t.Helper()
	e := enrolment(t, 0, 5, "maf.example.org", "a.maf.example.org")
	stored, err := s.EnrolmentOf(t.Context(), e.EnroleeID, e.Session, now())
	if err != nil || !stored.Ke.Equal(e.Ke) || stored.KeID != e.KeID {
		t.Errorf("an enrolment: %v", err)
	}
	next, err := s.CreateEnrolment(t.Context(), enrolment(t, 0, 77, "maf.example.org"), 9)
	if err != nil || next.Generation != 3 {
		t.Errorf("a new enrolment has generation %d: %v", next.Generation, err)
	}
	command, err := s.IssueCommand(t.Context(), fqdn(t, "mef.example.org"), "reg0", now())
	if err != nil || command.ID != "cmd9" {
		t.Errorf("the first command is %q: %v", command.ID, err)
	}
	id, err := muster.ParseKpmID("device-1@factory.example.org")
	if err != nil {
		t.Fatal(err)
	}
	if kpm, err := s.Kpm(t.Context(), id, now()); err != nil || kpm.Kpm.IsZero() {
		t.Errorf("a pre-provisioned key: %v", err)
	}
}

// An archive that is older than its store revives nothing that may have ended.
func TestImportWithdraws(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, e engine) {
		source, _ := e.made(t)
		place := e.place(t)
		w, _, err := e.fill(t.Context(), place, e.records(t.Context(), source), sealer(t, 0), false)
		if err != nil {
			t.Fatal(err)
		}
		want := archive.Withdrawn{Enrolments: 9, Credentials: 0, KeIDs: 2, Keys: 2, Kpms: 2}
		if w != want {
			t.Errorf("withdrawn %+v, want %+v", w, want)
		}
		s := e.opened(t, place)
		if _, err := s.CredentialByKeID(t.Context(), enrolment(t, 1, 1).KeID, now()); err == nil {
			t.Error("a KeID opens sessions")
		}
		text := string(e.written(t, place))
		for table, left := range map[string]int{"enrolment": 0, "credential": 3, "key_registration": 0, "kpm": 0} {
			sealed := regexp.MustCompile(`"table":"` + table + `",.*"sealed":`)
			if n := len(sealed.FindAllString(text, -1)); n != left {
				t.Errorf("%d keys are left of %s, want %d", n, table, left)
			}
		}
	})
}

// A store that has returned to an earlier state takes back what an import would.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, e engine) {
		place, s := e.made(t)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		w, _, err := e.withdraw(t.Context(), place, sealer(t, 0), false, nil)
		if want := (archive.Withdrawn{Enrolments: 9, KeIDs: 2, Keys: 2, Kpms: 2}); err != nil || w != want {
			t.Errorf("withdrawn %+v, want %+v; %v", w, want, err)
		}
		if w, _, err := e.withdraw(t.Context(), place, sealer(t, 0), false, nil); err != nil || w != (archive.Withdrawn{}) {
			t.Errorf("withdrawn again: %+v, %v", w, err)
		}
		if report, err := e.check(t.Context(), place, sealer(t, 0)); err != nil || !report.Sound() || report.Sealed != 3 {
			t.Errorf("what is left: %+v, %v", report, err)
		}
		if _, _, err := e.withdraw(t.Context(), e.place(t), sealer(t, 0), false, nil); err == nil {
			t.Error("there is no store, and something was withdrawn")
		}
	})
}

// An archive that is not as it was written makes no store, of either engine.
func TestDamagedArchives(t *testing.T) {
	t.Parallel()
	from := onSQLite()
	source, _ := from.made(t)
	text := from.written(t, source)
	eachEngine(t, func(t *testing.T, e engine) {
		place := e.place(t)
		for what, damage := range damages() {
			lines := strings.SplitAfter(string(text), "\n")
			damaged := damage(lines[:len(lines)-1])
			if damaged == nil || bytes.Equal(damaged, text) {
				t.Fatalf("%s: there is no damage", what)
			}
			// What the reader finds it finds for each engine; one of it is enough.
			if e.name != from.name && what != "without a record" && !readable(t, damaged) {
				continue
			}
			_, _, err := e.fill(t.Context(), place, read(t, damaged), sealer(t, 0), true)
			if what == "without data keys" && errors.Is(err, seal.ErrDataKey) {
				continue
			}
			if !errors.Is(err, archive.ErrDamaged) {
				t.Errorf("%s: %v, want ErrDamaged", what, err)
			}
		}
		// Each time nothing was left in the way.
		if _, _, err := e.fill(t.Context(), place, read(t, text), sealer(t, 0), true); err != nil {
			t.Error(err)
		}
		if _, _, err := e.fill(t.Context(), place, read(t, text), sealer(t, 0), true); !errors.Is(err, e.exists) {
			t.Errorf("over a store: %v, want %v", err, e.exists)
		}
		if records(e.written(t, place)) != records(text) {
			t.Error("the store in the way was changed")
		}
		if _, _, err := e.fill(t.Context(), e.place(t), read(t, text), sealer(t, 1), true); !errors.Is(err, seal.ErrRoot) {
			t.Errorf("under another root key: %v, want ErrRoot", err)
		}
	})
}

func readable(t *testing.T, text []byte) bool {
	t.Helper()
	for _, err := range read(t, text) {
		if err != nil {
			return false
		}
	}
	return true
}

// A store is exported while it is used: what was acknowledged before is there, and
// the archive is sound.
func TestExportWhileWriting(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, e engine) {
		place, s := e.made(t)
		stop, stopped := make(chan struct{}), make(chan error, 1)
		started := make(chan struct{})
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				if _, err := s.CreateEnrolment(t.Context(), enrolment(t, 1000+n, 1000+n, "maf.example.org"), 9); err != nil {
					stopped <- err
					return
				}
				if n == 10 {
					close(started)
				}
			}
		}()
		select {
		case <-started:
		case err := <-stopped:
			t.Fatal(err)
		}
		text := e.written(t, place)
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if n := strings.Count(string(text), `{"table":"enrolment"`); n < 16+11 {
			t.Errorf("the archive has %d parts of enrolments", n)
		}
		if _, _, err := e.fill(t.Context(), e.place(t), read(t, text), sealer(t, 0), true); err != nil {
			t.Error(err)
		}
	})
}

// A damaged store is not exported, and a check says so.
func TestDamagedStore(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, e engine) {
		source, _ := e.made(t)
		damaged := func(yield func(archive.Record, error) bool) {
			for r, err := range e.records(t.Context(), source) {
				if k, ok := r.(*archive.Credential); ok {
					k.Enrolee = "//sp.example.org/thief"
				}
				if !yield(r, err) {
					return
				}
			}
		}
		report := archive.NewReport()
		var out bytes.Buffer
		err := archive.Write(&out, header(e.name), report.Watch(damaged, sealer(t, 0)))
		if !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("exporting: %v, want ErrDamaged", err)
		}
		if report, err := e.check(t.Context(), source, sealer(t, 0)); err != nil || !report.Sound() || report.Rows["enrolment"] != 16 {
			t.Errorf("the check of the store: %+v, %v", report, err)
		}
		if _, err := e.check(t.Context(), source, sealer(t, 1)); !errors.Is(err, seal.ErrRoot) {
			t.Errorf("the check under another root key: %v, want ErrRoot", err)
		}
	})
}

func TestOtherFiles(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"":                         archive.ErrFormat,
		"SQLite format 3\x00":      archive.ErrFormat,
		"{}\n":                     archive.ErrFormat,
		"{\"format\":\"tar\"}\n":   archive.ErrFormat,
		"[]\n":                     archive.ErrFormat,
		strings.Repeat("x", 5<<20): archive.ErrFormat,
		`{"format":"muster-store","version":3,"future":true}` + "\n":                                                           archive.ErrNewer,
		`{"format":"muster-store","version":1}` + "\n":                                                                         archive.ErrDamaged,
		`{"format":"muster-store","version":1,"engine":"x","schema":1,"created":"yesterday"}` + "\n":                           archive.ErrDamaged,
		`{"format":"muster-store","version":1,"engine":"x","schema":1,"created":"2026-01-01T00:00:00Z","colour":"red"}` + "\n": archive.ErrDamaged,
	} {
		if _, err := archive.NewReader(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("%.80q: %v, want %v", text, err, want)
		}
	}
}
