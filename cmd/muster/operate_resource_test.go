package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestResourcesAreThoseOfTheInterface compares the tables with its document.
func TestResourcesAreThoseOfTheInterface(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/openapi.json")
	must(t, err)
	var document struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ In, Name string }
			Responses  map[string]struct {
				Content map[string]struct {
					Schema struct {
						Properties struct {
							Items struct {
								Items struct {
									Ref string `json:"$ref"`
								}
							}
						}
					}
				}
			}
		}
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Format string }
			}
		}
	}
	must(t, json.Unmarshal(text, &document))
	lists := 0
	for path, operations := range document.Paths {
		operation, ok := operations["get"]
		schema := operation.Responses["200"].Content["application/json"].Schema
		if !ok || schema.Properties.Items.Items == (struct {
			Ref string `json:"$ref"`
		}{}) && path != "/v1/audit" {
			continue
		}
		lists++
		i := slices.IndexFunc(resources, func(r resource) bool { return r.path() == path })
		if i < 0 {
			t.Errorf("%s is no resource", path)
			continue
		}
		r := resources[i]
		var filters []string
		for _, p := range operation.Parameters {
			if p.In == "query" && p.Name != "after" && p.Name != "limit" {
				filters = append(filters, p.Name)
			}
		}
		if !slices.Equal(filters, r.filters) {
			t.Errorf("%s has the filters %v, and the resource %v", path, filters, r.filters)
		}
		if _, alone := document.Paths[path+"/{id}"]["get"]; alone != r.alone {
			t.Errorf("%s: alone is %v", path, r.alone)
		}
		if _, deletes := document.Paths[path+"/{id}"]["delete"]; deletes != (r.deletes || r.name == "verdicts") {
			t.Errorf("%s: deletes is %v", path, r.deletes)
		}
		if path == "/v1/audit" {
			continue // whose items have no schema
		}
		members := document.Components.Schemas[strings.TrimPrefix(schema.Properties.Items.Items.Ref, "#/components/schemas/")].Properties
		for _, column := range append(r.columns, r.id) {
			if _, ok := members[column]; !ok {
				t.Errorf("%s has no member %s", path, column)
			}
		}
		for name, member := range members {
			if (member.Format == "date-time") != slices.Contains(moments, name) {
				t.Errorf("%s: whether %s is a time, moments does not say", path, name)
			}
		}
	}
	if lists != len(resources) {
		t.Errorf("there are %d lists and %d resources", lists, len(resources))
	}
	for _, r := range resources {
		for _, filter := range r.filters {
			if filterMeanings[filter] == "" {
				t.Errorf("--%s has no meaning", flagOf(filter))
			}
		}
	}
}
