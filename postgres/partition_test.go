package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/mef"
	"muster/mustertest"
	"muster/postgres"
)

// A proxy stands between a store and its server and misbehaves when it is told to.
type proxy struct {
	address string
	server  string

	stalled atomic.Pointer[chan struct{}] // closed when octets flow again; nil while they flow
	swallow atomic.Bool                   // the next answer to a COMMIT is lost, with its connection
	lost    atomic.Int32                  // answers that were swallowed
}

func newProxy(t testing.TB, server string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String(), server: server}
	var pumps sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	pumps.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			pumps.Go(func() { p.serve(ctx, client) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		pumps.Wait()
	})
	return p
}

// url leads the store through the proxy.
func (p *proxy) url(search string) string {
	return mustertest.PostgreSQLURL(p.address, "search_path", search)
}

func (p *proxy) serve(ctx context.Context, client net.Conn) {
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, func() { _ = errors.Join(client.Close(), server.Close()) })
	var both sync.WaitGroup
	both.Go(func() { defer cancel(); p.pump(ctx, server, client, false) })
	both.Go(func() { defer cancel(); p.pump(ctx, client, server, true) })
	both.Wait()
}

func (p *proxy) pump(ctx context.Context, to io.Writer, from io.Reader, answers bool) {
	chunk := make([]byte, 1<<16)
	for {
		n, err := from.Read(chunk)
		if flow := p.stalled.Load(); flow != nil {
			select {
			case <-*flow:
			case <-ctx.Done():
				return
			}
		}
		// A command that is complete is answered with its name.
		if answers && bytes.Contains(chunk[:n], []byte("COMMIT\x00")) && p.swallow.CompareAndSwap(true, false) {
			p.lost.Add(1)
			return
		}
		if n > 0 {
			if _, err := to.Write(chunk[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// stall lets no octet pass until the returned function is called.
func (p *proxy) stall() (flow func()) {
	gate := make(chan struct{})
	p.stalled.Store(&gate)
	return func() {
		p.stalled.Store(nil)
		close(gate)
	}
}

// behind makes a database and returns a proxy before it and the URL through it.
func behind(t testing.TB) (p *proxy, url, direct string) {
	t.Helper()
	direct = create(t)
	p = newProxy(t, cluster(t).Address())
	return p, p.url(searchPath(direct)), direct
}

// While the network is cut a caller waits for no longer than the store's
// patience, and what it gets is a refusal that it may repeat. Afterwards all that
// was acknowledged is there, once, and so is what was repeated.
func TestPartition(t *testing.T) {
	t.Parallel()
	p, url, _ := behind(t)
	store := openWith(t, url, postgres.Options{Patience: 2 * time.Second})
	const writers, each = 16, 40
	var acknowledged, refused atomic.Int32
	cut := make(chan struct{})
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := w * each; n < (w+1)*each; {
				stored, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 10)
				switch {
				case err == nil && stored.Generation == 1:
					n++
					if acknowledged.Add(1) == writers*each/2 {
						close(cut)
					}
				case muster.CodeOf(err).Temporary() || errors.Is(err, mef.ErrBusy):
					refused.Add(1)
				default:
					t.Errorf("enrolment %d: generation %d, %v", n, stored.Generation, err)
					return
				}
			}
		})
	}
	<-cut
	flow := p.stall()
	if _, err := store.EnrolmentOf(t.Context(), enrolment(t, 0).EnroleeID, enrolment(t, 0).Session, time.Now()); muster.CodeOf(err) != muster.CodeStoreFailed {
		t.Errorf("a read while the network is cut: %v, want the code %s", err, muster.CodeStoreFailed)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := store.CreateEnrolment(ctx, enrolment(t, 1<<20), 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that waits for a moment only: %v, want its deadline", err)
	}
	for refused.Load() < writers {
		time.Sleep(10 * time.Millisecond)
	}
	flow()
	all.Wait()
	spread(t, 16, writers*each, func(n int) error { return whole(t.Context(), store, enrolment(t, n)) })
	t.Logf("%d acknowledged, %d refused meanwhile", acknowledged.Load(), refused.Load())
}

// The server commits and its answer is lost: what happens once happens once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	p, url, direct := behind(t)
	store := openAt(t, url)
	e := enrolment(t, 1)
	p.swallow.Store(true)
	if stored, err := store.CreateEnrolment(t.Context(), e, 1); err != nil || stored.Generation != 1 || !stored.Ke.Equal(e.Ke) {
		t.Errorf("create: generation %d, %v", stored.Generation, err)
	}
	p.swallow.Store(true)
	once := mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Window: time.Hour, Max: 1}
	if fetched, err := store.FetchEnrolment(t.Context(), once); err != nil || !fetched.Ke.Equal(e.Ke) {
		t.Errorf("the only fetch: %v", err)
	}
	if _, err := store.FetchEnrolment(t.Context(), once); !errors.Is(err, mef.ErrUnknown) {
		t.Errorf("a second fetch of one: %v, want ErrUnknown", err)
	}
	for range 3 {
		if err := store.EraseEnrolment(t.Context(), e.KeID, e.Targets[0]); err != nil {
			t.Errorf("erase: %v", err)
		}
		p.swallow.Store(true)
	}
	if lost := p.lost.Load(); lost != 4 {
		t.Errorf("%d answers were lost, want 4", lost)
	}
	if out := edit(t, direct, "SELECT count(*), sum(fetches), max(generation) FROM enrolment"); out != "1|1|1" {
		t.Errorf("rows, fetches and generation are %s", out)
	}
}

// A database that does not run refuses at once, and is used again when it runs.
func TestServerAway(t *testing.T) {
	t.Parallel()
	server := mustertest.NewCluster(t)
	if err := postgres.Create(t.Context(), server.URL(), sealer(t)); err != nil {
		t.Fatal(err)
	}
	store := openWith(t, server.URL(), postgres.Options{Patience: 2 * time.Second})
	mustCreate(t, store, enrolment(t, 1))
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 10); muster.CodeOf(err) != muster.CodeStoreFailed {
			t.Errorf("without a server: %v, want the code %s", err, muster.CodeStoreFailed)
		}
		if _, err := fetch(t.Context(), store, enrolment(t, 1)); muster.CodeOf(err) != muster.CodeStoreFailed {
			t.Errorf("a fetch without a server: %v, want the code %s", err, muster.CodeStoreFailed)
		}
	}
	if _, err := postgres.Open(t.Context(), server.URL(), sealer(t), postgres.Options{}); err == nil {
		t.Error("a server that does not run was opened")
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		mustCreate(t, store, enrolment(t, n))
	}
	if err := whole(t.Context(), store, enrolment(t, 1)); err != nil {
		t.Error(err)
	}
}
