package metrics

import (
	"fmt"
	"slices"
	"strings"
)

// A Function is the kind of function that is measured.
type Function string

// The functions.
const (
	MEF Function = "MEF"
	MAF Function = "MAF"
)

// A Kind is the type of a metric, as Prometheus calls it.
type Kind string

// The kinds.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// A Definition is a metric as the reference lists it.
type Definition struct {
	Name   string
	Kind   Kind
	Labels []string
	Of     []Function
	Help   string
}

var both = []Function{MEF, MAF}

// Names of the metrics.
const (
	sessionsTotal   = "muster_sessions_total"
	enrolments      = "muster_enrolments_total"
	attachments     = "muster_attachments_total"
	handedOut       = "muster_keys_handed_out_total"
	refusals        = "muster_refusals_total"
	fetchFailures   = "muster_fetch_failures_total"
	shed            = "muster_shed_total"
	reloads         = "muster_reloads_total"
	handshakeTime   = "muster_handshake_seconds"
	exportTime      = "muster_export_seconds"
	storeTime       = "muster_store_seconds"
	fetchTime       = "muster_fetch_seconds"
	sessions        = "muster_sessions"
	halfOpen        = "muster_half_open"
	storeQueue      = "muster_store_queue"
	certificateEnds = "muster_certificate_expiry_timestamp_seconds"
)

// Definitions returns every metric of Muster. Their names and labels are part of
// the interface, as refusal codes are.
func Definitions() []Definition {
	return []Definition{
		{sessionsTotal, Counter, []string{"transport"}, both, "Sessions accepted: the handshake succeeded and what it led to is durable."},
		{enrolments, Counter, nil, []Function{MEF}, "Enrolments accepted and durable."},
		{attachments, Counter, nil, []Function{MAF}, "Sessions of clients accepted under a KeID, a KmID or a certificate."},
		{handedOut, Counter, nil, []Function{MEF}, "Keys handed to MAFs."},
		{refusals, Counter, []string{"stage", "code"}, both, "Refusals by stage (handshake, psk_identity, session, request, fetch) and code; alerts of peers are peer-alert, errors without a code are internal. A refused psk_identity is counted at its stage, and again as a failed handshake."},
		{fetchFailures, Counter, []string{"code"}, []Function{MAF}, "Questions to MEFs that brought no key, by code."},
		{shed, Counter, []string{"transport"}, both, "Connections turned away, or handshakes ended, because too many were under way."},
		{reloads, Counter, []string{"subject", "result"}, both, "Replacements of the configuration and of the identity, replaced or refused."},
		{handshakeTime, Histogram, []string{"transport", "result"}, both, "Duration of handshakes, accepted or refused."},
		{exportTime, Histogram, nil, both, "Duration of exports of keying material."},
		{storeTime, Histogram, []string{"operation"}, both, "Duration of operations of the store, with the wait in its queue."},
		{fetchTime, Histogram, []string{"result"}, []Function{MAF}, "Duration of questions to MEFs, accepted or refused."},
		{sessions, Gauge, []string{"transport"}, both, "Connections of authenticated peers that are open."},
		{halfOpen, Gauge, []string{"transport"}, both, "Handshakes under way."},
		{storeQueue, Gauge, nil, both, "Writes that wait in the queue of the store."},
		{certificateEnds, Gauge, []string{"certificate"}, both, "When the function's own certificate (identity) and the first of its trust anchors (anchor) expire, in seconds since 1970."},
	}
}

func definition(name string) Definition {
	all := Definitions()
	return all[slices.IndexFunc(all, func(d Definition) bool { return d.Name == name })]
}

// Reference returns docs/metrics.md.
func Reference() string {
	var out strings.Builder
	out.WriteString(`# Metrics

Generated from ` + "`metrics/definition.go`" + `; a test compares it. ` + "`metrics: {listen: \"127.0.0.1:9464\"}`" + ` in the configuration of a MEF or MAF serves them at ` + "`/metrics`" + `, with those of Go's runtime and of the process, beside ` + "`/livez`" + ` and ` + "`/readyz`" + `. Nothing is measured without it. An address without a host is on the loopback interface.

Every label takes few values: codes are those of ` + "`refusal.go`" + `, and no label names a peer or a key.

| metric | kind | labels | of | meaning |
|---|---|---|---|---|
`)
	for _, d := range Definitions() {
		var of []string
		for _, f := range d.Of {
			of = append(of, string(f))
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", d.Name, d.Kind, strings.Join(d.Labels, ", "), strings.Join(of, ", "), d.Help)
	}
	return out.String()
}
