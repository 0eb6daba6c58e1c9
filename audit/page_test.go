package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPageIsBounded reads entries of which a page does not hold as many as are wanted.
func TestPageIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := Open(Config{Path: path, Writer: "mef.example"})
	if err != nil {
		t.Fatal(err)
	}
	const entries = 300
	for range entries {
		if err := log.Record(t.Context(), Entry{Kind: KindRefused, Who: strings.Repeat("\x01", maxText), What: strings.Repeat("\x01", maxText)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for _, page := range []func(string, Place, int) ([]json.RawMessage, Place, error){Page, PageBack} {
		seen, pages := 0, 0
		for at := (Place{}); pages == 0 || at != (Place{}); pages++ {
			lines, next, err := page(path, at, entries)
			if err != nil || len(lines) == 0 {
				t.Fatalf("at %v: %d entries, %v", at, len(lines), err)
			}
			seen, at = seen+len(lines), next
		}
		if seen != entries || pages < 2 {
			t.Errorf("%d entries in %d pages", seen, pages)
		}
	}
}

// TestPages reads a log of several files in both directions, in pages of every size,
// while the end of it is being written.
func TestPages(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	const entries = 25
	log, err := Open(Config{Path: path, Writer: "mef.example", MaxSize: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if err := log.Record(t.Context(), Entry{Kind: KindEnrolled, Who: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := segments(path)
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	torn, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"seq":26,`); err != nil {
		t.Fatal(err)
	}
	if err := torn.Close(); err != nil {
		t.Fatal(err)
	}
	type pager func(string, Place, int) ([]json.RawMessage, Place, error)
	read := func(page pager, limit int) (seqs []uint64) {
		for at := (Place{}); ; {
			lines, next, err := page(path, at, limit)
			if err != nil || len(lines) > limit {
				t.Fatalf("at %v: %d entries, %v", at, len(lines), err)
			}
			for _, line := range lines {
				seq, err := seqOf(line)
				if err != nil {
					t.Fatal(err)
				}
				seqs = append(seqs, seq)
			}
			if next == (Place{}) {
				return seqs
			}
			at = next
		}
	}
	var want []uint64
	for seq := range uint64(entries) {
		want = append(want, seq+1)
	}
	for _, limit := range []int{1, 2, 3, 7, entries, entries + 1} {
		if got := read(Page, limit); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %d", limit, got)
		}
		got := read(PageBack, limit)
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Errorf("backwards in pages of %d: %d", limit, got)
		}
	}
	for _, page := range []pager{Page, PageBack} {
		_, next, err := page(path, Place{}, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range []Place{{next.Seq, next.Offset + 1}, {next.Seq + 1, next.Offset}, {next.Seq, -1}, {next.Seq, 1 << 40}, {0, next.Offset}} {
			if lines, _, err := page(path, wrong, 2); !errors.Is(err, ErrNoPlace) {
				t.Errorf("at %v: %d entries, %v", wrong, len(lines), err)
			}
		}
	}
	if lines, next, err := Page(filepath.Join(t.TempDir(), "none"), Place{}, 1); len(lines) != 0 || next != (Place{}) || err != nil {
		t.Errorf("without a log: %d, %v, %v", len(lines), next, err)
	}
}
