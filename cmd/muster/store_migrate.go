package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"muster/postgres"
	"muster/sqlite"
)

// A migration is what became of the schema of a store.
type migration struct {
	Engine string `json:"engine"`
	From   int    `json:"from"` // the version that the store had
	To     int    `json:"to"`   // and has
}

// migrate brings the store to this program's version of the schema, or from there to
// the one before.
func (c storeConfig) migrate(ctx context.Context, back bool) (m migration, err error) {
	m.Engine = sqlite.Engine
	if c.Postgres != "" {
		m.Engine = postgres.Engine
	}
	switch {
	case c.Postgres != "" && back:
		m.From, m.To, err = postgres.MigrateBack(ctx, c.Postgres)
	case c.Postgres != "":
		m.From, m.To, err = postgres.Migrate(ctx, c.Postgres)
	case back:
		m.From, m.To, err = sqlite.MigrateBack(ctx, c.Path)
	default:
		m.From, m.To, err = sqlite.Migrate(ctx, c.Path)
	}
	return m, err
}

func (m migration) print(out io.Writer, asJSON bool) error {
	switch {
	case asJSON:
		return json.NewEncoder(out).Encode(m)
	case m.From == m.To:
		_, err := fmt.Fprintf(out, "schema %d, up to date\n", m.To)
		return err
	}
	_, err := fmt.Fprintf(out, "schema %d, was %d\n", m.To, m.From)
	return err
}

func newStoreMigrateCommand() *cobra.Command {
	var file string
	var back, asJSON bool
	cmd := &cobra.Command{
		Use:   "migrate --config FILE [--back]",
		Short: "Bring a store to the schema of this version, or one version back",
		Long: `Bring the tables of a store to the schema of this version. The function must not be
running if its store is a file; stop the processes of the older version if it is a
PostgreSQL database. Whoever opens a file brings it forward too; a database needs
this command.

--back brings them from the schema of this version to the one before, in one
transaction, for the release before to go on with; muster version tells the schema
of each. Nothing is lost by it: if the version before cannot hold all that is in the
store, as the anchors of a pruned audit log, nothing is changed. It is one version
and no more: a store that is of an older schema already stays as it is. Whatever
opens a file with this version brings it forward again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readStoreConfig(file)
			if err != nil {
				return err
			}
			m, err := config.migrate(cmd.Context(), back)
			if err != nil {
				return config.refuse(err)
			}
			return m.print(cmd.OutOrStdout(), asJSON)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&back, "back", false, "go from the schema of this version to the one before")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
