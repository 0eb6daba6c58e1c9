package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"muster"
)

const (
	healthTimeout = 2 * time.Second
	// reachMemory is how long it is remembered whether a MEF answers, however
	// many ask.
	reachMemory = 15 * time.Second
)

// A check is a question on which readiness depends.
type check struct {
	name string
	ask  func(ctx context.Context) error
}

// serveHealth opens the listener for metrics, liveness and readiness. It is the last that closes, so that readiness tells of
// the drain.
func (s *service) serveHealth(config metricsConfig) error {
	address, err := loopback(config.Listen)
	if err != nil {
		return configErrorf("metrics.listen: %v", err)
	}
	if s.health, err = listenStream(address); err != nil {
		return configErrorf("metrics.listen: %v", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.set.Handler())
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readiness(s.checks))
	server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	s.serveHTTP(server, func() error { return server.Serve(&boundedListener{Listener: s.health}) })
	s.log.Info("listening", "transport", "http", "address", s.health.Addr().String())
	if tcp, ok := s.health.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		s.log.Warn("metrics are readable by whoever reaches the address: it has neither TLS nor authentication")
	}
	return nil
}

// serveHTTP has a server beside those of the protocol serve until the service stops.
func (s *service) serveHTTP(server *http.Server, serve func() error) {
	s.closers = append(s.closers, server.Close)
	s.tasks.Go(func() error {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// readiness answers with one line for each check: its name and whether it holds,
// and not why, for anybody may ask; the log says why. A check that the query
// parameter exclude names is left out.
func (s *service) readiness(checks []check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		var body strings.Builder
		for _, c := range checks {
			if slices.Contains(r.URL.Query()["exclude"], c.name) {
				continue
			}
			ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
			err := c.ask(ctx)
			cancel()
			if err == nil {
				fmt.Fprintf(&body, "[+]%s ok\n", c.name)
				continue
			}
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&body, "[-]%s failed\n", c.name)
			s.log.Warn("not ready", "check", c.name, "code", muster.CodeOf(err), "error", err)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		fmt.Fprint(w, body.String())
	}
}

// running is the check that fails from the beginning of the drain.
func (s *service) running() check {
	return check{"running", func(context.Context) error {
		if s.draining.Load() {
			return errors.New("the function is stopping")
		}
		return nil
	}}
}

func storeAnswers(store database) check { return check{"store", store.Ping} }

// valid is the check that the function's own certificate has begun and not ended.
func (i *identity) valid() check {
	return check{"certificate", func(context.Context) error {
		switch now, leaf := time.Now(), i.leaf(); {
		case now.Before(leaf.NotBefore):
			return muster.Refuse(muster.CodeNotYetValid, "the function's own certificate is valid from %s", leaf.NotBefore)
		case now.After(leaf.NotAfter):
			return muster.Refuse(muster.CodeExpired, "the function's own certificate expired at %s", leaf.NotAfter)
		default:
			return nil
		}
	}}
}

// anchorTimes are a function's trust anchors, and when the first and the last of
// them expire; zero for a function that has none.
type anchorTimes struct {
	first, last time.Time
	roots       []*x509.Certificate
}

func readAnchorTimes(files []string) (t anchorTimes, err error) {
	slices.Sort(files)
	t.roots, err = readCertificates(slices.Compact(files))
	for _, root := range t.roots {
		if t.first.IsZero() || root.NotAfter.Before(t.first) {
			t.first = root.NotAfter
		}
		if root.NotAfter.After(t.last) {
			t.last = root.NotAfter
		}
	}
	return t, err
}

// anchored is the check that not all trust anchors have expired.
func (s *service) anchored() check {
	return check{"anchors", func(context.Context) error {
		if t := s.anchors.Load(); !t.last.IsZero() && time.Now().After(t.last) {
			return muster.Refuse(muster.CodeExpired, "the last trust anchor expired at %s", t.last)
		}
		return nil
	}}
}

// remembered asks at most once in a while, on behalf of all who ask meanwhile, and
// not for longer than healthTimeout.
func remembered(memory time.Duration, ask func(ctx context.Context) error) func(ctx context.Context) error {
	var mu sync.Mutex
	var asked time.Time
	var answer error
	return func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if asked.IsZero() || time.Since(asked) >= memory {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
			defer cancel()
			answer = ask(ctx)
			asked = time.Now()
		}
		return answer
	}
}

// watch tells the set what can be asked at any time, and serves it, if the
// configuration says where.
func (s *service) watch(config metricsConfig, anchors []string, more ...check) error {
	times, err := readAnchorTimes(anchors)
	if err != nil {
		return err
	}
	s.anchors.Store(&times)
	s.checks = append([]check{s.running(), s.own.valid(), s.anchored()}, more...)
	if config.Listen == "" {
		return nil
	}
	s.set.WatchExpiry("identity", func() time.Time { return s.own.leaf().NotAfter })
	s.set.WatchExpiry("anchor", func() time.Time { return s.anchors.Load().first })
	return s.serveHealth(config)
}
