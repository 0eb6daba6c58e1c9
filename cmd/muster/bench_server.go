package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// benchServers are a MEF and a MAF in processes of their own.
type benchServers struct {
	lab       *laboratory
	processes []*exec.Cmd
}

// benchPatience is how long a server may take to begin or to end.
const benchPatience = 20 * time.Second

func startBenchServers(ctx context.Context, dir string, devices int) (*benchServers, error) {
	s := &benchServers{lab: &laboratory{Dir: dir, Devices: devices, now: time.Now()}}
	var err error
	if s.lab.mefPort, err = quietPort(); err != nil {
		return nil, err
	}
	if s.lab.mafPort, err = quietPort(); err != nil {
		return nil, err
	}
	if err := s.lab.write(); err != nil {
		return nil, err
	}
	for function, port := range map[string]uint16{"mef": s.lab.mefPort, "maf": s.lab.mafPort} {
		if err := s.start(ctx, function, port); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
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

// start runs a function and waits until it answers.
func (s *benchServers) start(ctx context.Context, function string, port uint16) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	process := exec.CommandContext(ctx, self, function, "--config", s.lab.path(function+".yaml"))
	process.Stderr = &said
	process.Cancel = func() error { return process.Process.Signal(os.Interrupt) }
	process.WaitDelay = benchPatience
	if err := process.Start(); err != nil {
		return err
	}
	s.processes = append(s.processes, process)
	for until := time.Now().Add(benchPatience); time.Now().Before(until); {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return conn.Close()
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the " + function + " does not begin")
}

// stop ends the servers and waits for them.
func (s *benchServers) stop() {
	for _, process := range s.processes {
		if process.Process.Signal(os.Interrupt) != nil {
			_ = process.Process.Kill()
		}
		_ = process.Wait()
	}
}

// cpu is the CPU time that both servers have taken.
func (s *benchServers) cpu() (sum time.Duration) {
	for _, process := range s.processes {
		sum += cpuOf(process.Process.Pid)
	}
	return sum
}

// cpuOf is the CPU time that a process has taken, in steps of 10 ms, by the
// figures of Linux; 0 on other systems.
func cpuOf(pid int) time.Duration {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture of Go
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may have spaces; utime and stime are
	// the 12th and 13th field after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick
}
