package main

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"muster"
	"muster/console"
)

// TestOperatorReadsRefusals has a MEF answer its MAF's certificate as an operator.
func TestOperatorReadsRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.mef.Admin = adminConfig{Listen: "127.0.0.1:0", Clients: []adminClientConfig{{
		Certificate: certificateConfig{Flavour: muster.FlavourFQDN, Name: w.maf.FQDN.String()}, Anchors: w.mef.MAFs[0].Anchors, Role: console.RoleViewer,
	}}}
	log := newRefusalLog(w.mef.Store.besideStore(w.mef.file, refusalsSuffix), "")
	_, err := log.add(refusal{Code: muster.CodeExpired, Transport: overTLS, Chain: [][]byte{{1}}})
	must(t, err)
	service, err := startMEF(t.Context(), w.mef, newLogger(newJournal()), observer{})
	must(t, err)
	defer func() { must(t, service.stop()) }()
	identity, err := tls.LoadX509KeyPair(w.maf.Identity.Certificate, w.maf.Identity.Key)
	must(t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{identity}}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://" + service.admin.Addr().String() + "/v1/refusals")
	must(t, err)
	defer response.Body.Close()
	var page struct{ Items []console.Refusal }
	must(t, json.NewDecoder(response.Body).Decode(&page))
	if response.StatusCode != http.StatusOK || len(page.Items) != 1 || page.Items[0].Code != muster.CodeExpired {
		t.Errorf("%d, %+v", response.StatusCode, page)
	}
	w.mef.Admin.Clients[0].Anchors = []string{filepath.Join(t.TempDir(), "none.pem")}
	_, err = w.mef.Admin.read(nil)
	wantCode(t, err, muster.CodeConfiguration)
	w.mef.Admin.Clients[0].Role = ""
	_, err = w.mef.Admin.read(nil)
	wantCode(t, err, muster.CodeConfiguration)
}

// TestOperatorsConnectionsAreBounded has one place left at the listener.
func TestOperatorsConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	listener := &boundedListener{Listener: socket}
	listener.threshold.all = maxHandshakes - 1
	accepted := make(chan net.Conn, 3)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	})
	defer accepting.Wait()
	defer listener.Close()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", socket.Addr().String())
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	dial()
	first := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil || len(accepted) != 0 {
		t.Errorf("a connection too many: %v", err)
	}
	for range 2 { // net/http may close twice
		_ = first.Close()
	}
	dial()
	_ = (<-accepted).Close()
	if got := listener.threshold.count(); got != maxHandshakes-1 {
		t.Errorf("%d connections are counted", got)
	}
}
