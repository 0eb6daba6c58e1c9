package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/tef"
)

func newCommandCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "command",
		Short: "Queue commands for the clients of a MEF, and see what became of them",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCommandQueueCommand(), newCommandListCommand())
	return cmd
}

func newCommandQueueCommand() *cobra.Command {
	var file, id, group string
	var admin muster.FQDN
	var enrolee muster.EnroleeID
	cmd := &cobra.Command{
		Use:   "queue --config FILE --admin FQDN (--enrolee ID | --group PREFIX) --id ID CLASS ARGUMENT...",
		Short: "Queue a command for a client of a MEF, or for a group of them",
		Long: `Queue a command for a client of a MEF, which may register later, or for every
client that is registered and whose identifier begins with a prefix. The command
is one of

  certificate est|scep URI node|cse|ae SUBJECT-ID
  device URI
  node PATH authentication-profile SUID
  node PATH trust-anchor|maf-client-registration

The MEF must not be running if its store is a file. Queueing the same command
under the same identifier again changes nothing.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if admin.IsZero() || id == "" || enrolee.IsZero() == (group == "") {
				return muster.Refuse(muster.CodeUsage, "%s needs --admin, --id, and either --enrolee or --group", cmd.CommandPath())
			}
			description, err := parseCommand(args)
			if err != nil {
				return err
			}
			config, err := readMEFConfig(file)
			if err != nil {
				return err
			}
			store, err := openStore(cmd.Context(), config.Store)
			if err != nil {
				return err
			}
			defer func() { _ = store.Close() }()
			queued, err := queueCommand(cmd.Context(), store, config.FQDN, enrolee, group, admin, id, description)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "queued for %d clients\n", queued)
			return err
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&id, "id", "", "the command's `ID`, unique among those of a client, at most 64 octets")
	cmd.Flags().StringVar(&group, "group", "", "the `PREFIX` of the identifiers of a group of clients")
	clientFlags(cmd, &admin, &enrolee)
	return cmd
}

// queueCommand queues a command for one client, or, if group is not empty, for those
// whose identifiers begin so, and returns for how many it stands in the queue.
func queueCommand(ctx context.Context, store mefStore, function muster.FQDN, client muster.EnroleeID, group string, admin muster.FQDN, id string, d tef.CommandDescription) (queued int, err error) {
	if group == "" {
		queued, err = 1, tef.Queue(ctx, store, function, client, admin, id, d, time.Now())
	} else {
		queued, err = tef.QueueForGroup(ctx, store, store, function, group, admin, id, d, time.Now())
	}
	if errors.Is(err, tef.ErrConflict) {
		err = muster.Refuse(muster.CodeCommandConflict, "another command has the identifier %q: %w", id, err)
	}
	return queued, err
}

func clientFlags(cmd *cobra.Command, admin *muster.FQDN, enrolee *muster.EnroleeID) {
	cmd.Flags().TextVar(admin, "admin", muster.FQDN{}, "the administrating stakeholder's `FQDN`")
	cmd.Flags().TextVar(enrolee, "enrolee", muster.EnroleeID{}, "the client's Absolute AE-ID or CSE-`ID`")
}

// numbered gives the words of the command line the numbers that the texts count from 1.
func numbered(what, word string, words ...string) (int, error) {
	if n := slices.Index(words, word); n >= 0 {
		return n + 1, nil
	}
	return 0, muster.Refuse(muster.CodeUsage, "%q is no %s: want %s", word, what, strings.Join(words, ", "))
}

func parseCommand(args []string) (d tef.CommandDescription, err error) {
	class, args := args[0], args[1:]
	switch {
	case class == "certificate" && len(args) == 4:
		c := tef.CertificateProvisioning{URI: args[1], SubjectID: args[3]}
		var err1, err2 error
		c.Protocol, err1 = numbered("protocol", args[0], "est", "scep")
		c.SubjectType, err2 = numbered("type of subject", args[2], "node", "cse", "ae")
		return tef.CommandDescription{Class: tef.ClassCertificate, Certificate: &c}, errors.Join(err1, err2)
	case class == "device" && len(args) == 1:
		return tef.CommandDescription{Class: tef.ClassDevice, Device: &tef.DeviceConfiguration{URI: args[0]}}, nil
	case class == "node" && (len(args) == 2 || len(args) == 3):
		c := tef.NodeProcessing{Path: args[0]}
		if c.Type, err = numbered("type of node", args[1], "authentication-profile", "trust-anchor", "maf-client-registration"); err != nil {
			return d, err
		}
		if (c.Type == tef.NodeAuthenticationProfile) != (len(args) == 3) {
			return d, muster.Refuse(muster.CodeUsage, "an authentication-profile has a SUID, and nothing else has one")
		}
		if len(args) == 3 {
			if c.Usage, err = muster.ParseSUID(args[2]); err != nil {
				return d, muster.Refuse(muster.CodeUsage, "%w", err)
			}
		}
		return tef.CommandDescription{Class: tef.ClassNode, Node: &c}, nil
	}
	return d, muster.Refuse(muster.CodeUsage, "%q with %d arguments is no command; see muster help command queue", class, len(args))
}

func newCommandListCommand() *cobra.Command {
	var file string
	var asJSON bool
	var admin muster.FQDN
	var enrolee muster.EnroleeID
	cmd := &cobra.Command{
		Use:   "list --config FILE --admin FQDN --enrolee ID",
		Short: "List the commands of a client, and what became of them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if admin.IsZero() || enrolee.IsZero() {
				return muster.Refuse(muster.CodeUsage, "%s needs --admin and --enrolee", cmd.CommandPath())
			}
			config, err := readMEFConfig(file)
			if err != nil {
				return err
			}
			store, err := openStore(cmd.Context(), config.Store)
			if err != nil {
				return err
			}
			defer func() { _ = store.Close() }()
			queue, err := store.Commands(cmd.Context(), config.FQDN, tef.RegistrationID(enrolee, admin))
			if err != nil {
				return err
			}
			for _, c := range queue {
				if err := printCommand(cmd, c, asJSON); err != nil {
					return err
				}
			}
			return nil
		},
	}
	configFlag(cmd, &file)
	clientFlags(cmd, &admin, &enrolee)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return cmd
}

func printCommand(cmd *cobra.Command, c tef.QueuedCommand, asJSON bool) error {
	description, err := c.Description.Object()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
			ID      string    `json:"id"`
			Status  int       `json:"status"`
			Created time.Time `json:"created"`
			Changed time.Time `json:"changed"`
			Command any       `json:"command"`
		}{c.ID, int(c.Status), c.Created, c.Changed, description})
	}
	text, err := json.Marshal(description)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %-3d  %s  %s\n", c.Changed.Format(time.RFC3339), c.Status, c.ID, text)
	return err
}
