package main

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"muster"
)

// configErrorf returns the refusal of a configuration that cannot be used. Its
// text says where.
func configErrorf(format string, args ...any) error {
	return muster.Refuse(muster.CodeConfiguration, format, args...)
}

// maxConfig bounds a configuration file in octets.
const maxConfig = 256 << 20

// readYAML decodes one file strictly into a pointer to a struct: every key must
// be known, and every error names its line.
func readYAML(path string, into any) error {
	file, err := os.Open(path)
	if err != nil {
		return configErrorf("%v", err)
	}
	defer func() { _ = file.Close() }()
	octets, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return configErrorf("%v", err)
	}
	if len(octets) > maxConfig {
		return configErrorf("%s: larger than %d octets", path, maxConfig)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(octets))
	var document yaml.Node
	if err := decoder.Decode(&document); err == io.EOF {
		return configErrorf("%s: the file is empty", path)
	} else if err != nil {
		return configErrorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(new(yaml.Node)); err != io.EOF {
		return configErrorf("%s: there is more than one YAML document", path)
	}
	root := document.Content[0]
	if problems := checkNode(root, reflect.TypeOf(into).Elem()); len(problems) > 0 {
		return configErrorf("%s:%s", path, strings.Join(problems, "\n"+path+":"))
	}
	if err := root.Decode(into); err != nil {
		return configErrorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return nil
}

// checkNode walks a document beside the type that it shall become and returns
// every mismatch, each with its line.
func checkNode(node *yaml.Node, want reflect.Type) []string {
	if want.Kind() == reflect.Pointer {
		return checkNode(node, want.Elem())
	}
	if u, ok := reflect.New(want).Interface().(encoding.TextUnmarshaler); ok {
		return checkScalar(node, u.UnmarshalText)
	}
	if want == reflect.TypeFor[time.Duration]() {
		return checkScalar(node, func(text []byte) error {
			d, err := time.ParseDuration(string(text))
			if err == nil && d < 0 {
				err = fmt.Errorf("the duration %s is negative", text)
			}
			return err
		})
	}
	switch want.Kind() {
	case reflect.Struct:
		return checkStruct(node, want)
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			return []string{fmt.Sprintf("%d: want a list", node.Line)}
		}
		var problems []string
		for _, item := range node.Content {
			problems = append(problems, checkNode(item, want.Elem())...)
		}
		return problems
	default:
		return checkScalar(node, func(text []byte) error {
			if node.Decode(reflect.New(want).Interface()) != nil {
				return fmt.Errorf("%q is not of the kind %s", text, want.Kind())
			}
			return nil
		})
	}
}

func checkScalar(node *yaml.Node, parse func([]byte) error) []string {
	if node.Kind != yaml.ScalarNode {
		return []string{fmt.Sprintf("%d: want a single value", node.Line)}
	}
	if err := parse([]byte(node.Value)); err != nil {
		return []string{fmt.Sprintf("%d: %v", node.Line, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	return nil
}

func checkStruct(node *yaml.Node, want reflect.Type) []string {
	if node.Kind != yaml.MappingNode {
		return []string{fmt.Sprintf("%d: want keys and values: %s", node.Line, strings.Join(keysOf(want), ", "))}
	}
	var problems []string
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field, known := fieldOf(want, key.Value)
		switch {
		case !known:
			problems = append(problems, fmt.Sprintf("%d: unknown key %q; the nearest is %q", key.Line, key.Value, nearest(key.Value, keysOf(want))))
		case seen[key.Value]:
			problems = append(problems, fmt.Sprintf("%d: the key %q stands twice", key.Line, key.Value))
		default:
			problems = append(problems, checkNode(value, field.Type)...)
		}
		seen[key.Value] = true
	}
	return problems
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for field := range t.Fields() {
		if field.IsExported() && keyOf(field) == key {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

func keyOf(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	return name
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for field := range t.Fields() {
		if field.IsExported() {
			keys = append(keys, keyOf(field))
		}
	}
	return keys
}

// nearest returns the candidate with the smallest edit distance to word.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", int(^uint(0)>>1)
	for _, c := range candidates {
		if d := editDistance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is Levenshtein's, over octets.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
