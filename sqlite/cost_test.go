package sqlite_test

import (
	"encoding/binary"
	"os"
	"testing"

	"muster/mustertest"
)

// TestCost counts what enrolments one after the other make SQLite write: transactions,
// each of which waits for the disk once, and pages.
func TestCost(t *testing.T) {
	t.Parallel()
	const before, counted = 200, 64 // fewer pages than begin a checkpoint
	path := create(t)
	store := openAt(t, path)
	enrol := func(from, to int) (pages, commits int) {
		for n := from; n < to; n++ {
			if _, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 10); err != nil {
				t.Fatal(err)
			}
		}
		return countLog(t, path+"-wal")
	}
	pages, commits := enrol(0, before)
	allPages, allCommits := enrol(before, before+counted)
	mustertest.Count(t, "pages of an enrolment", "pages", float64(allPages-pages)/counted)
	mustertest.Count(t, "transactions of an enrolment", "transactions", float64(allCommits-commits)/counted)
}

// countLog counts the pages in a write-ahead log, and those that end a transaction
// (the format is that of https://www.sqlite.org/fileformat2.html#walformat).
func countLog(t *testing.T, file string) (pages, commits int) {
	t.Helper()
	const logHeader, pageHeader, salts = 32, 24, 8
	log, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	size := int(binary.BigEndian.Uint32(log[8:]))
	current := string(log[16 : 16+salts])
	for at := logHeader; at+pageHeader+size <= len(log) && string(log[at+8:at+8+salts]) == current; at += pageHeader + size {
		pages++
		if binary.BigEndian.Uint32(log[at+4:]) != 0 {
			commits++
		}
	}
	return pages, commits
}
