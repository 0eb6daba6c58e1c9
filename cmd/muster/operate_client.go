package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"muster"
	"muster/console"
)

// The bounds of what a server can make a client read and wait for.
const (
	maxAnswer       = 32 << 20 // octets
	maxAnswerHeader = 64 << 10 // octets
	maxPage         = 500      // items, as the server gives
	maxTries        = 4        // of one request
	firstPause      = 250 * time.Millisecond
	longestPause    = 30 * time.Second
)

// An operatorClient sends requests to the interface for operators of one function.
type operatorClient struct {
	base      *url.URL // https://HOST:PORT
	transport http.RoundTripper
	token     string
	timeout   time.Duration // of one request with its answer
}

// A call is a request.
type call struct {
	method, path string
	query        url.Values
	match        string // entity tag that the resource has to have
	body         any    // nil for none
}

// do sends a request and decodes the answer, unless answer is nil. One that can be
// repeated without harm is, if the server is busy or gone. It returns the entity
// tag of the answer.
func (c *operatorClient) do(ctx context.Context, r call, answer any) (tag string, err error) {
	var body []byte
	if r.body != nil {
		if body, err = json.Marshal(r.body); err != nil {
			return "", err
		}
	}
	header := http.Header{}
	if r.match != "" {
		header.Set("If-Match", r.match)
	}
	if r.method == http.MethodPost {
		header.Set("Idempotency-Key", rand.Text()) // the same for each try
	}
	pause := firstPause
	for try := 1; ; try++ {
		tag, err = c.try(ctx, r, header, body, answer)
		if err == nil || try == maxTries || !repeatable(r.method, err) {
			return tag, err
		}
		wait := pause
		if later, ok := errors.AsType[*laterError](err); ok {
			wait = max(wait, later.after)
		}
		if err := sleep(ctx, min(wait, longestPause)); err != nil {
			return "", err
		}
		pause *= 2
	}
}

// repeatable reports whether a request that failed may be sent again: one with an
// Idempotency-Key or without consequence whenever no answer came, any other only if
// the server cannot have begun to perform it.
func repeatable(method string, err error) bool {
	switch muster.CodeOf(err) {
	case muster.CodeBusy:
		return true
	case muster.CodeUnreachable:
		failed, ok := errors.AsType[*net.OpError](err)
		return method == http.MethodGet || method == http.MethodPost || ok && failed.Op == "dial"
	}
	return false
}

// try sends a request once.
func (c *operatorClient) try(ctx context.Context, r call, header http.Header, body []byte, answer any) (tag string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %s", c.timeout))
	defer cancel()
	response, err := c.send(ctx, r, header, body)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return "", c.failure(err)
	case len(text) > maxAnswer:
		return "", c.nonsense("its answer has more than %d MiB; ask for less at a time", maxAnswer>>20)
	case response.StatusCode != http.StatusOK:
		return "", c.refusal(response, text)
	case !isMedia(response, "application/json"):
		return "", c.nonsense("it answers with %q", response.Header.Get("Content-Type"))
	case answer == nil:
		return response.Header.Get("ETag"), nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return "", c.nonsense("it answers with %w", err)
	}
	return response.Header.Get("ETag"), nil
}

// send returns the response to one request, whose status may be any.
func (c *operatorClient) send(ctx context.Context, r call, header http.Header, body []byte) (*http.Response, error) {
	target := c.base.JoinPath(r.path)
	target.RawQuery = r.query.Encode()
	request, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header = header.Clone()
	request.Header.Set("User-Agent", "muster/"+readBuildVersion().Version)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	// RoundTrip follows no redirection, which would carry the token elsewhere.
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, c.failure(err)
	}
	return response, nil
}

// failure returns the refusal for a request that got no answer.
func (c *operatorClient) failure(err error) error {
	failed, isOp := errors.AsType[*net.OpError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case muster.CodeOf(err) != "":
		return err // of the server's certificate
	case isOp && failed.Op == "remote error":
		return muster.Refuse(muster.CodePeerAlert, "%s: %w", c.base.Host, err)
	case noTLS:
		return muster.Refuse(muster.CodeHandshakeFailed, "%s: %w", c.base.Host, err)
	}
	return muster.Refuse(muster.CodeUnreachable, "%s: %w", c.base.Host, err)
}

// nonsense returns the refusal for an answer that an interface for operators does
// not give.
func (c *operatorClient) nonsense(format string, args ...any) error {
	return muster.Refuse(muster.CodePeerRefused, "%s is not, or no newer than this program, an interface for operators: %w", c.base.Host, fmt.Errorf(format, args...))
}

func isMedia(response *http.Response, want string) bool {
	media, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return err == nil && media == want
}

// A problem is a refusal as servers send it (RFC 9457).
type problem struct {
	Title  string          `json:"title"`
	Detail string          `json:"detail"`
	Code   muster.Code     `json:"code"`
	Faults []console.Fault `json:"faults"` // of an import
}

// Error returns what a terminal may show.
func (p *problem) Error() string {
	return cut(printable(strings.TrimPrefix(orElse(p.Detail, p.Title), string(p.Code)+": ")), maxProblem)
}

const maxProblem = 2000 // characters of a problem that are shown

// A laterError is the refusal of a server that says when to come back.
type laterError struct {
	error
	after time.Duration
}

func (e *laterError) Unwrap() error { return e.error }

// refusal returns the refusal in a response.
func (c *operatorClient) refusal(response *http.Response, text []byte) error {
	told := new(problem)
	if !isMedia(response, "application/problem+json") || json.Unmarshal(text, told) != nil {
		told = nil
	}
	status := fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode))
	switch known := told != nil && told.known(); {
	case response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusTooManyRequests:
		var because error = told
		if told == nil {
			because = errors.New(status)
		}
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After")) // 0 without
		return &laterError{muster.Refuse(muster.CodeBusy, "%s: %w", c.base.Host, because), time.Duration(min(max(seconds, 0), int(longestPause/time.Second))) * time.Second}
	case known:
		return muster.Refuse(told.Code, "%w", told)
	case told != nil:
		return muster.Refuse(muster.CodePeerRefused, "%s answers %s: %w", c.base.Host, strings.TrimSpace(status+" "+printable(string(told.Code))), told)
	case response.StatusCode == http.StatusBadGateway || response.StatusCode == http.StatusGatewayTimeout:
		return muster.Refuse(muster.CodeUnreachable, "%s answers %s", c.base.Host, status)
	case response.StatusCode/100 == 3:
		return c.nonsense("it answers %s, with a redirection to %.200q", status, response.Header.Get("Location"))
	}
	return c.nonsense("it answers %s with %.200q", status, response.Header.Get("Content-Type"))
}

// known reports whether the code is one of this program's.
func (p *problem) known() bool {
	_, ok := p.Code.Meaning()
	return ok
}

// A page is a part of a list.
type page struct {
	Items []json.RawMessage `json:"items"`
	Next  string            `json:"next"`
}

// pages returns the pages of a list with at most a number of items in all, or all
// with 0. An error ends them.
func (c *operatorClient) pages(ctx context.Context, path string, query url.Values, most int) iter.Seq2[page, error] {
	return func(yield func(page, error) bool) {
		query := cloneValues(query)
		for seen := 0; ; {
			size := maxPage
			if most > 0 {
				size = min(size, most-seen)
			}
			query.Set("limit", strconv.Itoa(size))
			var p page
			_, err := c.do(ctx, call{method: http.MethodGet, path: path, query: query}, &p)
			if err == nil && (len(p.Items) > size || p.Next != "" && p.Next == query.Get("after")) {
				err = c.nonsense("its pages have no end")
			}
			seen += len(p.Items)
			if !yield(p, err) || err != nil || p.Next == "" || seen == most {
				return
			}
			query.Set("after", p.Next)
		}
	}
}

func cloneValues(values url.Values) url.Values {
	copied := url.Values{}
	for name, all := range values {
		copied[name] = append([]string(nil), all...)
	}
	return copied
}
