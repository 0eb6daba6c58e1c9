package main

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"muster"
	"muster/console"
)

func (o *operatorFlags) newCommandCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "command",
		Short: "Queue commands for the clients of a running MEF, and see what became of them",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(o.newCommandQueueCommand(), o.newCommandListCommand())
	return cmd
}

func (o *operatorFlags) newCommandQueueCommand() *cobra.Command {
	var order console.CommandOrder
	var stakeholder muster.FQDN
	var enrolee muster.EnroleeID
	cmd := &cobra.Command{
		Use:   "queue --admin FQDN (--enrolee ID | --group PREFIX) --id ID CLASS ARGUMENT...",
		Short: "Queue a command for a client of a running MEF, or for a group of them",
		Long: `Queue a command for a client of a running MEF, which may register later, or for
every client that is registered and whose identifier begins with a prefix. See
muster help command queue for the commands. Queueing the same command under the same
identifier again changes nothing.`,
		Args: cobra.MinimumNArgs(2),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			if stakeholder.IsZero() || order.ID == "" || enrolee.IsZero() == (order.Prefix == "") {
				return muster.Refuse(muster.CodeUsage, "%s needs --admin, --id, and either --enrolee or --group", d.cmd.CommandPath())
			}
			if _, err := parseCommand(args); err != nil {
				return err
			}
			order.Stakeholder, order.EnroleeID, order.Command = stakeholder.String(), enrolee.String(), args
			raw, queued, err := ask[console.Queued](ctx, d, call{method: http.MethodPost, path: "/v1/commands", body: order})
			if err != nil {
				return err
			}
			return d.tell(raw, "queued for %d clients", queued.Clients)
		}),
	}
	cmd.Flags().StringVar(&order.ID, "id", "", "the command's `ID`, unique among those of a client, at most 64 octets")
	cmd.Flags().StringVar(&order.Prefix, "group", "", "the `PREFIX` of the identifiers of a group of clients")
	clientFlags(cmd, &stakeholder, &enrolee)
	return cmd
}

func (o *operatorFlags) newCommandListCommand() *cobra.Command {
	var l selection
	var stakeholder muster.FQDN
	var enrolee muster.EnroleeID
	r, _ := resourceOf("commands", resourceNames(nil)) // which is there
	cmd := &cobra.Command{
		Use:   "list --admin FQDN --enrolee ID",
		Short: "List the commands of a client of a running MEF, and what became of them",
		Args:  cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			if stakeholder.IsZero() || enrolee.IsZero() {
				return muster.Refuse(muster.CodeUsage, "%s needs --admin and --enrolee", d.cmd.CommandPath())
			}
			client, of := enrolee.String(), stakeholder.String()
			l.filters = map[string]*string{"enrolee": &client, "stakeholder": &of}
			return d.list(ctx, r, &l)
		}),
	}
	clientFlags(cmd, &stakeholder, &enrolee)
	l.pageFlags(cmd)
	return cmd
}
