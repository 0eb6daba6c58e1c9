// Package metrics measures a MEF or a MAF for Prometheus. It knows no procedure:
// what is measured comes in as durations, errors and functions that are asked at
// each scrape. There is no global registry; a function that is not measured has
// no Set.
package metrics

import (
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"muster"
)

// A Stage is where a peer is refused.
type Stage string

// The stages.
const (
	StageHandshake   Stage = "handshake"
	StagePSKIdentity Stage = "psk_identity"
	StageSession     Stage = "session"
	StageRequest     Stage = "request"
	StageFetch       Stage = "fetch"
)

// A Set is the measurements of one function. Its methods may be called by many
// goroutines at once, but those that begin with Watch only once for each subject.
// A nil Set measures nothing.
type Set struct {
	function   Function
	registry   *prometheus.Registry
	counters   map[string]*prometheus.CounterVec
	histograms map[string]*prometheus.HistogramVec
	codes      map[muster.Code]bool
}

// Buckets in seconds: from a write that was grouped with others to a handshake
// that ends with its deadline.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// New returns a Set with all counters and histograms of a function.
func New(function Function) *Set {
	s := &Set{
		function: function, registry: prometheus.NewRegistry(), codes: map[muster.Code]bool{},
		counters: map[string]*prometheus.CounterVec{}, histograms: map[string]*prometheus.HistogramVec{},
	}
	for _, meaning := range muster.Codes() {
		s.codes[meaning.Code] = true
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, d := range Definitions() {
		if !slices.Contains(d.Of, function) || d.Name == shed { // which is asked of the listeners
			continue
		}
		switch d.Kind {
		case Counter:
			s.counters[d.Name] = prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.Name, Help: d.Help}, d.Labels)
			s.registry.MustRegister(s.counters[d.Name])
		case Histogram:
			s.histograms[d.Name] = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: d.Name, Help: d.Help, Buckets: buckets}, d.Labels)
			s.registry.MustRegister(s.histograms[d.Name])
		}
		if len(d.Labels) == 0 && d.Kind == Counter {
			s.counters[d.Name].WithLabelValues() // a zero is a value, and alerts need it
		}
	}
	return s
}

// Handler serves the measurements in the text formats of Prometheus.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{})
}

// Handshake measures a handshake that ended, and counts its refusal.
func (s *Set) Handshake(transport string, took time.Duration, err error) {
	if s == nil {
		return
	}
	s.observe(handshakeTime, took, transport, result(err))
	s.Refused(StageHandshake, err)
}

// Session counts a session that was accepted, or its refusal.
func (s *Set) Session(transport string, err error) {
	if s == nil {
		return
	}
	if err == nil {
		s.count(sessionsTotal, transport)
	}
	s.Refused(StageSession, err)
}

// Refused counts a refusal; a nil err is none.
func (s *Set) Refused(stage Stage, err error) {
	if s != nil && err != nil {
		s.count(refusals, string(stage), s.code(err))
	}
}

// Enrolled, Attached and HandedOut count what a function has made durable.
func (s *Set) Enrolled()  { s.count(enrolments) }
func (s *Set) Attached()  { s.count(attachments) }
func (s *Set) HandedOut() { s.count(handedOut) }

// Reloaded counts a replacement of the configuration or the identity.
func (s *Set) Reloaded(subject string, err error) {
	if err != nil {
		s.count(reloads, subject, "refused")
		return
	}
	s.count(reloads, subject, "replaced")
}

// Fetched measures a question to a MEF.
func (s *Set) Fetched(took time.Duration, err error) {
	if s == nil {
		return
	}
	s.observe(fetchTime, took, result(err))
	if err != nil {
		s.count(fetchFailures, s.code(err))
	}
}

// Stored measures an operation of the store.
func (s *Set) Stored(operation string, took time.Duration) { s.observe(storeTime, took, operation) }

// Exporter returns next, measured.
func (s *Set) Exporter(next muster.Exporter) muster.Exporter {
	if s == nil {
		return next
	}
	return func(label string, context []byte, length int) ([]byte, error) {
		begun := time.Now()
		octets, err := next(label, context, length)
		s.observe(exportTime, time.Since(begun))
		return octets, err
	}
}

// A Door is what a listener can be asked at any time.
type Door struct {
	Live     func() int    // open connections of authenticated peers
	HalfOpen func() int    // handshakes under way
	Shed     func() uint64 // turned away so far
}

// WatchDoor measures a listener.
func (s *Set) WatchDoor(transport string, door Door) {
	labels := prometheus.Labels{"transport": transport}
	s.watch(sessions, labels, func() float64 { return float64(door.Live()) })
	s.watch(halfOpen, labels, func() float64 { return float64(door.HalfOpen()) })
	s.watch(shed, labels, func() float64 { return float64(door.Shed()) })
}

// WatchQueue measures the queue of the store.
func (s *Set) WatchQueue(pending func() int) {
	s.watch(storeQueue, nil, func() float64 { return float64(pending()) })
}

// WatchExpiry measures when a certificate expires: "identity" or "anchor". The
// zero time is never.
func (s *Set) WatchExpiry(certificate string, ends func() time.Time) {
	s.watch(certificateEnds, prometheus.Labels{"certificate": certificate}, func() float64 {
		if ends := ends(); !ends.IsZero() {
			return float64(ends.Unix())
		}
		return math.Inf(1)
	})
}

func (s *Set) watch(name string, labels prometheus.Labels, ask func() float64) {
	if s == nil {
		return
	}
	d := definition(name)
	if d.Kind == Counter {
		s.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: d.Help, ConstLabels: labels}, ask))
		return
	}
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: d.Help, ConstLabels: labels}, ask))
}

func (s *Set) count(name string, labels ...string) {
	if s != nil {
		s.counters[name].WithLabelValues(labels...).Inc()
	}
}

func (s *Set) observe(name string, took time.Duration, labels ...string) {
	if s != nil {
		s.histograms[name].WithLabelValues(labels...).Observe(took.Seconds())
	}
}

// code bounds what a label can be.
func (s *Set) code(err error) string {
	if code := muster.CodeOf(err); s.codes[code] {
		return string(code)
	}
	return "internal"
}

func result(err error) string {
	if err != nil {
		return "refused"
	}
	return "accepted"
}
