package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"muster"
)

// A table is a page of a list.
type table struct {
	Lead    string // what the list has
	Filters []filter
	Columns []string
	Rows    [][]cell
	First   string // address of the first page, if this is another
	Next    string // and of the one that follows
	Missing bool   // a filter is, so that there is no list
	New     string // address of the form for a new item, if the caller may use it
}

// Numeric reports whether a column has numbers.
func (t table) Numeric(column int) bool {
	return len(t.Rows) > 0 && column < len(t.Rows[0]) && t.Rows[0][column].Class == "number"
}

// A filter is a parameter of a list.
type filter struct {
	Name, Label, Hint string
	Choices           []string // all there are; nil for any text
	Required          bool     // without it there is no list
	Value             string
}

// A cell is one text or time, with where it leads to.
type cell struct {
	Text, Path string
	Class      string
	Full       string // what Text is the beginning of
	Time       time.Time
}

func text(s string) cell   { return cell{Text: s} }
func number(n int64) cell  { return cell{Text: fmt.Sprint(n), Class: "number"} }
func at(t time.Time) cell  { return cell{Time: t} }
func state(s string) cell  { return cell{Text: s, Class: "state"} }
func code(s string) cell   { return cell{Text: s, Class: "code"} }
func digest(s string) cell { return cell{Text: short(s), Full: s, Class: "code"} }
func link(to, s string) cell {
	return cell{Text: short(s), Full: s, Path: to + url.PathEscape(s), Class: "code"}
}
func joined(list []string) cell { return cell{Text: strings.Join(list, ", ")} }
func anyEnrolee() filter {
	return filter{Name: "enrolee", Label: "Enrolee begins with", Hint: "//sp.example/"}
}
func exactly(name, label string) filter { return filter{Name: name, Label: label} }

// tabled returns the page of a list.
func tabled[T any](at, menu, group, lead string, a access, of func(*Sources) List[T], filters []filter, columns []string, row func(*Server, T) []cell) page {
	return page{
		method: "GET", path: at, menu: menu, group: group, access: a,
		has: func(s *Sources) bool { return of(s) != nil },
		show: func(s *Server, who caller, r *http.Request) (view, error) {
			t := table{Lead: lead, Columns: columns}
			items, err := listOf(r, who, of(&s.config.Sources), &t, filters)
			for _, item := range items {
				t.Rows = append(t.Rows, row(s, item))
			}
			if at == "/instructions" && changing.allows(who) {
				t.New = "/instructions/new"
			}
			return view{template: "list", title: menu, data: t}, err
		},
	}
}

// listOf returns the items that the address of a page asks for, and sets how t leads
// to others.
func listOf[T any](r *http.Request, who caller, list List[T], t *table, filters []filter) ([]T, error) {
	var names []string
	for _, f := range filters {
		names = append(names, f.Name)
	}
	q, err := queryOf(r, names...)
	if err != nil {
		return nil, err
	}
	kept := url.Values{}
	for _, f := range filters {
		f.Value = strings.TrimSpace(q.Filter[f.Name])
		if delete(q.Filter, f.Name); f.Value != "" {
			q.Filter[f.Name] = f.Value
			kept.Set(f.Name, f.Value)
		}
		t.Missing = t.Missing || f.Required && f.Value == ""
		t.Filters = append(t.Filters, f)
	}
	if t.Missing {
		return nil, nil
	}
	if q.Limit != defaultLimit {
		kept.Set("limit", fmt.Sprint(q.Limit))
	}
	page, err := read(r.Context(), who, q, list)
	if q.After != "" {
		t.First = r.URL.Path + "?" + kept.Encode()
	}
	if page.Next != "" {
		kept.Set("after", page.Next)
		t.Next = r.URL.Path + "?" + kept.Encode()
	}
	return page.Items, err
}

func enrolmentsPage() page {
	return tabled("/enrolments", "Enrolments", "Devices", "Each enrolment, once for each of its targets; the keys themselves are never shown.", looking,
		func(s *Sources) List[Enrolment] { return s.Enrolments }, []filter{anyEnrolee(), exactly("ke_id", "KeID")},
		[]string{"KeID", "Enrolee", "Target", "State", "Created", "Expires", "Fetches"},
		func(_ *Server, e Enrolment) []cell {
			return []cell{link("/enrolments/", e.KeID), text(e.EnroleeID), text(e.MAF), state(e.State), at(e.Created), at(e.Expires), number(int64(e.Fetches))}
		})
}

func credentialsPage() page {
	return tabled("/credentials", "Credentials", "Devices", "The Master Credentials of attached Enrolees, by KmID; never Km.", looking,
		func(s *Sources) List[Credential] { return s.Credentials }, []filter{anyEnrolee(), exactly("km_id", "KmID"), exactly("ke_id", "KeID")},
		[]string{"KmID", "KeID", "Enrolee", "State", "Created", "Expires", "KeID accepted until"},
		func(_ *Server, c Credential) []cell {
			return []cell{digest(c.KmID), digest(c.KeID), text(c.EnroleeID), state(c.State), at(c.Created), at(c.Expires), at(c.KeIDUntil)}
		})
}

func registrationsPage() page {
	return tabled("/registrations", "Registrations", "Devices", "Clients that registered with an administrating stakeholder.", looking,
		func(s *Sources) List[Registration] { return s.Registrations },
		[]filter{{Name: "client", Label: "Client begins with", Hint: "//sp.example/"}, exactly("stakeholder", "Stakeholder")},
		[]string{"Client", "Stakeholder", "KmID", "Labels", "Created", "Modified", "Expires"},
		func(s *Server, r Registration) []cell {
			client := text(r.ClientID)
			if s.config.Commands != nil {
				client.Path = commandsOf(r.ClientID, r.Stakeholder)
			}
			return []cell{client, text(r.Stakeholder), digest(r.KmID), joined(r.Labels), at(r.Created), at(r.Modified), at(r.Expires)}
		})
}

func keysPage() page {
	return tabled("/keys", "Keys", "Devices", "Registered keys: what is known of them but for their values.", looking,
		func(s *Sources) List[Key] { return s.Keys }, []filter{{Name: "source", Label: "Source begins with", Hint: "//sp.example/"}},
		[]string{"Key", "Source", "Stakeholder", "Usage", "Targets", "Labels", "Fetches", "Created", "Expires"},
		func(_ *Server, k Key) []cell {
			return []cell{digest(k.ID), text(k.Source), text(k.Stakeholder), text(k.Usage), joined(k.Targets), joined(k.Labels), number(int64(k.Fetches)), at(k.Created), at(k.Expires)}
		})
}

func instructionsPage() page {
	return tabled("/instructions", "Instructions", "Rules", "Which certificates and keys lead to which Enrolees, and for which targets.", looking,
		ruled((*Sources).instructions), []filter{anyEnrolee(), {Name: "origin", Label: "Origin", Choices: []string{FromConfiguration, FromOperators}}},
		[]string{"Instruction", "Known by", "Enrolee", "Targets", "Lifetime", "Origin"},
		func(_ *Server, in Instruction) []cell {
			known := in.Flavour + " " + in.Name + in.Pattern
			if len(in.KpmIDs) > 0 {
				known = "pre-provisioned keys"
			}
			return []cell{link("/instructions/", in.ID), text(known), text(in.EnroleeID + in.Template), joined(in.Targets), text(lifetime(in.Lifetime)), text(in.Origin)}
		})
}

func refusalsPage() page {
	return tabled("/refusals", "Refusals", "Evidence", "Chains that were refused, the newest first. Each can be judged again, and explained.", lookingAt,
		func(s *Sources) List[Refusal] { return s.Refusals }, nil,
		[]string{"Refusal", "Time", "Code", "Detail", "From", "Transport", "Certificate"},
		func(_ *Server, r Refusal) []cell {
			return []cell{link("/refusals/", r.ID), at(r.Time), code(string(r.Code)), text(detail(r)), text(r.Remote), text(r.Transport), digest(r.Certificate)}
		})
}

// An auditEntry is what a page shows of an entry of the audit log.
type auditEntry struct {
	Seq     uint64      `json:"seq"`
	Time    time.Time   `json:"time"`
	Kind    string      `json:"kind"`
	Who     string      `json:"who"`
	What    string      `json:"what"`
	Rule    string      `json:"rule"`
	Enrolee string      `json:"enrolee"`
	KeID    string      `json:"ke_id"`
	Code    muster.Code `json:"code"`
	Hash    string      `json:"hash"`
}

func auditPage() page {
	return tabled("/audit", "Audit", "Evidence", "The audit log, the newest entry first. Each entry's hash is over the one before; muster audit verify follows the chain.", auditing,
		newestAudit, nil,
		[]string{"Number", "Time", "Kind", "Who", "What", "Enrolee", "KeID", "Code", "Hash"},
		func(_ *Server, raw json.RawMessage) []cell {
			var e auditEntry
			if err := json.Unmarshal(raw, &e); err != nil {
				return []cell{{Text: "an entry that cannot be read: " + err.Error(), Class: "bad"}}
			}
			what := e.What
			if e.Rule != "" {
				what += " (" + e.Rule + ")"
			}
			return []cell{number(int64(e.Seq)), at(e.Time), state(e.Kind), party(e.Who), text(what), text(e.Enrolee), digest(e.KeID), code(string(e.Code)), digest(e.Hash)}
		})
}

// party shortens the digest by which a certificate is called that names nobody.
func party(who string) cell {
	if digest, ok := strings.CutPrefix(who, "certificate "); ok {
		return cell{Text: "certificate " + short(digest), Full: who}
	}
	return text(who)
}

// newestAudit returns the audit log, or nil if there is none, as it is looked at.
func newestAudit(s *Sources) List[json.RawMessage] {
	if s.Audit == nil {
		return nil
	}
	return func(ctx context.Context, q Query) (Page[json.RawMessage], error) {
		q.Filter["order"] = "newest"
		return s.Audit(ctx, q)
	}
}

// detail returns the detail of a refusal without the code that it begins with.
func detail(r Refusal) string { return strings.TrimPrefix(r.Detail, string(r.Code)+": ") }

// A refusalView is a refusal with its explanation.
type refusalView struct {
	Refusal
	Meaning     muster.CodeMeaning
	Explanation *explanation
	Offers      []muster.CertName // for which the caller may write an instruction
}

// An explanation is what the function says about the chain of a refusal, as muster
// explain prints it.
type explanation struct {
	Accepted bool        `json:"accepted"`
	Code     muster.Code `json:"code"`
	Time     time.Time   `json:"time"`
	Subject  string      `json:"subject"`
	Names    []string    `json:"names"`
	Findings []struct {
		Level   string      `json:"level"`
		Code    muster.Code `json:"code"`
		Subject string      `json:"subject"`
		Detail  string      `json:"detail"`
		Rule    string      `json:"rule"`
		Remedy  string      `json:"remedy"`
	} `json:"findings"`
	Rule      string   `json:"rule"`
	EnroleeID string   `json:"enroleeID"`
	Targets   []string `json:"targets"`
	Nearest   *struct {
		Rule    string   `json:"rule"`
		Differs string   `json:"differs"`
		Anchors []string `json:"anchors"`
	} `json:"nearest"`
}

func (s *Server) showRefusal(who caller, r *http.Request) (view, error) {
	found, err := find(r.Context(), who, s.config.Refusals, func(f Refusal) bool { return f.ID == r.PathValue("id") })
	if err != nil {
		return view{}, err
	}
	if found == nil {
		return view{}, unknown("refusal", r.PathValue("id"))
	}
	shown := refusalView{Refusal: *found}
	shown.Detail = detail(*found)
	shown.Meaning, _ = found.Code.Meaning()
	v := view{template: "refusal", title: "Refusal " + short(found.ID), data: &shown}
	if s.config.Explain == nil {
		return v, nil
	}
	raw, err := s.config.Explain(r.Context(), found.ID)
	if err == nil {
		err = json.Unmarshal(raw, &shown.Explanation)
	}
	// Where a rule matched, as for who is banned, another is not what is missing.
	if err != nil || shown.Explanation.Accepted || shown.Explanation.Rule != "" || s.config.Rules == nil || !changing.allows(who) {
		return v, err
	}
	for _, name := range shown.Explanation.Names {
		flavour, text, _ := strings.Cut(name, ":")
		shown.Offers = append(shown.Offers, muster.CertName{Flavour: muster.Flavour(flavour), Text: text})
	}
	return v, nil
}

// find returns the first item of a list that is wanted, or nil.
func find[T any](ctx context.Context, who caller, list List[T], wanted func(T) bool) (*T, error) {
	for q := (Query{Limit: maxLimit}); ; {
		page, err := read(ctx, who, q, list)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if wanted(page.Items[i]) {
				return &page.Items[i], nil
			}
		}
		if q.After = page.Next; q.After == "" {
			return nil, nil
		}
	}
}

// errNoEnrolment is for a KeID that nothing is kept of.
var errNoEnrolment = errors.New("nothing is kept of it")

// An enrolmentView is an enrolment with what became of it at each target.
type enrolmentView struct {
	Enrolment      // of the first target
	PreProvisioned bool
	Tracks         []track
	Now            time.Time
	May            bool // pass a verdict
	MayQueue       bool // a command
}

// A track is what became of an enrolment at one target.
type track struct {
	Enrolment
	Steps []step
}

// A step is one of the figure: what is done, what is awaited, or what will not be.
type step struct {
	Number, Class string // done, awaited or ended
	Title, Detail string
	Time          *time.Time
}

func (s *Server) showEnrolment(who caller, r *http.Request) (view, error) {
	id := r.PathValue("id")
	page, err := read(r.Context(), who, Query{Limit: maxLimit, Filter: map[string]string{"ke_id": id}}, s.config.Enrolments)
	if err != nil {
		return view{}, err
	}
	shown := enrolmentView{Now: s.config.Now(), May: s.config.Rules != nil && governing.allows(who), MayQueue: s.config.Commands != nil && s.config.Queue != nil && changing.allows(who)}
	for _, e := range page.Items {
		if e.KeID == id {
			shown.Tracks = append(shown.Tracks, track{e, stepsOf(e)})
		}
	}
	if len(shown.Tracks) == 0 {
		return view{}, muster.Refuse(muster.CodeResourceUnknown, "there is no enrolment %s: %w", id, errNoEnrolment)
	}
	shown.Enrolment = shown.Tracks[0].Enrolment
	shown.PreProvisioned = strings.Trim(shown.Certificate, "0") == ""
	return view{template: "enrolment", title: "Enrolment " + short(id), data: shown}, nil
}

// stepsOf returns steps 3 to 5 of the figure, as far as a MEF sees them.
func stepsOf(e Enrolment) []step {
	fetched := step{Number: "3, 4", Class: "awaited", Title: "Waits for " + e.MAF + " to fetch Km", Detail: "It asks when the device opens (D)TLS-PSK to it under the KeID."}
	if e.Fetched != nil {
		times := "once"
		if e.Fetches > 1 {
			times = fmt.Sprint(e.Fetches, " times")
		}
		fetched = step{Number: "3, 4", Class: "done", Title: e.MAF + " fetched Km, " + times, Detail: "The device opened (D)TLS-PSK under the KeID; inside that handshake the MAF got Km, the Enrolee-ID and the lifetime. Ke never left the MEF.", Time: e.Fetched}
	}
	last := step{Number: "5", Class: "awaited", Title: "The registration is between device and MAF", Detail: "With it the device learns the KmID, which the MAF lists. Ke is kept until the MAF confirms it or its window ends, so that a lost answer can be repeated."}
	over := true
	switch e.State {
	case "erased":
		last = step{Number: "5", Class: "done", Title: "Ke is erased for this target", Detail: "The MAF confirmed that it has the key, or the window to fetch it ended. What remains is a tombstone, so that the KeID never comes back."}
	case "superseded":
		last = step{Number: "5", Class: "ended", Title: "Superseded by a newer enrolment of the Enrolee", Detail: "Its key for this target is erased."}
	case "expired":
		last = step{Number: "5", Class: "ended", Title: "Expired", Detail: "Its key for this target is erased. The device enrols again."}
	default:
		over = false
	}
	if over && e.Fetched == nil {
		fetched.Class, fetched.Title, fetched.Detail = "ended", e.MAF+" never fetched Km", ""
	}
	return []step{fetched, last}
}
