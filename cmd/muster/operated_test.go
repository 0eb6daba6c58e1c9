package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"muster/console"
	"muster/enrolee"
	"muster/mustertest"
)

// An operated fortress has an operator with the role admin at both functions, which
// are processes of their own.
type operated struct{ *fortress }

func newOperated(t *testing.T, devices int) *operated {
	t.Helper()
	o := &operated{newFortress(t, devices, func(function, config string) string {
		rules := map[string]string{"mef": "rules: mef.rules, "}[function]
		return config + fmt.Sprintf("audit: {file: %[1]s.audit}\nadmin: {listen: \"127.0.0.1:0\", %[2]sclients: [{certificate: {flavour: fqdn, name: %[3]s}, anchors: [pki/operator-root.pem], role: admin}]}\n", function, rules, labOperator)
	})}
	for function, p := range map[string]*process{"mef": o.mef, "maf": o.maf} {
		text := fmt.Sprintf("server: https://%s\nserver_name: %s.lab.example\nca: pki/operator-root.pem\ncertificate: pki/operator.pem\nkey: pki/operator-key.pem\n", p.addresses["admin"], function)
		must(t, os.WriteFile(o.file(function), []byte(text), 0o600))
	}
	return o
}

// file is the configuration of the operator of a function.
func (o *operated) file(function string) string { return o.lab.path(function + "-by-operator.yaml") }

// admin runs muster admin at a function.
func (o *operated) admin(function string, args ...string) (code int, stdout, stderr string) {
	var out, notes bytes.Buffer
	code = run(o.t.Context(), append([]string{"admin", "--config", o.file(function)}, args...), strings.NewReader(""), &out, &notes)
	return code, out.String(), notes.String()
}

// ok runs muster admin at a function, and wants texts of what it prints.
func (o *operated) ok(function string, args []string, texts ...string) string {
	o.t.Helper()
	code, stdout, stderr := o.admin(function, args...)
	for _, text := range append(texts, "") {
		if code != exitOK || !strings.Contains(stdout, text) {
			o.t.Errorf("muster admin %q at the %s: exit code %d, without %q in\n%s%s", args, function, code, text, stdout, stderr)
		}
	}
	return stdout
}

// stranger is an Enrolee with a certificate that no instruction names.
func (o *operated) stranger() *enrolee.Enrolee {
	chain, key := mustertest.NewPKI(o.t).Function(o.t, "stranger.example").WriteFiles(o.t)
	return o.device(0, overTLS, func(c *enroleeConfig) { c.Identity = identityConfig{Certificate: chain, Key: key} })
}

// operatedDevice is the first device.
const operatedDevice = "//sp.lab.example/device-0001"

// TestOperatorOfRunningFunctions operates a MEF and a MAF that are processes.
func TestOperatorOfRunningFunctions(t *testing.T) {
	t.Parallel()
	o := newOperated(t, 2)
	device := o.device(0, overTLS)
	attachment, err := attach(t.Context(), device, true, patience)
	must(t, err)
	must(t, attachment.Close())

	o.ok("mef", []string{"list", "enrolments"}, operatedDevice, "maf.lab.example")
	o.ok("mef", []string{"reload"}, "the configuration was read again", "admin.clients 1, instructions ")
	o.ok("mef", []string{"command", "queue", "--admin", labAdmin, "--enrolee", operatedDevice, "--id", "1", "device", "1:coap://dm.example"}, "queued for 1 clients")
	o.ok("mef", []string{"command", "list", "--admin", labAdmin, "--enrolee", operatedDevice}, "dm.example")

	o.ok("maf", []string{"whoami"}, labOperator, "admin")
	o.ok("maf", []string{"overview"}, labMAF+", a MAF", "attached")
	o.ok("maf", []string{"list", "credentials"}, operatedDevice, attachment.Credential.KmID.String()[:8])
	o.ok("maf", []string{"list", "registrations"}, operatedDevice, labAdmin)
	o.ok("maf", []string{"list", "keys"})
	o.ok("maf", []string{"list", "audit"}, "attached")
	o.ok("maf", []string{"audit", "verify"})
	o.ok("maf", []string{"reload", "--json"}, `"mefs":1`)
	o.ok("maf", []string{"sign-in"}, "/sign-in#muster_")
	for _, args := range [][]string{ // what only a MEF has
		{"list", "enrolments"}, {"list", "kpms"}, {"list", "refusals"}, {"list", "verdicts"}, {"list", "anchors"}, {"show", "instruction", "1"}, {"explain", "1"},
		{"ban", "--enrolee", operatedDevice, "--reason", "x"}, {"lift", "1"}, {"command", "list", "--admin", labAdmin, "--enrolee", operatedDevice},
		{"command", "queue", "--admin", labAdmin, "--enrolee", operatedDevice, "--id", "1", "device", "1:coap://dm.example"},
	} {
		if code, stdout, stderr := o.admin("maf", args...); code != exitRefused || stdout != "" || !strings.Contains(stderr, "resource-unknown: this function has no ") || !strings.Contains(stderr, "remedy:") {
			t.Errorf("muster admin %q at a MAF: %d\n%s%s", args, code, stdout, stderr)
		}
	}
}

// TestWatchOfARunningMEF sees a device enrol, and a stranger refused, while it watches.
func TestWatchOfARunningMEF(t *testing.T) {
	t.Parallel()
	o := newOperated(t, 1)
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"admin", "--config", o.file("mef"), "watch", "--json"}, strings.NewReader(""), in, io.Discard)
		_ = in.Close()
	}()
	events := make(chan console.Event, 1000)
	go func() {
		defer close(events)
		for lines := json.NewDecoder(out); ; {
			var e console.Event
			if lines.Decode(&e) != nil {
				return
			}
			events <- e
		}
	}()
	// It does not say when it has begun, so that each acts again until it is seen.
	see := func(wanted func(console.Event) bool, act func()) {
		t.Helper()
		var acted time.Time
		await(t, "nothing of it is told", func() (struct{}, bool) {
			if time.Since(acted) > 500*time.Millisecond {
				acted = time.Now()
				act()
			}
			for {
				select {
				case e, open := <-events:
					if !open || wanted(e) {
						return struct{}{}, open
					}
				default:
					return struct{}{}, false
				}
			}
		})
	}
	device := o.device(0, overTLS)
	see(func(e console.Event) bool {
		return e.Kind == "enrolled" && e.Enrolee == operatedDevice && e.KeID != ""
	}, func() {
		if _, err := device.Enrol(t.Context()); err != nil {
			t.Error(err)
		}
	})
	stranger := o.stranger()
	see(func(e console.Event) bool { return e.Kind == "refused" && e.Code != "" }, func() {
		if _, err := stranger.Enrol(t.Context()); err == nil {
			t.Error("a stranger enrols")
		}
	})
	stop()
	if code := <-ended; code != exitOK {
		t.Errorf("interrupted, it ends with %d", code)
	}
}
