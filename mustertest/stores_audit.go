package mustertest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"muster"
	"muster/tef"
)

// auditStore is what audit.Store says, whose package this one does not know.
type auditStore interface {
	AppendAudit(ctx context.Context, log string, first uint64, lines []string) error
	AuditAnchor(ctx context.Context, log string) (uint64, muster.Digest, error)
	PruneAudit(ctx context.Context, log string, seq uint64, hash muster.Digest) error
	AuditEnd(ctx context.Context, log string) (uint64, error)
	AuditLines(ctx context.Context, log string, after uint64, limit int) ([]string, error)
}

// AuditStore holds a store to the contract of audit.Store.
func AuditStore[S auditStore](t *testing.T, open func(testing.TB) (S, func() S)) {
	store, reopen := open(t)
	lines := func(from, to int) (all []string) {
		for n := from; n <= to; n++ {
			all = append(all, fmt.Sprintf(`{"seq":%d,"what":"é \u0000"}`, n))
		}
		return all
	}
	wantEnd := func(log string, want uint64) {
		t.Helper()
		if end, err := store.AuditEnd(t.Context(), log); err != nil || end != want {
			t.Errorf("%s ends with %d, %v; want %d", log, end, err, want)
		}
	}
	wantEnd("mef-1", 0)
	wantError(t, "the first lines", store.AppendAudit(t.Context(), "mef-1", 1, lines(1, 3)), nil)
	wantError(t, "the same again, and more", store.AppendAudit(t.Context(), "mef-1", 2, lines(2, 5)), nil)
	wantError(t, "the same again", store.AppendAudit(t.Context(), "mef-1", 1, lines(1, 5)), nil)
	wantError(t, "a gap", store.AppendAudit(t.Context(), "mef-1", 7, lines(7, 7)), tef.ErrConflict)
	wantError(t, "another line", store.AppendAudit(t.Context(), "mef-1", 5, lines(6, 7)), tef.ErrConflict)
	wantError(t, "another log, which begins late", store.AppendAudit(t.Context(), "mef-2", 40, lines(40, 41)), nil)
	store = reopen()
	wantEnd("mef-1", 5)
	wantEnd("mef-2", 41)
	for _, page := range []struct {
		log   string
		after uint64
		limit int
		want  []string
	}{
		{"mef-1", 0, 10, lines(1, 5)}, {"mef-1", 2, 2, lines(3, 4)}, {"mef-1", 5, 10, nil}, {"mef-2", 0, 10, lines(40, 41)}, {"none", 0, 10, nil},
	} {
		got, err := store.AuditLines(t.Context(), page.log, page.after, page.limit)
		if err != nil || !slices.Equal(got, page.want) {
			t.Errorf("%s after %d: %q, %v; want %q", page.log, page.after, got, err, page.want)
		}
	}

	const many = 450 // more than go at once
	one, other := muster.DigestOf([]byte("one")), muster.DigestOf([]byte("other"))
	prune := func(what string, seq uint64, hash muster.Digest, want error) {
		t.Helper()
		wantError(t, what, store.PruneAudit(t.Context(), "mef-1", seq, hash), want)
	}
	wantAnchor := func(log string, wantSeq uint64, wantHash muster.Digest) {
		t.Helper()
		if seq, hash, err := store.AuditAnchor(t.Context(), log); err != nil || seq != wantSeq || hash != wantHash {
			t.Errorf("%s begins after %d, %v, %v; want %d, %v", log, seq, hash, err, wantSeq, wantHash)
		}
	}
	wantError(t, "many more", store.AppendAudit(t.Context(), "mef-1", 6, lines(6, many)), nil)
	prune("what is not there", many+1, one, tef.ErrUnknown)
	prune("nothing", 0, one, tef.ErrUnknown)
	wantAnchor("mef-1", 0, muster.Digest{})
	prune("a few", 3, one, nil)
	prune("the same again", 3, one, nil)
	prune("the same with another hash", 3, other, tef.ErrConflict)
	prune("what is gone", 2, other, tef.ErrUnknown)
	prune("most", many-1, other, nil)
	wantAnchor("mef-1", many-1, other)
	wantAnchor("mef-2", 0, muster.Digest{})
	wantEnd("mef-1", many)
	wantEnd("mef-2", 41)
	if got, err := store.AuditLines(t.Context(), "mef-1", 0, many); err != nil || !slices.Equal(got, lines(many, many)) {
		t.Errorf("what is left: %q, %v", got, err)
	}
	wantError(t, "what is pruned and what is left", store.AppendAudit(t.Context(), "mef-1", many-2, lines(many-2, many)), nil)
	wantError(t, "another than what is left", store.AppendAudit(t.Context(), "mef-1", many-1, lines(many-2, many-1)), tef.ErrConflict)
	prune("all", many, one, nil)
	wantEnd("mef-1", many)
	wantError(t, "a gap behind what is pruned", store.AppendAudit(t.Context(), "mef-1", many+2, lines(many+2, many+2)), tef.ErrConflict)
	wantError(t, "the next", store.AppendAudit(t.Context(), "mef-1", many, lines(many, many+1)), nil)
	wantEnd("mef-1", many+1)
}
