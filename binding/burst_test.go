package binding_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"muster"
	"muster/binding"
)

// TestBurstsShareConnections has as many calls at once as there may be connections,
// again and again: no connection is opened but for the first burst.
func TestBurstsShareConnections(t *testing.T) {
	t.Parallel()
	const burst, bursts = 3, 4
	var inside sync.WaitGroup // all calls of a burst have arrived
	w := &world{server: binding.NewServer(binding.Config{
		Fetch: func(ctx context.Context, s *muster.Session, r binding.FetchRequest) (binding.Credential, error) {
			inside.Done()
			inside.Wait()
			return fetch(ctx, s, r)
		},
		Logger: slog.New(slog.DiscardHandler),
	})}
	done := make(chan error, 1)
	go func() { done <- w.server.Serve() }()
	t.Cleanup(func() {
		_ = w.server.Shutdown(context.Background())
		<-done
	})
	client := binding.NewClient(binding.ClientConfig{Dial: w.dial, Authority: "mef.example.org", From: testMAF, MaxConns: burst})
	t.Cleanup(client.Close)
	id := must(muster.ParseKeID(testKeID))
	for range bursts {
		inside.Add(burst)
		var group sync.WaitGroup
		for range burst {
			group.Go(func() {
				if _, err := client.FetchCredential(t.Context(), id, muster.SUIDForMAF); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	if n := w.dials.Load(); n != burst {
		t.Errorf("%d bursts of %d calls have opened %d connections", bursts, burst, n)
	}
}
