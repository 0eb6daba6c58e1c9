package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"muster"
)

// A selection is what is asked for of a list.
type selection struct {
	filters map[string]*string // by parameter
	after   string
	limit   int
	all     bool
}

// filterMeanings are what filters select, by their parameters.
var filterMeanings = map[string]string{
	"ke_id":       "only those with this KeID (`ID`)",
	"km_id":       "only those with this KmID (`ID`)",
	"enrolee":     "only those of Enrolees whose identifier begins with this `ID`",
	"client":      "only those of clients whose identifier begins with this `ID`",
	"source":      "only those of sources whose identifier begins with this `ID`",
	"stakeholder": "only those of the administrating stakeholder with this `FQDN`",
	"order":       "newest lists the newest first",
	"origin":      "only those from the configuration, or from operators",
}

// filterFlags adds the flags that some resources take.
func (l *selection) filterFlags(cmd *cobra.Command, of ...resource) {
	l.filters = map[string]*string{}
	for _, r := range of {
		for _, name := range r.filters {
			if l.filters[name] == nil {
				l.filters[name] = cmd.Flags().String(flagOf(name), "", filterMeanings[name])
			}
		}
	}
}

// flagOf returns the flag for a member of the interface.
func flagOf(name string) string { return strings.ReplaceAll(name, "_", "-") }

func (l *selection) pageFlags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&l.limit, "limit", 50, "how many to list at most")
	cmd.Flags().BoolVar(&l.all, "all", false, "list all of them")
	cmd.Flags().StringVar(&l.after, "after", "", "begin after this `CURSOR`, with which a list before ended")
}

// query returns the parameters for a resource, if it takes them.
func (l *selection) query(r *resource) (url.Values, error) {
	query := url.Values{}
	for name, value := range l.filters {
		switch {
		case *value == "":
		case !slices.Contains(r.filters, name):
			return nil, muster.Refuse(muster.CodeUsage, "%s have no filter --%s", r.name, flagOf(name))
		default:
			query.Set(name, *value)
		}
	}
	if l.after != "" {
		query.Set("after", l.after)
	}
	if l.limit < 0 || l.limit == 0 && !l.all {
		return nil, muster.Refuse(muster.CodeUsage, "--limit is a number from 1; --all lists all")
	}
	return query, nil
}

// resourceHelp lists resources for a help text.
func resourceHelp(names []string) string {
	var b strings.Builder
	for _, r := range resources {
		if !slices.Contains(names, r.name) {
			continue
		}
		fmt.Fprintf(&b, "\n  %-13s  %s", r.name, r.does)
		if len(r.filters) > 0 {
			flags := make([]string, len(r.filters))
			for i, name := range r.filters {
				flags[i] = "--" + flagOf(name)
			}
			fmt.Fprintf(&b, "\n  %-13s  %s", "", strings.Join(flags, ", "))
		}
	}
	return b.String()
}

func (o *operatorFlags) newListCommand() *cobra.Command {
	var l selection
	cmd := &cobra.Command{
		Use:               "list RESOURCE",
		Short:             "List what a function has",
		Long:              "List what a function has. These are the resources, with the filters that they take:\n" + resourceHelp(resourceNames(nil)),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(resourceNames(nil)...),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			r, err := resourceOf(args[0], resourceNames(nil))
			if err != nil {
				return err
			}
			return d.list(ctx, r, &l)
		}),
	}
	l.filterFlags(cmd, resources...)
	l.pageFlags(cmd)
	return cmd
}

// list prints a list, page for page.
func (d *desk) list(ctx context.Context, r *resource, l *selection) error {
	query, err := l.query(r)
	if err != nil {
		return err
	}
	head := make([]string, len(r.columns))
	for i, name := range r.columns {
		head[i] = strings.ToUpper(flagOf(name))
	}
	most := l.limit
	if l.all {
		most = 0
	}
	rows, some := d.table(head...), false
	for p, err := range d.pages(ctx, r.path(), query, most) {
		if err != nil {
			return err
		}
		for _, raw := range p.Items {
			some = true
			if err := d.row(rows, r, raw); err != nil {
				return err
			}
		}
		if !d.json && some {
			if err := rows.flush(); err != nil {
				return err
			}
		}
		query.Set("after", p.Next)
	}
	if next := query.Get("after"); next != "" {
		fmt.Fprintf(d.notes, "there are more: --all, or --after %s\n", printable(next))
	} else if !some && !d.json {
		fmt.Fprintln(d.notes, "there are none")
	}
	return nil
}

// row prints an item as JSON, or adds it to a table.
func (d *desk) row(rows *table, r *resource, raw json.RawMessage) error {
	if d.json {
		return d.line(raw)
	}
	it, err := parseItem(raw)
	if err != nil {
		return d.nonsense("an item of %s: %w", r.name, err)
	}
	cells := make([]string, len(r.columns))
	for i, name := range r.columns {
		cells[i] = it.text(name, d.moment)
	}
	rows.add(cells...)
	return nil
}

func (o *operatorFlags) newShowCommand() *cobra.Command {
	var l selection
	l.all = true
	names := resourceNames(nil)
	cmd := &cobra.Command{
		Use:               "show RESOURCE ID",
		Short:             "Show all that a function tells of one thing",
		Long:              "Show all that a function tells of one thing, by its identifier, which is the first\ncolumn of its list. These are the resources, with the filters that narrow the search:\n" + resourceHelp(names),
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeFirst(names...),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			r, err := resourceOf(args[0], names)
			if err != nil {
				return err
			}
			found, err := d.find(ctx, r, args[1], &l)
			if err != nil {
				return err
			}
			for i, raw := range found {
				if i > 0 && !d.json {
					fmt.Fprintln(d.out)
				}
				if err := d.show(raw); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	l.filterFlags(cmd, resources...)
	return cmd
}

// find returns the items with an identifier; more than one only of an enrolment with
// several targets.
func (d *desk) find(ctx context.Context, r *resource, id string, l *selection) (found []json.RawMessage, err error) {
	if r.alone {
		var raw json.RawMessage
		_, err := d.do(ctx, call{method: http.MethodGet, path: r.path() + "/" + url.PathEscape(id)}, &raw)
		return []json.RawMessage{raw}, err
	}
	query, err := l.query(r)
	if err != nil {
		return nil, err
	}
	filtered := slices.Contains(r.filters, r.id)
	if filtered {
		query.Set(r.id, id)
	}
	for p, err := range d.pages(ctx, r.path(), query, 0) {
		if err != nil {
			return nil, err
		}
		for _, raw := range p.Items {
			it, err := parseItem(raw)
			if err != nil {
				return nil, d.nonsense("an item of %s: %w", r.name, err)
			}
			if it.text(r.id, d.moment) == id {
				found = append(found, raw)
			}
		}
		if len(found) > 0 && !filtered {
			break
		}
	}
	if found == nil {
		return nil, muster.Refuse(muster.CodeResourceUnknown, "there is none of %s with the %s %q", r.name, r.id, id)
	}
	return found, nil
}

// show prints the members of an item, one a line; those with several lines, as a
// certificate in PEM, below their names.
func (d *desk) show(raw json.RawMessage) error {
	if d.json {
		return d.line(raw)
	}
	it, err := parseItem(raw)
	if err != nil {
		return d.nonsense("an item: %w", err)
	}
	members := d.table()
	for _, name := range it.names {
		lines := strings.Split(strings.TrimSuffix(it.text(name, d.moment), "\n"), "\n")
		if len(lines) == 1 {
			members.add(flagOf(name), lines[0])
			continue
		}
		members.add(flagOf(name), " ")
		if err := members.flush(); err != nil {
			return err
		}
		for _, line := range lines {
			fmt.Fprintf(d.out, "  %s\n", printable(line))
		}
	}
	return members.flush()
}

func (o *operatorFlags) newDeleteCommand() *cobra.Command {
	names := resourceNames(func(r resource) bool { return r.deletes })
	return &cobra.Command{
		Use:               "delete RESOURCE ID",
		Short:             "Delete an instruction or an anchor",
		Long:              "Delete an instruction, or an anchor that no instruction pins. What stands in the\nconfiguration is deleted there.",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeFirst(names...),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			r, err := resourceOf(args[0], names)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if _, err := d.do(ctx, call{method: http.MethodDelete, path: r.path() + "/" + url.PathEscape(args[1])}, &raw); err != nil {
				return err
			}
			return d.tell(raw, "deleted %s %s", strings.TrimSuffix(r.name, "s"), printable(args[1]))
		}),
	}
}
