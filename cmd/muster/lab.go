package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"muster"
)

func newInitCommand() *cobra.Command {
	var devices int
	var mefPort, mafPort, adminPort uint16
	var credential credentialKind
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a laboratory: PKI, configurations, stores, devices",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if devices < 1 || devices > maxLabDevices {
				return muster.Refuse(muster.CodeUsage, "--devices is from 1 to %d", maxLabDevices)
			}
			lab := &laboratory{Dir: args[0], Devices: devices, credential: credential, now: time.Now(), mefPort: mefPort, mafPort: mafPort, adminPort: adminPort}
			if err := lab.write(); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), `Wrote a laboratory with %d devices to %s. Run each in a terminal of its own:

  muster mef --config %s
  muster maf --config %s
  muster enrol --config %s
`, devices, lab.Dir, lab.path("mef.yaml"), lab.path("maf.yaml"), lab.path(lab.deviceFile(0)+".yaml"))
			if err == nil && adminPort != 0 {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "  muster admin overview --config %s\n", lab.path("mef-operator.yaml"))
			}
			return err
		},
	}
	credentialFlag(cmd, &credential)
	cmd.Flags().IntVar(&devices, "devices", 1, "how many devices to make")
	cmd.Flags().Uint16Var(&adminPort, "admin-port", labAdminPort, "the TCP port of the MEF's operators, that of the MAF's being one above; 0 for none")
	cmd.Flags().Uint16Var(&mefPort, "mef-port", labMEFPort, "the MEF's port, TCP and UDP")
	cmd.Flags().Uint16Var(&mafPort, "maf-port", labMAFPort, "the MAF's port, TCP and UDP")
	return cmd
}

// A credentialKind is what devices authenticate with at their MEF.
type credentialKind string

const (
	byCertificate credentialKind = "certificate"
	byKey         credentialKind = "psk"
)

// String, Set and Type make a credentialKind the value of a flag.
func (k *credentialKind) String() string { return string(*k) }

func (k *credentialKind) Set(text string) error {
	switch v := credentialKind(text); v {
	case byCertificate, byKey:
		*k = v
		return nil
	}
	return muster.Refuse(muster.CodeUsage, "%q is neither %s nor %s", text, byCertificate, byKey)
}

func (k *credentialKind) Type() string { return "string" }

func credentialFlag(cmd *cobra.Command, kind *credentialKind) {
	*kind = byCertificate
	cmd.Flags().Var(kind, "credential", "what devices authenticate with at the MEF: certificate or psk, a pre-provisioned key")
}

func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "config", "", "the configuration `FILE`")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return muster.Refuse(muster.CodeUsage, "%s needs --config FILE", cmd.CommandPath())
		}
		return nil
	}
}
