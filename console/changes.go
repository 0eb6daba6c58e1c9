package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"muster"
)

// An Import is a list of instructions that are created together.
type Import struct {
	Instructions instructions `json:"instructions"`
	Replace      bool         `json:"replace,omitempty"` // those that are there with other contents
	DryRun       bool         `json:"dry_run,omitempty"` // tell what would be, and change nothing
}

// maxImport bounds the instructions of an import: the shortest need a hundred times
// as much memory as they have octets.
const maxImport = 1 << 16

// instructions is a list of at most maxImport.
type instructions []Instruction

// UnmarshalJSON implements json.Unmarshaler.
func (l *instructions) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if begin, err := decoder.Token(); err != nil || begin != json.Delim('[') {
		return errors.New("instructions is not a list")
	}
	for *l = nil; decoder.More(); {
		var in Instruction
		if err := decoder.Decode(&in); err != nil {
			return fmt.Errorf("instruction %d: %w", len(*l)+1, err)
		}
		if *l = append(*l, in); len(*l) > maxImport {
			return fmt.Errorf("there are more than %d instructions", maxImport)
		}
	}
	return nil
}

// An Imported says what became of an Import.
type Imported struct {
	Created   int `json:"created"`
	Replaced  int `json:"replaced"`
	Unchanged int `json:"unchanged"`
}

// A Fault is what is wrong with one instruction of an import.
type Fault struct {
	Index  int         `json:"index"` // from 0
	Code   muster.Code `json:"code"`
	Detail string      `json:"detail"`
}

// maxFaults is how many faults are told.
const maxFaults = 100

// faults is the error of an import with something wrong in it.
type faults struct{ list []Fault }

func (f *faults) Error() string {
	return fmt.Sprintf("%d instructions are wrong, the first is number %d: %s", len(f.list), f.list[0].Index+1, f.list[0].Detail)
}

// An AnchorOrder is a root to trust.
type AnchorOrder struct {
	PEM string `json:"pem"`
}

// A ref is a resource, as an operator saw it.
type ref struct {
	id  string
	tag string // entity tag, or list of them; empty for whatever it is now
}

// rules returns the configured and the operators' rules, in this order.
func (s *Sources) rules(ctx context.Context) (all Rules, err error) {
	configured, managed, err := s.Rules.Rules(ctx)
	return Rules{
		slices.Concat(configured.Anchors, managed.Anchors), slices.Concat(configured.Instructions, managed.Instructions), slices.Concat(configured.Verdicts, managed.Verdicts),
	}, err
}

// PageOf cuts a page out of a list whose items have identifiers.
func PageOf[T any](items []T, q Query, id func(T) string) (Page[T], error) {
	if q.After != "" {
		last := slices.IndexFunc(items, func(item T) bool { return id(item) == q.After })
		if last < 0 {
			return Page[T]{}, ErrNoCursor
		}
		items = items[last+1:]
	}
	page := Page[T]{Items: append([]T{}, items[:min(q.Limit, len(items))]...)}
	if len(items) > q.Limit {
		page.Next = id(items[q.Limit-1])
	}
	return page, nil
}

func (s *Sources) instructions(ctx context.Context, q Query) (Page[Instruction], error) {
	all, err := s.rules(ctx)
	if err != nil {
		return Page[Instruction]{}, err
	}
	seen := slices.DeleteFunc(all.Instructions, func(in Instruction) bool {
		return !in.scoped(q.Scope) || !strings.HasPrefix(in.EnroleeID+in.Template, q.Filter["enrolee"]) || q.Filter["origin"] != "" && in.Origin != q.Filter["origin"]
	})
	return PageOf(seen, q, func(in Instruction) string { return in.ID })
}

func (s *Server) instruction(ctx context.Context, who caller, seen ref) (Instruction, error) {
	all, err := s.config.rules(ctx)
	if err != nil {
		return Instruction{}, err
	}
	i := all.instruction(seen.id)
	if i < 0 || !all.Instructions[i].scoped(who.Scope) {
		return Instruction{}, unknown("instruction", seen.id)
	}
	return all.Instructions[i], nil
}

func unknown(what, id string) error {
	return muster.Refuse(muster.CodeResourceUnknown, "there is no %s %s", what, id)
}

func configuredElsewhere(what, id string) error {
	return muster.Refuse(muster.CodeResourceConflict, "the %s %s stands in the configuration, and is changed there", what, id)
}

// notManaged refuses to change what is not among the operators' rules.
func notManaged(what, id string, configured bool) error {
	if configured {
		return configuredElsewhere(what, id)
	}
	return unknown(what, id)
}

// A gate is what instructions that a caller gives have to pass.
type gate struct {
	who        caller
	keeper     RuleKeeper
	anchors    map[string]bool // that are known
	groups     []Instruction   // beyond the caller's scope
	configured map[string]bool // identifiers of instructions
	managed    map[string]int  // where those of operators stand
	own        int             // how many of those are in the caller's scope
}

func (s *Server) gate(who caller, configured Rules, managed *Rules) *gate {
	g := &gate{who: who, keeper: s.config.Rules, anchors: map[string]bool{}, configured: map[string]bool{}, managed: map[string]int{}}
	for _, a := range slices.Concat(configured.Anchors, managed.Anchors) {
		g.anchors[a.ID] = true
	}
	for _, in := range slices.Concat(configured.Instructions, managed.Instructions) {
		if in.Pattern != "" && !in.scoped(who.Scope) {
			g.groups = append(g.groups, in)
		}
	}
	for _, in := range configured.Instructions {
		g.configured[in.ID] = true
	}
	for i, in := range managed.Instructions {
		g.managed[in.ID] = i
		if in.scoped(who.Scope) {
			g.own++
		}
	}
	return g
}

// accept makes an instruction of an operator ready to be kept, or returns what is
// wrong with it by itself. Whose Enrolees are bounded cannot have the devices of
// another's group by naming them more exactly than it does.
func (g *gate) accept(in *Instruction) error {
	*in = in.Identified()
	in.Origin = FromOperators
	if !in.scoped(g.who.Scope) {
		return muster.Refuse(muster.CodeRequestNotAllowed, "its Enrolees are not those of the caller's stakeholder")
	}
	if in.Status != "" && !g.who.Scope.IsZero() {
		return muster.Refuse(muster.CodeRequestNotAllowed, "how certificates are asked after is not for a stakeholder to say")
	}
	for _, anchor := range in.Anchors {
		if !g.anchors[anchor] {
			return muster.Refuse(muster.CodeConfiguration, "there is no anchor %s", anchor)
		}
	}
	if err := g.keeper.Check(*in); err != nil {
		return err
	}
	for _, group := range g.groups {
		if g.keeper.Takes(*in, group) {
			return muster.Refuse(muster.CodeRequestNotAllowed, "its certificates are those of a group of another stakeholder")
		}
	}
	return nil
}

// edit changes the operators' rules for a caller, as RuleKeeper.Edit does. An error of
// rules that contradict one another names them: one whose Enrolees are bounded is not
// told those of others.
func (s *Server) edit(ctx context.Context, who caller, act Act, try bool, change func(configured Rules, managed *Rules) error) error {
	var own error
	err := s.config.Rules.Edit(ctx, act, try, func(configured Rules, managed *Rules) error {
		own = change(configured, managed)
		return own
	})
	if own == nil && muster.CodeOf(err) == muster.CodeConfiguration && !who.Scope.IsZero() {
		s.config.Logger.Info("the rules of a stakeholder contradict others", "code", muster.CodeConfiguration, "operator", who.Name, "error", err)
		return muster.Refuse(muster.CodeResourceConflict, "with the rules that are there, its names, keys or Enrolee-IDs would mean two things: look among your own instructions, or ask an admin")
	}
	return err
}

// put puts an instruction among the operators', and says what became of it. To
// replace, the caller has to be the one of the instruction that is there.
func (g *gate) put(managed *Rules, in Instruction, replace bool) (done Imported, err error) {
	i, there := g.managed[in.ID]
	switch {
	case g.configured[in.ID]:
		err = muster.Refuse(muster.CodeResourceConflict, "the configuration has an instruction for the same certificates or keys")
	case !there && g.who.MaxInstructions > 0 && g.own >= g.who.MaxInstructions:
		err = muster.Refuse(muster.CodeQuotaExceeded, "there are %d instructions for the caller's Enrolees, as many as may be", g.own)
	case !there:
		g.own++
		g.managed[in.ID] = len(managed.Instructions)
		managed.Instructions = append(managed.Instructions, in)
		done.Created = 1
	case reflect.DeepEqual(managed.Instructions[i], in):
		done.Unchanged = 1
	case replace && managed.Instructions[i].scoped(g.who.Scope):
		managed.Instructions[i] = in
		done.Replaced = 1
	default:
		err = muster.Refuse(muster.CodeResourceConflict, "there is another instruction %s for the same certificates or keys", in.ID)
	}
	return done, err
}

func (s *Server) createInstruction(ctx context.Context, who caller, in Instruction) (Instruction, error) {
	in = in.Identified()
	err := s.edit(ctx, who, who.act("create instruction "+in.ID), false, func(configured Rules, managed *Rules) error {
		gate := s.gate(who, configured, managed)
		if err := gate.accept(&in); err != nil {
			return err
		}
		_, err := gate.put(managed, in, false)
		return err
	})
	return in, err
}

// own returns the index of an operators' instruction that the caller may change, if
// it is as they think it is.
func own(who caller, seen ref, configured Rules, managed *Rules) (int, error) {
	i := managed.instruction(seen.id)
	switch {
	case configured.instruction(seen.id) >= 0:
		return i, configuredElsewhere("instruction", seen.id)
	case i < 0 || !managed.Instructions[i].scoped(who.Scope):
		return i, unknown("instruction", seen.id)
	}
	return i, seen.unchanged(managed.Instructions[i])
}

// unchanged refuses what is asked of a resource that is not as it was seen.
func (seen ref) unchanged(resource any) error {
	if seen.tag == "" {
		return nil
	}
	body, err := json.Marshal(resource)
	if err == nil && !matches(seen.tag, tagOf(body)) {
		err = muster.Refuse(muster.CodeResourceChanged, "it is not what If-Match names")
	}
	return err
}

func (s *Server) replaceInstruction(ctx context.Context, who caller, seen ref, in Instruction) (Instruction, error) {
	if in = in.Identified(); in.ID != seen.id {
		return in, muster.Refuse(muster.CodeRequestMalformed, "it is for other certificates or keys, as its identifier %s shows: create that one, and delete this", in.ID)
	}
	err := s.edit(ctx, who, who.act("replace instruction "+in.ID), false, func(configured Rules, managed *Rules) error {
		i, err := own(who, seen, configured, managed)
		if err != nil {
			return err
		}
		managed.Instructions[i] = in
		return s.gate(who, configured, managed).accept(&managed.Instructions[i])
	})
	in.Origin = FromOperators
	return in, err
}

func (s *Server) deleteInstruction(ctx context.Context, who caller, seen ref) (Instruction, error) {
	var deleted Instruction
	err := s.edit(ctx, who, who.act("delete instruction "+seen.id), false, func(configured Rules, managed *Rules) error {
		i, err := own(who, seen, configured, managed)
		if err != nil {
			return err
		}
		deleted = managed.Instructions[i]
		managed.Instructions = slices.Delete(managed.Instructions, i, i+1)
		return nil
	})
	return deleted, err
}

func (s *Server) importInstructions(ctx context.Context, who caller, order Import) (Imported, error) {
	var done Imported
	act := who.act(fmt.Sprintf("import %d instructions", len(order.Instructions)))
	err := s.edit(ctx, who, act, order.DryRun, func(configured Rules, managed *Rules) error {
		var wrong faults
		gate := s.gate(who, configured, managed)
		for i := range order.Instructions {
			in := order.Instructions[i]
			err := gate.accept(&in)
			var one Imported
			if err == nil {
				one, err = gate.put(managed, in, order.Replace)
			}
			if err != nil && len(wrong.list) < maxFaults {
				wrong.list = append(wrong.list, Fault{i, muster.CodeOf(err), err.Error()})
			}
			done.Created += one.Created
			done.Replaced += one.Replaced
			done.Unchanged += one.Unchanged
		}
		if len(wrong.list) > 0 {
			return muster.Refuse(muster.CodeConfiguration, "%w", &wrong)
		}
		return nil
	})
	return done, err
}

func (s *Sources) anchors(ctx context.Context, q Query) (Page[Anchor], error) {
	all, err := s.rules(ctx)
	if err != nil {
		return Page[Anchor]{}, err
	}
	return PageOf(all.Anchors, q, func(a Anchor) string { return a.ID })
}

func (s *Server) addAnchor(ctx context.Context, who caller, order AnchorOrder) (Anchor, error) {
	anchor, err := ParseAnchor(order.PEM)
	if err != nil {
		return anchor, muster.Refuse(muster.CodeRequestMalformed, "%w", err)
	}
	err = s.edit(ctx, who, who.act("add anchor "+anchor.ID), false, func(configured Rules, managed *Rules) error {
		if configured.anchor(anchor.ID) < 0 && managed.anchor(anchor.ID) < 0 {
			managed.Anchors = append(managed.Anchors, anchor)
		}
		return nil
	})
	return anchor, err
}

func (s *Server) deleteAnchor(ctx context.Context, who caller, seen ref) (Anchor, error) {
	id := seen.id
	var deleted Anchor
	err := s.edit(ctx, who, who.act("delete anchor "+id), false, func(configured Rules, managed *Rules) error {
		i := managed.anchor(id)
		if i < 0 {
			return notManaged("anchor", id, configured.anchor(id) >= 0)
		}
		for _, in := range managed.Instructions {
			if slices.Contains(in.Anchors, id) {
				return muster.Refuse(muster.CodeResourceConflict, "the instruction %s pins it", in.ID)
			}
		}
		deleted = managed.Anchors[i]
		managed.Anchors = slices.Delete(managed.Anchors, i, i+1)
		return nil
	})
	return deleted, err
}

func (s *Sources) verdicts(ctx context.Context, q Query) (Page[Verdict], error) {
	all, err := s.rules(ctx)
	if err != nil {
		return Page[Verdict]{}, err
	}
	return PageOf(all.Verdicts, q, func(v Verdict) string { return v.ID })
}

const banned = "ban"

func (s *Server) pass(ctx context.Context, who caller, v Verdict) (Verdict, error) {
	v.Origin = FromOperators
	if v.Verdict == "evict" && v.Before == nil {
		now := s.config.Now().UTC()
		v.Before = &now
	}
	v = v.Identified()
	act := who.act(fmt.Sprintf("%s %s", v.Verdict, v.EnroleeID+v.Name+v.Digest))
	err := s.edit(ctx, who, act, false, func(configured Rules, managed *Rules) error {
		if configured.verdict(v.ID) >= 0 {
			return muster.Refuse(muster.CodeResourceConflict, "the configuration has a verdict about the same")
		}
		i := managed.verdict(v.ID)
		if i < 0 {
			managed.Verdicts = append(managed.Verdicts, v)
			return nil
		}
		if err := mayLift(who, managed.Verdicts[i]); err != nil && v.Verdict != banned {
			return err
		}
		managed.Verdicts[i] = v
		return nil
	})
	return v, err
}

// mayLift refuses to let anybody but an admin end a ban.
func mayLift(who caller, v Verdict) error {
	if v.Verdict == banned && who.Role != RoleAdmin {
		return muster.Refuse(muster.CodeRequestNotAllowed, "only an admin lifts a ban")
	}
	return nil
}

func (s *Server) lift(ctx context.Context, who caller, seen ref) (Verdict, error) {
	id := seen.id
	var lifted Verdict
	err := s.edit(ctx, who, who.act("lift verdict "+id), false, func(configured Rules, managed *Rules) error {
		i := managed.verdict(id)
		if i < 0 {
			return notManaged("verdict", id, configured.verdict(id) >= 0)
		}
		lifted = managed.Verdicts[i]
		if err := mayLift(who, lifted); err != nil {
			return err
		}
		managed.Verdicts = slices.Delete(managed.Verdicts, i, i+1)
		return seen.unchanged(lifted)
	})
	return lifted, err
}
