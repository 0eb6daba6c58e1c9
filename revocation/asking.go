package revocation

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"muster"
)

// An asked certificate is one that a responder is asked about.
type asked struct {
	issuerName, issuerKey muster.Digest
	serial                string
}

// A lastAnswer is what came of the last request. Its fields are guarded by the
// Checker's mu.
type lastAnswer struct {
	answer  answer // of status unknown if there never was one
	by      string
	problem error // of the last request
	due     time.Time
}

// respondersFor are the responders for a certificate, the operator's first.
func (c *Checker) respondersFor(certificate *x509.Certificate) []string {
	urls := slices.Clone(c.config.Responders)
	if c.config.Follow {
		followed := 0
		for _, url := range certificate.OCSPServer {
			if followed < maxURLs && checkURL(url) == nil && !slices.Contains(urls, url) {
				urls = append(urls, url)
				followed++
			}
		}
	}
	return urls
}

// ask returns what a responder says about certificate: from memory while that is
// current, and asked again ahead of its end.
func (c *Checker) ask(ctx context.Context, certificate, issuer *x509.Certificate, w window) verdict {
	urls := c.respondersFor(certificate)
	if len(urls) == 0 {
		return verdict{}
	}
	key := asked{muster.DigestOf(issuer.RawSubject), muster.DigestOf(issuer.RawSubjectPublicKeyInfo), serialKey(certificate.SerialNumber)}
	last, due := c.lastOf(key)
	request := func(ctx context.Context) { c.request(ctx, key, urls, certificate, issuer) }
	flight := "ocsp " + string(key.issuerName[:]) + string(key.issuerKey[:]) + key.serial
	v, done := c.remembered(last, w)
	switch {
	case done && due:
		_, _ = c.fetch.begin(flight, request)
		return v
	case done || !due:
		return v
	}
	if c.config.Follow && len(certificate.CRLDistributionPoints) > 0 {
		// A responder that is silent leaves time for the list.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.config.Deadline/2)
		defer cancel()
	}
	if err := c.fetch.do(ctx, flight, request); err != nil {
		return verdict{reasons: []string{fmt.Sprintf("%s: %v", urls[0], err)}}
	}
	last, _ = c.lastOf(key)
	v, _ = c.remembered(last, w)
	return v
}

func (c *Checker) lastOf(key asked) (last lastAnswer, due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.answers.get(key)
	if !ok {
		return lastAnswer{}, true
	}
	return *known, !c.config.Clock().Before(known.due)
}

// remembered returns the verdict of an answer at hand; done is false if there is
// none that settles the matter. A revocation does not age.
func (c *Checker) remembered(last lastAnswer, w window) (v verdict, done bool) {
	switch {
	case last.answer.status == unknown:
	case last.answer.status == revoked:
		return last.answer.verdict(last.by), true
	default:
		err := last.answer.current(w, c.config.Refresh)
		if err == nil {
			return last.answer.verdict(last.by), true
		}
		v.because("%s: %v", last.by, err)
	}
	if last.problem != nil {
		v.because("%v", last.problem)
	}
	return v, false
}

// request asks the responders one after the other and remembers the first
// answer, or the last failure beside the answer of before. It does not replace an
// answer by an older one.
func (c *Checker) request(ctx context.Context, key asked, urls []string, certificate, issuer *x509.Certificate) {
	var found answer
	var by string
	var problem error
	for _, url := range urls {
		if found, problem = c.requestFrom(ctx, url, certificate, issuer); problem == nil {
			by = fmt.Sprintf("the responder at %q", url)
			break
		}
		problem = fmt.Errorf("%s: %w", url, problem)
		c.config.Log.Warn("no OCSP answer", "serial", certificate.SerialNumber.Text(16), "error", problem)
	}
	now := c.config.Clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	next := &lastAnswer{problem: problem, due: now.Add(c.config.Retry)}
	if before, ok := c.answers.get(key); ok {
		next.answer, next.by = before.answer, before.by
	}
	if problem == nil {
		next.due = c.nextDownload(found.thisUpdate, found.nextUpdate, now)
		if next.answer.status == unknown || !found.thisUpdate.Before(next.answer.thisUpdate) {
			next.answer, next.by = found, by
		}
	}
	c.answers.put(key, next)
}

// requestFrom judges an answer by the clock and not by the time in a question,
// since others may wait for the same answer.
func (c *Checker) requestFrom(ctx context.Context, url string, certificate, issuer *x509.Certificate) (answer, error) {
	w := window{now: c.config.Clock(), skew: c.config.Skew}
	var nonce []byte
	if c.config.Nonce != NonceOff {
		nonce = newNonce()
	}
	request, err := newRequest(certificate, issuer, nonce)
	if err != nil {
		return answer{}, err
	}
	der, err := c.fetch.post(ctx, url, request, c.config.MaxAnswer)
	if err != nil {
		return answer{}, err
	}
	found, err := judgeAnswer(der, demand{certificate, issuer, nonce, c.config.Nonce == NonceRequired, w})
	if err != nil {
		return answer{}, err
	}
	if found.status == revoked {
		return found, nil
	}
	return found, found.current(w, c.config.Refresh)
}
