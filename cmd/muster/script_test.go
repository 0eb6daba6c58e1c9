package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary serve as the muster command, for scripts and
// for tests that kill a process.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"muster": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts gives each script ports of its own, for they run side by side.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(env *testscript.Env) error {
		for _, name := range []string{"MEF_PORT", "MAF_PORT", "ADMIN_PORT"} {
			port, err := quietPort()
			if err != nil {
				return err
			}
			env.Setenv(name, fmt.Sprint(port))
		}
		return nil
	}})
}
