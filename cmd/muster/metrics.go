package main

import (
	"context"
	"net"
	"strings"
	"time"

	"muster"
	"muster/binding"
	"muster/maf"
	"muster/mef"
	"muster/metrics"
	"muster/primitive"
)

// A metricsConfig is where metrics and health are served.
type metricsConfig struct {
	// Listen is host:port of /metrics, /livez and /readyz, without TLS; the loopback interface if it has no host; none by default.
	Listen string `yaml:"listen"`
}

// set returns what measures a function, or nil if nothing asks for it.
func (c metricsConfig) set(of metrics.Function) *metrics.Set {
	if c.Listen == "" {
		return nil
	}
	return metrics.New(of)
}

// measured returns the role with its refusals counted. Without a set it is the
// role itself.
func (r role) measured(set *metrics.Set) role {
	if set == nil {
		return r
	}
	inner := r
	r.set = set
	if inner.psk != nil {
		r.psk = func(ctx context.Context, identity string) ([]byte, error) {
			key, err := inner.psk(ctx, identity)
			set.Refused(metrics.StagePSKIdentity, err)
			return key, err
		}
	}
	r.handler = primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, request *primitive.Request) (*primitive.Response, error) {
		response, err := inner.handler.Serve(ctx, s, request)
		set.Refused(metrics.StageRequest, err)
		return response, err
	})
	if inner.fetch != nil {
		r.fetch = func(ctx context.Context, s *muster.Session, request binding.FetchRequest) (binding.Credential, error) {
			key, err := inner.fetch(ctx, s, request)
			set.Refused(metrics.StageFetch, err)
			return key, err
		}
	}
	return r
}

// measured returns the observer, which also counts.
func (o observer) measured(set *metrics.Set) observer {
	if set == nil {
		return o
	}
	return observer{
		enrolled: func(e mef.Enrolment) {
			set.Enrolled()
			o.sawEnrolment(e)
		},
		attached: func(c maf.Credential, pskIdentity string) {
			set.Attached()
			o.sawAttachment(c, pskIdentity)
		},
	}
}

// measureStore returns the store with the operations measured that handshakes and
// the hand-over of keys wait for.
func measureStore(store database, set *metrics.Set) database {
	if set == nil {
		return store
	}
	set.WatchQueue(store.Pending)
	return &measuredStore{store, set}
}

type measuredStore struct {
	database
	set *metrics.Set
}

// since measures an operation that began at a time; to be deferred.
func (s *measuredStore) since(begun time.Time, operation string) {
	s.set.Stored(operation, time.Since(begun))
}

func (s *measuredStore) CreateEnrolment(ctx context.Context, e mef.Enrolment, maxLive int) (mef.Enrolment, error) {
	defer s.since(time.Now(), "create_enrolment")
	return s.database.CreateEnrolment(ctx, e, maxLive)
}

func (s *measuredStore) FetchEnrolment(ctx context.Context, f mef.Fetch) (mef.Enrolment, error) {
	defer s.since(time.Now(), "fetch_enrolment")
	e, err := s.database.FetchEnrolment(ctx, f)
	if err == nil {
		s.set.HandedOut()
	}
	return e, err
}

func (s *measuredStore) PutCredential(ctx context.Context, c maf.Credential) error {
	defer s.since(time.Now(), "put_credential")
	return s.database.PutCredential(ctx, c)
}

func (s *measuredStore) CredentialByKeID(ctx context.Context, id muster.KeID, now time.Time) (maf.Credential, error) {
	defer s.since(time.Now(), "credential_by_keid")
	return s.database.CredentialByKeID(ctx, id, now)
}

func (s *measuredStore) CredentialByKmID(ctx context.Context, id muster.KmID, now time.Time) (maf.Credential, error) {
	defer s.since(time.Now(), "credential_by_kmid")
	return s.database.CredentialByKmID(ctx, id, now)
}

func (s *measuredStore) ActivateKmID(ctx context.Context, id muster.KmID, now time.Time) error {
	defer s.since(time.Now(), "activate_kmid")
	return s.database.ActivateKmID(ctx, id, now)
}

// measureRetriever returns the way to the MEFs, measured.
func measureRetriever(next maf.Retriever, set *metrics.Set) maf.Retriever {
	if set == nil {
		return next
	}
	return measuredRetriever{next, set}
}

type measuredRetriever struct {
	maf.Retriever
	set *metrics.Set
}

func (r measuredRetriever) RetrieveKey(ctx context.Context, id muster.KeID, usage muster.SUID) (maf.RetrievedKey, error) {
	begun := time.Now()
	key, err := r.Retriever.RetrieveKey(ctx, id, usage)
	r.set.Fetched(time.Since(begun), err)
	return key, err
}

// loopback puts an address without a host on the loopback interface.
func loopback(address string) (string, error) {
	if strings.HasPrefix(address, inheritedPrefix) {
		return address, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	orDefault(&host, "127.0.0.1")
	return net.JoinHostPort(host, port), nil
}
