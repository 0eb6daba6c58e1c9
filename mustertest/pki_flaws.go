package mustertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"muster"
	"muster/cert"
)

// A Draft is a certificate that is about to be issued.
type Draft struct {
	Template *x509.Certificate
	Key      crypto.Signer // nil for a new key on P-256
	Now      time.Time     // when the PKI was made
}

// A Flaw changes a certificate before it is issued. Those below bring in one
// fault each; a test may write its own.
type Flaw func(t testing.TB, d *Draft)

// Expired ends the validity a minute before the PKI was made.
func Expired() Flaw {
	return func(_ testing.TB, d *Draft) { d.Template.NotAfter = d.Now.Add(-time.Minute) }
}

// NotYetValid begins the validity an hour after the PKI was made.
func NotYetValid() Flaw {
	return func(_ testing.TB, d *Draft) { d.Template.NotBefore = d.Now.Add(time.Hour) }
}

// ExtKeyUsage replaces the extendedKeyUsage; without usages there is none.
func ExtKeyUsage(usages ...x509.ExtKeyUsage) Flaw {
	return func(_ testing.TB, d *Draft) { d.Template.ExtKeyUsage = usages }
}

// KeyUsage replaces the keyUsage; with zero there is none.
func KeyUsage(usage x509.KeyUsage) Flaw {
	return func(_ testing.TB, d *Draft) { d.Template.KeyUsage = usage }
}

// AsAuthority makes a leaf a certificate of an authority.
func AsAuthority() Flaw {
	return func(_ testing.TB, d *Draft) {
		d.Template.IsCA = true
		d.Template.MaxPathLen = -1
		d.Template.KeyUsage |= x509.KeyUsageCertSign
	}
}

// NoAuthority makes an intermediate that may not certify: with basicConstraints
// that say so.
func NoAuthority() Flaw {
	return func(_ testing.TB, d *Draft) {
		d.Template.IsCA = false
		d.Template.MaxPathLen, d.Template.MaxPathLenZero = -1, false
		d.Template.KeyUsage &^= x509.KeyUsageCertSign
	}
}

// PathLength allows an authority n intermediates below it, or any number with -1.
func PathLength(n int) Flaw {
	return func(_ testing.TB, d *Draft) { d.Template.MaxPathLen, d.Template.MaxPathLenZero = n, n == 0 }
}

// CommonNameOnly takes the subjectAltName away and puts text into the common name.
func CommonNameOnly(text string) Flaw {
	return func(t testing.TB, d *Draft) {
		withoutExtension(d, oidSubjectAltName())
		d.Template.Subject.CommonName = text
	}
}

// AltName replaces the value of the subjectAltName.
func AltName(value []byte) Flaw {
	return func(_ testing.TB, d *Draft) {
		withoutExtension(d, oidSubjectAltName())
		d.Template.ExtraExtensions = append(d.Template.ExtraExtensions, pkix.Extension{Id: oidSubjectAltName(), Value: value})
	}
}

// Domains replaces the subjectAltName by dNSNames that are not looked at, so that
// they may be wildcards or worse.
func Domains(names ...string) Flaw {
	return func(t testing.TB, d *Draft) {
		var b cryptobyte.Builder
		b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, name := range names {
				b.AddASN1(cryptobyte_asn1.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
			}
		})
		AltName(b.BytesOrPanic())(t, d)
	}
}

// Names replaces the subjectAltName.
func Names(names ...muster.CertName) Flaw {
	return func(t testing.TB, d *Draft) {
		extension, err := cert.SubjectAltName(names...)
		if err != nil {
			t.Fatal(err)
		}
		AltName(extension.Value)(t, d)
	}
}

// Extension adds an extension, even if there is one with its identifier.
func Extension(extension pkix.Extension) Flaw {
	return func(_ testing.TB, d *Draft) {
		d.Template.ExtraExtensions = append(d.Template.ExtraExtensions, extension)
	}
}

// Constrained gives an authority name constraints.
func Constrained(t testing.TB, p *PKI, constraints cert.Constraints) Flaw {
	t.Helper()
	template, err := cert.IntermediateTemplate(rand.Reader, "", p.Validity(), constraints)
	if err != nil {
		t.Fatal(err)
	}
	return func(_ testing.TB, d *Draft) {
		d.Template.ExtraExtensions = append(d.Template.ExtraExtensions, template.ExtraExtensions...)
	}
}

// WithKey uses a key instead of a new one on P-256.
func WithKey(key crypto.Signer) Flaw {
	return func(_ testing.TB, d *Draft) { d.Key = key }
}

// OnCurve uses a new key on another curve.
func OnCurve(curve elliptic.Curve) Flaw {
	return func(t testing.TB, d *Draft) {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d.Key = key
	}
}

// WithEd25519 uses a new Ed25519 key.
func WithEd25519() Flaw {
	return func(t testing.TB, d *Draft) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d.Key = key
	}
}

// WithRSA uses a new RSA key. Making one takes a while.
func WithRSA(bits int) Flaw {
	return func(t testing.TB, d *Draft) {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		d.Key = key
	}
}

// SignedWith has the issuer sign with an algorithm that fits its key, for
// example x509.ECDSAWithSHA384.
func SignedWith(algorithm x509.SignatureAlgorithm) Flaw {
	return func(_ testing.TB, d *Draft) { d.Template.SignatureAlgorithm = algorithm }
}

func oidSubjectAltName() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

func withoutExtension(d *Draft, id asn1.ObjectIdentifier) {
	d.Template.ExtraExtensions = slices.DeleteFunc(slices.Clone(d.Template.ExtraExtensions),
		func(extension pkix.Extension) bool { return extension.Id.Equal(id) })
}
