package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"muster"
	"muster/archive"
	"muster/postgres"
	"muster/sqlite"
)

func newStoreCheckCommand() *cobra.Command {
	var file, backup string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check --config FILE [--file BACKUP]",
		Short: "Check a store, while its function runs or not, or a backup or archive of it",
		Long: `Check a store, while its function runs or not, or a backup or archive of it: the
file, its references, and that every sealed key opens for the record in which it
stands.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readStoreConfig(file)
			if err != nil {
				return err
			}
			sealer, err := newSealer(cmd.Context(), config)
			if err != nil {
				return err
			}
			if backup != "" {
				config = storeConfig{Path: backup}
			}
			report, err := config.examine(cmd.Context(), sealer)
			if err != nil {
				return config.refuse(err)
			}
			if err := printReport(cmd.OutOrStdout(), report, asJSON); err != nil || report.Sound() {
				return err
			}
			return muster.Refuse(muster.CodeStoreDamaged, "%d things are wrong with the store", len(report.Problems))
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&backup, "file", "", "check this `BACKUP` or archive in place of the store")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// examine reads all of a store, or of an archive in the place of its file.
func (c storeConfig) examine(ctx context.Context, opener archive.Opener) (*archive.Report, error) {
	if c.Postgres != "" {
		return postgres.Check(ctx, c.Postgres, opener)
	}
	reader, closeArchive, err := openArchive(c.Path)
	if errors.Is(err, archive.ErrFormat) {
		return sqlite.Check(ctx, c.Path, opener)
	}
	if err != nil {
		return nil, err
	}
	defer closeArchive()
	report := archive.NewReport()
	report.Schema = reader.Header.Schema
	for record, err := range reader.Records() {
		if err == nil {
			err = report.Look(record, opener)
		}
		if err != nil {
			return nil, err
		}
	}
	report.End()
	return report, nil
}

// openArchive opens an archive; the error is archive.ErrFormat for another file.
func openArchive(path string) (reader *archive.Reader, closeFile func() error, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if reader, err = archive.NewReader(file); err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return reader, file.Close, nil
}

func printReport(out io.Writer, r *archive.Report, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(struct {
			Schema   int            `json:"schema"`
			DataKeys int            `json:"dataKeys"`
			Sealed   int            `json:"sealedKeys"`
			Rows     map[string]int `json:"rows"`
			Problems []string       `json:"problems"`
		}{r.Schema, r.DataKeys, r.Sealed, r.Rows, append([]string{}, r.Problems...)})
	}
	for _, problem := range r.Problems {
		if _, err := fmt.Fprintln(out, problem); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "schema %d, %d sealed keys under %d data keys, %d problems\n", r.Schema, r.Sealed, r.DataKeys, len(r.Problems))
	return err
}
