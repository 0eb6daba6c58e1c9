package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestQuickstart runs the blocks of docs/quickstart.md in one shell, but for the
// one that builds this program, and on ports of its own.
func TestQuickstart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program some twenty times")
	}
	page, err := os.ReadFile("../../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	// However it ends, nothing that it has started stays.
	script.WriteString("set -eu\ntrap 'kill $MEF $MAF 2>/dev/null || true' EXIT\nMEF= MAF=\n")
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllSubmatch(page, -1) {
		script.Write(block[1])
	}
	var ports [2]uint16
	for i := range ports {
		if ports[i], err = quietPort(); err != nil {
			t.Fatal(err)
		}
	}
	for _, change := range [][2]string{
		{"go build -o muster ./cmd/muster\n", ""},
		{"./muster init lab ", fmt.Sprintf("./muster init lab --mef-port %d --maf-port %d --admin-port 0 ", ports[0], ports[1])},
	} {
		if !strings.Contains(script.String(), change[0]) {
			t.Fatalf("the page has no %q", change[0])
		}
		changed := strings.Replace(script.String(), change[0], change[1], 1)
		script.Reset()
		script.WriteString(changed)
	}
	program, err := exec.LookPath("muster") // testscript.Main has put it there
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(program, dir+"/muster"); err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(t.Context(), "sh", "-c", script.String())
	shell.Dir = dir
	output, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, want := range []string{"lab/own.yaml: ok", "//sp.lab.example/own", "not revoked", "expired", "0 problems"} {
		if !strings.Contains(string(output), want) {
			t.Errorf("the output lacks %q:\n%s", want, output)
		}
	}
}
