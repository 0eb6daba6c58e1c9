package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/console"
)

func (o *operatorFlags) newWhoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Tell who the function takes the caller for",
		Args:  cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			var raw json.RawMessage
			if _, err := d.do(ctx, call{method: http.MethodGet, path: "/v1/whoami"}, &raw); err != nil {
				return err
			}
			return d.show(raw)
		}),
	}
}

func (o *operatorFlags) newReloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the function read its configuration again",
		Long: `Make the function read its configuration again, as on SIGHUP, and tell what has
changed that takes effect at the next start only. A configuration that is wrong
changes nothing. Only an admin may.`,
		Args: cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			raw, done, err := ask[console.Reloaded](ctx, d, call{method: http.MethodPost, path: "/v1/reload"})
			if err != nil {
				return err
			}
			text := "the configuration was read again"
			for i, key := range slices.Sorted(maps.Keys(done.Read)) {
				text += fmt.Sprintf("%s%s %d", []string{": ", ", "}[min(i, 1)], printable(key), done.Read[key])
			}
			if done.Identity {
				text += "\nthe function has another certificate"
			}
			if len(done.Restart) > 0 {
				text += "\nthis has changed, and takes effect at the next start: " + printable(strings.Join(done.Restart, ", "))
			}
			return d.tell(raw, "%s", text)
		}),
	}
}

// roleFlag adds the flag for a role, the caller's own by default.
func roleFlag(cmd *cobra.Command, role *string) {
	cmd.Flags().StringVar(role, "role", "", "viewer, operator, auditor or admin; the caller's own by default")
}

func roleNames() (names []string) {
	for _, role := range console.Roles() {
		names = append(names, string(role))
	}
	return names
}

// roleOf checks a role.
func roleOf(text string) (role console.Role, err error) {
	if text == "" {
		return "", nil
	}
	if err := role.UnmarshalText([]byte(text)); err != nil {
		return "", muster.Refuse(muster.CodeUsage, "--role: %w", err)
	}
	return role, nil
}

func (o *operatorFlags) newTokenCommand() *cobra.Command {
	var role, out string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "token --output FILE",
		Short: "Have a token issued, for a program without a certificate",
		Long: `Have a token issued with the caller's rights or fewer, for a program without a
certificate, and write it to a file that only its owner can read; - stands for the
standard output. Whoever has it is let in, for an hour at most, or until the
function restarts. A token is issued to a certificate, not to another token.`,
		Args: cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			asked, err := roleOf(role)
			if err != nil {
				return err
			}
			if out == "" || lifetime%time.Second != 0 || lifetime < time.Second {
				return muster.Refuse(muster.CodeUsage, "%s needs --output FILE, and a --lifetime in seconds", d.cmd.CommandPath())
			}
			raw, token, err := ask[console.Token](ctx, d, call{method: http.MethodPost, path: "/v1/tokens", body: console.TokenOrder{Role: asked, Seconds: int(lifetime / time.Second)}})
			switch {
			case err != nil:
				return err
			case out == "-" && d.json:
				return d.line(raw)
			case out == "-":
				_, err = fmt.Fprintln(d.out, printable(token.Token))
				return err
			}
			if err := replaceFile(out, []byte(token.Token+"\n"), 0o600); err != nil {
				return err
			}
			token.Token = "" // it stands in the file alone
			told, err := json.Marshal(token)
			if err != nil {
				return err
			}
			return d.tell(told, "%s has a token with the role %s, which expires %s", out, printable(string(token.Role)), d.moment(token.Expires))
		}),
	}
	roleFlag(cmd, &role)
	cmd.Flags().DurationVar(&lifetime, "lifetime", time.Hour, "how long it is valid, at most an hour")
	cmd.Flags().StringVarP(&out, "output", "o", "", "the `FILE` to write it to")
	return cmd
}

func (o *operatorFlags) newSignInCommand() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "sign-in",
		Short: "Print a link that lets a browser in, once",
		Long: `Print a link that lets a browser in with the caller's rights or fewer. It is good
for one use within two minutes, and shows as whom it signs in before it does.
Whoever opens it first is signed in, so give it to nobody else. The function's certificate has to be one that the browser accepts.`,
		Args: cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			asked, err := roleOf(role)
			if err != nil {
				return err
			}
			_, token, err := ask[console.Token](ctx, d, call{method: http.MethodPost, path: "/v1/tokens", body: console.TokenOrder{Role: asked, SignIn: true}})
			if err != nil {
				return err
			}
			// What follows # stays in the browser: no log of a server has it.
			link := d.base.JoinPath("/sign-in").String() + "#" + token.Token
			told, err := json.Marshal(struct {
				Link    string       `json:"link"`
				Role    console.Role `json:"role"`
				Expires time.Time    `json:"expires"`
			}{link, token.Role, token.Expires})
			if err != nil {
				return err
			}
			if !d.json {
				fmt.Fprintf(d.notes, "It signs one browser in as %s, and is to be opened before %s:\n", printable(string(token.Role)), token.Expires.Format(time.RFC3339))
			}
			return d.tell(told, "%s", printable(link))
		}),
	}
	roleFlag(cmd, &role)
	return cmd
}

func (o *operatorFlags) newOverviewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "overview",
		Short: "Tell the state of a function",
		Long:  "Tell the state of a function: whether it is ready, when its certificates end, and\nwhat happened since it was started, in the last hour, and in each quarter of an hour of\nthe last day.",
		Args:  cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			raw, overview, err := ask[console.Overview](ctx, d, call{method: http.MethodGet, path: "/v1/overview"})
			if err != nil {
				return err
			}
			if d.json {
				return d.line(raw)
			}
			return d.overview(overview)
		}),
	}
}

// overview prints the state of a function.
func (d *desk) overview(o console.Overview) error {
	head := d.table()
	head.add("function", o.Function+", a "+strings.ToUpper(o.Role)+", muster "+o.Version)
	head.add("started", d.moment(o.Started))
	for _, c := range o.Checks {
		state := "ok"
		if !c.OK {
			state = "FAILS: " + string(c.Code) + " " + c.Detail
		}
		head.add("ready: "+c.Name, state)
	}
	if err := head.flush(); err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	certificates := d.table("CERTIFICATE", "EXPIRES", "SUBJECT", "SHA-256")
	for _, c := range o.Certificates {
		certificates.add(c.Use, d.moment(c.NotAfter), c.Subject, c.ID)
	}
	if err := certificates.flush(); err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	counts := d.table("ACT", "HOUR", "DAY", "BY QUARTERS OF AN HOUR")
	for _, kind := range []struct {
		name string
		of   func(console.Bucket) uint64
	}{
		{"enrolled", func(b console.Bucket) uint64 { return b.Enrolled }},
		{"attached", func(b console.Bucket) uint64 { return b.Attached }},
		{"fetched", func(b console.Bucket) uint64 { return b.Fetched }},
		{"refused", func(b console.Bucket) uint64 { return b.Refused }},
	} {
		counts.add(kind.name, fmt.Sprint(sum(o.Minutes, kind.of)), fmt.Sprint(sum(o.Quarters, kind.of)), skyline(o.Quarters, kind.of))
	}
	if err := counts.flush(); err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	totals := d.table("ACT", "SINCE THE START")
	for _, name := range slices.Sorted(maps.Keys(o.Totals)) {
		totals.add(name, fmt.Sprint(o.Totals[name]))
	}
	return totals.flush()
}

func sum(buckets []console.Bucket, of func(console.Bucket) uint64) (total uint64) {
	for _, b := range buckets {
		total += of(b)
	}
	return total
}

// skyline draws one block for each bucket, the highest for the most.
func skyline(buckets []console.Bucket, of func(console.Bucket) uint64) string {
	blocks := []rune("▁▂▃▄▅▆▇█")
	var most uint64
	for _, b := range buckets {
		most = max(most, of(b))
	}
	line := make([]rune, len(buckets))
	for i, b := range buckets {
		line[i] = '·'
		if n := of(b); n > 0 {
			line[i] = blocks[int(float64(n)/float64(most)*float64(len(blocks)-1))]
		}
	}
	return string(line)
}
