package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"muster/seal"
)

// keeperTimeout bounds a question to a token or a Vault.
const keeperTimeout = 10 * time.Second

// maxTokenFile bounds the file with the token of a Vault, in octets.
const maxTokenFile = 8 << 10

// A vaultConfig is a key in the transit engine of HashiCorp Vault or OpenBao, under which the file of the root key is encrypted.
type vaultConfig struct {
	// Address is that of the server, as https://vault.example:8200.
	Address string `yaml:"address"`
	// Mount is that of the transit engine; transit by default.
	Mount string `yaml:"mount"`
	// Key is its name.
	Key string `yaml:"key"`
	// TokenFile is the file of the token, readable by its owner only, which is read each time, so that an agent can renew it.
	TokenFile string `yaml:"token_file"`
	// Anchors are PEM files of the roots of the server's certificate; those of the system by default.
	Anchors []string `yaml:"anchors"`
}

func (c *vaultConfig) check(path string) error {
	if c == nil {
		return nil
	}
	resolve(path, &c.TokenFile)
	resolveAll(path, c.Anchors)
	orDefault(&c.Mount, "transit")
	address, err := url.Parse(c.Address)
	if err != nil || address.Scheme != "https" || address.Host == "" || address.User != nil || c.Key == "" || c.TokenFile == "" {
		return configErrorf("%s: store.vault needs an address that begins with https://, a key and a token_file", path)
	}
	return nil
}

func (c *vaultConfig) open() (*seal.Vault, error) {
	var roots *x509.CertPool
	if len(c.Anchors) > 0 {
		anchors, err := readCertificates(c.Anchors)
		if err != nil {
			return nil, err
		}
		roots = x509.NewCertPool()
		for _, anchor := range anchors {
			roots.AddCert(anchor)
		}
	}
	return &seal.Vault{Address: c.Address, Mount: c.Mount, Key: c.Key, Token: c.token, Client: &http.Client{
		Timeout:   keeperTimeout,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true},
		// A redirection would carry the token to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (c *vaultConfig) token() (string, error) {
	octets, err := seal.ReadSecret(c.TokenFile, maxTokenFile)
	token := strings.TrimSpace(string(octets))
	if err == nil && (token == "" || len(token) > maxTokenFile || strings.ContainsAny(token, "\r\n")) {
		err = errors.New("the token_file holds no token")
	}
	return token, err
}

// withKeeper calls use with who encrypts the root key's file, or nil if it is not
// encrypted. A token that has no such key yet is given one only to create a file.
func (c storeConfig) withKeeper(create bool, use func(seal.Keeper) error) error {
	switch {
	case c.Vault != nil:
		vault, err := c.Vault.open()
		if err != nil {
			return err
		}
		return use(vault)
	case c.Token != "":
		key, err := parseTokenKey(c.Token)
		if err != nil {
			return err
		}
		pin, err := key.readPIN()
		if err != nil {
			return err
		}
		keeper, closeToken, err := key.keeper(pin, create)
		if err != nil {
			return err
		}
		return errors.Join(use(keeper), closeToken())
	}
	return use(nil)
}

// createRoot draws a root key and writes it to a file that must not exist.
func (c storeConfig) createRoot(ctx context.Context, path string) error {
	return c.withKeeper(true, func(keeper seal.Keeper) error {
		if keeper == nil {
			return seal.CreateRoot(path, rand.Reader)
		}
		return seal.CreateKeptRoot(ctx, path, rand.Reader, keeper)
	})
}

// newSealer returns what seals a store's keys: under the root key, or that which
// takes over from it.
func newSealer(ctx context.Context, config storeConfig) (sealer *seal.Sealer, err error) {
	err = config.withKeeper(false, func(keeper seal.Keeper) error {
		read := func(path string) (*seal.Root, error) {
			if keeper == nil {
				return seal.ReadRoot(path)
			}
			return seal.ReadKeptRoot(ctx, path, keeper)
		}
		root, err := read(config.RootKey)
		if err != nil {
			return err
		}
		switch next, err := read(config.RootKey + nextRootSuffix); {
		case err == nil:
			sealer = seal.New(next, rand.Reader, root)
		case errors.Is(err, fs.ErrNotExist):
			sealer = seal.New(root, rand.Reader)
		default:
			return err
		}
		return nil
	})
	if err != nil {
		return nil, configErrorf("store: %w", err)
	}
	return sealer, nil
}
