package tracing

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func collector(t *testing.T, status int) (endpoint string, received func() []spanJSON) {
	t.Helper()
	var mu sync.Mutex
	var spans []spanJSON
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var e export
		if err := json.Unmarshal(body, &e); err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("the body %q: %v", body, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range e.ResourceSpans {
			if r.Resource.Attributes[0] != (keyValue{"service.name", value{"muster-test"}}) {
				t.Errorf("the resource is %+v", r.Resource)
			}
			spans = append(spans, r.ScopeSpans[0].Spans...)
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1/traces", func() []spanJSON {
		mu.Lock()
		defer mu.Unlock()
		return spans
	}
}

// TestTraceOverTwoProcesses hands a trace from one Tracer to another.
func TestTraceOverTwoProcesses(t *testing.T) {
	t.Parallel()
	endpoint, received := collector(t, http.StatusOK)
	client, err := New(Config{Endpoint: endpoint, Service: "muster-test"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(Config{Endpoint: endpoint, Service: "muster-test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, outer := client.Start(t.Context(), "outer", Client)
	header := Traceparent(ctx)
	_, inner := server.Start(Continue(context.Background(), header), "inner", Server)
	inner.Set("muster.operation", "retrieve")
	inner.End("key-unknown")
	outer.End("")
	for _, tracer := range []*Tracer{server, client, client} {
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
	}
	spans := map[string]spanJSON{}
	for _, s := range received() {
		spans[s.Name] = s
	}
	o, i := spans["outer"], spans["inner"]
	if len(spans) != 2 || o.TraceID != i.TraceID || i.Parent != o.SpanID || o.Parent != "" || len(o.TraceID) != 32 || len(o.SpanID) != 16 {
		t.Errorf("received %+v", spans)
	}
	if i.Status == nil || *i.Status != (status{statusError, "key-unknown"}) || o.Status != nil || i.Kind != Server || i.Start > i.End {
		t.Errorf("received %+v", spans)
	}
	if len(i.Attributes) != 1 || i.Attributes[0] != (keyValue{"muster.operation", value{"retrieve"}}) {
		t.Errorf("attributes %+v", i.Attributes)
	}
	if header != "00-"+o.TraceID+"-"+o.SpanID+"-01" {
		t.Errorf("the traceparent is %q", header)
	}
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for text, want := range map[string]string{
		"00-" + trace + "-" + span + "-01":                             "00-" + trace + "-" + span + "-01",
		"00-" + trace + "-" + span + "-00":                             "00-" + trace + "-" + span + "-00",
		"cc-" + trace + "-" + span + "-01-what-comes":                  "00-" + trace + "-" + span + "-01",
		"00-" + trace + "-" + span + "-01-more":                        "",
		"ff-" + trace + "-" + span + "-01":                             "",
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":            "",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":           "",
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01":          "",
		"00-" + trace[1:] + "-" + span + "-01":                         "",
		"00-" + trace + "-" + span + "-0g":                             "",
		"00-" + trace + "-" + span:                                     "",
		"":                                                             "",
		"cc-" + trace + "-" + span + "-01-" + strings.Repeat("x", 512): "",
	} {
		if got := Traceparent(Continue(context.Background(), text)); got != want {
			t.Errorf("%q is continued as %q, want %q", text, got, want)
		}
	}
}

// What the beginner of a trace does not sample is not recorded, and goes on so.
func TestNotSampled(t *testing.T) {
	t.Parallel()
	endpoint, received := collector(t, http.StatusOK)
	tracer, err := New(Config{Endpoint: endpoint, Service: "muster-test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := tracer.Start(Continue(t.Context(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), "x", Server)
	span.Set("a", "b")
	span.End("")
	if header := Traceparent(ctx); !strings.HasSuffix(header, "-00") {
		t.Errorf("goes on as %q", header)
	}
	_ = tracer.Close()
	if len(received()) != 0 {
		t.Error("a span was recorded")
	}
}

func TestNoTracer(t *testing.T) {
	var tracer *Tracer
	ctx := t.Context()
	if allocations := testing.AllocsPerRun(100, func() {
		_, span := tracer.Start(ctx, "x", Server)
		span.Set("a", "b")
		span.End("")
	}); allocations != 0 {
		t.Errorf("%v allocations without a tracer", allocations)
	}
	if err := tracer.Close(); err != nil {
		t.Error(err)
	}
}

// A collector that refuses, and more spans than may wait, stop nobody.
func TestTroubledCollector(t *testing.T) {
	t.Parallel()
	endpoint, _ := collector(t, http.StatusServiceUnavailable)
	told := make(chan error, 100)
	tracer, err := New(Config{Endpoint: endpoint, Service: "muster-test", Trouble: func(err error) { told <- err }})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * maxWaiting {
		_, span := tracer.Start(t.Context(), "x", Server)
		span.End("")
	}
	_ = tracer.Close()
	if err := <-told; !strings.Contains(err.Error(), "503") {
		t.Errorf("told %v", err)
	}
	for _, wrong := range []string{"", "127.0.0.1:4318", "ftp://x/", "http://", "http://user:secret@x/"} {
		if _, err := New(Config{Endpoint: wrong}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// What a traceparent is read as goes on as written, but for the version and the
// flags that are not known here.
func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes")
	f.Add("ff-00000000000000000000000000000000-0000000000000000-00")
	f.Fuzz(func(t *testing.T, text string) {
		header := Traceparent(Continue(t.Context(), text))
		if header == "" {
			return
		}
		if len(header) != 55 || header[2:53] != text[2:53] {
			t.Errorf("%q is continued as %q", text, header)
		}
		if again := Traceparent(Continue(t.Context(), header)); again != header {
			t.Errorf("%q is continued as %q", header, again)
		}
	})
}
