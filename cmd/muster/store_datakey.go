package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// resealLimit is how many keys are sealed anew before the command looks whether it
// was interrupted.
const resealLimit = 10_000

func newStoreRotateDataKeyCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "rotate-data-key --config FILE",
		Short: "Put a new data key in the place of those in use",
		Long: `Put a new data key in the place of those in use: draw it, seal every stored key
anew under it, and forget the others. A function does all of this by itself, once
a month; the command is for when a data key may be known to others. The function
must not be running if its store is a file; it may if its store is a PostgreSQL
database. A rotation that was interrupted is completed by the function, or by the
next.

Backups made before have the old data keys, under the root key of their time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readStoreConfig(file)
			if err != nil {
				return err
			}
			n, err := rotateDataKey(cmd.Context(), config)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d keys are under the new data key\n", n)
			return err
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func rotateDataKey(ctx context.Context, config storeConfig) (total int, err error) {
	store, err := openStore(ctx, config)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.RotateDataKey(ctx); err != nil {
		return 0, err
	}
	for n := resealLimit; n == resealLimit; total += n {
		if n, err = store.Reseal(ctx, resealLimit); err != nil {
			return total, err
		}
	}
	return total, nil
}

// resealEvery puts stored keys under the newest data key until the service stops.
func (s *service) resealEvery(interval time.Duration, store database) {
	s.sweepEvery(interval, func(ctx context.Context, _ time.Time, limit int) (int, error) {
		return store.Reseal(ctx, limit)
	})
}
