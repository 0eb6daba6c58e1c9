package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/audit"
)

// TestAuditTellsOfAnEnrolment has one device enrol and attach, and a reload, and
// reads both functions' logs.
func TestAuditTellsOfAnEnrolment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	dir := t.TempDir()
	w.mef.Audit = auditConfig{File: filepath.Join(dir, "mef.audit"), FailClosed: true}
	w.maf.Audit = auditConfig{File: filepath.Join(dir, "maf.audit"), FailClosed: true}
	stopMEF, stopMAF := w.startMEF(), w.startMAF()
	config := w.deviceConfig(0, overTLS)
	credential := w.attached(config)
	stopMAF()
	stopMEF()
	read := func(path string) (kinds []audit.Kind) {
		_, err := audit.Verify(path, audit.Head{}, audit.Head{}, func(e audit.Entry) {
			kinds = append(kinds, e.Kind)
			if (e.Kind == audit.KindEnrolled || e.Kind == audit.KindAttached) && (e.Enrolee != config.EnroleeID.String() || e.Who == "" || e.KeID == "") {
				t.Errorf("%s has %+v", path, e)
			}
		})
		must(t, err)
		text, err := os.ReadFile(path)
		must(t, err)
		km := credential.Km.Reveal()
		if bytes.Contains(bytes.ToLower(text), []byte(hex.EncodeToString(km))) || bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString(km))) {
			t.Errorf("%s contains a key", path)
		}
		return kinds
	}
	for path, wanted := range map[string][]audit.Kind{
		w.mef.Audit.File: {audit.KindStarted, audit.KindEnrolled, audit.KindRead, audit.KindStopped},
		w.maf.Audit.File: {audit.KindStarted, audit.KindAttached, audit.KindChanged, audit.KindStopped},
	} {
		kinds := read(path)
		for _, kind := range wanted {
			if !slices.Contains(kinds, kind) {
				t.Errorf("%s lacks %s: %v", path, kind, kinds)
			}
		}
	}

	var out, complaints bytes.Buffer
	if code := run(t.Context(), []string{"audit", "verify", w.mef.Audit.File}, nil, &out, &complaints); code != exitOK || !strings.Contains(out.String(), "head ") {
		t.Errorf("a sound log: %d, %s%s", code, &out, &complaints)
	}
	text, err := os.ReadFile(w.mef.Audit.File)
	must(t, err)
	must(t, os.WriteFile(w.mef.Audit.File, bytes.Replace(text, []byte("enrolled"), []byte("attached"), 1), 0o600))
	if code := run(t.Context(), []string{"audit", "verify", w.mef.Audit.File}, nil, &out, &complaints); code != exitRefused || !strings.Contains(complaints.String(), string(muster.CodeAuditBroken)) {
		t.Errorf("a changed log: %d, %s", code, &complaints)
	}
	_, err = w.mef.Audit.open(w.mef.FQDN, newLogger(newJournal()), nil)
	wantCode(t, err, muster.CodeAuditBroken)
	if code := run(t.Context(), []string{"audit", "verify", filepath.Join(dir, "none", "audit")}, nil, &out, &complaints); code != exitUsage {
		t.Errorf("no log: %d, %s", code, &complaints)
	}
}

// TestAuditInTheStore has a MEF keep its log in its store too, and verifies it there.
func TestAuditInTheStore(t *testing.T) {
	t.Parallel()
	lab := &laboratory{Dir: filepath.Join(t.TempDir(), "lab"), Devices: 1, now: time.Now()}
	must(t, lab.write())
	file := lab.path("mef.yaml")
	text, err := os.ReadFile(file)
	must(t, err)
	text = regexp.MustCompile(`(?m)^(audit|admin):.*\n`).ReplaceAll(text, nil)
	text = regexp.MustCompile(`(?m)^listen:.*\n`).ReplaceAll(text, []byte("listen: {tls: \"127.0.0.1:0\"}\naudit: {file: audit.log, store: mef-1, fail_closed: true}\n"))
	must(t, os.WriteFile(file, text, 0o600))
	for range 2 {
		config, err := readMEFConfig(file)
		must(t, err)
		service, err := startMEF(t.Context(), config, newLogger(newJournal()), observer{})
		must(t, err)
		if code, _, stderr := command(t, "store", "migrate", "--back", "--config", file); code != exitUsage || !strings.Contains(stderr, "in use") {
			t.Errorf("back under a running MEF: exit code %d, %s", code, stderr)
		}
		must(t, service.stop())
		if code, _, stderr := command(t, "store", "migrate", "--back", "--config", file); code != exitOK {
			t.Errorf("back: exit code %d, %s", code, stderr)
		}
	}
	_, ofFile, _ := command(t, "audit", "verify", lab.path("audit.log"))
	code, ofStore, stderr := command(t, "audit", "verify", "--config", file)
	if code != exitOK || ofStore != ofFile || !strings.Contains(ofStore, "entries 1 to 4 hold") {
		t.Errorf("exit code %d, in the store %q, in the file %q; %s", code, ofStore, ofFile, stderr)
	}
	for _, step := range []struct {
		want int
		out  string
		args []string
	}{
		{exitUsage, "is not a date", []string{"prune", "--before", "yesterday"}},
		{exitOK, "no entry is older", []string{"prune", "--before", "2020-01-31"}},
		{exitOK, "entries 1 to 4 removed", []string{"prune", "--before", "9999-01-31"}},
		{exitOK, "no entry is older", []string{"prune", "--before", "9999-01-31"}},
	} {
		code, out, stderr := command(t, append(append([]string{"audit"}, step.args...), "--config", file)...)
		if code != step.want || !strings.Contains(out+stderr, step.out) {
			t.Errorf("%v: exit code %d, %s%s", step.args, code, out, stderr)
		}
	}
	config, err := readMEFConfig(file)
	must(t, err)
	service, err := startMEF(t.Context(), config, newLogger(newJournal()), observer{})
	must(t, err)
	must(t, service.stop())
	if code, out, stderr := command(t, "audit", "verify", "--config", file); code != exitOK || !strings.Contains(out, "entries 5 to 6 hold") {
		t.Errorf("a pruned log: exit code %d, %s%s", code, out, stderr)
	}
	code, _, stderr = command(t, "store", "migrate", "--back", "--config", file)
	if code != exitRefused || !strings.Contains(stderr, string(muster.CodeMigrationIrreversible)+": ") || !strings.Contains(stderr, "audit_anchor is not empty") {
		t.Errorf("back with an anchor: exit code %d, %s", code, stderr)
	}
	wrong := "4:" + strings.Repeat("0", 64)
	if code, _, _ := command(t, "audit", "verify", "--config", file, "--from", wrong); code != exitRefused {
		t.Errorf("after another head: exit code %d", code)
	}
	if code, _, _ := command(t, "audit", "verify", "--config", lab.path("maf.yaml")); code != exitUsage {
		t.Errorf("without a log in the store: exit code %d", code)
	}
	if code, _, _ := command(t, "audit", "verify"); code != exitUsage {
		t.Errorf("of nothing: exit code %d", code)
	}
}

// TestAuditFailsClosed closes the log under a trail.
func TestAuditFailsClosed(t *testing.T) {
	t.Parallel()
	name, err := muster.ParseFQDN("mef.example.com")
	must(t, err)
	for _, closed := range []bool{true, false} {
		trail, err := auditConfig{File: filepath.Join(t.TempDir(), "audit"), FailClosed: closed}.open(name, newLogger(newJournal()), nil)
		must(t, err)
		must(t, trail.close())
		if err := trail.write(t.Context(), audit.Entry{Kind: audit.KindAdmin}); closed != (muster.CodeOf(err) == muster.CodeStoreFailed) {
			t.Errorf("fail_closed %v: %v", closed, err)
		}
	}
	_, err = auditConfig{FailClosed: true}.open(name, newLogger(newJournal()), nil)
	wantCode(t, err, muster.CodeConfiguration)
	_, err = auditConfig{File: "x", Syslog: "ftp://x"}.open(name, newLogger(newJournal()), nil)
	wantCode(t, err, muster.CodeConfiguration)
}
