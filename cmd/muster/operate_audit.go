package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"muster"
	"muster/audit"
)

func (o *operatorFlags) newAuditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Look at the audit log of a function from afar",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(o.newAuditListCommand(), o.newAuditVerifyCommand())
	return cmd
}

func (o *operatorFlags) newAuditListCommand() *cobra.Command {
	var l selection
	r, _ := resourceOf("audit", resourceNames(nil)) // which is there
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the entries of the audit log, the oldest first",
		Args:  cobra.NoArgs,
		RunE:  o.at(func(ctx context.Context, d *desk, _ []string) error { return d.list(ctx, r, &l) }),
	}
	l.filterFlags(cmd, *r)
	l.pageFlags(cmd)
	return cmd
}

func (o *operatorFlags) newAuditVerifyCommand() *cobra.Command {
	var heads headFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Fetch the audit log, and check that it is what was written",
		Long: `Fetch the audit log, and check here that it is what was written: no entry was
changed, removed, put in or moved. Print its head, or with --json the entries.

That the end was cut off shows only against a head that was kept elsewhere:
--head HEAD demands that the log contains it. Where the oldest files were
archived, --from HEAD says after which entry the rest begins. Exit code 0 means
that all holds, 3 that it does not.`,
		Args: cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			start, pin, err := heads.parse()
			if err != nil {
				return err
			}
			head, err := d.verifyAudit(ctx, start, pin)
			if errors.Is(err, audit.ErrBroken) {
				return muster.Refuse(muster.CodeAuditBroken, "%w", err)
			} else if err != nil {
				return err
			}
			if head == start {
				return muster.Refuse(muster.CodeUsage, "%s has no audit log, or no entry in it", d.base.Host)
			}
			if !d.json {
				_, err = fmt.Fprintf(d.out, "entries %d to %d hold\nhead %s\n", start.Seq+1, head.Seq, head)
			}
			return err
		}),
	}
	heads.flags(cmd)
	return cmd
}

// verifyAudit follows the chain of the entries after from. It has to contain pinned,
// unless that is zero.
func (d *desk) verifyAudit(ctx context.Context, from, pinned audit.Head) (audit.Head, error) {
	chain := audit.Begin(from, pinned)
	for p, err := range d.pages(ctx, "/v1/audit", url.Values{}, 0) {
		if err != nil {
			return chain.Head, err
		}
		for _, line := range p.Items {
			if _, err := chain.Follow(line); err != nil {
				return chain.Head, err
			}
			if d.json {
				if err := d.line(line); err != nil {
					return chain.Head, err
				}
			}
		}
	}
	return chain.Head, chain.End()
}
