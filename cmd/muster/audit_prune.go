package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/audit"
)

func newAuditPruneCommand() *cobra.Command {
	var config, before, pinned string
	cmd := &cobra.Command{
		Use:   "prune --config FILE --before DATE",
		Short: "Remove the oldest entries of the audit log in a store",
		Long: `Remove the entries before a date from the audit log that a function keeps in its
store, up to the first that is not older; nothing else removes any. The log is
verified first, and one that is not what was written keeps all. The head of the last
entry that goes stays in the store, and muster audit verify takes the rest for the
log after that. Keep the HEAD that is printed: whoever can write the database can
remove entries as well as you, and --from HEAD tells their doing from yours. Export
the store first if the entries have to be kept elsewhere.

The function must not be running if its store is a file. The log's own file is left
as it is.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			date, err := parseDate(before)
			if err != nil {
				return err
			}
			pin, err := parseHead(pinned)
			if err != nil {
				return err
			}
			var was, is audit.Head
			err = withAuditStore(cmd.Context(), config, func(store audit.Store, name string) (err error) {
				was, is, err = audit.Prune(cmd.Context(), store, name, date, pin)
				return err
			})
			if errors.Is(err, audit.ErrBroken) {
				return muster.Refuse(muster.CodeAuditBroken, "%w", err)
			} else if err != nil {
				return configErrorf("%w", err)
			}
			if is == was {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "no entry is older")
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "entries %d to %d removed; the log begins after\nhead %s\n", was.Seq+1, is.Seq, is)
			return err
		},
	}
	configFlag(cmd, &config)
	cmd.Flags().StringVar(&before, "before", "", "the `DATE` of the first entry that stays, as 2026-01-31, which begins in UTC, or 2026-01-31T12:00:00Z")
	cmd.Flags().StringVar(&pinned, "head", "", "a `HEAD` that the log has to contain")
	_ = cmd.MarkFlagRequired("before") // which fails for a flag that does not exist
	return cmd
}

func parseDate(text string) (time.Time, error) {
	date, err := time.Parse(time.DateOnly, text)
	if err != nil {
		date, err = time.Parse(time.RFC3339, text)
	}
	if err != nil {
		return date, muster.Refuse(muster.CodeUsage, "%q is not a date, as 2026-01-31 or 2026-01-31T12:00:00Z", text)
	}
	return date, nil
}
