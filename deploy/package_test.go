package deploy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"muster/mustertest"
)

// dist returns the folder with what make has built, in MUSTER_DIST.
func dist(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("MUSTER_DIST")
	if dir == "" {
		t.Skip("MUSTER_DIST does not say where make packages sbom has built")
	}
	return dir
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	var complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, &complaints)
	}
	return string(out)
}

func built(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dist(t), pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: %v, %v; want one", pattern, files, err)
	}
	return files[0]
}

// wanted are files that both packages have. The manual has more pages.
var wanted = []string{
	"/etc/muster", "/usr/bin/muster",
	"/usr/lib/systemd/system/muster-mef.service", "/usr/lib/systemd/system/muster-mef-tls.socket", "/usr/lib/systemd/system/muster-mef-dtls.socket",
	"/usr/lib/systemd/system/muster-maf.service", "/usr/lib/systemd/system/muster-maf-tls.socket", "/usr/lib/systemd/system/muster-maf-dtls.socket",
	"/usr/share/man/man1/muster.1.gz", "/usr/share/man/man1/muster-store-create.1.gz",
	"/usr/share/bash-completion/completions/muster", "/usr/share/fish/vendor_completions.d/muster.fish",
	"/usr/share/doc/muster/examples/mef.yaml", "/usr/share/doc/muster/examples/maf.yaml", "/usr/share/doc/muster/examples/device.yaml",
	"/usr/share/doc/muster/examples/muster.rules.yaml", "/usr/share/doc/muster/examples/grafana.json", "/usr/share/doc/muster/changelog.gz",
}

// TestDeb installs the deb under a folder, runs what it brought, and removes it.
func TestDeb(t *testing.T) {
	file := built(t, "*.deb")
	mustertest.RequirePeer(t, "dpkg")
	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg := func(args ...string) {
		t.Helper()
		output(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-not-root"}, args...)...)
	}
	dpkg("--install", file)
	for _, name := range append(wanted, "/usr/share/zsh/vendor-completions/_muster", "/usr/share/doc/muster/copyright", "/usr/share/doc/muster/changelog.Debian.gz") {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	program := filepath.Join(root, "usr/bin/muster")
	var version struct{ Version string }
	if err := json.Unmarshal([]byte(output(t, program, "version", "--json")), &version); err != nil {
		t.Fatal(err)
	}
	if named := release(t); named != version.Version {
		t.Errorf("the package has version %q, the program %q", named, version.Version)
	}
	output(t, program, "demo", "--devices", "2", "--json")
	completion := output(t, "bash", "-c", `. "$1" && complete -p muster`, "-", filepath.Join(root, "usr/share/bash-completion/completions/muster"))
	if !strings.Contains(completion, "__start_muster") {
		t.Errorf("bash completes by %q", completion)
	}
	dpkg("--purge", "muster")
	for _, name := range []string{program, filepath.Join(root, "usr/lib/systemd/system/muster-mef.service")} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

// release is the version of the program that the deb says it has.
func release(t *testing.T) string {
	t.Helper()
	version := strings.TrimSpace(output(t, "dpkg-deb", "--field", built(t, "*.deb"), "Version"))
	program, revision, _ := strings.Cut(version, "-")
	if revision != "1" {
		t.Errorf("the deb has version %q", version)
	}
	return program
}

// TestLintian holds the deb to the policy of Debian; what the package overrides has
// its reason there.
func TestLintian(t *testing.T) {
	file := built(t, "*.deb")
	mustertest.RequirePeer(t, "lintian")
	output(t, "lintian", "--no-cfg", "--fail-on", "error,warning", file)
}

// TestRPMLint does likewise for the rpm.
func TestRPMLint(t *testing.T) {
	file := built(t, "*.rpm")
	mustertest.RequirePeer(t, "rpmlint")
	if said := output(t, "rpmlint", "--config", "package/rpmlint.toml", file); !strings.Contains(said, "1 packages and 0 specfiles checked; 0 errors, 0 warnings") {
		t.Error(said)
	}
}

// TestRPM reads the rpm.
func TestRPM(t *testing.T) {
	file := built(t, "*.rpm")
	mustertest.RequirePeer(t, "rpm")
	files := strings.Fields(output(t, "rpm", "--query", "--package", "--list", file))
	for _, name := range append(wanted, "/usr/share/zsh/site-functions/_muster", "/usr/share/licenses/muster/LICENSE") {
		if !slices.Contains(files, name) {
			t.Errorf("the rpm lacks %s", name)
		}
	}
	if told := output(t, "rpm", "--query", "--package", "--queryformat", "%{NAME} %{LICENSE} %{BUILDHOST}", file); told != "muster Apache-2.0 localhost" {
		t.Errorf("the rpm is %q", told)
	}
}

// TestBillOfMaterials compares the bill with what Go says is linked in.
func TestBillOfMaterials(t *testing.T) {
	var bill struct {
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal([]byte(read(t, built(t, "muster.cdx.json"))), &bill); err != nil {
		t.Fatal(err)
	}
	named := map[string]string{}
	for _, c := range bill.Components {
		named[c.Name] = c.Version
	}
	delete(named, "std")
	modules := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "../cmd/muster")
	modules.Env = append(os.Environ(), "CGO_ENABLED=0")
	linked, err := modules.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(linked)) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path == "" || seen[path] {
			continue
		}
		seen[path] = true
		if named[path] != version {
			t.Errorf("%s %s is in the program, and %q in the bill", path, version, named[path])
		}
		delete(named, path)
	}
	if len(seen) == 0 || len(named) > 0 {
		t.Errorf("of %d modules, the bill has %v besides", len(seen), named)
	}
}

// TestReproducible builds the program once more, from a copy of the sources in
// another folder, and compares octets. Nothing was compiled before, unless
// MUSTER_GOCACHE is a cache with the libraries.
func TestReproducible(t *testing.T) {
	first, err := os.ReadFile(built(t, "muster"))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.CopyFS(copied, os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(copied, "dist")); err != nil {
		t.Fatal(err)
	}
	again := exec.CommandContext(t.Context(), "make", "--directory", copied, "build", "VERSION="+release(t))
	cache := os.Getenv("MUSTER_GOCACHE")
	if cache == "" {
		cache = filepath.Join(t.TempDir(), "cache")
	}
	again.Env = append(os.Environ(), "GOCACHE="+cache)
	if out, err := again.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	second, err := os.ReadFile(filepath.Join(copied, "dist/muster"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("two builds differ: %d and %d octets", len(first), len(second))
	}
}
