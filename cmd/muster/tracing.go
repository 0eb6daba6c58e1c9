package main

import (
	"context"
	"log/slog"
	"net/http"

	"muster"
	"muster/binding"
	"muster/enrolee"
	"muster/maf"
	"muster/primitive"
	"muster/tracing"
)

// A tracingConfig says where traces are sent.
type tracingConfig struct {
	// Endpoint is the URL of an OpenTelemetry collector, as http://127.0.0.1:4318/v1/traces; none by default.
	Endpoint string `yaml:"endpoint"`
}

// headerTraceparent is of W3C Trace Context. It is read and written within
// authenticated sessions only, since nothing else carries requests.
const headerTraceparent = "Traceparent"

// tracer returns what traces a service, or nil if nothing collects it.
func (c tracingConfig) tracer(service string, log *slog.Logger) (*tracing.Tracer, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	tracer, err := tracing.New(tracing.Config{Endpoint: c.Endpoint, Service: service, Trouble: func(err error) {
		log.Warn("spans not sent", "error", err)
	}})
	if err != nil {
		return nil, configErrorf("tracing: %v", err)
	}
	return tracer, nil
}

// traced returns the role with a span around each of its steps. Without a tracer
// it is the role itself.
func (r role) traced(tracer *tracing.Tracer) role {
	if tracer == nil {
		return r
	}
	inner := r
	r.tracer = tracer
	if inner.psk != nil {
		r.psk = func(ctx context.Context, identity string) ([]byte, error) {
			ctx, span := tracer.Start(ctx, "psk_identity", tracing.Internal)
			key, err := inner.psk(ctx, identity)
			span.End(spanCode(err))
			return key, err
		}
	}
	r.established = func(ctx context.Context, s *muster.Session) error {
		ctx, span := tracer.Start(ctx, "establish", tracing.Internal)
		err := inner.established(ctx, s)
		span.End(spanCode(err))
		return err
	}
	r.handler = primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, request *primitive.Request) (*primitive.Response, error) {
		ctx, span := tracer.Start(ctx, "request", tracing.Server)
		response, err := inner.handler.Serve(ctx, s, request)
		span.Set("onem2m.operation", request.Operation.String())
		span.End(spanCode(err))
		return response, err
	})
	if inner.fetch != nil {
		r.fetch = func(ctx context.Context, s *muster.Session, request binding.FetchRequest) (binding.Credential, error) {
			ctx, span := tracer.Start(ctx, "fetch", tracing.Server)
			key, err := inner.fetch(ctx, s, request)
			span.End(spanCode(err))
			return key, err
		}
	}
	return r
}

// continueTraces has requests over HTTP go on in the traces of their senders.
func continueTraces(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(tracing.Continue(r.Context(), r.Header.Get(headerTraceparent))))
	})
}

// passTrace gives a request over HTTP the trace of its sender.
func passTrace(ctx context.Context, h http.Header) {
	if traceparent := tracing.Traceparent(ctx); traceparent != "" {
		h.Set(headerTraceparent, traceparent)
	}
}

// spanCode is all that a span tells of an error: its text may name a peer.
func spanCode(err error) string {
	if code := muster.CodeOf(err); code != "" || err == nil {
		return string(code)
	}
	return "internal"
}

// traceRetriever returns the way to the MEFs, traced.
func traceRetriever(next maf.Retriever, tracer *tracing.Tracer) maf.Retriever {
	if tracer == nil {
		return next
	}
	return tracedRetriever{next, tracer}
}

type tracedRetriever struct {
	maf.Retriever
	tracer *tracing.Tracer
}

func (r tracedRetriever) RetrieveKey(ctx context.Context, id muster.KeID, usage muster.SUID) (maf.RetrievedKey, error) {
	ctx, span := r.tracer.Start(ctx, "retrieve key", tracing.Client)
	key, err := r.Retriever.RetrieveKey(ctx, id, usage)
	span.End(spanCode(err))
	return key, err
}

// traceDialer returns a device's way out, traced.
func traceDialer(next enrolee.Dialer, tracer *tracing.Tracer) enrolee.Dialer {
	if tracer == nil {
		return next
	}
	return tracedDialer{next, tracer}
}

type tracedDialer struct {
	enrolee.Dialer
	tracer *tracing.Tracer
}

// DialMEF implements enrolee.Dialer.
func (d tracedDialer) DialMEF(ctx context.Context) (enrolee.Conn, error) {
	return d.dial(ctx, "connect to the MEF", d.Dialer.DialMEF)
}

// DialMAF implements enrolee.Dialer.
func (d tracedDialer) DialMAF(ctx context.Context, pskIdentity string, km muster.Km) (enrolee.Conn, error) {
	return d.dial(ctx, "connect to the MAF", func(ctx context.Context) (enrolee.Conn, error) {
		return d.Dialer.DialMAF(ctx, pskIdentity, km)
	})
}

func (d tracedDialer) dial(ctx context.Context, name string, dial func(context.Context) (enrolee.Conn, error)) (enrolee.Conn, error) {
	ctx, span := d.tracer.Start(ctx, name, tracing.Client)
	conn, err := dial(ctx)
	span.End(spanCode(err))
	if err != nil {
		return nil, err
	}
	return &tracedConn{conn, d.tracer, tracing.Traceparent(ctx)}, nil
}

// A tracedConn has a span for each request, in the sender's trace, or else in that
// of the connection.
type tracedConn struct {
	enrolee.Conn
	tracer *tracing.Tracer
	dialed string // traceparent
}

// Do implements enrolee.Conn.
func (c *tracedConn) Do(ctx context.Context, request *primitive.Request) (*primitive.Response, error) {
	if tracing.Traceparent(ctx) == "" {
		ctx = tracing.Continue(ctx, c.dialed)
	}
	ctx, span := c.tracer.Start(ctx, "request", tracing.Client)
	span.Set("onem2m.operation", request.Operation.String())
	response, err := c.Conn.Do(ctx, request)
	span.End(spanCode(err))
	return response, err
}
