package revocation

import (
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"muster/mustertest"
)

// FuzzScope holds the reader of issuingDistributionPoint against a rule: a list
// whose scope cannot be read in full covers nothing.
func FuzzScope(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Add([]byte{0x30, 3, 0x81, 1, 0xff})
	f.Add([]byte{0x30, 3, 0x84, 1, 0xff})
	f.Add([]byte{0x30, 7, 0xa0, 5, 0xa0, 3, 0x86, 1, 'a'})
	f.Fuzz(func(t *testing.T, der []byte) {
		s, err := readScope(der)
		if err != nil {
			if s.covers(&x509.Certificate{}) && s.raw != nil {
				t.Fatal("a scope beside an error")
			}
			return
		}
		named := &x509.Certificate{CRLDistributionPoints: s.points}
		if s.points != nil && s.covers(&x509.Certificate{}) {
			t.Error("covers a certificate without the point")
		}
		if want := !s.authorities && (s.points == nil || len(s.points) > 0); s.covers(named) != want {
			t.Errorf("%+v covers a leaf with its points: %v", s, !want)
		}
	})
}

func FuzzPoints(f *testing.F) {
	f.Add([]byte{0x30, 9, 0x30, 7, 0xa0, 5, 0xa0, 3, 0x86, 1, 'a'})
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		uris, err := readPoints(der)
		if err != nil && uris != nil {
			t.Fatal("URIs beside an error")
		}
		for _, uri := range uris {
			if len(uri) > len(der) {
				t.Fatalf("%q is not in the input", uri)
			}
		}
	})
}

// FuzzResponseData finds the nonce again in whatever follows it.
func FuzzResponseData(f *testing.F) {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyte_asn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte{1}) })
		b.AddASN1GeneralizedTime(time.Unix(0, 0).UTC())
		b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier([]int{1, 3, 14, 3, 2, 26}) })
					b.AddASN1OctetString([]byte{1})
					b.AddASN1OctetString([]byte{2})
					b.AddASN1BigInt(big.NewInt(7))
				})
			})
		})
		b.AddASN1(cryptobyte_asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) { addNonce(b, []byte("nonce")) })
		})
	})
	seed := b.BytesOrPanic()
	if data, err := readResponseData(seed); err != nil || string(data.nonce) != "nonce" || len(data.ids) != 1 || data.ids[0].serial.Int64() != 7 {
		f.Fatalf("%+v, %v", data, err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, der []byte) {
		data, err := readResponseData(der)
		if err != nil && (data.ids != nil || data.nonce != nil) {
			t.Fatal("data beside an error")
		}
		for _, id := range data.ids {
			if id.serial == nil {
				t.Fatal("an identifier without a serial number")
			}
		}
	})
}

// FuzzList changes a sound list: what is parsed must be verified by nobody, unless
// the signed octets are the same.
func FuzzList(f *testing.F) {
	p := mustertest.NewPKI(f)
	der, err := x509.CreateRevocationList(nil, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: p.Now, NextUpdate: p.Now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: p.Now, ReasonCode: 1}},
	}, p.Intermediate.Certificate, p.Intermediate.Key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	sound, err := x509.ParseRevocationList(der)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		l, err := parseList(der, "fuzz")
		if err != nil {
			return
		}
		body := slices.Clone(l.unproved.RawTBSRevocationList)
		if l.signedBy(p.Intermediate.Certificate) == nil && !slices.Equal(body, sound.RawTBSRevocationList) {
			t.Error("a list that was not issued is verified")
		}
	})
}
