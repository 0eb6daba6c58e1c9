package mef_test

import (
	"testing"

	"muster"
	"muster/mef"
	"muster/tef"
)

func trustAnchor(path string) tef.CommandDescription {
	return tef.CommandDescription{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: path, Type: tef.NodeTrustAnchor}}
}

// An operator queues for a client that may register later, and for those of a
// group that are registered.
func TestQueueCommand(t *testing.T) {
	s, _, _, _, _ := keyScene(t) // one is registered, two is not
	for range 2 {                // the second time is a replay
		for name, to := range map[string]mef.Recipients{
			"for-two": {AdminFQDN: admin(), Enrolee: enroleeID("two")},
			"for-all": {AdminFQDN: admin(), Prefix: "//sp.example.com/"},
		} {
			if n, err := s.function.QueueCommand(t.Context(), to, name, trustAnchor("./a"), s.now); n != 1 || err != nil {
				t.Errorf("%s: queued for %d clients, %v", name, n, err)
			}
		}
	}
	if n, err := s.function.QueueCommand(t.Context(), mef.Recipients{AdminFQDN: admin(), Prefix: "//sp.example.com/t"}, "none", trustAnchor("./a"), s.now); n != 0 || err != nil {
		t.Errorf("a group of none: queued for %d clients, %v", n, err)
	}
	for name, id := range map[string]string{"one": "for-all", "two": "for-two"} {
		queue := must(s.function.Commands(t.Context(), enroleeID(name), admin()))
		if len(queue) != 1 || queue[0].ID != id || queue[0].Description.Node.Path != "./a" {
			t.Errorf("%s has %+v", name, queue)
		}
	}
}

func TestQueueCommandRefuses(t *testing.T) {
	s, _, _, _, _ := keyScene(t)
	one := mef.Recipients{AdminFQDN: admin(), Enrolee: enroleeID("one")}
	group := mef.Recipients{AdminFQDN: admin(), Prefix: "//sp.example.com/"}
	must(s.function.QueueCommand(t.Context(), one, "taken", trustAnchor("./a"), s.now))
	for what, c := range map[string]struct {
		to   mef.Recipients
		id   string
		d    tef.CommandDescription
		want muster.Code
	}{
		"no stakeholder":             {mef.Recipients{Enrolee: enroleeID("one")}, "x", trustAnchor("./a"), muster.CodeRequestMalformed},
		"nobody":                     {mef.Recipients{AdminFQDN: admin()}, "x", trustAnchor("./a"), muster.CodeRequestMalformed},
		"one and a group":            {mef.Recipients{AdminFQDN: admin(), Enrolee: enroleeID("one"), Prefix: "//sp.example.com/"}, "x", trustAnchor("./a"), muster.CodeRequestMalformed},
		"a prefix of no identifier":  {mef.Recipients{AdminFQDN: admin(), Prefix: "sp.example.com/"}, "x", trustAnchor("./a"), muster.CodeRequestMalformed},
		"no identifier":              {group, "", trustAnchor("./a"), muster.CodeRequestMalformed},
		"no arguments":               {group, "x", tef.CommandDescription{Class: tef.ClassNode}, muster.CodeRequestMalformed},
		"an identifier that is used": {one, "taken", trustAnchor("./b"), muster.CodeCommandConflict},
		"the same for a group":       {group, "taken", trustAnchor("./b"), muster.CodeCommandConflict},
	} {
		_, err := s.function.QueueCommand(t.Context(), c.to, c.id, c.d, s.now)
		if got := muster.CodeOf(err); got != c.want {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
	if queue := must(s.function.Commands(t.Context(), enroleeID("one"), admin())); len(queue) != 1 {
		t.Errorf("refused commands have changed the queue: %+v", queue)
	}
}
