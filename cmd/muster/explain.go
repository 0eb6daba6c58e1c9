package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/cert"
	"muster/mef"
)

func newExplainCommand() *cobra.Command {
	var file, chainFile, refusalID, at string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain --config FILE (--cert PEM | --refusal ID)",
		Short: "Say why a MEF accepts or refuses a certificate",
		Long: `Say why a MEF accepts or refuses a certificate: everything that its handshake
would find, by the same code, the rule that decides or the nearest that does not
match, and what to do.

--cert takes the chain as the device sends it: the leaf, then its intermediates.
--refusal takes the identifier in the MEF's log or from muster refusals, and the
time of that refusal unless --time says another. Exit code 0 means accepted, 3
refused.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (chainFile == "") == (refusalID == "") {
				return muster.Refuse(muster.CodeUsage, "explain takes either --cert or --refusal")
			}
			config, err := readMEFConfig(file)
			if err != nil {
				return err
			}
			status, err := openStatus(config.Status, nil)
			if err != nil {
				return err
			}
			defer func() { _ = status.close() }()
			function, err := newMEF(config, nil, status)
			if err != nil {
				return err
			}
			raw, now, err := explained(config, chainFile, refusalID, at)
			if err != nil {
				return err
			}
			e := explain(function, raw, now)
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(e)
			} else {
				err = e.print(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			return e.err
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&chainFile, "cert", "", "a chain in a PEM `FILE`")
	cmd.Flags().StringVar(&refusalID, "refusal", "", "the `ID` of a refusal")
	cmd.Flags().StringVar(&at, "time", "", "judge as of this `TIME`, as 2026-01-31T12:00:00Z")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// explained returns the chain in question and the time at which it is judged.
func explained(config *mefConfig, chainFile, refusalID, at string) (raw [][]byte, now time.Time, err error) {
	now = time.Now()
	if refusalID != "" {
		r, err := findRefusal(config, refusalID)
		if err != nil {
			return nil, now, err
		}
		raw, now = r.Chain, r.Time
	} else if raw, err = readPEMChain(chainFile); err != nil {
		return nil, now, err
	}
	if at != "" {
		if now, err = time.Parse(time.RFC3339, at); err != nil {
			return nil, now, muster.Refuse(muster.CodeUsage, "--time %q is not a time such as 2026-01-31T12:00:00Z", at)
		}
	}
	return raw, now, nil
}

// maxPEM bounds a file with a chain in octets.
const maxPEM = 1 << 20

// readPEMChain returns the certificates of a PEM file, not parsed.
func readPEMChain(path string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, muster.Refuse(muster.CodeUsage, "%w", err)
	}
	defer func() { _ = file.Close() }()
	rest, err := io.ReadAll(io.LimitReader(file, maxPEM))
	if err != nil {
		return nil, muster.Refuse(muster.CodeUsage, "%w", err)
	}
	var raw [][]byte
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			raw = append(raw, block.Bytes)
		}
	}
	if len(raw) == 0 {
		return nil, muster.Refuse(muster.CodeUsage, "%s has no certificate in PEM", path)
	}
	return raw, nil
}

// An explanation is what explain prints.
type explanation struct {
	Accepted    bool                 `json:"accepted"`
	Code        muster.Code          `json:"code,omitempty"` // of the refusal
	Time        time.Time            `json:"time"`
	Certificate string               `json:"certificate"` // SHA-256
	Subject     string               `json:"subject,omitempty"`
	Names       []string             `json:"names"`
	Findings    []explainedFinding   `json:"findings"`
	Rule        string               `json:"rule,omitempty"`
	EnroleeID   string               `json:"enroleeID,omitempty"`
	Targets     []muster.FQDN        `json:"targets,omitempty"`
	Nearest     *explainedComparison `json:"nearest,omitempty"`

	err error
}

type explainedFinding struct {
	Level   string      `json:"level"`
	Code    muster.Code `json:"code"`
	Subject string      `json:"subject"` // leaf, intermediate n or chain
	Detail  string      `json:"detail"`
	Rule    string      `json:"rule,omitempty"`
	Remedy  string      `json:"remedy,omitempty"`
}

// An explainedComparison is a rule that did not match.
type explainedComparison struct {
	Rule    string   `json:"rule"`
	Differs string   `json:"differs"`
	Anchors []string `json:"anchors"`
}

// explain judges a chain as a handshake of the function would.
func explain(function *mef.Function, raw [][]byte, now time.Time) explanation {
	out := explanation{Time: now.UTC(), Names: []string{}, Findings: []explainedFinding{}}
	if len(raw) > 0 {
		out.Certificate = muster.DigestOf(raw[0]).String()
	}
	chain, err := cert.ParseChain(raw)
	if err != nil {
		out.refuse(err, nil)
		return out
	}
	e := function.Explain(chain, now)
	out.Subject = chain[0].Subject.String()
	for _, name := range e.Names {
		out.Names = append(out.Names, name.String())
	}
	out.Accepted = e.Err == nil
	for _, f := range e.Findings {
		out.Findings = append(out.Findings, explainFinding(f))
	}
	if e.Rule != nil {
		out.Rule, out.Targets, out.EnroleeID = e.Rule.Text, e.Rule.Targets, e.Rule.EnroleeID.String()
	} else {
		out.Nearest = nearestRule(function, e.Names)
	}
	if e.Err != nil {
		out.refuse(e.Err, e.Findings)
	}
	return out
}

// refuse adds what refused the chain, unless it is among the findings.
func (e *explanation) refuse(err error, known cert.Findings) {
	e.err, e.Code = err, muster.CodeOf(err)
	for _, f := range known {
		if f.Level == cert.LevelError && f.Code == e.Code {
			return
		}
	}
	detail := strings.TrimPrefix(err.Error(), string(e.Code)+": ")
	e.Findings = append(e.Findings, explainFinding(cert.Finding{Code: e.Code, Certificate: cert.NoIndex, Detail: detail}))
}

func explainFinding(f cert.Finding) explainedFinding {
	out := explainedFinding{Level: f.Level.String(), Code: f.Code, Subject: "chain", Detail: f.Detail}
	switch {
	case f.Certificate == 0:
		out.Subject = "leaf"
	case f.Certificate > 0:
		out.Subject = fmt.Sprintf("intermediate %d", f.Certificate)
	}
	if meaning, ok := f.Code.Meaning(); ok && f.Level != cert.LevelInfo {
		out.Rule, out.Remedy = meaning.Rule, meaning.Remedy
	}
	return out
}

// nearestRule returns the rule that comes nearest to one of the names: one that
// has it under other roots, or else the one of its flavour that takes the fewest
// changes to be the same.
func nearestRule(function *mef.Function, names []muster.CertName) *explainedComparison {
	var best *mef.Rule
	var bestName muster.CertName
	bestDistance := int(^uint(0) >> 1)
	for rule := range function.Rules() {
		for _, name := range names {
			if name.Flavour != rule.Flavour {
				continue
			}
			distance := 0
			if !rule.Covers(name) {
				distance = 1 + changes(name.Text, strings.Trim(rule.Name, "*"))
			}
			if distance < bestDistance || distance == bestDistance && rule.Text < best.Text {
				best, bestName, bestDistance = &rule, name, distance
			}
		}
	}
	if best == nil {
		return nil
	}
	c := &explainedComparison{Rule: best.Text, Differs: "the name matches; the roots pinned with it are others"}
	if bestDistance > 0 {
		c.Differs = fmt.Sprintf("it is for %s, and the certificate has %s", best.Name, bestName.Text)
	}
	for _, anchor := range best.Anchors {
		c.Anchors = append(c.Anchors, anchor.Subject.String()+" "+anchorID(anchor))
	}
	return c
}

func anchorID(c *x509.Certificate) string {
	return "(key " + muster.DigestOf(c.RawSubjectPublicKeyInfo).String()[:16] + ")"
}

// changes is the edit distance of two names, which mostly begin alike.
func changes(a, b string) int {
	same := 0
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	return editDistance(a[same:], b[same:])
}

func (e explanation) print(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "certificate  %s\n", e.Certificate)
	if e.Subject != "" {
		fmt.Fprintf(&b, "subject      %.200q\n", e.Subject)
	}
	for _, name := range e.Names {
		fmt.Fprintf(&b, "name         %.200q\n", name)
	}
	fmt.Fprintf(&b, "time         %s\n\n", e.Time.Format(time.RFC3339))
	for _, f := range e.Findings {
		fmt.Fprintln(&b, f)
	}
	if e.Rule != "" {
		fmt.Fprintf(&b, "matched: %s\n", e.Rule)
	}
	if e.Nearest != nil {
		fmt.Fprintf(&b, "nearest: %s\n  but %s\n", e.Nearest.Rule, e.Nearest.Differs)
		for _, anchor := range e.Nearest.Anchors {
			fmt.Fprintf(&b, "  root: %s\n", anchor)
		}
	}
	switch {
	case !e.Accepted:
		fmt.Fprintf(&b, "\nrefused: %s\n", e.Code)
	case e.EnroleeID == "":
		fmt.Fprintf(&b, "\naccepted: %s\n", strings.Join(slices.Clone(e.Names), ", "))
	default:
		fmt.Fprintf(&b, "\naccepted as %s for %v\n", e.EnroleeID, e.Targets)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
