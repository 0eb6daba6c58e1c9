package main

import (
	"context"

	"github.com/spf13/cobra"

	"muster"
	"muster/archive"
	"muster/postgres"
	"muster/sqlite"
)

// withdraw takes back what may have ended after the state to which a store has returned.
func (c storeConfig) withdraw(ctx context.Context, opener archive.Opener, keep bool, later archive.Later) (archive.Withdrawn, archive.Carried, error) {
	if c.Postgres != "" {
		return postgres.Withdraw(ctx, c.Postgres, opener, keep, later)
	}
	return sqlite.Withdraw(ctx, c.Path, opener, keep, later)
}

func newStoreWithdrawCommand() *cobra.Command {
	var file, later string
	var acceptOlder bool
	cmd := &cobra.Command{
		Use:   "withdraw --config FILE [--later LEFTOVER]",
		Short: "Take back what may have ended after the state to which a store was returned",
		Long: `Take back what muster store restore takes back, in a store that was returned to an
earlier state in another way: a PostgreSQL database by a recovery to a point in time
or from a dump, an SQLite file by a snapshot of its file system. Do it before the
first process of the function starts: what has ended after that state would come
back with it. Keys that wait for their MAF go (the devices enrol again), Master
Credentials of an Enrolee that has a newer one, KeIDs (clients come with their
KmID), registered keys (their sources register again), and pre-provisioned keys
(import the list as it is now). There is no way back.

Commands that were reported after that state are issued again, and registrations
that were deleted are there again, unless --later names an archive that muster store
export has made of the later state, or what is left of a later SQLite file. Whatever
is ended there ends first, and nothing is added. With --accept-older nothing else
does, but in tables that cannot be read to their end: use it only if the LEFTOVER is
the last state of the store.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if acceptOlder && later == "" {
				return muster.Refuse(muster.CodeUsage, "--accept-older needs --later: without both there is nothing to do")
			}
			_, config, sealer, err := openedStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			newer, err := laterStore(cmd.Context(), later, sealer)
			if err != nil {
				return refuseFile(err)
			}
			w, carried, err := config.withdraw(cmd.Context(), sealer, acceptOlder, newer)
			if err != nil {
				return config.refuse(err)
			}
			if err := printCarried(cmd.OutOrStdout(), later, carried); err != nil {
				return err
			}
			return printWithdrawn(cmd.OutOrStdout(), "done", w)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&acceptOlder, "accept-older", false, "keep what may have ended, but for what the LEFTOVER shows as ended")
	cmd.Flags().StringVar(&later, "later", "", "end what this archive or `LEFTOVER` of the store shows as ended")
	return cmd
}
