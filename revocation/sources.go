package revocation

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"
)

// maxURLs is how many URLs of one kind in a certificate or list are followed.
const maxURLs = 2

// A file is one of Config.Files as it was read last.
type file struct {
	path    string
	size    int64
	changed time.Time
	lists   []*list
}

// read reads all lists in the file, in DER or PEM, unless it has not changed. On
// an error the lists of before remain.
func (f *file) read(most int64) error {
	opened, err := os.Open(f.path)
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	if f.lists != nil && info.Size() == f.size && info.ModTime().Equal(f.changed) {
		return nil
	}
	// PEM takes four octets for three, and lines.
	content, err := io.ReadAll(io.LimitReader(opened, 2*most+1))
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	lists, err := parseLists(content, f.path, most)
	if err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	f.lists, f.size, f.changed = lists, info.Size(), info.ModTime()
	return nil
}

// parseLists reads one list in DER or any number in PEM.
func parseLists(content []byte, origin string, most int64) ([]*list, error) {
	var lists []*list
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("%s: a %q where a CRL is expected", origin, block.Type)
		}
		if int64(len(block.Bytes)) > most {
			return nil, fmt.Errorf("%s: more than %d octets", origin, most)
		}
		l, err := parseList(block.Bytes, origin)
		if err != nil {
			return nil, err
		}
		lists = append(lists, l)
	}
	if lists != nil {
		return lists, nil
	}
	if int64(len(content)) > most {
		return nil, fmt.Errorf("%s: more than %d octets", origin, most)
	}
	l, err := parseList(content, origin)
	if err != nil {
		return nil, err
	}
	return []*list{l}, nil
}

// A source is a URL and what it gave. The fields are guarded by the Checker's mu.
type source struct {
	url string
	// latest is what came last. proven is the one before, kept as long as
	// nobody's signature on the latest has been verified or it is older, so
	// that junk or a replay takes nothing away.
	latest, proven *list
	seen           document // for the next conditional request
	problem        error    // of the last download
	due            time.Time
	used           bool // since the last Refresh
}

func (s *source) lists() []*list {
	var lists []*list
	if s.latest != nil {
		lists = append(lists, s.latest)
	}
	if s.proven != nil {
		lists = append(lists, s.proven)
	}
	return lists
}

// sourceOf returns the source of a URL in a certificate.
func (c *Checker) sourceOf(url string) *source {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.strange.get(url)
	if !ok {
		s = &source{url: url}
		c.strange.put(url, s)
	}
	s.used = true
	return s
}

// isDue reports whether s should be downloaded now, and whether it has nothing
// yet.
func (c *Checker) isDue(s *source) (due, empty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.config.Clock().Before(s.due), s.latest == nil
}

// download brings s up to date.
func (c *Checker) download(ctx context.Context, s *source) {
	c.mu.Lock()
	var seen document
	if s.latest != nil && s.latest.proved.Load() && c.config.Clock().Before(s.latest.nextUpdate) {
		// Whoever can answer in the server's place could else give junk with a
		// date that the server's own list never exceeds.
		seen = s.seen
	}
	c.mu.Unlock()
	got, err := c.fetch.get(ctx, s.url, seen, c.config.MaxCRL)
	var lists []*list
	if err == nil && got.content != nil {
		c.parsing <- struct{}{}
		lists, err = parseLists(got.content, s.url, c.config.MaxCRL)
		<-c.parsing
		if err == nil && len(lists) != 1 {
			err = fmt.Errorf("%s: %d lists in place of one", s.url, len(lists))
		}
	}
	now := c.config.Clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.problem = err
	switch {
	case err != nil:
		c.config.Log.Warn("CRL not downloaded", "url", s.url, "error", err)
		s.due = now.Add(c.config.Retry)
		return
	case got.content != nil:
		s.accept(lists[0])
		s.seen = document{etag: got.etag, modified: got.modified}
	}
	s.due = c.nextDownload(s.latest.thisUpdate, s.latest.nextUpdate, now)
}

// accept makes l the latest list, unless it is older than one whose signature
// has been verified and which is kept beside it then.
func (s *source) accept(l *list) {
	if s.latest != nil && s.latest.proved.Load() && (s.proven == nil || !s.proven.thisUpdate.After(s.latest.thisUpdate)) {
		s.proven = s.latest
	}
	s.latest = l
}

// nextDownload is when three quarters of the time of what was downloaded have
// passed, or Config.Refresh, whichever is first, and not before Config.Retry.
func (c *Checker) nextDownload(thisUpdate, nextUpdate, now time.Time) time.Time {
	due := now.Add(c.config.Refresh)
	if ahead := thisUpdate.Add(nextUpdate.Sub(thisUpdate) / 4 * 3); !nextUpdate.IsZero() && ahead.Before(due) {
		due = ahead
	}
	if soonest := now.Add(c.config.Retry); due.Before(soonest) {
		due = soonest
	}
	return due
}

// obtain downloads what is due of sources: it awaits those that are needed and
// begins the others.
func (c *Checker) obtain(ctx context.Context, sources []*source, needed bool) (problems []string) {
	for _, s := range sources {
		due, empty := c.isDue(s)
		if due {
			download := func(ctx context.Context) { c.download(ctx, s) }
			var err error
			if needed || empty {
				err = c.fetch.do(ctx, "crl "+s.url, download)
			} else {
				_, err = c.fetch.begin("crl "+s.url, download)
			}
			if err != nil {
				problems = append(problems, fmt.Sprintf("%s: %v", s.url, err))
				continue
			}
		}
		c.mu.Lock()
		if s.problem != nil {
			problems = append(problems, s.problem.Error())
		}
		c.mu.Unlock()
	}
	return problems
}

// consult judges certificate by the lists at the URLs that the operator, the
// certificate or a list of its issuer names.
func (c *Checker) consult(ctx context.Context, certificate, issuer *x509.Certificate, w window) verdict {
	sources := append([]*source(nil), c.named...)
	if c.config.Follow {
		sources = append(sources, c.sourcesOf(certificate.CRLDistributionPoints)...)
	}
	if len(sources) == 0 {
		return verdict{}
	}
	problems := c.obtain(ctx, sources, false)
	v := c.judgeSources(sources, certificate, issuer, w)
	if v.status == unknown || v.stale {
		// What is at hand does not do; if it is due, it is awaited.
		problems = c.obtain(ctx, sources, true)
		v = c.judgeSources(sources, certificate, issuer, w)
	}
	if v.status != revoked && c.config.Follow {
		if deltas := c.sourcesOf(c.deltasFor(sources, certificate, issuer)); deltas != nil {
			problems = append(problems, c.obtain(ctx, deltas, v.status == unknown || v.stale)...)
			v = c.judgeSources(append(sources, deltas...), certificate, issuer, w)
		}
	}
	if v.status == unknown {
		v.reasons = append(v.reasons, problems...)
	}
	return v
}

// sourcesOf returns the sources of the first URLs that could be fetched.
func (c *Checker) sourcesOf(urls []string) []*source {
	var sources []*source
	for _, url := range urls {
		if len(sources) < maxURLs && checkURL(url) == nil {
			sources = append(sources, c.sourceOf(url))
		}
	}
	return sources
}

func (c *Checker) judgeSources(sources []*source, certificate, issuer *x509.Certificate, w window) verdict {
	return judgeLists(c.listsOf(sources), certificate, issuer, w)
}

// listsOf returns the lists in files and those of sources.
func (c *Checker) listsOf(sources []*source) []*list {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lists []*list
	for _, f := range c.files {
		lists = append(lists, f.lists...)
	}
	for _, s := range sources {
		lists = append(lists, s.lists()...)
	}
	return lists
}

// deltasFor returns the URLs of deltas that the certificate or a list of its
// issuer names (RFC 5280 4.2.1.15, 5.2.6).
func (c *Checker) deltasFor(sources []*source, certificate, issuer *x509.Certificate) []string {
	urls := freshestOf(certificate)
	for _, l := range c.listsOf(sources) {
		if l.freshest != nil && l.signedBy(issuer) == nil {
			urls = append(urls, l.freshest...)
		}
	}
	return urls
}
