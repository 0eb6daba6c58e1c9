package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// blocks returns the shell blocks of a document, in their order. The lines of one
// that is marked terminals are for a terminal each, and all but the last go on.
func blocks(t *testing.T, document string) string {
	t.Helper()
	page, err := os.ReadFile("../../" + document)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?ms)^```sh( terminals)?\n(.*?)^```").FindAllSubmatch(page, -1) {
		lines := string(block[2])
		if len(block[1]) > 0 {
			rest := strings.TrimSuffix(lines, "\n")
			lines = strings.ReplaceAll(rest, "\n", " & STARTED=\"$STARTED $!\"\n") + "\n"
		}
		script.WriteString(lines)
	}
	return script.String()
}

// runBlocks runs a script in one shell, in an empty folder with the program, and
// ends what it has started. Each change has to occur in it.
func runBlocks(t *testing.T, script string, changes [][2]string) (output string) {
	t.Helper()
	for _, change := range changes {
		if !strings.Contains(script, change[0]) {
			t.Fatalf("the document has no %q", change[0])
		}
		script = strings.ReplaceAll(script, change[0], change[1])
	}
	program, err := exec.LookPath("muster") // testscript.Main has put it there
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(program, filepath.Join(dir, "muster")); err != nil {
		t.Fatal(err)
	}
	// However it ends, nothing that it has started stays.
	script = "set -eu\ntrap 'kill $MEF $MAF $STARTED 2>/dev/null || true; wait' EXIT\nMEF= MAF= STARTED=\n" + script
	shell := exec.CommandContext(t.Context(), "sh", "-c", script)
	shell.Dir = dir
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// labChange gives the laboratory of a document ports of its own.
func labChange(t *testing.T) [2]string {
	t.Helper()
	var ports [2]uint16
	for i := range ports {
		var err error
		if ports[i], err = quietPort(); err != nil {
			t.Fatal(err)
		}
	}
	return [2]string{"muster init lab", fmt.Sprintf("muster init lab --mef-port %d --maf-port %d --admin-port 0", ports[0], ports[1])}
}

func wantIn(t *testing.T, output string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(output, want) {
			t.Errorf("the output lacks %q:\n%s", want, output)
		}
	}
}

// The program is built already, wherever a document builds it.
var builds = [2]string{"go build -o muster ./cmd/muster\n", ""}

func TestQuickstart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program some twenty times")
	}
	output := runBlocks(t, blocks(t, "docs/quickstart.md"), [][2]string{builds, labChange(t)})
	wantIn(t, output, "lab/own.yaml: ok", "//sp.lab.example/own", "not revoked", "expired", "0 problems")
}

// The README's tests are these.
func TestReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program some ten times")
	}
	output := runBlocks(t, blocks(t, "README.md"), [][2]string{
		builds, labChange(t), {"go test ./...\n", ""}, {"go run ./cmd/muster demo\n", "./muster demo\n"},
	})
	wantIn(t, output, "lab/mef.yaml: ok", "//sp.lab.example/device-0001", "KmID")
}

// TestOperations runs what docs/operations.md has on backups, archives and the audit log
// against the MEF of a laboratory that has run for a moment.
func TestOperations(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program some ten times")
	}
	const before = `PATH=$PWD:$PATH
muster init lab
mkdir backup; cd lab
echo 'audit: {file: audit.log}' >>mef.yaml
muster mef --config mef.yaml & MEF=$!
muster maf --config maf.yaml & MAF=$!
muster enrol --config device-0001.yaml --wait 20s
kill $MEF $MAF; wait $MEF $MAF
`
	output := runBlocks(t, before+blocks(t, "docs/operations.md"), [][2]string{
		labChange(t), {"/backup/", "../backup/"}, {"/var/lib/muster-mef/", ""},
		{"muster store restore", "mkdir old; mv mef.db* old\nmuster store restore"},
		{"muster store import", "mkdir older; mv mef.db* older\nmuster store import"},
	})
	wantIn(t, output, "0 problems", "restored; withdrawn:", "imported", "hold\nhead ")
}
