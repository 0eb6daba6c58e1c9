package main

import (
	"encoding"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"muster"
)

const referenceOpening = `# Configuration

Generated from the comments of the structs in ` + "`cmd/muster`" + `; a test compares it. ` + "`muster init`" + ` writes one file of each kind to begin with, and ` + "`muster config check FILE...`" + ` reads files as their commands do.

- A file is one YAML document. A key that is not in its table is refused, with its line and the nearest known key.
- A duration is a number with its unit, as 90s, 5m or 720h; it is not negative.
- The path of a key has ` + "`[]`" + ` after a key that holds a list.
- A relative path of a file is relative to the configuration that names it; ` + "`credential:NAME`" + ` is the credential that systemd has loaded under that name.
`

// referenceKinds are the files that the program reads, in the order of the reference.
var referenceKinds = []struct {
	title  string
	config reflect.Type
}{
	{"mef: the file of `muster mef`", reflect.TypeFor[mefConfig]()},
	{"maf: the file of `muster maf`", reflect.TypeFor[mafConfig]()},
	{"device: the file of `muster enrol`", reflect.TypeFor[enroleeConfig]()},
	{"operator: the file of `muster admin`", reflect.TypeFor[operatorConfig]()},
}

// TestReference compares docs/configuration.md; with MUSTER_UPDATE set it writes it.
func TestReference(t *testing.T) {
	r := reference{reached: map[string]bool{}}
	r.docs, r.structDocs = comments(t)
	r.text.WriteString(referenceOpening)
	for _, kind := range referenceKinds {
		fmt.Fprintf(&r.text, "\n## %s\n\n| key | kind | meaning |\n|---|---|---|\n", kind.title)
		r.rows("", kind.config)
	}
	for _, field := range slices.Sorted(maps.Keys(r.docs)) {
		if r.docs[field] == "" {
			t.Errorf("%s has no comment", field)
		}
		if !r.reached[field] {
			t.Errorf("%s has a key, but stands in no kind of file", field)
		}
	}

	const file = "../../docs/configuration.md"
	if os.Getenv("MUSTER_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(r.text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != r.text.String() {
		t.Error("docs/configuration.md is not what the structs say; MUSTER_UPDATE=1 go test -run TestReference ./cmd/muster writes it")
	}
}

// comments returns the comment of each field with a key in this package, and of
// each struct, on one line.
func comments(t *testing.T) (fields, structs map[string]string) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fields, structs = map[string]string{}, map[string]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.TYPE {
				continue
			}
			for _, spec := range group.Specs {
				spec := spec.(*ast.TypeSpec)
				structure, ok := spec.Type.(*ast.StructType)
				if !ok {
					continue
				}
				structs[spec.Name.Name] = oneLine(group.Doc)
				for _, field := range structure.Fields.List {
					if field.Tag == nil || !strings.Contains(field.Tag.Value, "yaml:") {
						continue
					}
					for _, name := range field.Names {
						fields[spec.Name.Name+"."+name.Name] = oneLine(field.Doc)
					}
				}
			}
		}
	}
	return fields, structs
}

func oneLine(comment *ast.CommentGroup) string {
	return strings.Join(strings.Fields(comment.Text()), " ")
}

// A reference is docs/configuration.md in the making.
type reference struct {
	text       strings.Builder
	docs       map[string]string // by type.field
	structDocs map[string]string // by type
	reached    map[string]bool   // by type.field
}

// rows writes a row for each key of a struct, and after it those of the keys below.
func (r *reference) rows(prefix string, structure reflect.Type) {
	for field := range structure.Fields() {
		if !field.IsExported() {
			continue
		}
		name := structure.Name() + "." + field.Name
		r.reached[name] = true
		kind, below := valueKind(field.Type)
		path := prefix + keyOf(field)
		fmt.Fprintf(&r.text, "| `%s` | %s | %s |\n", path, kind, r.meaning(structure, field, below))
		if below != nil {
			if field.Type.Kind() == reflect.Slice {
				path += "[]"
			}
			r.rows(path+".", below)
		}
	}
}

// meaning returns the comment of a field for readers who know its key only: without
// "Field is", with the keys of fields that it mentions, and with what the comment of
// its struct says after a colon.
func (r *reference) meaning(structure reflect.Type, field reflect.StructField, below reflect.Type) string {
	text := r.docs[structure.Name()+"."+field.Name]
	if rest, found := strings.CutPrefix(text, field.Name+" "); found {
		text = strings.TrimPrefix(strings.TrimPrefix(rest, "is "), "are ")
	}
	for other := range structure.Fields() {
		// An acronym or a plural is rather the thing than the key.
		if name := other.Name; other.IsExported() && unicode.IsLower(rune(name[1])) && !strings.HasSuffix(name, "s") {
			text = regexp.MustCompile(`\b`+name+`\b`).ReplaceAllString(text, "`"+keyOf(other)+"`")
		}
	}
	if below != nil {
		if _, more, found := strings.Cut(r.structDocs[below.Name()], ": "); found {
			text = strings.TrimSuffix(text, ".") + "; " + more
		}
	}
	return strings.NewReplacer("|", `\|`, "*", `\*`).Replace(text)
}

// valueKind tells readers the kind of a value; below is the struct with the keys
// below it, if it has any.
func valueKind(t reflect.Type) (kind string, below reflect.Type) {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration", nil
	case reflect.TypeFor[time.Time]():
		return "time", nil
	case reflect.TypeFor[muster.FQDN]():
		return "FQDN", nil
	case reflect.TypeFor[muster.EnroleeID]():
		return "Enrolee-ID", nil
	case reflect.TypeFor[muster.KpmID]():
		return "KpmID", nil
	case reflect.TypeFor[netip.Prefix]():
		return "network", nil
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return "word", nil // one of those that the meaning names
	}
	switch t.Kind() {
	case reflect.Pointer:
		return valueKind(t.Elem())
	case reflect.Slice:
		kind, below = valueKind(t.Elem())
		if below == nil {
			kind += "s"
		}
		return "list of " + kind, below
	case reflect.Struct:
		return "keys", t
	case reflect.Bool:
		return "true or false", nil
	case reflect.Int:
		return "number", nil
	}
	return "text", nil
}
