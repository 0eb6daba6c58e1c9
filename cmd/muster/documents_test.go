package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"muster/mustertest"
)

// A block is one that a document fences; its kind follows the fence.
type block struct{ kind, text string }

func blocksOf(t *testing.T, file string) (all []block) {
	t.Helper()
	page, err := os.ReadFile(file)
	must(t, err)
	for _, found := range regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```").FindAllSubmatch(page, -1) {
		all = append(all, block{string(found[1]), string(found[2])})
	}
	return all
}

// blocks returns the shell blocks of a document, in their order. The lines of one
// that is marked terminals are for a terminal each, and all but the last go on.
func blocks(t *testing.T, document string) string {
	t.Helper()
	var script strings.Builder
	for _, block := range blocksOf(t, "../../"+document) {
		lines := block.text
		switch block.kind {
		case "sh":
		case "sh terminals":
			rest := strings.TrimSuffix(lines, "\n")
			lines = strings.ReplaceAll(rest, "\n", " & STARTED=\"$STARTED $!\"\n") + "\n"
		default:
			continue
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

// labChange gives the laboratory of a document ports of its own, for operators only
// if they are asked for.
func labChange(t *testing.T, operators bool) [2]string {
	t.Helper()
	var ports [3]uint16
	for i := range ports {
		var err error
		if ports[i], err = quietPort(); err != nil {
			t.Fatal(err)
		}
	}
	if !operators {
		ports[2] = 0
	}
	return [2]string{"muster init lab", fmt.Sprintf("muster init lab --mef-port %d --maf-port %d --admin-port %d", ports[0], ports[1], ports[2])}
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
	output := runBlocks(t, blocks(t, "docs/quickstart.md"), [][2]string{builds, labChange(t, false)})
	wantIn(t, output, "lab/own.yaml: ok", "//sp.lab.example/own", "not revoked", "expired", "0 problems")
}

// The README's tests are these.
func TestReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program some ten times")
	}
	output := runBlocks(t, blocks(t, "README.md"), [][2]string{
		builds, labChange(t, false), {"go test ./...\n", ""}, {"go run ./cmd/muster demo\n", "./muster demo\n"},
	})
	wantIn(t, output, "lab/mef.yaml: ok", "//sp.lab.example/device-0001", "KmID")
}

// TestOperations runs what docs/operations.md has on operators, backups, archives and
// the audit log against the MEF of a laboratory that has run for a moment.
func TestOperations(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program some ten times")
	}
	const before = `PATH=$PWD:$PATH
muster init lab
mkdir backup lost; cd lab
sed -i 's/mef.audit/audit.log/' mef.yaml
export MUSTER_ADMIN_CONFIG=mef-operator.yaml
muster mef --config mef.yaml & MEF=$!
muster maf --config maf.yaml & MAF=$!
muster enrol --config device-0001.yaml --wait 20s
`
	_, script, found := strings.Cut(blocks(t, "docs/operations.md"), "systemctl enable --now muster-mef.service\n")
	if !found {
		t.Fatal("the document starts no service")
	}
	output := runBlocks(t, before+script, [][2]string{
		labChange(t, true), {"/backup/", "../backup/"}, {"/lost/", "../lost/"}, {"/var/lib/muster-mef/", ""}, {toPostgres, ""},
		{"muster admin sign-in", "muster admin sign-in\nkill $MEF $MAF; wait $MEF $MAF"},
		{"muster store restore --config mef.yaml ../backup", "mkdir old; mv mef.db* old\nmuster store restore --config mef.yaml ../backup"},
		{"muster store restore --config mef.yaml --later", "mv mef.db* ../lost\nmuster store restore --config mef.yaml --later"},
		{"muster store withdraw --config mef.yaml --later", "muster store export --config mef.yaml later.archive\nmuster store withdraw --config mef.yaml --later"},
		{"muster store import", "mkdir older; mv mef.db* older\nmuster store import"},
	})
	wantIn(t, output, "https://127.0.0.1:", "0 problems", "restored; withdrawn:", "imported", "hold\nhead ", ", up to date\n", ", was ")
}

const toPostgres = "muster store copy --config mef.yaml --to mef-postgres.yaml\n"

// TestOperationsToPostgres is the one block that needs a database.
func TestOperationsToPostgres(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program some times")
	}
	if !strings.Contains(blocks(t, "docs/operations.md"), toPostgres) {
		t.Fatalf("the document has no %q", toPostgres)
	}
	server := mustertest.NewCluster(t, "fsync=off")
	output := runBlocks(t, "PATH=$PWD:$PATH\nmuster init lab\ncd lab\n"+
		"sed 's|^store:.*|store: {postgres: \""+server.URL()+"\", root_key: mef.root-key}|' mef.yaml >mef-postgres.yaml\n"+
		toPostgres+"muster store check --config mef-postgres.yaml\n", [][2]string{labChange(t, false)})
	wantIn(t, output, "0 problems")
}

// TestOperationsUnderSystemd runs the block that makes a store for a service. In the
// place of systemd stands what hands the credential over and notes the properties,
// which have to be those of the unit that TestUnits of deploy has systemd judge.
func TestOperationsUnderSystemd(t *testing.T) {
	const before = `mkdir bin
cat >bin/systemd-run <<'END'
#!/bin/sh
set -eu
mkdir credentials
while :; do
	case $1 in
	-p)
		echo "PROPERTY $2"
		case $2 in LoadCredential=*) credential=${2#*=}; cp "${credential#*:}" "credentials/${credential%%:*}" ;; esac
		shift 2 ;;
	--pipe | --wait) shift ;;
	*) break ;;
	esac
done
CREDENTIALS_DIRECTORY=$PWD/credentials exec "$@"
END
printf '#!/bin/sh\necho "SYSTEMCTL $*"\n' >bin/systemctl
chmod +x bin/*
PATH=$PWD/bin:$PWD:$PATH
muster init lab
cd lab; rm mef.db* mef.root-key
sed -i 's|root_key: mef.root-key|root_key: credential:root-key|' mef.yaml
`
	script, _, _ := strings.Cut(blocks(t, "docs/operations.md"), "muster admin")
	output := runBlocks(t, before+script+"ls mef.db\n", [][2]string{
		labChange(t, false), {">/etc/muster/", ">"}, {"root-key:/etc/muster/", "root-key:"}, {"--config /etc/muster/", "--config "}, {"/usr/bin/muster", "muster"},
	})
	wantIn(t, output, "SYSTEMCTL enable --now muster-mef.service\nmef.db\n")
	unit, err := os.ReadFile("../../deploy/systemd/muster-mef.service")
	must(t, err)
	properties := regexp.MustCompile(`(?m)^PROPERTY (.*)$`).FindAllStringSubmatch(output, -1)
	for _, property := range properties {
		line := strings.Replace(property[1], "root-key:", "root-key:/etc/muster/", 1)
		if !strings.Contains(string(unit), "\n"+line+"\n") {
			t.Errorf("the unit has no %s", line)
		}
	}
	if len(properties) != 6 {
		t.Errorf("%d properties", len(properties))
	}
}

// TestBlocks holds every block of every document to one of the kinds that tests
// run or read. Those without a kind are drawings.
func TestBlocks(t *testing.T) {
	drawings := map[string]int{"README.md": 1, "docs/architecture.md": 1}
	run := []string{"README.md", "docs/quickstart.md", "docs/operations.md"}
	files := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/helm/muster/README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob("../../" + pattern)
		must(t, err)
		for _, file := range found {
			files = append(files, strings.TrimPrefix(file, "../../"))
		}
	}
	for _, file := range files {
		drawn := 0
		for _, block := range blocksOf(t, "../../"+file) {
			switch block.kind {
			case "":
				drawn++
			case "yaml":
				readBlock(t, block.text)
			case "sh", "sh terminals":
				if !slices.Contains(run, file) {
					t.Errorf("%s: no test runs\n%s", file, block.text)
				}
			default:
				t.Errorf("%s has a block of kind %q", file, block.kind)
			}
		}
		if drawn != drawings[file] {
			t.Errorf("%s has %d drawings", file, drawn)
		}
	}
}

// readBlock has a piece of a configuration be one: of a MEF, or of its operator.
func readBlock(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "block.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	into := any(new(mefConfig))
	if strings.HasPrefix(text, "server:") {
		into = new(operatorConfig)
	}
	if err := readYAML(file, into); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}
