package audit_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/audit"
)

// A memory is a Store that can be made to fail.
type memory struct {
	mu    sync.Mutex
	fails bool
	lines []string // of the one log, empty where pruned
	seq   uint64   // of the anchor
	hash  muster.Digest
}

func (m *memory) AuditAnchor(context.Context, string) (uint64, muster.Digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seq, m.hash, nil
}

func (m *memory) PruneAudit(_ context.Context, _ string, seq uint64, hash muster.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq, m.hash = seq, hash
	clear(m.lines[:seq])
	return nil
}

func (m *memory) AppendAudit(_ context.Context, _ string, first uint64, lines []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails || first > uint64(len(m.lines))+1 {
		return fmt.Errorf("not entry %d", first)
	}
	m.lines = append(m.lines[:first-1], lines...)
	return nil
}

func (m *memory) AuditEnd(context.Context, string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.lines)), nil
}

func (m *memory) AuditLines(_ context.Context, _ string, after uint64, limit int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := m.lines[min(after, uint64(len(m.lines))):]
	return rest[:min(limit, len(rest))], nil
}

func (m *memory) fail(fails bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails = fails
}

// TestStoreFollowsTheFile has a store fail for a while, and miss a run of the log.
func TestStoreFollowsTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	store := &memory{}
	record := func(sinks []audit.Sink, wants ...bool) {
		t.Helper()
		log := open(t, audit.Config{Path: path, Sinks: sinks})
		for i, want := range wants {
			store.fail(!want)
			if err := log.Record(t.Context(), audit.Entry{Kind: audit.KindRead, Who: fmt.Sprint(i)}); (err == nil) != want {
				t.Errorf("entry %d: %v", i, err)
			}
		}
		must(t, log.Close())
	}
	verify := func(want uint64) audit.Head {
		t.Helper()
		file, err := audit.Verify(path, audit.Head{}, audit.Head{}, nil)
		must(t, err)
		seen := uint64(0)
		head, err := audit.VerifyStore(t.Context(), store, "x", audit.Head{}, file, func(audit.Entry) { seen++ })
		must(t, err)
		if head != file || head.Seq != want || seen != want {
			t.Errorf("the store ends with %v after %d, the file with %v; want %d", head, seen, file, want)
		}
		return head
	}
	sinks := func() []audit.Sink { return []audit.Sink{audit.NewStoreSink(store, "x")} }
	record(sinks(), true, false, false, true) // the fourth brings the two before it
	verify(4)
	record(nil, true, true)
	record(sinks(), true) // catches up
	verify(7)
	record(sinks(), false)
	store.fail(false)
	record(sinks())
	head := verify(8)

	changed := strings.Replace(store.lines[3], `"read"`, `"done"`, 1)
	store.lines[3], changed = changed, store.lines[3]
	if _, err := audit.VerifyStore(t.Context(), store, "x", audit.Head{}, audit.Head{}, nil); !errors.Is(err, audit.ErrBroken) {
		t.Error("a change was not found:", err)
	}
	store.lines[3] = changed
	store.lines = store.lines[:7]
	if _, err := audit.VerifyStore(t.Context(), store, "x", audit.Head{}, head, nil); !errors.Is(err, audit.ErrBroken) {
		t.Error("a missing end was not found:", err)
	}
}

// TestPrunedStore prunes a log twice, and takes what is left for a whole log only
// after the anchor.
func TestPrunedStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	store := &memory{}
	log := open(t, audit.Config{Path: path, Sinks: []audit.Sink{audit.NewStoreSink(store, "x")}})
	var begun time.Time // of the fourth entry
	for n := range 6 {
		if n == 3 {
			time.Sleep(3 * time.Millisecond) // entries have milliseconds
			begun = time.Now().Truncate(time.Millisecond)
		}
		must(t, log.Record(t.Context(), audit.Entry{Kind: audit.KindRead, Who: fmt.Sprint(n)}))
	}
	must(t, log.Close())
	end, err := audit.VerifyStore(t.Context(), store, "x", audit.Head{}, audit.Head{}, nil)
	must(t, err)
	prune := func(before time.Time, wantWas, wantIs uint64) audit.Head {
		t.Helper()
		was, is, err := audit.Prune(t.Context(), store, "x", before, end)
		if err != nil || was.Seq != wantWas || is.Seq != wantIs {
			t.Errorf("pruned from %v to %v, %v; want %d and %d", was, is, err, wantWas, wantIs)
		}
		return is
	}
	prune(time.Time{}, 0, 0)
	anchor := prune(begun, 0, 3)
	prune(begun, 3, 3)
	if head, err := audit.VerifyStore(t.Context(), store, "x", anchor, audit.Head{}, nil); err != nil || head != end {
		t.Errorf("after the anchor: %v, %v; want %v", head, err, end)
	}
	broken := func(what string, from audit.Head) {
		t.Helper()
		if _, err := audit.VerifyStore(t.Context(), store, "x", from, audit.Head{}, nil); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: %v, want ErrBroken", what, err)
		}
	}
	broken("without the anchor", audit.Head{})
	broken("after another anchor", audit.Head{Seq: anchor.Seq, Hash: end.Hash})
	broken("after an earlier one", audit.Head{Seq: anchor.Seq - 1, Hash: anchor.Hash})
	fourth := store.lines[3]
	store.lines[3] = strings.Replace(fourth, `"read"`, `"done"`, 1)
	broken("a change behind the anchor", anchor)
	if _, is, err := audit.Prune(t.Context(), store, "x", time.Now().Add(time.Hour), audit.Head{}); !errors.Is(err, audit.ErrBroken) || is != anchor || store.seq != 3 {
		t.Errorf("a log that was changed is pruned to %v, %v", is, err)
	}
	store.lines[3] = ""
	broken("a gap behind the anchor", anchor)
	store.lines[3] = fourth
	prune(time.Now().Add(time.Hour), 3, 6)
}
