package main

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"muster"
)

func (o *operatorFlags) newExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain REFUSAL",
		Short: "Say why a function refused a certificate",
		Long: `Say why a function refused a certificate, by the identifier that muster admin list
refusals has: everything that its handshake would find now, by the same code, the
rule that decides or the nearest that does not match, and what to do. Exit code 0
means that it would be accepted by now, 3 that it is refused.`,
		Args: cobra.ExactArgs(1),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			raw, e, err := ask[explanation](ctx, d, call{method: http.MethodGet, path: "/v1/refusals/" + url.PathEscape(args[0]) + "/explanation"})
			if err != nil {
				return err
			}
			if d.json {
				err = d.line(raw)
			} else {
				err = d.explain(e)
			}
			if err == nil && !e.Accepted {
				err = muster.Refuse(e.Code, "%s", printable(e.reason()))
			}
			return err
		}),
	}
}

// explain prints what explain prints of a file, with the texts of others made harmless.
func (d *desk) explain(e explanation) error {
	var text bytes.Buffer
	if err := e.print(&text); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := d.out.Write([]byte(printable(strings.TrimRight(line, "\n")) + "\n")); err != nil {
			return err
		}
	}
	return nil
}

// reason returns the detail of the finding that refused the chain.
func (e explanation) reason() string {
	for _, f := range e.Findings {
		if f.Code == e.Code {
			return f.Detail
		}
	}
	return "the chain is refused"
}
