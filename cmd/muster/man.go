package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"muster"
)

func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages of all commands to a folder",
		Long: `Write the manual pages of all commands to a folder, one for each, in the form
that man reads. They say what --help says.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return muster.Refuse(muster.CodeUsage, "%w", err)
			}
			return writePages(cmd.Root(), args[0])
		},
	}
}

// writePages writes the page of a command and those of the commands below it.
func writePages(cmd *cobra.Command, dir string) error {
	page := filepath.Join(dir, pageName(cmd)+".1")
	if err := os.WriteFile(page, []byte(manualPage(cmd)), 0o644); err != nil {
		return muster.Refuse(muster.CodeUsage, "%w", err)
	}
	for _, below := range documented(cmd) {
		if err := writePages(below, dir); err != nil {
			return err
		}
	}
	return nil
}

// documented returns the commands below cmd that have a page.
func documented(cmd *cobra.Command) (all []*cobra.Command) {
	for _, below := range cmd.Commands() {
		if !below.Hidden && below.Name() != "help" {
			all = append(all, below)
		}
	}
	return all
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manualPage returns the page of a command in the macros of man(7).
func manualPage(cmd *cobra.Command) string {
	var b strings.Builder
	name := pageName(cmd)
	// There is no date, so that the same program writes the same page.
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"muster %s\" \"Muster\"\n", strings.ToUpper(name), readBuildVersion().Version)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(cmd.UseLine()))
	b.WriteString(".SH DESCRIPTION\n")
	manualText(&b, orElse(cmd.Long, cmd.Short+"."))
	manualCommands(&b, documented(cmd))
	manualFlags(&b, "OPTIONS", cmd.NonInheritedFlags())
	manualFlags(&b, "OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.HasExample() {
		b.WriteString(".SH EXAMPLES\n")
		manualText(&b, cmd.Example)
	}
	var also []string
	if cmd.HasParent() {
		also = append(also, pageName(cmd.Parent()))
	}
	for _, below := range documented(cmd) {
		also = append(also, pageName(below))
	}
	if len(also) > 0 {
		b.WriteString(".SH SEE ALSO\n")
	}
	for i, page := range also {
		comma := ","
		if i == len(also)-1 {
			comma = ""
		}
		fmt.Fprintf(&b, ".BR %s (1)%s\n", roff(page), comma)
	}
	return b.String()
}

func manualCommands(w io.Writer, commands []*cobra.Command) {
	if len(commands) == 0 {
		return
	}
	fmt.Fprintln(w, ".SH COMMANDS")
	for _, cmd := range commands {
		fmt.Fprintf(w, ".TP\n.B %s\n%s\n", roff(cmd.Name()), roff(cmd.Short))
	}
}

// manualText writes paragraphs; one that is indented keeps its lines.
func manualText(w io.Writer, text string) {
	for i, paragraph := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			fmt.Fprintln(w, ".PP")
		}
		if strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "\t") {
			fmt.Fprintf(w, ".RS 4\n.nf\n%s\n.fi\n.RE\n", roff(outdent(paragraph)))
		} else {
			fmt.Fprintln(w, roff(paragraph))
		}
	}
}

// outdent takes the indentation of the first line from all.
func outdent(text string) string {
	indentation := text[:len(text)-len(strings.TrimLeft(text, " \t"))]
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		lines = append(lines, strings.TrimPrefix(line, indentation))
	}
	return strings.Join(lines, "\n")
}

func manualFlags(w io.Writer, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(w, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(w, ".TP\n.BI \"%s \" \"%s\"\n%s\n", roff(name), roff(value), roff(usage))
		if !isZero(f) {
			fmt.Fprintf(w, "(default %s)\n", roff(f.DefValue))
		}
	})
}

// isZero tells whether the default of a flag is its zero value, which goes without saying.
func isZero(f *pflag.Flag) bool {
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
		return true
	}
	return false
}

// roff escapes text for troff: a hyphen that is typed, a backslash, and a line
// that would be taken for a request.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`, "\t", "    ").Replace(text)
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
