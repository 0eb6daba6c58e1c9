package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"muster"
	"muster/console"
)

// TestRecords reads lists, sound ones and others.
func TestRecords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, format, text string
		records            string   // each as LINE:NAME/TARGETS
		wrong              []string // each as LINE:DETAIL, or its beginning
	}{
		{"csv", formatCSV, "\uFEFFflavour,name,targets\ndevice,1,a;b\n\ndevice,\"2\",a ; ;b;\n", "2:1/[a b] 4:2/[a b]", nil},
		{"crlf", formatCSV, "flavour,name\r\ndevice,1\r\n", "2:1/[]", nil},
		{"head alone", formatCSV, "flavour,name\n", "", nil},
		{"empty", formatCSV, "", "", []string{"1:there is no head"}},
		{"columns", formatCSV, "flavour,nmae,name,name\nx,y,z,z\n", "", []string{`1:there is no column "nmae"; the nearest is "name"`, `1:the column "name" stands twice`}},
		{"cells", formatCSV, "name,pattern\n1,\n2\n3,x\n4,\"x\"y\n5,\n", "2:1/[] 4:3/[] 6:5/[]", []string{"3:wrong number of fields", `5:extraneous or missing " in quoted-field`}},
		{"quotes", formatCSV, "name,pattern\n\"1\n,", "", []string{`2:extraneous or missing " in quoted-field`}},
		{"twice", formatCSV, "name,anchors,targets\n1,a;b,x\n1,b;a,y\n", "2:1/[x]", []string{"3:it is for the same certificates or keys as line 2"}},
		{"octets", formatCSV, "name\n\xff\n", "", []string{"2:column 1 is not UTF-8"}},
		{"lines", formatLines, "{\"name\":\"1\",\"targets\":[\"a\"]}\n\n {\"name\":\"2\",\"origin\":\"operators\",\"id\":\"x\"}", "1:1/[a] 3:2/[]", nil},
		{"no lines", formatLines, "", "", nil},
		{"not objects", formatLines, "null\n[]\n{\n{} {}\n{\"nmae\":\"1\"}\n{\"name\":1}\n{\"name\":\"\xff\"}\n", "", []string{
			"1:it is not a JSON object", "2:it is not a JSON object", "3:unexpected EOF", "4:something follows", "5:there is no member nmae; the nearest is name", "6:cannot unmarshal number", "7:it is not UTF-8"}},
	} {
		records, wrong := parseRecords(c.format, []byte(c.text))
		var got []string
		for _, r := range records {
			got = append(got, fmt.Sprintf("%d:%s/%v", r.line, r.Name, r.Targets))
		}
		if strings.Join(got, " ") != c.records {
			t.Errorf("%s has the records %s, want %s", c.name, got, c.records)
		}
		if !slices.EqualFunc(wrong, c.wrong, func(f lineFault, want string) bool {
			return f.Code == muster.CodeConfiguration && strings.HasPrefix(fmt.Sprintf("%d:%s", f.Line, f.Detail), want)
		}) {
			t.Errorf("%s has the faults %+v, want %q", c.name, wrong, c.wrong)
		}
	}
	if _, wrong := parseRecords(formatLines, []byte(strings.Repeat("x\n", 1000))); len(wrong) != maxLineFaults {
		t.Errorf("%d faults are told", len(wrong))
	}
}

// FuzzRecords wants lines that are in the list, and records that survive the way
// through JSON lines.
func FuzzRecords(f *testing.F) {
	f.Add(true, []byte("flavour,name,anchors,targets\ndevice,1,a;b,c\n"))
	f.Add(true, []byte("name,pattern\n\"1\n\",x\n\"\n"))
	f.Add(false, []byte("{\"name\":\"1\",\"kpm_ids\":[\"a\"]}\n{}\n{"))
	f.Fuzz(func(t *testing.T, asCSV bool, octets []byte) {
		format := formatLines
		if asCSV {
			format = formatCSV
		}
		records, wrong := parseRecords(format, octets)
		lines := strings.Count(string(octets), "\n") + 1
		for _, w := range wrong {
			if w.Line < 1 || w.Line > lines || w.Detail == "" || printable(w.Detail) != w.Detail {
				t.Errorf("of %d lines, this one is wrong: %+v", lines, w)
			}
		}
		var again strings.Builder
		last := 0
		for _, r := range records {
			if r.line <= last || r.line > lines {
				t.Errorf("line %d after %d of %d", r.line, last, lines)
			}
			last = r.line
			text, err := json.Marshal(r.Instruction)
			if err != nil {
				t.Fatal(err)
			}
			again.Write(append(text, '\n'))
		}
		if len(wrong) > 0 {
			return
		}
		copied, wrong := parseRecords(formatLines, []byte(again.String()))
		if len(wrong) > 0 || len(copied) != len(records) {
			t.Errorf("%d records become %d: %+v", len(records), len(copied), wrong)
		}
	})
}

const importHead = "flavour,name,enrolee_id,targets\n"

// importRow is a line for the n-th device.
func importRow(n int) string {
	return fmt.Sprintf("device,0.2.481.1/100.1.%d,//sp.example/%d,maf.example.com\n", n, n)
}

func importRows(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		b.WriteString(importRow(n))
	}
	return b.String()
}

// managed returns how many instructions operators have.
func (w *operatorWorld) managed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.rules.Instructions)
}

// TestImport imports, in vain and not.
func TestImport(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	good := w.file("good.csv", importHead+importRows(1, 4))
	w.want(exitOK, "3 would be created, 0 would be replaced, 0 unchanged", "import", "--dry-run", good)
	w.want(exitOK, `{"created":3,"replaced":0,"unchanged":0,"dry_run":true}`, "import", "--dry-run", "--json", good)
	if w.managed() != 0 {
		t.Error("a dry run changed something")
	}
	w.want(exitOK, "3 created, 0 replaced, 0 unchanged", "import", good)
	w.want(exitOK, "0 created, 0 replaced, 3 unchanged", "import", good)

	// What the server finds is told by line, and nothing is changed.
	bad := w.file("bad.csv", importHead+importRow(5)+"device,0.2.481.1/100.1.6,//sp.example/6,\n"+"device,0.2.481.1/100.1.1,//sp.example/1,other.example.com\n")
	w.want(exitUsage, "nothing was imported:\n"+bad+":3: configuration: there is no target\n"+bad+":4: resource-conflict: there is another instruction", "import", bad)
	w.want(exitUsage, "nothing was imported", "import", "--batch", "10", bad)
	if _, out, _ := w.as("admin", "", "import", "--json", bad); !strings.Contains(out, `"faults":[{"line":3,"code":"configuration","detail":"there is no target"}`) {
		t.Errorf("the faults in JSON are %s", out)
	}
	// So is what is found before, without asking the server.
	w.mu.Lock()
	w.before = func(r *http.Request) { t.Errorf("a list with errors leads to %s %s", r.Method, r.URL) }
	w.mu.Unlock()
	twice := w.file("twice.csv", importHead+importRow(5)+importRow(5)+"x\n")
	w.want(exitUsage, twice+":3: configuration: it is for the same certificates or keys as line 2\n"+twice+":4: configuration: wrong number of fields", "import", twice)
	w.want(exitUsage, "is "+w.file("x.txt", "")+" CSV or JSON lines?", "import", w.file("x.txt", ""))
	w.want(exitUsage, "has 0 instructions", "import", w.file("none.jsonl", "\n"))
	w.want(exitUsage, "no such file", "import", "absent.csv")
	large := w.file("large.csv", importHead+importRows(0, 80_000))
	w.want(exitUsage, "lines 2 to 80001 are 8.8 MiB in one request, which takes 8; import fewer at a time, with --batch N; nothing was imported", "import", large)
	w.mu.Lock()
	w.before = nil
	w.mu.Unlock()
	if w.managed() != 3 {
		t.Errorf("there are %d instructions, want 3", w.managed())
	}

	changed := w.file("changed.csv", importHead+strings.ReplaceAll(importRows(1, 3), "maf.", "maf2."))
	w.want(exitOK, "0 created, 2 replaced, 0 unchanged", "import", "--replace", changed)

	// What is listed can be imported.
	list := w.want(exitOK, `"origin":"operators"`, "list", "instructions", "--all", "--json")
	if code, out, stderr := w.as("admin", list, "import", "-", "--format", "jsonl"); code != exitOK || !strings.Contains(out, "3 unchanged") {
		t.Errorf("its own list: %d %s%s", code, out, stderr)
	}
}

// TestImportGoesOn imports in batches, of which one is wrong at first.
func TestImportGoesOn(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	list := w.file("list.csv", importHead+importRows(1, 6)+"device,6,//sp.example/6,\n"+importRows(7, 10))
	w.want(exitUsage, "4 instructions before line 6 are in place, and no others; import the list again to go on:\n"+list+":7: configuration: there is no target", "import", "--batch", "2", list)
	if w.managed() != 4 {
		t.Errorf("there are %d instructions, want 4", w.managed())
	}
	w.file("list.csv", importHead+importRows(1, 10))
	w.want(exitOK, "5 created, 0 replaced, 4 unchanged", "import", "--batch", "2", list)
}

// TestImportTellsOfABrokenConnection leaves no doubt about what is in place.
func TestImportTellsOfABrokenConnection(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	list := w.file("list.csv", importHead+importRows(1, 5))
	requests := 0
	w.mu.Lock()
	w.before = func(*http.Request) {
		if requests++; requests > 1 {
			panic(http.ErrAbortHandler)
		}
	}
	w.mu.Unlock()
	w.want(exitUnreachable, "; 2 instructions before line 4 are in place, of the next 2 it is not known", "import", "--batch", "2", list)
	if requests != 1+maxTries {
		t.Errorf("there were %d requests", requests)
	}
}

// TestImportFindsFaultsWithWhatIsThere does not trust the server's numbers.
func TestImportFindsFaultsWithWhatIsThere(t *testing.T) {
	t.Parallel()
	h := newHostileServer(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(rw).Encode(problem{Code: muster.CodeConfiguration, Faults: []console.Fault{{Index: 7, Code: "x", Detail: "y"}}})
	})
	h.want(exitRefused, "it finds fault with instruction 8 of 1", "import", h.file("list.csv", importHead+importRow(1)))
}
