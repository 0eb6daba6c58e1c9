package cert_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"muster"
	"muster/cert"
	"muster/mustertest"
)

const corpusFolder = "../testdata/chains"

var update = flag.Bool("update", false, "write testdata/chains")

// minChains is the promise of the corpus.
const minChains = 150

func recipes() []recipe {
	return slices.Concat(soundRecipes(), nameRecipes(), altNameRecipes(), leafRecipes(), encodingRecipes(), pathRecipes(), authorityRecipes(), constraintRecipes())
}

// TestCorpusIsMade holds the files against what the recipes make; with -update it
// writes them.
func TestCorpusIsMade(t *testing.T) {
	t.Parallel()
	m := &maker{t}
	wanted := map[string]bool{}
	for _, r := range recipes() {
		file := r.slug + ".txt"
		if wanted[file] {
			t.Errorf("two recipes make %s", file)
		}
		wanted[file] = true
		text := r.text(m)
		path := filepath.Join(corpusFolder, file)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%s is not what its recipe makes (%v); go test ./cert -run TestCorpusIsMade -update writes it", file, err)
		}
	}
	for _, chain := range mustertest.ReadChains(t, corpusFolder) {
		if !wanted[chain.Slug+".txt"] {
			t.Errorf("%s has no recipe", chain.Slug)
		}
	}
	if len(wanted) < minChains {
		t.Errorf("%d chains, fewer than %d", len(wanted), minChains)
	}
}

// TestCorpus gives every chain to ParseChain and Verify, as a handshake does.
func TestCorpus(t *testing.T) {
	t.Parallel()
	for _, chain := range mustertest.ReadChains(t, corpusFolder) {
		t.Run(chain.Slug, func(t *testing.T) {
			t.Parallel()
			if _, ok := chain.Expect.Meaning(); !ok && chain.Expect != "" || chain.About == "" {
				t.Fatalf("the code %q has no meaning, or nothing is said about the chain", chain.Expect)
			}
			peer, findings, err := judge(chain)
			if muster.CodeOf(err) != chain.Expect || (err == nil) != (chain.Expect == "") {
				t.Fatalf("%s: %v, want %q; findings: %v", chain.About, err, chain.Expect, findings)
			}
			if (err == nil) != (peer.Name == chain.Trust.Name && !peer.Name.IsZero()) {
				t.Errorf("the peer is %+v beside %v", peer, err)
			}
		})
	}
}

// judge is what a handshake does with a chain.
func judge(chain mustertest.Chain) (muster.Peer, cert.Findings, error) {
	parsed, err := cert.ParseChain(chain.Sends)
	if err != nil {
		return muster.Peer{}, nil, err
	}
	peer, findings := cert.Verify(parsed, chain.Trust, chain.Time)
	return peer, findings, findings.Err()
}
