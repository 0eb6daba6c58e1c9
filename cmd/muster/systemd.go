package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What systemd says in environment variables and hears on a socket, as
// sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3) describe it.

// inheritedPrefix marks an address that is a socket which systemd has opened,
// followed by its FileDescriptorName.
const inheritedPrefix = "systemd:"

// firstInherited is the descriptor of the first inherited socket.
const firstInherited = 3

// inherited returns the socket that an address names; ok is false for an address
// to listen on. Each socket can be had once.
func inherited(address string) (socket *os.File, ok bool, err error) {
	name, ok := strings.CutPrefix(address, inheritedPrefix)
	if !ok {
		return nil, false, nil
	}
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || count < 1 {
		return nil, true, fmt.Errorf("%s: this process was not started with sockets (LISTEN_PID, LISTEN_FDS)", address)
	}
	n := slices.Index(strings.Split(os.Getenv("LISTEN_FDNAMES"), ":"), name)
	if n < 0 || n >= count {
		return nil, true, fmt.Errorf("%s: of the %d sockets none has this FileDescriptorName", address, count)
	}
	unix.CloseOnExec(firstInherited + n)
	return os.NewFile(uintptr(firstInherited+n), address), true, nil
}

// listenStream listens on a TCP address, or takes an inherited socket.
func listenStream(address string) (net.Listener, error) {
	socket, ok, err := inherited(address)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return net.Listen("tcp", address)
	}
	defer func() { _ = socket.Close() }() // what follows has a duplicate
	listener, err := net.FileListener(socket)
	if err != nil {
		return nil, err
	}
	if _, ok := listener.(*net.TCPListener); !ok {
		_ = listener.Close()
		return nil, fmt.Errorf("%s: the socket is not a stream over TCP", address)
	}
	return listener, nil
}

// listenDatagrams listens on a UDP address, or takes an inherited socket.
func listenDatagrams(address string) (*net.UDPConn, error) {
	var conn net.PacketConn
	socket, ok, err := inherited(address)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		conn, err = net.ListenPacket("udp", address)
	default:
		conn, err = net.FilePacketConn(socket)
		_ = socket.Close()
	}
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: the socket is not one of UDP", address)
	}
	return udp, nil
}

// A manager is the service manager that started this process, if any.
type manager struct {
	socket   string        // to tell it what happens; empty for no manager
	watchdog time.Duration // within which it wants to hear something; zero for not at all
}

// managerOf reads a process's environment.
func managerOf(getenv func(string) string) manager {
	m := manager{socket: getenv("NOTIFY_SOCKET")}
	if pid := getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		microseconds, _ := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
		m.watchdog = time.Duration(max(0, microseconds)) * time.Microsecond
	}
	return m
}

// tell sends one state. Without a manager it does nothing; that one does not hear
// is no reason to stop serving.
func (m manager) tell(states ...string) {
	if m.socket == "" {
		return
	}
	// A leading @ is the abstract namespace, for net as for systemd.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte(strings.Join(states, "\n")))
}

func (m manager) ready() { m.tell("READY=1") }

func (m manager) stopping() { m.tell("STOPPING=1") }

// reloading must say when it began, on the clock of the manager.
func (m manager) reloading() {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		m.tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond)))
	}
}

// keepAwake tells the manager twice in its interval that this process runs, until
// ctx ends.
func (m manager) keepAwake(ctx context.Context) {
	if m.socket == "" || m.watchdog == 0 {
		return
	}
	for {
		m.tell("WATCHDOG=1")
		if sleep(ctx, m.watchdog/2) != nil {
			return
		}
	}
}
