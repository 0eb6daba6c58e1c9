package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster"
	"muster/mef"
)

// muster runs a command and returns its exit code and outputs.
func command(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

// strangers is a world whose MEF knows none of its devices.
func strangers(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 1)
	w.mef.Instructions = nil
	file := w.lab.path("mef.yaml")
	text, err := os.ReadFile(file)
	must(t, err)
	before, _, ok := strings.Cut(string(text), "instructions:")
	if !ok {
		t.Fatal("the laboratory has no instructions")
	}
	must(t, os.WriteFile(file, []byte(before), 0o600))
	return w
}

// enrols reports with which code a device is refused that enrols anew.
func (w *world) enrols(via transport) (muster.Code, error) {
	config := w.deviceConfig(0, via)
	device, closeDevice, err := newEnrolee(config, io.Discard)
	must(w.t, err)
	defer func() { _ = closeDevice() }()
	_, err = device.Enrol(w.t.Context())
	return muster.CodeOf(err), err
}

func TestRefusalsExplainThemselves(t *testing.T) {
	w := strangers(t)
	w.startMEF()
	for _, via := range []transport{overTLS, overDTLS} {
		if _, err := w.enrols(via); err == nil {
			t.Fatalf("a stranger enrolled over %s", via)
		}
	}
	w.mefLog.await(t, muster.CodeNameUnknown)
	config := w.lab.path("mef.yaml")

	code, listed, _ := command(t, "refusals", "--config", config, "--json")
	var r struct {
		ID, Code, Certificate, Chain string
	}
	// The same certificate for the same reason is written once.
	if err := json.Unmarshal([]byte(listed), &r); err != nil || code != 0 || r.Code != string(muster.CodeNameUnknown) {
		t.Fatalf("refusals: exit code %d, %v: %s", code, err, listed)
	}
	if info, err := os.Stat(w.mef.Store.Path + refusalsSuffix); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of refusals: %v, %v", info, err)
	}
	pemFile := w.lab.path("refused.pem")
	must(t, os.WriteFile(pemFile, []byte(r.Chain), 0o600))
	for _, how := range [][]string{{"--refusal", r.ID}, {"--cert", pemFile}} {
		code, out, _ := command(t, append([]string{"explain", "--config", config}, how...)...)
		if code != exitRefused || !strings.Contains(out, "error: name-unknown") || !strings.Contains(out, r.Certificate) {
			t.Errorf("explain %v: exit code %d: %s", how, code, out)
		}
	}
	// The line in the log has the command, as it is.
	explained := func() (string, bool) {
		w.mefLog.mu.Lock()
		defer w.mefLog.mu.Unlock()
		for _, e := range w.mefLog.entries {
			if e.Explain != "" {
				return e.Explain, true
			}
		}
		return "", false
	}
	line := await(t, "no line in the log has a command", explained)
	if code, _, stderr := command(t, strings.Fields(line)[1:]...); code != exitRefused {
		t.Errorf("%s: exit code %d: %s", line, code, stderr)
	}
	code, out, _ := command(t, "refusals", "--config", config, r.ID)
	if code != 0 || !strings.Contains(out, "BEGIN CERTIFICATE") || !strings.Contains(out, "name-unknown") {
		t.Errorf("refusals %s: exit code %d: %s", r.ID, code, out)
	}
}

func TestHangupReplacesTheRules(t *testing.T) {
	w := strangers(t)
	file := w.lab.path("mef.yaml")
	stranger, err := os.ReadFile(file)
	must(t, err)
	s, err := startMEF(context.Background(), w.mef, newLogger(w.mefLog), w.ledger.observer())
	must(t, err)
	w.mefAddresses = listenConfig{TLS: s.tls.Addr().String(), DTLS: s.dtls.Addr().String()}
	w.stopper(s)
	if code, err := w.enrols(overTLS); err == nil {
		t.Fatalf("a stranger enrolled: %s", code)
	}

	// Until awaitEnd listens, a hangup would end this process.
	shield := make(chan os.Signal, 1)
	signal.Notify(shield, syscall.SIGHUP)
	defer signal.Stop(shield)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		s.awaitEnd(ctx, manager{})
		close(ended)
	}()
	hangUpUntil := func(message string) {
		t.Helper()
		await(t, "no line says "+message, func() (bool, bool) {
			must(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
			time.Sleep(20 * time.Millisecond)
			return true, w.mefLog.says(message)
		})
	}
	group := `instructions:
  - certificate: {flavour: device, pattern: 0.2.481.1/100.*}
    anchors: [pki/device-root.pem]
    template: //sp.lab.example/{model}-{serial}
    targets: [` + labMAF + `]
`
	must(t, os.WriteFile(file, append(stranger[:len(stranger):len(stranger)], group...), 0o600))
	hangUpUntil("configuration replaced")
	if code, err := w.enrols(overDTLS); err != nil {
		t.Fatalf("refused after the change: %s: %v", code, err)
	}
	if e := w.ledger.enrolments(); len(e) != 1 || e[0].EnroleeID.String() != "//sp.lab.example/3030-1" {
		t.Errorf("enrolled %+v", e)
	}

	// What is wrong changes nothing.
	must(t, os.WriteFile(file, append(stranger[:len(stranger):len(stranger)], strings.Replace(group, "{model}-", "", 1)...), 0o600))
	hangUpUntil("configuration refused, the old one stays")
	if code, err := w.enrols(overTLS); err != nil {
		t.Errorf("refused after a change that was refused: %s: %v", code, err)
	}
	cancel()
	<-ended
}

// What strangers can make a MEF write is bounded, and what is kept can be read.
func TestRefusalLogIsBounded(t *testing.T) {
	path := t.TempDir() + "/refusals"
	l := newRefusalLog(path, "mef.yaml")
	now := time.Now().UTC().Truncate(time.Second)
	refused := func(n int, at time.Time) refusal {
		chain := [][]byte{bytes.Repeat([]byte{byte(n), byte(n >> 8), 7}, 16<<10/3)}
		return refusal{Time: at, Code: muster.CodeExpired, Detail: "it expired", Remote: "192.0.2.1:1", Transport: overTLS, Certificate: muster.DigestOf(chain[0]), Chain: chain}
	}
	written := 0
	for n := range 3 * maxRefusalsSecond {
		id, err := l.add(refused(n, now))
		must(t, err)
		if id != "" {
			written++
		}
	}
	if written != maxRefusalsSecond {
		t.Errorf("%d were written in one second", written)
	}
	first, err := l.add(refused(0, now.Add(time.Second)))
	must(t, err)
	again, err := l.add(refused(0, now.Add(2*time.Second)))
	must(t, err)
	if first == "" || first != again {
		t.Errorf("one refusal is %q and then %q", first, again)
	}
	last := ""
	for n := range 600 {
		last, err = l.add(refused(1000+n, now.Add(time.Duration(n+3)*time.Second)))
		must(t, err)
		if last == "" {
			t.Fatal("one in a second was not written")
		}
	}
	total := int64(0)
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Stat(name)
		must(t, err)
		total += info.Size()
	}
	if total > 2*maxRefusalsFile {
		t.Errorf("%d octets are kept", total)
	}
	// A crash may cut the last line short.
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	fmt.Fprint(file, `{"id":"torn","chain":["AA`)
	must(t, file.Close())
	all, err := readRefusals(path)
	must(t, err)
	if len(all) < recentRefusals/2 || all[len(all)-1].ID != last {
		t.Errorf("%d are read, the last of which is %q, not %q", len(all), all[len(all)-1].ID, last)
	}
	// A refusal without a chain, and one at a function without a log.
	if l.note(&net.TCPAddr{}, overTLS, muster.Refuse(muster.CodeHandshakeTimeout, "late")) != nil ||
		(*refusalLog)(nil).note(&net.TCPAddr{}, overTLS, &refusedChain{err: muster.Refuse(muster.CodeExpired, "old")}) != nil {
		t.Error("a refusal without a chain is noted")
	}
}

// A verdict ends a handshake, the device's log says so, and nothing is stored.
func TestVerdictsEndHandshakes(t *testing.T) {
	for sentence, code := range map[mef.Sentence]muster.Code{mef.SentenceBan: muster.CodeBanned, mef.SentenceSuspend: muster.CodeSuspended} {
		t.Run(string(sentence), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			w.mef.Verdicts = []verdictConfig{{Verdict: sentence, EnroleeID: w.mef.Instructions[0].EnroleeID, Reason: "lost"}}
			w.startMEF()
			for _, via := range []transport{overTLS, overDTLS} {
				if _, err := w.enrols(via); err == nil || !strings.Contains(strings.ToLower(strings.ReplaceAll(err.Error(), "Denied", " denied")), "access denied") {
					t.Errorf("over %s the device learns: %v", via, err)
				}
			}
			w.mefLog.await(t, code)
			w.nothingStored()
		})
	}
}
