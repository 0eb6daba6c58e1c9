package mustertest

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/cert"
)

// A Chain is one file of the corpus in testdata/chains, whose README has the
// format: what a peer sends, what the other side is configured with, and the
// verdict.
type Chain struct {
	Slug   string // the file's name without its extension
	About  string
	Expect muster.Code // of the refusal; empty for a chain that is accepted
	Sends  [][]byte    // DER, the leaf first; not all of it parses
	Key    crypto.Signer
	Trust  cert.Trust
	Time   time.Time
}

// ReadChains reads the corpus from a folder, sorted by name.
func ReadChains(t testing.TB, folder string) []Chain {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no chains in %s: %v", folder, err)
	}
	slices.Sort(files)
	var chains []Chain
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := ParseChainFile(string(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		chain.Slug = strings.TrimSuffix(filepath.Base(file), ".txt")
		chains = append(chains, chain)
	}
	return chains
}

// ParseChainFile reads one file of the corpus.
func ParseChainFile(text string) (Chain, error) {
	var chain Chain
	section := ""
	for text != "" {
		if strings.HasPrefix(text, "-----BEGIN ") {
			block, rest := pem.Decode([]byte(text))
			if block == nil {
				return Chain{}, fmt.Errorf("a PEM block is malformed")
			}
			if err := chain.add(section, block.Bytes); err != nil {
				return Chain{}, err
			}
			text = string(rest)
			continue
		}
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return Chain{}, fmt.Errorf("the line %q has no colon", line)
		}
		section = key
		if err := chain.set(key, strings.TrimSpace(value)); err != nil {
			return Chain{}, err
		}
	}
	return chain, nil
}

// set reads a header line; a line that begins a section has no value.
func (c *Chain) set(key, value string) error {
	switch key {
	case "about":
		c.About = value
	case "expect":
		if value != "ok" {
			c.Expect = muster.Code(value)
		}
	case "name":
		flavour, name, _ := strings.Cut(value, ":")
		c.Trust.Name = muster.CertName{Flavour: muster.Flavour(flavour), Text: name}
	case "usage":
		switch value {
		case cert.UsageClient.String():
			c.Trust.Usage = cert.UsageClient
		case cert.UsageServer.String():
			c.Trust.Usage = cert.UsageServer
		default:
			return fmt.Errorf("%q is no usage", value)
		}
	case "profile":
		return c.Trust.Profile.UnmarshalText([]byte(value))
	case "time":
		var err error
		c.Time, err = time.Parse(time.RFC3339, value)
		return err
	case "sends", "anchors", "configured", "key":
		if value != "" {
			return fmt.Errorf("%q follows the beginning of a section", value)
		}
	default:
		return fmt.Errorf("there is no header %q", key)
	}
	return nil
}

func (c *Chain) add(section string, der []byte) error {
	switch section {
	case "sends":
		c.Sends = append(c.Sends, der)
	case "anchors", "configured":
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if section == "anchors" {
			c.Trust.Anchors = append(c.Trust.Anchors, parsed)
		} else {
			c.Trust.Intermediates = append(c.Trust.Intermediates, parsed)
		}
	case "key":
		parsed, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return err
		}
		c.Key, _ = parsed.(crypto.Signer)
	default:
		return fmt.Errorf("a PEM block follows %q", section)
	}
	return nil
}
