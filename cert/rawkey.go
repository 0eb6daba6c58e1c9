package cert

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"muster"
)

// A digestAlgorithm is one of RFC 6920 that TS-0003 10.1.2 admits: SHA-256, cut
// to a number of octets.
type digestAlgorithm struct {
	name string
	size int
}

func digestAlgorithms() [3]digestAlgorithm {
	return [3]digestAlgorithm{{"sha-256", 32}, {"sha-256-128", 16}, {"sha-256-120", 15}}
}

const niPrefix = "ni:///"

// parseRawKey reads the ni URI of a public key without an authority and without
// a query, neither of which has a meaning here (RFC 6920 3). The digest must be
// in the one spelling of base64url without padding.
func parseRawKey(text string) (string, error) {
	_, _, err := splitRawKey(text)
	return text, err
}

func splitRawKey(text string) (digestAlgorithm, []byte, error) {
	rest, ok := strings.CutPrefix(text, niPrefix)
	name, value, cut := strings.Cut(rest, ";")
	if !ok || !cut {
		return digestAlgorithm{}, nil, fmt.Errorf("it does not have the form ni:///algorithm;digest")
	}
	for _, algorithm := range digestAlgorithms() {
		if name != algorithm.name {
			continue
		}
		if len(value) != base64.RawURLEncoding.EncodedLen(algorithm.size) {
			return digestAlgorithm{}, nil, fmt.Errorf("a %s digest has %d octets", name, algorithm.size)
		}
		digest, err := base64.RawURLEncoding.Strict().DecodeString(value)
		if err != nil {
			return digestAlgorithm{}, nil, fmt.Errorf("the digest is not base64url without padding")
		}
		return algorithm, digest, nil
	}
	return digestAlgorithm{}, nil, fmt.Errorf("the algorithm is not sha-256, sha-256-128 or sha-256-120")
}

// RawKeyNames returns the names under which an instruction could know a raw
// public key, given its DER SubjectPublicKeyInfo: one for each algorithm of
// TS-0003 10.1.2, the longest digest first.
func RawKeyNames(subjectPublicKeyInfo []byte) []muster.CertName {
	var names []muster.CertName
	digest := sha256.Sum256(subjectPublicKeyInfo)
	for _, algorithm := range digestAlgorithms() {
		names = append(names, muster.CertName{
			Flavour: muster.FlavourRawKey,
			Text:    niPrefix + algorithm.name + ";" + base64.RawURLEncoding.EncodeToString(digest[:algorithm.size]),
		})
	}
	return names
}

// MatchRawKey reports whether name is the digest of a raw public key, given its
// DER SubjectPublicKeyInfo, by the algorithm in the name (TS-0003 10.1.2).
func MatchRawKey(name muster.CertName, subjectPublicKeyInfo []byte) bool {
	if name.Flavour != muster.FlavourRawKey {
		return false
	}
	algorithm, want, err := splitRawKey(name.Text)
	if err != nil {
		return false
	}
	digest := sha256.Sum256(subjectPublicKeyInfo)
	return subtle.ConstantTimeCompare(digest[:algorithm.size], want) == 1
}
