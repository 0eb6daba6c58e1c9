package binding

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"muster"
	"muster/handshake"
	"muster/primitive"
)

// A Dial opens a connection to the server and brings it through the handshake.
type Dial func(ctx context.Context) (*handshake.Conn, error)

// A ClientConfig configures a Client. Dial and Authority are needed; zero means
// the default elsewhere.
type ClientConfig struct {
	Dial      Dial
	Authority string           // the server's FQDN, for the Host field
	From      string           // the client's identity, for FetchCredential
	Version   string           // release version, default "3"
	Format    primitive.Format // of contents sent, default primitive.JSON
	Timeout   time.Duration    // for one call, dialling included, default 10 s
	Idle      time.Duration    // for which an unused connection is kept, default 1 min
	MaxConns  int              // open at once with HTTP/1.1, default 4
	// Header, if set, adds to the header of each request, which is sent within the
	// authenticated session.
	Header func(ctx context.Context, h http.Header)
	HTTP2  bool // what Dial's connections agreed on; default HTTP/1.1
}

// A Client sends requests to one server. It keeps a connection alive between calls
// and dials again when it is gone. Its methods may be called by many goroutines.
type Client struct {
	config    ClientConfig
	transport *http.Transport
}

// NewClient returns a Client. It dials when it is first used.
func NewClient(c ClientConfig) *Client {
	c.Timeout = orDefault(c.Timeout, 10*time.Second)
	c.Idle = orDefault(c.Idle, time.Minute)
	if c.Version == "" {
		c.Version = "3"
	}
	if c.Format == 0 {
		c.Format = primitive.JSON
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4
	}
	var version http.Protocols
	version.SetHTTP1(!c.HTTP2)
	version.SetUnencryptedHTTP2(c.HTTP2) // what net/http takes a connection for that is not its own TLS
	if c.HTTP2 {
		c.MaxConns = 0 // net/http dials again when the streams of one are in use
	}
	return &Client{c, &http.Transport{
		Protocols: &version,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			// net/http dials on for a call that has given up, and such connections
			// count as open.
			ctx, cancel := context.WithTimeout(ctx, c.Timeout)
			defer cancel()
			conn, err := c.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
		DisableCompression: true,
		MaxConnsPerHost:    c.MaxConns,
		// One that is closed between two calls of a burst costs the next a handshake.
		MaxIdleConnsPerHost:    max(1, c.MaxConns),
		IdleConnTimeout:        c.Idle,
		ResponseHeaderTimeout:  c.Timeout,
		MaxResponseHeaderBytes: maxHeaderOctets,
	}}
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// FetchCredential retrieves the key of an Enrolee by GET /fetchCredentials (TS-0003
// 8.3.2.1). A refusal is a *primitive.Error with the MEF's status. Every other
// error means that the MEF could not be asked or its answer not be understood.
func (c *Client) FetchCredential(ctx context.Context, id muster.KeID, usage muster.SUID) (Credential, error) {
	h := http.Header{"Accept": {mediaJSON}}
	writeHeader(h, &primitive.Request{RequestID: rand.Text(), From: c.config.From, ReleaseVersion: c.config.Version})
	path := "/" + fetchSegment + "/" + url.PathEscape(id.String()) + "/" + usage.String()
	answer, err := c.roundTrip(ctx, http.MethodGet, path, h, nil)
	if err != nil {
		return Credential{}, err
	}
	defer clear(answer.body)
	if answer.code != http.StatusOK {
		return Credential{}, &primitive.Error{Status: answer.status()}
	}
	credential, err := parseCredential(answer.body)
	if err != nil {
		return Credential{}, fmt.Errorf("credential of %s: %w", id, err)
	}
	return credential, nil
}

// Do sends a request primitive and returns the response, whatever its status. An
// absent Request Identifier or Release Version is filled in.
func (c *Client) Do(ctx context.Context, p *primitive.Request) (*primitive.Response, error) {
	request := *p
	if request.RequestID == "" {
		request.RequestID = rand.Text()
	}
	if request.ReleaseVersion == "" {
		request.ReleaseVersion = c.config.Version
	}
	method, path, h, body, err := writeRequest(&request, c.config.Format)
	if err != nil {
		return nil, err
	}
	answer, err := c.roundTrip(ctx, method, path, h, body)
	if err != nil {
		return nil, err
	}
	return answer.response(request.RequestID)
}

// writeRequest maps a request primitive to the parts of an HTTP request.
func writeRequest(r *primitive.Request, f primitive.Format) (method, path string, h http.Header, body []byte, err error) {
	if method, err = methodOf(r.Operation); err != nil {
		return "", "", nil, nil, err
	}
	if body, err = r.Content.Encode(f); err != nil {
		return "", "", nil, nil, err
	}
	h = http.Header{"Accept": {mediaOf(f)}}
	writeHeader(h, r)
	if len(body) > 0 || r.ResourceType != 0 {
		media := mediaOf(f)
		if r.ResourceType != 0 {
			media += ";ty=" + strconv.Itoa(r.ResourceType)
		}
		h.Set("Content-Type", media)
	}
	path = escapedPath(r.To)
	if query := r.Query(); len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	return method, path, h, body, nil
}

func mediaOf(f primitive.Format) string {
	if f == primitive.CBOR {
		return mediaResourceCBOR
	}
	return mediaResourceJSON
}

func methodOf(op primitive.Operation) (string, error) {
	switch op {
	case primitive.Create, primitive.Notify:
		return http.MethodPost, nil
	case primitive.Retrieve:
		return http.MethodGet, nil
	case primitive.Update:
		return http.MethodPut, nil
	case primitive.Delete:
		return http.MethodDelete, nil
	}
	return "", fmt.Errorf("HTTP has no method for %v", op)
}

type answer struct {
	code   int
	header http.Header
	body   []byte
}

func (c *Client) roundTrip(ctx context.Context, method, path string, h http.Header, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+c.config.Authority+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = h
	if c.config.Header != nil {
		c.config.Header(ctx, h)
	}
	response, err := c.transport.RoundTrip(r)
	if muster.CodeOf(err) == "" && handshake.CutOff(err) { // the server had no capacity for the session
		return nil, muster.Refuse(muster.CodeUnreachable, "%s: %w", c.config.Authority, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.config.Authority, err)
	}
	defer response.Body.Close()
	octets, err := io.ReadAll(io.LimitReader(response.Body, primitive.MaxContent+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.config.Authority, err)
	}
	if len(octets) > primitive.MaxContent {
		return nil, fmt.Errorf("%s: the answer exceeds %d octets", c.config.Authority, primitive.MaxContent)
	}
	return &answer{response.StatusCode, response.Header, octets}, nil
}

// status returns the status in the header, else one that fits the code of HTTP.
func (a *answer) status() primitive.Status {
	if n, err := strconv.Atoi(a.header.Get(headerStatus)); err == nil && n >= 1000 && n <= 9999 {
		return primitive.Status(n)
	}
	switch a.code {
	case http.StatusNotFound:
		return primitive.NotFound
	case http.StatusForbidden:
		return primitive.OriginatorHasNoPrivilege
	case http.StatusBadRequest:
		return primitive.BadRequest
	}
	return primitive.InternalServerError
}

func (a *answer) response(requestID string) (*primitive.Response, error) {
	if a.header.Get(headerStatus) == "" {
		return nil, fmt.Errorf("the answer with HTTP status %d has no %s", a.code, headerStatus)
	}
	if id := a.header.Get(headerRequestID); id != requestID {
		return nil, errors.New("the answer is for another request")
	}
	r := &primitive.Response{Status: a.status(), RequestID: requestID, ReleaseVersion: a.header.Get(headerReleaseVersion)}
	// The form with a date is not read: it takes two clocks that agree.
	if seconds, err := strconv.ParseUint(a.header.Get("Retry-After"), 10, 32); err == nil && a.code >= 400 {
		r.RetryAfter = time.Duration(seconds) * time.Second
	}
	if location := a.header.Get("Content-Location"); location != "" {
		u, err := url.Parse(location)
		if err != nil {
			return nil, errors.New("the answer's Content-Location is malformed")
		}
		if r.Location, err = pathTo(u); err != nil {
			return nil, err
		}
	}
	mediaType, _, err := contentType(a.header)
	if err != nil {
		return nil, err
	}
	r.Content, err = readContent(bytes.NewReader(a.body), mediaType)
	return r, err
}
