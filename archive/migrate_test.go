package archive_test

import (
	"errors"
	"testing"
)

// TestOneVersionBack brings a store of every kind of record and state one version back
// and forward again. The version before may have it; nothing is lost, and every key opens.
func TestOneVersionBack(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		place, s := e.unpruned(t)
		before := records(e.written(t, place))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		newest, older, err := e.migrateBack(t.Context(), place)
		if older != newest-1 || err != nil {
			t.Fatalf("from %d to %d, %v", newest, older, err)
		}
		if _, err := e.check(t.Context(), place, sealer(t, 0)); !errors.Is(err, e.older) {
			t.Errorf("checked: %v, want %v", err, e.older)
		}
		if _, _, err := e.migrateBack(t.Context(), place); !errors.Is(err, e.irreversible) {
			t.Errorf("one more version back: %v, want %v", err, e.irreversible)
		}
		for _, begun := range []int{older, newest} {
			if from, to, err := e.migrate(t.Context(), place); from != begun || to != newest || err != nil {
				t.Errorf("forward from %d to %d, %v, want from %d to %d", from, to, err, begun, newest)
			}
		}
		if report, err := e.check(t.Context(), place, sealer(t, 0)); err != nil || !report.Sound() || report.Schema != newest {
			t.Errorf("in the end %+v, %v", report, err)
		}
		if after := records(e.written(t, place)); after != before {
			t.Errorf("in the end the store has %s\nwant %s", after, before)
		}
		if err := e.opened(t, place).PruneAudit(t.Context(), "mef-1", 2, digest(2)); err != nil {
			t.Errorf("what the newest version knows alone: %v", err)
		}
	})
}

// A pruned audit log keeps its anchor.
func TestNoWayBackWithAnchors(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		place, s := e.made(t)
		before := records(e.written(t, place))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.migrateBack(t.Context(), place); !errors.Is(err, e.irreversible) {
			t.Errorf("went back: %v, want %v", err, e.irreversible)
		}
		if report, err := e.check(t.Context(), place, sealer(t, 0)); err != nil || !report.Sound() {
			t.Errorf("in the end %+v, %v", report, err)
		}
		if after := records(e.written(t, place)); after != before {
			t.Errorf("in the end the store has %s\nwant %s", after, before)
		}
	})
}
