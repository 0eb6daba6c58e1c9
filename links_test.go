package muster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// TestLinks follows each relative link of the documents, its anchor included, and
// each path of a document or folder that stands in backticks.
func TestLinks(t *testing.T) {
	documents := []string{"README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"}
	for _, pattern := range []string{"docs/*.md", "docs/decisions/*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, more...)
	}
	for _, document := range documents {
		for _, problem := range brokenLinks(t, document) {
			t.Errorf("%s: %s", document, problem)
		}
	}
}

func TestBrokenLinks(t *testing.T) {
	t.Chdir(t.TempDir())
	const document = "# A `title`, and more\n\n# Twice\n\n# Twice\n\n" +
		"[a](#a-title-and-more) [b](other.md#here) [c](#twice-1) [d](https://away.example/x) `docs/*.md`\n" +
		"```\n# no-title [not a link](nowhere.md)\n```\n" +
		"[1](gone.md) [2](#twice-2) [3](other.md#there) [4](#no-title) `docs/gone.md` `deploy/gone`\n"
	for name, text := range map[string]string{"a.md": document, "other.md": "## Here\n", "docs/b.md": ""} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"gone.md", "#twice-2", "other.md#there", "#no-title", "docs/gone.md", "deploy/gone"}
	if got := brokenLinks(t, "a.md"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

var (
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	path    = regexp.MustCompile("`((?:docs|deploy)/[^`\\s]*)`")
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// brokenLinks returns the targets in a document that do not exist.
func brokenLinks(t *testing.T, document string) (broken []string) {
	text := prose(t, document)
	for _, match := range link.FindAllStringSubmatch(text, -1) {
		target := match[1]
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		file, anchor, _ := strings.Cut(target, "#")
		if file = filepath.Join(filepath.Dir(document), file); strings.HasPrefix(target, "#") {
			file = document
		}
		_, err := os.Stat(file)
		if err != nil || anchor != "" && !slices.Contains(anchors(t, file), anchor) {
			broken = append(broken, target)
		}
	}
	for _, match := range path.FindAllStringSubmatch(text, -1) {
		if found, err := filepath.Glob(match[1]); err != nil || len(found) == 0 {
			broken = append(broken, match[1])
		}
	}
	return broken
}

// anchors returns those of the headings, as forges form them.
func anchors(t *testing.T, document string) (all []string) {
	times := map[string]int{}
	for _, match := range heading.FindAllStringSubmatch(prose(t, document), -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, match[1])
		if n := times[anchor]; n > 0 {
			all = append(all, fmt.Sprintf("%s-%d", anchor, n))
		} else {
			all = append(all, anchor)
		}
		times[anchor]++
	}
	return all
}

// prose returns a document without its blocks of code.
func prose(t *testing.T, document string) string {
	octets, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return fence.ReplaceAllString(string(octets), "")
}
