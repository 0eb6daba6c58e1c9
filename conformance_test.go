package muster_test

import (
	"encoding/csv"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

type clause struct{ document, number string }

// conformance returns the rows of docs/conformance.csv by clause.
func conformance(t *testing.T) map[clause][]string {
	t.Helper()
	file, err := os.Open("docs/conformance.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	records, err := csv.NewReader(file).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows := map[clause][]string{}
	for _, record := range records[1:] {
		c := clause{record[0], record[1]}
		if rows[c] != nil {
			t.Errorf("%v stands twice", c)
		}
		rows[c] = record
	}
	return rows
}

var (
	citation = regexp.MustCompile(`(TS-\d{4}) ([0-9A-Z]+(?:\.\d+)*(?:(?:,| to| and) [0-9]+(?:\.\d+)+)*)`)
	number   = regexp.MustCompile(`[0-9A-Z]+(?:\.\d+)+|[0-9]+`)
)

// cited returns every clause that the code cites, with a file that cites it.
func cited(t *testing.T) map[clause]string {
	t.Helper()
	found := map[clause]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// A citation may be broken over two lines of a comment.
		joined := regexp.MustCompile(`\n\s*// `).ReplaceAllString(string(text), " ")
		for _, match := range citation.FindAllStringSubmatch(joined, -1) {
			for _, n := range number.FindAllString(match[2], -1) {
				found[clause{match[1], n}] = path
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCitationsAreInTheConformanceTable(t *testing.T) {
	rows, citations := conformance(t), cited(t)
	if len(citations) < 40 {
		t.Fatalf("only %d citations were found", len(citations))
	}
	for c, path := range citations {
		if rows[c] == nil {
			t.Errorf("%s cites %s %s, which docs/conformance.csv does not have", path, c.document, c.number)
		}
	}
	for c := range rows {
		if citations[c] == "" {
			t.Errorf("docs/conformance.csv has %s %s, which no code cites", c.document, c.number)
		}
	}
}

func TestConformanceTableNamesWhatExists(t *testing.T) {
	for c, row := range conformance(t) {
		requirement, status := row[2], row[3]
		if requirement == "" || status != "implemented" && !strings.HasPrefix(status, "partial: ") && !strings.HasPrefix(status, "absent: ") {
			t.Errorf("%v has the requirement %q and the status %q", c, requirement, status)
		}
		for _, place := range row[4:6] {
			path, name, ok := strings.Cut(place, "#")
			text, err := os.ReadFile(path)
			if err != nil || !ok || !strings.Contains(string(text), name) {
				t.Errorf("%v names %s, which does not exist: %v", c, place, err)
			}
		}
		if !strings.HasPrefix(strings.Split(row[5]+"#", "#")[1], "Test") {
			t.Errorf("%v names no test", c)
		}
	}
}
