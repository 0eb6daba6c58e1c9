package console

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"muster"
)

// What the overview warns of, and how much it shows.
const (
	expiresSoon     = 30 * 24 * time.Hour
	maxCertificates = 6
	maxReasons      = 8
)

// eventKinds are the kinds of events that the feed shows.
const eventKinds = "started stopped enrolled attached fetched read refused changed rules-replaced admin"

// An overviewView is an Overview as a page shows it.
type overviewView struct {
	Overview
	Ready        bool
	Failing      []failing
	Numbers      []figure
	Charts       []chart
	Certificates []expiring
	Reasons      []reason
	Feed         bool
	Kinds        string
}

// A failing check, with what to do.
type failing struct {
	Check
	Remedy string
}

// A figure counts one kind of act.
type figure struct {
	Title            string
	Hour, Day, Total uint64
}

type expiring struct {
	Certificate
	Class string
}

// A reason is why chains or peers were refused, and how often.
type reason struct {
	muster.CodeMeaning
	Count uint64
	Share string // of the most frequent
}

func (s *Server) showOverview(who caller, r *http.Request) (view, error) {
	if !lookingAt.allows(who) {
		return s.firstPage(who)
	}
	o, err := s.config.Overview(r.Context())
	if err != nil {
		return view{}, err
	}
	kinds := seriesOf(o.Role)
	shown := overviewView{
		Overview: o, Feed: s.config.Events != nil, Kinds: eventKinds, Reasons: reasonsOf(o.Totals),
		Charts: []chart{
			newChart("hour", "The last hour, by minute", o.Minutes, time.Minute, 10*time.Minute, kinds),
			newChart("day", "The last day, by quarter of an hour", o.Quarters, 15*time.Minute, 4*time.Hour, kinds),
		},
	}
	for _, c := range o.Checks {
		if !c.OK {
			meaning, _ := c.Code.Meaning()
			shown.Failing = append(shown.Failing, failing{c, meaning.Remedy})
		}
	}
	shown.Ready = len(shown.Failing) == 0
	for _, k := range kinds {
		n := figure{Title: k.Title, Total: o.Totals[k.Name]}
		for _, b := range o.Minutes {
			n.Hour += k.of(b)
		}
		for _, b := range o.Quarters {
			n.Day += k.of(b)
		}
		shown.Numbers = append(shown.Numbers, n)
	}
	for _, c := range o.Certificates[:min(len(o.Certificates), maxCertificates)] {
		class := "good"
		if left := c.NotAfter.Sub(o.Now); left <= 0 {
			class = "bad"
		} else if left < expiresSoon {
			class = "warn"
		}
		shown.Certificates = append(shown.Certificates, expiring{c, class})
	}
	return view{template: "overview", title: "Overview", data: shown}, nil
}

// reasonsOf ranks the codes of refusals.
func reasonsOf(totals map[string]uint64) (reasons []reason) {
	for name, n := range totals {
		if code, ok := strings.CutPrefix(name, "refused/"); ok {
			meaning, _ := muster.Code(code).Meaning()
			meaning.Code = muster.Code(code)
			reasons = append(reasons, reason{CodeMeaning: meaning, Count: n})
		}
	}
	slices.SortFunc(reasons, func(a, b reason) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code))
	})
	reasons = reasons[:min(len(reasons), maxReasons)]
	for i := range reasons {
		reasons[i].Share = percent(100 * float64(reasons[i].Count) / float64(reasons[0].Count))
	}
	return reasons
}
