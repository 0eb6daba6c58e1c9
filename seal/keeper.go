package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// A Keeper encrypts root keys under a key that it keeps to itself, as a token or a
// key management service does. Its methods may be called by many goroutines at
// once, and are called when a store is opened, never for a record.
type Keeper interface {
	// Encrypt returns the octets encrypted, as text of one line.
	Encrypt(ctx context.Context, octets []byte) (text string, err error)
	// Decrypt returns what was encrypted.
	Decrypt(ctx context.Context, text string) (octets []byte, err error)
}

// maxKeptFile bounds the file of a root key that a Keeper has encrypted, in octets.
const maxKeptFile = 8 << 10

// CreateKeptRoot is CreateRoot for a root key that a Keeper encrypts: the file
// alone gives no key.
func CreateKeptRoot(ctx context.Context, path string, random io.Reader, keeper Keeper) error {
	var octets [RootSize]byte
	defer clear(octets[:])
	if _, err := io.ReadFull(random, octets[:]); err != nil {
		return fmt.Errorf("draw a root key: %w", err)
	}
	text, err := keeper.Encrypt(ctx, octets[:])
	if err != nil {
		return fmt.Errorf("encrypt a root key: %w", err)
	}
	if len(text) == 0 || len(text) >= maxKeptFile {
		return errors.New("encrypt a root key: the result has an unusable length")
	}
	return createFile(path, append([]byte(text), '\n'))
}

// ReadKeptRoot reads what CreateKeptRoot has written.
func ReadKeptRoot(ctx context.Context, path string, keeper Keeper) (*Root, error) {
	text, err := ReadSecret(path, maxKeptFile)
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeptFile {
		return nil, fmt.Errorf("%w: %s has more than %d octets", ErrSecretFile, path, maxKeptFile)
	}
	octets, err := keeper.Decrypt(ctx, string(bytes.TrimSpace(text)))
	if err != nil {
		return nil, fmt.Errorf("decrypt the root key in %s: %w", path, err)
	}
	defer clear(octets)
	root, err := NewRoot(octets)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSecretFile, path, err)
	}
	return root, nil
}
