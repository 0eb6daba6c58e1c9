package metrics_test

import (
	"errors"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/metrics"
)

func scrape(s *metrics.Set) string {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// filled is a set in which everything was measured once.
func filled(of metrics.Function) *metrics.Set {
	s := metrics.New(of)
	s.Handshake("tls", time.Millisecond, nil)
	s.Handshake("dtls", time.Millisecond, muster.Refuse(muster.CodePeerAlert, "no"))
	s.Session("tls", nil)
	if of == metrics.MEF {
		s.Enrolled()
		s.HandedOut()
	} else {
		s.Attached()
		s.Fetched(time.Millisecond, muster.Refuse(muster.CodeMEFUnreachable, "no"))
	}
	s.Stored("create_enrolment", time.Millisecond)
	s.Reloaded("identity", errors.New("no"))
	_, _ = s.Exporter(func(string, []byte, int) ([]byte, error) { return nil, nil })("label", nil, 1)
	s.WatchQueue(func() int { return 7 })
	s.WatchExpiry("identity", func() time.Time { return time.Unix(1e9, 0) })
	s.WatchExpiry("anchor", func() time.Time { return time.Time{} })
	s.WatchDoor("tls", metrics.Door{Live: func() int { return 1 }, HalfOpen: func() int { return 2 }, Shed: func() uint64 { return 3 }})
	return s
}

// TestEveryDefinitionIsMeasured holds the definitions against what is served, both ways.
func TestEveryDefinitionIsMeasured(t *testing.T) {
	t.Parallel()
	for _, of := range []metrics.Function{metrics.MEF, metrics.MAF} {
		served := map[string]string{}
		for line := range strings.Lines(scrape(filled(of))) {
			if fields := strings.Fields(line); fields[0] == "#" && fields[1] == "TYPE" && strings.HasPrefix(fields[2], "muster_") {
				served[fields[2]] = fields[3]
			}
		}
		for _, d := range metrics.Definitions() {
			want := ""
			for _, f := range d.Of {
				if f == of {
					want = string(d.Kind)
				}
			}
			if served[d.Name] != want {
				t.Errorf("%s: the %s serves %q, defined is %q", d.Name, of, served[d.Name], want)
			}
			delete(served, d.Name)
		}
		for name := range served {
			t.Errorf("%s is not defined", name)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	s := filled(metrics.MAF)
	s.Refused(metrics.StageRequest, muster.Refuse("invented-by-a-peer", "no"))
	s.Refused(metrics.StageRequest, errors.New("disk"))
	s.Refused(metrics.StageRequest, nil)
	text := scrape(s)
	for _, want := range []string{
		`muster_refusals_total{code="peer-alert",stage="handshake"} 1`,
		`muster_refusals_total{code="internal",stage="request"} 2`,
		`muster_fetch_failures_total{code="mef-unreachable"} 1`,
		`muster_fetch_seconds_count{result="refused"} 1`,
		`muster_attachments_total 1`,
		`muster_sessions{transport="tls"} 1`,
		`muster_half_open{transport="tls"} 2`,
		`muster_shed_total{transport="tls"} 3`,
		`muster_store_queue 7`,
		`muster_export_seconds_count 1`,
		`muster_reloads_total{result="refused",subject="identity"} 1`,
		`muster_certificate_expiry_timestamp_seconds{certificate="identity"} 1e+09`,
		`muster_certificate_expiry_timestamp_seconds{certificate="anchor"} +Inf`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("not served: %s", want)
		}
	}
	if !strings.Contains(scrape(metrics.New(metrics.MEF)), "\nmuster_enrolments_total 0\n") {
		t.Error("a new set has no zero to compare with")
	}
}

func TestNoSet(t *testing.T) {
	var s *metrics.Set
	s.Handshake("tls", 1, errors.New("no"))
	s.Session("tls", nil)
	s.Enrolled()
	s.Reloaded("identity", nil)
	s.Fetched(1, nil)
	s.Stored("create_enrolment", 1)
	s.WatchQueue(nil)
	s.WatchDoor("tls", metrics.Door{})
	next := func(string, []byte, int) ([]byte, error) { return []byte("k"), nil }
	if allocations := testing.AllocsPerRun(10, func() { s.Handshake("tls", 1, nil); _ = s.Exporter(next) }); allocations != 0 {
		t.Errorf("%v allocations without a set", allocations)
	}
}

// TestReference compares docs/metrics.md; with MUSTER_UPDATE set it writes it.
func TestReference(t *testing.T) {
	const file = "../docs/metrics.md"
	if os.Getenv("MUSTER_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(metrics.Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != metrics.Reference() {
		t.Error("docs/metrics.md is not what metrics.Reference returns; MUSTER_UPDATE=1 go test ./metrics writes it")
	}
}
