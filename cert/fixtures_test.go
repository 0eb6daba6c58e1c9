package cert_test

import "crypto"

// publicOnly claims a public key that is not the signer's.
type publicOnly struct {
	crypto.Signer
	public crypto.PublicKey
}

func (p publicOnly) Public() crypto.PublicKey { return p.public }
