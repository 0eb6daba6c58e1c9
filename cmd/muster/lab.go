package main

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"muster"
)

func newInitCommand() *cobra.Command {
	var devices int
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a laboratory: PKI, configurations, stores, devices",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if devices < 1 || devices > maxLabDevices {
				return muster.Refuse(muster.CodeUsage, "--devices is from 1 to %d", maxLabDevices)
			}
			lab := &laboratory{Dir: args[0], Devices: devices, now: time.Now()}
			if err := lab.write(); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), `Wrote a laboratory with %d devices to %s. Run each in a terminal of its own:

  muster mef --config %s
  muster maf --config %s
  muster enrol --config %s
`, devices, lab.Dir, lab.path("mef.yaml"), lab.path("maf.yaml"), lab.path(lab.deviceFile(0)+".yaml"))
			return err
		},
	}
	cmd.Flags().IntVar(&devices, "devices", 1, "how many devices to make")
	return cmd
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

func newLogger(out io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(out, nil)) }
