//go:build pkcs11

package main

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"errors"

	"github.com/ThalesGroup/crypto11"
)

// idSize is that of the CKA_ID of a new key pair in octets.
const idSize = 16

// open returns the key pair of the label or, if it is to be created, a new one
// on P-256; there must be none yet. The key never leaves the token.
func (k tokenKey) open(pin string, create bool) (crypto.Signer, func() error, error) {
	token, err := crypto11.Configure(&crypto11.Config{Path: k.module, TokenLabel: k.token, Pin: pin})
	if err != nil {
		return nil, nil, configErrorf("the token %q: %w", k.token, err)
	}
	signer, err := k.find(token, create)
	if err != nil {
		return nil, nil, errors.Join(err, token.Close())
	}
	return signer, token.Close, nil
}

func (k tokenKey) find(token *crypto11.Context, create bool) (crypto.Signer, error) {
	pairs, err := token.FindKeyPairs(nil, []byte(k.object))
	switch {
	case err != nil:
		return nil, configErrorf("the token %q: %w", k.token, err)
	case create && len(pairs) > 0:
		return nil, configErrorf("the token %q has a key %q already", k.token, k.object)
	case create:
		id := make([]byte, idSize)
		rand.Read(id) // never fails
		signer, err := token.GenerateECDSAKeyPairWithLabel(id, []byte(k.object), elliptic.P256())
		if err != nil {
			return nil, configErrorf("the token %q: %w", k.token, err)
		}
		return signer, nil
	case len(pairs) != 1:
		return nil, configErrorf("the token %q has %d keys %q, not one", k.token, len(pairs), k.object)
	}
	return pairs[0], nil
}
