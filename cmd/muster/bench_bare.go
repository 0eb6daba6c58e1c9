package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"muster"
	"muster/handshake"
	"muster/handshake/dtls12"
)

// newBenchBareCommand runs, for bench compare, what a library does by itself: the
// handshake with certificates on both sides and one export, and no MEF.
func newBenchBareCommand() *cobra.Command {
	var listen, dir string
	cmd := &cobra.Command{
		Use:    "bare LIBRARY",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			identity, clients, err := bareTrust(&laboratory{Dir: dir})
			if err != nil {
				return err
			}
			switch library := args[0]; library {
			case bareTLS:
				return serveBareTLS(cmd.Context(), listen, identity, clients)
			case bareDTLS:
				return dtls12.ServeBare(cmd.Context(), listen, *identity, clients, exportBare)
			default:
				return muster.Refuse(muster.CodeUsage, "%q is neither %s nor %s", library, bareTLS, bareDTLS)
			}
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "where to listen, HOST:PORT")
	cmd.Flags().StringVar(&dir, "lab", "", "the laboratory whose MEF's identity to use")
	return cmd
}

// The libraries that are measured by themselves.
const (
	bareTLS  = "crypto/tls"
	bareDTLS = "pion/dtls"
)

// bareTrust is the identity of a laboratory's MEF and the root of its devices.
func bareTrust(lab *laboratory) (*tls.Certificate, *x509.CertPool, error) {
	config, err := readMEFConfig(lab.path("mef.yaml"))
	if err != nil {
		return nil, nil, err
	}
	identity, err := config.Identity.load()
	if err != nil {
		return nil, nil, err
	}
	roots, err := readCertificates([]string{lab.path("pki", "device-root.pem")})
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	return identity, pool, nil
}

// bootstrapLabel is the label under which an Enrolment Key is exported.
const bootstrapLabel = "EXPORTER-oneM2M-Bootstrap"

func exportBare(export muster.Exporter) error {
	_, err := export(bootstrapLabel, nil, muster.RelativeSize+muster.KeySize)
	return err
}

func serveBareTLS(ctx context.Context, address string, identity *tls.Certificate, clients *x509.CertPool) error {
	listener, err := tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{*identity}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, SessionTicketsDisabled: true,
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		CurvePreferences: []tls.CurveID{tls.CurveP256},
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			ctx, cancel := context.WithTimeout(ctx, handshake.DefaultTimeout)
			defer cancel()
			engine := conn.(*tls.Conn)
			if engine.HandshakeContext(ctx) == nil {
				state := engine.ConnectionState()
				_ = exportBare(state.ExportKeyingMaterial)
			}
		}()
	}
}

// opensslArguments has s_server do the same: it makes no output, sends no tickets
// and, as the others, knows one suite and one group.
func opensslArguments(lab *laboratory, port uint16) []string {
	return []string{"s_server", "-quiet", "-accept", fmt.Sprintf("127.0.0.1:%d", port),
		"-cert", lab.path("pki", "mef.pem"), "-key", lab.path("pki", "mef-key.pem"),
		"-CAfile", lab.path("pki", "device-root.pem"), "-Verify", "2", "-verify_return_error",
		"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-groups", "P-256", "-no_ticket", "-no_cache",
		"-keymatexport", bootstrapLabel, "-keymatexportlen", fmt.Sprint(muster.RelativeSize + muster.KeySize)}
}
