package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

const auditReferenceOpening = `# Audit log

Generated from ` + "`audit/entry.go`" + `; a test compares it. Each line of the log is one JSON object, an entry; a member that is empty is left out. ` + "`hash`" + ` is the SHA-256, in hexadecimal, of the octets of the hash before and of the entry's JSON with an empty ` + "`hash`" + `; the first comes after 64 zeros. ` + "`muster audit verify`" + ` follows the chain, and [operations](operations.md#audit) says how to keep it.

No entry has a secret in it.
`

// TestReferenceOfAudit compares docs/audit.md; with MUSTER_UPDATE set it writes it.
func TestReferenceOfAudit(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../audit/entry.go", nil, parser.ParseComments|parser.SkipObjectResolution)
	must(t, err)
	var members, kinds strings.Builder
	for _, decl := range file.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range group.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if structure, ok := spec.Type.(*ast.StructType); ok && spec.Name.Name == "Entry" {
					for _, field := range structure.Fields.List {
						literal, err := strconv.Unquote(field.Tag.Value)
						must(t, err)
						name, _, _ := strings.Cut(reflect.StructTag(literal).Get("json"), ",")
						auditRow(t, &members, name, field.Comment)
					}
				}
			case *ast.ValueSpec:
				if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Kind" {
					name, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
					must(t, err)
					auditRow(t, &kinds, name, spec.Comment)
				}
			}
		}
	}
	compareReference(t, "../../docs/audit.md", auditReferenceOpening+
		"\n## Members\n\n| member | meaning |\n|---|---|\n"+members.String()+
		"\n## Kinds\n\n| kind | act |\n|---|---|\n"+kinds.String())
}

func auditRow(t *testing.T, table *strings.Builder, name string, comment *ast.CommentGroup) {
	t.Helper()
	if comment == nil {
		t.Errorf("audit/entry.go has no comment on %s", name)
	}
	fmt.Fprintf(table, "| `%s` | %s |\n", name, oneLine(comment))
}

// compareReference compares a generated document; with MUSTER_UPDATE set it writes it.
func compareReference(t *testing.T, file, text string) {
	t.Helper()
	if os.Getenv("MUSTER_UPDATE") != "" {
		must(t, os.WriteFile(file, []byte(text), 0o644))
	}
	written, err := os.ReadFile(file)
	must(t, err)
	if string(written) != text {
		t.Errorf("%s is not what the code says; MUSTER_UPDATE=1 go test -run TestReference ./cmd/muster writes it", file)
	}
}
