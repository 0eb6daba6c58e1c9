package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"muster"
)

// A seenSpan is a span as a collector sees it.
type seenSpan struct {
	Service                       string
	TraceID, SpanID, ParentSpanID string
	Name                          string
	Status                        struct{ Message string }
}

// A traceCollector is an OpenTelemetry collector for tests.
type traceCollector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []seenSpan      // guarded by mu, as below
	raw   strings.Builder // all bodies
}

func newTraceCollector(t *testing.T) *traceCollector {
	t.Helper()
	c := new(traceCollector)
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var export struct {
			ResourceSpans []struct {
				Resource struct {
					Attributes []struct{ Value struct{ StringValue string } }
				}
				ScopeSpans []struct{ Spans []seenSpan }
			}
		}
		if err := json.Unmarshal(body, &export); err != nil {
			t.Errorf("%q: %v", body, err)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw.Write(body)
		for _, resource := range export.ResourceSpans {
			for _, span := range resource.ScopeSpans[0].Spans {
				span.Service = resource.Resource.Attributes[0].Value.StringValue
				c.spans = append(c.spans, span)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// A device enrols and attaches: what it asks the MEF for is in its own trace, and
// the MAF's fetch in that of the device's handshake with the MAF.
func TestTracesAcrossTheThreeParties(t *testing.T) {
	t.Parallel()
	collector := newTraceCollector(t)
	w := newWorld(t, 1)
	endpoint := collector.URL + "/v1/traces"
	w.mef.Tracing.Endpoint, w.maf.Tracing.Endpoint = endpoint, endpoint
	stopMEF, stopMAF := w.startMEF(), w.startMAF()
	config := w.deviceConfig(0, overTLS)
	config.Tracing.Endpoint = endpoint
	credential := w.attached(config)
	w.knockMAF(t, credential.KeID.String(), credential.Km.Reveal())
	w.mafLog.await(t, muster.CodeKeyRetired)
	stopMAF() // which sends what waits
	stopMEF()

	collector.mu.Lock()
	defer collector.mu.Unlock()
	byID := map[string]seenSpan{}
	for _, span := range collector.spans {
		byID[span.SpanID] = span
	}
	seen := map[string]bool{}
	for _, span := range collector.spans {
		parent := byID[span.ParentSpanID]
		seen[span.Service+" "+span.Name+" below "+parent.Service+" "+parent.Name+" "+span.Status.Message] = true
		if parent.SpanID != "" && parent.TraceID != span.TraceID {
			t.Errorf("%+v is in another trace than its parent", span)
		}
	}
	for _, want := range []string{
		"muster-enrolee connect to the MEF below   ",
		"muster-enrolee request below muster-enrolee connect to the MEF ",
		"muster-mef request below muster-enrolee request ",
		"muster-mef establish below muster-mef handshake ",
		"muster-maf psk_identity below muster-maf handshake ",
		"muster-maf retrieve key below muster-maf psk_identity ",
		"muster-mef request below muster-maf retrieve key ",
		"muster-maf psk_identity below muster-maf handshake key-retired",
	} {
		if !seen[want] {
			t.Errorf("no span %q; there are %v", want, seen)
		}
	}
	for _, secret := range []string{credential.KeID.String(), credential.KmID.String(), "device-0001"} {
		if strings.Contains(collector.raw.String(), secret) {
			t.Errorf("a span tells %s", secret)
		}
	}
}

func TestTracingEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.mef.Tracing.Endpoint = "127.0.0.1:4318"
	_, err := startMEF(t.Context(), w.mef, newLogger(w.mefLog), observer{})
	wantCode(t, err, muster.CodeConfiguration)
}
