package console

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"muster"
)

// flavours are those of the names that an instruction or a verdict may have.
var flavours = []muster.Flavour{muster.FlavourFQDN, muster.FlavourDevice, muster.FlavourNodeID, muster.FlavourCSEID, muster.FlavourAEID, muster.FlavourRawKey}

// An instructionForm is an instruction that is looked at, made or changed.
type instructionForm struct {
	Instruction
	New      bool
	May      bool   // be changed by the caller
	Tag      string // of the instruction as it is seen
	Known    []anchorChoice
	Flavours []muster.Flavour
	Statuses []string
}

type anchorChoice struct {
	Anchor
	Chosen bool
}

// formOf reads the form of a request.
func formOf(r *http.Request) (url.Values, error) {
	if err := r.ParseForm(); err != nil {
		return nil, muster.Refuse(muster.CodeRequestMalformed, "the form: %w", err)
	}
	return r.PostForm, nil
}

// field returns what was entered, without space around it.
func field(form url.Values, name string) string { return strings.TrimSpace(form.Get(name)) }

// list returns what was entered line by line.
func list(form url.Values, name string) []string { return strings.Fields(form.Get(name)) }

// instructionView shows an instruction in its form.
func (s *Server) instructionView(r *http.Request, who caller, in Instruction, isNew bool) (view, error) {
	all, err := s.config.rules(r.Context())
	if err != nil {
		return view{}, err
	}
	f := instructionForm{
		Instruction: in, New: isNew, May: changing.allows(who) && (isNew || in.Origin == FromOperators),
		Flavours: flavours, Statuses: []string{"hard", "soft", "off"},
	}
	for _, a := range all.Anchors {
		f.Known = append(f.Known, anchorChoice{a, slices.Contains(in.Anchors, a.ID)})
	}
	title := "New instruction"
	if !isNew {
		title = "Instruction " + short(in.ID)
	}
	return view{template: "instruction", title: title, data: &f}, nil
}

func (s *Server) newInstruction(who caller, r *http.Request) (view, error) {
	query := r.URL.Query()
	return s.instructionView(r, who, Instruction{Flavour: query.Get("flavour"), Name: query.Get("name"), Lifetime: "24h"}, true)
}

func (s *Server) showInstruction(who caller, r *http.Request) (view, error) {
	in, err := s.instruction(r.Context(), who, ref{id: r.PathValue("id")})
	if err != nil {
		return view{}, err
	}
	v, err := s.instructionView(r, who, in, false)
	if err == nil {
		err = tagView(v, in)
	}
	return v, err
}

// tagView remembers in the form what the instruction was like when it was shown.
func tagView(v view, in Instruction) error {
	body, err := json.Marshal(in)
	v.data.(*instructionForm).Tag = tagOf(body)
	return err
}

// postInstruction creates an instruction, or replaces the one in the path: all of it
// but by what its Enrolees are known.
func (s *Server) postInstruction(who caller, r *http.Request) (view, error) {
	form, err := formOf(r)
	if err != nil {
		return view{}, err
	}
	in := Instruction{
		Flavour: field(form, "flavour"), Name: field(form, "name"), Pattern: field(form, "pattern"), Anchors: form["anchors"], KpmIDs: list(form, "kpm_ids"),
	}
	seen, done := ref{r.PathValue("id"), form.Get("tag")}, "created"
	if seen.id != "" {
		if in, err = s.instruction(r.Context(), who, seen); err != nil {
			return view{}, err
		}
		done = "changed"
	}
	in.EnroleeID, in.Template, in.Targets = field(form, "enrolee_id"), field(form, "template"), list(form, "targets")
	in.Lifetime, in.Status = field(form, "lifetime"), field(form, "status")
	entered := in // as it was
	if len(in.KpmIDs) > 0 && in.Name+in.Pattern == "" {
		in.Flavour = "" // what the form begins with
	}
	if seen.id == "" {
		in, err = s.createInstruction(r.Context(), who, in)
	} else {
		in, err = s.replaceInstruction(r.Context(), who, seen, in)
	}
	if err == nil {
		return view{to: "/instructions/" + url.PathEscape(in.ID) + "?done=" + done}, nil
	}
	v, failed := s.instructionView(r, who, entered, seen.id == "")
	if failed != nil {
		return view{}, failed
	}
	v.data.(*instructionForm).Tag = seen.tag
	return v, err
}

func (s *Server) postDeletion(who caller, r *http.Request) (view, error) {
	form, err := formOf(r)
	if err != nil {
		return view{}, err
	}
	seen := ref{r.PathValue("id"), form.Get("tag")}
	if _, err = s.deleteInstruction(r.Context(), who, seen); err == nil {
		return view{to: "/instructions?done=deleted"}, nil
	}
	in, failed := s.instruction(r.Context(), who, seen)
	if failed != nil {
		return view{}, err // what refused the deletion
	}
	v, failed := s.instructionView(r, who, in, false)
	if failed != nil {
		return view{}, failed
	}
	return v, err
}

// An anchorsView lists anchors, with a form for another.
type anchorsView struct {
	table
	Anchors []Anchor
	May     bool
	PEM     string // as it was entered
	Now     time.Time
}

func (s *Server) showAnchors(who caller, r *http.Request) (view, error) {
	shown := anchorsView{May: trusting.allows(who), Now: s.config.Now()}
	var err error
	shown.Anchors, err = listOf(r, who, ruled((*Sources).anchors)(&s.config.Sources), &shown.table, nil)
	return view{template: "anchors", title: "Anchors", data: &shown}, err
}

func (s *Server) postAnchor(who caller, r *http.Request) (view, error) {
	form, err := formOf(r)
	if err != nil {
		return view{}, err
	}
	order := AnchorOrder{form.Get("pem")}
	if _, err = s.addAnchor(r.Context(), who, order); err == nil {
		return view{to: "/anchors?done=added"}, nil
	}
	v, failed := s.showAnchors(who, r)
	if failed != nil {
		return view{}, failed
	}
	v.data.(*anchorsView).PEM = order.PEM
	return v, err
}

func (s *Server) postDistrust(who caller, r *http.Request) (view, error) {
	if _, err := s.deleteAnchor(r.Context(), who, ref{id: r.PathValue("id")}); err != nil {
		v, failed := s.showAnchors(who, r)
		if failed != nil {
			return view{}, failed
		}
		return v, err
	}
	return view{to: "/anchors?done=distrusted"}, nil
}

// A verdictsView lists verdicts, with a form for another.
type verdictsView struct {
	table
	Verdicts []verdictRow
	May      bool
	Entered  Verdict
	Flavours []muster.Flavour
}

type verdictRow struct {
	Verdict
	About string
	May   bool // be lifted by the caller
}

func (s *Server) showVerdicts(who caller, r *http.Request) (view, error) {
	shown := verdictsView{May: governing.allows(who), Flavours: flavours}
	found, err := listOf(r, who, ruled((*Sources).verdicts)(&s.config.Sources), &shown.table, []filter{{Name: "enrolee"}})
	for _, v := range found {
		about := "Enrolee " + v.EnroleeID
		switch {
		case v.Digest != "":
			about = "certificate " + v.Digest
		case v.Name != "":
			about = "certificates for " + v.Flavour + " " + v.Name
		}
		shown.Verdicts = append(shown.Verdicts, verdictRow{v, about, shown.May && v.Origin == FromOperators && mayLift(who, v) == nil})
	}
	for _, f := range shown.Filters { // where another page leads here about an Enrolee
		shown.Entered = Verdict{Verdict: "suspend", EnroleeID: f.Value}
	}
	return view{template: "verdicts", title: "Verdicts", data: &shown}, err
}

// postVerdict passes a verdict about what was chosen, and nothing that was entered beside.
func (s *Server) postVerdict(who caller, r *http.Request) (view, error) {
	form, err := formOf(r)
	if err != nil {
		return view{}, err
	}
	order := Verdict{Verdict: field(form, "verdict"), EnroleeID: field(form, "enrolee_id"), Name: field(form, "name"), Digest: field(form, "digest"), Reason: field(form, "reason")}
	if order.Name != "" {
		order.Flavour = field(form, "flavour")
	}
	if _, err = s.pass(r.Context(), who, order); err == nil {
		return view{to: "/verdicts?done=passed"}, nil
	}
	v, failed := s.showVerdicts(who, r)
	if failed != nil {
		return view{}, failed
	}
	v.data.(*verdictsView).Entered = order
	return v, err
}

func (s *Server) postLift(who caller, r *http.Request) (view, error) {
	if _, err := s.lift(r.Context(), who, ref{id: r.PathValue("id")}); err != nil {
		v, failed := s.showVerdicts(who, r)
		if failed != nil {
			return view{}, failed
		}
		return v, err
	}
	return view{to: "/verdicts?done=lifted"}, nil
}
