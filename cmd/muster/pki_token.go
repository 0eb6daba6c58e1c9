//go:build !pkcs11

package main

import (
	"crypto"

	"muster"
)

// open needs a module in C, which this build has no way to call.
func (k tokenKey) open(string, bool) (crypto.Signer, func() error, error) {
	return nil, nil, muster.Refuse(muster.CodeConfiguration, "this build has no PKCS#11; build muster with CGO_ENABLED=1 and -tags pkcs11")
}
