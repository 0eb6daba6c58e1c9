package muster_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"muster"
)

func TestOneExportPerLabel(t *testing.T) {
	var calls atomic.Int32
	session := muster.NewSession(muster.Peer{}, func(string, []byte, int) ([]byte, error) {
		calls.Add(1)
		return make([]byte, 48), nil
	})
	var won atomic.Int32
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			if _, err := session.Export("a", nil, 48); err == nil {
				won.Add(1)
			} else if !errors.Is(err, muster.ErrExported) {
				t.Errorf("the second export failed with %v", err)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 || calls.Load() != 1 {
		t.Errorf("%d exports succeeded and %d were made, not 1", won.Load(), calls.Load())
	}
	if _, err := session.Export("b", nil, 48); err != nil {
		t.Errorf("another label: %v", err)
	}
}

func TestFailedExportIsSpent(t *testing.T) {
	broken := errors.New("no extended master secret")
	session := muster.NewSession(muster.Peer{}, func(string, []byte, int) ([]byte, error) { return nil, broken })
	if _, _, err := muster.EnrolmentKey(session, muster.FQDN{}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, _, err := muster.EnrolmentKey(session, muster.FQDN{}); !errors.Is(err, muster.ErrExported) {
		t.Errorf("got %v", err)
	}
}

func TestShortExportYieldsNoKey(t *testing.T) {
	session := muster.NewSession(muster.Peer{}, func(string, []byte, int) ([]byte, error) { return make([]byte, 47), nil })
	if ke, _, err := muster.EnrolmentKey(session, muster.FQDN{}); err == nil || !ke.IsZero() {
		t.Error("47 octets made a key")
	}
}

func TestBindingTellsSessionsApart(t *testing.T) {
	export := func(fill string) muster.Exporter {
		return func(label string, _ []byte, n int) ([]byte, error) {
			return []byte(strings.Repeat(fill, n)), nil
		}
	}
	one := muster.NewSession(muster.Peer{}, export("a"))
	binding := must(one.Binding())
	if again := must(one.Binding()); again != binding {
		t.Error("the binding of one session changes")
	}
	if other := must(muster.NewSession(muster.Peer{}, export("b")).Binding()); other == binding {
		t.Error("two sessions have one binding")
	}
	certified := muster.Peer{Certificate: muster.DigestOf([]byte("leaf"))}
	if other := must(muster.NewSession(muster.Peer{PSKIdentity: "a@mef.example.com"}, export("a")).Binding()); other == binding {
		t.Error("two psk_identities in one session have one binding")
	}
	if other := must(muster.NewSession(certified, export("a")).Binding()); other == binding {
		t.Error("two certificates have one binding")
	}
}

func TestRefusal(t *testing.T) {
	cause := errors.New("cause")
	err := error(muster.Refuse(muster.CodeExpired, "since %d: %w", 7, cause))
	if muster.CodeOf(err) != muster.CodeExpired || !errors.Is(err, cause) || err.Error() != "expired: since 7: cause" {
		t.Errorf("got %v", err)
	}
	if muster.CodeOf(cause) != "" {
		t.Error("an ordinary error has a code")
	}
	seen := map[muster.Code]bool{}
	for _, m := range muster.Codes() {
		if m.Rule == "" || m.Remedy == "" || seen[m.Code] {
			t.Errorf("the meaning of %q is empty or given twice", m.Code)
		}
		seen[m.Code] = true
		if got, ok := m.Code.Meaning(); !ok || got != m {
			t.Errorf("the meaning of %q is not found", m.Code)
		}
	}
	if _, ok := muster.Code("x").Meaning(); ok {
		t.Error("a code that does not exist has a meaning")
	}
}
