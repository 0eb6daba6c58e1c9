package cert

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"muster"
)

// A Validity is the period in which a certificate is valid, both ends included,
// to the second.
type Validity struct{ NotBefore, NotAfter time.Time }

// Constraints bind an authority to a set of names (RFC 5280 4.2.1.10).
type Constraints struct {
	// Domains are subtrees for dNSName and URI alike: "sp.example" is the
	// domain itself and all below it.
	PermittedDomains, ExcludedDomains []string
	// Devices are subtrees of hardware identifiers: "0.2.481.1/100", or
	// "hwmodule:1.3.6.1.4.1.99999.1:" for all modules of a hwType
	// (TS-0003 10.1.1.4.2).
	PermittedDevices, ExcludedDevices []string
}

func (c Constraints) isZero() bool {
	return len(c.PermittedDomains)+len(c.ExcludedDomains)+len(c.PermittedDevices)+len(c.ExcludedDevices) == 0
}

// RootTemplate returns the template of a self-signed authority.
func RootTemplate(random io.Reader, commonName string, validity Validity) (*x509.Certificate, error) {
	template, err := newTemplate(random, commonName, validity)
	if err != nil {
		return nil, err
	}
	asAuthority(template)
	return template, nil
}

// IntermediateTemplate returns the template of an authority that certifies
// leaves only, and no other names than the constraints allow. It fits beneath an
// authority with any number of intermediates below it.
func IntermediateTemplate(random io.Reader, commonName string, validity Validity, constraints Constraints) (*x509.Certificate, error) {
	template, err := newTemplate(random, commonName, validity)
	if err != nil {
		return nil, err
	}
	asAuthority(template)
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	if constraints.isZero() {
		return template, nil
	}
	value, err := constraints.marshal()
	if err != nil {
		return nil, fmt.Errorf("name constraints: %w", err)
	}
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidNameConstraints, Critical: true, Value: value})
	return template, nil
}

// LeafTemplate returns the template of a certificate for a peer with the given
// names, each in the form of its flavour (TS-0003 10.1.1.4 to 10.1.1.8). Without
// usages the certificate serves in every role. The common name is for the eyes
// of people and may be empty; the subjectAltName is critical then (RFC 5280
// 4.1.2.6).
func LeafTemplate(random io.Reader, commonName string, validity Validity, names []muster.CertName, usages ...Usage) (*x509.Certificate, error) {
	template, err := newTemplate(random, commonName, validity)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	for _, usage := range usages {
		extended, ok := usage.extended()
		if !ok {
			return nil, fmt.Errorf("usage %d is neither that of a client nor of a server", usage)
		}
		template.ExtKeyUsage = append(template.ExtKeyUsage, extended)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("a leaf needs a name")
	}
	extension, err := SubjectAltName(names...)
	if err != nil {
		return nil, err
	}
	extension.Critical = commonName == ""
	template.ExtraExtensions = append(template.ExtraExtensions, extension)
	return template, nil
}

// SubjectAltName returns the extension that carries the names, not critical. A
// certificate or a signing request (TS-0003 10.1.4) takes it among its
// ExtraExtensions.
func SubjectAltName(names ...muster.CertName) (pkix.Extension, error) {
	value, err := marshalAltNames(names)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("subjectAltName: %w", err)
	}
	return pkix.Extension{Id: oidSubjectAltName, Value: value}, nil
}

// Issue signs a template with the key of its issuer and returns the certificate
// in DER. A root is its own issuer: pass the template twice. The signature uses
// the hash that fits the key: SHA-256 for P-256.
func Issue(random io.Reader, template, issuer *x509.Certificate, subject crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	if len(template.SubjectKeyId) == 0 {
		id, err := keyID(subject)
		if err != nil {
			return nil, err
		}
		copied := *template
		copied.SubjectKeyId = id
		if issuer == template {
			issuer = &copied
		}
		template = &copied
	}
	der, err := x509.CreateCertificate(random, template, issuer, subject, key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	return der, nil
}

// keyID is method 1 of RFC 7093: 160 bits of the SHA-256 of the key.
func keyID(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	digest := sha256.Sum256(info.Key.Bytes)
	return digest[:20], nil
}

// serialSize is the size of a serial number in octets: 127 random bits, more
// than anybody can guess, and positive.
const serialSize = 16

func newTemplate(random io.Reader, commonName string, validity Validity) (*x509.Certificate, error) {
	if !validity.NotBefore.Before(validity.NotAfter) {
		return nil, fmt.Errorf("the validity ends at %s and begins at %s", stamp(validity.NotAfter), stamp(validity.NotBefore))
	}
	serial := make([]byte, serialSize)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of one size
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    validity.NotBefore,
		NotAfter:     validity.NotAfter,
	}, nil
}

// asAuthority makes a template one of an authority; digitalSignature is asked of
// all certificates (TS-0003 10.1.1.1).
func asAuthority(template *x509.Certificate) {
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLen = -1
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
}

func (c Constraints) marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addSubtrees(b, 0, c.PermittedDomains, c.PermittedDevices)
		addSubtrees(b, 1, c.ExcludedDomains, c.ExcludedDevices)
	})
	return b.Bytes()
}

func addSubtrees(b *cryptobyte.Builder, tag uint8, domains, devices []string) {
	if len(domains)+len(devices) == 0 {
		return
	}
	b.AddASN1(cryptobyte_asn1.Tag(tag).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		for _, text := range domains {
			domain, err := parseDomain(text)
			if err != nil {
				b.SetError(err)
				return
			}
			addSubtree(b, formDNSName, domain)
			// A URI constraint is for one host, or with a leading period for
			// all hosts below it.
			addSubtree(b, formURI, domain)
			addSubtree(b, formURI, "."+domain)
		}
		for _, device := range devices {
			b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				if err := addDeviceSubtree(b, device); err != nil {
					b.SetError(err)
				}
			})
		}
	})
}

func addSubtree(b *cryptobyte.Builder, form int, text string) {
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addTagged(b, cryptobyte_asn1.Tag(form).ContextSpecific(), []byte(text))
	})
}

// addDeviceSubtree adds the base of a subtree. It differs from a name in that a
// hwSerialNum may be empty.
func addDeviceSubtree(b *cryptobyte.Builder, text string) error {
	if rest, ok := strings.CutPrefix(text, hardwareModulePrefix); ok {
		kind, isWhole := strings.CutSuffix(rest, ":")
		if !isWhole {
			return addDevice(b, text)
		}
		oid, err := parseOID(kind)
		if err != nil {
			return err
		}
		addHardwareModule(b, hardwareModule{kind: oid})
		return nil
	}
	return addDevice(b, text)
}
