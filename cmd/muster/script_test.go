package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary serve as the muster command, for scripts and
// for tests that kill a process.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"muster": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts gives each script ports of its own, for they run side by side.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(env *testscript.Env) error {
		for _, name := range []string{"MEF_PORT", "MAF_PORT"} {
			port, err := quietPort()
			if err != nil {
				return err
			}
			env.Setenv(name, fmt.Sprint(port))
		}
		return nil
	}})
}

// quietPort returns a port on which nothing listens, for both TCP and UDP. It is
// below those that the system gives to whoever asks for any.
func quietPort() (port int, err error) {
	for range 100 {
		port = 10_000 + rand.IntN(20_000)
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
