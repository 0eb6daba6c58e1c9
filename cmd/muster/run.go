package main

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"muster"
)

// Exit codes, documented in README and in muster help exit-codes.
const (
	exitOK          = 0
	exitFailed      = 1 // something else went wrong, or a demo's two ends disagree
	exitUsage       = 2 // the command line or a configuration is wrong
	exitRefused     = 3 // one side refused the other, by a rule
	exitUnreachable = 4 // the other side did not answer; trying again may help
)

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprint(stderr, describe(err))
	return exitCode(err)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "muster",
		Short:         "oneM2M certificate-based remote security provisioning: MEF, MAF and Enrolee",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return muster.Refuse(muster.CodeUsage, "%s: %v", cmd.CommandPath(), err)
	})
	root.AddCommand(newCommandCommand(), newInitCommand(), newMEFCommand(), newMAFCommand(), newEnrolCommand(),
		newConfigCommand(), newStoreCommand(), newExplainCommand(), newRefusalsCommand(), newPKICommand(), newKpmCommand(), newAuditCommand(), newDemoCommand(), newBenchCommand(), newAdminCommand(), newVersionCommand(), newManCommand(), newExitCodesTopic())
	addExamples(root)
	completeAll(root)
	refuseArguments(root)
	return root
}

// refuseArguments makes wrong arguments of the commands below cmd a matter of usage.
func refuseArguments(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			switch {
			case err == nil:
				return nil
			case !cmd.HasSubCommands():
				return muster.Refuse(muster.CodeUsage, "%s: %w", cmd.CommandPath(), err)
			}
			var names []string
			for _, below := range cmd.Commands() {
				names = append(names, below.Name())
			}
			return muster.Refuse(muster.CodeUsage, "%s has no command %q; the nearest is %q", cmd.CommandPath(), args[0], nearest(args[0], names))
		}
	}
	for _, below := range cmd.Commands() {
		refuseArguments(below)
	}
}

func newExitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "The meaning of exit codes",
		Long: `Every command ends with one of these codes:

  0  it did what it was asked to
  1  something else went wrong
  2  the command line or a configuration is wrong
  3  one side refused the other, by a rule that the message names
  4  the other side did not answer; trying again may help`,
	}
}

func exitCode(err error) int {
	switch muster.CodeOf(err) {
	case "", muster.CodeStoreFailed:
		return exitFailed
	case muster.CodeUsage, muster.CodeConfiguration:
		return exitUsage
	case muster.CodeHandshakeTimeout, muster.CodeUnreachable, muster.CodeMEFUnreachable, muster.CodeBusy:
		return exitUnreachable
	default:
		return exitRefused
	}
}

// describe says what failed, by which rule, and what to do.
func describe(err error) string {
	text := fmt.Sprintf("muster: %v\n", err)
	if meaning, ok := muster.CodeOf(err).Meaning(); ok {
		text += fmt.Sprintf("  rule:   %s\n  remedy: %s\n", meaning.Rule, meaning.Remedy)
	}
	return text
}
