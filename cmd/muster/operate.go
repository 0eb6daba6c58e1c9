package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
)

// operatorFlags are what every command below muster admin takes: how to reach the function,
// and how to print its answers.
type operatorFlags struct {
	file  string
	given operatorConfig
	json  bool
	times timeStyle
}

func newAdminCommand() *cobra.Command {
	o := &operatorFlags{times: timesByPlace}
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Operate a running MEF or MAF over its interface for operators",
		Long: `Operate a running MEF or MAF over its interface for operators, which its
configuration opens with admin.

Where the function is and who is asking stands in a configuration, which --config
or ` + operatorConfigVariable + ` names, or in flags. An operator has a certificate, or a token
in a file or in ` + operatorTokenVariable + `. The server is known by its name and its root. Any
list and any answer is printed as JSON with --json, a list one object a line.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.file, "config", "", "a configuration `FILE`; "+operatorConfigVariable+" by default")
	o.given.flags(flags)
	flags.BoolVar(&o.json, "json", false, "print JSON: one object, or one a line of a list")
	flags.Var(&o.times, "times", "how times are printed: relative, absolute, or auto, which is relative on a terminal")
	cmd.AddCommand(
		o.newWhoamiCommand(), o.newOverviewCommand(), o.newReloadCommand(), o.newTokenCommand(), o.newSignInCommand(),
		o.newListCommand(), o.newShowCommand(), o.newCreateCommand(), o.newReplaceCommand(), o.newDeleteCommand(), o.newAnchorCommand(), o.newImportCommand(),
		o.newSentenceCommand("ban", "banned", "Ban an Enrolee, a name or a certificate for good"),
		o.newSentenceCommand("evict", "evicted", "End enrolments; whoever had them may enrol again"),
		o.newSentenceCommand("suspend", "suspended", "Suspend an Enrolee, a name or a certificate until the verdict is lifted"),
		o.newLiftCommand(), o.newExplainCommand(), o.newWatchCommand(), o.newAuditCommand(), o.newCommandCommand(),
	)
	return cmd
}

// A timeStyle is how times are printed.
type timeStyle string

const (
	timesByPlace  timeStyle = "auto" // relative on a terminal
	timesRelative timeStyle = "relative"
	timesAbsolute timeStyle = "absolute"
)

// String, Set and Type make a timeStyle the value of a flag.
func (s *timeStyle) String() string { return string(*s) }

func (s *timeStyle) Set(text string) error {
	switch v := timeStyle(text); v {
	case timesByPlace, timesRelative, timesAbsolute:
		*s = v
		return nil
	}
	return muster.Refuse(muster.CodeUsage, "%q is none of %s, %s and %s", text, timesByPlace, timesRelative, timesAbsolute)
}

func (s *timeStyle) Type() string { return "string" }

// A desk is where one command works: with a client, and where it answers.
type desk struct {
	*operatorClient
	cmd        *cobra.Command
	out, notes io.Writer
	json       bool
	width      int       // of the terminal at out, or 0
	relative   time.Time // to which times are printed; zero for times as they are
}

// at returns what runs a command: work at a desk.
func (o *operatorFlags) at(work func(ctx context.Context, d *desk, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		config, err := readOperatorConfig(configPath(o.file), o.given)
		if err != nil {
			return err
		}
		environment := os.Getenv(operatorTokenVariable)
		if o.given.Certificate+o.given.TokenFile != "" {
			environment = ""
		}
		client, err := config.connect(environment)
		if err != nil {
			return err
		}
		d := &desk{operatorClient: client, cmd: cmd, out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr(), json: o.json}
		d.width = terminalWidth(d.out)
		if o.times == timesRelative || o.times == timesByPlace && d.width > 0 {
			d.relative = time.Now()
		}
		return work(cmd.Context(), d, args)
	}
}

// tell prints an answer as it came with --json, and else a line.
func (d *desk) tell(answer json.RawMessage, format string, args ...any) error {
	if d.json {
		return d.line(answer)
	}
	_, err := fmt.Fprintf(d.out, format+"\n", args...)
	return err
}

// line prints an object on one line.
func (d *desk) line(object json.RawMessage) error {
	line, err := json.Marshal(object) // which leaves out white space
	if err == nil {
		_, err = d.out.Write(append(line, '\n'))
	}
	return err
}

// ask sends a request and returns the answer twice: as it came, and decoded.
func ask[T any](ctx context.Context, d *desk, r call) (raw json.RawMessage, answer T, err error) {
	if _, err = d.do(ctx, r, &raw); err != nil {
		return raw, answer, err
	}
	if err = json.Unmarshal(raw, &answer); err != nil {
		err = d.nonsense("it answers with %w", err)
	}
	return raw, answer, err
}

// moment prints a time.
func (d *desk) moment(t time.Time) string {
	if d.relative.IsZero() {
		return t.UTC().Format(time.RFC3339)
	}
	return relativeTime(t.Sub(d.relative))
}

// relativeTime returns a time from now, in its largest unit.
func relativeTime(from time.Duration) string {
	d := from.Abs()
	var text string
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		text = fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		text = fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		text = fmt.Sprintf("%dh", d/time.Hour)
	default:
		text = fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	if from < 0 {
		return text + " ago"
	}
	return "in " + text
}

// A table prints rows under a head, in columns that are as wide as what stands in
// them.
type table struct {
	d      *desk
	widths []int
	rows   [][]string
}

func (d *desk) table(head ...string) *table {
	t := &table{d: d}
	if head != nil {
		t.add(head...)
	}
	return t
}

// add adds a row, which flush prints. A cell without text is printed as a dash.
func (t *table) add(cells ...string) {
	for i, cell := range cells {
		cells[i] = printable(orElse(cell, "-"))
		if i == len(t.widths) {
			t.widths = append(t.widths, 0)
		}
		t.widths[i] = max(t.widths[i], len([]rune(cells[i])))
	}
	t.rows = append(t.rows, cells)
}

// flush prints the rows that were added, cut at the edge of a terminal. The columns
// of later rows are not narrower.
func (t *table) flush() error {
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&line, "%-*s  ", t.widths[i], cell)
		}
		b.WriteString(cut(strings.TrimRight(line.String(), " "), t.d.width) + "\n")
	}
	t.rows = nil
	_, err := io.WriteString(t.d.out, b.String())
	return err
}
