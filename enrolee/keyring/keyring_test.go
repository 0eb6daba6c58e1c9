package keyring_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/enrolee/keyring"
	"muster/seal"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func open(t *testing.T) (k *keyring.Keyring, path, root string) {
	t.Helper()
	path, root = filepath.Join(t.TempDir(), "c"), filepath.Join(t.TempDir(), "root")
	if err := seal.CreateRoot(root, rand.Reader); err != nil {
		t.Fatal(err)
	}
	k, err := keyring.Open(path, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k, path, root
}

func credential(digit, fill string) *enrolee.Credential {
	return &enrolee.Credential{
		KeID: must(muster.ParseKeID(strings.Repeat(digit, 32) + "@mef.example.com")), MAF: must(muster.ParseFQDN("maf.example.com")),
		KmID: must(muster.ParseKmID("K" + digit + "@maf.example.com")), Km: must(muster.NewKm([]byte(strings.Repeat(fill, 32)))),
		Enrolled: time.Unix(1_000_000, 0).UTC(), Expires: time.Unix(2_000_000, 0).UTC(),
	}
}

func TestKeepsCredentials(t *testing.T) {
	k, path, root := open(t)
	if c, err := k.Load(t.Context()); err != nil || c.Current != nil || c.Next != nil {
		t.Fatalf("an empty keyring holds %v, %v", c, err)
	}
	saved := enrolee.Credentials{Current: credential("1", "a"), Next: credential("2", "b"), Command: enrolee.CommandMemory{ID: "c", Status: 20, Reported: true}}
	saved.Next.KmID = muster.KmID{}
	for range 2 {
		if err := k.Save(t.Context(), saved); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	again := must(keyring.Open(path, root))
	defer again.Close()
	got := must(again.Load(t.Context()))
	for name, pair := range map[string][2]*enrolee.Credential{"current": {got.Current, saved.Current}, "next": {got.Next, saved.Next}} {
		g, w := pair[0], pair[1]
		if g.KeID != w.KeID || g.KmID != w.KmID || g.MAF != w.MAF || !g.Km.Equal(w.Km) || !g.Expires.Equal(w.Expires) || !g.Enrolled.Equal(w.Enrolled) {
			t.Errorf("%s came back as %+v, not %+v", name, g, w)
		}
	}
	if got.Command != saved.Command {
		t.Errorf("the command came back as %+v", got.Command)
	}
	entries := must(os.ReadDir(filepath.Dir(path)))
	if len(entries) != 2 {
		t.Errorf("%d files are left, not the keyring and its lock", len(entries))
	}
}

func TestFileGivesNothingAway(t *testing.T) {
	k, path, _ := open(t)
	if err := k.Save(t.Context(), enrolee.Credentials{Current: credential("1", "a")}); err != nil {
		t.Fatal(err)
	}
	octets := must(os.ReadFile(path))
	if bytes.Contains(octets, []byte("aaaa")) || bytes.Contains(octets, []byte("YWFh")) {
		t.Error("the key stands in the file")
	}
	if mode := must(os.Stat(path)).Mode(); mode != 0o600 {
		t.Errorf("the mode is %s", mode)
	}
}

func TestRefusesForeignFiles(t *testing.T) {
	k, path, _ := open(t)
	if err := k.Save(t.Context(), enrolee.Credentials{Current: credential("1", "a"), Next: credential("2", "b")}); err != nil {
		t.Fatal(err)
	}
	whole := must(os.ReadFile(path))
	var swapped map[string]any
	if err := json.Unmarshal(whole, &swapped); err != nil {
		t.Fatal(err)
	}
	current, next := swapped["current"].(map[string]any), swapped["next"].(map[string]any)
	current["km"], next["km"] = next["km"], current["km"]
	for name, octets := range map[string][]byte{
		"empty": nil, "truncated": whole[:len(whole)/2], "no JSON": []byte("x"), "another version": []byte(`{"version":2}`),
		"no data key": []byte(`{"version":1,"current":{}}`), "keys exchanged": must(json.Marshal(swapped)), "too large": make([]byte, 65<<10),
	} {
		if err := os.WriteFile(path, octets, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := k.Load(t.Context()); err == nil {
			t.Errorf("%s: loaded %v", name, c)
		} else if strings.Contains(err.Error(), "%!") {
			t.Errorf("%s: the error is %q", name, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Load(t.Context()); err != nil {
		t.Errorf("the whole file: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Load(t.Context()); err == nil {
		t.Error("a file that all can read was loaded")
	}
}

func TestOneProcessAtATime(t *testing.T) {
	_, path, root := open(t)
	if _, err := keyring.Open(path, root); muster.CodeOf(err) != muster.CodeBusy {
		t.Errorf("a second one was opened: %v", err)
	}
}

func TestFailedSaveKeepsTheOldFile(t *testing.T) {
	k, path, _ := open(t)
	if err := k.Save(t.Context(), enrolee.Credentials{Current: credential("1", "a")}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Dir(path), filepath.Dir(path)+"-moved"); err != nil {
		t.Fatal(err)
	}
	if err := k.Save(t.Context(), enrolee.Credentials{}); err == nil {
		t.Fatal("saved into a folder that is gone")
	}
	if err := os.Rename(filepath.Dir(path)+"-moved", filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if c, err := k.Load(t.Context()); err != nil || c.Current == nil {
		t.Errorf("the old credential is gone: %v", err)
	}
}

// Only what this package has sealed under this root key is read as a key.
func FuzzFiles(f *testing.F) {
	dir := f.TempDir()
	path, kpmPath, root := filepath.Join(dir, "c"), filepath.Join(dir, "kpm"), filepath.Join(dir, "root")
	if err := os.WriteFile(root, []byte(strings.Repeat("r", seal.RootSize)), 0o600); err != nil { // the same in each process
		f.Fatal(err)
	}
	k := must(keyring.Open(path, root))
	f.Cleanup(func() { _ = k.Close() })
	saved, id := credential("1", "a"), must(muster.ParseKpmID("1@mef.example.com"))
	kpm := must(muster.NewKpm([]byte(strings.Repeat("p", 32))))
	if err := errors.Join(k.Save(f.Context(), enrolee.Credentials{Current: saved}), keyring.WriteKpm(kpmPath, root, id, kpm)); err != nil {
		f.Fatal(err)
	}
	for _, file := range []string{path, kpmPath} {
		whole := must(os.ReadFile(file))
		f.Add(whole)
		f.Add(bytes.Replace(whole, []byte("example.com"), []byte("example.org"), 1))
		f.Add(whole[:len(whole)/2])
	}
	f.Add([]byte(`{"version":1,"dataKey":"","next":{}}`))
	f.Fuzz(func(t *testing.T, octets []byte) {
		if err := errors.Join(os.WriteFile(path, octets, 0o600), os.WriteFile(kpmPath, octets, 0o600)); err != nil {
			t.Fatal(err)
		}
		c, err := k.Load(t.Context())
		for _, read := range []*enrolee.Credential{c.Current, c.Next} {
			if read != nil && (err != nil || !read.Km.Equal(saved.Km) || read.KeID != saved.KeID || read.MAF != saved.MAF) {
				t.Errorf("%q is read as %+v, %v", octets, read, err)
			}
		}
		if read, err := keyring.ReadKpm(kpmPath, root, id); err == nil && !read.Equal(kpm) || err != nil && muster.CodeOf(err) != muster.CodeConfiguration {
			t.Errorf("%q is read as %v, %v", octets, read, err)
		}
	})
}
