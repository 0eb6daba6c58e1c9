package tlspsk

import (
	"bytes"
	"encoding/hex"
	"math"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vector of the TLS working group for the PRF with SHA-256.
func TestPRF(t *testing.T) {
	t.Parallel()
	want := unhex(t, "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a"+
		"6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab"+
		"4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66")
	got := make([]byte, len(want))
	prf(got, unhex(t, "9bbe436ba940f017b17652849a71db35"), "test label", unhex(t, "a0ba9f936cda311827a6f796ffd5198c"))
	if !bytes.Equal(got, want) {
		t.Errorf("%x", got)
	}
	for n := range want {
		if prf(got[:n], unhex(t, "9bbe436ba940f017b17652849a71db35"), "test label", unhex(t, "a0ba9f936cda"), unhex(t, "311827a6f796ffd5198c")); !bytes.Equal(got[:n], want[:n]) {
			t.Errorf("%d octets: %x", n, got[:n])
		}
	}
}

func TestPremaster(t *testing.T) {
	t.Parallel()
	if got, want := premaster([]byte{7, 8, 9}), []byte{0, 3, 0, 0, 0, 0, 3, 7, 8, 9}; !bytes.Equal(got, want) {
		t.Errorf("%x", got)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	s := newSecrets(testKey(), make([]byte, 32), [32]byte{1}, [32]byte{2})
	seen := make(map[string]string)
	for name, e := range map[string]struct {
		label   string
		context []byte
	}{
		"no context":    {testLabel, nil},
		"empty context": {testLabel, []byte{}},
		"a context":     {testLabel, []byte{0}},
		"another label": {testLabel + "x", nil},
	} {
		octets, err := s.export(e.label, e.context, 48)
		if err != nil || len(octets) != 48 {
			t.Fatal(err)
		}
		if other, ok := seen[string(octets)]; ok {
			t.Errorf("%s and %s give the same octets", name, other)
		}
		seen[string(octets)] = name
		again, err := s.export(e.label, e.context, 48)
		if err != nil || !bytes.Equal(octets, again) {
			t.Errorf("%s: a second export differs", name)
		}
	}
	for _, label := range []string{"client finished", "server finished", "master secret", "extended master secret", "key expansion"} {
		if _, err := s.export(label, nil, 48); err == nil {
			t.Errorf("%q is exported", label)
		}
	}
	for _, n := range []int{math.MinInt, -1, 0, maxExport + 1, math.MaxInt} {
		if _, err := s.export(testLabel, nil, n); err == nil {
			t.Errorf("%d octets are exported", n)
		}
	}
	if _, err := s.export(testLabel, make([]byte, math.MaxUint16+1), 48); err == nil {
		t.Error("a context is cut")
	}
}
