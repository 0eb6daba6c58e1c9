// Package keyring is an enrolee.Keyring in one file: identifiers and times in
// JSON, each Master Credential sealed under a root key that lies in a file of its
// own. It runs on Unix.
package keyring

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"muster"
	"muster/enrolee"
	"muster/seal"
)

// maxFile bounds the file in octets.
const maxFile = 64 << 10

const formatVersion = 1

// dataKey is the number of the only data key in a file. Each Save draws a new one.
const dataKey = 1

// A Keyring is the credentials of one Enrolee in a file. Its methods may be called
// by several goroutines; other processes are kept out until Close.
type Keyring struct {
	path string
	root *seal.Root
	lock *os.File
}

// Open returns the Keyring at path, whose file need not exist yet, with the root
// key in another file. It fails with code busy if another process has it open.
func Open(path, rootKeyPath string) (*Keyring, error) {
	root, err := seal.ReadRoot(rootKeyPath)
	if err != nil {
		return nil, muster.Refuse(muster.CodeConfiguration, "credentials: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, muster.Refuse(muster.CodeConfiguration, "credentials: %w", err)
	}
	if err := acquire(lock); err != nil {
		return nil, errors.Join(muster.Refuse(muster.CodeBusy, "another process uses the credentials in %s", path), lock.Close())
	}
	return &Keyring{path, root, lock}, nil
}

// acquire tries for a moment: a child that this process starts holds a lock which
// was closed meanwhile until it executes its program.
func acquire(lock *os.File) (err error) {
	for range 50 {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// Close lets other processes use the file.
func (k *Keyring) Close() error { return k.lock.Close() }

// file is the form on disk.
type file struct {
	Version int                   `json:"version"`
	DataKey []byte                `json:"dataKey"` // wrapped
	Current *record               `json:"current,omitempty"`
	Next    *record               `json:"next,omitempty"`
	Command enrolee.CommandMemory `json:"command,omitzero"`
}

type record struct {
	KeID     muster.KeID `json:"keID"`
	KmID     string      `json:"kmID,omitempty"`
	MAF      muster.FQDN `json:"maf"`
	Km       []byte      `json:"km"` // sealed
	Enrolled time.Time   `json:"enrolled"`
	Expires  time.Time   `json:"expires"`
}

// Load implements enrolee.Keyring.
func (k *Keyring) Load(context.Context) (enrolee.Credentials, error) {
	octets, err := readFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return enrolee.Credentials{}, nil
	} else if err != nil {
		return enrolee.Credentials{}, fmt.Errorf("credentials: %w", err)
	}
	var f file
	if err := json.Unmarshal(octets, &f); err != nil {
		return enrolee.Credentials{}, fmt.Errorf("credentials: %s: %w", k.path, err)
	}
	if f.Version != formatVersion {
		return enrolee.Credentials{}, fmt.Errorf("credentials: %s is of version %d, not %d", k.path, f.Version, formatVersion)
	}
	sealer := seal.New(k.root, rand.Reader)
	if err := sealer.UseDataKey(dataKey, f.DataKey); err != nil {
		return enrolee.Credentials{}, fmt.Errorf("credentials: %s: %w", k.path, err)
	}
	var c enrolee.Credentials
	if c.Current, err = f.Current.open(sealer); err != nil {
		return enrolee.Credentials{}, fmt.Errorf("credentials: %s: current: %w", k.path, err)
	}
	if c.Next, err = f.Next.open(sealer); err != nil {
		return enrolee.Credentials{}, fmt.Errorf("credentials: %s: next: %w", k.path, err)
	}
	c.Command = f.Command
	return c, nil
}

// Save implements enrolee.Keyring. The file is replaced whole and durably.
func (k *Keyring) Save(_ context.Context, c enrolee.Credentials) error {
	sealer := seal.New(k.root, rand.Reader)
	wrapped, err := sealer.NewDataKey(dataKey)
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	if err := sealer.UseDataKey(dataKey, wrapped); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	f := file{Version: formatVersion, DataKey: wrapped, Command: c.Command}
	if f.Current, err = newRecord(sealer, c.Current); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	if f.Next, err = newRecord(sealer, c.Next); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	octets, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	if err := replace(k.path, append(octets, '\n')); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	return nil
}

func newRecord(sealer *seal.Sealer, c *enrolee.Credential) (*record, error) {
	if c == nil {
		return nil, nil
	}
	sealed, err := sealer.Seal(dataKey, c.Km.Reveal(), binding(c.KeID, c.MAF)...)
	return &record{c.KeID, c.KmID.String(), c.MAF, sealed, c.Enrolled, c.Expires}, err
}

func (r *record) open(sealer *seal.Sealer) (*enrolee.Credential, error) {
	if r == nil {
		return nil, nil
	}
	octets, err := sealer.Open(dataKey, r.Km, binding(r.KeID, r.MAF)...)
	if err != nil {
		return nil, err
	}
	defer clear(octets)
	c := &enrolee.Credential{KeID: r.KeID, MAF: r.MAF, Enrolled: r.Enrolled, Expires: r.Expires}
	if c.Km, err = muster.NewKm(octets); err != nil {
		return nil, err
	}
	if r.KmID != "" {
		c.KmID, err = muster.ParseKmID(r.KmID)
	}
	return c, err
}

func binding(id muster.KeID, maf muster.FQDN) []string {
	return []string{"enrolee credential", maf.String(), id.String()}
}

// readFile reads a regular file that nobody but its owner can read.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has the mode %s: it must be a file that only its owner can read", path, info.Mode())
	}
	octets, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(octets) > maxFile {
		err = fmt.Errorf("%s is larger than %d octets", path, maxFile)
	}
	return octets, err
}

// replace writes a new file beside the old one, makes it durable, and gives it
// the old one's name, which is one step for whoever reads it.
func replace(path string, octets []byte) (err error) {
	dir := filepath.Dir(path)
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	if _, err = temporary.Write(octets); err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	if err = os.Rename(temporary.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
