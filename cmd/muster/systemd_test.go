package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster"
)

// A MEF takes its sockets from who starts it, answers on them, and tells when it
// is ready and when it stops.
func TestInheritedSocketsAndNotification(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.rewrite("mef.yaml", `{tls: "127.0.0.1:7443", dtls: "127.0.0.1:7443"}`, `{tls: "systemd:streams", dtls: "systemd:datagrams"}`)
	streams, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	streamFile, err := streams.(*net.TCPListener).File()
	must(t, err)
	datagramFile, err := datagrams.(*net.UDPConn).File()
	must(t, err)
	heard := listenForStates(t)

	// The shell knows its process before the program begins, as systemd does.
	mef := exec.Command("sh", "-c", `LISTEN_PID=$$ exec muster mef --config "$0"`, w.lab.path("mef.yaml"))
	mef.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=datagrams:streams", "NOTIFY_SOCKET="+heard.path, "WATCHDOG_USEC=100000")
	mef.ExtraFiles = []*os.File{datagramFile, streamFile}
	var log lockedBuilder
	mef.Stderr = &log
	must(t, mef.Start())
	t.Cleanup(func() {
		_ = mef.Process.Kill() // it may have ended
		_ = mef.Wait()
	})
	w.mefAddresses = listenConfig{TLS: streams.Addr().String(), DTLS: datagrams.LocalAddr().String()}
	for _, mine := range []interface{ Close() error }{streams, datagrams, streamFile, datagramFile} {
		must(t, mine.Close())
	}
	heard.await(t, "READY=1")
	heard.await(t, "WATCHDOG=1")
	for n, via := range []transport{overTLS, overDTLS} {
		if _, err := w.device(w.deviceConfig(n, via)).Enrol(t.Context()); err != nil {
			t.Errorf("over the inherited socket for %s: %v; the log:\n%s", via, err, log.String())
		}
	}
	must(t, mef.Process.Signal(syscall.SIGHUP))
	reloading := heard.await(t, "RELOADING=1\nMONOTONIC_USEC=")
	if when, err := strconv.ParseInt(reloading[strings.LastIndex(reloading, "=")+1:], 10, 64); err != nil || when <= 0 {
		t.Errorf("a reload began at %q", reloading)
	}
	heard.await(t, "READY=1")
	must(t, mef.Process.Signal(syscall.SIGTERM))
	heard.await(t, "STOPPING=1")
	if err := mef.Wait(); err != nil {
		t.Errorf("told to stop: %v; the log:\n%s", err, log.String())
	}
}

func TestInheritedSocketsThatAreNot(t *testing.T) {
	w := newWorld(t, 1)
	own := strconv.Itoa(os.Getpid())
	for name, environment := range map[string][3]string{
		"none":               {"", "", ""},
		"of another process": {"1", "1", "streams"},
		"of another name":    {own, "1", "other"},
		"fewer than names":   {own, "1", "other:streams"},
		"no number":          {own, "many", "streams"},
	} {
		t.Setenv("LISTEN_PID", environment[0])
		t.Setenv("LISTEN_FDS", environment[1])
		t.Setenv("LISTEN_FDNAMES", environment[2])
		for _, listen := range []listenConfig{{TLS: "systemd:streams"}, {DTLS: "systemd:streams"}} {
			w.mef.Listen = listen
			_, err := startMEF(t.Context(), w.mef, newLogger(w.mefLog), observer{})
			if muster.CodeOf(err) != muster.CodeConfiguration || !strings.Contains(err.Error(), "systemd:streams") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestManagerOf(t *testing.T) {
	t.Parallel()
	own := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		environment map[string]string
		want        manager
	}{
		"nobody":               {nil, manager{}},
		"a socket":             {map[string]string{"NOTIFY_SOCKET": "@x"}, manager{socket: "@x"}},
		"a watchdog":           {map[string]string{"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": own}, manager{watchdog: 2 * time.Second}},
		"a watchdog of others": {map[string]string{"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, manager{}},
		"no interval":          {map[string]string{"WATCHDOG_USEC": "-5"}, manager{}},
	} {
		if got := managerOf(func(key string) string { return c.environment[key] }); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	manager{socket: "/nobody/listens"}.ready() // which is no reason to fail
}

// states is what a service manager hears.
type states struct {
	path  string
	heard chan string
}

func listenForStates(t *testing.T) *states {
	t.Helper()
	dir, err := os.MkdirTemp("", "n") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &states{filepath.Join(dir, "s"), make(chan string, 1000)}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			s.heard <- string(buffer[:n])
		}
	}()
	return s
}

// await returns the next state that begins with text.
func (s *states) await(t *testing.T, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		select {
		case state := <-s.heard:
			if strings.HasPrefix(state, text) {
				return state
			}
		case <-ctx.Done():
			t.Fatalf("the manager does not hear %q", text)
		}
	}
}
