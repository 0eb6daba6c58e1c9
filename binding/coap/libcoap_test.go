package coap_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"muster/binding/coap"
	"muster/handshake"
	"muster/mustertest"
	"muster/primitive"
)

// onePeer is a UDP socket that answers whoever sent last.
type onePeer struct {
	*net.UDPConn
	peer atomic.Pointer[net.UDPAddr]
}

func (o *onePeer) Read(b []byte) (int, error) {
	n, peer, err := o.ReadFromUDP(b)
	if err == nil {
		o.peer.Store(peer)
	}
	return n, err
}

// Write takes the options of oneM2M out of an answer: they are critical, and
// coap-client, which does not know them, would reject it.
func (o *onePeer) Write(b []byte) (int, error) {
	m, err := coap.Parse(b)
	if err != nil {
		return 0, err
	}
	m.Options = slices.DeleteFunc(m.Options, func(option coap.Option) bool {
		return option.Number == coap.OptionRSC || option.Number == coap.OptionRQI || option.Number == coap.OptionRVI
	})
	datagram, err := m.Marshal()
	if err != nil {
		return 0, err
	}
	return o.WriteToUDP(datagram, o.peer.Load())
}

func peerProgram(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
		t.Fatalf("none of %v is installed", names)
	}
	t.Skipf("none of %v is installed", names)
	return ""
}

// oneM2M returns libcoap's arguments for the options FR, RQI and RVI.
func oneM2M() []string {
	return []string{"-O", "279,//sp.example/a", "-O", "283,r1", "-O", "271,3"}
}

func TestLibcoap(t *testing.T) {
	t.Parallel()
	program := peerProgram(t, "coap-client-notls", "coap-client-openssl", "coap-client-gnutls", "coap-client")
	dir := t.TempDir()
	body := func(size int) (file, text string) {
		text = encoded(t, sized(size))
		file = filepath.Join(dir, fmt.Sprint(size))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file, text
	}
	small, smallText := body(40)
	large, largeText := body(3000)
	for _, tc := range []struct {
		name      string
		arguments []string
		path      string
		want      string
	}{
		{"GET", []string{"-m", "get"}, "-/40", smallText},
		{"GET, not confirmable", []string{"-m", "get", "-N"}, "-/40", smallText},
		{"GET of 3,000 octets", []string{"-m", "get"}, "-/3000", largeText},
		{"GET of 60,000 octets", []string{"-m", "get"}, "-/60000", encoded(t, sized(60000))},
		{"GET of 3,000 octets in blocks of 64", []string{"-m", "get", "-b", "64"}, "-/3000", largeText},
		{"GET of 3,000 octets in blocks of 16", []string{"-m", "get", "-b", "16"}, "-/3000", largeText},
		{"PUT", []string{"-m", "put", "-t", "50", "-f", small}, "-/1", smallText},
		{"POST", []string{"-m", "post", "-t", "50", "-O", "267,0xea62", "-f", small}, "-", smallText},
		{"POST of 3,000 octets", []string{"-m", "post", "-t", "50", "-O", "267,0xea62", "-f", large}, "-", largeText},
		{"POST of 3,000 octets in blocks of 128", []string{"-m", "post", "-b", "128", "-t", "50", "-O", "267,0xea62", "-f", large}, "-", largeText},
		{"POST of 3,000 octets with losses", []string{"-m", "post", "-l", "2,4", "-t", "50", "-O", "267,0xea62", "-f", large}, "-", largeText},
		{"PUT of 3,000 octets", []string{"-m", "put", "-t", "50", "-f", large}, "-/1", largeText},
		{"DELETE", []string{"-m", "delete"}, "-/1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			serve(t, primitive.HandlerFunc(echo), &handshake.Conn{Conn: &onePeer{UDPConn: socket}, Session: testSession()})
			out := filepath.Join(dir, strings.ReplaceAll(tc.name, " ", "_"))
			arguments := append(append([]string{"-B", "15", "-o", out}, oneM2M()...), tc.arguments...)
			command := exec.CommandContext(t.Context(), program, append(arguments, fmt.Sprintf("coap://%s/%s", socket.LocalAddr(), tc.path))...)
			var log bytes.Buffer
			command.Stdout, command.Stderr = &log, &log
			if err := command.Run(); err != nil {
				t.Fatalf("%v: %v\n%s", command.Args, err, log.String())
			}
			got, err := os.ReadFile(out)
			if err != nil && tc.want != "" {
				t.Fatalf("%v\n%s", err, log.String())
			}
			if string(got) != tc.want {
				t.Errorf("%d octets, want %d\n%.200s\n%s", len(got), len(tc.want), got, log.String())
			}
		})
	}
}

// libcoap drops answers with critical options that its user has not registered, and
// sends its request again and again. coap-client registers none.
func TestStockClientDropsTheAnswer(t *testing.T) {
	t.Parallel()
	program := peerProgram(t, "coap-client-notls", "coap-client-openssl", "coap-client-gnutls", "coap-client")
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	far := &honestPeer{onePeer{UDPConn: socket}}
	serve(t, primitive.HandlerFunc(echo), &handshake.Conn{Conn: far, Session: testSession()})
	client := mustertest.StartPeer(t, program, append(oneM2M(), "-v", "8", fmt.Sprintf("coap://%s/-/40", socket.LocalAddr()))...)
	for _, option := range []coap.OptionNumber{coap.OptionRSC, coap.OptionRQI, coap.OptionRVI} {
		client.Find(t, fmt.Sprintf("unknown critical option (%d)", option))
	}
}

// honestPeer is a onePeer that leaves answers as they are.
type honestPeer struct{ onePeer }

func (h *honestPeer) Write(b []byte) (int, error) { return h.WriteToUDP(b, h.peer.Load()) }

// libcoap prints an error response on its standard error output.
func TestLibcoapRefused(t *testing.T) {
	t.Parallel()
	program := peerProgram(t, "coap-client-notls", "coap-client-openssl", "coap-client-gnutls", "coap-client")
	for name, tc := range map[string]struct {
		arguments []string
		want      string
	}{
		"unknown resource":        {oneM2M(), "4.04"},
		"unknown critical option": {append(oneM2M(), "-O", "65,x"), "4.02"},
		"XML":                     {append(oneM2M(), "-A", "41"), "4.06"},
		"no request identifier":   {nil, "4.00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			serve(t, primitive.HandlerFunc(echo), &handshake.Conn{Conn: &onePeer{UDPConn: socket}, Session: testSession()})
			command := exec.CommandContext(t.Context(), program, append(append([]string{"-B", "10"}, tc.arguments...), fmt.Sprintf("coap://%s/-/x", socket.LocalAddr()))...)
			out, err := command.CombinedOutput()
			if err != nil || !strings.Contains(string(out), tc.want) {
				t.Errorf("%v: %s, want %s", err, out, tc.want)
			}
		})
	}
}
