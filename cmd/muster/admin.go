package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"muster/cert"
	"muster/console"
)

// An adminConfig is where operators are answered, over TLS 1.3.
type adminConfig struct {
	// Listen is host:port, or systemd:NAME; empty for not at all. The certificate is the function's own.
	Listen string `yaml:"listen"`
	// Clients are the operators, by their certificates.
	Clients []adminClientConfig `yaml:"clients"`
}

// An adminClientConfig is an operator, or a program of theirs.
type adminClientConfig struct {
	// Certificate is the flavour and the name in the certificate.
	Certificate certificateConfig `yaml:"certificate"`
	// Anchors are PEM files of the roots under which that name is meant.
	Anchors []string `yaml:"anchors"`
	// Role is viewer, operator, auditor or admin.
	Role console.Role `yaml:"role"`
}

func (c adminConfig) resolve(file string) {
	for i := range c.Clients {
		resolveAll(file, c.Clients[i].Anchors)
	}
}

func (c adminConfig) read(status *statusSource) (clients []console.Client, err error) {
	anchors := anchorCache{}
	for i, configured := range c.Clients {
		client := console.Client{Role: configured.Role, Status: status.question(nil)}
		if client.Role == "" || len(configured.Anchors) == 0 || configured.Certificate.Pattern != "" {
			return nil, configErrorf("admin: client %d lacks role or anchors, or has a pattern", i+1)
		}
		if client.Anchors, err = anchors.read(configured.Anchors); err != nil {
			return nil, err
		}
		if client.Name, err = cert.ParseName(configured.Certificate.Flavour, configured.Certificate.Name); err != nil {
			return nil, configErrorf("admin: client %d: %v", i+1, err)
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// The bounds of an operator's connection.
const (
	adminReadTime  = 10 * time.Second
	adminWriteTime = 30 * time.Second
)

// serveAdmin opens the listener for operators, if the configuration names one.
func (s *service) serveAdmin(config adminConfig, profile cert.Profile, refusals *refusalLog) error {
	if config.Listen == "" {
		return nil
	}
	clients, err := config.read(s.status)
	if err != nil {
		return err
	}
	listener, err := listenStream(config.Listen)
	if err != nil {
		return configErrorf("admin.listen: %v", err)
	}
	operators := console.New(console.Config{
		Clients: func() []console.Client { return clients }, Profile: profile,
		Sources: console.Sources{Refusals: refusals.list}, Logger: s.log, Now: time.Now,
	})
	server := &http.Server{
		Handler: operators, TLSConfig: operators.TLS(func() (*tls.Certificate, error) { return s.own.get() }), ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ReadTimeout: adminReadTime, WriteTimeout: adminWriteTime, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}
	s.admin = listener
	s.closers = append(s.closers, server.Close)
	s.tasks.Go(func() error {
		if err := server.ServeTLS(&boundedListener{Listener: listener}, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	s.log.Info("listening", "transport", "admin", "address", listener.Addr().String())
	return nil
}

// A boundedListener closes connections beyond the bounds of its threshold at once:
// strangers can open them, and hold them with requests for liveness.
type boundedListener struct {
	net.Listener
	threshold threshold
}

// Accept implements net.Listener. A connection counts until it is closed.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if leave, ok := l.threshold.enter(conn.RemoteAddr()); ok {
			return &countedConn{conn, sync.OnceFunc(leave)}, nil
		}
		_ = conn.Close()
	}
}

// list is the console's list of refusals, the newest first.
func (l *refusalLog) list(_ context.Context, q console.Query) (page console.Page[console.Refusal], err error) {
	all, err := readRefusals(l.path)
	if err != nil {
		return page, err
	}
	slices.Reverse(all)
	if q.After != "" {
		last := slices.IndexFunc(all, func(r refusal) bool { return r.ID == q.After })
		if last < 0 {
			return page, console.ErrNoCursor
		}
		all = all[last+1:]
	}
	for _, r := range all[:min(q.Limit, len(all))] {
		page.Items = append(page.Items, console.Refusal{
			ID: r.ID, Time: r.Time, Code: r.Code, Detail: r.Detail, Remote: r.Remote,
			Transport: string(r.Transport), Certificate: r.Certificate.String(),
		})
	}
	if len(all) > q.Limit {
		page.Next = all[q.Limit-1].ID
	}
	return page, nil
}
