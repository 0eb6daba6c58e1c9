package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"muster"
	"muster/cert"
	"muster/console"
)

// An adminConfig is where operators are answered, over TLS 1.3.
type adminConfig struct {
	// Listen is host:port, or systemd:NAME; empty for not at all. The certificate is the function's own.
	Listen string `yaml:"listen"`
	// Rules is the file in which a MEF keeps the instructions, anchors and verdicts that operators give it, made with the first; without it they give none.
	Rules string `yaml:"rules"`
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
	// Stakeholder bounds the client to the registrations and commands of an administrating stakeholder.
	Stakeholder muster.FQDN `yaml:"stakeholder"`
	// Enrolees bounds the client to Enrolees whose identifiers begin so, as //sp.example/.
	Enrolees string `yaml:"enrolees"`
	// MaxInstructions is how many instructions of operators there may be within these bounds for the client to add another; 10000 by default, and no bound for a client that is not bounded.
	MaxInstructions int `yaml:"max_instructions"`
}

// fixed returns what takes effect at a start only.
func (c adminConfig) fixed() adminConfig { return adminConfig{Listen: c.Listen, Rules: c.Rules} }

func (c *adminConfig) resolve(file string) {
	resolve(file, &c.Rules)
	for i := range c.Clients {
		resolveAll(file, c.Clients[i].Anchors)
	}
}

func (c adminConfig) read(status *statusSource) (clients []console.Client, err error) {
	anchors := anchorCache{}
	for i, configured := range c.Clients {
		client := console.Client{Role: configured.Role, Scope: console.Scope{Stakeholder: configured.Stakeholder, Enrolees: configured.Enrolees}, Status: status.question(nil)}
		if configured.MaxInstructions < 0 || configured.MaxInstructions > 0 && client.Scope.IsZero() {
			return nil, configErrorf("admin: client %d: max_instructions is a number from 1, for a client with stakeholder or enrolees", i+1)
		}
		if client.MaxInstructions = configured.MaxInstructions; !client.Scope.IsZero() {
			orDefault(&client.MaxInstructions, defaultInstructions)
		}
		if client.Role == "" || len(configured.Anchors) == 0 || configured.Certificate.Pattern != "" {
			return nil, configErrorf("admin: client %d lacks role or anchors, or has a pattern", i+1)
		}
		if configured.Enrolees != "" && !strings.HasSuffix(configured.Enrolees, "/") {
			return nil, configErrorf("admin: client %d: enrolees %q does not end with a slash, so that it has those of others who are called alike", i+1, configured.Enrolees)
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

// defaultInstructions are the most that a tenant's operators give, if the configuration
// does not say.
const defaultInstructions = 10_000

// The bounds of an operator's connection.
const (
	adminReadTime  = 10 * time.Second
	adminWriteTime = 30 * time.Second
)

// serveAdmin opens the listener for operators, if the configuration names one.
func (s *service) serveAdmin(config adminConfig, profile cert.Profile, sources console.Sources) error {
	if config.Listen == "" {
		return nil
	}
	clients, err := config.read(s.status)
	if err != nil {
		return err
	}
	s.operators.Store(&clients)
	listener, err := listenStream(config.Listen)
	if err != nil {
		return configErrorf("admin.listen: %v", err)
	}
	operators := console.New(console.Config{
		Clients: func() []console.Client { return *s.operators.Load() }, Profile: profile,
		Sources: sources, Logger: s.log, Now: time.Now,
	})
	door := newAdminDoor(&boundedListener{Listener: listener}, operators.TLS(func() (*tls.Certificate, error) { return s.own.get() }))
	server := &http.Server{
		Handler: operators, TLSConfig: door.config.Clone(), ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ReadTimeout: adminReadTime, WriteTimeout: adminWriteTime, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return s.base },
	}
	s.admin = listener
	s.tasks.Go(func() error { return door.open(s.base) })
	s.serveHTTP(server, func() error { return server.Serve(door) })
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
		if leave, ok := l.threshold.enter(conn); ok {
			return &countedConn{conn, sync.OnceFunc(leave)}, nil
		}
		_ = conn.Close()
	}
}
