package seal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"muster/seal"
)

func root(t testing.TB, fill byte) *seal.Root {
	t.Helper()
	r, err := seal.NewRoot(bytes.Repeat([]byte{fill}, seal.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ready returns a Sealer that uses data keys 1 and 2.
func ready(t testing.TB) *seal.Sealer {
	t.Helper()
	s := seal.New(root(t, 7), rand.Reader)
	for _, id := range []uint32{1, 2} {
		wrapped, err := s.NewDataKey(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.UseDataKey(id, wrapped); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

var key = bytes.Repeat([]byte("key!"), 8)

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	s := ready(t)
	record, err := s.Seal(1, key, "kind", "mef.example.org", "id")
	if err != nil {
		t.Fatal(err)
	}
	if len(record) != 61 {
		t.Errorf("a sealed key of 32 octets has %d octets, want 61", len(record))
	}
	if bytes.Contains(record, key[:4]) {
		t.Error("the record holds octets of the key")
	}
	opened, err := s.Open(1, record, "kind", "mef.example.org", "id")
	if err != nil || !bytes.Equal(opened, key) {
		t.Fatalf("Open = %x, %v", opened, err)
	}
	again, err := s.Seal(1, key, "kind", "mef.example.org", "id")
	if err != nil || bytes.Equal(again, record) {
		t.Errorf("sealing twice gives the same record (%v)", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	s := ready(t)
	record, err := s.Seal(1, key, "kind", "mef", "id")
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another id":           func() ([]byte, error) { return s.Open(1, record, "kind", "mef", "other") },
		"another kind":         func() ([]byte, error) { return s.Open(1, record, "kinD", "mef", "id") },
		"a moved boundary":     func() ([]byte, error) { return s.Open(1, record, "kindm", "ef", "id") },
		"joined parts":         func() ([]byte, error) { return s.Open(1, record, "kind", "mefid") },
		"a part more":          func() ([]byte, error) { return s.Open(1, record, "kind", "mef", "id", "") },
		"parts in other order": func() ([]byte, error) { return s.Open(1, record, "mef", "kind", "id") },
		"another data key":     func() ([]byte, error) { return s.Open(2, record, "kind", "mef", "id") },
		"an empty record":      func() ([]byte, error) { return s.Open(1, nil, "kind", "mef", "id") },
		"a cut record":         func() ([]byte, error) { return s.Open(1, record[:60], "kind", "mef", "id") },
		"a longer record":      func() ([]byte, error) { return s.Open(1, append(bytes.Clone(record), 0), "kind", "mef", "id") },
	} {
		if opened, err := open(); !errors.Is(err, seal.ErrRecord) || opened != nil {
			t.Errorf("%s: Open = %x, %v; want ErrRecord", name, opened, err)
		}
	}
	for i := range record {
		altered := bytes.Clone(record)
		altered[i] ^= 0x40
		if _, err := s.Open(1, altered, "kind", "mef", "id"); !errors.Is(err, seal.ErrRecord) {
			t.Errorf("octet %d altered: %v, want ErrRecord", i, err)
		}
	}
	if _, err := s.Open(3, record, "kind", "mef", "id"); !errors.Is(err, seal.ErrDataKey) {
		t.Errorf("an unknown data key: %v, want ErrDataKey", err)
	}
	if _, err := s.Seal(3, key); !errors.Is(err, seal.ErrDataKey) {
		t.Errorf("sealing with an unknown data key: %v, want ErrDataKey", err)
	}
}

func TestDataKeys(t *testing.T) {
	t.Parallel()
	first := seal.New(root(t, 7), rand.Reader)
	wrapped, err := first.NewDataKey(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Seal(1, key); !errors.Is(err, seal.ErrDataKey) {
		t.Errorf("a data key that is not yet durable is used: %v", err)
	}
	for range 2 {
		if err := first.UseDataKey(1, wrapped); err != nil {
			t.Fatal(err)
		}
	}
	record, err := first.Seal(1, key, "id")
	if err != nil {
		t.Fatal(err)
	}

	second := seal.New(root(t, 7), rand.Reader)
	if err := second.UseDataKey(1, wrapped); err != nil {
		t.Fatal(err)
	}
	if opened, err := second.Open(1, record, "id"); err != nil || !bytes.Equal(opened, key) {
		t.Errorf("after a restart: %x, %v", opened, err)
	}

	other := seal.New(root(t, 8), rand.Reader)
	if err := other.UseDataKey(1, wrapped); !errors.Is(err, seal.ErrRoot) {
		t.Errorf("under another root key: %v, want ErrRoot", err)
	}
	if err := second.UseDataKey(2, wrapped); !errors.Is(err, seal.ErrDataKey) {
		t.Errorf("under another number: %v, want ErrDataKey", err)
	}
	another, err := first.NewDataKey(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.UseDataKey(1, another); !errors.Is(err, seal.ErrDataKey) {
		t.Errorf("a second key under one number: %v, want ErrDataKey", err)
	}
	for i := range wrapped {
		altered := bytes.Clone(wrapped)
		altered[i] ^= 1
		if err := seal.New(root(t, 7), rand.Reader).UseDataKey(1, altered); err == nil {
			t.Errorf("octet %d of the wrapped key altered: no error", i)
		}
	}
}

// A store changes its root key when its data keys are wrapped anew, and not before.
func TestRewrap(t *testing.T) {
	t.Parallel()
	root := func(fill byte) *seal.Root {
		r, err := seal.NewRoot(bytes.Repeat([]byte{fill}, seal.RootSize))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	older, newer := root(1), root(2)
	opens := func(what string, id uint32, wrapped []byte, by, not *seal.Root) {
		t.Helper()
		if err := seal.New(by, rand.Reader).UseDataKey(id, wrapped); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := seal.New(not, rand.Reader).UseDataKey(id, wrapped); !errors.Is(err, seal.ErrRoot) {
			t.Errorf("%s, under the other root key: %v", what, err)
		}
	}
	one, err1 := seal.New(older, rand.Reader).NewDataKey(1)
	s := seal.New(newer, rand.Reader, older)
	err2 := s.UseDataKey(1, one)
	two, err3 := s.NewDataKey(2)
	anew, err4 := s.Rewrap(1, one)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	opens("a data key that is drawn before", 2, two, older, newer)
	opens("a data key that is wrapped anew", 1, anew, newer, older)
	if err := s.UseDataKey(1, anew); err != nil {
		t.Errorf("a data key in its new form: %v", err)
	}
	if two, err := s.NewDataKey(2); err != nil {
		t.Error(err)
	} else {
		opens("a data key that is drawn after", 2, two, newer, older)
	}
	first, err := s.NewDataKey(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.UseDataKey(1, first); !errors.Is(err, seal.ErrDataKey) {
		t.Errorf("another data key under a number in use: %v", err)
	}
}

func TestRandomnessFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	s := seal.New(root(t, 7), io.MultiReader(io.LimitReader(rand.Reader, 44), iotest.ErrReader(broken)))
	wrapped, err := s.NewDataKey(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.UseDataKey(1, wrapped); err != nil {
		t.Fatal(err)
	}
	if record, err := s.Seal(1, key); !errors.Is(err, broken) || record != nil {
		t.Errorf("Seal = %x, %v", record, err)
	}
	if wrapped, err := s.NewDataKey(2); !errors.Is(err, broken) || wrapped != nil {
		t.Errorf("NewDataKey = %x, %v", wrapped, err)
	}
	path := filepath.Join(t.TempDir(), "root.key")
	if err := seal.CreateRoot(path, iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("CreateRoot: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file without a key was left: %v", err)
	}
}

func TestRootFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root.key")
	if err := seal.CreateRoot(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file has mode %v, %v", info.Mode(), err)
	}
	r, err := seal.ReadRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if err := seal.CreateRoot(path, rand.Reader); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating over a file: %v, want ErrExist", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("an existing root key was overwritten")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(before)))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "raw.key")
	if err := os.WriteFile(other, raw, 0o400); err != nil {
		t.Fatal(err)
	}
	if same, err := seal.ReadRoot(other); err != nil || same.ID() != r.ID() {
		t.Errorf("the raw form is another key: %v, %v", same, err)
	}
}

func TestRootFileRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	encoded := base64.StdEncoding.EncodeToString(key)
	for name, file := range map[string]struct {
		octets string
		mode   fs.FileMode
	}{
		"read by the group": {encoded, 0o640},
		"read by others":    {encoded, 0o604},
		"executable":        {encoded, 0o700},
		"empty":             {"", 0o600},
		"31 octets":         {string(key[:31]), 0o600},
		"33 octets":         {string(key) + "x", 0o600},
		"hexadecimal":       {hex.EncodeToString(key), 0o600},
		"short base64":      {encoded[:40], 0o600},
		"two lines":         {encoded + "\n\n", 0o600},
		"inner line end":    {encoded[:20] + "\n" + encoded[20:], 0o600},
		"large":             {strings.Repeat("A", 1<<16), 0o600},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, []byte(file.octets), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, file.mode); err != nil {
			t.Fatal(err)
		}
		_, err := seal.ReadRoot(path)
		if !errors.Is(err, seal.ErrSecretFile) {
			t.Errorf("%s: %v, want ErrSecretFile", name, err)
		} else if file.octets != "" && strings.Contains(err.Error(), file.octets) {
			t.Errorf("%s: the error tells the key: %v", name, err)
		}
	}
	if _, err := seal.ReadRoot(dir); !errors.Is(err, seal.ErrSecretFile) {
		t.Errorf("a folder: %v, want ErrSecretFile", err)
	}
	if _, err := seal.ReadRoot(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v, want ErrNotExist", err)
	}
}

// No format verb shows a key, neither directly nor from within another value.
func TestNothingIsPrinted(t *testing.T) {
	t.Parallel()
	octets := []byte("0123456789abcdefghijklmnopqrstuv")
	r, err := seal.NewRoot(octets)
	if err != nil {
		t.Fatal(err)
	}
	s := seal.New(r, rand.Reader)
	holder := struct {
		r *seal.Root
		s *seal.Sealer
		v seal.Root
	}{r, s, *r}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, value := range []any{r, s, *r, holder, &holder, []*seal.Root{r}} {
			text := fmt.Sprintf(verb, value)
			for _, leak := range []string{"0123456789", hex.EncodeToString(octets[:8]), "48 49 50 51", "0x30, 0x31"} {
				if strings.Contains(text, leak) {
					t.Errorf("%s of %T prints the key: %s", verb, value, text)
				}
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	s := ready(f)
	record, err := s.Seal(1, key, "id")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record, "id")
	f.Add([]byte{1}, "")
	f.Fuzz(func(t *testing.T, octets []byte, binding string) {
		opened, err := s.Open(1, octets, binding)
		if genuine := bytes.Equal(octets, record) && binding == "id"; genuine != (err == nil) {
			t.Errorf("Open(%x, %q) = %x, %v", octets, binding, opened, err)
		}
		if err := s.UseDataKey(9, octets); err == nil {
			t.Errorf("an invented data key is accepted: %x", octets)
		}
	})
}

func FuzzReadRoot(f *testing.F) {
	f.Add([]byte(base64.StdEncoding.EncodeToString(key)))
	f.Add([]byte(base64.StdEncoding.EncodeToString(key) + "\r\n"))
	f.Add(key)
	f.Add([]byte(hex.EncodeToString(key) + "\n"))
	path := filepath.Join(f.TempDir(), "root.key")
	f.Fuzz(func(t *testing.T, octets []byte) {
		if err := os.WriteFile(path, octets, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.ReadRoot(path); err != nil && !errors.Is(err, seal.ErrSecretFile) {
			t.Errorf("ReadRoot of %x: %v", octets, err)
		}
		kept, err := seal.ReadKeptRoot(t.Context(), path, inHex{})
		plain, undone := hex.DecodeString(string(bytes.TrimSpace(octets)))
		if whole := undone == nil && len(plain) == seal.RootSize; whole != (err == nil) || whole != (kept != nil) {
			t.Errorf("ReadKeptRoot of %x: %v", octets, err)
		}
	})
}

// inHex is a seal.Keeper that hides nothing.
type inHex struct{}

func (inHex) Encrypt(_ context.Context, octets []byte) (string, error) {
	return hex.EncodeToString(octets), nil
}

func (inHex) Decrypt(_ context.Context, text string) ([]byte, error) { return hex.DecodeString(text) }

func BenchmarkSeal(b *testing.B) {
	s := ready(b)
	for b.Loop() {
		if _, err := s.Seal(1, key, "enrolment", "mef.example.org", "0123456789ABCDEF0123456789ABCDEF@mef.example.org"); err != nil {
			b.Fatal(err)
		}
	}
}
