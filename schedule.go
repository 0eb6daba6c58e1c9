package muster

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"golang.org/x/text/unicode/norm"
)

// The labels of TS-0003 10.3.1 for the exporter of RFC 5705. All are used without
// a context, which in (D)TLS 1.2 is not the same as with an empty one.
const (
	labelBootstrap  = "EXPORTER-oneM2M-Bootstrap"
	labelConnection = "EXPORTER-oneM2M-Connection"
)

// The labels of TS-0003 10.3.2, 10.3.3 and 10.3.7, and of the rule by which a MAF
// of Muster assigns a KmID, all for HMAC-SHA-256.
const (
	labelMasterCredential = "oneM2M Enrolment Key to Master Credential derivation"
	labelKpsa             = "oneM2M Enrolment Key to Provisioned Secure Connection Key derivation"
	labelUsageConstrained = "oneM2M Enrolment Key to Usage-Constrained Symmetric Key derivation"
	labelKmID             = "oneM2M Master Credential Identifier derivation"
)

const exportSize = RelativeSize + KeySize

// A DerivationProfile names one of the two ways in which the text derives a Master
// Credential. It is configured alike on Enrolee, MEF and MAF; nobody guesses it
// by trying both.
type DerivationProfile string

const (
	// ProfileMasterCredential is TS-0003 10.3.2, the default.
	ProfileMasterCredential DerivationProfile = "master-credential"
	// ProfileUsageConstrained is TS-0003 10.3.7 with SUID 21.
	ProfileUsageConstrained DerivationProfile = "usage-constrained"
)

// UnmarshalText accepts the two names; anything else is an error.
func (p *DerivationProfile) UnmarshalText(text []byte) error {
	switch v := DerivationProfile(text); v {
	case ProfileMasterCredential, ProfileUsageConstrained:
		*p = v
		return nil
	default:
		return fmt.Errorf("%q is not a derivation profile: want %s or %s", text, ProfileMasterCredential, ProfileUsageConstrained)
	}
}

// EnrolmentKey exports the Enrolment Key and its KeID from the session of an
// Enrolee with a MEF. Both ends get the same result.
//
// TS-0003 10.3.1, 10.3.4
func EnrolmentKey(s *Session, mef FQDN) (Ke, KeID, error) {
	relative, key, err := exportKey(s, labelBootstrap)
	if err != nil {
		return Ke{}, KeID{}, err
	}
	return Ke{key}, NewKeID(relative, mef), nil
}

// ConnectionKey exports the M2M Secure Connection Key and the 16 octets of its
// KcID from the session of a MAF client with its MAF.
//
// TS-0003 10.3.1, 10.3.5
func ConnectionKey(s *Session) (Kc, [RelativeSize]byte, error) {
	relative, key, err := exportKey(s, labelConnection)
	return Kc{key}, relative, err
}

func exportKey(s *Session, label string) (relative [RelativeSize]byte, key secret, err error) {
	octets, err := s.Export(label, nil, exportSize)
	if err != nil {
		return relative, secret{}, err
	}
	defer clear(octets)
	if len(octets) != exportSize {
		return relative, secret{}, fmt.Errorf("the exporter returned %d octets, not %d", len(octets), exportSize)
	}
	copy(relative[:], octets)
	key, err = newSecret(octets[RelativeSize:])
	return relative, key, err
}

// MasterCredential derives Km for a MAF.
//
// TS-0003 10.3.2, 10.3.7
func (k Ke) MasterCredential(profile DerivationProfile, maf FQDN) (Km, error) {
	switch profile {
	case ProfileMasterCredential:
		return Km{k.derive(labelMasterCredential, maf.name)}, nil
	case ProfileUsageConstrained:
		return Km{k.UsageConstrained(SUIDForMAF, maf).secret}, nil
	default:
		return Km{}, fmt.Errorf("%q is not a derivation profile", profile)
	}
}

// ProvisionedConnectionKey derives Kpsa for another Enrolee.
//
// TS-0003 10.3.3
func (k Ke) ProvisionedConnectionKey(enroleeB EnroleeID) Kpsa {
	return Kpsa{k.derive(labelKpsa, enroleeB.id)}
}

// UsageConstrained derives the key for a usage and an Enrolment Target. The SUID
// enters as decimal ASCII.
//
// TS-0003 10.3.7
func (k Ke) UsageConstrained(usage SUID, target FQDN) UsageKey {
	return UsageKey{k.derive(labelUsageConstrained, usage.String()+target.name)}
}

// KmID derives the identifier that a MAF of Muster assigns to Km, and that a
// client of the seed text computes for itself. TS-0003 10.6 leaves the relative
// part to the MAF.
func (k Km) KmID(maf FQDN) KmID {
	mac := k.mac(labelKmID, maf.name)
	return KmID{hexUpper(mac[:RelativeSize]), maf}
}

func (s secret) derive(label, identifier string) secret {
	mac := s.mac(label, identifier)
	defer clear(mac)
	derived, err := newSecret(mac)
	if err != nil {
		panic(err) // SHA-256 yields KeySize octets
	}
	return derived
}

// mac is HMAC-SHA-256 keyed by s over a label and an identifier in UTF-8 and
// normalisation form KC, without salt, length or terminator between them.
func (s secret) mac(label, identifier string) []byte {
	if s.IsZero() {
		panic("muster: derivation from an absent key")
	}
	h := hmac.New(sha256.New, (*s.octets)[:])
	h.Write([]byte(label))
	h.Write(norm.NFKC.AppendString(nil, identifier))
	return h.Sum(nil)
}
