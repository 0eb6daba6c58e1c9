package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"muster"
)

// A resource is a list of the interface for operators, and what its tables show.
type resource struct {
	name    string   // plural
	does    string   // what the list is of
	id      string   // the member that identifies an item
	filters []string // parameters
	columns []string // members that stand in a table
	alone   bool     // an item can be had by its identifier
	deletes bool     // and deleted, other than by lifting it
}

// resources are what a function may have. A MEF and a MAF have some each.
var resources = []resource{
	{name: "enrolments", does: "enrolments, one for each target", id: "ke_id", filters: []string{"ke_id", "enrolee"}, columns: []string{"ke_id", "enrolee_id", "maf", "state", "created", "expires", "fetches"}},
	{name: "credentials", does: "Master Credentials of a MAF", id: "km_id", filters: []string{"ke_id", "km_id", "enrolee"}, columns: []string{"km_id", "enrolee_id", "generation", "state", "created", "expires"}},
	{name: "registrations", does: "client registrations", id: "id", filters: []string{"client", "stakeholder"}, columns: []string{"id", "client_id", "stakeholder", "created", "expires"}},
	{name: "keys", does: "registered keys of a MAF, without their values", id: "id", filters: []string{"source"}, columns: []string{"id", "source", "stakeholder", "usage", "targets", "fetches", "expires"}},
	{name: "kpms", does: "pre-provisioned keys of a MEF, without their values", id: "kpm_id", filters: []string{"enrolee"}, columns: []string{"kpm_id", "enrolee_id", "generation", "state", "created", "until"}},
	{name: "commands", does: "commands for the clients of a MEF", id: "id", filters: []string{"enrolee", "stakeholder"}, columns: []string{"id", "enrolee_id", "status", "changed", "description"}},
	{name: "refusals", does: "refused chains, the newest first", id: "id", columns: []string{"id", "time", "code", "remote", "detail"}},
	{name: "instructions", does: "whom a MEF enrols for which MAFs", id: "id", filters: []string{"enrolee", "origin"}, columns: []string{"id", "origin", "flavour", "name", "pattern", "kpm_ids", "enrolee_id", "template", "targets"}, alone: true, deletes: true},
	{name: "anchors", does: "roots that instructions pin", id: "id", columns: []string{"id", "origin", "not_after", "subject"}, deletes: true},
	{name: "verdicts", does: "bans, evictions and suspensions", id: "id", columns: []string{"id", "verdict", "enrolee_id", "flavour", "name", "digest", "before", "reason"}},
	{name: "audit", does: "entries of the audit log, the oldest first", id: "seq", filters: []string{"order"}, columns: []string{"seq", "time", "kind", "who", "what", "enrolee", "code"}},
}

// moments are the members that are times, in whatever resource.
var moments = []string{"created", "modified", "changed", "expires", "ke_id_until", "until", "fetched", "time", "not_after", "before"}

func (r *resource) path() string { return "/v1/" + r.name }

// resourceNames returns the names of resources for which want says so, or all.
func resourceNames(want func(resource) bool) (names []string) {
	for _, r := range resources {
		if want == nil || want(r) {
			names = append(names, r.name)
		}
	}
	return names
}

// resourceOf returns the resource with a name, in the singular or plural.
func resourceOf(name string, names []string) (*resource, error) {
	for i, r := range resources {
		if slices.Contains(names, r.name) && (name == r.name || name+"s" == r.name) {
			return &resources[i], nil
		}
	}
	return nil, muster.Refuse(muster.CodeUsage, "there is no resource %q for this command; the nearest is %q, and there are %s", name, nearest(name, names), strings.Join(names, ", "))
}

// An item is a resource as it came, with its members in order.
type item struct {
	raw     json.RawMessage
	names   []string
	members map[string]json.RawMessage
}

func parseItem(raw json.RawMessage) (item, error) {
	it := item{raw: raw}
	if err := json.Unmarshal(raw, &it.members); err != nil {
		return it, err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	_, _ = decoder.Token() // of an object, as was seen above; so the rest is sound too
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return it, err
		}
		it.names = append(it.names, fmt.Sprint(name))
		if err := decoder.Decode(new(json.RawMessage)); err != nil {
			return it, err
		}
	}
	return it, nil
}

// text returns a member for people: a text without quotes, a list with commas, a
// time as the desk prints them, anything else as JSON.
func (it item) text(name string, moment func(time.Time) string) string {
	raw := it.members[name]
	var text string
	var list []string
	switch {
	case raw == nil || string(raw) == "null":
		return ""
	case json.Unmarshal(raw, &text) == nil:
		if t, err := time.Parse(time.RFC3339, text); err == nil && slices.Contains(moments, name) {
			return moment(t)
		}
		return text
	case json.Unmarshal(raw, &list) == nil:
		return strings.Join(list, ",")
	}
	return string(raw)
}
