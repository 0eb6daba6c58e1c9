package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
)

// reasons are those of RFC 5280 5.3.1 that an authority gives.
func reasons() map[string]int {
	return map[string]int{"unspecified": 0, "keyCompromise": 1, "cACompromise": 2, "affiliationChanged": 3,
		"superseded": 4, "cessationOfOperation": 5, "privilegeWithdrawn": 9}
}

func newPKICRLCommand() *cobra.Command {
	var hours int
	cmd := &cobra.Command{
		Use:   "crl DIR",
		Short: "Issue the CRL of an authority: DIR/crl.pem",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withFolder(args[0], func(f *folder) error { return f.issueCRL(hours, time.Now()) })
		},
	}
	crlHours(cmd, &hours)
	return cmd
}

func crlHours(cmd *cobra.Command, hours *int) {
	cmd.Flags().IntVar(hours, "hours", 7*24, "in how many hours the next CRL comes at the latest")
}

func newPKIRevokeCommand() *cobra.Command {
	var hours int
	var file, serial, reason string
	cmd := &cobra.Command{
		Use:   "revoke DIR (--cert FILE | --serial HEX)",
		Short: "Revoke a certificate of an authority, and issue its CRL",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			code, ok := reasons()[reason]
			if !ok {
				return muster.Refuse(muster.CodeUsage, "%q is not a reason: want one of %s", reason, strings.Join(slices.Sorted(maps.Keys(reasons())), ", "))
			}
			if (file == "") == (serial == "") {
				return muster.Refuse(muster.CodeUsage, "revoke takes either --cert or --serial")
			}
			return withFolder(args[0], func(f *folder) error {
				serial := strings.ToLower(strings.TrimLeft(serial, "0"))
				if file != "" {
					certificates, err := readCertificates([]string{file})
					if err != nil {
						return err
					}
					if err := certificates[0].CheckSignatureFrom(f.certificate); err != nil {
						return muster.Refuse(muster.CodeUsage, "%s is not of this authority: %w", file, err)
					}
					serial = serialText(certificates[0].SerialNumber)
				}
				if err := f.revoke(serial, code, time.Now()); err != nil {
					return err
				}
				return f.issueCRL(hours, time.Now())
			})
		},
	}
	crlHours(cmd, &hours)
	cmd.Flags().StringVar(&file, "cert", "", "the certificate, the first of a PEM `FILE`")
	cmd.Flags().StringVar(&serial, "serial", "", "its serial number in `HEX`")
	cmd.Flags().StringVar(&reason, "reason", "unspecified", "one of "+strings.Join(slices.Sorted(maps.Keys(reasons())), ", "))
	return cmd
}

// revoke marks a certificate. One that is revoked already keeps its time.
func (f *folder) revoke(serial string, reason int, now time.Time) error {
	return f.change(func(x *index) error {
		i := slices.IndexFunc(x.Issued, func(c issued) bool { return c.Serial == serial })
		if i < 0 {
			return muster.Refuse(muster.CodeUsage, "this authority has issued no certificate with the serial number %q", serial)
		}
		if x.Issued[i].RevokedAt == nil {
			at := now.UTC().Truncate(time.Second)
			x.Issued[i].RevokedAt, x.Issued[i].Reason = &at, reason
		}
		return nil
	})
}

// issueCRL writes a complete list. Its number is in the index before the list is
// out, so that no two lists have one.
func (f *folder) issueCRL(hours int, now time.Time) error {
	if hours < 1 || hours > 10*365*24 {
		return muster.Refuse(muster.CodeUsage, "--hours is from 1 to 87600")
	}
	template := &x509.RevocationList{ThisUpdate: now.UTC().Truncate(time.Second)}
	template.NextUpdate = template.ThisUpdate.Add(time.Duration(hours) * time.Hour)
	err := f.change(func(x *index) error {
		x.CRLNumber++
		template.Number = big.NewInt(x.CRLNumber)
		for _, c := range x.Issued {
			if c.RevokedAt == nil {
				continue
			}
			serial, ok := new(big.Int).SetString(c.Serial, 16)
			if !ok {
				return fmt.Errorf("the index has the serial number %q", c.Serial)
			}
			template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: serial, RevocationTime: *c.RevokedAt, ReasonCode: c.Reason})
		}
		return nil
	})
	if err != nil {
		return err
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, f.certificate, f.key)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(f.path, folderCRL), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644)
}
