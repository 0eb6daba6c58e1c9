package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"strings"

	"muster"
)

// A tokenKey is where a key is in a PKCS#11 token, from a URI of RFC 7512:
//
//	pkcs11:token=LABEL;object=LABEL?module-path=/usr/lib/…so&pin-source=file:/…
//
// A PIN never stands in the URI, which would show it to everybody on the machine.
type tokenKey struct {
	uri           string
	token, object string
	module, pin   string // paths
}

const tokenScheme = "pkcs11:"

func parseTokenKey(uri string) (tokenKey, error) {
	k := tokenKey{uri: uri}
	rest, ok := strings.CutPrefix(uri, tokenScheme)
	path, query, _ := strings.Cut(rest, "?")
	wrong := func(format string, args ...any) (tokenKey, error) {
		return tokenKey{}, muster.Refuse(muster.CodeUsage, "the key %q: %s", strings.SplitN(uri, "?", 2)[0], fmt.Sprintf(format, args...))
	}
	if !ok {
		return wrong("it does not begin with %s", tokenScheme)
	}
	fields := map[string]*string{"token": &k.token, "object": &k.object, "module-path": &k.module, "pin-source": &k.pin}
	for _, attribute := range append(strings.Split(path, ";"), strings.FieldsFunc(query, func(r rune) bool { return r == '&' })...) {
		name, escaped, _ := strings.Cut(attribute, "=")
		value, err := url.PathUnescape(escaped)
		if name == "pin-value" {
			return wrong("a PIN is given by pin-source=file:PATH, not in the URI")
		}
		field := fields[name]
		if err != nil || field == nil || *field != "" || value == "" {
			return wrong("the attribute %q is unknown, empty or there twice", name)
		}
		*field = value
	}
	k.pin = strings.TrimPrefix(k.pin, "file:")
	for name, field := range fields {
		if *field == "" {
			return wrong("it lacks %s", name)
		}
	}
	return k, nil
}

// readPIN reads the PIN from its file, which only its owner may read.
func (k tokenKey) readPIN() (string, error) {
	info, err := os.Stat(k.pin)
	if err != nil {
		return "", configErrorf("pin-source: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", configErrorf("pin-source: %s can be read by others; chmod 600 it", k.pin)
	}
	octets, err := os.ReadFile(k.pin)
	if err != nil {
		return "", configErrorf("pin-source: %w", err)
	}
	return strings.TrimRight(string(octets), "\r\n"), nil
}

// loadKey returns the key of a PEM file or of a PKCS#11 URI, and what ends its use.
func loadKey(source string) (key crypto.Signer, closeKey func() error, err error) {
	if strings.HasPrefix(source, tokenScheme) {
		return openTokenKey(source, false)
	}
	octets, err := os.ReadFile(source)
	if err != nil {
		return nil, nil, configErrorf("%w", err)
	}
	block, _ := pem.Decode(octets)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, nil, configErrorf("%s: no PRIVATE KEY in PEM", source)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, configErrorf("%s: the key is malformed", source)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, nil, configErrorf("%s: the key cannot sign", source)
	}
	return signer, func() error { return nil }, nil
}

func openTokenKey(uri string, create bool) (crypto.Signer, func() error, error) {
	k, err := parseTokenKey(uri)
	if err != nil {
		return nil, nil, err
	}
	pin, err := k.readPIN()
	if err != nil {
		return nil, nil, err
	}
	return k.open(pin, create)
}
