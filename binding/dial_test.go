package binding_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/binding"
	"muster/handshake"
)

// TestDialEndsWithItsCall has a path on which all is lost for a while: dials that
// hang do not keep later ones out.
func TestDialEndsWithItsCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var hung atomic.Int32
	client := binding.NewClient(binding.ClientConfig{
		Authority: "mef.example.org", From: testMAF, Timeout: 100 * time.Millisecond, MaxConns: 1,
		Dial: func(ctx context.Context) (*handshake.Conn, error) {
			if hung.Add(1) > 1 {
				return w.dial(ctx)
			}
			select {
			case <-ctx.Done():
			case <-t.Context().Done():
			}
			return nil, context.DeadlineExceeded
		},
	})
	t.Cleanup(client.Close)
	id := must(muster.ParseKeID(testKeID))
	if _, err := client.FetchCredential(t.Context(), id, muster.SUIDForMAF); err == nil {
		t.Fatal("an answer came over a dead path")
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && hung.Load() < 2; {
		_, _ = client.FetchCredential(t.Context(), id, muster.SUIDForMAF)
	}
	if hung.Load() < 2 {
		t.Error("a dial that hangs keeps others out")
	}
}
