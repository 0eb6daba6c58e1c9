// Package awkward makes a MEF or a MAF awkward, within the protocol, so that the
// authors of clients can test what theirs does: answers come late and overtake each
// other, what may be absent is absent, and CoAP answers in every way that RFC 7252
// allows. It is for tests, never for production.
//
// All choices follow from a seed. What a client sees depends on the order of its
// requests as well, so that a client that asks one at a time sees the same again.
package awkward

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"muster"
	"muster/primitive"
)

// maxDelay is how late an answer may be: less than what clients wait before they
// send a datagram again.
const maxDelay = 500 * time.Millisecond

// A Mode decorates the parts of a server. Its methods may be called by many
// goroutines.
type Mode struct {
	seed   uint64
	delays time.Duration

	mu     sync.Mutex
	choice *rand.Rand // guarded by mu
}

// New returns the Mode of a seed.
func New(seed uint64) *Mode {
	return &Mode{seed: seed, delays: maxDelay, choice: rand.New(rand.NewPCG(seed, seed))}
}

// Seed returns the seed, for a log.
func (m *Mode) Seed() uint64 { return m.seed }

// pick returns a number from 0 to n-1.
func (m *Mode) pick(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.choice.IntN(n)
}

// delay waits for a while, half of the times, or until ctx ends.
func (m *Mode) delay(ctx context.Context) {
	if m.pick(2) == 0 {
		return
	}
	timer := time.NewTimer(time.Duration(m.pick(int(m.delays))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Handler delays requests before they are answered, and answers before they leave,
// and leaves attributes out that no client may rely on.
func (m *Mode) Handler(h primitive.Handler) primitive.Handler {
	return primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		m.delay(ctx)
		response, err := h.Serve(ctx, s, r)
		m.delay(context.WithoutCancel(ctx)) // what is done is answered
		if err != nil || response == nil || !response.Status.Success() || response.Content.IsZero() {
			return response, err
		}
		content, err := response.Content.Object()
		if err != nil {
			return nil, err
		}
		fewer := *response
		fewer.Content = primitive.NewContent(m.without(content))
		return &fewer, nil
	})
}

// optional returns the attributes that a resource need not show: its times and its
// labels. They have the short names of TS-0004 8.2.3.
func optional() []string { return []string{"ct", "lt", "lbl"} }

// without returns a content in which each resource lacks some attributes.
func (m *Mode) without(content primitive.Object) primitive.Object {
	content = maps.Clone(content)
	for root, value := range content {
		resource, ok := value.(primitive.Object)
		if !ok {
			continue
		}
		resource = maps.Clone(resource)
		for _, name := range optional() {
			if m.pick(2) == 0 {
				delete(resource, name)
			}
		}
		content[root] = resource
	}
	return content
}

// HTTP answers in pieces, with header fields that a client may not know.
func (m *Mode) HTTP(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.pick(2) == 0 {
			w.Header().Set("X-M2M-OT", primitive.FormatTimestamp(time.Now()))
		}
		if m.pick(2) == 0 {
			w.Header().Set("X-Awkward", "of no meaning")
		}
		if m.pick(2) == 0 {
			w = &pieces{ResponseWriter: w}
		}
		h.ServeHTTP(w, r)
	})
}

// pieces is an http.ResponseWriter that does not tell the length, and sends a body
// in two.
type pieces struct{ http.ResponseWriter }

// Unwrap leads http.ResponseController, and with it WebSocket, to what is below.
func (p *pieces) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (p *pieces) WriteHeader(code int) {
	if code != http.StatusSwitchingProtocols {
		p.Header().Del("Content-Length")
	}
	p.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (p *pieces) Write(body []byte) (int, error) {
	half := len(body) / 2
	n, err := p.ResponseWriter.Write(body[:half])
	if err != nil {
		return n, err
	}
	if err := http.NewResponseController(p.ResponseWriter).Flush(); err != nil {
		return n, err
	}
	rest, err := p.ResponseWriter.Write(body[half:])
	return n + rest, err
}
