package tlspsk

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// serveVariable makes the test binary the server of BenchmarkServers, so that its
// processor time can be told from the client's.
const serveVariable = "MUSTER_TLSPSK_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve prints its address and accepts one connection after the other, as openssl
// s_server does, until standard input ends.
func serve() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("ACCEPT %v\n", l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var c Config
	if err := c.Name.UnmarshalText([]byte(testName)); err != nil {
		return err
	}
	c.PSK = findKey
	s, err := NewServer(c)
	if err != nil {
		return err
	}
	for {
		transport, err := l.Accept()
		if err != nil {
			return err
		}
		conn, err := s.Handshake(context.Background(), transport)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
}

// BenchmarkServers measures handshakes of one client, this package's, with its
// server and with openssl s_server, each in a process of its own, in one run:
// time, and the processor time of the server alone. (openssl s_time, the usual
// client for this, cannot use pre-shared keys.)
func BenchmarkServers(b *testing.B) {
	for _, suite := range []Suite{TLS_PSK_WITH_AES_128_GCM_SHA256, TLS_PSK_WITH_AES_128_CBC_SHA256} {
		b.Run(suite.String(), func(b *testing.B) {
			b.Run("muster", func(b *testing.B) {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), serveVariable+"=1")
				benchmarkServer(b, suite, cmd)
			})
			b.Run("openssl", func(b *testing.B) {
				if _, err := exec.LookPath("openssl"); err != nil {
					needed(b, "no openssl: %v", err)
				}
				benchmarkServer(b, suite, exec.Command("openssl", "s_server", "-accept", "127.0.0.1:0", "-nocert", "-tls1_2",
					"-psk", hex.EncodeToString(testKey()), "-psk_identity", testIdentity, "-cipher", openSSLName(suite)))
			})
		})
	}
}

func benchmarkServer(b *testing.B, suite Suite, cmd *exec.Cmd) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(stdout)
	address := ""
	for address == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		if found := regexp.MustCompile(`^ACCEPT (\S+)\n$`).FindStringSubmatch(line); found != nil {
			address = found[1]
		}
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	client, err := NewClient(config(b, suite))
	if err != nil {
		b.Fatal(err)
	}
	before := processorTime(cmd.Process.Pid)
	for b.Loop() {
		transport, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		conn, err := client.Handshake(b.Context(), transport)
		if err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "handshakes/s")
	if used := processorTime(cmd.Process.Pid) - before; used > 0 {
		b.ReportMetric(float64(used.Microseconds())/float64(b.N), "server-cpu-µs/op")
	}
}

// processorTime is what a process has used, as Linux tells in ticks of 10 ms, and
// zero elsewhere.
func processorTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkMachines is both sides of a handshake without input and output.
func BenchmarkMachines(b *testing.B) {
	for _, suite := range []Suite{TLS_PSK_WITH_AES_128_GCM_SHA256, TLS_PSK_WITH_AES_128_CBC_SHA256} {
		b.Run(suite.String(), func(b *testing.B) {
			cc, sc := complete(b, config(b, suite)), complete(b, config(b))
			b.ReportAllocs()
			for b.Loop() {
				client, server := &side{machine: newMachine(cc, true)}, &side{machine: newMachine(sc, false)}
				client.err = client.start()
				meet(client, server)
				if !client.done || !server.done {
					b.Fatal(client.err, server.err)
				}
			}
		})
	}
}

// BenchmarkOpen is the price of opening a record.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{64, 1024, maxPlaintext} {
		for name, p := range map[string]protection{
			"gcm": newGCM(make([]byte, keySize), make([]byte, gcmSaltSize)), "cbc-etm": testCBC(true), "cbc-plain": testCBC(false),
		} {
			b.Run(fmt.Sprintf("%s-%d", name, n), func(b *testing.B) {
				sealed, err := p.seal(nil, 0, typeApplicationData, make([]byte, n))
				if err != nil {
					b.Fatal(err)
				}
				fragment := make([]byte, len(sealed))
				b.SetBytes(int64(n))
				for b.Loop() {
					copy(fragment, sealed)
					if _, ok := p.open(0, typeApplicationData, fragment); !ok {
						b.Fatal("a record does not open")
					}
				}
			})
		}
	}
}
