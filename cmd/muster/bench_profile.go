package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"

	"github.com/spf13/cobra"
)

// newBenchWatchedCommand runs another command of this program. It writes a CPU
// profile of it, in the form of pprof, unless the file is "-", and says how much
// memory is in use for each line that it reads.
func newBenchWatchedCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "watched FILE COMMAND...",
		Hidden:             true,
		DisableFlagParsing: true,
		Args:               cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			stop, err := startProfile(args[0])
			if err != nil {
				return err
			}
			go tellMemory(cmd.InOrStdin(), cmd.ErrOrStderr())
			root := newRootCommand()
			root.SetArgs(args[1:])
			root.SetOut(cmd.OutOrStdout())
			root.SetErr(cmd.ErrOrStderr())
			return errors.Join(root.ExecuteContext(cmd.Context()), stop())
		},
	}
}

func startProfile(path string) (stop func() error, err error) {
	if path == "-" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

// memoryLine is how a watched command says what it uses, in octets.
const memoryLine = "memory in use: %d\n"

// tellMemory collects garbage for each line, and tells what is left in heap and stacks.
func tellMemory(lines io.Reader, out io.Writer) {
	for asked := bufio.NewScanner(lines); asked.Scan(); {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what has a finalizer or waits in a pool goes in the second
		runtime.ReadMemStats(&m)
		fmt.Fprintf(out, memoryLine, m.HeapAlloc+m.StackInuse)
	}
}
