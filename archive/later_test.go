package archive_test

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"muster/archive"
	"muster/mef"
	"muster/tef"
)

// laterThan reads an archive as what a store came to; a table of it may be cut off.
func laterThan(t *testing.T, text []byte, cut string) archive.Later {
	t.Helper()
	return func(_ context.Context, table archive.Table, visit func(archive.Record) error) error {
		for r, err := range read(t, text) {
			if err == nil && r.Table() == table.Name {
				if table.Name == cut {
					return errors.New("the rest cannot be read")
				}
				err = visit(r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// endSome ends records of each kind, by every way in which they end.
func endSome(t *testing.T, s store) {
	t.Helper()
	ctx, f := t.Context(), fqdn(t, "mef.example.org")
	waiting, erased := enrolment(t, 3, 3), enrolment(t, 0, 5)
	_, err1 := s.FetchEnrolment(ctx, mef.Fetch{KeID: waiting.KeID, MAF: fqdn(t, "maf.example.org"), Now: now(), Window: time.Hour, Max: 9})
	err2 := s.EraseEnrolment(ctx, erased.KeID, fqdn(t, "maf.example.org"))
	err3 := s.DeleteRegistration(ctx, fqdn(t, "maf.example.org"), enrolee(t, 1), "reg1")
	c, err4 := s.IssueCommand(ctx, f, "reg0", now())
	err5 := s.ReportCommand(ctx, f, "reg0", c.ID, 20, now())
	id := tef.NewKeyID(enrolment(t, 1, 51).KeID.Relative(), fqdn(t, "maf.example.org"))
	key, err6 := s.Key(ctx, id, "//sp.example.org/z", now())
	key.Targets = []string{"//sp.example.org/z"}
	_, err7 := s.UpdateKey(ctx, key)
	_, err8 := s.FetchKey(ctx, tef.KeyFetch{ID: id, Target: "//sp.example.org/z", Now: now(), Window: time.Hour, Max: 9})
	_, err9 := s.Sweep(ctx, now().Add(time.Hour), 30*time.Minute, time.Hour, 100)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		t.Fatal(err)
	}
}

// TestWithdrawWithLater returns a store to an earlier state, and has a later one tell
// what ended meanwhile: nothing else does, and it is as the later one is.
func TestWithdrawWithLater(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, e engine) {
		place, s := e.made(t)
		before := e.written(t, place)
		endSome(t, s)
		after := e.written(t, place)
		uses := regexp.MustCompile(`"seals":[0-9]+`) // which alone goes on
		same := func(text []byte) string { return uses.ReplaceAllString(records(text), "") }
		if same(before) == same(after) {
			t.Fatal("nothing has ended")
		}
		back := func() string {
			t.Helper()
			place := e.place(t)
			if _, _, err := e.fill(t.Context(), place, read(t, before), sealer(t, 0), true); err != nil {
				t.Fatal(err)
			}
			return place
		}
		place = back()
		for range 2 { // the second time there is nothing left to do
			if w, _, err := e.withdraw(t.Context(), place, sealer(t, 0), true, laterThan(t, after, "")); err != nil || w != (archive.Withdrawn{}) {
				t.Fatalf("withdrawn %+v, %v", w, err)
			}
			if got, want := same(e.written(t, place)), same(after); got != want {
				t.Errorf("the store is\n%s\nwant\n%s", got, want)
			}
		}
		for table, empty := range map[string]func(archive.Withdrawn) bool{
			"enrolment":        func(w archive.Withdrawn) bool { return w.Enrolments == 0 },
			"key_registration": func(w archive.Withdrawn) bool { return w.Keys == 0 },
			"kpm":              func(w archive.Withdrawn) bool { return w.Kpms == 0 },
		} {
			w, c, err := e.withdraw(t.Context(), back(), sealer(t, 0), true, laterThan(t, after, table))
			if err != nil || len(c.Unread) != 1 || c.Unread[0] != table || empty(w) {
				t.Errorf("without %s: carried over %+v, withdrawn %+v, %v", table, c, w, err)
			}
		}
		none := func(context.Context, archive.Table, func(archive.Record) error) error { return nil }
		if _, _, err := e.withdraw(t.Context(), place, sealer(t, 0), false, none); !errors.Is(err, archive.ErrEarlier) {
			t.Errorf("without a data key: %v, want ErrEarlier", err)
		}
		other, _ := e.made(t)
		if _, _, err := e.withdraw(t.Context(), place, sealer(t, 0), false, laterThan(t, e.written(t, other), "")); err == nil {
			t.Error("another store was taken for a later one")
		}
		if got, want := same(e.written(t, place)), same(after); got != want {
			t.Error("what was refused has changed the store")
		}
	})
}
