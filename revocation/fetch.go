package revocation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxURL      = 1024 // octets
	maxHeader   = 16 << 10
	maxFlights  = 256 // downloads begun or waiting for their turn
	typeRequest = "application/ocsp-request"
	idleConns   = 8
	idleTime    = 30 * time.Second
)

// checkURL admits an absolute http or https URL without credentials.
func checkURL(text string) error {
	if len(text) > maxURL {
		return fmt.Errorf("a URL of %d octets exceeds %d", len(text), maxURL)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q has characters that do not belong in a URL", text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("%q is not a URL", text)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("the scheme of %q is neither http nor https", text)
	case u.User != nil || u.Opaque != "" || u.Hostname() == "":
		return fmt.Errorf("%q has credentials or no host", text)
	}
	return nil
}

// reserved are the ranges of global unicast addresses that lead to no public
// host, or through a translator to one that is not (IANA special-purpose
// registries). Loopback, private, link-local and multicast ones have methods.
func reserved() []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		prefixes = append(prefixes, netip.MustParsePrefix(text))
	}
	return prefixes
}

// A gate decides to which addresses a connection may be opened.
type gate struct{ configured, reserved []netip.Prefix }

// admit examines a resolved address.
func (g gate) admit(address netip.AddrPort) error {
	ip := address.Addr().Unmap().WithZone("")
	for _, network := range g.configured {
		if network.Contains(ip) {
			return nil
		}
	}
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return fmt.Errorf("%s is not a public address", ip)
	}
	for _, network := range g.reserved {
		if network.Contains(ip) {
			return fmt.Errorf("%s is not a public address", ip)
		}
	}
	if port := address.Port(); port != 80 && port != 443 {
		return fmt.Errorf("port %d is neither 80 nor 443", port)
	}
	return nil
}

// control is called with the very address that is about to be connected to, so
// that a name which resolves otherwise the second time gains nothing.
func (g gate) control(_, address string, _ syscall.RawConn) error {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return g.admit(parsed)
}

// A fetcher downloads within bounds, each thing once at a time.
type fetcher struct {
	client  *http.Client
	timeout time.Duration
	turns   chan struct{}
	base    context.Context

	mu      sync.Mutex
	flights map[string]chan struct{} // guarded by mu; closed at the end
	ended   bool                     // guarded by mu
	running sync.WaitGroup
}

func newFetcher(base context.Context, config Config) *fetcher {
	dialer := &net.Dialer{Timeout: config.FetchTimeout, Resolver: config.Resolver, Control: gate{config.Networks, reserved()}.control}
	return &fetcher{
		client: &http.Client{
			Transport: &http.Transport{
				// A proxy from the environment would connect where the gate does not see.
				Proxy:       nil,
				DialContext: dialer.DialContext,
				// A compressed answer would have a size that nobody has bounded.
				DisableCompression:     true,
				MaxIdleConns:           idleConns,
				IdleConnTimeout:        idleTime,
				TLSHandshakeTimeout:    config.FetchTimeout,
				ResponseHeaderTimeout:  config.FetchTimeout,
				MaxResponseHeaderBytes: maxHeader,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		timeout: config.FetchTimeout, turns: make(chan struct{}, config.MaxFetches), base: base,
		flights: make(map[string]chan struct{}),
	}
}

var (
	errBusy   = errors.New("too many downloads are under way")
	errClosed = errors.New("nothing is downloaded any more")
)

// begin runs download, unless one with the key is under way, and returns a
// channel that is closed at its end. The download has its own time and goes on
// when whoever began it no longer waits, so that the next one finds its result.
func (f *fetcher) begin(key string, download func(ctx context.Context)) (<-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end, ok := f.flights[key]; ok {
		return end, nil
	}
	switch {
	case f.ended:
		return nil, errClosed
	case len(f.flights) >= maxFlights:
		return nil, errBusy
	}
	end := make(chan struct{})
	f.flights[key] = end
	f.running.Go(func() {
		ctx, cancel := context.WithTimeout(f.base, f.timeout)
		defer cancel()
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.flights, key)
			close(end)
		}()
		select {
		case f.turns <- struct{}{}:
			defer func() { <-f.turns }()
		case <-ctx.Done():
		}
		download(ctx)
	})
	return end, nil
}

// do is begin and the wait for the end, at most as long as ctx lasts.
func (f *fetcher) do(ctx context.Context, key string, download func(ctx context.Context)) error {
	end, err := f.begin(key, download)
	if err != nil {
		return err
	}
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return errors.New("no answer came in time")
	}
}

// close waits for the downloads, whose context has ended.
func (f *fetcher) close() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.running.Wait()
	f.client.CloseIdleConnections()
}

// A document is what a URL gave.
type document struct {
	content        []byte // nil if not modified
	etag, modified string
}

// get downloads a document of at most size octets, unless it is the one that was
// seen.
func (f *fetcher) get(ctx context.Context, target string, seen document, size int64) (document, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return document{}, err
	}
	if seen.etag != "" {
		request.Header.Set("If-None-Match", seen.etag)
	}
	if seen.modified != "" {
		request.Header.Set("If-Modified-Since", seen.modified)
	}
	return f.send(request, size, seen.etag != "" || seen.modified != "")
}

// post asks a responder.
func (f *fetcher) post(ctx context.Context, target string, body []byte, size int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", typeRequest)
	answer, err := f.send(request, size, false)
	return answer.content, err
}

func (f *fetcher) send(request *http.Request, size int64, conditional bool) (document, error) {
	if err := checkURL(request.URL.String()); err != nil {
		return document{}, err
	}
	request.Header.Set("User-Agent", "Muster")
	response, err := f.client.Do(request)
	if err != nil {
		return document{}, err
	}
	defer response.Body.Close()
	switch status := response.StatusCode; {
	case status == http.StatusNotModified && conditional:
		return document{}, nil
	case status >= 300 && status < 400:
		return document{}, fmt.Errorf("%s redirects, which is not followed", request.URL.Redacted())
	case status != http.StatusOK:
		return document{}, fmt.Errorf("%s answers with status %d", request.URL.Redacted(), status)
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, size+1))
	switch {
	case err != nil:
		return document{}, fmt.Errorf("%s: %w", request.URL.Redacted(), err)
	case int64(len(content)) > size:
		return document{}, fmt.Errorf("%s: more than %d octets", request.URL.Redacted(), size)
	}
	return document{content, response.Header.Get("ETag"), response.Header.Get("Last-Modified")}, nil
}
