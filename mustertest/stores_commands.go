package mustertest

import (
	"reflect"
	"strconv"
	"testing"
	"time"

	"muster"
	"muster/tef"
)

// CommandStore holds a store to the contract of tef.CommandStore.
func CommandStore[S tef.CommandStore](t *testing.T, open func(testing.TB) (S, func() S)) {
	for name, test := range map[string]func(commandCase){
		"commands are issued in their order":       commandCase.order,
		"a command is issued until it is reported": commandCase.reissue,
		"queueing again changes nothing":           commandCase.replay,
		"only the issued command is reported":      commandCase.report,
		"queues are apart":                         commandCase.apart,
		"every class is kept":                      commandCase.classes,
		"sweeping forgets what was reported":       commandCase.sweep,
		"everything survives a restart":            commandCase.restart,
		"one of many reports counts":               commandCase.raceReport,
		"one of many first issues is the first":    commandCase.raceIssue,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, reopen := open(t)
			test(commandCase{t, store, func() tef.CommandStore { return reopen() }})
		})
	}
}

type commandCase struct {
	*testing.T
	store  tef.CommandStore
	reopen func() tef.CommandStore
}

const queue = "registration-1"

func (c commandCase) function() muster.FQDN { return fqdn(c, "mef.example.org") }

// command returns the nth command of a queue.
func (c commandCase) command(n int) tef.QueuedCommand {
	c.Helper()
	return tef.QueuedCommand{
		Function: c.function(), Registration: queue, Created: start(), Changed: start(),
		Command: tef.Command{ID: strconv.Itoa(n), Description: tef.CommandDescription{
			Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "./" + strconv.Itoa(n), Type: tef.NodeTrustAnchor},
		}},
	}
}

func (c commandCase) mustQueue(n int) {
	c.Helper()
	wantError(c, "queue", c.store.QueueCommand(c.Context(), c.command(n)), nil)
}

func (c commandCase) wantIssued(what string, n int, status tef.CommandStatus) {
	c.Helper()
	got, err := c.store.IssueCommand(c.Context(), c.function(), queue, start().Add(hour))
	if n < 0 {
		wantError(c, what, err, tef.ErrUnknown)
		return
	}
	wantError(c, what, err, nil)
	want := c.command(n)
	want.Status, want.Changed = status, start().Add(hour)
	if !reflect.DeepEqual(got, want) {
		c.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func (c commandCase) reportAt(n int, after time.Duration) error {
	return c.store.ReportCommand(c.Context(), c.function(), queue, strconv.Itoa(n), tef.CommandOK, start().Add(after))
}

func (c commandCase) wantPending(what string, want bool) {
	c.Helper()
	got, err := c.store.CommandPending(c.Context(), c.function(), queue)
	wantError(c, what, err, nil)
	if got != want {
		c.Errorf("%s: pending is %t", what, got)
	}
}

func (c commandCase) order() {
	c.wantPending("an empty queue", false)
	c.wantIssued("an empty queue", -1, 0)
	for _, n := range []int{2, 1, 3} {
		c.mustQueue(n)
	}
	c.wantPending("three in the queue", true)
	for _, n := range []int{2, 1, 3} {
		c.wantIssued("in the order of queueing", n, tef.CommandIssued)
		c.wantPending("issued and not reported", true)
		wantError(c, "report", c.reportAt(n, hour), nil)
	}
	c.wantPending("all reported", false)
	c.wantIssued("all reported", -1, 0)
	all, err := c.store.Commands(c.Context(), c.function(), queue)
	wantError(c, "all", err, nil)
	if len(all) != 3 || all[0].ID != "2" || all[1].ID != "1" || all[2].ID != "3" || all[0].Status != tef.CommandOK {
		c.Errorf("the queue holds %v", all)
	}
}

func (c commandCase) reissue() {
	c.mustQueue(1)
	c.mustQueue(2)
	c.wantIssued("first", 1, tef.CommandIssued)
	c.wantIssued("again", 1, tef.CommandReissued)
	c.wantIssued("and again", 1, tef.CommandReissued)
	wantError(c, "report", c.reportAt(1, hour), nil)
	c.wantIssued("the next", 2, tef.CommandIssued)
}

func (c commandCase) replay() {
	c.mustQueue(1)
	c.wantIssued("first", 1, tef.CommandIssued)
	c.mustQueue(1)
	c.wantIssued("after a replay", 1, tef.CommandReissued)
	changed := c.command(1)
	changed.Description.Node.Path = "./x"
	wantError(c, "another command with the identifier", c.store.QueueCommand(c.Context(), changed), tef.ErrConflict)
	wantError(c, "report", c.reportAt(1, hour), nil)
	c.mustQueue(1)
	c.wantPending("a replay of what was reported", false)
	broken := c.command(2)
	broken.Description = tef.CommandDescription{Class: tef.ClassDevice}
	if err := c.store.QueueCommand(c.Context(), broken); err == nil {
		c.Error("a description without arguments was queued")
	}
}

func (c commandCase) report() {
	c.mustQueue(1)
	c.mustQueue(2)
	wantError(c, "before it was issued", c.reportAt(1, 0), tef.ErrUnknown)
	c.wantIssued("first", 1, tef.CommandIssued)
	wantError(c, "one that is not issued", c.reportAt(2, 0), tef.ErrUnknown)
	wantError(c, "one that does not exist", c.reportAt(9, 0), tef.ErrUnknown)
	wantError(c, "the issued one", c.reportAt(1, 0), nil)
	wantError(c, "the same again", c.reportAt(1, 0), tef.ErrUnknown)
	c.wantIssued("the next", 2, tef.CommandIssued)
}

func (c commandCase) apart() {
	other := c.command(1)
	other.Registration = "registration-2"
	elsewhere := c.command(1)
	elsewhere.Function = fqdn(c, "mef.example.net")
	for _, command := range []tef.QueuedCommand{other, elsewhere} {
		wantError(c, "queue", c.store.QueueCommand(c.Context(), command), nil)
	}
	c.wantPending("the queues of others", false)
	c.wantIssued("the queues of others", -1, 0)
	c.mustQueue(2)
	c.wantIssued("its own", 2, tef.CommandIssued)
}

func (c commandCase) classes() {
	for n, d := range []tef.CommandDescription{
		{Class: tef.ClassNoMore, NoMore: &tef.NoMoreCommands{RetryAfter: 90 * time.Second}},
		{Class: tef.ClassCertificate, Target: "//sp.example.org/é", Certificate: &tef.CertificateProvisioning{
			Protocol: tef.ProtocolEST, URI: "https://mef.example.org/.well-known/est", SubjectType: tef.SubjectAE, SubjectID: "//sp.example.org/a"}},
		{Class: tef.ClassDevice, Device: &tef.DeviceConfiguration{URI: "3:coaps://mef.example.org"}},
		{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "./a", Type: tef.NodeAuthenticationProfile, Usage: 21}},
	} {
		command := c.command(n)
		command.Description = d
		wantError(c, "queue", c.store.QueueCommand(c.Context(), command), nil)
		got, err := c.store.IssueCommand(c.Context(), c.function(), queue, start())
		wantError(c, "issue", err, nil)
		if !reflect.DeepEqual(got.Description, d) {
			c.Errorf("class %d:\n got %+v\nwant %+v", d.Class, got.Description, d)
		}
		wantError(c, "report", c.reportAt(n, 0), nil)
	}
}

func (c commandCase) sweep() {
	for n := range 25 {
		c.mustQueue(n)
		c.wantIssued("issue", n, tef.CommandIssued)
		if n < 24 {
			wantError(c, "report", c.reportAt(n, time.Duration(n)*hour), nil)
		}
	}
	for _, step := range []struct {
		until       time.Duration
		limit, want int
	}{
		{10*hour - time.Second, plenty, 10}, {10 * hour, plenty, 1}, {10 * hour, plenty, 0},
		{99 * hour, 0, 0}, {99 * hour, 10, 10}, {99 * hour, 10, 3}, {99 * hour, 10, 0},
	} {
		n, err := c.store.SweepCommands(c.Context(), start().Add(step.until), step.limit)
		wantError(c, "sweep", err, nil)
		if n != step.want {
			c.Errorf("until %s, limit %d: %d swept, want %d", step.until, step.limit, n, step.want)
		}
	}
	c.wantIssued("what was not reported stays", 24, tef.CommandReissued)
}

func (c commandCase) restart() {
	c.mustQueue(1)
	c.mustQueue(2)
	c.wantIssued("first", 1, tef.CommandIssued)
	c.store = c.reopen()
	c.wantIssued("after the restart", 1, tef.CommandReissued)
	wantError(c, "report", c.reportAt(1, hour), nil)
	c.wantIssued("the next", 2, tef.CommandIssued)
}

func (c commandCase) raceReport() {
	c.mustQueue(1)
	c.wantIssued("first", 1, tef.CommandIssued)
	reported := make([]bool, 100)
	race(len(reported), func(i int) {
		err := c.reportAt(1, hour)
		if reported[i] = err == nil; !reported[i] {
			wantError(c, "not the first", err, tef.ErrUnknown)
		}
	})
	c.wantOne("reports", reported)
}

func (c commandCase) raceIssue() {
	c.mustQueue(1)
	first := make([]bool, 100)
	race(len(first), func(i int) {
		got, err := c.store.IssueCommand(c.Context(), c.function(), queue, start())
		wantError(c, "issue", err, nil)
		first[i] = got.Status == tef.CommandIssued
	})
	c.wantOne("first issues", first)
}

func (c commandCase) wantOne(what string, happened []bool) {
	c.Helper()
	n := 0
	for _, did := range happened {
		if did {
			n++
		}
	}
	if n != 1 {
		c.Errorf("%d %s, not one", n, what)
	}
}
