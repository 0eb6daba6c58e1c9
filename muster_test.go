package muster_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"muster"
)

type vector struct {
	Name              string
	ExporterOutput    string
	MEFFQDN           string
	MAFID             string
	RelativeKeID      string
	Ke, KeID          string
	Km, KmID          string
	EnroleeBID        string
	Kpsa              string
	SUID              int
	EnrolmentTargetID string
	UsageConstrained  string
}

func vectors(t *testing.T) []vector {
	t.Helper()
	octets, err := os.ReadFile("testdata/vectors/keyschedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []vector }
	if err := json.Unmarshal(octets, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) < 5 {
		t.Fatalf("%d vectors, not at least 5", len(file.Cases))
	}
	return file.Cases
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func revealed(k interface{ Reveal() []byte }) string { return hex.EncodeToString(k.Reveal()) }

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %s, want %s", what, got, want)
	}
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			var gotLabel string
			session := muster.NewSession(muster.Peer{}, func(label string, context []byte, length int) ([]byte, error) {
				gotLabel = label
				if context != nil || length != 48 {
					t.Errorf("exporter called with context %v and length %d", context, length)
				}
				return hex.DecodeString(v.ExporterOutput)
			})
			mef, maf := must(muster.ParseFQDN(v.MEFFQDN)), must(muster.ParseFQDN(v.MAFID))
			ke, keID, err := muster.EnrolmentKey(session, mef)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "label", gotLabel, "EXPORTER-oneM2M-Bootstrap")
			equal(t, "Ke", revealed(ke), v.Ke)
			equal(t, "KeID", keID.String(), v.KeID)
			relative := keID.Relative()
			equal(t, "RelativeKeID", hex.EncodeToString(relative[:]), v.RelativeKeID)

			km := must(ke.MasterCredential(muster.ProfileMasterCredential, maf))
			equal(t, "Km", revealed(km), v.Km)
			equal(t, "KmID", km.KmID(maf).String(), v.KmID)
			equal(t, "Kpsa", revealed(ke.ProvisionedConnectionKey(must(muster.ParseEnroleeID(v.EnroleeBID)))), v.Kpsa)
			target := must(muster.ParseFQDN(v.EnrolmentTargetID))
			equal(t, "usage-constrained key", revealed(ke.UsageConstrained(muster.SUID(v.SUID), target)), v.UsageConstrained)

			constrained := must(ke.MasterCredential(muster.ProfileUsageConstrained, target))
			if v.SUID == int(muster.SUIDForMAF) {
				equal(t, "Km by 10.3.7", revealed(constrained), v.UsageConstrained)
			} else if revealed(constrained) == v.UsageConstrained {
				t.Error("the SUID does not enter the derivation")
			}
			if constrained.Equal(km) {
				t.Error("the two derivation profiles agree")
			}
		})
	}
}

func TestUnknownProfileDerivesNothing(t *testing.T) {
	ke := must(muster.NewKe(make([]byte, 32)))
	if km, err := ke.MasterCredential("guess", must(muster.ParseFQDN("maf.example.com"))); err == nil || !km.IsZero() {
		t.Error("a profile that does not exist derived a key")
	}
}

func TestConnectionKey(t *testing.T) {
	session := muster.NewSession(muster.Peer{}, func(label string, context []byte, length int) ([]byte, error) {
		if label != "EXPORTER-oneM2M-Connection" || context != nil || length != 48 {
			t.Errorf("exporter called with %q, %v, %d", label, context, length)
		}
		octets := make([]byte, 48)
		octets[0], octets[16] = 1, 2
		return octets, nil
	})
	kc, relative, err := muster.ConnectionKey(session)
	if err != nil || relative[0] != 1 || kc.Reveal()[0] != 2 {
		t.Errorf("ConnectionKey = %v, %v", relative, err)
	}
}
