package console

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"time"
)

// object is a JSON object of the document.
type object = map[string]any

// document returns the OpenAPI 3.1 description of routes, whose schemas are those
// of the Go types that are read and written.
func document(routes []route) json.RawMessage {
	schemas := object{}
	paths := map[string]object{}
	for _, r := range routes {
		if paths[r.path] == nil {
			paths[r.path] = object{}
		}
		paths[r.path][strings.ToLower(r.method)] = r.operation(schemas)
	}
	schemaOf(reflect.TypeFor[problem](), schemas)
	text, _ := json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info":    object{"title": "Muster operators' interface", "version": "1"},
		"components": object{
			"securitySchemes": object{"certificate": object{"type": "mutualTLS"}, "token": object{"type": "http", "scheme": "bearer"}},
			"schemas":         schemas,
			"responses": object{"Problem": object{"description": "A refusal (RFC 9457)",
				"content": object{"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Problem"}}}}},
		},
		"security": []object{{"certificate": []string{}}, {"token": []string{}}},
		"paths":    paths,
	}, "", "  ") // of maps, lists and texts: never fails
	return text
}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

func (r route) operation(schemas object) object {
	parameters := []object{}
	add := func(in, name, does string, schema object) {
		parameters = append(parameters, object{"name": name, "in": in, "required": in == "path", "description": does, "schema": schema})
	}
	text := object{"type": "string"}
	for _, match := range pathParameter.FindAllStringSubmatch(r.path, -1) {
		add("path", match[1], "identifier", text)
	}
	for _, name := range r.query {
		add("query", name, "only those with this "+name+"; of an Enrolee, a client or a source, what its identifier begins with", text)
	}
	if r.list {
		add("query", "after", "next of the page before", text)
		add("query", "limit", "items at most", object{"type": "integer", "minimum": 1, "maximum": maxLimit, "default": defaultLimit})
	}
	switch r.method {
	case "POST":
		if r.secret {
			break
		}
		add("header", "Idempotency-Key", "makes a repeated request have no further consequence, for a day", object{"type": "string", "maxLength": maxIdempotency})
	case "PUT", "DELETE":
		add("header", "If-Match", "entity tag of the resource as it is thought to be", text)
	case "GET":
		if r.stream == nil && r.roles != nil {
			add("header", "If-None-Match", "entity tag of an answer that is known", text)
		}
	}
	ok := object{"description": "Done"}
	switch {
	case r.stream != nil:
		ok["content"] = object{"text/event-stream": object{"schema": schemaOf(reflect.TypeFor[Event](), schemas)}}
	case r.list:
		ok["content"] = content(object{"type": "object", "required": []string{"items"}, "properties": object{
			"items": object{"type": "array", "items": schemaOf(reflect.TypeOf(r.answer), schemas)}, "next": text}})
	default:
		ok["content"] = content(schemaOf(reflect.TypeOf(r.answer), schemas))
	}
	operation := object{
		"operationId": operationID(r), "summary": r.does, "parameters": parameters,
		"responses": object{"200": ok, "default": object{"$ref": "#/components/responses/Problem"}},
	}
	if r.roles == nil {
		operation["security"] = []object{}
	} else {
		operation["x-roles"] = r.roles
		operation["x-unscoped"] = r.unscoped
	}
	if r.body != nil {
		operation["requestBody"] = object{"required": true, "content": content(schemaOf(reflect.TypeOf(r.body), schemas))}
	}
	return operation
}

// operationID returns a name such as getInstructions.
func operationID(r route) string {
	name := strings.ToLower(r.method)
	for part := range strings.SplitSeq(strings.TrimPrefix(r.path, "/v1"), "/") {
		part = strings.TrimSuffix(strings.Trim(part, "{}"), ".json")
		if part != "" {
			name += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return name
}

func content(schema object) object { return object{"application/json": object{"schema": schema}} }

// schemaOf returns the schema of a type, or where it stands in schemas.
func schemaOf(t reflect.Type, schemas object) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{} // whatever
	case t == reflect.TypeFor[Role]():
		return object{"enum": Roles()}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), schemas)
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": schemaOf(t.Elem(), schemas)}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.String:
		return object{"type": "string"}
	}
	name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
	if _, done := schemas[name]; !done {
		schemas[name] = nil // a type in itself would come back here
		schemas[name] = structSchema(t, schemas)
	}
	return object{"$ref": "#/components/schemas/" + name}
}

func structSchema(t reflect.Type, schemas object) object {
	properties, required := object{}, []string{}
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		properties[name] = schemaOf(field.Type, schemas)
		if options != "omitempty" {
			required = append(required, name)
		}
	}
	return object{"type": "object", "required": required, "properties": properties, "additionalProperties": false}
}
