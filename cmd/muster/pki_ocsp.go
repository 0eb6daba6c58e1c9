package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	_ "crypto/sha1" // the hash of a CertID is an identifier, not a signature
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"

	"muster"
)

const (
	maxOCSPRequest = 4 << 10
	maxNonce       = 128 // octets (RFC 9654 2.1)
	ocspLifetime   = time.Hour
)

func newPKIOCSPCommand() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "ocsp DIR --listen HOST:PORT",
		Short: "Answer for the certificates of an authority by OCSP, until SIGTERM",
		Long: `Answer for the certificates of an authority by OCSP over HTTP, until SIGTERM. Each
answer follows the index as it is then, and is signed by the authority itself.
It is meant for laboratories: it has the authority's key at hand.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFolder(args[0])
			if err != nil {
				return err
			}
			// The key stays open; others may write the index meanwhile.
			if err := f.lock.Close(); err != nil {
				return errors.Join(err, f.closeKey())
			}
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return errors.Join(configErrorf("--listen: %w", err), f.closeKey())
			}
			newLogger(cmd.ErrOrStderr()).Info("listening", "transport", "http", "address", listener.Addr().String())
			return errors.Join(serveHTTP(cmd.Context(), listener, &responder{f.authority, args[0]}), f.closeKey())
		},
	}
	needFlag(cmd, "listen", &address, "the `ADDRESS`, as 127.0.0.1:8888")
	return cmd
}

func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A responder answers for one authority (RFC 6960).
type responder struct {
	authority
	path string // of the folder
}

func (r *responder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	der, err := readOCSPRequest(w, request)
	if err != nil {
		http.Error(w, "not an OCSP request", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	answer, err := r.answer(der, time.Now())
	switch {
	case muster.CodeOf(err) == muster.CodeRequestMalformed:
		answer = ocsp.MalformedRequestErrorResponse
	case err != nil:
		answer = ocsp.InternalErrorErrorResponse
	}
	_, _ = w.Write(answer)
}

func readOCSPRequest(w http.ResponseWriter, request *http.Request) ([]byte, error) {
	switch request.Method {
	case http.MethodPost:
		return io.ReadAll(http.MaxBytesReader(w, request.Body, maxOCSPRequest))
	case http.MethodGet:
		text, err := url.PathUnescape(strings.TrimPrefix(request.URL.EscapedPath(), "/"))
		if err != nil || len(text) > 2*maxOCSPRequest {
			return nil, fmt.Errorf("a path of %d octets: %w", len(text), err)
		}
		return base64.StdEncoding.DecodeString(text)
	default:
		return nil, errors.New(request.Method)
	}
}

// answer returns the signed status of the certificate in question. What the
// authority has not issued is unknown.
func (r *responder) answer(der []byte, now time.Time) ([]byte, error) {
	request, err := ocsp.ParseRequest(der)
	if err != nil {
		return nil, muster.Refuse(muster.CodeRequestMalformed, "%w", err)
	}
	index, err := readIndex(r.path)
	if err != nil {
		return nil, err
	}
	now = now.UTC().Truncate(time.Second)
	template := ocsp.Response{
		Status: ocsp.Unknown, SerialNumber: request.SerialNumber, IssuerHash: request.HashAlgorithm,
		ThisUpdate: now, NextUpdate: now.Add(ocspLifetime),
	}
	if r.isIssuer(request) {
		serial := serialText(request.SerialNumber)
		for _, c := range index.Issued {
			if c.Serial != serial {
				continue
			}
			template.Status = ocsp.Good
			if c.RevokedAt != nil {
				template.Status, template.RevokedAt, template.RevocationReason = ocsp.Revoked, *c.RevokedAt, c.Reason
			}
		}
	}
	signed, err := ocsp.CreateResponse(r.certificate, r.certificate, template, r.key)
	if err != nil {
		return nil, err
	}
	nonce, err := nonceOf(der)
	if err != nil || nonce == nil {
		return signed, err
	}
	return withNonce(signed, nonce, r.key)
}

// isIssuer reports whether the request is about a certificate of r's. It is not
// trusted to be: another authority may use the same serial number.
func (r *responder) isIssuer(request *ocsp.Request) bool {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(r.certificate.RawSubjectPublicKeyInfo, &info); err != nil || !request.HashAlgorithm.Available() {
		return false
	}
	digest := func(octets []byte) []byte {
		h := request.HashAlgorithm.New()
		h.Write(octets)
		return h.Sum(nil)
	}
	return bytes.Equal(digest(r.certificate.RawSubject), request.IssuerNameHash) && bytes.Equal(digest(info.Key.RightAlign()), request.IssuerKeyHash)
}

var oidOCSPNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

var malformedOCSP = muster.Refuse(muster.CodeRequestMalformed, "an OCSP request or response is malformed")

// nonceOf returns the DER of the nonce extension of a request that
// golang.org/x/crypto/ocsp has parsed, which leaves it out; nil if there is none.
func nonceOf(der []byte) ([]byte, error) {
	input := cryptobyte.String(der)
	var request, body, wrapped, extensions cryptobyte.String
	var found bool
	tag := cryptobyte_asn1.Tag(2).ContextSpecific().Constructed()
	if !input.ReadASN1(&request, cryptobyte_asn1.SEQUENCE) || !request.ReadASN1(&body, cryptobyte_asn1.SEQUENCE) {
		return nil, malformedOCSP
	}
	for !body.Empty() && !found {
		if body.PeekASN1Tag(tag) {
			found = body.ReadASN1(&wrapped, tag)
		} else if !body.SkipASN1(cryptobyte_asn1.SEQUENCE) && !body.SkipASN1(cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) &&
			!body.SkipASN1(cryptobyte_asn1.Tag(1).ContextSpecific().Constructed()) {
			return nil, malformedOCSP
		}
	}
	if !found {
		return nil, nil
	}
	if !wrapped.ReadASN1(&extensions, cryptobyte_asn1.SEQUENCE) {
		return nil, malformedOCSP
	}
	for !extensions.Empty() {
		var element cryptobyte.String
		var extension pkix.Extension
		if !extensions.ReadASN1Element(&element, cryptobyte_asn1.SEQUENCE) {
			return nil, malformedOCSP
		}
		if _, err := asn1.Unmarshal(element, &extension); err != nil {
			return nil, malformedOCSP
		}
		if extension.Id.Equal(oidOCSPNonce) {
			if len(extension.Value) > maxNonce+4 {
				return nil, malformedOCSP
			}
			return element, nil
		}
	}
	return nil, nil
}

// withNonce returns a response with the nonce extension, signed again:
// golang.org/x/crypto/ocsp has no place for it.
func withNonce(der, nonce []byte, key crypto.Signer) ([]byte, error) {
	var outer struct {
		Status asn1.Enumerated
		Bytes  struct {
			Type     asn1.ObjectIdentifier
			Response []byte
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, err
	}
	input := cryptobyte.String(outer.Bytes.Response)
	var basic, data, algorithm cryptobyte.String
	if !input.ReadASN1(&basic, cryptobyte_asn1.SEQUENCE) || !basic.ReadASN1(&data, cryptobyte_asn1.SEQUENCE) ||
		!basic.ReadASN1Element(&algorithm, cryptobyte_asn1.SEQUENCE) || !basic.SkipASN1(cryptobyte_asn1.BIT_STRING) {
		return nil, malformedOCSP
	}
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(data)
		b.AddASN1(cryptobyte_asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(nonce) })
		})
	})
	body, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(body) // ECDSA on P-256: the only keys that authorities have
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	b = cryptobyte.Builder{}
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(body)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
		b.AddBytes(basic) // the certificates, if any
	})
	if outer.Bytes.Response, err = b.Bytes(); err != nil {
		return nil, err
	}
	return asn1.Marshal(outer)
}
