package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/archive"
	"muster/postgres"
	"muster/seal"
	"muster/sqlite"
)

// records reads all records of a store.
func (c storeConfig) records(ctx context.Context) (engine string, schema int, records iter.Seq2[archive.Record, error]) {
	if c.Postgres != "" {
		return postgres.Engine, postgres.Schema(), postgres.Export(ctx, c.Postgres)
	}
	return sqlite.Engine, sqlite.Schema(), sqlite.Export(ctx, c.Path)
}

// fill makes a store, which must not exist, of records.
func (c storeConfig) fill(ctx context.Context, records iter.Seq2[archive.Record, error], opener archive.Opener, keep bool) (archive.Withdrawn, *archive.Report, error) {
	if c.Postgres != "" {
		return postgres.Import(ctx, c.Postgres, records, opener, keep)
	}
	return sqlite.Import(ctx, c.Path, records, opener, keep)
}

// refuse gives the errors of a store, whatever its engine, and of an archive their codes.
func (c storeConfig) refuse(err error) error {
	if c.Postgres == "" || errors.Is(err, archive.ErrDamaged) {
		return refuseFile(err)
	}
	return refuseDatabase(err)
}

// openedStore reads whose store a configuration names, and what opens it.
func openedStore(ctx context.Context, file string) (function muster.FQDN, config storeConfig, sealer *seal.Sealer, err error) {
	if function, config, err = readStoreOf(file); err == nil {
		sealer, err = newSealer(ctx, config)
	}
	return function, config, sealer, err
}

func newStoreExportCommand() *cobra.Command {
	var file, backup string
	cmd := &cobra.Command{
		Use:   "export --config FILE [--file BACKUP] TO",
		Short: "Write a store to a new archive, while its function runs or not",
		Long: `Write a store, or a backup of one, to a new archive that a store of any engine can
be made of, while its function runs or not, as it is at one moment. Every key is
opened on the way, and stays sealed: the archive is worth nothing without the root
key. "-" as TO is the standard output; what is written there before an error is no
archive, and an import knows that.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			function, config, sealer, err := openedStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			if backup != "" {
				config = storeConfig{Path: backup}
			}
			engine, schema, records := config.records(cmd.Context())
			report := archive.NewReport()
			report.Schema = schema
			write := func(out io.Writer) error {
				header := archive.Header{Engine: engine, Schema: schema, Function: function.String(), Created: time.Now()}
				return archive.Write(out, header, report.Watch(records, sealer))
			}
			if args[0] == "-" {
				return config.refuse(write(cmd.OutOrStdout()))
			}
			err = archive.Place(args[0], func(draft string) error {
				out, err := os.OpenFile(draft, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				return errors.Join(write(out), out.Close())
			})
			if err != nil {
				return config.refuse(err)
			}
			return printReport(cmd.OutOrStdout(), report, false)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&backup, "file", "", "export this `BACKUP` in place of the store")
	return cmd
}

func newStoreImportCommand() *cobra.Command {
	var file string
	var acceptOlder bool
	cmd := &cobra.Command{
		Use:   "import --config FILE FROM",
		Short: "Make a store of an archive; the store must not exist",
		Long: `Make a store of an archive: the SQLite file, or the tables in the current schema of
the PostgreSQL database. All of the archive is there in the end, and every key
opens, or nothing is. It needs the root key of the store that was exported. "-" as
FROM is the standard input.

What may have ended since the export is withdrawn as muster store restore does;
--accept-older keeps it, which is safe only if the store that was exported has not
been used since.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			function, config, sealer, err := openedStore(cmd.Context(), file)
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				from, err := os.Open(args[0])
				if err != nil {
					return configErrorf("store: %w", err)
				}
				defer from.Close()
				in = from
			}
			reader, err := archive.NewReader(in)
			if err != nil {
				return refuseFile(err)
			}
			if of := reader.Header.Function; of != "" && of != function.String() {
				return configErrorf("store: the archive is of %q, and %s is the configuration of %s", of, file, function)
			}
			w, report, err := config.fill(cmd.Context(), reader.Records(), sealer, acceptOlder)
			if err != nil {
				return config.refuse(err)
			}
			return errors.Join(printReport(cmd.OutOrStdout(), report, false), printWithdrawn(cmd.OutOrStdout(), "imported", w))
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&acceptOlder, "accept-older", false, "keep what may have ended since the archive was made")
	return cmd
}

func printWithdrawn(out io.Writer, done string, w archive.Withdrawn) error {
	_, err := fmt.Fprintf(out, "%s; withdrawn: %d enrolments, %d older credentials, %d KeIDs, %d registered keys, %d pre-provisioned keys\n",
		done, w.Enrolments, w.Credentials, w.KeIDs, w.Keys, w.Kpms)
	return err
}

func newStoreCopyCommand() *cobra.Command {
	var file, to string
	cmd := &cobra.Command{
		Use:   "copy --config FILE --to FILE",
		Short: "Copy a store to another engine or place; the other store must not exist",
		Long: `Copy the store of one configuration to that of another of the same function, as
from an SQLite file to a PostgreSQL database or back. Both configurations name the
same root key. Stop the function first, with all its processes, and start it with
the other configuration: nothing is withdrawn, and what the old store is told
afterwards the new one does not know. A file that is in use is refused; nobody
knows that of a database.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			function, from, err := readStoreOf(file)
			if err != nil {
				return err
			}
			other, config, sealer, err := openedStore(cmd.Context(), to)
			if err != nil {
				return err
			}
			if other != function {
				return configErrorf("store: %s is the configuration of %s, and %s is that of %s", file, function, to, other)
			}
			if from.Path != "" {
				lock, err := sqlite.Lock(cmd.Context(), from.Path)
				if err != nil {
					return refuseFile(err)
				}
				defer lock.Close()
			}
			_, _, records := from.records(cmd.Context())
			_, report, err := config.fill(cmd.Context(), records, sealer, true)
			if err != nil {
				return config.refuse(err)
			}
			return printReport(cmd.OutOrStdout(), report, false)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&to, "to", "", "the `FILE` of the other configuration")
	_ = cmd.MarkFlagRequired("to") // which fails for a flag that does not exist
	return cmd
}
