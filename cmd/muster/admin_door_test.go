package main

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"muster/handshake"
	"muster/mustertest"
)

// TestOperatorsWaitForTheirTurn holds the one turn while an operator comes, who is
// answered when it is free.
func TestOperatorsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	own := mustertest.NewPKI(t).Function(t, labMEF).TLS()
	door := newAdminDoor(&boundedListener{Listener: socket}, &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"h2"}})
	server := http.Server{TLSConfig: door.config.Clone(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })}
	var running sync.WaitGroup
	running.Go(func() { _ = door.open(t.Context()) })
	running.Go(func() { _ = server.Serve(door) })
	defer running.Wait()
	defer func() { _ = server.Close() }()

	leave := make(chan struct{})
	must(t, door.turns.wait(handshake.Newcomer).err)
	running.Go(func() {
		<-leave
		door.turns.next()
	})
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	answered := make(chan string, 1)
	running.Go(func() {
		request, _ := http.NewRequest(http.MethodGet, "https://"+socket.Addr().String(), nil)
		response, err := transport.RoundTrip(request)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answered <- string(body)
	})
	await(t, "nobody waits for a turn", func() (struct{}, bool) {
		door.turns.mu.Lock()
		defer door.turns.mu.Unlock()
		return struct{}{}, len(door.turns.newcomers) == 1
	})
	if len(answered) != 0 {
		t.Error("an operator is answered before its turn")
	}
	close(leave)
	if got := <-answered; got != "HTTP/2.0" {
		t.Errorf("an operator is answered %q", got)
	}
}
