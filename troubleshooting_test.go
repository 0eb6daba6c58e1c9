package muster_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"muster"
)

const troubleshootingOpening = `# Troubleshooting

Generated from ` + "`refusal.go`" + `; a test compares it. Every refusal has a code, which the log, the metrics and the exit message of a command give. Below are, for each code, the rule that failed and what to do.

Where to look:

- The log of the side that refuses has the code and the detail. The other side learns an alert or a status only, and shows ` + "`peer-alert` or `peer-refused`" + `.
- ` + "`muster refusals`" + ` lists the certificate chains that a MEF refused, and ` + "`muster explain`" + ` judges a chain by the rules of the handshake.
- ` + "`muster config check FILE...`" + ` reads a configuration and what it names, and changes nothing.
`

// TestTroubleshooting compares docs/troubleshooting.md; with MUSTER_UPDATE set it
// writes it.
func TestTroubleshooting(t *testing.T) {
	var b strings.Builder
	b.WriteString(troubleshootingOpening)
	for _, m := range muster.Codes() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n%s\n", m.Code, sentence("Rule: ", m.Rule), sentence("Remedy: ", m.Remedy))
	}
	const file = "docs/troubleshooting.md"
	if os.Getenv("MUSTER_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != b.String() {
		t.Errorf("%s is not what Codes returns; MUSTER_UPDATE=1 go test -run TestTroubleshooting . writes it", file)
	}
}

// sentence ends what stands in a CodeMeaning, which has no capital and no full stop.
func sentence(opening, text string) string { return opening + strings.TrimSuffix(text, ".") + "." }
