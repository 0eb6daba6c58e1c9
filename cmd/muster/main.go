// Command muster runs the three parties of oneM2M's certificate-based remote
// security provisioning, and the tools around them: see muster help.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
