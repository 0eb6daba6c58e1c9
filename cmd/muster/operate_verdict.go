package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/cert"
	"muster/console"
)

// newSentenceCommand returns the command that passes one kind of verdict.
func (o *operatorFlags) newSentenceCommand(sentence, done, short string) *cobra.Command {
	v := console.Verdict{Verdict: sentence}
	var name, before string
	var enrolee muster.EnroleeID
	cmd := &cobra.Command{
		Use:   sentence + " (--enrolee ID | --name FLAVOUR:NAME | --digest SHA256) --reason TEXT",
		Short: short,
		Long: short + `. It is one Enrolee, all certificates
with a name, or one certificate. The verdict takes the place of one about the same,
and holds for sessions that are open as well as for those to come. Only an admin
replaces or lifts a ban.`,
		Args: cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			v.EnroleeID = enrolee.String()
			if err := aboutWhom(&v, name); err != nil {
				return err
			}
			if before != "" {
				at, err := time.Parse(time.RFC3339, before)
				if err != nil {
					return muster.Refuse(muster.CodeUsage, "--before %q is not a time such as 2026-01-31T12:00:00Z", before)
				}
				v.Before = &at
			}
			raw, passed, err := ask[console.Verdict](ctx, d, call{method: http.MethodPost, path: "/v1/verdicts", body: v})
			if err != nil {
				return err
			}
			about := passed.EnroleeID + passed.Digest
			if passed.Name != "" {
				about = passed.Flavour + ":" + passed.Name
			}
			return d.tell(raw, "%s %s: muster admin lift %s ends it", done, printable(about), printable(passed.ID))
		}),
	}
	cmd.Flags().TextVar(&enrolee, "enrolee", muster.EnroleeID{}, "the Absolute AE-ID or CSE-`ID` of an Enrolee")
	cmd.Flags().StringVar(&name, "name", "", "the flavour and name in certificates, as `FLAVOUR:NAME`")
	cmd.Flags().StringVar(&v.Digest, "digest", "", "the `SHA256` of one certificate, in hexadecimal digits")
	cmd.Flags().StringVar(&v.Reason, "reason", "", "why, as a `TEXT` that the list of verdicts shows")
	if sentence == "evict" {
		cmd.Flags().StringVar(&before, "before", "", "end only enrolments before this `TIME`, as 2026-01-31T12:00:00Z; now by default")
	}
	return cmd
}

// aboutWhom completes a verdict, which is about one of three.
func aboutWhom(v *console.Verdict, name string) error {
	given := 0
	for _, text := range []string{v.EnroleeID, name, v.Digest} {
		if text != "" {
			given++
		}
	}
	if given != 1 || v.Reason == "" {
		return muster.Refuse(muster.CodeUsage, "a verdict needs one of --enrolee, --name and --digest, and a --reason")
	}
	if name != "" {
		flavour, text, _ := strings.Cut(name, ":")
		parsed, err := cert.ParseName(muster.Flavour(flavour), text)
		if err != nil {
			return muster.Refuse(muster.CodeUsage, "--name %q is not FLAVOUR:NAME: %w", name, err)
		}
		v.Flavour, v.Name = string(parsed.Flavour), parsed.Text
	}
	if v.Digest != "" {
		v.Digest = strings.ToLower(strings.ReplaceAll(v.Digest, ":", "")) // as other programs print it
		if octets, err := hex.DecodeString(v.Digest); err != nil || len(octets) != 32 {
			return muster.Refuse(muster.CodeUsage, "--digest is not 64 hexadecimal digits")
		}
	}
	return nil
}

func (o *operatorFlags) newLiftCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lift ID",
		Short: "Lift a verdict",
		Long:  "Lift a verdict, which muster admin list verdicts names. Only an admin lifts a ban.\nWhat stands in the configuration is lifted there.",
		Args:  cobra.ExactArgs(1),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			var raw json.RawMessage
			if _, err := d.do(ctx, call{method: http.MethodDelete, path: "/v1/verdicts/" + url.PathEscape(args[0])}, &raw); err != nil {
				return err
			}
			return d.tell(raw, "lifted %s", printable(args[0]))
		}),
	}
}
