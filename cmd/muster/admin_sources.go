package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"muster"
	"muster/audit"
	"muster/console"
	"muster/maf"
	"muster/mef"
	"muster/metrics"
	"muster/tef"
)

// commonSources returns what a MEF and a MAF let operators see alike.
func commonSources(s *service, of metrics.Function, name muster.FQDN, log auditConfig, store database) console.Sources {
	sources := console.Sources{
		Overview: func(ctx context.Context) (console.Overview, error) { return s.overview(ctx, of, name), nil },
		Registrations: func(ctx context.Context, q console.Query) (console.Page[console.Registration], error) {
			return listRegistrations(ctx, store, name, q)
		},
		Keys: func(ctx context.Context, q console.Query) (console.Page[console.Key], error) {
			return listKeys(ctx, store, q)
		},
		Reload: func(context.Context) (console.Reloaded, error) { return s.reload() },
		Record: s.recordAct,
	}
	if s.trail != nil {
		sources.Events = s.trail.live
	}
	if log.File != "" {
		sources.Audit = func(_ context.Context, q console.Query) (console.Page[json.RawMessage], error) {
			return listAudit(log.File, q)
		}
	}
	return sources
}

func mefSources(s *service, config *mefConfig, store database, rules *ruleKeeper, refusals *refusalLog) console.Sources {
	sources := commonSources(s, metrics.MEF, config.FQDN, config.Audit, store)
	sources.Rules, sources.Refusals = rules, refusals.list
	sources.Enrolments = func(ctx context.Context, q console.Query) (console.Page[console.Enrolment], error) {
		return listEnrolments(ctx, store, q)
	}
	sources.Kpms = func(ctx context.Context, q console.Query) (console.Page[console.Kpm], error) {
		return listKpms(ctx, store, q)
	}
	sources.Commands = func(ctx context.Context, q console.Query) (console.Page[console.Command], error) {
		return listCommands(ctx, store, config.FQDN, q)
	}
	sources.Queue = func(ctx context.Context, order console.CommandOrder) (console.Queued, error) {
		return queueOrder(ctx, store, config.FQDN, order)
	}
	sources.Explain = func(_ context.Context, id string) (json.RawMessage, error) {
		r, ok, err := lookUpRefusal(refusals.path, id)
		if err == nil && !ok {
			err = muster.Refuse(muster.CodeResourceUnknown, "there is no refusal %s", id)
		}
		if err != nil {
			return nil, err
		}
		return json.Marshal(rules.slot.current.Load().explain(r.Chain, r.Time))
	}
	return sources
}

func mafSources(s *service, config *mafConfig, store database) console.Sources {
	sources := commonSources(s, metrics.MAF, config.FQDN, config.Audit, store)
	sources.Credentials = func(ctx context.Context, q console.Query) (console.Page[console.Credential], error) {
		return listCredentials(ctx, store, q)
	}
	return sources
}

// recordAct writes down what an operator does, before it is done.
func (s *service) recordAct(ctx context.Context, act console.Act) error {
	if act.Code == "" {
		return s.trail.write(ctx, audit.Entry{Kind: audit.KindAdmin, Who: act.Who, What: act.What})
	}
	s.trail.refuse(ctx, act.Who, act.What, muster.Refuse(act.Code, "the operator's role or scope"))
	return nil
}

func (s *service) overview(ctx context.Context, of metrics.Function, name muster.FQDN) console.Overview {
	now := time.Now()
	o := console.Overview{
		Function: name.String(), Role: strings.ToLower(string(of)), Version: readBuildVersion().Version, Started: s.started.UTC().Truncate(time.Second), Now: now.UTC(),
	}
	for _, c := range s.checks {
		ctx, cancel := context.WithTimeout(ctx, healthTimeout)
		err := c.ask(ctx)
		cancel()
		result := console.Check{Name: c.name, OK: err == nil, Code: muster.CodeOf(err)}
		if err != nil {
			result.Detail = err.Error()
		}
		o.Checks = append(o.Checks, result)
	}
	own := s.own.leaf()
	o.Certificates = append(o.Certificates, console.Certificate{Use: "identity", ID: muster.DigestOf(own.Raw).String(), Subject: own.Subject.String(), NotAfter: own.NotAfter})
	for _, root := range s.anchors.Load().roots {
		o.Certificates = append(o.Certificates, console.Certificate{Use: "anchor", ID: muster.DigestOf(root.Raw).String(), Subject: root.Subject.String(), NotAfter: root.NotAfter})
	}
	slices.SortFunc(o.Certificates, func(a, b console.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	o.Totals, o.Minutes, o.Quarters = s.trail.live.counted(now)
	return o
}

// cursor and position carry the last record of a page in an opaque text.
func cursor(position any) string {
	text, _ := json.Marshal(position) // of texts and numbers: never fails
	return base64.RawURLEncoding.EncodeToString(text)
}

func position[T any](cursor string) (p T, err error) {
	if cursor == "" {
		return p, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, console.ErrNoCursor
	}
	return p, nil
}

// inScope returns what identifiers must begin with to be in the scope and have the
// prefix; ok is false if none can.
func inScope(scope console.Scope, prefix string) (both string, ok bool) {
	switch {
	case scope.Covers(prefix):
		return prefix, true
	case scope.Enrolees != "" && strings.HasPrefix(scope.Enrolees, prefix):
		return scope.Enrolees, true
	}
	return "", false
}

// listing asks for one record more than the page holds, to learn whether there is more.
func listing[R, T any](q console.Query, ask func(limit int) ([]R, error), show func(R) T, next func(R) string) (page console.Page[T], err error) {
	records, err := ask(q.Limit + 1)
	if err != nil {
		return page, err
	}
	for _, r := range records[:min(q.Limit, len(records))] {
		page.Items = append(page.Items, show(r))
	}
	if len(records) > q.Limit {
		page.Next = next(records[q.Limit-1])
	}
	return page, nil
}

// parameter reads one of the filters of a query.
func parameter[T any](q console.Query, name string, parse func(string) (T, error)) (value T, err error) {
	if q.Filter[name] == "" {
		return value, nil
	}
	if value, err = parse(q.Filter[name]); err != nil {
		err = muster.Refuse(muster.CodeRequestMalformed, "%s: %w", name, err)
	}
	return value, err
}

func listEnrolments(ctx context.Context, store mef.Register, q console.Query) (page console.Page[console.Enrolment], err error) {
	prefix, ok := inScope(q.Scope, q.Filter["enrolee"])
	if !ok {
		return page, nil
	}
	after, err1 := position[mef.EnrolmentPosition](q.After)
	id, err2 := parameter(q, "ke_id", muster.ParseKeID)
	if err := errors.Join(err1, err2); err != nil {
		return page, err
	}
	return listing(q, func(limit int) ([]mef.EnrolmentRecord, error) {
		return store.Enrolments(ctx, mef.EnrolmentQuery{KeID: id, EnroleePrefix: prefix, After: after, Limit: limit})
	}, func(r mef.EnrolmentRecord) console.Enrolment {
		return console.Enrolment{
			KeID: r.KeID.String(), EnroleeID: r.EnroleeID.String(), Generation: r.Generation, MAF: r.MAF.String(), State: string(r.State),
			Certificate: r.Certificate.String(), Created: r.Created.UTC(), Expires: r.Expires.UTC(), Fetched: moment(r.FetchedAt), Fetches: r.Fetches,
		}
	}, func(r mef.EnrolmentRecord) string {
		return cursor(mef.EnrolmentPosition{EnroleeID: r.EnroleeID.String(), Generation: r.Generation, MAF: r.MAF.String()})
	})
}

func listKpms(ctx context.Context, store mef.KpmRegister, q console.Query) (page console.Page[console.Kpm], err error) {
	prefix, ok := inScope(q.Scope, q.Filter["enrolee"])
	if !ok {
		return page, nil
	}
	after, err := position[mef.KpmPosition](q.After)
	if err != nil {
		return page, err
	}
	return listing(q, func(limit int) ([]mef.KpmRecord, error) {
		return store.Kpms(ctx, mef.KpmQuery{EnroleePrefix: prefix, After: after, Limit: limit})
	}, func(r mef.KpmRecord) console.Kpm {
		return console.Kpm{KpmID: r.KpmID.String(), EnroleeID: r.EnroleeID.String(), Generation: r.Generation, State: string(r.State), Created: r.Created.UTC(), Until: moment(r.Until)}
	}, func(r mef.KpmRecord) string {
		return cursor(mef.KpmPosition{EnroleeID: r.EnroleeID.String(), Generation: r.Generation})
	})
}

// moment is a time that may be zero.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func listCredentials(ctx context.Context, store maf.Register, q console.Query) (page console.Page[console.Credential], err error) {
	prefix, ok := inScope(q.Scope, q.Filter["enrolee"])
	if !ok {
		return page, nil
	}
	after, err1 := position[maf.CredentialPosition](q.After)
	keID, err2 := parameter(q, "ke_id", muster.ParseKeID)
	kmID, err3 := parameter(q, "km_id", muster.ParseKmID)
	if err := errors.Join(err1, err2, err3); err != nil {
		return page, err
	}
	return listing(q, func(limit int) ([]maf.CredentialRecord, error) {
		return store.Credentials(ctx, maf.CredentialQuery{KeID: keID, KmID: kmID, EnroleePrefix: prefix, After: after, Limit: limit})
	}, func(r maf.CredentialRecord) console.Credential {
		return console.Credential{
			KmID: r.KmID.String(), KeID: r.KeID.String(), EnroleeID: r.EnroleeID.String(), Generation: r.Generation, State: string(r.State),
			Created: r.Created.UTC(), Expires: r.Expires.UTC(), KeIDUntil: r.KeIDUntil.UTC(),
		}
	}, func(r maf.CredentialRecord) string {
		return cursor(maf.CredentialPosition{EnroleeID: r.EnroleeID.String(), Generation: r.Generation})
	})
}

func listRegistrations(ctx context.Context, store tef.Store, function muster.FQDN, q console.Query) (page console.Page[console.Registration], err error) {
	stakeholder, err := parameter(q, "stakeholder", muster.ParseFQDN)
	if err != nil {
		return page, err
	}
	if !q.Scope.IsZero() {
		if q.Scope.Stakeholder.IsZero() || !stakeholder.IsZero() && stakeholder != q.Scope.Stakeholder {
			return page, nil
		}
		stakeholder = q.Scope.Stakeholder
	}
	return listing(q, func(limit int) ([]tef.ClientRegistration, error) {
		return store.Registrations(ctx, tef.RegistrationQuery{
			Function: function, AdminFQDN: stakeholder, ClientPrefix: q.Filter["client"], After: q.After, Limit: limit, Now: time.Now(),
		})
	}, func(r tef.ClientRegistration) console.Registration {
		return console.Registration{
			ID: r.ID, ClientID: r.ClientID.String(), Stakeholder: r.AdminFQDN.String(), Labels: append([]string{}, r.Labels...), KmID: r.AssignedSymmKeyID.String(),
			Created: r.Created.UTC(), Modified: r.Modified.UTC(), Expires: r.Expires.UTC(),
		}
	}, func(r tef.ClientRegistration) string { return r.ID })
}

func listKeys(ctx context.Context, store tef.KeyRegister, q console.Query) (page console.Page[console.Key], err error) {
	prefix, ok := inScope(q.Scope, q.Filter["source"])
	if !ok {
		return page, nil
	}
	after, err := position[tef.KeyPosition](q.After)
	if err != nil {
		return page, err
	}
	return listing(q, func(limit int) ([]tef.KeyRecord, error) {
		return store.RegisteredKeys(ctx, tef.KeyQuery{SourcePrefix: prefix, After: after, Limit: limit, Now: time.Now()})
	}, func(r tef.KeyRecord) console.Key {
		return console.Key{
			ID: r.ID.String(), Source: r.Source.String(), Stakeholder: r.AdminFQDN.String(), Usage: r.Usage.String(), Targets: append([]string{}, r.Targets...),
			Labels: append([]string{}, r.Labels...), Fetches: r.Fetches, Created: r.Created.UTC(), Modified: r.Modified.UTC(), Expires: r.Expires.UTC(),
		}
	}, func(r tef.KeyRecord) string { return cursor(tef.KeyPosition{Source: r.Source.String(), ID: r.ID}) })
}

// listCommands lists the commands of one client, which are few.
func listCommands(ctx context.Context, store tef.CommandStore, function muster.FQDN, q console.Query) (page console.Page[console.Command], err error) {
	if q.Filter["enrolee"] == "" || q.Filter["stakeholder"] == "" {
		return page, muster.Refuse(muster.CodeRequestMalformed, "commands are listed for one enrolee and one stakeholder")
	}
	client, err1 := parameter(q, "enrolee", muster.ParseEnroleeID)
	stakeholder, err2 := parameter(q, "stakeholder", muster.ParseFQDN)
	if err := errors.Join(err1, err2); err != nil {
		return page, err
	}
	if !q.Scope.Covers(client.String()) || !q.Scope.IsZero() && stakeholder != q.Scope.Stakeholder {
		return page, nil
	}
	commands, err := store.Commands(ctx, function, tef.RegistrationID(client, stakeholder))
	if err != nil {
		return page, err
	}
	wanted, err := console.PageOf(commands, q, func(c tef.QueuedCommand) string { return c.ID })
	if err != nil {
		return page, err
	}
	page.Next = wanted.Next
	for _, c := range wanted.Items {
		object, err := c.Description.Object()
		if err != nil {
			return page, err
		}
		description, err := json.Marshal(object)
		if err != nil {
			return page, err
		}
		page.Items = append(page.Items, console.Command{
			ID: c.ID, EnroleeID: client.String(), Stakeholder: stakeholder.String(), Status: int(c.Status), Description: description, Created: c.Created.UTC(), Changed: c.Changed.UTC(),
		})
	}
	return page, nil
}

// listAudit lists the entries of an audit log, the oldest first or the newest.
func listAudit(path string, q console.Query) (page console.Page[json.RawMessage], err error) {
	at, err := position[audit.Place](q.After)
	if err != nil {
		return page, err
	}
	read := audit.Page
	switch q.Filter["order"] {
	case "":
	case "newest":
		read = audit.PageBack
	default:
		return page, muster.Refuse(muster.CodeRequestMalformed, "order is not newest")
	}
	var next audit.Place
	page.Items, next, err = read(path, at, q.Limit)
	if next != (audit.Place{}) {
		page.Next = cursor(next)
	}
	if errors.Is(err, audit.ErrNoPlace) {
		err = console.ErrNoCursor
	}
	return page, err
}

// queueOrder queues a command for one Enrolee, or for a group.
func queueOrder(ctx context.Context, store mefStore, function muster.FQDN, order console.CommandOrder) (queued console.Queued, err error) {
	malformed := func(err error) error { return muster.Refuse(muster.CodeRequestMalformed, "%w", err) }
	if len(order.Command) == 0 || (order.EnroleeID == "") == (order.Prefix == "") {
		return queued, malformed(errors.New("a command has its class and arguments, and either an enrolee_id or a prefix"))
	}
	stakeholder, err := muster.ParseFQDN(order.Stakeholder)
	if err != nil {
		return queued, malformed(err)
	}
	description, err := parseCommand(order.Command)
	if err != nil {
		return queued, malformed(err)
	}
	if err := tef.CheckCommand(order.ID, description); err != nil {
		return queued, malformed(err)
	}
	var client muster.EnroleeID
	if order.EnroleeID != "" {
		if client, err = muster.ParseEnroleeID(order.EnroleeID); err != nil {
			return queued, malformed(err)
		}
	}
	queued.Clients, err = queueCommand(ctx, store, function, client, order.Prefix, stakeholder, order.ID, description)
	return queued, err
}

// list is the console's list of refusals, the newest first.
func (l *refusalLog) list(_ context.Context, q console.Query) (page console.Page[console.Refusal], err error) {
	all, err := readRefusals(l.path)
	if err != nil {
		return page, err
	}
	slices.Reverse(all)
	wanted, err := console.PageOf(all, q, func(r refusal) string { return r.ID })
	if err != nil {
		return page, err
	}
	page.Next = wanted.Next
	for _, r := range wanted.Items {
		page.Items = append(page.Items, console.Refusal{
			ID: r.ID, Time: r.Time, Code: r.Code, Detail: r.Detail, Remote: r.Remote,
			Transport: string(r.Transport), Certificate: r.Certificate.String(),
		})
	}
	return page, nil
}
