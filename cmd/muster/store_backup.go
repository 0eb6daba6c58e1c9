package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"muster"
	"muster/archive"
	"muster/seal"
	"muster/sqlite"
)

// readFileStore reads a store's configuration for a command that knows files only.
func readFileStore(ctx context.Context, file string) (storeConfig, *seal.Sealer, error) {
	config, err := readStoreConfig(file)
	if err != nil {
		return config, nil, err
	}
	if config.Postgres != "" {
		return config, nil, configErrorf("%s: the store is a PostgreSQL database; its own tools back it up and restore it, or muster store export and import", file)
	}
	sealer, err := newSealer(ctx, config)
	return config, sealer, err
}

// refuseFile gives the errors of a store in a file, and of an archive, their codes.
func refuseFile(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sqlite.ErrDamaged), errors.Is(err, archive.ErrDamaged):
		return muster.Refuse(muster.CodeStoreDamaged, "%w", err)
	case errors.Is(err, sqlite.ErrIrreversible):
		return muster.Refuse(muster.CodeMigrationIrreversible, "store: %w", err)
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), errors.Is(err, sqlite.ErrForeign), errors.Is(err, sqlite.ErrNewer),
		errors.Is(err, sqlite.ErrOlder), errors.Is(err, sqlite.ErrInUse), errors.Is(err, archive.ErrEarlier), errors.Is(err, seal.ErrRoot), errors.Is(err, seal.ErrDataKey), errors.Is(err, archive.ErrFormat), errors.Is(err, archive.ErrNewer):
		return configErrorf("store: %w", err)
	}
	return muster.Refuse(muster.CodeStoreFailed, "%w", err)
}

func newStoreBackupCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "backup --config FILE TO",
		Short: "Back a store up to a new file, while its function runs or not",
		Long: `Back a store up to a new file, while its function runs or not, as it is at one
moment. The backup is checked before it gets its name. Its keys are sealed: keep
the root key too, and elsewhere.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, sealer, err := readFileStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			report, err := sqlite.Backup(cmd.Context(), config.Path, args[0], sealer)
			if err != nil {
				return refuseFile(err)
			}
			return printReport(cmd.OutOrStdout(), report, false)
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func newStoreRestoreCommand() *cobra.Command {
	var file, later string
	var acceptOlder bool
	cmd := &cobra.Command{
		Use:   "restore --config FILE [--later LEFTOVER] BACKUP",
		Short: "Make a store of a backup; the store must not exist",
		Long: `Make a store of a backup. Move what is left of the store away first.

A backup does not know what ended after it was made. What may have ended is
therefore withdrawn: keys that wait for their MAF (the devices enrol again),
Master Credentials of an Enrolee that has a newer one, KeIDs (clients come with
their KmID), registered keys (their sources register again), and pre-provisioned
keys (import the list as it is now). --accept-older keeps all of it, and with it
whatever was revoked, rotated or used up since.

The newest Master Credential of each Enrolee in the backup stays usable. One that
was replaced since the backup, as after a theft, opens sessions again until the
Enrolee has enrolled anew and attached, or until it expires: restore a backup that
is as new as there is.

Commands that were reported since the backup are issued again, and registrations
that were deleted since are there again, unless something tells of them: --later
names what is left of the store (its file and what lies beside it under its name, as
far as that can be read) or a later archive or backup. Whatever is ended there ends
in the restored store. With --accept-older nothing else does, but in tables that
cannot be read to their end: use the two together only if the LEFTOVER is the last
state of the store.

Verdicts stand in the configuration and not in the store: a restore never lifts
one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, sealer, err := readFileStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			newer, err := laterStore(cmd.Context(), later, sealer)
			if err != nil {
				return refuseFile(err)
			}
			w, carried, err := sqlite.Restore(cmd.Context(), args[0], config.Path, sealer, acceptOlder, newer)
			if err != nil {
				return refuseFile(err)
			}
			if err := printCarried(cmd.OutOrStdout(), later, carried); err != nil {
				return err
			}
			return printWithdrawn(cmd.OutOrStdout(), "restored", w)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&acceptOlder, "accept-older", false, "keep what may have ended since the backup was made")
	cmd.Flags().StringVar(&later, "later", "", "end what this `LEFTOVER` of the store, archive or backup shows as ended")
	return cmd
}

// laterStore reads what a file shows of a store after a backup of it, or is nil
// without one. An archive is read to its end first, for it is whole or worth nothing.
func laterStore(ctx context.Context, file string, opener archive.Opener) (archive.Later, error) {
	if file == "" {
		return nil, nil
	}
	reader, closeArchive, err := openArchive(file)
	if errors.Is(err, archive.ErrFormat) {
		return sqlite.Leftover(file), nil
	}
	if err != nil {
		return nil, err
	}
	for _, err := range archive.NewReport().Watch(reader.Records(), opener) {
		if err != nil {
			return nil, errors.Join(err, closeArchive())
		}
	}
	return func(_ context.Context, table archive.Table, visit func(archive.Record) error) error {
		reader, closeArchive, err := openArchive(file)
		if err != nil {
			return err
		}
		for r, err := range reader.Records() {
			if err == nil && r.Table() == table.Name {
				err = visit(r)
			}
			if err != nil {
				return errors.Join(err, closeArchive())
			}
		}
		return closeArchive()
	}, closeArchive()
}

func printCarried(out io.Writer, later string, c archive.Carried) error {
	if later == "" {
		return nil
	}
	_, err := fmt.Fprintf(out, "%s shows that %d records have ended and %d are gone\n", later, c.Ended, c.Gone)
	if len(c.Unread) > 0 && err == nil {
		_, err = fmt.Fprintf(out, "of these tables it does not show the whole: %s\n", strings.Join(c.Unread, ", "))
	}
	return err
}
