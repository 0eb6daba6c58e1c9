package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/tef"
)

// performer is a program that notes what it is asked to do. It performs nodes,
// does not know certificates, and never comes to an end with devices.
const performer = `#!/bin/sh
{ echo "$1"; cat; echo; env; } >> "$(dirname "$0")/notes"
case "$1" in
node) exit 0 ;;
certificate) echo 41; exit 1 ;;
device) exec sleep 600 ;;
esac
`

// TestEnrolPerformsCommands has muster enrol perform what waits for the device at
// its MEF, once, and report what became of it.
func TestEnrolPerformsCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	device := w.deviceConfig(0, overTLS)
	admin, err := muster.ParseFQDN(labAdmin)
	must(t, err)
	queue := func(id string, d tef.CommandDescription) {
		store, err := openStore(t.Context(), w.mef.Store)
		must(t, err)
		must(t, tef.Queue(t.Context(), store, w.mef.FQDN, device.EnroleeID, admin, id, d, time.Now()))
		must(t, store.Close())
	}
	queue("one", tef.CommandDescription{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "./anchors", Type: tef.NodeTrustAnchor}})
	queue("two", tef.CommandDescription{Class: tef.ClassCertificate, Certificate: &tef.CertificateProvisioning{
		Protocol: tef.ProtocolEST, URI: "https://" + labMEF + "/est", SubjectType: tef.SubjectAE, SubjectID: device.EnroleeID.String(),
	}})
	queue("three", tef.CommandDescription{Class: tef.ClassDevice, Device: &tef.DeviceConfiguration{URI: "1:coaps://" + labMEF + "/"}})
	stopMEF := w.startMEF()
	w.startMAF()

	program := w.lab.path("performer")
	must(t, os.WriteFile(program, []byte(performer), 0o700))
	file := w.lab.path(w.lab.deviceFile(0) + ".yaml")
	config, err := os.ReadFile(file)
	must(t, err)
	text := strings.NewReplacer(fmt.Sprintf("127.0.0.1:%d", labMEFPort), w.mefAddresses.TLS, fmt.Sprintf("127.0.0.1:%d", labMAFPort), w.mafAddress).Replace(string(config))
	must(t, os.WriteFile(file, []byte(text+"commands: {program: performer, timeout: 1s}\n"), 0o600))
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"enrol", "--config", file}, nil, &stdout, &stderr); code != 0 {
		t.Fatalf("enrol ended with %d: %s", code, stderr.String())
	}
	if said := stderr.String(); !strings.Contains(said, "no more commands") || !strings.Contains(said, retryDuration.String()) || strings.Count(said, "was not performed") != 2 {
		t.Errorf("enrol said %q", said)
	}
	notes, err := os.ReadFile(filepath.Join(filepath.Dir(program), "notes"))
	must(t, err)
	for _, want := range []string{"node\n", `"./anchors"`, "certificate\n", `/est"`, "device\n", `"1:coaps://`} {
		if strings.Count(string(notes), want) != 1 {
			t.Errorf("the program was not given %q once:\n%s", want, notes)
		}
	}
	if strings.Contains(string(notes), "HOME=") {
		t.Errorf("the program has our environment:\n%s", notes)
	}

	stopMEF()
	store, err := openStore(t.Context(), w.mef.Store)
	must(t, err)
	defer func() { _ = store.Close() }()
	queued, err := store.Commands(t.Context(), w.mef.FQDN, tef.RegistrationID(device.EnroleeID, admin))
	must(t, err)
	var became []tef.CommandStatus
	for _, c := range queued {
		became = append(became, c.Status)
	}
	if want := []tef.CommandStatus{tef.CommandOK, tef.CommandClassNotSupported, tef.DeviceClientError}; !slices.Equal(became, want) {
		t.Errorf("the commands became %v, not %v", became, want)
	}
}

// TestProgramsAreChecked finds what cannot work before a device is enrolled.
func TestProgramsAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	must(t, os.WriteFile(w.lab.path("plain"), nil, 0o600))
	file := w.lab.path(w.lab.deviceFile(0) + ".yaml")
	config, err := os.ReadFile(file)
	must(t, err)
	for _, commands := range []string{"{program: absent}", "{program: plain}", "{program: .}", "{timeout: 1s}"} {
		must(t, os.WriteFile(file, append(slices.Clone(config), "commands: "+commands+"\n"...), 0o600))
		_, err := readEnroleeConfig(file)
		wantCode(t, err, muster.CodeConfiguration)
	}
}
