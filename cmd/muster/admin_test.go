package main

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"path/filepath"
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
	_, err = w.mef.Admin.read()
	wantCode(t, err, muster.CodeConfiguration)
	w.mef.Admin.Clients[0].Role = ""
	_, err = w.mef.Admin.read()
	wantCode(t, err, muster.CodeConfiguration)
}
