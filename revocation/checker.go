package revocation

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"sync"
	"time"

	"muster"
	"muster/cert"
)

// A Checker answers questions about the status of certificates. Its methods may
// be called by many goroutines at once.
type Checker struct {
	config Config
	fetch  *fetcher
	end    context.CancelFunc
	// parsing admits one parser at a time: a list takes many times its size
	// while it is read.
	parsing chan struct{}

	mu      sync.Mutex
	files   []*file                    // what they hold is guarded by mu, as all below; the slice is not changed
	named   []*source                  // of Config.URLs; the slice is not changed
	strange *cache[string, *source]    // of URLs in certificates
	answers *cache[asked, *lastAnswer] // of responders
}

// New reads the files and returns a Checker. It fails if a file is not a CRL or a
// URL is not one that could be fetched; it connects to nobody. Close ends it.
func New(config Config) (*Checker, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Checker{
		config:  config,
		parsing: make(chan struct{}, 1),
		strange: newCache[string, *source](config.MaxLists),
		answers: newCache[asked, *lastAnswer](config.MaxAnswers),
	}
	for _, path := range config.Files {
		f := &file{path: path}
		if err := f.read(config.MaxCRL); err != nil {
			return nil, err
		}
		c.files = append(c.files, f)
	}
	for _, url := range config.URLs {
		c.named = append(c.named, &source{url: url})
	}
	base, end := context.WithCancel(context.Background())
	c.end, c.fetch = end, newFetcher(base, config)
	return c, nil
}

// Close ends all downloads and waits for them. A Checker that is closed answers
// from what it knows.
func (c *Checker) Close() error {
	c.end()
	c.fetch.close()
	return nil
}

// A Question is what is asked about a path.
type Question struct {
	Mode  Mode
	Scope Scope
	// Now decides what is current. It is not the time of downloads.
	Now time.Time
	// Staple is the OCSP answer that the peer sent about its own certificate,
	// in DER: OCSPResponse of a tls.ConnectionState, which crypto/tls fills for
	// clients and before VerifyConnection. pion/dtls has none.
	Staple []byte
}

// Status returns the question in the form of cert.Trust.Status.
func (c *Checker) Status(ctx context.Context, q Question) func(path []*x509.Certificate) cert.Findings {
	return func(path []*x509.Certificate) cert.Findings { return c.Check(ctx, path, q) }
}

// Check says what is known about the certificates of a valid path, the leaf
// first, the anchor last, with indices into the path: an error
// muster.CodeRevoked for a revoked one, muster.CodeStatusUnknown for one of
// unknown status, an error or a warning by the mode, and information about the
// others. It returns within Config.Deadline or when ctx ends; downloads that it
// has begun go on, so that a later Check finds their results.
//
// TS-0003 8.1.2.2
func (c *Checker) Check(ctx context.Context, path []*x509.Certificate, q Question) cert.Findings {
	if q.Mode == ModeOff || len(path) == 0 {
		return nil
	}
	if len(path) < 2 {
		return cert.Findings{{Code: muster.CodeStatusUnknown, Detail: "the path has no issuer, who alone could tell"}}
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Deadline)
	defer cancel()
	var findings cert.Findings
	for i := range path[:len(path)-1] {
		if i > 0 && q.Scope == ScopeLeaf {
			break
		}
		v := c.examine(ctx, path[i], path[i+1], q, i == 0)
		findings = append(findings, v.finding(i, q.Mode))
		if v.status == revoked {
			break
		}
	}
	return findings
}

// examine asks the sources from the cheapest on until one gives a current
// answer.
func (c *Checker) examine(ctx context.Context, certificate, issuer *x509.Certificate, q Question, leaf bool) verdict {
	w := window{q.Now, c.config.Skew, c.config.Grace}
	var failed verdict
	if leaf && len(q.Staple) > 0 {
		found, err := judgeAnswer(q.Staple, demand{certificate: certificate, issuer: issuer, window: w})
		if err == nil && found.status != revoked {
			err = found.current(w, c.config.Refresh)
		}
		if err != nil {
			failed.because("the stapled answer: %v", err)
		} else if local := judgeLists(c.localLists(), certificate, issuer, w); local.status == revoked {
			return local // a list that the operator gives outweighs what the peer brings
		} else {
			return found.verdict("the stapled answer")
		}
	}
	stages := []func() verdict{
		func() verdict { return judgeLists(c.localLists(), certificate, issuer, w) },
		func() verdict { return c.ask(ctx, certificate, issuer, w) },
		func() verdict { return c.consult(ctx, certificate, issuer, w) },
	}
	var stale *verdict
	for _, stage := range stages {
		v := stage()
		switch {
		case v.status == revoked, v.status == good && !v.stale:
			return v
		case v.status == good && stale == nil:
			stale = &v
		case v.status == unknown:
			for _, reason := range v.reasons {
				if !slices.Contains(failed.reasons, reason) {
					failed.reasons = append(failed.reasons, reason)
				}
			}
		}
	}
	if stale != nil {
		return *stale
	}
	return failed
}

// maxDetail is the size of a detail in octets.
const maxDetail = 1024

// finding turns a verdict about certificate i into a Finding.
func (v verdict) finding(i int, mode Mode) cert.Finding {
	detail := strings.Join(v.reasons, "; ")
	if len(detail) > maxDetail {
		detail = detail[:maxDetail] + "..."
	}
	switch {
	case v.status == revoked:
		return cert.Finding{Code: muster.CodeRevoked, Level: cert.LevelError, Certificate: i, Detail: detail}
	case v.status == good && !v.stale:
		return cert.Finding{Code: muster.CodeRevoked, Level: cert.LevelInfo, Certificate: i, Detail: "it is not revoked: " + detail}
	case v.status == good:
		return cert.Finding{Code: muster.CodeStatusUnknown, Level: cert.LevelWarning, Certificate: i, Detail: detail}
	}
	if detail == "" {
		detail = "no CRL of its issuer is at hand, and no responder may be asked"
	}
	level := cert.LevelError
	if mode == ModeSoft {
		level = cert.LevelWarning
	}
	return cert.Finding{Code: muster.CodeStatusUnknown, Level: level, Certificate: i, Detail: detail}
}

// localLists are those of files and of the URLs that the operator names, as far
// as they have been downloaded.
func (c *Checker) localLists() []*list { return c.listsOf(c.named) }
