package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// RootSize is the size in octets of a root key and of a data key.
const RootSize = 32

// maxRootFile is the size in octets of the longest root key file: base64 and a
// line end of two octets.
const maxRootFile = 44 + 2

const rootIDSize = 8

// ErrSecretFile is wrapped by the errors about a file of a secret, as of a root
// key, that is there but cannot be trusted or understood.
var ErrSecretFile = errors.New("unusable secret file")

// A Root is a root key-encryption key. It wraps data keys and nothing else. A
// Root may be used by many goroutines at once.
type Root struct {
	aead cipher.AEAD
	id   [rootIDSize]byte
}

// NewRoot returns the Root of 32 octets, which it does not keep.
func NewRoot(octets []byte) (*Root, error) {
	aead, err := newAEAD(octets)
	if err != nil {
		return nil, err
	}
	// The identifier tells a wrong root key from a damaged record. It is a
	// pseudorandom function of the key under a label of its own, and so tells
	// nothing of the key itself.
	mac := hmac.New(sha256.New, octets)
	mac.Write([]byte("muster root key identifier"))
	return &Root{aead, [rootIDSize]byte(mac.Sum(nil))}, nil
}

// ID returns a public identifier of the root key, 16 hexadecimal digits.
func (r *Root) ID() string { return hex.EncodeToString(r.id[:]) }

// String returns the public identifier.
func (r *Root) String() string { return "root key " + r.ID() }

// Format writes the public identifier for every verb.
func (r *Root) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != RootSize {
		return nil, fmt.Errorf("a sealing key has %d octets, not %d", RootSize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// CreateRoot draws a root key from random and writes it in base64 to a new file
// with mode 0600. The file and its name are durable when CreateRoot returns nil.
// An existing file is never touched: the error then wraps fs.ErrExist.
func CreateRoot(path string, random io.Reader) (err error) {
	var octets [RootSize]byte
	defer clear(octets[:])
	if _, err := io.ReadFull(random, octets[:]); err != nil {
		return fmt.Errorf("draw a root key: %w", err)
	}
	line := append(base64.StdEncoding.AppendEncode(nil, octets[:]), '\n')
	defer clear(line)
	return createFile(path, line)
}

// createFile writes a new file with mode 0600 that is durable, as its name is.
func createFile(path string, octets []byte) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	_, err = file.Write(octets)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// ReplaceRoot gives the root key file next the name of the one at path, which is
// gone then. Both files are in one folder, and the name is durable on return.
func ReplaceRoot(next, path string) error {
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// ReadRoot reads a root key file: 32 octets, as they are or in base64. It must be
// a regular file that only its owner can read (mode 0400 or 0600), or one that
// systemd has loaded as a credential, else the error wraps ErrSecretFile.
func ReadRoot(path string) (*Root, error) {
	octets, err := ReadSecret(path, maxRootFile)
	if err != nil {
		return nil, err
	}
	defer clear(octets)
	key, err := parseRoot(octets)
	if err != nil {
		return nil, fmt.Errorf("%w: %s %w", ErrSecretFile, path, err)
	}
	defer clear(key)
	return NewRoot(key)
}

// ReadSecret reads at most limit octets, and one more of a longer file. It must be
// a file such as ReadRoot reads, else the error wraps ErrSecretFile.
func ReadSecret(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// The opened file is examined and not the name, which may be changed meanwhile.
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrSecretFile, path)
	}
	if mode := info.Mode().Perm(); mode&^fs.FileMode(0o600) != 0 && !(mode == 0o440 && isCredential(path)) {
		return nil, fmt.Errorf("%w: %s has mode %04o; chmod 0400 it, and replace what it holds if others could read it", ErrSecretFile, path, mode)
	}
	return io.ReadAll(io.LimitReader(file, limit+1))
}

// isCredential tells whether systemd has loaded the file for this process. The
// group of such a file is no group: what stands there is the mask of the access
// list by which systemd admits the one user of the service.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(path) == filepath.Clean(dir)
}

// parseRoot returns a copy of the root key in the octets of a file. Its errors
// tell no octet of it.
func parseRoot(file []byte) ([]byte, error) {
	if len(file) == RootSize {
		return bytes.Clone(file), nil
	}
	text := bytes.TrimSuffix(bytes.TrimSuffix(file, []byte("\n")), []byte("\r"))
	key := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(key, text)
	if err != nil || n != RootSize || len(text) != base64.StdEncoding.EncodedLen(RootSize) {
		clear(key)
		return nil, fmt.Errorf("holds neither %d octets nor their base64", RootSize)
	}
	return key[:RootSize], nil
}
