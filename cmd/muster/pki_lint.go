package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/cert"
)

func newPKILintCommand() *cobra.Command {
	var flavourText, at string
	var usageTexts, anchorFiles []string
	var profile profileFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lint --flavour FLAVOUR FILE",
		Short: "Judge a certificate against the profile of a flavour",
		Long: `Judge a certificate against the profile of a flavour, with the findings that a
handshake would have. FILE has the leaf in PEM, then its intermediates; with
--anchor, the path is judged as well. Exit code 3 means that it would be refused.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			flavour, err := parseFlavour(flavourText)
			if err != nil {
				return err
			}
			usages, err := parseUsages(usageTexts, flavour)
			if err != nil {
				return err
			}
			now := time.Now()
			if at != "" {
				if now, err = time.Parse(time.RFC3339, at); err != nil {
					return muster.Refuse(muster.CodeUsage, "--time %q is not a time such as 2026-01-31T12:00:00Z", at)
				}
			}
			anchors, err := readCertificates(anchorFiles)
			if err != nil {
				return err
			}
			raw, err := readPEMChain(args[0])
			if err != nil {
				return err
			}
			names, findings := lint(raw, flavour, usages, cert.Trust{Anchors: anchors, Profile: profile.Profile}, now)
			if err := printLint(cmd.OutOrStdout(), asJSON, names, findings); err != nil {
				return err
			}
			return findings.Err()
		},
	}
	needFlag(cmd, "flavour", &flavourText, "device, node-id, cse-id, ae-id, fqdn or raw-public-key")
	cmd.Flags().StringArrayVar(&usageTexts, "usage", nil, usageUsage)
	cmd.Flags().StringArrayVar(&anchorFiles, "anchor", nil, "a root at which the path shall end, a PEM `FILE`")
	cmd.Flags().Var(&profile, "profile", "onem2m, onem2m-constrained or rfc5280")
	cmd.Flags().StringVar(&at, "time", "", "judge as of this `TIME`, as 2026-01-31T12:00:00Z")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// A profileFlag is a cert.Profile as a flag.
type profileFlag struct{ cert.Profile }

func (p *profileFlag) Set(text string) error { return p.UnmarshalText([]byte(text)) }
func (p *profileFlag) Type() string          { return "PROFILE" }

// lint returns the names of the flavour and all findings. A leaf is judged as a
// peer in each of the roles.
func lint(raw [][]byte, flavour muster.Flavour, usages []cert.Usage, trust cert.Trust, now time.Time) ([]muster.CertName, cert.Findings) {
	chain, err := cert.ParseChain(raw)
	if err != nil {
		return nil, refusedFindings(err)
	}
	if flavour == muster.FlavourRawKey {
		return cert.RawKeyNames(chain[0].RawSubjectPublicKeyInfo), lintKey(chain[0], trust.Profile)
	}
	names, err := cert.Names(chain[0])
	if err != nil {
		return nil, refusedFindings(err)
	}
	names = slices.DeleteFunc(names, func(name muster.CertName) bool { return name.Flavour != flavour })
	var all cert.Findings
	if len(names) > 0 {
		trust.Name = names[0]
	}
	for _, usage := range usages {
		trust.Usage = usage
		for _, f := range cert.Explain(chain, trust, now) {
			switch {
			case len(trust.Anchors) == 0 && f.Code == muster.CodeAnchorMismatch && f.Certificate == cert.NoIndex:
				continue // the path is not in question
			case f.Code == muster.CodeNameUnknown && len(names) == 0:
				f.Code, f.Detail = muster.CodeNameMismatch, fmt.Sprintf("its subjectAltName has no name of the flavour %s", flavour)
			}
			if !slices.Contains(all, f) {
				all = append(all, f)
			}
		}
	}
	if len(names) > 1 {
		all = append(all, cert.Finding{Code: muster.CodeNameMismatch, Level: cert.LevelInfo, Detail: fmt.Sprintf("it has %d names of the flavour; a rule pins one", len(names))})
	}
	return names, all
}

func refusedFindings(err error) cert.Findings {
	return cert.Findings{{Code: muster.CodeOf(err), Certificate: cert.NoIndex, Detail: err.Error()}}
}

// lintKey judges what matters of a certificate for a raw public key: its key.
func lintKey(c *x509.Certificate, profile cert.Profile) cert.Findings {
	var findings cert.Findings
	for _, f := range cert.Explain([]*x509.Certificate{c}, cert.Trust{Usage: cert.UsageClient, Profile: profile}, c.NotBefore) {
		if f.Code == muster.CodeKeyAlgorithm || f.Code == muster.CodeCertificateTooLarge {
			findings = append(findings, f)
		}
	}
	return findings
}

func printLint(out io.Writer, asJSON bool, names []muster.CertName, findings cert.Findings) error {
	e := explanation{Accepted: findings.Err() == nil, Names: []string{}, Findings: []explainedFinding{}}
	for _, name := range names {
		e.Names = append(e.Names, name.String())
	}
	for _, f := range findings {
		e.Findings = append(e.Findings, explainFinding(f))
	}
	if asJSON {
		return json.NewEncoder(out).Encode(struct {
			Conforms bool               `json:"conforms"`
			Names    []string           `json:"names"`
			Findings []explainedFinding `json:"findings"`
		}{e.Accepted, e.Names, e.Findings})
	}
	for _, name := range e.Names {
		fmt.Fprintf(out, "name: %.400q\n", name)
	}
	for _, f := range e.Findings {
		fmt.Fprintln(out, f)
	}
	if e.Accepted {
		_, err := fmt.Fprintln(out, "conforms")
		return err
	}
	return nil
}

// String returns the finding with its rule and remedy.
func (f explainedFinding) String() string {
	text := fmt.Sprintf("%s: %s: %s: %s", f.Level, f.Code, f.Subject, f.Detail)
	if f.Remedy != "" {
		text += fmt.Sprintf("\n  rule:   %s\n  remedy: %s", f.Rule, f.Remedy)
	}
	return text
}
