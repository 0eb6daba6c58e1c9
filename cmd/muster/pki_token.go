//go:build !pkcs11

package main

import (
	"crypto"

	"muster"
	"muster/seal"
)

// noTokens is why: a token needs a module in C, which this build has no way to call.
func noTokens() error {
	return muster.Refuse(muster.CodeConfiguration, "this build has no PKCS#11; build muster with CGO_ENABLED=1 and -tags pkcs11")
}

func (k tokenKey) open(string, bool) (crypto.Signer, func() error, error) {
	return nil, nil, noTokens()
}

func (k tokenKey) keeper(string, bool) (seal.Keeper, func() error, error) {
	return nil, nil, noTokens()
}
