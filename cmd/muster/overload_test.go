package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster"
	"muster/binding"
	"muster/binding/coap"
	"muster/cert"
	"muster/enrolee"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/primitive"
)

// A stampede is devices that all want to enrol, from many networks of this machine.
type stampede struct {
	*fortress
	via     transport
	dialers []sourcedDialer // of the devices
	devices []*enrolee.Enrolee

	mu       sync.Mutex
	waiting  []int               // devices that are not enrolled; guarded by mu, as all below
	enrolled map[int]muster.KeID // as far as the devices know
	took     []time.Duration     // of those
	refused  map[muster.Code]int // attempts
	strange  error               // an attempt that failed so that a device would not come back
}

// TestOverload lets many devices enrol at once, far more than the function has
// turns. All that are refused may come back; all that are told that they are
// enrolled are; a session that is there goes on, and memory is given back.
//
// With MUSTER_OVERLOAD=1 it measures what the MEF gets through in a closed loop, and
// then has ten times as many devices come in each second. The MEF has a fifth of a
// processor, so that the devices have what they need, as on machines of their own.
func TestOverload(t *testing.T) {
	t.Parallel()
	devices, long := 150, os.Getenv("MUSTER_OVERLOAD") != ""
	if long {
		devices = 9000
	}
	for _, via := range []transport{overTLS, overDTLS} {
		t.Run(string(via), func(t *testing.T) {
			if !long {
				t.Parallel()
			}
			s := newStampede(t, devices, via)
			for n := range devices - 1 { // the last has a session before
				s.waiting = append(s.waiting, n)
			}
			session, err := s.dialers[devices-1].DialMEF(t.Context())
			must(t, err)
			defer func() { _ = session.Close() }()
			must(t, s.ask(t.Context(), session)) // without a first request, it does not last
			before := s.mef.mustFootprint(t)
			if long {
				s.confine(t)
				s.measure(t, session)
			} else {
				s.burst(t)
			}
			if err := s.ask(t.Context(), session); err != nil {
				t.Errorf("a session that was there before: %v", err)
			}
			if !long || via == overTLS { // devices that give up leave associations, for some minutes
				await(t, "the MEF keeps what overload has made", func() (struct{}, bool) {
					now := s.mef.mustFootprint(t)
					return struct{}{}, now.goroutines <= before.goroutines+50 && now.files <= before.files+20
				})
			}
			s.nothingLost(t)
		})
	}
}

// confine lets the MEF have a fifth of a processor, a millisecond in five. It needs
// root, and the CPU controller of either version of control groups.
func (s *stampede) confine(t *testing.T) {
	t.Helper()
	group, settings := "/sys/fs/cgroup/muster-overload", [][2]string{{"cpu.max", "1000 5000"}}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		group, settings = "/sys/fs/cgroup/cpu/muster-overload", [][2]string{{"cpu.cfs_period_us", "5000"}, {"cpu.cfs_quota_us", "1000"}}
	}
	must(t, os.Mkdir(group, 0o755))
	t.Cleanup(func() { must(t, os.Remove(group)) }) // the MEF has ended by then
	for _, setting := range append(settings, [2]string{"cgroup.procs", strconv.Itoa(s.mef.cmd.Process.Pid)}) {
		must(t, os.WriteFile(filepath.Join(group, setting[0]), []byte(setting[1]), 0o644))
	}
}

func newStampede(t *testing.T, devices int, via transport) *stampede {
	t.Helper()
	s := &stampede{
		fortress: newFortress(t, devices, func(_, config string) string { return config }),
		via:      via, enrolled: map[int]muster.KeID{}, refused: map[muster.Code]int{},
	}
	wire, err := primitive.NewWire(primitive.WireConfig{})
	must(t, err)
	for n := range devices {
		config, err := readEnroleeConfig(s.lab.path(s.lab.deviceFile(n) + ".yaml"))
		must(t, err)
		identity, err := config.Identity.load()
		must(t, err)
		verify, err := verifyServer(config.MEF, cert.ProfileOneM2M, nil)
		must(t, err)
		dialer := sourcedDialer{s, network(n % 200), handshake.Config{
			Name: config.MEF.FQDN, Identity: func() (*tls.Certificate, error) { return identity, nil }, VerifyStapled: verify,
		}}
		device, err := enrolee.New(enrolee.Config{
			EnroleeID: config.EnroleeID, MEF: config.MEF.FQDN, MAF: config.MAF.FQDN, AdminFQDN: config.AdminFQDN,
			Derivation: config.Derivation, Wire: wire, Now: time.Now, Sleep: sleep, Rand: rand.Float64,
		}, dialer, new(memoryKeyring))
		must(t, err)
		s.dialers, s.devices = append(s.dialers, dialer), append(s.devices, device)
	}
	return s
}

// burst lets all devices come at once, and come back until they are enrolled.
func (s *stampede) burst(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var all sync.WaitGroup
	for range len(s.waiting) {
		all.Go(func() {
			for ctx.Err() == nil && !s.attempt(ctx) {
				_ = sleep(ctx, rand.N(time.Second))
			}
		})
	}
	all.Wait()
	t.Logf("refused on the way: %v", s.refused)
	if len(s.waiting) > 0 || s.strange != nil {
		t.Errorf("%d devices are not enrolled; %v", len(s.waiting), s.strange)
	}
}

// attempt is one of the devices that are not enrolled, at random, which tries once.
func (s *stampede) attempt(ctx context.Context) (ok bool) {
	s.mu.Lock()
	if len(s.waiting) == 0 {
		s.mu.Unlock()
		return true
	}
	at := rand.IntN(len(s.waiting))
	n := s.waiting[at]
	s.waiting = slices.Delete(s.waiting, at, at+1)
	s.mu.Unlock()
	begun := time.Now()
	credential, err := s.devices[n].Enrol(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.waiting = append(s.waiting, n)
		if ctx.Err() == nil {
			s.refused[muster.CodeOf(err)]++
			if exitCode(err) != exitUnreachable {
				s.strange = err
			}
		}
		return false
	}
	s.enrolled[n] = credential.KeID
	s.took = append(s.took, time.Since(begun))
	return true
}

// measure compares what gets through in a closed loop with what does at ten times
// that rate.
func (s *stampede) measure(t *testing.T, session enrolee.Conn) {
	const begins, lasts, workers, excess = time.Second, 4 * time.Second, 32, 10
	phase := func(do func(ctx context.Context)) (p overloadPhase) {
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		before := s.mef.mustFootprint(t)
		var measured sync.WaitGroup
		measured.Go(func() {
			if sleep(ctx, begins) != nil {
				return
			}
			s.mu.Lock()
			s.took = nil
			s.mu.Unlock()
			p.cpu = -cpuOf(s.mef.cmd.Process.Pid)
			<-ctx.Done() // what comes of the attempts that have begun does not count
			p.cpu += cpuOf(s.mef.cmd.Process.Pid)
			s.mu.Lock()
			took := slices.Sorted(slices.Values(s.took))
			s.mu.Unlock()
			if p.enrolled = len(took); p.enrolled > 0 {
				p.p50, p.p99 = took[len(took)/2], took[len(took)*99/100]
			}
			after := s.mef.mustFootprint(t)
			p.heap, p.inASecond = after.heap, float64(after.inASecond-before.inASecond)/float64(max(1, after.shaken-before.shaken))
		})
		do(ctx)
		measured.Wait()
		return p
	}
	peak := phase(func(ctx context.Context) {
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for ctx.Err() == nil {
					s.attempt(ctx)
				}
			})
		}
		all.Wait()
	})
	s.refused = map[muster.Code]int{}
	came, answered, asked := 0, 0, 0
	under := phase(func(ctx context.Context) {
		var all sync.WaitGroup
		all.Go(func() {
			for sleep(ctx, lasts/20) == nil {
				asked++
				if err := s.ask(context.WithoutCancel(ctx), session); err == nil {
					answered++
				}
			}
		})
		interval := (lasts - begins) / time.Duration(excess*max(1, peak.enrolled))
		for intended := time.Now(); sleep(ctx, time.Until(intended)) == nil; intended = intended.Add(interval) {
			came++
			all.Go(func() { s.attempt(context.WithoutCancel(ctx)) })
		}
		all.Wait()
	})
	ratio := under.efficiency() / peak.efficiency()
	t.Logf("closed loop: %+v", peak)
	t.Logf("overload: %+v", under)
	t.Logf("%.1f times as many came, %.2f got through, for each second of CPU %.2f; refused %v; %d of %d requests of a session were answered",
		float64(came)*(lasts-begins).Seconds()/lasts.Seconds()/float64(peak.enrolled), float64(under.enrolled)/float64(peak.enrolled), ratio, s.refused, answered, asked)
	if s.strange != nil {
		t.Errorf("a device would not come back: %v", s.strange)
	}
	if 10*under.enrolled < 8*peak.enrolled {
		t.Errorf("in overload, %d of %d get through", under.enrolled, peak.enrolled)
	}
	if under.inASecond < .99 {
		t.Errorf("in overload, %.3f of the handshakes that are let in take less than a second", under.inASecond)
	}
	if answered < asked {
		t.Errorf("in overload, %d of %d requests of a session were answered", answered, asked)
	}
	if under.heap > peak.heap+128<<20 {
		t.Errorf("the heap grows from %d to %d octets", peak.heap, under.heap)
	}
}

// An overloadPhase is what came of some seconds of devices that want to enrol, after a
// first one in which they begin.
type overloadPhase struct {
	enrolled  int           // devices that know it
	p50, p99  time.Duration // of those, from the first word that they said
	cpu       time.Duration // of the MEF
	inASecond float64       // of the handshakes that the MEF let in and ended well, those within a second
	heap      int
}

// efficiency is the devices enrolled for each second of the MEF's CPU time.
func (p overloadPhase) efficiency() float64 { return float64(p.enrolled) / p.cpu.Seconds() }

// nothingLost ends the MEF and compares its store with what devices believe.
func (s *stampede) nothingLost(t *testing.T) {
	t.Helper()
	s.mef.signal(t, syscall.SIGTERM)
	db := (&world{t: t}).open(storeConfig{Path: s.lab.path("mef.db")})
	defer func() { _ = db.Close() }()
	rows, err := db.Query("SELECT ke_id FROM enrolment")
	must(t, err)
	defer func() { _ = rows.Close() }()
	stored := map[[muster.RelativeSize]byte]bool{}
	for rows.Next() {
		var id []byte // the relative part, and the MEF
		must(t, rows.Scan(&id))
		stored[[muster.RelativeSize]byte(id)] = true
	}
	must(t, rows.Err())
	lost := 0
	for _, id := range s.enrolled {
		if !stored[id.Relative()] {
			lost++
		}
	}
	if lost > 0 || len(s.enrolled) == 0 {
		t.Errorf("of %d enrolments that devices know of, %d are not stored", len(s.enrolled), lost)
	}
}

// ask sends a request on a session that is there. Any answer will do.
func (s *stampede) ask(ctx context.Context, session enrolee.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := session.Do(ctx, &primitive.Request{Operation: primitive.Retrieve, To: "/", From: "//sp.lab.example/nobody", RequestID: "1"})
	return err
}

// A sourcedDialer is a device's way to its MEF from a network of its own, as if a
// stampede came from all over the world.
type sourcedDialer struct {
	s      *stampede
	from   net.IP
	config handshake.Config
}

func (d sourcedDialer) DialMAF(context.Context, string, muster.Km) (enrolee.Conn, error) {
	return nil, errors.New("not here")
}

func (d sourcedDialer) DialMEF(ctx context.Context) (enrolee.Conn, error) {
	if d.s.via == overDTLS {
		return d.dialDatagrams(ctx)
	}
	socket, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: d.from}}).DialContext(ctx, "tcp", d.s.mef.addresses["tls"])
	if err != nil {
		return nil, muster.Refuse(muster.CodeUnreachable, "%w", err)
	}
	client, err := handshake.NewClient(d.config)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	conn, err := client.Handshake(ctx, socket)
	if err != nil {
		return nil, err
	}
	dialled := false
	requests := binding.NewClient(binding.ClientConfig{Authority: labMEF, MaxConns: 1, Dial: func(context.Context) (*handshake.Conn, error) {
		if dialled {
			return nil, muster.Refuse(muster.CodeUnreachable, "the connection has ended")
		}
		dialled = true
		return conn, nil
	}})
	return sourcedConn{requests, conn.Session, conn}, nil
}

func (d sourcedDialer) dialDatagrams(ctx context.Context) (enrolee.Conn, error) {
	socket, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: d.from}}).DialContext(ctx, "udp", d.s.mef.addresses["dtls"])
	if err != nil {
		return nil, muster.Refuse(muster.CodeUnreachable, "%w", err)
	}
	client, err := dtls12.NewClient(dtls12.Config{Name: d.config.Name, Identity: d.config.Identity, Verify: unstapled(d.config)})
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	conn, err := client.Handshake(ctx, socket.(net.PacketConn), socket.RemoteAddr())
	if err != nil {
		return nil, err
	}
	requests, err := coap.NewClient(conn, coap.ClientConfig{})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return sourcedConn{requests, conn.Session, conn}, nil
}

type doer interface {
	Do(ctx context.Context, request *primitive.Request) (*primitive.Response, error)
}

type sourcedConn struct {
	doer
	session *muster.Session
	io.Closer
}

func (c sourcedConn) Session() *muster.Session { return c.session }
