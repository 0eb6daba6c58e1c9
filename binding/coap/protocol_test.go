package coap_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"muster"
	"muster/binding/coap"
	"muster/handshake"
	"muster/primitive"
)

// An exchange is a datagram and the server's answer to it.
type exchange struct {
	send string // hexadecimal
	want string // hexadecimal; "" for nothing within a minute
}

// talk sends datagrams to a server one by one and compares what comes back.
func talk(t *testing.T, h primitive.Handler, exchanges []exchange) {
	t.Helper()
	conn, server := datagramPair(t, faithful, faithful)
	serve(t, h, server)
	for i, e := range exchanges {
		if _, err := conn.Write(octets(t, e.send)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		buffer := make([]byte, 2048)
		n, err := conn.Read(buffer)
		if err != nil {
			n = 0
		}
		if !bytes.Equal(buffer[:n], octets(t, e.want)) {
			t.Errorf("%d: %s\ngives %x\nwant  %s", i, e.send, buffer[:n], e.want)
		}
	}
}

func TestMessageLayer(t *testing.T) {
	const path = "b12d" // Uri-Path: -
	full := strings.Repeat("61", 16)
	for name, exchanges := range map[string][]exchange{
		"ping":                         {{"40000001", "70000001"}},
		"empty non-confirmable":        {{"50000001", ""}},
		"acknowledgement of nothing":   {{"60000001", ""}},
		"reset of nothing":             {{"70000001", ""}},
		"response that none asked for": {{"40450001", "70000001"}, {"50450002", ""}},
		"malformed confirmable":        {{"40010001f0", "70000001"}},
		"malformed non-confirmable":    {{"50010001f0", ""}},
		"malformed acknowledgement":    {{"60450001f0", ""}},
		"another version":              {{"80010001", ""}},
		"reserved class":               {{"40200001", "70000001"}},
		"unknown critical option":      {{"41010001aa" + "90", "61820001aa"}},
		"unknown critical option, NON": {{"51010001aa" + "90", "70000001"}},
		"critical option twice":        {{"41010001aa" + "d10432" + "0132", "61820001aa"}},
		"critical option too long":     {{"41010001aa" + "d304000032", "61820001aa"}},
		"proxy":                        {{"41010001aa" + "d11661", "61a50001aa"}},
		"reserved block size":          {{"41010001aa" + path + "c107", "61800001aa"}},
		"block without a beginning":    {{"41020001aa" + path + "d1031e" + "ff00000000", "61800001aa"}, {"41020002aa" + path + "d10310" + "ff00", "61880002aa"}},
		"short block that is not last": {{"41020001aa" + path + "d10308" + "ff00", "61800001aa"}},
		"block left out": {
			{"41020001aa" + path + "d10308ff" + full, "615f0001aad10e08"},
			{"41020002aa" + path + "d10328ff" + full, "61880002aa"},
		},
		"block repeated": {
			{"41020001aa" + path + "d10308ff" + full, "615f0001aad10e08"},
			{"41020002bb" + path + "d10318ff" + full, "615f0002bbd10e18"},
			{"41020003cc" + path + "d10318ff" + full, "615f0003ccd10e18"},
			{"41020004dd" + path + "d10318ff" + strings.Repeat("62", 16), "61880004dd"},
		},
		"later block of no such answer": {{"41020001aa" + path + "c110", "61880001aa"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { talk(t, primitive.HandlerFunc(echo), exchanges) })
		})
	}
}

func message(t testing.TB, m *coap.Message) string {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", b)
}

func registration(kind coap.Type, id uint16) *coap.Message {
	m := &coap.Message{Type: kind, Code: coap.POST, ID: id, Token: []byte{1}, Payload: []byte(`{"sec:macr":{}}`)}
	m.Options.Add(coap.OptionURIPath, []byte("-"))
	m.Options.AddUint(coap.OptionContentFormat, 50)
	m.Options.AddUint(coap.OptionTY, 60002)
	m.Options.Add(coap.OptionFR, []byte("//sp.example/a"))
	m.Options.Add(coap.OptionRQI, []byte("r1"))
	m.Options.Add(coap.OptionRVI, []byte("3"))
	return m
}

func registered(kind coap.Type, id uint16) *coap.Message {
	m := &coap.Message{Type: kind, Code: coap.CodeCreated, ID: id, Token: []byte{1}, Payload: []byte(`{"sec:macr":{}}`)}
	m.Options.AddUint(coap.OptionMaxAge, 0)
	m.Options.AddUint(coap.OptionRSC, 2001)
	m.Options.Add(coap.OptionRQI, []byte("r1"))
	m.Options.Add(coap.OptionRVI, []byte("3"))
	m.Options.Add(coap.OptionLocationPath, []byte("-"))
	m.Options.Add(coap.OptionLocationPath, []byte("1"))
	m.Options.AddUint(coap.OptionContentFormat, 50)
	return m
}

func TestRegistrationGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		talk(t, primitive.HandlerFunc(echo), []exchange{
			{message(t, registration(coap.Confirmable, 7)), message(t, registered(coap.Acknowledgement, 7))},
			{message(t, registration(coap.NonConfirmable, 8)), message(t, registered(coap.NonConfirmable, 1))},
		})
	})
}

// RFC 7252 4.5
func TestDeduplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var executed atomic.Int32
		count := primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
			executed.Add(1)
			return echo(ctx, s, r)
		})
		con, ack := message(t, registration(coap.Confirmable, 7)), message(t, registered(coap.Acknowledgement, 7))
		talk(t, count, []exchange{
			{con, ack}, {con, ack}, {con, ack},
			{message(t, registration(coap.NonConfirmable, 8)), message(t, registered(coap.NonConfirmable, 1))},
			{message(t, registration(coap.NonConfirmable, 8)), ""},
			{"40000001", "70000001"}, // each silence takes a minute
			{"60000000", ""}, {"60000000", ""},
			{con, ack},
		})
		if n := executed.Load(); n != 2 {
			t.Errorf("executed %d times, want 2", n)
		}
		executed.Store(0)
		talk(t, count, []exchange{{con, ack}, {"60000000", ""}, {"60000000", ""}, {"60000000", ""}, {"60000000", ""}, {"60000000", ""}, {con, ack}})
		if n := executed.Load(); n != 2 {
			t.Errorf("executed %d times, the second after the exchange lifetime, want 2", n)
		}
	})
}

// While a request is worked on, its repetition is not executed and gets no answer
// of its own.
func TestSlowHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var executed atomic.Int32
		conn, server := datagramPair(t, faithful, faithful)
		serve(t, primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
			executed.Add(1)
			time.Sleep(9 * time.Second)
			return echo(ctx, s, r)
		}), server)
		response, err := newClient(t, conn).Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/1"})
		if err != nil || response.Status != primitive.Deleted || executed.Load() != 1 {
			t.Errorf("%v, %v, executed %d times", response, err, executed.Load())
		}
	})
}

func TestHandlerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, server := datagramPair(t, faithful, faithful)
		serve(t, primitive.HandlerFunc(func(ctx context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
			if r.Operation == primitive.Delete {
				panic("secret")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}), server)
		client := newClient(t, conn)
		for op, want := range map[primitive.Operation]primitive.Status{primitive.Delete: primitive.InternalServerError, primitive.Retrieve: primitive.RequestTimeout} {
			response, err := client.Do(t.Context(), &primitive.Request{Operation: op, To: "-/1"})
			if err != nil || response.Status != want || !response.Content.IsZero() {
				t.Errorf("%v: %v, %v", op, response, err)
			}
		}
	})
}

func TestIdleConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn := datagramPair(t, faithful, faithful)
		start := time.Now()
		server := coap.NewServer(coap.Config{Handler: primitive.HandlerFunc(echo), IdleTimeout: time.Minute})
		if err := server.ServeConn(t.Context(), conn); err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// At shutdown a request that is being worked on is still answered.
func TestShutdownDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, server := datagramPair(t, faithful, faithful)
		ctx, cancel := context.WithCancel(t.Context())
		handler := primitive.HandlerFunc(func(handlerCtx context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
			cancel()
			time.Sleep(time.Second)
			if handlerCtx.Err() != nil {
				return nil, handlerCtx.Err()
			}
			return echo(handlerCtx, s, r)
		})
		done := make(chan error, 1)
		go func() {
			done <- coap.NewServer(coap.Config{Handler: handler}).ServeConn(ctx, server)
		}()
		response, err := newClient(t, conn).Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/1"})
		if err != nil || response.Status != primitive.Deleted {
			t.Errorf("%v, %v", response, err)
		}
		if err := <-done; err != nil {
			t.Errorf("ServeConn: %v", err)
		}
	})
}

// script answers each datagram of a client with the ones that f makes of it.
func script(t *testing.T, f func(m *coap.Message) []*coap.Message) *coap.Client {
	t.Helper()
	conn, far := datagramPair(t, faithful, faithful)
	go func(far *handshake.Conn) {
		buffer := make([]byte, 2048)
		for {
			n, err := far.Read(buffer)
			if err != nil {
				return
			}
			m, err := coap.Parse(buffer[:n])
			if err != nil {
				t.Errorf("the client sends %x: %v", buffer[:n], err)
				return
			}
			for _, answer := range f(m) {
				b, err := answer.Marshal()
				if err != nil {
					t.Error(err)
				}
				_, _ = far.Write(b)
			}
		}
	}(far)
	return newClient(t, conn)
}

func deleted(kind coap.Type, id uint16, token []byte) *coap.Message {
	m := &coap.Message{Type: kind, Code: coap.CodeDeleted, ID: id, Token: token}
	m.Options.AddUint(coap.OptionRSC, 2002)
	return m
}

func TestClientAnswers(t *testing.T) {
	bad := func(m *coap.Message) *coap.Message {
		answer := deleted(coap.Acknowledgement, m.ID, m.Token)
		answer.Options.AddUint(9, 1)
		return answer
	}
	for name, tc := range map[string]struct {
		answer func(m *coap.Message) []*coap.Message
		ok     bool
		acks   []coap.Type // what the client sends after its request
	}{
		"piggybacked": {func(m *coap.Message) []*coap.Message {
			return []*coap.Message{deleted(coap.Acknowledgement, m.ID, m.Token)}
		}, true, nil},
		"separate": {func(m *coap.Message) []*coap.Message {
			return []*coap.Message{{Type: coap.Acknowledgement, ID: m.ID}, deleted(coap.Confirmable, 9, m.Token)}
		}, true, []coap.Type{coap.Acknowledgement}},
		"separate, before its acknowledgement": {func(m *coap.Message) []*coap.Message {
			return []*coap.Message{deleted(coap.Confirmable, 9, m.Token)}
		}, true, []coap.Type{coap.Acknowledgement}},
		"separate and not confirmable": {func(m *coap.Message) []*coap.Message {
			return []*coap.Message{{Type: coap.Acknowledgement, ID: m.ID}, deleted(coap.NonConfirmable, 9, m.Token)}
		}, true, nil},
		"after strange ones": {func(m *coap.Message) []*coap.Message {
			return []*coap.Message{
				deleted(coap.Acknowledgement, m.ID+1, m.Token), deleted(coap.Acknowledgement, m.ID, []byte("other")),
				deleted(coap.NonConfirmable, 1, nil), deleted(coap.Confirmable, 2, []byte("x")), {Type: coap.Confirmable, ID: 3},
				{Type: coap.Reset, ID: m.ID + 1}, deleted(coap.Acknowledgement, m.ID, m.Token),
			}
		}, true, []coap.Type{coap.Reset, coap.Reset}},
		"reset":      {func(m *coap.Message) []*coap.Message { return []*coap.Message{{Type: coap.Reset, ID: m.ID}} }, false, nil},
		"silence":    {func(m *coap.Message) []*coap.Message { return []*coap.Message{{Type: coap.Acknowledgement, ID: m.ID}} }, false, nil},
		"bad option": {func(m *coap.Message) []*coap.Message { return []*coap.Message{bad(m)} }, false, nil},
		"no status": {func(m *coap.Message) []*coap.Message {
			return []*coap.Message{{Type: coap.Acknowledgement, Code: coap.CodeDeleted, ID: m.ID, Token: m.Token}}
		}, false, nil},
		"endless body": {endless, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var kinds []coap.Type
				client := script(t, func(m *coap.Message) []*coap.Message {
					if m.Code == coap.Empty {
						kinds = append(kinds, m.Type)
						return nil
					}
					return tc.answer(m)
				})
				response, err := client.Do(t.Context(), &primitive.Request{Operation: primitive.Delete, To: "-/1"})
				if (err == nil) != tc.ok || tc.ok && response.Status != primitive.Deleted {
					t.Errorf("%v, %v", response, err)
				}
				synctest.Wait()
				if fmt.Sprint(kinds) != fmt.Sprint(tc.acks) {
					t.Errorf("the client sends %v, want %v", kinds, tc.acks)
				}
			})
		})
	}
}

// endless answers with one full block after the other.
func endless(m *coap.Message) []*coap.Message {
	answer := deleted(coap.Acknowledgement, m.ID, m.Token)
	value, _ := m.Options.Uint(coap.OptionBlock2)
	answer.Options.AddUint(coap.OptionBlock2, value>>4<<4|8|6)
	answer.Payload = make([]byte, 1024)
	return []*coap.Message{answer}
}

func TestUploadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, server := datagramPair(t, faithful, faithful)
		serve(t, primitive.HandlerFunc(echo), server)
		tooLarge := primitive.NewContent(primitive.Object{"a": string(make([]byte, primitive.MaxContent))})
		if response, err := newClient(t, conn).Do(t.Context(), &primitive.Request{Operation: primitive.Update, To: "-", Content: tooLarge}); err == nil {
			t.Errorf("got %v", response)
		}
	})
}

// A server whose blocks have nothing in them does not keep a client forever.
func TestEmptyBlocksEnd(t *testing.T) {
	const more = 8
	sent := 0
	client := script(t, func(m *coap.Message) []*coap.Message {
		if sent++; sent > 100 {
			return nil // by now the client is proved wrong, and shall not spin on
		}
		answer := &coap.Message{Type: coap.Acknowledgement, Code: coap.CodeContent, ID: m.ID, Token: m.Token}
		answer.Options.AddUint(coap.OptionRSC, uint32(primitive.OK))
		if value, later := m.Options.Uint(coap.OptionBlock2); later {
			answer.Options.AddUint(coap.OptionBlock2, value|more)
		} else {
			answer.Options.AddUint(coap.OptionBlock2, more)
			answer.Payload = make([]byte, 16)
		}
		return []*coap.Message{answer}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := client.Do(ctx, &primitive.Request{Operation: primitive.Retrieve, To: "-/1"})
	if err == nil || sent > 2 {
		t.Errorf("after %d requests: %v", sent, err)
	}
}
