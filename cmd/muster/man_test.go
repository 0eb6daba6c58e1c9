package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"muster/mustertest"
)

// everyCommand visits root and all commands below it but those that nobody types.
func everyCommand(root *cobra.Command, visit func(*cobra.Command)) {
	if root.Hidden {
		return
	}
	visit(root)
	for _, below := range root.Commands() {
		everyCommand(below, visit)
	}
}

// TestManual writes the manual, and wants a page for each command, with all its
// flags, that a strict reader of such pages does not complain about.
func TestManual(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	if code, _, stderr := command(t, "man", dir); code != exitOK {
		t.Fatal(stderr)
	}
	pages, err := filepath.Glob(dir + "/*.1")
	must(t, err)
	everyCommand(newRootCommand(), func(cmd *cobra.Command) {
		page := filepath.Join(dir, pageName(cmd)+".1")
		text, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
			return
		}
		for field := range strings.FieldsSeq(cmd.LocalFlags().FlagUsages()) {
			if strings.HasPrefix(field, "--") && !bytes.Contains(text, []byte(roff(field))) {
				t.Errorf("%s lacks %s", page, field)
			}
		}
		if cmd.HasExample() != bytes.Contains(text, []byte("\n.SH EXAMPLES\n")) {
			t.Errorf("%s: whether there are examples, it does not say", page)
		}
		if !slices.Contains(pages, page) {
			t.Errorf("no page %s", page)
		}
	})
	mustertest.RequirePeer(t, "mandoc")
	out, _ := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") { // as meant
			t.Error(line)
		}
	}
}

// TestExamples wants an example of each command that does something, and each a
// command line that the command would take.
func TestExamples(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	everyCommand(newRootCommand(), func(cmd *cobra.Command) {
		known[cmd.CommandPath()] = true
		if cmd.Runnable() && !cmd.HasSubCommands() && !cmd.HasExample() {
			t.Errorf("examples.go has none of %s", cmd.CommandPath())
		}
	})
	for path, lines := range examples {
		if !known[path] {
			t.Errorf("examples.go has %s, which is no command", path)
		}
		for _, line := range lines {
			args := strings.Fields(strings.ReplaceAll(line, `"`, ""))
			cmd, rest, err := newRootCommand().Find(args[1:])
			if err != nil || cmd.CommandPath() != path {
				t.Errorf("%s is no line of %s: %v", line, path, err)
				continue
			}
			must(t, cmd.ParseFlags(rest))
			if strings.Contains(line, `"`) {
				continue // its words are not told apart here
			}
			if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if cmd.PreRunE != nil {
				if err := cmd.PreRunE(cmd, nil); err != nil {
					t.Errorf("%s: %v", line, err)
				}
			}
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, script, stderr := command(t, "completion", shell); code != exitOK || !strings.Contains(script, "muster") {
			t.Errorf("%s: exit code %d: %s", shell, code, stderr)
		}
	}
	const nothing, files, folders, extension = ":4", ":0", ":16", ":8"
	for line, want := range map[string]string{
		"enrol --config":                 "yaml yml " + extension,
		"config check":                   files,
		"pki root":                       folders,
		"pki leaf --issuer":              folders,
		"pki leaf --flavour":             "device node-id cse-id ae-id fqdn " + nothing,
		"pki revoke factory --cert":      files,
		"pki lint --profile":             "onem2m onem2m-constrained rfc5280 " + nothing,
		"demo --transport":               "tls dtls both " + nothing,
		"bench --transport":              "tls dtls " + nothing,
		"bench compare --transport":      "tls dtls both " + nothing,
		"refusals":                       nothing,
		"store restore --config x.yaml":  files,
		"store check --config x --file":  files,
		"store import --config x.yaml":   files,
		"command queue --config x.yaml":  nothing,
		"init lab --credential":          "certificate psk " + nothing,
		"explain --config x.yaml --cert": files,
		"admin show":                     strings.Join(resourceNames(nil), " ") + " " + nothing,
		"admin delete":                   "instructions anchors " + nothing,
		"admin show refusal":             nothing,
		"admin token --role":             "viewer operator auditor admin " + nothing,
		"admin import":                   files,
		"admin import --format":          "csv jsonl " + nothing,
		"admin whoami --ca":              files,
		"admin list --times":             "auto relative absolute " + nothing,
		"admin ban --reason":             nothing,
	} {
		code, out, stderr := command(t, append(append([]string{"__complete"}, strings.Fields(line)...), "")...)
		if got := strings.Join(strings.Fields(out), " "); code != exitOK || got != want {
			t.Errorf("after %q come %q, want %q; %s", line, got, want, stderr)
		}
	}
}
