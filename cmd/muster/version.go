package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"muster/postgres"
	"muster/sqlite"
)

// release is the version that the build was told, without v; empty if it was not.
var release string

// A buildVersion says what this program was built from, and which stores it serves.
type buildVersion struct {
	Version  string         `json:"version"`  // of the release, or else of the module; (devel) without one
	Revision string         `json:"revision"` // of the version control system; empty if the build did not see it
	Modified bool           `json:"modified"` // the tree differed from the revision
	Go       string         `json:"go"`
	Platform string         `json:"platform"` // GOOS/GOARCH
	Schemas  map[string]int `json:"schemas"`  // the newest that each engine of stores has
}

func readBuildVersion() buildVersion {
	v := buildVersion{
		Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Schemas: map[string]int{"sqlite": sqlite.Schema(), "postgres": postgres.Schema()},
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	switch {
	case release != "":
		v.Version = release
	case info.Main.Version != "":
		v.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Revision = setting.Value
		case "vcs.modified":
			v.Modified = setting.Value == "true"
		}
	}
	return v
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "What this program was built from, and which stores it serves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := readBuildVersion()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "muster %s %s %s, stores: SQLite schema %d, PostgreSQL schema %d\n",
				v.Version, v.Go, v.Platform, v.Schemas["sqlite"], v.Schemas["postgres"])
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
