package keyring

import (
	"crypto/rand"
	"encoding/json"
	"fmt"

	"muster"
	"muster/seal"
)

// kpmFile is the form on disk of a pre-provisioned key.
type kpmFile struct {
	Version int          `json:"version"`
	DataKey []byte       `json:"dataKey"` // wrapped
	KpmID   muster.KpmID `json:"kpmID"`
	Kpm     []byte       `json:"kpm"` // sealed
}

// WriteKpm writes a pre-provisioned key to a file of its own, sealed under the root
// key in another file. A file that is there is replaced, whole and durably.
func WriteKpm(path, rootKeyPath string, id muster.KpmID, kpm muster.Kpm) error {
	root, err := seal.ReadRoot(rootKeyPath)
	if err != nil {
		return muster.Refuse(muster.CodeConfiguration, "kpm: %w", err)
	}
	sealer := seal.New(root, rand.Reader)
	wrapped, err := sealer.NewDataKey(dataKey)
	if err == nil {
		err = sealer.UseDataKey(dataKey, wrapped)
	}
	if err != nil {
		return fmt.Errorf("kpm: %w", err)
	}
	octets := kpm.Reveal()
	defer clear(octets)
	sealed, err := sealer.Seal(dataKey, octets, kpmBinding(id)...)
	if err != nil {
		return fmt.Errorf("kpm: %w", err)
	}
	content, err := json.MarshalIndent(kpmFile{formatVersion, wrapped, id, sealed}, "", "  ")
	if err == nil {
		err = replace(path, append(content, '\n'))
	}
	if err != nil {
		return fmt.Errorf("kpm: %w", err)
	}
	return nil
}

// ReadKpm returns what WriteKpm has written for an identifier. The error has the
// code configuration if the file is not that or does not open.
func ReadKpm(path, rootKeyPath string, id muster.KpmID) (muster.Kpm, error) {
	kpm, err := readKpm(path, rootKeyPath, id)
	if err != nil {
		return muster.Kpm{}, muster.Refuse(muster.CodeConfiguration, "kpm: %w", err)
	}
	return kpm, nil
}

func readKpm(path, rootKeyPath string, id muster.KpmID) (muster.Kpm, error) {
	root, err := seal.ReadRoot(rootKeyPath)
	if err != nil {
		return muster.Kpm{}, err
	}
	content, err := readFile(path)
	if err != nil {
		return muster.Kpm{}, err
	}
	var f kpmFile
	if err := json.Unmarshal(content, &f); err != nil {
		return muster.Kpm{}, fmt.Errorf("%s: %w", path, err)
	}
	if f.Version != formatVersion || f.KpmID != id {
		return muster.Kpm{}, fmt.Errorf("%s has the key of %q in version %d, not that of %q in version %d", path, f.KpmID, f.Version, id, formatVersion)
	}
	sealer := seal.New(root, rand.Reader)
	if err := sealer.UseDataKey(dataKey, f.DataKey); err != nil {
		return muster.Kpm{}, fmt.Errorf("%s: %w", path, err)
	}
	octets, err := sealer.Open(dataKey, f.Kpm, kpmBinding(id)...)
	if err != nil {
		return muster.Kpm{}, fmt.Errorf("%s: %w", path, err)
	}
	defer clear(octets)
	return muster.NewKpm(octets)
}

func kpmBinding(id muster.KpmID) []string {
	return []string{"pre-provisioned key", id.Issuer().String(), id.String()}
}
