package cert

import "testing"

func FuzzReadNameConstraints(f *testing.F) {
	for _, constraints := range []Constraints{
		{PermittedDevices: []string{"0.2.481.1/100"}},
		{ExcludedDevices: []string{"hwmodule:1.3.6.1.4.1.99999.1:0a"}, PermittedDomains: []string{"sp.example"}},
		{ExcludedDevices: []string{"hwmodule:1.3.6.1.4.1.99999.1:"}},
	} {
		der, err := constraints.marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		constraints, err := readNameConstraints(der)
		if err != nil {
			return
		}
		// A subtree lies within itself, and so is permitted or excluded.
		if constraints.check(constraints.permitted) != nil && len(constraints.excluded) == 0 {
			t.Errorf("a permitted subtree is not permitted: %+v", constraints)
		}
		if len(constraints.excluded) > 0 && constraints.check(constraints.excluded) == nil {
			t.Errorf("an excluded subtree is not excluded: %+v", constraints)
		}
	})
}
