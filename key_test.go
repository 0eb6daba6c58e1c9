package muster_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"muster"
)

// The key is text, so that a leak shows in every encoding of text or octets.
var leaky = []byte("LEAKLEAKLEAKLEAKLEAKLEAKLEAKLEAK")

func leaks(out string) bool {
	lower := strings.ToLower(out)
	return strings.Contains(lower, "leak") ||
		strings.Contains(lower, hex.EncodeToString([]byte("LEAK"))) ||
		strings.Contains(out, "76 69 65 75") || strings.Contains(out, "0x4c, 0x45, 0x41, 0x4b") ||
		strings.Contains(out, base64.StdEncoding.EncodeToString([]byte("LEAKLE")))
}

type (
	exposed   struct{ Key any }
	hiddenKe  struct{ key muster.Ke }
	hiddenPtr struct{ key *muster.Ke }
	embedded  struct{ muster.Ke }
)

func holders() map[string]any {
	ke := must(muster.NewKe(leaky))
	km := must(muster.NewKm(leaky))
	return map[string]any{
		"Ke": ke, "*Ke": &ke, "Km": km, "Kc": must(muster.NewKc(leaky)), "Kpsa": must(muster.NewKpsa(leaky)), "Kpm": must(muster.NewKpm(leaky)),
		"UsageKey": ke.UsageConstrained(21, must(muster.ParseFQDN("a.example"))),
		"exported": exposed{ke}, "*exported": &exposed{&ke},
		"unexported": hiddenKe{ke}, "*unexported": &hiddenKe{ke}, "unexported pointer": hiddenPtr{&ke},
		"embedded": embedded{ke}, "*embedded": &embedded{ke},
		"slice": []muster.Ke{ke}, "map": map[string]muster.Ke{"k": ke}, "array": [1]muster.Km{km},
		"map of hidden": map[string]hiddenKe{"k": {ke}}, "any": []any{ke, hiddenKe{ke}},
	}
}

func TestKeysPrintNowhere(t *testing.T) {
	if !leaks(string(leaky)) || !leaks(fmt.Sprintf("%x", leaky)) || !leaks(fmt.Sprintf("%d", leaky)) || !leaks(fmt.Sprintf("%#v", leaky)) {
		t.Fatal("the detector finds nothing")
	}
	for name, holder := range holders() {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "# +"} {
			for verb := 'A'; verb <= 'z'; verb++ {
				if out := fmt.Sprintf("%"+flags+string(verb), holder); leaks(out) {
					t.Errorf("%s leaks with %%%s%c: %s", name, flags, verb, out)
				}
			}
		}
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", holder)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", holder)
		_ = json.NewEncoder(&out).Encode(holder)
		_ = xml.NewEncoder(&out).Encode(holder)
		_ = gob.NewEncoder(&out).Encode(holder)
		fmt.Fprint(&out, fmt.Errorf("wrapped: %v %w", holder, errors.New("x")))
		if leaks(out.String()) {
			t.Errorf("%s leaks through a marshaller or log: %s", name, out.String())
		}
	}
}

func TestKeysDoNotMarshal(t *testing.T) {
	ke := must(muster.NewKe(leaky))
	if _, err := json.Marshal(exposed{ke}); !errors.Is(err, muster.ErrKeyExposed) {
		t.Errorf("JSON: %v", err)
	}
	if err := gob.NewEncoder(new(bytes.Buffer)).Encode(ke); !errors.Is(err, muster.ErrKeyExposed) {
		t.Errorf("gob: %v", err)
	}
}

func TestKeysAreNotComparable(t *testing.T) {
	for name, v := range holders() {
		if typ := reflect.TypeOf(v); name != "*Ke" && strings.HasPrefix(name, "K") && typ.Comparable() {
			t.Errorf("%s can be compared with ==", typ)
		}
	}
}

func TestKeyEqual(t *testing.T) {
	a, b := must(muster.NewKm(leaky)), must(muster.NewKm(leaky))
	other := must(muster.NewKm(make([]byte, 32)))
	if !a.Equal(b) || a.Equal(other) || a.Equal(muster.Km{}) || (muster.Km{}).Equal(muster.Km{}) {
		t.Error("Equal is wrong")
	}
}

func TestKeyLength(t *testing.T) {
	for _, n := range []int{0, 1, 16, 31, 33, 48, 64} {
		if _, err := muster.NewKe(make([]byte, n)); err == nil {
			t.Errorf("a key of %d octets was accepted", n)
		}
	}
}

func TestRevealCopies(t *testing.T) {
	source := bytes.Clone(leaky)
	k := must(muster.NewKe(source))
	source[0] = 0
	k.Reveal()[1] = 0
	if !bytes.Equal(k.Reveal(), leaky) {
		t.Error("a key shares its octets with a caller")
	}
	if (muster.Ke{}).Reveal() != nil {
		t.Error("the absent key reveals octets")
	}
}
