package deploy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"muster/mustertest"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestImage reads the Dockerfile: it starts from nothing, ends as a user that is
// not root, and copies the one program.
func TestImage(t *testing.T) {
	t.Parallel()
	var instructions []string
	for line := range strings.Lines(read(t, "Dockerfile")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			instructions = append(instructions, line)
		}
	}
	want := []string{"FROM scratch", "COPY dist/muster /muster", "USER 1000:1000", `ENTRYPOINT ["/muster"]`}
	if strings.Join(instructions, "\n") != strings.Join(want, "\n") {
		t.Errorf("the Dockerfile has %q, want %q", instructions, want)
	}
}

// maxExposure is what systemd-analyze may find at most, times ten; 100 is the
// worst.
const maxExposure = 15

// TestUnits has systemd judge the units.
func TestUnits(t *testing.T) {
	t.Parallel()
	const analyze = "systemd-analyze"
	mustertest.RequirePeer(t, analyze)
	for _, role := range []string{"mef", "maf"} {
		dir := t.TempDir()
		unit := "muster-" + role + ".service"
		// systemd wants the program to be there, which no package has installed yet.
		text := strings.ReplaceAll(read(t, "systemd/"+unit), "/usr/bin/muster", "/bin/true")
		if err := os.WriteFile(filepath.Join(dir, unit), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, socket := range []string{"muster-" + role + "-tls.socket", "muster-" + role + "-dtls.socket"} {
			if err := os.WriteFile(filepath.Join(dir, socket), []byte(read(t, "systemd/"+socket)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		files, _ := filepath.Glob(dir + "/*")
		verify := append([]string{"verify", "--man=no"}, files...) // no package has installed the manual either
		if out, err := exec.Command(analyze, verify...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("muster")) {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
		out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold="+strconv.Itoa(maxExposure), filepath.Join(dir, unit)).CombinedOutput()
		if err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			t.Errorf("%s: %v\n%s", unit, err, lines[len(lines)-1])
		}
	}
}
