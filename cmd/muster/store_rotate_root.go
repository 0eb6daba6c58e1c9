package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"muster/postgres"
	"muster/seal"
	"muster/sqlite"
)

// nextRootSuffix names the root key that takes over, beside the one in use. While
// it is there, both open the store.
const nextRootSuffix = ".next"

func newStoreRotateRootCommand() *cobra.Command {
	var file string
	var draw bool
	cmd := &cobra.Command{
		Use:   "rotate-root --config FILE",
		Short: "Put a new root key in the place of the one in use",
		Long: `Put a new root key in the place of the one in use: draw it into a file beside the
old one's, with the suffix .next, wrap every data key under it, all or none, and
give it the name of the old one, which is gone then. A rotation that was interrupted
is completed by the next; in between, the function starts as well. Backups made
before, and standbys of a database that lag, need the old root key: keep it with them
for as long as they are worth something.

The function must not be running if its store is a file. It may if its store is a
PostgreSQL database: a process that has only the old root key goes on with the data
keys that it knows, starts no more, and refuses what needs a data key that is added
later, at most a month after the newest, but never adds one under the old root key.
So give each process the new one and start it again. --draw draws the new root key
and ends: a process that is given both files and started again goes on whenever the
rotation is done.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, config, _, err := openedStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			next := config.RootKey + nextRootSuffix
			if err := config.createRoot(cmd.Context(), next); err != nil && (draw || !errors.Is(err, fs.ErrExist)) {
				return configErrorf("store: %w", err)
			}
			if draw {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is the new root key\n", next)
				return err
			}
			n, err := rotateRoot(cmd.Context(), config, next)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d data keys are under the new root key\n", n)
			return err
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&draw, "draw", false, "draw the new root key and leave the rest to the next call")
	return cmd
}

// rotateRoot has the root key in the file next take over.
func rotateRoot(ctx context.Context, config storeConfig, next string) (int, error) {
	n, err := rewrapDataKeys(ctx, config)
	if err != nil {
		return 0, err
	}
	if err := seal.ReplaceRoot(next, config.RootKey); err != nil {
		return 0, configErrorf("store: %w", err)
	}
	return n, nil
}

// rewrapDataKeys wraps the data keys of a store under the root key that takes over.
func rewrapDataKeys(ctx context.Context, config storeConfig) (n int, err error) {
	sealer, err := newSealer(ctx, config)
	if err != nil {
		return 0, err
	}
	if config.Postgres != "" {
		n, err = postgres.RewrapDataKeys(ctx, config.Postgres, sealer)
	} else {
		n, err = sqlite.RewrapDataKeys(ctx, config.Path, sealer)
	}
	if err != nil {
		return 0, config.refuse(err)
	}
	return n, nil
}
