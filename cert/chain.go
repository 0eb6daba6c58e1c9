package cert

import (
	"crypto/rsa"
	"crypto/x509"

	"muster"
)

// The caps on what a peer presents. They are examined before any signature.
const (
	// MaxIntermediates is the number of certificates in a chain beside the leaf;
	// also of those between the leaf and the anchor in a path.
	MaxIntermediates = 4
	// MaxCertificate is the size of a certificate in octets.
	MaxCertificate = 16 << 10
	// MaxRSA is the size of an RSA modulus in bits.
	MaxRSA = 4096
	// MaxExtensions is the number of extensions of a certificate.
	MaxExtensions = 32
	// MaxNames is the number of names in a leaf's subjectAltName.
	MaxNames = 32
)

// ParseChain parses a chain as a handshake carries it: DER, the leaf first. The
// error is a Refusal; the caps on number and size are examined before anything
// is parsed.
func ParseChain(raw [][]byte) ([]*x509.Certificate, error) {
	if len(raw) == 0 {
		return nil, muster.Refuse(muster.CodeNoCertificate, "the peer sent no certificate")
	}
	if len(raw) > 1+MaxIntermediates {
		return nil, muster.Refuse(muster.CodeChainTooLong, "%d certificates beside the leaf exceed %d", len(raw)-1, MaxIntermediates)
	}
	for i, der := range raw {
		if len(der) > MaxCertificate {
			return nil, muster.Refuse(muster.CodeCertificateTooLarge, "certificate %d has %d octets, more than %d", i, len(der), MaxCertificate)
		}
	}
	chain := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, muster.Refuse(muster.CodeCertificateMalformed, "certificate %d: %s", i, quote(err.Error()))
		}
		chain[i] = certificate
	}
	return chain, nil
}

// overCap returns a Refusal for a certificate that costs too much to look at,
// and nil for any other.
func overCap(c *x509.Certificate) *muster.Refusal {
	if len(c.Raw) > MaxCertificate {
		return muster.Refuse(muster.CodeCertificateTooLarge, "it has %d octets, more than %d", len(c.Raw), MaxCertificate)
	}
	if len(c.Extensions) > MaxExtensions {
		return muster.Refuse(muster.CodeCertificateTooLarge, "it has %d extensions, more than %d", len(c.Extensions), MaxExtensions)
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > MaxRSA {
		return muster.Refuse(muster.CodeCertificateTooLarge, "its RSA key has %d bits, more than %d", key.N.BitLen(), MaxRSA)
	}
	return nil
}
