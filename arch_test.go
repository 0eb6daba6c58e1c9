package muster_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows is the diagram of docs/architecture.md: what each room may import of
// the others. A room that is not here, or an arrow that is not here, fails.
var arrows = map[string][]string{
	".":                  {},
	"cert":               {"."},
	"primitive":          {"."},
	"tef":                {".", "primitive"},
	"mef":                {".", "cert", "primitive", "tef"},
	"maf":                {".", "cert", "primitive", "tef"},
	"enrolee":            {".", "primitive", "tef"},
	"entity":             {".", "tef"},
	"handshake":          {"."},
	"handshake/dtls12":   {".", "handshake"},
	"handshake/tlspsk":   {".", "handshake"},
	"binding":            {".", "handshake", "primitive"},
	"binding/coap":       {".", "handshake", "primitive"},
	"binding/websocket":  {".", "handshake", "primitive"},
	"binding/awkward":    {".", "handshake", "primitive", "binding/coap"},
	"seal":               {"."},
	"archive":            {"."},
	"revocation":         {".", "cert"},
	"metrics":            {"."},
	"audit":              {"."},
	"console":            {".", "cert"},
	"tracing":            {},
	"sqlite":             {".", "mef", "maf", "tef", "archive"},
	"postgres":           {".", "mef", "maf", "tef", "archive"},
	"enrolee/dialer":     {".", "cert", "enrolee", "handshake", "handshake/dtls12", "handshake/tlspsk", "binding", "binding/coap", "primitive"},
	"enrolee/keyring":    {".", "enrolee", "seal"},
	"mustertest":         {".", "cert", "mef", "maf", "tef"},
	"mustertest/browser": {"mustertest"},
	"cmd/muster":         nil, // assembly: imports every room
}

// pure rooms know no socket, file, database, log or transport.
var (
	pure      = []string{".", "cert", "primitive", "tef", "mef", "maf", "enrolee", "entity"}
	forbidden = []string{"net", "os", "crypto/tls", "database/sql", "log", "net/http"}
)

const module = "muster"

func imports(t *testing.T) map[string]map[string]bool {
	t.Helper()
	rooms := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != "." && strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		room := filepath.ToSlash(filepath.Dir(path))
		if rooms[room] == nil {
			rooms[room] = map[string]bool{}
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			rooms[room][name] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rooms
}

func roomOf(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func TestArrows(t *testing.T) {
	for room, imported := range imports(t) {
		allowed, planned := arrows[room]
		if !planned {
			t.Errorf("the room %s is not in the diagram", room)
			continue
		}
		for path := range imported {
			if target, ours := roomOf(path); ours && room != "cmd/muster" && !slices.Contains(allowed, target) {
				t.Errorf("%s imports %s, an arrow that the diagram does not have", room, target)
			}
		}
	}
}

func TestPureRooms(t *testing.T) {
	rooms := imports(t)
	for _, room := range pure {
		for _, path := range forbidden {
			if rooms[room][path] {
				t.Errorf("%s imports %s, but is pure", room, path)
			}
		}
	}
}

// libraryRooms gives each library beyond golang.org/x its one room.
var libraryRooms = map[string]string{
	"github.com/pion/dtls/v3":             "handshake/dtls12",
	"github.com/pion/logging":             "handshake/dtls12",
	"modernc.org/sqlite":                  "sqlite",
	"github.com/jackc/pgx/v5":             "postgres",
	"github.com/coder/websocket":          "binding/websocket",
	"github.com/fxamacker/cbor/v2":        "primitive",
	"github.com/spf13/cobra":              "cmd/muster",
	"github.com/spf13/pflag":              "cmd/muster",
	"go.yaml.in/yaml/v3":                  "cmd/muster",
	"github.com/ThalesGroup/crypto11":     "cmd/muster",
	"github.com/prometheus/client_golang": "metrics",
	"github.com/chromedp/chromedp":        "mustertest/browser",
	"github.com/chromedp/cdproto":         "mustertest/browser",
}

func TestEachLibraryHasOneRoom(t *testing.T) {
	decision, err := os.ReadFile("docs/decisions/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for room, imported := range imports(t) {
		for path := range imported {
			if _, ours := roomOf(path); ours || !strings.Contains(path, ".") || strings.HasPrefix(path, "golang.org/x/") {
				continue
			}
			library := ""
			for known := range libraryRooms {
				if path == known || strings.HasPrefix(path, known+"/") {
					library = known
				}
			}
			if libraryRooms[library] != room {
				t.Errorf("%s imports %s, whose room is %q", room, path, libraryRooms[library])
			}
			if !strings.Contains(string(decision), library) {
				t.Errorf("docs/decisions/dependencies.md does not have %s", library)
			}
		}
	}
}

func TestLongestImportChain(t *testing.T) {
	rooms := imports(t)
	var depth func(room string) int
	depth = func(room string) int {
		longest := 0
		for path := range rooms[room] {
			if target, ours := roomOf(path); ours {
				longest = max(longest, depth(target))
			}
		}
		return longest + 1
	}
	if d := depth("cmd/muster"); d > 6 {
		t.Errorf("the longest import chain has %d rooms, more than 6", d)
	}
}

// A room is a noun of the standard, neither an empty word nor a package of the
// standard library.
func TestRoomNames(t *testing.T) {
	for room := range imports(t) {
		name := filepath.Base(room)
		if slices.Contains([]string{"util", "common", "helper", "types", "core", "model", "tls", "x509", "http", "net", "crypto"}, name) {
			t.Errorf("the room %s is called %s", room, name)
		}
	}
}
