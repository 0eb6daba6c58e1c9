package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"muster"
	"muster/console"
)

// maxImport bounds a list of instructions in octets, all batches together.
const maxImport = 256 << 20

// An importOrder is what the command line says of an import.
type importOrder struct {
	format  string
	batch   int
	replace bool
	dryRun  bool
}

// An importReport is what is printed of an import with --json.
type importReport struct {
	console.Imported
	DryRun bool        `json:"dry_run,omitempty"`
	Faults []lineFault `json:"faults,omitempty"`
}

func (o *operatorFlags) newImportCommand() *cobra.Command {
	var order importOrder
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import a list of instructions: all of them or none",
		Long: `Import a list of instructions: all of them or none, with what is wrong told by line.
The list is CSV or JSON lines; - stands for the standard input. CSV begins with a
line that names the columns as the interface names its members, such as

  flavour,name,anchors,enrolee_id,targets,lifetime

and a list in a cell has semicolons. What muster admin list instructions --all --json
prints can be imported.

An instruction that is there already, and is the same, is left alone; --replace
lets others for the same certificates or keys take the place of those that
operators made. One request takes ` + fmt.Sprint(console.MaxBody>>20) + ` MiB. A larger list needs --batch N: each batch of
N instructions is imported whole or not at all, and importing the list again goes
on where it ended.`,
		Args: cobra.ExactArgs(1),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error { return d.importList(ctx, args[0], order) }),
	}
	cmd.Flags().StringVar(&order.format, "format", "", "csv or jsonl, if the name of the file does not say so")
	cmd.Flags().IntVar(&order.batch, "batch", 0, "import `N` instructions at a time, rather than all or none")
	cmd.Flags().BoolVar(&order.replace, "replace", false, "replace those that are there with other contents")
	cmd.Flags().BoolVar(&order.dryRun, "dry-run", false, "check everything and change nothing")
	return cmd
}

// importList reads a list, finds what can be found wrong here, and sends it.
func (d *desk) importList(ctx context.Context, path string, order importOrder) error {
	format, err := formatOf(path, order.format)
	if err != nil {
		return err
	}
	octets, err := readInput(path, d.cmd.InOrStdin(), maxImport)
	if err != nil {
		return err
	}
	records, wrong := parseRecords(format, octets)
	if len(wrong) > 0 {
		return d.faulty(path, importReport{Faults: wrong}, "nothing was imported")
	}
	if order.batch < 0 || len(records) == 0 {
		return muster.Refuse(muster.CodeUsage, "%s has %d instructions, to be imported %d at a time: nothing to do", path, len(records), order.batch)
	}
	size := order.batch
	orDefault(&size, len(records))
	batches, err := d.batches(path, slices.Collect(slices.Chunk(records, size)), order)
	if err != nil {
		return err
	}
	return d.sendBatches(ctx, path, batches, len(records), order)
}

// A batch is what one request imports.
type batch struct {
	records []record
	body    json.RawMessage
}

// batches returns the requests of an import, if the server can take each.
func (d *desk) batches(path string, chunks [][]record, order importOrder) (batches []batch, err error) {
	for _, records := range chunks {
		list := console.Import{Replace: order.replace, DryRun: order.dryRun}
		for _, r := range records {
			list.Instructions = append(list.Instructions, r.Instruction)
		}
		body, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		if len(body) > console.MaxBody {
			return nil, configErrorf("%s: lines %d to %d are %.1f MiB in one request, which takes %d; import fewer at a time, with --batch N; nothing was imported",
				path, records[0].line, records[len(records)-1].line, float64(len(body))/(1<<20), console.MaxBody>>20)
		}
		batches = append(batches, batch{records, body})
	}
	return batches, nil
}

// sendBatches imports batch after batch, until one is refused.
func (d *desk) sendBatches(ctx context.Context, path string, batches []batch, total int, order importOrder) error {
	report := importReport{DryRun: order.dryRun}
	bar := newProgress(d.notes, total, "instructions")
	sent := 0
	for _, b := range batches {
		bar.show(sent)
		var done console.Imported
		if _, err := d.do(ctx, call{method: http.MethodPost, path: "/v1/instructions/import", body: b.body}, &done); err != nil {
			bar.end()
			return d.stopped(path, b, sent, report, err)
		}
		sent += len(b.records)
		report.Created += done.Created
		report.Replaced += done.Replaced
		report.Unchanged += done.Unchanged
	}
	bar.show(sent)
	bar.end()
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	would := ""
	if order.dryRun {
		would = "would be "
	}
	return d.tell(raw, "%d %screated, %d %sreplaced, %d unchanged", report.Created, would, report.Replaced, would, report.Unchanged)
}

// stopped tells of a batch that was not imported, and of those before it that were.
func (d *desk) stopped(path string, b batch, sent int, report importReport, err error) error {
	outcome := "nothing was imported"
	switch line := b.records[0].line; {
	case report.DryRun:
	case muster.CodeOf(err) == muster.CodeUnreachable: // the answer may be what was lost
		outcome = fmt.Sprintf("%d instructions before line %d are in place, of the next %d it is not known; import the list again to go on", sent, line, len(b.records))
	case sent > 0:
		outcome = fmt.Sprintf("%d instructions before line %d are in place, and no others; import the list again to go on", sent, line)
	}
	refused, ok := errors.AsType[*problem](err)
	if !ok || len(refused.Faults) == 0 {
		return fmt.Errorf("%w; %s", err, outcome)
	}
	for _, f := range refused.Faults {
		if f.Index < 0 || f.Index >= len(b.records) {
			return d.nonsense("it finds fault with instruction %d of %d", f.Index+1, len(b.records))
		}
		detail := printable(strings.TrimPrefix(f.Detail, string(f.Code)+": "))
		report.Faults = append(report.Faults, lineFault{b.records[f.Index].line, f.Code, detail})
	}
	return d.faulty(path, report, outcome)
}

// faulty prints the report with --json, and returns the refusal that names the lines.
func (d *desk) faulty(path string, report importReport, outcome string) error {
	if d.json {
		raw, err := json.Marshal(report)
		if err == nil {
			err = d.line(raw)
		}
		if err != nil {
			return err
		}
	}
	var b strings.Builder
	for _, f := range report.Faults {
		fmt.Fprintf(&b, "\n%s:%d: %s: %s", path, f.Line, printable(string(f.Code)), f.Detail)
	}
	if len(report.Faults) >= maxLineFaults {
		fmt.Fprintf(&b, "\nand perhaps more")
	}
	return configErrorf("%s:%s", outcome, b.String())
}
