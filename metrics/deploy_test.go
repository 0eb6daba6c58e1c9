package metrics_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"muster/metrics"
)

// TestDashboardAndAlertsNameMetrics holds the dashboard and the alert rules
// against the definitions: each metric and each label value of a code exists, and
// the dashboard shows every metric.
func TestDashboardAndAlertsNameMetrics(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, d := range metrics.Definitions() {
		known[d.Name] = true
		if d.Kind == metrics.Histogram {
			known[d.Name+"_bucket"], known[d.Name+"_count"], known[d.Name+"_sum"] = true, true, true
		}
	}
	name := regexp.MustCompile(`\bmuster_[a-z_]+`)
	for file, complete := range map[string]bool{"../deploy/grafana/muster.json": true, "../deploy/prometheus/muster.rules.yaml": false} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		named := name.FindAllString(string(text), -1)
		if len(named) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, n := range named {
			if !known[n] {
				t.Errorf("%s names %s, which does not exist", file, n)
			}
		}
		for _, d := range metrics.Definitions() {
			if complete && !slices.ContainsFunc(named, func(n string) bool { return n == d.Name || n == d.Name+"_bucket" }) {
				t.Errorf("%s does not show %s", file, d.Name)
			}
		}
	}
	rules, err := os.ReadFile("../deploy/prometheus/muster.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, alert := range []string{"MusterNoEnrolment", "MusterServerCertificateExpires"} {
		if !strings.Contains(string(rules), "alert: "+alert) {
			t.Errorf("there is no alert %s", alert)
		}
	}
	dashboard, err := os.ReadFile("../deploy/grafana/muster.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(dashboard) {
		t.Error("the dashboard is not JSON")
	}
}
