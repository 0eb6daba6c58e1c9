//go:build pkcs11

package main

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/ThalesGroup/crypto11"

	"muster/seal"
)

// keptPrefix begins what a token has encrypted: AES-256-GCM, nonce and ciphertext in base64.
const keptPrefix = "pkcs11:v1:"

// A tokenKeeper is a Keeper whose AES key never leaves a token.
type tokenKeeper struct{ aead cipher.AEAD }

// keeper returns the AES key of the label, or makes it if it is to be created.
func (k tokenKey) keeper(pin string, create bool) (seal.Keeper, func() error, error) {
	token, err := crypto11.Configure(&crypto11.Config{Path: k.module, TokenLabel: k.token, Pin: pin})
	if err != nil {
		return nil, nil, configErrorf("the token %q: %w", k.token, err)
	}
	aead, err := k.findAES(token, create)
	if err != nil {
		return nil, nil, errors.Join(configErrorf("the token %q: the key %q: %w", k.token, k.object, err), token.Close())
	}
	return tokenKeeper{aead}, token.Close, nil
}

func (k tokenKey) findAES(token *crypto11.Context, create bool) (cipher.AEAD, error) {
	keys, err := token.FindKeys(nil, []byte(k.object))
	if err != nil {
		return nil, err
	}
	switch {
	case len(keys) == 0 && create:
		id := make([]byte, idSize)
		rand.Read(id) // never fails
		key, err := token.GenerateSecretKeyWithLabel(id, []byte(k.object), 256, crypto11.CipherAES)
		if err != nil {
			return nil, err
		}
		return key.NewGCM()
	case len(keys) == 1:
		return keys[0].NewGCM()
	}
	return nil, fmt.Errorf("there are %d keys of that label, not one", len(keys))
}

// Encrypt implements seal.Keeper.
func (k tokenKeeper) Encrypt(_ context.Context, octets []byte) (string, error) {
	nonce := make([]byte, k.aead.NonceSize())
	rand.Read(nonce) // never fails
	return keptPrefix + base64.StdEncoding.EncodeToString(k.aead.Seal(nonce, nonce, octets, []byte(keptPrefix))), nil
}

// Decrypt implements seal.Keeper.
func (k tokenKeeper) Decrypt(_ context.Context, text string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, keptPrefix)
	octets, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(octets) < k.aead.NonceSize() {
		return nil, errors.New("the file was not encrypted by a token")
	}
	return k.aead.Open(nil, octets[:k.aead.NonceSize()], octets[k.aead.NonceSize():], []byte(keptPrefix))
}
