package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster/mustertest"
	"muster/postgres"
)

// TestStoreGoesToPostgreSQLAndBack moves a store with a command line, and does
// there what a file knows too.
func TestStoreGoesToPostgreSQLAndBack(t *testing.T) {
	t.Parallel()
	server := mustertest.NewCluster(t, "fsync=off")
	w := newWorld(t, 1)
	stop := w.startMEF()
	w.startMAF()
	w.attached(w.deviceConfig(0, overTLS))
	stop()

	folder := t.TempDir()
	configured := func(name, store string) string {
		file := filepath.Join(folder, name)
		text := "fqdn: " + w.mef.FQDN.String() + "\nlisten: {tls: \"127.0.0.1:0\"}\nmafs: []\nstore: {" + store + ", root_key: " + w.mef.Store.RootKey + "}\n"
		must(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	run := func(want int, args ...string) string {
		t.Helper()
		code, out, stderr := command(t, append([]string{"store"}, args...)...)
		if code != want {
			t.Fatalf("%s: exit code %d, want %d: %s", strings.Join(args, " "), code, want, stderr)
		}
		return out + stderr
	}
	wantText := func(got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("%q, want %q in it", got, want)
		}
	}
	file := configured("file.yaml", "path: "+w.mef.Store.Path)
	database := configured("database.yaml", `postgres: "`+server.URL()+`"`)
	back := configured("back.yaml", "path: "+filepath.Join(folder, "back.db"))

	const one = "1 sealed keys under 1 data keys, 0 problems"
	wantText(run(exitUsage, "check", "--config", database), "not a database of Muster")
	wantText(run(exitOK, "copy", "--config", file, "--to", database), one)
	wantText(run(exitUsage, "copy", "--config", file, "--to", database), "exists already")
	wantText(run(exitOK, "check", "--config", database), one)
	before, after := filepath.Join(folder, "before"), filepath.Join(folder, "after")
	wantText(run(exitOK, "export", "--config", database, before), one)
	wantText(run(exitOK, "copy", "--config", database, "--to", back), one)
	wantText(run(exitOK, "export", "--config", back, after), one)
	if lines(t, before) != lines(t, after) {
		t.Error("the store that came back is another")
	}
	for _, config := range []string{database, back} {
		wantText(run(exitUsage, "withdraw", "--config", config, "--accept-older"), "needs --later")
		out := run(exitOK, "withdraw", "--config", config, "--accept-older", "--later", before)
		wantText(out, "0 records have ended and 0 are gone")
		wantText(out, "withdrawn: 0 enrolments")
	}
	wantText(run(exitOK, "withdraw", "--config", database), "withdrawn: 1 enrolments")
	wantText(run(exitOK, "check", "--config", database), "0 sealed keys")
	wantText(run(exitOK, "withdraw", "--config", back), "withdrawn: 1 enrolments")
	wantText(run(exitOK, "check", "--config", database, "--file", before), one)

	// The database goes one version back, where no process of this program serves it.
	newest := fmt.Sprint(postgres.Schema())
	wantText(run(exitOK, "migrate", "--config", database), "schema "+newest+", up to date")
	wantText(run(exitOK, "migrate", "--back", "--config", database), ", was "+newest)
	wantText(run(exitUsage, "check", "--config", database), "needs "+newest)
	wantText(run(exitRefused, "migrate", "--back", "--config", database), "migration-irreversible: ")
	wantText(run(exitOK, "migrate", "--json", "--config", database), `{"engine":"postgres","from":`+fmt.Sprint(postgres.Schema()-1)+`,"to":`+newest+"}")
	wantText(run(exitOK, "check", "--config", database), "0 problems")

	// A root key is drawn ahead; a rotation is cut off before its end, done again, and followed by a second.
	root, next := w.mef.Store.RootKey, w.mef.Store.RootKey+nextRootSuffix
	old, err := os.ReadFile(root)
	must(t, err)
	wantText(run(exitOK, "rotate-root", "--draw", "--config", database), "is the new root key")
	wantText(run(exitUsage, "rotate-root", "--draw", "--config", database), "exists")
	wantText(run(exitOK, "check", "--config", database), "0 problems")
	config, err := readStoreConfig(database)
	must(t, err)
	if n, err := rewrapDataKeys(t.Context(), config); n != 1 || err != nil {
		t.Errorf("%d data keys wrapped, %v", n, err)
	}
	wantText(run(exitOK, "check", "--config", database), "0 problems")
	for range 2 {
		wantText(run(exitOK, "rotate-root", "--config", database), "1 data keys")
		wantText(run(exitOK, "check", "--config", database), "0 problems")
		if _, err := os.Stat(next); err == nil {
			t.Errorf("%s is left", next)
		}
	}
	must(t, os.WriteFile(root, old, 0o600))
	wantText(run(exitUsage, "check", "--config", database), "wrong root key")
	wantText(run(exitUsage, "rotate-root", "--config", database), "wrong root key")
}

// lines returns those of an archive but for its first and last.
func lines(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	all := strings.SplitAfter(string(text), "\n")
	if len(all) < 4 {
		t.Fatalf("%s has %d lines", file, len(all))
	}
	return strings.Join(all[1:len(all)-2], "")
}
