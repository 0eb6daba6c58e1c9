package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"regexp"
	"testing"

	"muster"
)

// A list that is taken has its identifiers and keys once each, and reads the same
// when written again in the other form. The error about one that is not tells no
// key that stands in it.
func FuzzKpmList(f *testing.F) {
	const one, other = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	for _, text := range []string{
		"kpm_id, kpm\r\na@mef.example.com, " + one + "\nb@mef.example.com," + other,
		"kpm_id,kpm\n\n\"a@mef.example.com\"," + one + "\na@mef.example.com," + one + "\n",
		`{"kpm_id":"a@mef.example.com","kpm":"` + one + `"}` + "\n\n" + `{"kpm":"` + other + `","kpm_id":"b@mef.example.com"}`,
		`{"kpm_id":"` + one + `","kpm":"a@mef.example.com"}`,
		one,
	} {
		f.Add([]byte(text))
	}
	key := regexp.MustCompile(`[0-9A-Fa-f]{64}`)
	f.Fuzz(func(t *testing.T, octets []byte) {
		keys, err := parseKpmList("list", bytes.NewReader(octets))
		if err != nil {
			if len(keys) > 0 || muster.CodeOf(err) != muster.CodeConfiguration || key.MatchString(err.Error()) {
				t.Errorf("%q: %d keys, %v", octets, len(keys), err)
			}
			return
		}
		csv, json := bytes.NewBufferString(kpmHeader+"\n"), &bytes.Buffer{}
		for _, k := range keys {
			digits := hex.EncodeToString(k.kpm.Reveal())
			fmt.Fprintf(csv, "%s,%s\n", k.id, digits)
			fmt.Fprintf(json, "{\"kpm_id\":%q,\"kpm\":%q}\n", k.id, digits)
		}
		for _, again := range []*bytes.Buffer{csv, json} {
			same, err := parseKpmList("list", again)
			if err != nil || len(same) != len(keys) {
				t.Fatalf("%q is read as %d keys, %v", octets, len(same), err)
			}
			for i := range same {
				if same[i].id != keys[i].id || !same[i].kpm.Equal(keys[i].kpm) {
					t.Errorf("%q: %v becomes %v", octets, keys[i].id, same[i].id)
				}
			}
		}
	})
}
