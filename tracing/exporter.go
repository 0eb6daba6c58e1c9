package tracing

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Bounds of what waits for a collector that is slow or away.
const (
	maxWaiting = 4096 // spans; those beyond are left out
	maxBatch   = 512  // spans in one request
	interval   = 2 * time.Second
	timeout    = 5 * time.Second // of one request
)

// A Config configures a Tracer.
type Config struct {
	// Endpoint is the URL of the collector, as http://127.0.0.1:4318/v1/traces.
	Endpoint string
	// Service is the name under which spans are shown.
	Service string
	// Trouble, if not nil, is told when spans could not be sent.
	Trouble func(error)
}

// New returns a Tracer that sends until Close.
func New(config Config) (*Tracer, error) {
	endpoint, err := url.Parse(config.Endpoint)
	if err != nil || endpoint.Scheme != "http" && endpoint.Scheme != "https" || endpoint.Host == "" || endpoint.User != nil {
		return nil, errors.New("the endpoint is not the http or https URL of a collector, without a password")
	}
	e := &exporter{config: config, waiting: make(chan finished, maxWaiting), done: make(chan struct{}), stop: make(chan struct{}),
		client: &http.Client{Timeout: timeout}}
	go e.run()
	return &Tracer{e}, nil
}

// Close sends what waits and ends the Tracer. Spans that end later are left out.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	t.exporter.once.Do(func() { close(t.exporter.stop) })
	<-t.exporter.done
	return nil
}

// finished is a span at its end.
type finished struct {
	span  *Span
	ended time.Time
	code  string
}

type exporter struct {
	config  Config
	client  *http.Client
	waiting chan finished
	once    sync.Once
	stop    chan struct{} // closed by Close
	done    chan struct{} // closed when all was sent
}

func (e *exporter) add(f finished) {
	select {
	case e.waiting <- f:
	default: // what is traced goes on; the trace has a hole
	}
}

func (e *exporter) run() {
	defer close(e.done)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for stopping := false; !stopping; {
		select {
		case <-ticker.C:
		case <-e.stop:
			stopping = true
		}
		for batch := e.gather(); len(batch) > 0; batch = e.gather() {
			if err := e.send(batch); err != nil {
				if e.config.Trouble != nil {
					e.config.Trouble(err)
				}
				break
			}
		}
	}
	e.client.CloseIdleConnections()
}

func (e *exporter) gather() (batch []finished) {
	for len(batch) < maxBatch {
		select {
		case f := <-e.waiting:
			batch = append(batch, f)
		default:
			return batch
		}
	}
	return batch
}

func (e *exporter) send(batch []finished) error {
	body, err := json.Marshal(e.request(batch))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.config.Endpoint, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection can be used again
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", response.Status)
	}
	return nil
}

// The forms of ExportTraceServiceRequest in JSON, as far as they are needed.
type (
	export struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	resource struct {
		Attributes []keyValue `json:"attributes"`
	}
	scopeSpans struct {
		Scope scope      `json:"scope"`
		Spans []spanJSON `json:"spans"`
	}
	scope struct {
		Name string `json:"name"`
	}
	spanJSON struct {
		TraceID    string     `json:"traceId"`
		SpanID     string     `json:"spanId"`
		Parent     string     `json:"parentSpanId,omitempty"`
		Name       string     `json:"name"`
		Kind       Kind       `json:"kind"`
		Start      string     `json:"startTimeUnixNano"`
		End        string     `json:"endTimeUnixNano"`
		Attributes []keyValue `json:"attributes,omitempty"`
		Status     *status    `json:"status,omitempty"`
	}
	status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	keyValue struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		String string `json:"stringValue"`
	}
)

const statusError = 2

func (e *exporter) request(batch []finished) export {
	spans := make([]spanJSON, 0, len(batch))
	for _, f := range batch {
		s := spanJSON{
			TraceID: hex.EncodeToString(f.span.place.trace[:]), SpanID: hex.EncodeToString(f.span.place.span[:]),
			Name: f.span.name, Kind: f.span.kind, Attributes: keyValues(f.span.attributes),
			Start: strconv.FormatInt(f.span.begun.UnixNano(), 10), End: strconv.FormatInt(f.ended.UnixNano(), 10),
		}
		if f.span.parent != ([8]byte{}) {
			s.Parent = hex.EncodeToString(f.span.parent[:])
		}
		if f.code != "" {
			s.Status = &status{statusError, f.code}
		}
		spans = append(spans, s)
	}
	return export{[]resourceSpans{{
		resource{keyValues([]attribute{{"service.name", e.config.Service}})},
		[]scopeSpans{{scope{"muster"}, spans}},
	}}}
}

func keyValues(attributes []attribute) []keyValue {
	all := make([]keyValue, 0, len(attributes))
	for _, a := range attributes {
		all = append(all, keyValue{a.key, value{a.value}})
	}
	return all
}
