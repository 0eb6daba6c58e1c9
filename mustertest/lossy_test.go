package mustertest_test

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"muster/mustertest"
)

func TestLossyPair(t *testing.T) {
	t.Parallel()
	const sent = 200
	for _, tt := range []struct {
		name     string
		loss     mustertest.Loss
		min, max int
	}{
		{"faithful", mustertest.Loss{}, sent, sent},
		{"small MTU", mustertest.Loss{MTU: 3}, 0, 0},
		{"loss", mustertest.Loss{Drop: 0.3, Seed: 1}, sent / 2, sent * 9 / 10},
		{"duplication", mustertest.Loss{Duplicate: 0.2, Seed: 1}, sent * 11 / 10, sent * 14 / 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := mustertest.NewLossyPair(tt.loss)
			for range sent {
				if _, err := a.WriteTo([]byte("datagram"), b.LocalAddr()); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			received := 0
			for {
				_, from, err := b.ReadFrom(make([]byte, 100))
				if errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
				if err != nil || from.String() != a.LocalAddr().String() {
					t.Fatal(from, err)
				}
				received++
			}
			if received < tt.min || received > tt.max {
				t.Errorf("%s: %d of %d datagrams arrived, not %d to %d", tt.name, received, sent, tt.min, tt.max)
			}
		})
	}
}

func TestLossyPairReorders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := mustertest.NewLossyPair(mustertest.Loss{Reorder: 0.2, Seed: 1})
		for i := range 100 {
			_, _ = a.WriteTo([]byte{byte(i)}, nil)
		}
		inversions, last := 0, -1
		for range 100 {
			datagram := make([]byte, 1)
			if _, _, err := b.ReadFrom(datagram); err != nil {
				t.Fatal(err)
			}
			if int(datagram[0]) < last {
				inversions++
			}
			last = int(datagram[0])
		}
		if inversions == 0 {
			t.Error("every datagram arrived in order")
		}
	})
}

func TestLossyPairEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := mustertest.NewLossyPair(mustertest.Loss{})
		read := make(chan error)
		go func() {
			_, _, err := a.ReadFrom(nil)
			read <- err
		}()
		synctest.Wait()
		if err := a.SetReadDeadline(time.Now()); err != nil || !errors.Is(<-read, os.ErrDeadlineExceeded) {
			t.Error("a deadline in the past did not end a read")
		}
		if err := a.SetReadDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		go func() {
			_, _, err := a.ReadFrom(nil)
			read <- err
		}()
		synctest.Wait()
		if err := a.Close(); err != nil || !errors.Is(<-read, net.ErrClosed) {
			t.Error("closing did not end a read")
		}
		if _, err := a.WriteTo(nil, nil); !errors.Is(err, net.ErrClosed) {
			t.Error("a closed end writes")
		}
	})
}

func TestLossyProxy(t *testing.T) {
	t.Parallel()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	proxy, err := mustertest.NewLossyProxy(server.LocalAddr(), mustertest.Loss{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp", proxy.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("there")); err != nil {
		t.Fatal(err)
	}
	octets := make([]byte, 10)
	n, from, err := server.ReadFrom(octets)
	if err != nil || string(octets[:n]) != "there" {
		t.Fatal(string(octets[:n]), err)
	}
	if _, err := server.WriteTo([]byte("back"), from); err != nil {
		t.Fatal(err)
	}
	if n, err = client.Read(octets); err != nil || string(octets[:n]) != "back" {
		t.Fatal(string(octets[:n]), err)
	}
	if err := proxy.Close(); err != nil {
		t.Error(err)
	}
}
