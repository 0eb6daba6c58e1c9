package audit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// syslogTimeout bounds the connection to a syslog server, and each write to it.
const syslogTimeout = 2 * time.Second

// restFactor is how many times as long as its failure took a server is left alone:
// each entry waits for the sinks, and with it the peer whose act it is. One that
// refuses at once is asked again at once.
const restFactor = 10

// Priorities of RFC 5424 6.2.1: facility 13 (log audit), notice and warning.
const (
	priorityNotice  = 13<<3 | 5
	priorityWarning = 13<<3 | 4
)

// A syslog sends entries to a syslog server in the form of RFC 5424.
type syslog struct {
	network, address, host string
	conn                   net.Conn
	failed                 error     // the last failure, which answers for the server
	until                  time.Time // then
}

// NewSyslog returns a Sink that sends to a syslog server at unixgram:///dev/log,
// udp://host:514 or tcp://host:601. It connects with the first entry, and anew
// after a failure. Only tcp and unixgram tell when nobody listens.
func NewSyslog(target string) (Sink, error) {
	network, address, ok := strings.Cut(target, "://")
	if !ok || address == "" || network != "unixgram" && network != "udp" && network != "tcp" {
		return nil, fmt.Errorf("%q is not a syslog server: want unixgram://PATH, udp://HOST:PORT or tcp://HOST:PORT", target)
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	return &syslog{network: network, address: address, host: host}, nil
}

// Write implements Sink.
func (s *syslog) Write(lines []Line) error {
	var errs []error
	for _, line := range lines {
		errs = append(errs, s.write(line.Entry, line.Text))
	}
	return errors.Join(errs...)
}

func (s *syslog) write(e Entry, line []byte) error {
	begun := time.Now()
	if begun.Before(s.until) {
		return s.failed
	}
	priority := priorityNotice
	if e.Code != "" {
		priority = priorityWarning
	}
	message := fmt.Sprintf("<%d>1 %s %s muster %d %s - %s", priority, e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), s.host, os.Getpid(), e.Kind, line)
	if s.network == "tcp" {
		message = fmt.Sprintf("%d %s", len(message), message) // RFC 6587 3.4.1
	}
	again := s.conn != nil // a connection may have ended since the entry before
	err := s.send(message)
	if err != nil && again {
		err = s.send(message)
	}
	if err != nil {
		now := time.Now()
		s.failed, s.until = err, now.Add(restFactor*now.Sub(begun))
	}
	return err
}

func (s *syslog) send(message string) (err error) {
	if s.conn == nil {
		if s.conn, err = net.DialTimeout(s.network, s.address, syslogTimeout); err != nil {
			s.conn = nil
			return fmt.Errorf("syslog: %w", err)
		}
	}
	if err = s.conn.SetWriteDeadline(time.Now().Add(syslogTimeout)); err == nil {
		_, err = s.conn.Write([]byte(message))
	}
	if err != nil {
		_ = s.Close()
		return fmt.Errorf("syslog: %w", err)
	}
	return nil
}

// Close implements Sink.
func (s *syslog) Close() error {
	if s.conn == nil {
		return nil
	}
	conn := s.conn
	s.conn = nil
	return conn.Close()
}
