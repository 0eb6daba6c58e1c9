package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"muster"
)

// get returns the status and body of a path of a function's health listener.
func get(t testing.TB, s *service, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.health.Addr().String()+path, nil)
	must(t, err)
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(body)
}

// A device enrols and attaches, a stranger does not: both functions say so in
// numbers, and in nothing else.
func TestMetricsOfAnEnrolment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.mef.Metrics.Listen, w.maf.Metrics.Listen = ":0", ":0"
	w.startMEF()
	w.startMAF()
	credential := w.attached(w.deviceConfig(0, overTLS))
	w.ledger.awaitAttachment(t, credential.KmID.String())
	w.knockMAF(t, credential.KeID.String(), credential.Km.Reveal())
	atMEF := w.scrape(w.mefService)
	atMAF := await(t, "the refusal is not counted", func() (string, bool) {
		text := w.scrape(w.mafService)
		return text, strings.Contains(text, "key-retired")
	})
	for text, wants := range map[*string][]string{
		&atMEF: {
			"muster_enrolments_total 1", "muster_keys_handed_out_total 1", `muster_sessions_total{transport="tls"} 2`,
			`muster_store_seconds_count{operation="create_enrolment"} 1`, `muster_handshake_seconds_count{result="accepted",transport="tls"} 2`,
			`muster_half_open{transport="dtls"} 0`, `muster_shed_total{transport="tls"} 0`, "muster_store_queue 0",
		},
		&atMAF: {
			"muster_attachments_total 2", `muster_fetch_seconds_count{result="accepted"} 1`,
			`muster_refusals_total{code="key-retired",stage="psk_identity"} 1`, `muster_store_seconds_count{operation="put_credential"} 1`,
		},
	} {
		for _, want := range wants {
			if !strings.Contains(*text, "\n"+want+"\n") {
				t.Errorf("not served: %s", want)
			}
		}
		for _, secret := range []string{credential.KeID.String(), credential.KmID.String(), "device-0001"} {
			if strings.Contains(*text, secret) {
				t.Errorf("served: %s", secret)
			}
		}
	}
	if !strings.Contains(atMEF, "muster_export_seconds_count ") || !strings.Contains(atMEF, `muster_certificate_expiry_timestamp_seconds{certificate="anchor"} `) {
		t.Error("the MEF serves no time of exports or no expiry of anchors")
	}
}

func (w *world) scrape(s *service) string {
	w.t.Helper()
	status, text := get(w.t, s, "/metrics")
	if status != http.StatusOK {
		w.t.Errorf("/metrics has the status %d", status)
	}
	return text
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.mef.Metrics.Listen, w.maf.Metrics.Listen = ":0", "127.0.0.1:0"
	stopMEF := w.startMEF()
	for path, want := range map[string]string{"/livez": "ok\n", "/readyz": "[+]running ok\n[+]certificate ok\n[+]anchors ok\n[+]store ok\n"} {
		if status, body := get(t, w.mefService, path); status != http.StatusOK || body != want {
			t.Errorf("%s of the MEF: %d %q", path, status, body)
		}
	}
	stopMAF := w.startMAF()
	if status, body := get(t, w.mafService, "/readyz"); status != http.StatusOK || !strings.Contains(body, "[+]mef ok") {
		t.Errorf("/readyz of the MAF: %d %q", status, body)
	}
	w.mafService.anchors.Store(&anchorTimes{last: time.Now().Add(-time.Second)})
	if status, body := get(t, w.mafService, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "[-]anchors failed") {
		t.Errorf("/readyz with expired anchors: %d %q", status, body)
	}
	w.mafLog.await(t, muster.CodeExpired)
	stopMEF()
	stopMAF()
	w.startMAF()
	if status, body := get(t, w.mafService, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "[-]mef failed") {
		t.Errorf("/readyz without a MEF: %d %q", status, body)
	}
	w.mafLog.await(t, muster.CodeMEFUnreachable)
	if status, body := get(t, w.mafService, "/readyz?exclude=mef"); status != http.StatusOK || strings.Contains(body, "mef") {
		t.Errorf("/readyz but for the MEF: %d %q", status, body)
	}
	w.mafService.draining.Store(true)
	if status, _ := get(t, w.mafService, "/readyz?exclude=mef"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz while it stops: %d", status)
	}
}

// Many that ask at once cause one question.
func TestRemembered(t *testing.T) {
	t.Parallel()
	asked := 0
	ask := remembered(time.Hour, func(context.Context) error { asked++; return nil })
	done := make(chan error)
	for range 20 {
		go func() { done <- ask(t.Context()) }()
	}
	for range 20 {
		must(t, <-done)
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestMetricsAreOffByDefault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	if w.mefService.health != nil {
		t.Error("a listener that nobody asked for")
	}
	w.maf.Metrics.Listen = "9464"
	_, err := startMAF(t.Context(), w.maf, newLogger(w.mafLog), observer{})
	wantCode(t, err, muster.CodeConfiguration)
}
