package keyring_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster"
	"muster/enrolee/keyring"
	"muster/seal"
)

func TestKpm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, root, other := filepath.Join(dir, "kpm"), filepath.Join(dir, "root"), filepath.Join(dir, "other-root")
	for _, file := range []string{root, other} {
		if err := seal.CreateRoot(file, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	id, err := muster.ParseKpmID("device-1@factory.example.com")
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := muster.ParseKpmID("device-2@factory.example.com")
	kpm, err := muster.NewKpm([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.ReadKpm(path, root, id); muster.CodeOf(err) != muster.CodeConfiguration {
		t.Errorf("no file: %v", err)
	}
	for range 2 { // the second replaces the first
		if err := keyring.WriteKpm(path, root, id, kpm); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := keyring.ReadKpm(path, root, id); err != nil || !got.Equal(kpm) {
		t.Fatalf("read another key: %v", err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, kpm.Reveal()) {
		t.Error("the key stands in the file")
	}
	for what, read := range map[string]func() (muster.Kpm, error){
		"another identifier": func() (muster.Kpm, error) { return keyring.ReadKpm(path, root, stranger) },
		"another root key":   func() (muster.Kpm, error) { return keyring.ReadKpm(path, other, id) },
		"no root key":        func() (muster.Kpm, error) { return keyring.ReadKpm(path, path+"-none", id) },
		"a renamed key": func() (muster.Kpm, error) {
			forged := bytes.Replace(content, []byte(id.String()), []byte(stranger.String()), 1)
			if err := os.WriteFile(path+"-forged", forged, 0o600); err != nil {
				t.Fatal(err)
			}
			return keyring.ReadKpm(path+"-forged", root, stranger)
		},
		"no JSON": func() (muster.Kpm, error) {
			if err := os.WriteFile(path+"-text", []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			return keyring.ReadKpm(path+"-text", root, id)
		},
		"a file for all": func() (muster.Kpm, error) {
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			defer os.Chmod(path, 0o600)
			return keyring.ReadKpm(path, root, id)
		},
	} {
		if got, err := read(); muster.CodeOf(err) != muster.CodeConfiguration || !got.IsZero() {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := keyring.WriteKpm(path, path+"-none", id, kpm); muster.CodeOf(err) != muster.CodeConfiguration {
		t.Errorf("written without a root key: %v", err)
	}
	if err := keyring.WriteKpm(filepath.Join(dir, "none", "kpm"), root, id, kpm); err == nil {
		t.Error("written into no folder")
	}
}
