package main

import (
	"errors"
	"os"
	"runtime/pprof"

	"github.com/spf13/cobra"
)

// newBenchProfiledCommand runs another command of this program and writes a CPU
// profile of it, in the form of pprof.
func newBenchProfiledCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "profiled FILE COMMAND...",
		Hidden:             true,
		DisableFlagParsing: true,
		Args:               cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := os.Create(args[0])
			if err != nil {
				return err
			}
			if err := pprof.StartCPUProfile(file); err != nil {
				return errors.Join(err, file.Close())
			}
			root := newRootCommand()
			root.SetArgs(args[1:])
			root.SetOut(cmd.OutOrStdout())
			root.SetErr(cmd.ErrOrStderr())
			err = root.ExecuteContext(cmd.Context())
			pprof.StopCPUProfile()
			return errors.Join(err, file.Close())
		},
	}
}
