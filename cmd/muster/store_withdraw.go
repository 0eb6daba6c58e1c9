package main

import (
	"context"

	"github.com/spf13/cobra"

	"muster/archive"
	"muster/postgres"
	"muster/sqlite"
)

// withdraw takes back what may have ended after the state to which a store has returned.
func (c storeConfig) withdraw(ctx context.Context) (archive.Withdrawn, error) {
	if c.Postgres != "" {
		return postgres.Withdraw(ctx, c.Postgres)
	}
	return sqlite.Withdraw(ctx, c.Path)
}

func newStoreWithdrawCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "withdraw --config FILE",
		Short: "Take back what may have ended after the state to which a store was returned",
		Long: `Take back what muster store restore takes back, in a store that was returned to an
earlier state in another way: a PostgreSQL database by a recovery to a point in time
or from a dump, an SQLite file by a snapshot of its file system. Do it before the
first process of the function starts: what has ended after that state would come
back with it. Keys that wait for their MAF go (the devices enrol again), Master
Credentials of an Enrolee that has a newer one, KeIDs (clients come with their
KmID), registered keys (their sources register again), and pre-provisioned keys
(import the list as it is now). There is no way back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readStoreConfig(file)
			if err != nil {
				return err
			}
			w, err := config.withdraw(cmd.Context())
			if err != nil {
				return config.refuse(err)
			}
			return printWithdrawn(cmd.OutOrStdout(), "done", w)
		},
	}
	configFlag(cmd, &file)
	return cmd
}
