package handshake

import (
	"crypto/x509"

	"muster"
)

// The caps on what a peer presents, applied before any signature is checked.
const (
	MaxChain       = 5        // certificates: a leaf and four intermediates
	MaxCertificate = 16 << 10 // octets of DER
)

// ParseChain parses the certificates that a peer presented, leaf first: 1 to
// MaxChain of them, each of at most MaxCertificate octets. Its errors are
// Refusals.
func ParseChain(raw [][]byte) ([]*x509.Certificate, error) {
	if err := checkChain(raw); err != nil {
		return nil, err
	}
	chain := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, muster.Refuse(muster.CodeCertificateMalformed, "certificate %d of the chain: %w", i, err)
		}
		chain[i] = certificate
	}
	return chain, nil
}

func checkChain(raw [][]byte) error {
	if len(raw) == 0 {
		return muster.Refuse(muster.CodeNoCertificate, "the peer presented no certificate")
	}
	if len(raw) > MaxChain {
		return muster.Refuse(muster.CodeChainTooLong, "the peer presented %d certificates, more than %d", len(raw), MaxChain)
	}
	for i, der := range raw {
		if len(der) > MaxCertificate {
			return muster.Refuse(muster.CodeCertificateTooLarge, "certificate %d of the chain has %d octets, more than %d", i, len(der), MaxCertificate)
		}
	}
	return nil
}
