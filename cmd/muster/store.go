package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/audit"
	"muster/maf"
	"muster/mef"
	"muster/postgres"
	"muster/sqlite"
	"muster/tef"
)

// mefStore and mafStore are what the functions need of a store.
type (
	mefStore interface {
		mef.Store
		mef.Register
		mef.KpmStore
		mef.KpmRegister
		tef.Store
		tef.KeyStore
		tef.KeyRegister
		tef.CommandStore
	}
	mafStore interface {
		maf.Store
		maf.Register
		tef.Store
		tef.KeyStore
		tef.KeyRegister
	}
)

// What a function grants its clients, and tells those that ask for commands.
const (
	maxKeys       = 256
	retryDuration = 24 * time.Hour
)

// A database is an open store of either engine.
type database interface {
	mefStore
	mafStore
	RotateDataKey(ctx context.Context) error
	Reseal(ctx context.Context, limit int) (int, error)
	audit.Store
	Pending() int
	Ping(ctx context.Context) error
	Close() error
}

// createStore makes the database, which nothing else does.
func createStore(ctx context.Context, config storeConfig) error {
	sealer, err := newSealer(ctx, config)
	if err != nil {
		return err
	}
	if config.Postgres != "" {
		return refuseDatabase(postgres.Create(ctx, config.Postgres, sealer))
	}
	if err := sqlite.Create(ctx, config.Path, sealer); err != nil {
		return configErrorf("store: %w", err)
	}
	return nil
}

func openStore(ctx context.Context, config storeConfig) (database, error) {
	sealer, err := newSealer(ctx, config)
	if err != nil {
		return nil, err
	}
	if config.Postgres != "" {
		store, err := postgres.Open(ctx, config.Postgres, sealer, postgres.Options{})
		if err != nil {
			return nil, refuseDatabase(err)
		}
		return store, nil
	}
	store, err := sqlite.Open(ctx, config.Path, sealer, sqlite.Options{})
	if err != nil {
		return nil, configErrorf("store: %s: %w", config.Path, err)
	}
	return store, nil
}

// refuseDatabase tells a server that does not answer, which may answer later, from
// what an operator has to correct.
func refuseDatabase(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, postgres.ErrUnreachable):
		return muster.Refuse(muster.CodeUnreachable, "store: %w", err)
	case errors.Is(err, postgres.ErrIrreversible):
		return muster.Refuse(muster.CodeMigrationIrreversible, "store: %w", err)
	default:
		return configErrorf("store: %w", err)
	}
}

// besideStore names a file of this process beside its store: beside the file of
// the store, or, if that is on a server, beside the configuration.
func (c storeConfig) besideStore(configuration, suffix string) string {
	if c.Path == "" {
		return configuration + suffix
	}
	return c.Path + suffix
}

func newStoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Create, check, back up, restore and move the store that a configuration names",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newStoreCreateCommand(), newStoreMigrateCommand(), newStoreCheckCommand(),
		newStoreBackupCommand(), newStoreRestoreCommand(), newStoreRotateRootCommand(), newStoreRotateDataKeyCommand(),
		newStoreExportCommand(), newStoreImportCommand(), newStoreCopyCommand(), newStoreWithdrawCommand())
	return cmd
}

func newStoreCreateCommand() *cobra.Command {
	var file string
	var newRootKey bool
	cmd := &cobra.Command{
		Use:   "create --config FILE",
		Short: "Create the store of a MEF or MAF, which must not exist",
		Long: `Create the store that the configuration of a MEF or MAF names: the SQLite file, or
the tables in the current schema of the PostgreSQL database. Nothing else creates
a store. Of several processes that share a database one does this, and all of
them have the same root key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readStoreConfig(file)
			if err != nil {
				return err
			}
			if newRootKey {
				if err := config.createRoot(cmd.Context(), config.RootKey); err != nil {
					return configErrorf("store: %w", err)
				}
			}
			if err := createStore(cmd.Context(), config); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "created")
			return nil
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&newRootKey, "new-root-key", false, "draw the root key and write it to its file, which must not exist")
	return cmd
}

// readStoreConfig reads the store from the configuration of a MEF or a MAF.
func readStoreConfig(file string) (storeConfig, error) {
	_, config, err := readStoreOf(file)
	return config, err
}

// readStoreOf also reads whose store it is.
func readStoreOf(file string) (function muster.FQDN, config storeConfig, err error) {
	switch kind, err := kindOf(file); {
	case err != nil:
		return function, config, err
	case kind == "mef":
		config, err := readMEFConfig(file)
		if err != nil {
			return function, storeConfig{}, err
		}
		return config.FQDN, config.Store, nil
	case kind == "maf":
		config, err := readMAFConfig(file)
		if err != nil {
			return function, storeConfig{}, err
		}
		return config.FQDN, config.Store, nil
	default:
		return function, config, configErrorf("%s: a device has no store", file)
	}
}
