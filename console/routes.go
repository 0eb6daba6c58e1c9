package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"muster"
)

// A route is one operation of the interface for programs.
type route struct {
	method, path string
	does         string
	access
	query        []string // parameters beside after and limit
	body, answer any      // zero values of what is sent; nil for nothing
	list         bool     // the answer is a page
	secret       bool     // the answer is not remembered for Idempotency-Key
	large        bool     // the body may have MaxBody octets
	has          func(*Sources) bool
	serve        func(s *Server, who caller, r *http.Request) (any, error)
	stream       func(s *Server, who caller, w http.ResponseWriter, r *http.Request) error
}

// An access is who may use a route.
type access struct {
	roles    []Role // nil for everybody, even without a certificate
	unscoped bool   // and only if they have no Scope
}

var (
	anybody   = access{}
	looking   = access{roles: Roles()}
	lookingAt = access{roles: Roles(), unscoped: true} // what belongs to no stakeholder
	changing  = access{roles: []Role{RoleOperator, RoleAdmin}}
	governing = access{roles: []Role{RoleOperator, RoleAdmin}, unscoped: true}
	trusting  = access{roles: []Role{RoleAdmin}, unscoped: true}
	auditing  = access{roles: []Role{RoleAuditor, RoleAdmin}, unscoped: true}
)

// routes returns every operation.
func routes() []route {
	rules := func(s *Sources) bool { return s.Rules != nil }
	return slices.Concat([]route{
		{method: "GET", path: "/livez", does: "Tell that the function runs", access: anybody, answer: liveness{}, serve: func(*Server, caller, *http.Request) (any, error) { return liveness{"ok"}, nil }},
		{method: "GET", path: "/v1/openapi.json", does: "Describe this interface", access: looking, answer: json.RawMessage{}, serve: func(s *Server, _ caller, _ *http.Request) (any, error) { return s.document, nil }},
		{method: "GET", path: "/v1/whoami", does: "Tell who is asking", access: looking, answer: identity{}, serve: func(_ *Server, who caller, _ *http.Request) (any, error) { return who.identity(), nil }},
		{method: "GET", path: "/v1/overview", does: "Tell the state of the function", access: lookingAt, answer: Overview{}, has: func(s *Sources) bool { return s.Overview != nil },
			serve: func(s *Server, _ caller, r *http.Request) (any, error) { return s.config.Overview(r.Context()) }},
		{method: "GET", path: "/v1/events", does: "Follow what happens, as server-sent events", access: lookingAt, has: func(s *Sources) bool { return s.Events != nil }, stream: (*Server).events},
		{method: "POST", path: "/v1/tokens", does: "Issue a token that bears the caller's rights, or fewer", access: looking, body: TokenOrder{}, answer: Token{}, secret: true, serve: bodied((*Server).issueToken)},
		{method: "POST", path: "/v1/reload", does: "Read the configuration again, and tell what needs a restart; one that is wrong changes nothing", access: trusting, answer: Reloaded{}, has: func(s *Sources) bool { return s.Reload != nil },
			serve: func(s *Server, who caller, r *http.Request) (any, error) { return s.reload(r.Context(), who) }},
	},
		listing("/v1/enrolments", "List enrolments by Enrolee, each for each of its targets", looking, func(s *Sources) List[Enrolment] { return s.Enrolments }, "ke_id", "enrolee"),
		listing("/v1/credentials", "List Master Credentials by Enrolee", looking, func(s *Sources) List[Credential] { return s.Credentials }, "ke_id", "km_id", "enrolee"),
		listing("/v1/kpms", "List pre-provisioned keys by Enrolee, without their values", looking, func(s *Sources) List[Kpm] { return s.Kpms }, "enrolee"),
		listing("/v1/registrations", "List client registrations", looking, func(s *Sources) List[Registration] { return s.Registrations }, "client", "stakeholder"),
		listing("/v1/keys", "List registered keys by source, without their values", looking, func(s *Sources) List[Key] { return s.Keys }, "source"),
		listing("/v1/commands", "List the commands of a client", looking, func(s *Sources) List[Command] { return s.Commands }, "enrolee", "stakeholder"),
		listing("/v1/refusals", "List refused chains, the newest first", lookingAt, func(s *Sources) List[Refusal] { return s.Refusals }),
		listing("/v1/instructions", "List instructions", looking, ruled((*Sources).instructions), "enrolee", "origin"),
		listing("/v1/anchors", "List trust anchors", looking, ruled((*Sources).anchors)),
		listing("/v1/verdicts", "List bans, evictions and suspensions", lookingAt, ruled((*Sources).verdicts)),
		listing("/v1/audit", "List the entries of the audit log, the oldest first, or the newest with order=newest", auditing, func(s *Sources) List[json.RawMessage] { return s.Audit }, "order"),
		[]route{
			{method: "POST", path: "/v1/commands", does: "Queue a command", access: changing, body: CommandOrder{}, answer: Queued{}, has: func(s *Sources) bool { return s.Queue != nil }, serve: bodied((*Server).queue)},
			{method: "GET", path: "/v1/refusals/{id}/explanation", does: "Judge a refused chain again, and tell why", access: lookingAt, answer: json.RawMessage{}, has: func(s *Sources) bool { return s.Explain != nil },
				serve: func(s *Server, _ caller, r *http.Request) (any, error) {
					return s.config.Explain(r.Context(), r.PathValue("id"))
				}},

			{method: "GET", path: "/v1/instructions/{id}", does: "Show an instruction", access: looking, answer: Instruction{}, has: rules, serve: named((*Server).instruction)},
			{method: "POST", path: "/v1/instructions", does: "Create an instruction; one that is there already is left alone", access: changing, body: Instruction{}, answer: Instruction{}, has: rules, serve: bodied((*Server).createInstruction)},
			{method: "PUT", path: "/v1/instructions/{id}", does: "Replace an instruction; If-Match guards against changes by others", access: changing, body: Instruction{}, answer: Instruction{}, has: rules, serve: replacing((*Server).replaceInstruction)},
			{method: "DELETE", path: "/v1/instructions/{id}", does: "Delete an instruction", access: changing, answer: Instruction{}, has: rules, serve: named((*Server).deleteInstruction)},
			{method: "POST", path: "/v1/instructions/import", does: "Create instructions, all or none", access: changing, body: Import{}, answer: Imported{}, large: true, has: rules, serve: bodied((*Server).importInstructions)},

			{method: "POST", path: "/v1/anchors", does: "Add a trust anchor that instructions can pin", access: trusting, body: AnchorOrder{}, answer: Anchor{}, has: rules, serve: bodied((*Server).addAnchor)},
			{method: "DELETE", path: "/v1/anchors/{id}", does: "Delete a trust anchor that no instruction pins", access: trusting, answer: Anchor{}, has: rules, serve: named((*Server).deleteAnchor)},

			{method: "POST", path: "/v1/verdicts", does: "Ban, evict or suspend; a verdict takes the place of one about the same", access: governing, body: Verdict{}, answer: Verdict{}, has: rules, serve: bodied((*Server).pass)},
			{method: "DELETE", path: "/v1/verdicts/{id}", does: "Lift a verdict; only an admin lifts a ban", access: governing, answer: Verdict{}, has: rules, serve: named((*Server).lift)},
		})
}

// listing returns the route of a list.
func listing[T any](path, does string, a access, of func(*Sources) List[T], filters ...string) []route {
	var item T
	return []route{{
		method: "GET", path: path, does: does, access: a, query: filters, answer: item, list: true,
		has: func(s *Sources) bool { return of(s) != nil },
		serve: func(s *Server, who caller, r *http.Request) (any, error) {
			q, err := queryOf(r, filters...)
			if err != nil {
				return nil, err
			}
			return read(r.Context(), who, q, of(&s.config.Sources))
		},
	}}
}

// read returns the page of a list that a caller asks for.
func read[T any](ctx context.Context, who caller, q Query, list List[T]) (Page[T], error) {
	q.Scope = who.Scope
	page, err := list(ctx, q)
	if errors.Is(err, ErrNoCursor) {
		return page, muster.Refuse(muster.CodeRequestMalformed, "after: %w", err)
	}
	if page.Items == nil {
		page.Items = []T{}
	}
	return page, err
}

// ruled returns a list of rules, which only a function with rules has.
func ruled[T any](list func(*Sources, context.Context, Query) (Page[T], error)) func(*Sources) List[T] {
	return func(s *Sources) List[T] {
		if s.Rules == nil {
			return nil
		}
		return func(ctx context.Context, q Query) (Page[T], error) { return list(s, ctx, q) }
	}
}

// bodied returns how a route serves that does something with its body.
func bodied[B, A any](do func(*Server, context.Context, caller, B) (A, error)) func(*Server, caller, *http.Request) (any, error) {
	return func(s *Server, who caller, r *http.Request) (any, error) {
		var body B
		if err := decode(r, &body); err != nil {
			return nil, err
		}
		return do(s, r.Context(), who, body)
	}
}

// named returns how a route serves that does something with the resource in its path.
func named[A any](do func(*Server, context.Context, caller, ref) (A, error)) func(*Server, caller, *http.Request) (any, error) {
	return func(s *Server, who caller, r *http.Request) (any, error) { return do(s, r.Context(), who, refOf(r)) }
}

// replacing is bodied and named in one.
func replacing[B, A any](do func(*Server, context.Context, caller, ref, B) (A, error)) func(*Server, caller, *http.Request) (any, error) {
	return func(s *Server, who caller, r *http.Request) (any, error) {
		return bodied(func(s *Server, ctx context.Context, who caller, body B) (A, error) {
			return do(s, ctx, who, refOf(r), body)
		})(s, who, r)
	}
}

func refOf(r *http.Request) ref { return ref{r.PathValue("id"), r.Header.Get("If-Match")} }

type liveness struct {
	Status string `json:"status"`
}

// An identity is who is asking.
type identity struct {
	Name        string `json:"name"`
	Role        Role   `json:"role"`
	Stakeholder string `json:"stakeholder,omitempty"`
	Enrolees    string `json:"enrolees,omitempty"`
	Token       bool   `json:"token"`
}

func (who caller) identity() identity {
	return identity{who.Name.String(), who.Role, who.Scope.Stakeholder.String(), who.Scope.Enrolees, who.token}
}

// queryOf reads the parameters after, limit and those of a list; others are refused,
// so that a misspelt one is not overlooked.
func queryOf(r *http.Request, filters ...string) (Query, error) {
	q := Query{Limit: defaultLimit, Filter: map[string]string{}}
	parameters, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // what cannot be read would be left out, and with it a filter
		return q, muster.Refuse(muster.CodeRequestMalformed, "the parameters: %w", err)
	}
	for name, values := range parameters {
		switch {
		case !utf8.ValidString(strings.Join(values, "")) || strings.ContainsRune(strings.Join(values, ""), 0):
			return q, muster.Refuse(muster.CodeRequestMalformed, "the parameter %q is not text", name)
		case len(values) != 1:
			return q, muster.Refuse(muster.CodeRequestMalformed, "the parameter %q stands more than once", name)
		case name == "after":
			q.After = values[0]
		case name == "limit":
			limit, err := strconv.Atoi(values[0])
			if err != nil || limit < 1 || limit > maxLimit {
				return q, muster.Refuse(muster.CodeRequestMalformed, "limit is not a number from 1 to %d", maxLimit)
			}
			q.Limit = limit
		case slices.Contains(filters, name):
			q.Filter[name] = values[0]
		default:
			return q, muster.Refuse(muster.CodeRequestMalformed, "there is no parameter %q", name)
		}
	}
	return q, nil
}

// A TokenOrder asks for a token.
type TokenOrder struct {
	Role    Role `json:"role,omitempty"`    // the caller's by default, or viewer; an admin may give any
	Seconds int  `json:"seconds,omitempty"` // of validity, at most 3600, which is the default
	SignIn  bool `json:"sign_in,omitempty"` // a one-time token for a browser, valid for two minutes
}

// A Token is a secret that lets in whoever has it.
type Token struct {
	Token   string    `json:"token"`
	Role    Role      `json:"role"`
	Expires time.Time `json:"expires"`
}

// issueToken gives a token to who has a certificate.
func (s *Server) issueToken(ctx context.Context, who caller, order TokenOrder) (Token, error) {
	if order.Role == "" {
		order.Role = who.Role
	}
	lifetime, use := time.Duration(order.Seconds)*time.Second, bearerToken
	if lifetime == 0 {
		lifetime = maxTokenTime
	}
	if order.SignIn {
		lifetime, use = signInTime, signInToken
	}
	switch {
	case who.token:
		return Token{}, muster.Refuse(muster.CodeRequestNotAllowed, "a token is issued to a certificate, not to another token")
	case order.Role != who.Role && order.Role != RoleViewer && who.Role != RoleAdmin:
		return Token{}, muster.Refuse(muster.CodeRequestNotAllowed, "the role %s may not give the role %s", who.Role, order.Role)
	case lifetime < 0 || lifetime > maxTokenTime:
		return Token{}, muster.Refuse(muster.CodeRequestMalformed, "seconds is not a number from 1 to %d", int(maxTokenTime/time.Second))
	}
	if err := s.record(ctx, who, "issue a token with the role "+string(order.Role), ""); err != nil {
		return Token{}, err
	}
	now := s.config.Now()
	secret, err := s.tokens.issue(token{who.Name, order.Role, who.chain, use, now.Add(lifetime)}, now)
	return Token{secret, order.Role, now.Add(lifetime).UTC().Truncate(time.Second)}, err
}

func (s *Server) reload(ctx context.Context, who caller) (Reloaded, error) {
	if err := s.record(ctx, who, "reload the configuration", ""); err != nil {
		return Reloaded{}, err
	}
	return s.config.Reload(ctx)
}

func (s *Server) queue(ctx context.Context, who caller, order CommandOrder) (Queued, error) {
	to := order.EnroleeID
	if to == "" {
		to = order.Prefix
	}
	if !who.Scope.Covers(to) || !who.Scope.IsZero() && order.Stakeholder != who.Scope.Stakeholder.String() {
		return Queued{}, muster.Refuse(muster.CodeRequestNotAllowed, "these clients are not those of the caller's stakeholder")
	}
	if err := s.record(ctx, who, "queue the command "+order.ID+" for "+to, ""); err != nil {
		return Queued{}, err
	}
	return s.config.Queue(ctx, order)
}
