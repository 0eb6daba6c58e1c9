package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"

	"muster/mustertest"
)

const chartFolder = "../../deploy/helm/muster"

// renderChart renders the templates of the chart as Helm does, with the few of its
// functions that they use. Settings are paths in the values, as Helm's --set.
func renderChart(t *testing.T, settings map[string]any) []map[string]any {
	t.Helper()
	var values, chart map[string]any
	for name, into := range map[string]*map[string]any{"values.yaml": &values, "Chart.yaml": &chart} {
		text, err := os.ReadFile(filepath.Join(chartFolder, name))
		must(t, err)
		must(t, yaml.Unmarshal(text, into))
	}
	for path, value := range settings {
		at, keys := values, strings.Split(path, ".")
		for _, key := range keys[:len(keys)-1] {
			at = at[key].(map[string]any)
		}
		at[keys[len(keys)-1]] = value
	}
	templates := template.New("chart").Option("missingkey=error")
	templates.Funcs(chartFunctions(templates))
	template.Must(templates.ParseGlob(filepath.Join(chartFolder, "templates", "*")))
	context := map[string]any{
		"Values":  values,
		"Chart":   map[string]any{"Name": chart["name"], "Version": chart["version"], "AppVersion": chart["appVersion"]},
		"Release": map[string]any{"Name": "muster", "Service": "Helm"},
	}
	var objects []map[string]any
	for _, file := range templates.Templates() {
		if !strings.HasSuffix(file.Name(), ".yaml") {
			continue
		}
		var text bytes.Buffer
		must(t, templates.ExecuteTemplate(&text, file.Name(), context))
		objects = append(objects, decodeObjects(t, &text)...)
	}
	return objects
}

func chartFunctions(templates *template.Template) template.FuncMap {
	toYAML := func(v any) (string, error) {
		var text bytes.Buffer
		encoder := yaml.NewEncoder(&text)
		encoder.SetIndent(2)
		err := encoder.Encode(v)
		return strings.TrimSuffix(text.String(), "\n"), err
	}
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var text strings.Builder
			err := templates.ExecuteTemplate(&text, name, data)
			return text.String(), err
		},
		"toYaml": toYAML,
		"nindent": func(n int, text string) string {
			return strings.ReplaceAll("\n"+text, "\n", "\n"+strings.Repeat(" ", n))
		},
		"quote":     func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"default":   func(fallback, text string) string { return orElse(text, fallback) },
		"int":       func(n int) int { return n },
		"upper":     strings.ToUpper,
		"list":      func(all ...any) []any { return all },
		"sha256sum": func(text string) string { sum := sha256.Sum256([]byte(text)); return hex.EncodeToString(sum[:]) },
		"dict": func(pairs ...any) map[string]any {
			m := map[string]any{}
			for pair := range slices.Chunk(pairs, 2) {
				m[pair[0].(string)] = pair[1]
			}
			return m
		},
		"merge": func(into, from map[string]any) map[string]any {
			for key, value := range from {
				if _, set := into[key]; !set {
					into[key] = value
				}
			}
			return into
		},
	}
}

func decodeObjects(t *testing.T, text io.Reader) (objects []map[string]any) {
	t.Helper()
	decoder := yaml.NewDecoder(text)
	for {
		var object map[string]any
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatal(err)
		}
		if object != nil {
			objects = append(objects, object)
		}
	}
}

// at follows keys and indices into an object; it is nil where they lead nowhere.
func at(object any, path ...any) any {
	for _, step := range path {
		switch key := step.(type) {
		case string:
			m, _ := object.(map[string]any)
			object = m[key]
		case int:
			all, _ := object.([]any)
			if key >= len(all) {
				return nil
			}
			object = all[key]
		}
	}
	return object
}

// pod returns the template of an object's pods, or nil.
func pod(object map[string]any) any { return at(object, "spec", "template", "spec") }

var chartSettings = map[string]map[string]any{
	"files":     nil,
	"new files": {"mef.store": storeValues("", true), "maf.store": storeValues("", true)},
	"databases": {"mef.store": storeValues("host=db dbname=mef", false), "maf.store": storeValues("host=db dbname=maf", true), "mef.replicas": 3, "maf.replicas": 2},
	"a MEF":     {"maf.enabled": false, "metricsFrom": []any{map[string]any{"podSelector": map[string]any{}}}},
	"placed": {"nodeSelector": map[string]any{"disk": "ssd"}, "tolerations": []any{map[string]any{"operator": "Exists"}},
		"imagePullSecrets": []any{map[string]any{"name": "registry"}}, "maf.service": map[string]any{"type": "LoadBalancer", "annotations": map[string]any{"a": "b"}},
		"mef.from": []any{map[string]any{"ipBlock": map[string]any{"cidr": "10.0.0.0/8"}}}, "mef.egress": []any{map[string]any{"ports": []any{map[string]any{"port": 5432}}}}},
}

func storeValues(postgres string, create bool) map[string]any {
	v := map[string]any{"create": create, "sqlite": map[string]any{"size": "1Gi", "storageClass": "fast"}, "postgres": postgres, "passwordSecret": ""}
	if postgres != "" {
		v["passwordSecret"] = "db-password"
	}
	return v
}

// TestChart renders the chart in several ways and looks at each pod and at whom
// the other objects select.
func TestChart(t *testing.T) {
	t.Parallel()
	for name, settings := range chartSettings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := renderChart(t, settings)
			workloads := 0
			for _, object := range objects {
				if object["kind"] == "Secret" {
					t.Error("the chart has a secret")
				}
				if pod(object) != nil {
					checkPod(t, object)
				}
				if object["kind"] == "StatefulSet" || object["kind"] == "Deployment" {
					workloads++
					checkWorkload(t, object, objects)
				}
			}
			if want := map[bool]int{true: 1, false: 2}[name == "a MEF"]; workloads != want {
				t.Errorf("%d workloads, want %d", workloads, want)
			}
		})
	}
}

// checkPod wants what the restricted profile of Kubernetes wants, and a root that
// is read-only.
func checkPod(t *testing.T, object map[string]any) {
	t.Helper()
	name := at(object, "metadata", "name")
	for path, want := range map[string]any{
		"automountServiceAccountToken": false, "hostNetwork": nil, "hostPID": nil, "hostIPC": nil, "initContainers": nil,
		"securityContext.runAsNonRoot": true, "securityContext.runAsUser": 1000, "securityContext.fsGroup": 1000, "securityContext.seccompProfile.type": "RuntimeDefault",
		"containers.0.securityContext.allowPrivilegeEscalation": false, "containers.0.securityContext.readOnlyRootFilesystem": true,
		"containers.0.securityContext.privileged": nil, "containers.0.securityContext.capabilities.drop.0": "ALL", "containers.0.securityContext.capabilities.add": nil,
	} {
		var steps []any
		for step := range strings.SplitSeq(path, ".") {
			if step == "0" {
				steps = append(steps, 0)
			} else {
				steps = append(steps, step)
			}
		}
		if got := at(pod(object), steps...); got != want {
			t.Errorf("%s: %s is %v, want %v", name, path, got, want)
		}
	}
	volumes := map[any]bool{"data": at(object, "spec", "volumeClaimTemplates", 0, "metadata", "name") == "data"}
	for _, volume := range at(pod(object), "volumes").([]any) {
		volumes[at(volume, "name")] = true
		if at(volume, "hostPath") != nil {
			t.Errorf("%s mounts a folder of its host", name)
		}
	}
	for _, mount := range at(pod(object), "containers", 0, "volumeMounts").([]any) {
		if !volumes[at(mount, "name")] {
			t.Errorf("%s mounts %v, which it does not have", name, at(mount, "name"))
		}
	}
	for _, variable := range at(pod(object), "containers", 0, "env").([]any) {
		if strings.Contains(fmt.Sprint(at(variable, "name")), "PASSWORD") && at(variable, "valueFrom", "secretKeyRef", "name") == nil {
			t.Errorf("%s has a password in %v", name, variable)
		}
	}
}

// checkWorkload looks at what stands around a function.
func checkWorkload(t *testing.T, object map[string]any, objects []map[string]any) {
	t.Helper()
	name := at(object, "metadata", "name")
	shared := object["kind"] == "Deployment"
	if replicas := at(object, "spec", "replicas"); shared == (replicas == 1) || shared == (at(object, "spec", "volumeClaimTemplates") != nil) {
		t.Errorf("%s is a %v with %v replicas", name, object["kind"], replicas)
	}
	for probe, path := range map[string]string{"livenessProbe": "/livez", "readinessProbe": "/readyz"} {
		if get := at(pod(object), "containers", 0, probe, "httpGet"); at(get, "path") != path || at(get, "port") != "metrics" {
			t.Errorf("%s: %s is %v", name, probe, get)
		}
	}
	labels := at(object, "spec", "template", "metadata", "labels").(map[string]any)
	selected := map[any]bool{}
	for _, other := range append(objects, object) {
		selector := at(other, "spec", "selector", "matchLabels")
		switch other["kind"] {
		case "Service":
			selector = at(other, "spec", "selector")
		case "NetworkPolicy":
			selector = at(other, "spec", "podSelector", "matchLabels")
		case "ConfigMap", "Job":
			continue
		}
		matches := len(selector.(map[string]any)) > 0
		for key, value := range selector.(map[string]any) {
			matches = matches && labels[key] == value
		}
		selected[other["kind"]] = selected[other["kind"]] || matches
		if matches != (at(other, "metadata", "name") == name) {
			t.Errorf("that %v %v selects %v is %v", other["kind"], at(other, "metadata", "name"), name, matches)
		}
	}
	for _, kind := range []string{"Service", "NetworkPolicy", "PodDisruptionBudget"} {
		if !selected[kind] {
			t.Errorf("%s has no %s", name, kind)
		}
	}
}

// TestChartWithHelm has Helm lint the chart, and render it as the other tests do.
// deploy/tools/helm builds one.
func TestChartWithHelm(t *testing.T) {
	t.Parallel()
	mustertest.RequirePeer(t, "helm")
	for name, settings := range chartSettings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareWithHelm(t, settings, renderChart(t, settings))
		})
	}
}

func compareWithHelm(t *testing.T, settings map[string]any, objects []map[string]any) {
	t.Helper()
	nested := map[string]any{}
	for path, value := range settings {
		under, key, below := strings.Cut(path, ".")
		if !below {
			nested[path] = value
			continue
		}
		if nested[under] == nil {
			nested[under] = map[string]any{}
		}
		nested[under].(map[string]any)[key] = value
	}
	text, err := yaml.Marshal(nested)
	must(t, err)
	file := filepath.Join(t.TempDir(), "values.yaml")
	must(t, os.WriteFile(file, text, 0o600))
	if out, err := exec.CommandContext(t.Context(), "helm", "lint", "--strict", "--values", file, chartFolder).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), "helm", "template", "muster", chartFolder, "--kube-version", "1.31.0", "--values", file).Output()
	must(t, err)
	theirs := decodeObjects(t, bytes.NewReader(out))
	byName := func(all []map[string]any) map[string]any {
		named := map[string]any{}
		for _, object := range all {
			// The text of a configuration is indented in another way.
			for role := range map[string]bool{"mef.yaml": true, "maf.yaml": true} {
				if text, ok := at(object, "data", role).(string); ok {
					var config map[string]any
					must(t, yaml.Unmarshal([]byte(text), &config))
					object["data"] = config
				}
			}
			if annotations, ok := at(object, "spec", "template", "metadata", "annotations").(map[string]any); ok {
				delete(annotations, "checksum/config")
			}
			named[fmt.Sprint(object["kind"], " ", at(object, "metadata", "name"))] = object
		}
		return named
	}
	if want, got := byName(theirs), byName(objects); !reflect.DeepEqual(got, want) {
		t.Errorf("Helm renders\n%v\nthe test\n%v", want, got)
	}
}

// TestChartConfigures puts the configurations of the chart, with the files of a
// laboratory, where a pod has them, and has the program check them.
func TestChartConfigures(t *testing.T) {
	lab := &laboratory{Dir: filepath.Join(t.TempDir(), "lab"), Devices: 1, now: time.Now()}
	must(t, lab.write())
	settings := map[string]any{}
	for _, role := range []string{"mef", "maf"} {
		text, err := os.ReadFile(lab.path(role + ".yaml"))
		must(t, err)
		var config map[string]any
		must(t, yaml.Unmarshal(text, &config))
		for _, ours := range []string{"identity", "listen", "store", "metrics", "admin", "audit"} {
			delete(config, ours)
		}
		settings[role+".config"] = config
	}
	for _, object := range renderChart(t, settings) {
		for _, role := range []string{"mef", "maf"} {
			text, ok := at(object, "data", role+".yaml").(string)
			if !ok {
				continue
			}
			must(t, os.WriteFile(lab.path(role+".yaml"), []byte(text), 0o600))
			credentials := t.TempDir()
			t.Setenv("CREDENTIALS_DIRECTORY", credentials)
			for name, from := range map[string]string{"identity": "pki/" + role + ".pem", "identity-key": "pki/" + role + "-key.pem", "root-key": role + ".root-key"} {
				octets, err := os.ReadFile(lab.path(from))
				must(t, err)
				must(t, os.WriteFile(filepath.Join(credentials, name), octets, 0o440))
			}
			must(t, checkConfig(lab.path(role+".yaml")))
		}
	}
}
