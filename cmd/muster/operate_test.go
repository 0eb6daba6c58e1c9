package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/audit"
	"muster/console"
	"muster/mustertest"
)

// TestOperatorLooks runs the commands that change nothing.
func TestOperatorLooks(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	w.want(exitOK, "name   fqdn:admin.example.com\nrole   admin", "whoami")
	overview := w.want(exitOK, "function            mef.example.com, a MEF, muster 1", "overview")
	for _, text := range []string{"ready: certificate  FAILS: expired yesterday", `CN=\x1b[31mmef`, "enrolled  3     13   ▁▄·█", "refused/expired  2"} {
		if !strings.Contains(overview, text) {
			t.Errorf("the overview lacks %q:\n%s", text, overview)
		}
	}
	w.want(exitRefused, "name-unknown: nobody is \\x1b[2Jcalled so", "explain", "00c0ffee")
	w.want(exitRefused, "resource-unknown: there is no refusal x", "explain", "x")
	w.want(exitUsage, "configuration: mef.yaml: it is wrong", "reload")
	w.sound.Store(true)
	w.want(exitOK, "the configuration was read again: instructions 2, mafs 1\nthe function has another certificate\nthis has changed, and takes effect at the next start: listen.tls\n", "reload")
	w.want(exitOK, `{"read":{"instructions":2,"mafs":1},"identity":true,"restart":["listen.tls"]}`, "reload", "--json")
	if code, _, stderr := w.as("viewer", "", "reload"); code != exitRefused || !strings.Contains(stderr, "request-not-allowed: the role viewer may not") || !strings.Contains(stderr, "remedy:") {
		t.Errorf("a viewer reloads: %d %s", code, stderr)
	}
	w.want(exitUsage, `there is no resource "enrolement" for this command; the nearest is "enrolments"`, "list", "enrolement")
	w.want(exitUsage, `has no command "lst"; the nearest is "list"`, "lst")
	w.want(exitUsage, "accepts 1 arg(s)", "list")
}

// TestOperatorLists pages, filters and prints lists.
func TestOperatorLists(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	first := w.want(exitOK, "KE-ID                 ENROLEE-ID      MAF              STATE      CREATED", "list", "enrolments", "--limit", "2")
	if strings.Count(first, "\n") != 3 {
		t.Errorf("two enrolments and a head are\n%s", first)
	}
	w.want(exitOK, "0002@mef.example.com", "list", "enrolment", "--limit", "1", "--after", "0001@mef.example.com", "--times", "relative")
	if all := w.want(exitOK, "0699@mef", "list", "enrolments", "--all", "--json"); strings.Count(all, "\n") != 700 {
		t.Errorf("all enrolments are %d lines", strings.Count(all, "\n"))
	}
	if many := w.want(exitOK, "0599@mef", "list", "enrolments", "--limit", "600"); strings.Count(many, "\n") != 601 {
		t.Errorf("600 enrolments and a head are %d lines", strings.Count(many, "\n"))
	}
	if _, _, notes := w.as("admin", "", "list", "enrolments", "--limit", "1"); !strings.Contains(notes, "--after 0000@mef.example.com") {
		t.Errorf("it is not told how to go on: %s", notes)
	}
	if code, out, notes := w.as("admin", "", "list", "anchors"); code != exitOK || out != "" || !strings.Contains(notes, "there are none") {
		t.Errorf("no anchors: %d %q %q", code, out, notes)
	}
	w.want(exitOK, "state        delivered\n", "show", "enrolment", "0650@mef.example.com")
	w.want(exitRefused, `resource-unknown: there is none of refusals with the id "x"`, "show", "refusal", "x")
	w.want(exitOK, `name-unknown: \x1b]0;x\a`, "show", "refusal", "00c0ffee")
	w.want(exitRefused, "resource-unknown: there is no instruction x%2Fy", "show", "instruction", "x%2Fy")
	w.want(exitUsage, "refusals have no filter --ke-id", "list", "refusals", "--ke-id", "x")
	w.want(exitUsage, "--limit is a number from 1", "list", "refusals", "--limit", "0")
	w.want(exitRefused, "request-malformed", "list", "refusals", "--after", "x")
	w.want(exitRefused, "resource-unknown: this function has no GET /v1/keys", "list", "keys")
}

// TestOperatorRules creates, replaces and deletes.
func TestOperatorRules(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	root := w.pki.Root.WriteFile(t)
	id := muster.DigestOf(w.pki.Root.Certificate.Raw).String()
	w.want(exitOK, "anchor "+id+" is in place: CN=Test Root", "anchor", "add", root)
	w.want(exitOK, "-----BEGIN CERTIFICATE-----\n", "show", "anchor", id)
	w.want(exitUsage, "is not one certificate in PEM", "anchor", "add", w.file("no.pem", "x"))

	flags := []string{"create", "instruction", "--flavour", "device", "--name", "0.2.481.1/100.1.1", "--anchor", root, "--enrolee", "//sp.example/1", "--target", "b.example,a.example"}
	created := w.want(exitOK, `"targets":["a.example","b.example"]`, append(flags, "--json")...)
	var in console.Instruction
	must(t, json.Unmarshal([]byte(created), &in))
	if !slices.Equal(in.Anchors, []string{id}) {
		t.Errorf("it pins %v", in.Anchors)
	}
	w.want(exitOK, "instruction "+in.ID+" is in place", flags...)
	w.want(exitRefused, "resource-conflict: there is another instruction", append(flags, "--lifetime", "48h")...)
	w.want(exitUsage, "configuration: there is no target", flags[:len(flags)-2]...)
	w.want(exitUsage, "there is no anchor "+strings.Repeat("0", 64), append(flags, "--anchor", strings.Repeat("0", 64))...)

	w.want(exitOK, "instruction "+in.ID+" is replaced", "replace", "instruction", in.ID, "--lifetime", "48h")
	w.want(exitOK, "targets     a.example,b.example\nlifetime    48h0m0s\n", "show", "instruction", in.ID)
	w.want(exitRefused, "it is for other certificates or keys", "replace", "instruction", in.ID, "--name", "0.2.481.1/100.1.2")
	file := w.file("one.yaml", "flavour: device\nname: 0.2.481.1/100.1.1\nanchors: ["+id+"]\nenrolee_id: //sp.example/1\ntargets: [c.example]\n")
	w.want(exitOK, "is replaced", "replace", "instruction", in.ID, "-f", file)
	w.want(exitOK, "c.example", "list", "instructions")
	w.want(exitUsage, "there is no member targetss; the nearest is targets", "create", "instruction", "-f", w.file("two.yaml", "targetss: [x]"))
	w.want(exitUsage, "cannot unmarshal number", "create", "instruction", "-f", w.file("three.json", `{"name": 1}`))
	if code, _, stderr := w.as("admin", "{", "create", "instruction", "-f", "-"); code != exitUsage {
		t.Errorf("half an object: %d %s", code, stderr)
	}
	w.want(exitUsage, `the nearest is "instructions"`, "create", "anchor")

	// Somebody is faster.
	w.mu.Lock()
	w.before = func(r *http.Request) {
		if r.Method == http.MethodPut {
			w.mu.Lock()
			w.rules.Instructions[0].Lifetime = "1h"
			w.mu.Unlock()
		}
	}
	w.mu.Unlock()
	w.want(exitRefused, "resource-changed", "replace", "instruction", in.ID, "--lifetime", "72h")

	w.want(exitRefused, "pins it", "delete", "anchor", id)
	w.want(exitOK, "deleted instruction "+in.ID, "delete", "instruction", in.ID)
	w.want(exitOK, "deleted anchor "+id, "delete", "anchor", id)
	w.want(exitUsage, "there is no resource", "delete", "refusal", "x")
}

// TestOperatorVerdicts passes and lifts them.
func TestOperatorVerdicts(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	out := w.want(exitOK, "banned //sp.example/1: muster admin lift ", "ban", "--enrolee", "//sp.example/1", "--reason", "stolen")
	id := regexp.MustCompile("lift ([0-9a-f]+)").FindStringSubmatch(out)[1]
	w.want(exitOK, "suspended device:0.2.481.1/100.1.1:", "suspend", "--name", "device:0.2.481.1/100.1.1", "--reason", "repair")
	digest := strings.Repeat("AB:", 31) + "AB"
	w.want(exitOK, `"before":"2026-01-31T12:00:00Z"`, "evict", "--digest", digest, "--reason", "sold", "--before", "2026-01-31T12:00:00Z", "--json")
	w.want(exitOK, "stolen", "list", "verdicts")
	w.want(exitOK, strings.Repeat("ab", 32), "list", "verdicts")
	if code, _, stderr := w.as("operator", "", "lift", id); code != exitRefused || !strings.Contains(stderr, "only an admin lifts a ban") {
		t.Errorf("an operator lifts a ban: %d %s", code, stderr)
	}
	w.want(exitOK, "lifted "+id, "lift", id)
	w.want(exitRefused, "resource-unknown", "lift", id)
	w.want(exitRefused, "stands in the configuration", "lift", "fixed")
	for _, args := range [][]string{
		{"ban", "--reason", "x"}, {"ban", "--enrolee", "//sp.example/1"}, {"ban", "--enrolee", "//sp.example/1", "--digest", digest, "--reason", "x"},
		{"ban", "--digest", "abc", "--reason", "x"}, {"ban", "--name", "device", "--reason", "x"}, {"ban", "--name", "fqdn:*.example", "--reason", "x"},
		{"evict", "--enrolee", "//sp.example/1", "--reason", "x", "--before", "noon"}, {"suspend", "--before", "x"}, {"ban", "x"},
	} {
		w.want(exitUsage, "usage: ", args...)
	}
}

func TestOperatorCommandsOfClients(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	order := []string{"command", "queue", "--admin", "admin.example", "--group", "//sp.example/", "--id", "one", "device", "https://dm.example"}
	w.want(exitOK, "queued for 2 clients", order...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := fmt.Sprint(w.orders); got != "[{one admin.example  //sp.example/ [device https://dm.example]}]" {
		t.Errorf("queued %s", got)
	}
	w.want(exitUsage, "either --enrolee or --group", append(order, "--enrolee", "//sp.example/1")...)
	w.want(exitUsage, "is no command", append(order, "x")...)
	w.want(exitUsage, "needs --admin and --enrolee", "command", "list", "--enrolee", "//sp.example/1")
}

// TestOperatorTokens has tokens issued and uses them.
func TestOperatorTokens(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	file := filepath.Join(w.dir, "token")
	w.want(exitOK, file+" has a token with the role viewer", "token", "--role", "viewer", "--lifetime", "10m", "-o", file)
	info, err := os.Stat(file)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file has the mode %s", info.Mode())
	}
	w.want(exitOK, "role   viewer\ntoken  true", "whoami", "--token-file", file)
	w.want(exitRefused, "not to another token", "token", "-o", "-", "--token-file", file)
	if out := w.want(exitOK, "muster_", "token", "-o", "-"); strings.Count(out, "\n") != 1 {
		t.Errorf("a token is %q", out)
	}
	if out := w.want(exitOK, `"token":""`, "token", "-o", file, "--json"); strings.Contains(out, "muster_") {
		t.Errorf("a token is printed: %s", out)
	}
	must(t, os.Chmod(file, 0o644))
	w.want(exitUsage, "configuration: the token file", "whoami", "--token-file", file)
	w.want(exitRefused, "token-invalid", "whoami", "--token-file", w.file("old", "muster_old\n"))
	w.want(exitUsage, "either --cert with --key or --token-file", "whoami", "--token-file", file, "--cert", "x")
	for _, args := range [][]string{{"token"}, {"token", "-o", file, "--lifetime", "0s"}, {"token", "-o", file, "--role", "king"}, {"sign-in", "--role", "king"}} {
		w.want(exitUsage, "usage: ", args...)
	}
	w.want(exitRefused, "request-malformed: seconds", "token", "-o", file, "--lifetime", "2h")
	w.want(exitOK, w.server.URL+"/sign-in#muster_", "sign-in")
	w.want(exitOK, `"role":"viewer"`, "sign-in", "--role", "viewer", "--json")
}

// TestOperatorTokenOfTheEnvironment does not go before the command line.
func TestOperatorTokenOfTheEnvironment(t *testing.T) {
	w := newOperatorWorld(t)
	t.Setenv(operatorTokenVariable, strings.TrimSpace(w.want(exitOK, "muster_", "token", "-o", "-")))
	t.Setenv(operatorConfigVariable, filepath.Join(w.dir, "viewer.yaml"))
	if code, out, stderr := command(t, "admin", "whoami"); code != exitOK || !strings.Contains(out, "fqdn:admin.example.com") {
		t.Errorf("by the environment: %d %s%s", code, out, stderr)
	}
	chain, key := w.pki.Function(t, "auditor.example.com").WriteFiles(t)
	if code, out, stderr := command(t, "admin", "whoami", "--cert", chain, "--key", key); code != exitOK || !strings.Contains(out, "fqdn:auditor.example.com") {
		t.Errorf("by the command line: %d %s%s", code, out, stderr)
	}
}

// TestOperatorAudit follows the chain from afar.
func TestOperatorAudit(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	w.want(exitOK, "//sp.example/6", "audit", "list")
	out := w.want(exitOK, "entries 1 to 7 hold\nhead 7:", "audit", "verify")
	_, head, _ := strings.Cut(strings.TrimSpace(out), "head ")
	w.want(exitOK, "head "+head, "audit", "verify", "--head", head)
	entries := w.want(exitOK, `"seq":1,`, "audit", "verify", "--json")
	text, err := os.ReadFile(w.log)
	must(t, err)
	if entries != string(text) {
		t.Errorf("the entries are not those of the log:\n%s", entries)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for _, changed := range map[string]string{
		"changed": strings.Replace(string(text), "example/3", "example/4", 1), "removed": strings.Join(slices.Delete(slices.Clone(lines), 2, 3), ""),
		"moved": lines[1] + lines[0] + strings.Join(lines[2:], ""), "put in": lines[0] + string(text),
	} {
		must(t, os.WriteFile(w.log, []byte(changed), 0o600))
		w.want(exitRefused, "audit-broken: ", "audit", "verify")
	}
	must(t, os.WriteFile(w.log, []byte(strings.Join(lines[:5], "")), 0o600))
	w.want(exitOK, "entries 1 to 5 hold", "audit", "verify")
	w.want(exitRefused, "does not contain "+head, "audit", "verify", "--head", head)
	var third audit.Entry
	must(t, json.Unmarshal([]byte(lines[2]), &third))
	must(t, os.WriteFile(w.log, []byte(strings.Join(lines[3:], "")), 0o600))
	w.want(exitOK, "entries 4 to 7 hold", "audit", "verify", "--from", "3:"+third.Hash)
	w.want(exitUsage, "is not a head", "audit", "verify", "--head", "x")
	must(t, os.WriteFile(w.log, nil, 0o600))
	w.want(exitUsage, "no entry in it", "audit", "verify")
	if code, _, stderr := w.as("operator", "", "audit", "verify"); code != exitRefused {
		t.Errorf("an operator reads the audit log: %d %s", code, stderr)
	}
}

func TestOperatorConfiguration(t *testing.T) {
	t.Parallel()
	w := newOperatorWorld(t)
	admin := filepath.Join(w.dir, "admin.yaml")
	if code, out, stderr := command(t, "config", "check", admin); code != exitOK || !strings.Contains(out, "admin.yaml: ok") {
		t.Errorf("a sound configuration: %d %s%s", code, out, stderr)
	}
	ca := w.pki.Root.WriteFile(t)
	for text, want := range map[string]string{
		"server: https://x.example":                                                         "which function?",
		"server: http://x.example\nca: " + ca:                                               "not as https://HOST:PORT",
		"server: https://x.example/v1\nca: " + ca:                                           "not as https://HOST:PORT",
		"server: https://u:p@x.example\nca: " + ca:                                          "not as https://HOST:PORT",
		"server: https://192.0.2.1\nca: " + ca:                                              "--server-name",
		"server: https://x.example\nca: " + ca:                                              "who is asking?",
		"server: https://x.example\nca: absent\nkey: x":                                     "absent",
		"server: https://x.example\nca: " + ca + "\ncertificate: absent\nkey: absent":       "the operator's certificate",
		"server: https://x.example\nca: " + ca + "\ncertificate: absent\ntoken_file: x":     "both a certificate and a token_file",
		"server: https://x.example\nca: " + ca + "\ntoken_file: " + w.file("two", "a b"):    "the token is malformed",
		"server: https://x.example\nca: " + ca + "\ntoken_file: absent":                     "the token file",
		"server: https://x.example\ncertificat: x":                                          `the nearest is "certificate"`,
		"server: https://x.example\nca: " + ca + "\ntimeout: -1s\ncertificate: x\nkey: x\n": "negative",
	} {
		code, _, stderr := command(t, "config", "check", w.file("wrong.yaml", text))
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s\nends with %d: %s; want %q", text, code, stderr, want)
		}
	}
	other := mustertest.NewPKI(t)
	w.want(exitRefused, "anchor-mismatch", "whoami", "--ca", other.Root.WriteFile(t))
	w.want(exitRefused, "name-mismatch", "whoami", "--server-name", "maf.example.com")
	w.want(exitUnreachable, "unreachable: 127.0.0.1:1: ", "whoami", "--server", "https://127.0.0.1:1")
	chain, key := other.Function(t, "admin.example.com").WriteFiles(t)
	w.want(exitRefused, "anchor-mismatch", "whoami", "--cert", chain, "--key", key)
}

func TestRelativeTimes(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "now", -59 * time.Second: "59s ago", 90 * time.Second: "in 1m", -3 * time.Hour: "3h ago", 47 * time.Hour: "in 47h", -72 * time.Hour: "3d ago",
	} {
		if got := relativeTime(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

// TestTable cuts lines at the edge of a terminal, and shows what others wrote without obeying it.
func TestTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	rows := (&desk{out: &out, width: 14}).table("A", "B")
	rows.add("1", "\x1b[2J")
	must(t, rows.flush())
	rows.add("", "ü\u202e\n\xff0123456789")
	must(t, rows.flush())
	if want := "A  B\n1  \\x1b[2J\n-  ü\\u202e\\n\\…\n"; out.String() != want {
		t.Errorf("the table is\n%q, want\n%q", out.String(), want)
	}
	if terminalWidth(&out) != 0 || newProgress(&out, 1, "") != nil {
		t.Error("a buffer is a terminal")
	}
	bar := progress{&out, 4, "instructions"}
	out.Reset()
	bar.show(1)
	if want := "\r[" + strings.Repeat("#", 10) + strings.Repeat(".", 30) + "] 1/4 instructions"; out.String() != want {
		t.Errorf("the bar is %q", out.String())
	}
}
