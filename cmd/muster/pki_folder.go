package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"muster"
)

// The files in the folder of an authority.
const (
	folderCertificate = "certificate.pem" // it, then those above it, without the root
	folderKey         = "key.pem"
	folderToken       = "key.uri" // in place of key.pem: where in a token the key is
	folderIndex       = "index.json"
	folderCRL         = "crl.pem"
	folderLock        = "lock"
)

// A folder is an authority with its files, locked for this process.
type folder struct {
	authority
	path     string
	lock     *os.File
	closeKey func() error
}

// An index is what an authority remembers of its certificates.
type index struct {
	CRLNumber int64    `json:"crlNumber"` // of the last list
	Issued    []issued `json:"issued"`
}

// An issued certificate, which is revoked if RevokedAt is set.
type issued struct {
	Serial    string     `json:"serial"` // hexadecimal
	Subject   string     `json:"subject,omitempty"`
	Names     []string   `json:"names,omitempty"`
	NotAfter  time.Time  `json:"notAfter"`
	RevokedAt *time.Time `json:"revokedAt,omitempty"`
	Reason    int        `json:"reason,omitempty"` // RFC 5280 5.3.1
}

// createFolder makes the folder of a new authority, which make makes with the
// key. The key is new, in a file or, with a URI, in a token.
func createFolder(path, tokenURI string, make func(crypto.Signer) (*authority, error)) (err error) {
	if entries, err := os.ReadDir(path); err == nil && len(entries) > 0 {
		return configErrorf("%s is not empty; an authority has a folder of its own", path)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return configErrorf("%w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return configErrorf("%w", err)
	}
	var signer crypto.Signer
	if tokenURI != "" {
		var closeKey func() error
		if signer, closeKey, err = openTokenKey(tokenURI, true); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeKey()) }()
		err = writeNew(filepath.Join(path, folderToken), []byte(tokenURI+"\n"), 0o600)
	} else {
		var key *ecdsa.PrivateKey
		if key, err = newKey(); err != nil {
			return err
		}
		signer, err = key, writeNewKey(filepath.Join(path, folderKey), key)
	}
	if err != nil {
		return err
	}
	a, err := make(signer)
	if err != nil {
		return err
	}
	chain := a.chain
	if len(chain) == 0 {
		chain = []*x509.Certificate{a.certificate}
	}
	return errors.Join(
		replaceFile(filepath.Join(path, folderIndex), []byte("{}\n"), 0o600),
		writeNew(filepath.Join(path, folderCertificate), encodeCertificates(chain...), 0o644))
}

// openFolder opens an authority, which no other process can use then.
func openFolder(path string) (*folder, error) {
	chain, err := readCertificates([]string{filepath.Join(path, folderCertificate)})
	if err != nil {
		return nil, err
	}
	f := &folder{authority: authority{certificate: chain[0]}, path: path}
	if string(chain[0].RawSubject) != string(chain[0].RawIssuer) {
		f.chain = chain
	}
	source := filepath.Join(path, folderKey)
	if uri, err := os.ReadFile(filepath.Join(path, folderToken)); err == nil {
		source = strings.TrimSpace(string(uri))
	}
	if f.key, f.closeKey, err = loadKey(source); err != nil {
		return nil, err
	}
	if key, ok := f.key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(f.certificate.PublicKey) {
		return nil, errors.Join(configErrorf("%s: the key is not that of the certificate", path), f.closeKey())
	}
	f.lock, err = os.OpenFile(filepath.Join(path, folderLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(configErrorf("%s: lock: %w", path, err), f.closeKey())
	}
	return f, nil
}

func (f *folder) close() error { return errors.Join(f.lock.Close(), f.closeKey()) }

// withFolder opens an authority for the time of a call.
func withFolder(path string, do func(*folder) error) error {
	f, err := openFolder(path)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.close())
}

// register writes a certificate down before anybody gets it.
func (f *folder) register(c *x509.Certificate, names ...muster.CertName) error {
	return f.change(func(x *index) error {
		entry := issued{Serial: serialText(c.SerialNumber), Subject: c.Subject.String(), NotAfter: c.NotAfter}
		for _, name := range names {
			entry.Names = append(entry.Names, name.String())
		}
		x.Issued = append(x.Issued, entry)
		return nil
	})
}

func serialText(serial *big.Int) string { return fmt.Sprintf("%x", serial) }

func readIndex(path string) (*index, error) {
	octets, err := os.ReadFile(filepath.Join(path, folderIndex))
	if err != nil {
		return nil, configErrorf("%w", err)
	}
	x := new(index)
	if err := json.Unmarshal(octets, x); err != nil {
		return nil, configErrorf("%s: %v", filepath.Join(path, folderIndex), err)
	}
	return x, nil
}

func (f *folder) change(change func(*index) error) error {
	x, err := readIndex(f.path)
	if err != nil {
		return err
	}
	if err := change(x); err != nil {
		return err
	}
	octets, err := json.MarshalIndent(x, "", " ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(f.path, folderIndex), append(octets, '\n'), 0o600)
}

// replaceFile writes a file so that after a crash it is the old one or the new.
func replaceFile(path string, octets []byte, mode fs.FileMode) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return configErrorf("%w", err)
	}
	_, err = temporary.Write(octets)
	if err = errors.Join(err, temporary.Chmod(mode), temporary.Sync(), temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(configErrorf("%w", err), os.Remove(temporary.Name()))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return configErrorf("%w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeNew writes a file that must not exist.
func writeNew(path string, octets []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return configErrorf("%w", err)
	}
	_, err = file.Write(octets)
	return errors.Join(err, file.Sync(), file.Close())
}

func writeNewKey(path string, key *ecdsa.PrivateKey) error {
	encoded, err := encodeKey(key)
	if err != nil {
		return err
	}
	return writeNew(path, encoded, 0o600)
}
