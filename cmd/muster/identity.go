package main

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
)

// An identitySource returns a function's own certificate in every handshake.
type identitySource func() (*tls.Certificate, error)

func steady(certificate *tls.Certificate) identitySource {
	return func() (*tls.Certificate, error) { return certificate, nil }
}

// An identity is a function's own certificate, which can be replaced while it runs.
type identity struct {
	config  identityConfig
	current atomic.Pointer[tls.Certificate]
}

// open reads the certificate and key.
func (c identityConfig) open() (*identity, error) {
	certificate, err := c.load()
	if err != nil {
		return nil, err
	}
	i := &identity{config: c}
	i.current.Store(certificate)
	return i, nil
}

func (i *identity) get() (*tls.Certificate, error) { return i.current.Load(), nil }

func (i *identity) leaf() *x509.Certificate { return i.current.Load().Leaf }
