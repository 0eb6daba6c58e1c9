package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/mustertest"
	"muster/tef"
)

// rewrite changes a configuration of the laboratory by replacing text in it.
func (w *world) rewrite(file string, pairs ...string) {
	w.t.Helper()
	octets, err := os.ReadFile(w.lab.path(file))
	must(w.t, err)
	for n := 0; n < len(pairs); n += 2 {
		if !strings.Contains(string(octets), pairs[n]) {
			w.t.Fatalf("%s does not have %q", file, pairs[n])
		}
	}
	must(w.t, os.WriteFile(w.lab.path(file), []byte(strings.NewReplacer(pairs...).Replace(string(octets))), 0o600))
}

// answers fails the test unless an open session of a device is served.
func answers(t *testing.T, w *world, config *enroleeConfig, attachment *enrolee.Attachment) {
	t.Helper()
	mmaf := attachment.Mmaf()
	if _, err := mmaf.Register(t.Context(), tef.ClientRegistration{AdminFQDN: config.AdminFQDN}); err != nil {
		t.Errorf("an open session is not served any more: %v", err)
	}
}

// TestMAFReload replaces MEFs, anchors and stakeholders of a MAF under an open session.
func TestMAFReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.maf.Metrics.Listen = ":0"
	w.startMEF()
	w.rewrite("maf.yaml", "127.0.0.1:7443", w.mefAddresses.TLS)
	w.startMAF()
	config := w.deviceConfig(0, overTLS)
	attachment, err := w.device(config).Ensure(t.Context())
	must(t, err)
	defer func() { _ = attachment.Close() }()

	// Another MEF in place of the first: who comes with a KeID of that is unknown.
	w.rewrite("maf.yaml", "fqdn: "+labMEF, "fqdn: other.lab.example")
	must(t, errorOf(w.mafService.reload()))
	other := w.device(w.deviceConfig(1, overTLS))
	if _, err := other.Ensure(t.Context()); err == nil {
		t.Error("attached by a MEF that was taken from the list")
	}
	w.mafLog.await(t, muster.CodeMEFNotListed)
	answers(t, w, config, attachment)

	// What is wrong changes nothing.
	for text, code := range map[string]muster.Code{
		"fqdn: x":                   muster.CodeConfiguration,
		"fqdn: moved.lab.example\n": muster.CodeConfiguration,
	} {
		w.rewrite("maf.yaml", "fqdn: "+labMAF+"\n", text)
		wantCode(t, errorOf(w.mafService.reload()), code)
		w.rewrite("maf.yaml", text, "fqdn: "+labMAF+"\n")
	}
	w.rewrite("maf.yaml", "operator-root.pem", "missing.pem")
	wantCode(t, errorOf(w.mafService.reload()), muster.CodeConfiguration)
	w.rewrite("maf.yaml", "missing.pem", "operator-root.pem")
	answers(t, w, config, attachment)

	w.rewrite("maf.yaml", "fqdn: other.lab.example", "fqdn: "+labMEF)
	must(t, errorOf(w.mafService.reload()))
	second, err := other.Ensure(t.Context())
	must(t, err)
	must(t, second.Close())
	answers(t, w, config, attachment)

	// Another stakeholder in place of the one for which the devices register.
	w.rewrite("maf.yaml", "administrators: ["+labAdmin+"]", "administrators: [other.lab.example]")
	must(t, errorOf(w.mafService.reload()))
	if _, err := attachment.Mmaf().Register(t.Context(), tef.ClientRegistration{AdminFQDN: config.AdminFQDN}); err == nil {
		t.Error("registered for a stakeholder that was taken from the list")
	}
	text := w.scrape(w.mafService)
	for _, want := range []string{`{result="replaced",subject="configuration"} 3`, `{result="refused",subject="configuration"} 3`} {
		if !strings.Contains(text, "muster_reloads_total"+want) {
			t.Errorf("not served: %s", want)
		}
	}
}

// TestMEFReloadOfLimits lowers how many enrolments an Enrolee may have.
func TestMEFReloadOfLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	w.startMAF()
	device := w.device(w.deviceConfig(0, overTLS))
	attachment, err := device.Ensure(t.Context()) // its MAF fetches
	must(t, err)
	must(t, attachment.Close())
	w.rewrite("mef.yaml", "mafs:\n", "max_live: 1\nmafs:\n")
	must(t, errorOf(w.mefService.reload()))
	if _, err := device.Enrol(t.Context()); err == nil {
		t.Error("the new limit has no effect")
	}
	w.mefLog.await(t, muster.CodeCloneSuspected)
}

// TestReloadUnderAnExpiredIdentity bans a device at a MEF whose certificate has
// expired: rules take effect all the same.
func TestReloadUnderAnExpiredIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.replaceIdentity(mustertest.NewPKI(t).Function(t, labMEF, mustertest.Expired()))
	w.startMEF()
	w.rewrite("mef.yaml", "mafs:\n", "verdicts: [{verdict: ban, enrolee_id: //sp.lab.example/device-0001}]\nmafs:\n")
	must(t, errorOf(w.mefService.reload()))
	if !w.mefLog.says("configuration replaced") || w.mefLog.says("identity replaced") {
		t.Errorf("the log:\n%s", w.mefLog)
	}
}

// replaceIdentity writes another identity over the files of the MEF's.
func (w *world) replaceIdentity(identity *mustertest.Identity) {
	w.t.Helper()
	chain, key := identity.WriteFiles(w.t)
	for from, to := range map[string]string{chain: w.mef.Identity.Certificate, key: w.mef.Identity.Key} {
		octets, err := os.ReadFile(from)
		must(w.t, err)
		must(w.t, os.WriteFile(to, octets, 0o600))
	}
}

// TestIdentityIsReplaced writes a new certificate over the MEF's files, once taken
// up by a look at the files and once by a reload; bad ones change nothing.
func TestIdentityIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	pki := mustertest.NewPKI(t)
	w.startMEF()
	old := w.device(w.deviceConfig(0, overTLS))
	config := w.deviceConfig(1, overTLS)
	config.MEF.Anchors = []string{pki.Root.WriteFile(t)}
	newer := w.device(config)
	_, err := old.Enrol(t.Context())
	must(t, err)

	for name, bad := range map[muster.Code]*mustertest.Identity{
		muster.CodeNameMismatch: pki.Function(t, "other.lab.example"),
		muster.CodeExpired:      pki.Function(t, labMEF, mustertest.Expired()),
		muster.CodeNotYetValid:  pki.Function(t, labMEF, mustertest.NotYetValid()),
	} {
		w.replaceIdentity(bad)
		wantCode(t, errorOf(w.mefService.reload()), name)
	}
	must(t, os.WriteFile(w.mef.Identity.Key, []byte("half a k"), 0o600))
	wantCode(t, errorOf(w.mefService.reload()), muster.CodeConfiguration)
	_, err = old.Enrol(t.Context())
	must(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		w.mefService.own.watch(ctx, time.Millisecond, w.mefService.log, nil)
		close(ended)
	}()
	await(t, "the new identity is not taken up", func() (bool, bool) {
		w.replaceIdentity(pki.Function(t, labMEF)) // again, if the watch began after the first time
		time.Sleep(20 * time.Millisecond)
		return true, w.mefLog.says("identity replaced")
	})
	_, err = newer.Enrol(t.Context())
	must(t, err)
	must(t, os.WriteFile(w.mef.Identity.Certificate, []byte("half a certifi"), 0o600))
	await(t, "a bad identity is not refused", func() (bool, bool) { return true, w.mefLog.says("identity refused, the old one stays") })
	_, err = newer.Enrol(t.Context())
	must(t, err)
	cancel()
	<-ended
	if _, err := old.Enrol(t.Context()); err == nil {
		t.Error("the old identity is still shown")
	}
}
