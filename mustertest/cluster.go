//go:build unix

package mustertest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ErrNoPostgreSQL: the programs of a PostgreSQL server are not installed.
var ErrNoPostgreSQL = errors.New("PostgreSQL is not installed")

// clusterPatience bounds each step of a cluster: start, stop, promotion.
const clusterPatience = time.Minute

// A Cluster is a PostgreSQL server with a data folder of its own, on a loopback
// port that the system chose. The superuser "postgres" needs no password.
type Cluster struct {
	bin     string
	folder  string
	port    int
	owner   *syscall.Credential // nil: this process's own
	options []string

	pid    int
	exited chan struct{} // closed when the server is gone
}

// NewCluster starts a server that ends with the test. Settings have the form of
// postgresql.conf, such as "fsync=off". Without PostgreSQL the test is skipped,
// or fails if MUSTER_REQUIRE_PEERS is set.
func NewCluster(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	c, err := StartCluster(settings...)
	SkipWithoutPostgreSQL(t, err)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// SkipWithoutPostgreSQL skips a test for ErrNoPostgreSQL unless
// MUSTER_REQUIRE_PEERS is set.
func SkipWithoutPostgreSQL(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, ErrNoPostgreSQL) && os.Getenv("MUSTER_REQUIRE_PEERS") == "" {
		t.Skip(err)
	}
}

// StartCluster makes and starts a server for a caller that stops it with Remove.
func StartCluster(settings ...string) (*Cluster, error) {
	c, err := prepareCluster(settings)
	if err != nil {
		return nil, err
	}
	err = c.command("initdb", "--pgdata", c.data(), "--auth", "trust", "--username", "postgres", "--encoding", "UTF8",
		"--locale", "C.UTF-8", "--no-sync", "--no-instructions")
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

// prepareCluster finds the programs, a port and a folder that the user who runs
// the server owns: PostgreSQL refuses to run as root.
func prepareCluster(settings []string) (*Cluster, error) {
	c := &Cluster{options: settings}
	// Debian keeps the programs of each version in a folder of its own.
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(found) > 0 {
		c.bin = filepath.Dir(found[len(found)-1])
	} else if path, err := exec.LookPath("initdb"); err == nil {
		c.bin = filepath.Dir(path)
	} else {
		return nil, ErrNoPostgreSQL
	}
	if os.Getuid() == 0 {
		account, err := user.Lookup("postgres")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoPostgreSQL, err)
		}
		uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		c.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	var err error
	if c.port, err = freePort(); err != nil {
		return nil, err
	}
	if c.folder, err = os.MkdirTemp("", "muster-postgresql-"); err != nil {
		return nil, err
	}
	if c.owner != nil {
		err = os.Chown(c.folder, int(c.owner.Uid), int(c.owner.Gid))
	}
	return c, err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (c *Cluster) data() string { return filepath.Join(c.folder, "data") }

// Address returns the host and port of the server.
func (c *Cluster) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }

// URL returns a connection URL with the given parameters, as key and value in turn.
func (c *Cluster) URL(parameters ...string) string { return PostgreSQLURL(c.Address(), parameters...) }

// PostgreSQLURL returns a connection URL of a server, or of several with commas
// between them.
func PostgreSQLURL(addresses string, parameters ...string) string {
	query := url.Values{"sslmode": {"disable"}}
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	return "postgres://postgres@" + addresses + "/postgres?" + query.Encode()
}

// run prepares a program of the server's to run as its user.
func (c *Cluster) run(program string, args ...string) *exec.Cmd {
	command := exec.Command(filepath.Join(c.bin, program), args...)
	command.Dir = c.folder
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "HOME=" + c.folder}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: c.owner, Setpgid: true}
	return command
}

func (c *Cluster) command(program string, args ...string) error {
	output, err := c.run(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(output))
	}
	return nil
}

// SQL runs a statement as superuser and returns its output, values separated by bars.
func (c *Cluster) SQL(statement string) (string, error) {
	command := c.run("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1",
		"--host", c.folder, "--port", strconv.Itoa(c.port), "--username", "postgres", "--command", statement, "postgres")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		err = fmt.Errorf("psql: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(output)), err
}

// Start starts the server, which must not run, and waits until it accepts connections.
// After Kill, a backend that was just being born may still have the server's memory:
// then it starts again.
func (c *Cluster) Start() error {
	for deadline := time.Now().Add(clusterPatience); ; time.Sleep(100 * time.Millisecond) {
		err := c.launch()
		if err == nil || !strings.Contains(c.log(), "pre-existing shared memory block") || time.Now().After(deadline) {
			return err
		}
	}
}

func (c *Cluster) launch() error {
	args := []string{
		"-D", c.data(), "-p", strconv.Itoa(c.port), "-k", c.folder, "-c", "listen_addresses=127.0.0.1",
		"-c", "max_connections=300", "-c", "logging_collector=off",
	}
	for _, option := range c.options {
		args = append(args, "-c", option)
	}
	log, err := os.OpenFile(filepath.Join(c.folder, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	server := c.run("postgres", args...)
	server.Stdout, server.Stderr = log, log
	// The server dies with this process. The system watches the thread that
	// started it, and so that thread must stay.
	dieWithParent(server.SysProcAttr)
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := server.Start()
		started <- err
		if err == nil {
			_ = server.Wait() // however it ends, it is gone
		}
		_ = log.Close()
		close(exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	c.pid, c.exited = server.Process.Pid, exited
	return c.await(func() error { _, err := c.SQL("SELECT 1"); return err })
}

// await asks again and again until done, while the server lives.
func (c *Cluster) await(done func() error) error {
	for deadline := time.Now().Add(clusterPatience); ; {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			c.pid = 0
			return fmt.Errorf("PostgreSQL has ended: %w: %s", err, c.log())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL is not ready in time: %w: %s", err, c.log())
		}
	}
}

// log returns the end of what the server wrote.
func (c *Cluster) log() string {
	text, err := os.ReadFile(filepath.Join(c.folder, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// Standby starts a copy of the server that follows it by streaming replication.
// It is removed on its own. It is synchronous once the primary has the setting
// synchronous_standby_names=standby.
func (c *Cluster) Standby() (*Cluster, error) {
	s, err := prepareCluster(c.options)
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("host=%s port=%d user=postgres application_name=standby", c.folder, c.port)
	err = s.command("pg_basebackup", "--pgdata", s.data(), "--dbname", source, "--write-recovery-conf", "--wal-method", "stream",
		"--checkpoint", "fast", "--no-sync")
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// Set changes settings of the running server.
func (c *Cluster) Set(settings map[string]string) error {
	for name, value := range settings {
		if _, err := c.SQL(fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value)); err != nil {
			return err
		}
	}
	_, err := c.SQL("SELECT pg_reload_conf()")
	return err
}

// Promote makes a standby the primary. It asks by a signal: what a standby has still to
// replay may cancel a query.
func (c *Cluster) Promote() error {
	return c.command("pg_ctl", "promote", "--pgdata", c.data(), "--wait", "--timeout", strconv.Itoa(int(clusterPatience/time.Second)), "--silent")
}

// Kill ends the server and all its backends at once, as kill -9 does.
func (c *Cluster) Kill() error {
	if c.pid == 0 {
		return nil
	}
	backends, err := childrenOf(c.pid)
	if err != nil {
		return err
	}
	err = syscall.Kill(c.pid, syscall.SIGKILL)
	for _, pid := range backends {
		_ = syscall.Kill(pid, syscall.SIGKILL) // one that ended meanwhile is as good
	}
	<-c.exited
	c.pid = 0
	return err
}

// Remove ends the server and removes its data.
func (c *Cluster) Remove() error {
	return errors.Join(c.Kill(), os.RemoveAll(c.folder))
}
