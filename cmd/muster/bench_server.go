package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// benchServers are a MEF and a MAF in processes of their own.
type benchServers struct {
	lab      *laboratory
	mef, maf *child
}

// benchPatience is how long a server may take to begin or to end.
const benchPatience = time.Minute

func startBenchServers(ctx context.Context, dir, profiles string) (*benchServers, error) {
	lab, err := newBenchLab(dir)
	if err != nil {
		return nil, err
	}
	s := &benchServers{lab: lab}
	if s.mef, err = startSelf(ctx, profiles, "mef", "--config", lab.path("mef.yaml")); err != nil {
		return nil, err
	}
	if s.maf, err = startSelf(ctx, profiles, "maf", "--config", lab.path("maf.yaml")); err != nil {
		s.stop()
		return nil, err
	}
	if err := errors.Join(s.mef.answers(ctx), s.maf.answers(ctx)); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// newBenchLab writes a laboratory for all that its factory makes, whose functions
// have ports on which nothing listens.
func newBenchLab(dir string) (*laboratory, error) {
	lab := &laboratory{Dir: dir, Devices: 1, grouped: true, now: time.Now()}
	var err error
	if lab.mefPort, err = quietPort(); err != nil {
		return nil, err
	}
	if lab.mafPort, err = quietPort(); err != nil {
		return nil, err
	}
	return lab, lab.write()
}

// stop ends the servers and waits for them.
func (s *benchServers) stop() {
	for _, server := range []*child{s.mef, s.maf} {
		if server != nil {
			server.stop()
		}
	}
}

// cpu is the CPU time that the servers and this process have taken. That of servers
// elsewhere is not known.
func (s *benchServers) cpu() cpuTimes {
	taken := cpuTimes{client: cpuOf(os.Getpid())}
	if s != nil {
		taken.mef, taken.maf = s.mef.cpu(), s.maf.cpu()
	}
	return taken
}

// quietPort returns a port on which nothing listens, for both TCP and UDP. It is
// below those that the system gives to whoever asks for any.
func quietPort() (port uint16, err error) {
	for range 100 {
		port = uint16(10_000 + rand.IntN(20_000))
		address := fmt.Sprintf("127.0.0.1:%d", port)
		var stream net.Listener
		if stream, err = net.Listen("tcp", address); err != nil {
			continue
		}
		var datagrams net.PacketConn
		datagrams, err = net.ListenPacket("udp", address)
		_ = stream.Close()
		if err == nil {
			return port, datagrams.Close()
		}
	}
	return 0, err
}

// A child is a server in a process of its own.
type child struct {
	process *exec.Cmd
	ask     io.Writer // a line makes a watched child say what memory it uses
	told    chan int  // what it has said, in octets

	listening, stored atomic.Int64 // listeners that it has opened, and enrolments stored, by what it says
}

// startSelf runs another command of this program, watched. It writes a CPU profile
// into a folder, unless that is empty.
func startSelf(ctx context.Context, profiles string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	profile := "-"
	if profiles != "" {
		profile = filepath.Join(profiles, args[0]+".pprof")
	}
	return startChild(ctx, self, append([]string{"bench", "watched", profile}, args...)...)
}

func startChild(ctx context.Context, program string, args ...string) (*child, error) {
	c := &child{process: exec.CommandContext(ctx, program, args...), told: make(chan int, 1)}
	c.process.Cancel = func() error { return c.process.Process.Signal(os.Interrupt) }
	c.process.WaitDelay = benchPatience
	said, err := c.process.StderrPipe()
	if err != nil {
		return nil, err
	}
	if c.ask, err = c.process.StdinPipe(); err != nil { // s_server ends with its input
		return nil, err
	}
	if err := c.process.Start(); err != nil {
		return nil, err
	}
	go c.listen(said)
	return c, nil
}

// listen counts what a MEF or MAF says about listeners and enrolments, takes down what
// a child says about its memory, and lets no child wait for a reader.
func (c *child) listen(said io.Reader) {
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		switch {
		case strings.Contains(lines.Text(), `"msg":"enrolled"`):
			c.stored.Add(1)
		case strings.Contains(lines.Text(), `"msg":"listening"`):
			c.listening.Add(1)
		}
		var octets int
		if n, _ := fmt.Sscanf(lines.Text()+"\n", memoryLine, &octets); n == 1 {
			c.told <- octets
		}
	}
	_, _ = io.Copy(io.Discard, said)
}

// memory is what a watched child has in its heap and stacks when it rests, in octets.
func (c *child) memory(ctx context.Context) (int, error) {
	if err := c.rest(ctx); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c.ask, "\n"); err != nil {
		return 0, err
	}
	select {
	case octets := <-c.told:
		return octets, nil
	case <-time.After(benchPatience):
		return 0, fmt.Errorf("%s does not say what memory it uses", filepath.Base(c.process.Path))
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// answers waits until a MEF or MAF of a laboratory takes connections.
func (c *child) answers(ctx context.Context) error {
	const listeners = 2 // for TLS and DTLS
	for until := time.Now().Add(benchPatience); c.listening.Load() < listeners; {
		if !time.Now().Before(until) {
			return fmt.Errorf("%s does not begin", filepath.Base(c.process.Path))
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// cpu is the CPU time that the child has taken.
func (c *child) cpu() time.Duration { return cpuOf(c.process.Process.Pid) }

// awaitStored waits until the child has said so many times that it has stored an
// enrolment.
func (c *child) awaitStored(ctx context.Context, wanted int64) error {
	for until := time.Now().Add(benchPatience); c.stored.Load() < wanted; {
		if !time.Now().Before(until) {
			return fmt.Errorf("of %d enrolments that devices hold, the MEF has stored %d", wanted, c.stored.Load())
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// rest waits until the child has nothing left to do: until it takes less than a
// hundredth of a processor.
func (c *child) rest(ctx context.Context) error {
	const look = 20 * time.Millisecond
	for before, until := c.cpu(), time.Now().Add(benchPatience); time.Now().Before(until); {
		if err := sleep(ctx, look); err != nil {
			return err
		}
		now := c.cpu()
		if now-before < look/100 {
			return nil
		}
		before = now
	}
	return fmt.Errorf("%s does not come to rest", filepath.Base(c.process.Path))
}

// stop ends the child and waits for it.
func (c *child) stop() {
	if c.process.Process.Signal(os.Interrupt) != nil {
		_ = c.process.Process.Kill()
	}
	_ = c.process.Wait()
}
