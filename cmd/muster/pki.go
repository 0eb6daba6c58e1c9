package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/cert"
)

func newPKICommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Make and judge certificates: authorities, leaves, requests, CRLs, OCSP",
		Long: `Make and judge certificates, for laboratories, pilots and small operators.

An authority is a folder: certificate.pem, its key, an index of what it issued,
and crl.pem. With --key pkcs11:... the key is made in a token and stays there
(RFC 7512: token, object, module-path and pin-source); this needs a build with
-tags pkcs11.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPKIRootCommand(), newPKIIntermediateCommand(), newPKILeafCommand(), newPKICSRCommand(), newPKISignCommand(),
		newPKICRLCommand(), newPKIRevokeCommand(), newPKIOCSPCommand(), newPKILintCommand())
	return cmd
}

// issueFlags are what every certificate needs to be told.
type issueFlags struct {
	days       int
	commonName string
	crl, ocsp  []string
}

func (f *issueFlags) register(cmd *cobra.Command, days int, commonName string) {
	cmd.Flags().IntVar(&f.days, "days", days, "how many days it is valid")
	cmd.Flags().StringVar(&f.commonName, "common-name", commonName, "the common name of the subject, for the eyes of people")
}

func (f *issueFlags) registerStatus(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.crl, "crl-url", nil, "a `URL` of the issuer's CRL, to stand in the certificate")
	cmd.Flags().StringArrayVar(&f.ocsp, "ocsp-url", nil, "a `URL` of the issuer's OCSP responder, to stand in the certificate")
}

func (f *issueFlags) validity() (cert.Validity, error) {
	if f.days < 1 || f.days > 100*365 {
		return cert.Validity{}, muster.Refuse(muster.CodeUsage, "--days is from 1 to 36500")
	}
	// An hour for clocks that are late.
	begin := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	return cert.Validity{NotBefore: begin, NotAfter: begin.Add(time.Hour + time.Duration(f.days)*24*time.Hour)}, nil
}

func (f *issueFlags) apply(template *x509.Certificate) {
	template.CRLDistributionPoints, template.OCSPServer = f.crl, f.ocsp
}

func newPKIRootCommand() *cobra.Command {
	var flags issueFlags
	var token string
	cmd := &cobra.Command{
		Use:   "root DIR",
		Short: "Make a root authority",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			validity, err := flags.validity()
			if err != nil {
				return err
			}
			return createFolder(args[0], token, func(key crypto.Signer) (*authority, error) {
				return newRoot(flags.commonName, validity, key)
			})
		},
	}
	flags.register(cmd, 20*365, "Root")
	cmd.Flags().StringVar(&token, "key", "", "make the key in a token, by its PKCS#11 `URI`")
	return cmd
}

func newPKIIntermediateCommand() *cobra.Command {
	var flags issueFlags
	var issuer, token string
	var constraints cert.Constraints
	cmd := &cobra.Command{
		Use:   "intermediate DIR --issuer DIR",
		Short: "Make an authority that certifies leaves, bound to a set of names",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			validity, err := flags.validity()
			if err != nil {
				return err
			}
			return withFolder(issuer, func(f *folder) error {
				return createFolder(args[0], token, func(key crypto.Signer) (*authority, error) {
					template, err := cert.IntermediateTemplate(rand.Reader, flags.commonName, validity, constraints)
					if err != nil {
						return nil, muster.Refuse(muster.CodeUsage, "%w", err)
					}
					flags.apply(template)
					a, err := f.certify(template, key)
					if err != nil {
						return nil, err
					}
					return a, f.register(a.certificate)
				})
			})
		},
	}
	flags.register(cmd, 10*365, "Intermediate")
	flags.registerStatus(cmd)
	cmd.Flags().StringVar(&token, "key", "", "make the key in a token, by its PKCS#11 `URI`")
	cmd.Flags().StringArrayVar(&constraints.PermittedDomains, "permit-domain", nil, "a `DOMAIN` within which, and nowhere else, it may name")
	cmd.Flags().StringArrayVar(&constraints.ExcludedDomains, "exclude-domain", nil, "a `DOMAIN` within which it may not name")
	cmd.Flags().StringArrayVar(&constraints.PermittedDevices, "permit-device", nil, "a `SUBTREE` of devices, as 0.2.481.1/100 or hwmodule:1.3.6.1.4.1.99999.1:")
	cmd.Flags().StringArrayVar(&constraints.ExcludedDevices, "exclude-device", nil, "a `SUBTREE` of devices that it may not name")
	needFlag(cmd, "issuer", &issuer, "the `DIR` of the authority above")
	return cmd
}

// needFlag adds a flag that must be given.
func needFlag(cmd *cobra.Command, name string, value *string, usage string) {
	cmd.Flags().StringVar(value, name, "", usage)
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if *value == "" {
			return muster.Refuse(muster.CodeUsage, "%s needs --%s", cmd.CommandPath(), name)
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

// nameFlags are a name in a certificate.
type nameFlags struct{ flavour, name string }

func (f *nameFlags) register(cmd *cobra.Command) {
	needFlag(cmd, "name", &f.name, "the `NAME` in the flavour's canonical form")
	needFlag(cmd, "flavour", &f.flavour, "device, node-id, cse-id, ae-id or fqdn")
}

func (f *nameFlags) parse() (muster.CertName, error) {
	flavour, err := parseFlavour(f.flavour)
	if err != nil {
		return muster.CertName{}, err
	}
	name, err := cert.ParseName(flavour, f.name)
	if err != nil {
		return muster.CertName{}, muster.Refuse(muster.CodeUsage, "%w", err)
	}
	return name, nil
}

func parseFlavour(text string) (flavour muster.Flavour, err error) {
	if err := flavour.UnmarshalText([]byte(text)); err != nil {
		return "", muster.Refuse(muster.CodeUsage, "%w", err)
	}
	return flavour, nil
}

// parseUsages reads roles; without any, the flavour has its usual ones.
func parseUsages(texts []string, flavour muster.Flavour) ([]cert.Usage, error) {
	var usages []cert.Usage
	for _, text := range texts {
		switch text {
		case cert.UsageClient.String():
			usages = append(usages, cert.UsageClient)
		case cert.UsageServer.String():
			usages = append(usages, cert.UsageServer)
		default:
			return nil, muster.Refuse(muster.CodeUsage, "%q is not a usage: want client or server", text)
		}
	}
	if len(usages) == 0 {
		usages = []cert.Usage{cert.UsageClient}
		if flavour == muster.FlavourFQDN {
			usages = []cert.Usage{cert.UsageServer, cert.UsageClient}
		}
	}
	return usages, nil
}

const usageUsage = "client or server, or both by two flags; client by default, and for fqdn both"

func newPKILeafCommand() *cobra.Command {
	var flags issueFlags
	var names nameFlags
	var issuer, out string
	var usages []string
	cmd := &cobra.Command{
		Use:   "leaf --issuer DIR --flavour FLAVOUR --name NAME --out PREFIX",
		Short: "Make a certificate with its key: PREFIX.pem and PREFIX-key.pem",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return withFolder(issuer, func(f *folder) error {
				key, err := newKey()
				if err != nil {
					return err
				}
				chain, err := f.leaf(&flags, names, usages, key.Public())
				if err != nil {
					return err
				}
				if err := writeNewKey(out+"-key.pem", key); err != nil {
					return err
				}
				return writeNew(out+".pem", encodeCertificates(chain...), 0o644)
			})
		},
	}
	flags.register(cmd, 365, "")
	flags.registerStatus(cmd)
	names.register(cmd)
	needFlag(cmd, "issuer", &issuer, "the `DIR` of the authority")
	needFlag(cmd, "out", &out, "the `PREFIX` of the files")
	cmd.Flags().StringArrayVar(&usages, "usage", nil, usageUsage)
	return cmd
}

// leaf issues a certificate for a key, registers it and returns it with the
// chain. What the flavour's profile would refuse is not issued.
func (f *folder) leaf(flags *issueFlags, names nameFlags, usageTexts []string, key crypto.PublicKey) ([]*x509.Certificate, error) {
	name, err := names.parse()
	if err != nil {
		return nil, err
	}
	validity, err := flags.validity()
	if err != nil {
		return nil, err
	}
	usages, err := parseUsages(usageTexts, name.Flavour)
	if err != nil {
		return nil, err
	}
	template, err := cert.LeafTemplate(rand.Reader, flags.commonName, validity, []muster.CertName{name}, usages...)
	if err != nil {
		return nil, muster.Refuse(muster.CodeUsage, "%w", err)
	}
	flags.apply(template)
	leaf, err := f.issue(template, key)
	if err != nil {
		return nil, err
	}
	chain := append([]*x509.Certificate{leaf}, f.chain...)
	trust := cert.Trust{Name: name, Anchors: []*x509.Certificate{f.certificate}, Usage: usages[0]}
	if _, findings := cert.Verify(chain[:1], trust, time.Now()); findings.Err() != nil {
		return nil, fmt.Errorf("not issued, for the profile would refuse it: %w", findings.Err())
	}
	return chain, f.register(leaf, name)
}

func newPKICSRCommand() *cobra.Command {
	var flags issueFlags
	var names nameFlags
	var out, source string
	cmd := &cobra.Command{
		Use:   "csr --flavour FLAVOUR --name NAME --out PREFIX",
		Short: "Make a signing request: PREFIX.csr and, without --key, PREFIX-key.pem",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) (err error) {
			name, err := names.parse()
			if err != nil {
				return err
			}
			if source != "" {
				key, closeKey, err := loadKey(source)
				if err != nil {
					return err
				}
				return errors.Join(writeRequest(out+".csr", flags.commonName, name, key), closeKey())
			}
			key, err := newKey()
			if err != nil {
				return err
			}
			if err := writeNewKey(out+"-key.pem", key); err != nil {
				return err
			}
			return writeRequest(out+".csr", flags.commonName, name, key)
		},
	}
	cmd.Flags().StringVar(&flags.commonName, "common-name", "", "the common name of the subject, for the eyes of people")
	cmd.Flags().StringVar(&source, "key", "", "the key: a PEM `FILE` or a PKCS#11 URI")
	names.register(cmd)
	needFlag(cmd, "out", &out, "the `PREFIX` of the files")
	return cmd
}

func newPKISignCommand() *cobra.Command {
	var flags issueFlags
	var names nameFlags
	var issuer, request, out string
	var usages []string
	cmd := &cobra.Command{
		Use:   "sign --issuer DIR --csr FILE --flavour FLAVOUR --name NAME --out FILE",
		Short: "Sign a request that asks for exactly that name",
		Long: `Sign a request that asks for exactly that name, in the form of its flavour.
The certificate has the key of the request and nothing else of it.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			name, err := names.parse()
			if err != nil {
				return err
			}
			csr, err := readRequest(request, name)
			if err != nil {
				return err
			}
			return withFolder(issuer, func(f *folder) error {
				chain, err := f.leaf(&flags, names, usages, csr.PublicKey)
				if err != nil {
					return err
				}
				return writeNew(out, encodeCertificates(chain...), 0o644)
			})
		},
	}
	flags.register(cmd, 365, "")
	flags.registerStatus(cmd)
	names.register(cmd)
	needFlag(cmd, "issuer", &issuer, "the `DIR` of the authority")
	needFlag(cmd, "csr", &request, "the request, a PEM `FILE`")
	needFlag(cmd, "out", &out, "the `FILE` to write")
	cmd.Flags().StringArrayVar(&usages, "usage", nil, usageUsage)
	return cmd
}
