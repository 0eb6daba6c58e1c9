package audit_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"muster/audit"
)

// A memory is a Store that can be made to fail.
type memory struct {
	mu    sync.Mutex
	fails bool
	lines []string // of the one log
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
