package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

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
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), errors.Is(err, sqlite.ErrForeign), errors.Is(err, sqlite.ErrNewer),
		errors.Is(err, sqlite.ErrOlder), errors.Is(err, sqlite.ErrInUse), errors.Is(err, seal.ErrRoot), errors.Is(err, seal.ErrDataKey), errors.Is(err, archive.ErrFormat), errors.Is(err, archive.ErrNewer):
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
	var file string
	var acceptOlder bool
	cmd := &cobra.Command{
		Use:   "restore --config FILE BACKUP",
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

Verdicts stand in the configuration and not in the store: a restore never lifts
one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, sealer, err := readFileStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			w, _, err := sqlite.Restore(cmd.Context(), args[0], config.Path, sealer, acceptOlder)
			if err != nil {
				return refuseFile(err)
			}
			return printWithdrawn(cmd.OutOrStdout(), "restored", w)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&acceptOlder, "accept-older", false, "keep what may have ended since the backup was made")
	return cmd
}

// nextRootSuffix names the root key that takes over, beside the one in use. While
// it is there, both open the store.
const nextRootSuffix = ".next"

func newStoreRotateRootCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "rotate-root --config FILE",
		Short: "Put a new root key in the place of the one in use",
		Long: `Put a new root key in the place of the one in use: draw it, wrap every data key
under it, and give it the name of the old one, which is gone then. The function
must not be running. A rotation that was interrupted is completed by the next; in
between, the function starts as well. Backups made before need the old root key:
keep it with them for as long as they are worth something.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, _, err := readFileStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			n, err := rotateRoot(cmd.Context(), config)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d data keys are under the new root key\n", n)
			return err
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func rotateRoot(ctx context.Context, config storeConfig) (int, error) {
	next := config.RootKey + nextRootSuffix
	if err := config.createRoot(ctx, next); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, configErrorf("store: %w", err)
	}
	sealer, err := newSealer(ctx, config)
	if err != nil {
		return 0, err
	}
	n, err := sqlite.RewrapDataKeys(ctx, config.Path, sealer)
	if err != nil {
		return 0, refuseFile(err)
	}
	if err := seal.ReplaceRoot(next, config.RootKey); err != nil {
		return 0, configErrorf("store: %w", err)
	}
	return n, nil
}
