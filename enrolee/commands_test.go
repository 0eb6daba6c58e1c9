package enrolee_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/mustertest"
	"muster/primitive"
	"muster/tef"
)

// A bench is a MEF with a queue of commands, and a device that performs them.
type bench struct {
	*testing.T
	service   *tef.Service
	store     *mustertest.Memory
	client    tef.Client
	commander *enrolee.Commander
	now       time.Time

	performed []string
	fail      error
	loseAfter int    // answers, or -1 for none
	answer    string // content of every answer to a command, in place of the MEF's
}

// counter is a source of identifiers that are the same in every run.
type counter struct{ n byte }

func (c *counter) Read(p []byte) (int, error) {
	c.n++
	for i := range p {
		p[i] = c.n
	}
	return len(p), nil
}

func newBench(t *testing.T) *bench {
	t.Helper()
	id := must(muster.ParseEnroleeID("//sp.example.com/dev"))
	b := &bench{T: t, store: mustertest.NewMemory(), now: time.Unix(1_800_000_000, 0).UTC(), loseAfter: -1}
	b.client = tef.Client{Identity: id.String(), ID: id, Expires: b.now.Add(time.Hour)}
	b.service = &tef.Service{
		Party: tef.MEF(), FQDN: must(muster.ParseFQDN("mef.example.com")), Wire: wire(), Store: b.store, Keys: b.store, Commands: b.store,
		Administrators: []muster.FQDN{admin()}, MaxKeys: 1, Rand: new(counter), RetryDuration: time.Hour,
	}
	b.commander = &enrolee.Commander{Executor: b}
	if _, err := b.mmef().Register(t.Context(), tef.ClientRegistration{AdminFQDN: admin()}); err != nil {
		t.Fatal(err)
	}
	return b
}

func admin() muster.FQDN { return must(muster.ParseFQDN("admin.example.com")) }

func (b *bench) mmef() *tef.Requester {
	n := 0
	return &tef.Requester{Party: tef.MEF(), Function: b.service.FQDN, From: b.client.Identity, Wire: b.service.Wire, Doer: b,
		RequestID: func() string { n++; return strconv.Itoa(n) }}
}

func (b *bench) Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error) {
	response := primitive.Serve(ctx, primitive.HandlerFunc(func(ctx context.Context, _ *muster.Session, r *primitive.Request) (*primitive.Response, error) {
		return b.service.Serve(ctx, b.client, r, b.now)
	}), nil, r, b.now)
	if b.loseAfter == 0 {
		return nil, errDown
	}
	b.loseAfter--
	if b.answer != "" {
		response.Content = primitive.RawContent(primitive.JSON, []byte(b.answer))
	}
	return response, nil
}

func (b *bench) note(format string, args ...any) error {
	b.performed = append(b.performed, fmt.Sprintf(format, args...))
	return b.fail
}

func (b *bench) ProvisionCertificate(_ context.Context, c tef.CertificateProvisioning) error {
	return b.note("certificate %s", c.SubjectID)
}
func (b *bench) ConfigureDevice(_ context.Context, c tef.DeviceConfiguration) error {
	return b.note("device %s", c.URI)
}
func (b *bench) ProcessNode(_ context.Context, c tef.NodeProcessing) error {
	return b.note("node %s", c.Path)
}

func (b *bench) queue(id string, d tef.CommandDescription) {
	b.Helper()
	if err := tef.Queue(b.Context(), b.store, b.service.FQDN, b.client.ID, admin(), id, d, b.now); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) registration() string { return tef.RegistrationID(b.client.ID, admin()) }

func (b *bench) obey() (time.Duration, error) {
	return b.commander.Obey(b.Context(), b.mmef(), b.registration())
}

func (b *bench) wantReported(what string, want ...tef.CommandStatus) {
	b.Helper()
	var got []tef.CommandStatus
	for _, c := range must(b.store.Commands(b.Context(), b.service.FQDN, b.registration())) {
		got = append(got, c.Status)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.Errorf("%s: the MEF knows %v, want %v", what, got, want)
	}
}

func (b *bench) wantPerformed(what string, want ...string) {
	b.Helper()
	if fmt.Sprint(b.performed) != fmt.Sprint(want) {
		b.Errorf("%s: performed %v, want %v", what, b.performed, want)
	}
}

func certificate(uri string) tef.CommandDescription {
	return tef.CommandDescription{Class: tef.ClassCertificate, Certificate: &tef.CertificateProvisioning{
		Protocol: tef.ProtocolEST, URI: uri, SubjectType: tef.SubjectAE, SubjectID: "//sp.example.com/dev"}}
}

func device(uri string) tef.CommandDescription {
	return tef.CommandDescription{Class: tef.ClassDevice, Device: &tef.DeviceConfiguration{URI: uri}}
}

func node(path string) tef.CommandDescription {
	return tef.CommandDescription{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: path, Type: tef.NodeTrustAnchor}}
}

func TestEveryClassIsPerformedInOrder(t *testing.T) {
	b := newBench(t)
	b.queue("1", node("./a"))
	b.queue("2", certificate("https://mef.example.com:8443/est"))
	b.queue("3", device("3:coaps://mef.example.com"))
	retry, err := b.obey()
	if err != nil || retry != time.Hour {
		t.Errorf("asked to return after %s, %v", retry, err)
	}
	b.wantPerformed("all", "node ./a", "certificate //sp.example.com/dev", "device 3:coaps://mef.example.com")
	b.wantReported("all", tef.CommandOK, tef.CommandOK, tef.CommandOK)
	if retry, err := b.obey(); err != nil || retry != time.Hour {
		t.Errorf("again: %s, %v", retry, err)
	}
}

func TestFailuresAreReported(t *testing.T) {
	for _, x := range []struct {
		fail error
		d    tef.CommandDescription
		want tef.CommandStatus
	}{
		{errDown, certificate("https://mef.example.com"), tef.CertificateClientError},
		{errDown, device("1:https://mef.example.com"), tef.DeviceClientError},
		{errDown, node("./a"), tef.NodeFailed},
		{errors.ErrUnsupported, device("1:https://mef.example.com"), tef.CommandClassNotSupported},
		{&enrolee.CommandError{Status: tef.NodeNotFound, Err: errDown}, node("./a"), tef.NodeNotFound},
		{fmt.Errorf("wrapped: %w", &enrolee.CommandError{Status: tef.CertificateServerError, Err: errDown}), certificate("https://mef.example.com"), tef.CertificateServerError},
	} {
		b := newBench(t)
		b.fail = x.fail
		b.queue("1", x.d)
		if _, err := b.obey(); err != nil {
			t.Error(err)
		}
		b.wantReported(x.fail.Error(), x.want)
	}
}

func TestUnacceptableArguments(t *testing.T) {
	subject := func(change func(*tef.CertificateProvisioning)) tef.CommandDescription {
		d := certificate("https://mef.example.com")
		change(d.Certificate)
		return d
	}
	b := newBench(t)
	for i, d := range []tef.CommandDescription{
		certificate("https://evil.example.com"), certificate("https://mef.example.com@evil.example.com"), certificate("https:mef.example.com"),
		certificate("/est"), certificate("https://mef.example.com.evil.example.com"), certificate("::"),
		device("https://mef.example.com"), device("5:https://mef.example.com"), device("1:https://evil.example.com"), device("1"),
		subject(func(c *tef.CertificateProvisioning) { c.Protocol = 3 }),
		subject(func(c *tef.CertificateProvisioning) { c.SubjectType = 4 }),
		subject(func(c *tef.CertificateProvisioning) { c.SubjectID = "dev" }),
		subject(func(c *tef.CertificateProvisioning) { c.SubjectType = tef.SubjectNode }),
	} {
		b.queue(strconv.Itoa(i), d)
	}
	if _, err := b.obey(); err != nil {
		t.Fatal(err)
	}
	b.wantPerformed("nothing")
	for _, c := range must(b.store.Commands(t.Context(), b.service.FQDN, b.registration())) {
		if c.Status != tef.CommandUnacceptableArguments {
			t.Errorf("%+v was reported with %d", c.Description, c.Status)
		}
	}
}

func TestLostAnswersPerformNothingTwice(t *testing.T) {
	b := newBench(t)
	b.queue("1", node("./a"))
	b.queue("2", node("./b"))
	var remembered []enrolee.CommandMemory
	b.commander.Remember = func(_ context.Context, m enrolee.CommandMemory) error {
		remembered = append(remembered, m)
		return nil
	}
	b.loseAfter = 1 // the answer to the first report
	if _, err := b.obey(); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	last := remembered[len(remembered)-1]
	if last.ID != "1" || last.Reported {
		t.Errorf("remembered %+v", last)
	}
	b.loseAfter = -1
	b.commander = &enrolee.Commander{Executor: b, Memory: last} // the device has restarted
	if _, err := b.obey(); err != nil {
		t.Error(err)
	}
	b.wantPerformed("after the loss", "node ./a", "node ./b")
	b.wantReported("after the loss", tef.CommandOK, tef.CommandOK)
}

func TestUnreportedCommandIsReportedAndNotPerformedAgain(t *testing.T) {
	b := newBench(t)
	b.queue("1", node("./a"))
	b.commander.Memory = enrolee.CommandMemory{ID: "1", Status: tef.NodeNotFound} // died before the report
	if _, err := b.obey(); err != nil {
		t.Error(err)
	}
	b.wantPerformed("nothing")
	b.wantReported("what was remembered", tef.NodeNotFound)
}

func TestRepeatedIdentifierIsReported(t *testing.T) {
	b := newBench(t)
	b.queue("1", node("./a"))
	b.commander.Memory = enrolee.CommandMemory{ID: "1", Status: tef.CommandOK, Reported: true} // the MEF lost its memory
	if _, err := b.obey(); err != nil {
		t.Error(err)
	}
	b.wantPerformed("nothing")
	b.wantReported("a repeated identifier", tef.CommandRepeatedID)
}

func TestMEFThatNeverEnds(t *testing.T) {
	b := newBench(t)
	b.answer = `{"sec:mecc":{"cmi":"1","csc":10,"cmd":{"cmdClassID":3,"cmdArgs":{"MONodeCmdArgs":{"objectPath":"./a","objectTypeID":2}}}}}`
	if _, err := b.obey(); muster.CodeOf(err) != muster.CodePeerRefused {
		t.Errorf("%v", err)
	}
	b.wantPerformed("once", "node ./a")
}

func TestUnreadableCommands(t *testing.T) {
	b := newBench(t)
	b.answer = `{"sec:mecc":{"cmi":"1","csc":10}}`
	if _, err := b.obey(); err == nil {
		t.Error("a command without a description was obeyed")
	}
	for answer, want := range map[string]tef.CommandStatus{
		`{"sec:mecc":{"cmi":"1","csc":10,"cmd":{"cmdClassID":1,"cmdArgs":{}}}}`: tef.CommandBadArguments,
		`{"sec:mecc":{"cmi":"1","csc":10,"cmd":{"cmdClassID":0,"cmdArgs":{}}}}`: tef.CommandBadArguments,
		`{"sec:mecc":{"cmi":"1","csc":10,"cmd":{"cmdClassID":9}}}`:              tef.CommandClassNotSupported,
	} {
		b := newBench(t)
		b.answer, b.loseAfter = answer, 1 // one command, and no answer to its report
		if _, err := b.obey(); !errors.Is(err, errDown) {
			t.Errorf("%s: %v", answer, err)
		}
		if b.commander.Memory.Status != want || b.performed != nil {
			t.Errorf("%s: status %d, performed %v", answer, b.commander.Memory.Status, b.performed)
		}
	}
}

func TestMemoryThatFailsStopsTheExchange(t *testing.T) {
	b := newBench(t)
	b.queue("1", node("./a"))
	b.commander.Remember = func(context.Context, enrolee.CommandMemory) error { return errDown }
	if _, err := b.obey(); !errors.Is(err, errDown) {
		t.Errorf("%v", err)
	}
	b.wantReported("nothing", tef.CommandIssued)
}
