package console

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"muster"
)

// A page is what a browser is shown, or what happens when a form is sent.
type page struct {
	method, path string
	menu         string // its name in the navigation; empty if it is not there
	group        string // under which heading there
	access
	has  func(*Sources) bool
	show func(s *Server, who caller, r *http.Request) (view, error)
}

// A view is what a page shows: data in a template, or another place to go to. With
// an error, a view that has a template is shown with the error in it.
type view struct {
	template string
	title    string
	data     any
	to       string // path of the page that follows a form
}

// allows reports whether a caller may use what has the access.
func (a access) allows(who caller) bool {
	return slices.Contains(a.roles, who.Role) && (!a.unscoped || who.Scope.IsZero())
}

// pages returns every page. A form has the access of the route that does the same.
func pages() []page {
	rules := func(s *Sources) bool { return s.Rules != nil }
	reloads := func(s *Sources) bool { return s.Reload != nil }
	return slices.Concat([]page{
		{method: "GET", path: "/{$}", access: looking, menu: "Overview", has: func(s *Sources) bool { return s.Overview != nil }, show: (*Server).showOverview},
		{method: "POST", path: "/sign-out", access: looking, show: (*Server).signOut},
		enrolmentsPage(), {method: "GET", path: "/enrolments/{id}", access: looking, has: func(s *Sources) bool { return s.Enrolments != nil }, show: (*Server).showEnrolment},
		credentialsPage(), registrationsPage(), keysPage(),
		{method: "GET", path: "/commands", access: looking, menu: "Commands", group: "Devices", has: func(s *Sources) bool { return s.Commands != nil }, show: (*Server).showCommands},
		{method: "POST", path: "/commands", access: changing, has: func(s *Sources) bool { return s.Commands != nil && s.Queue != nil }, show: (*Server).postCommand},
		instructionsPage(),
		{method: "GET", path: "/instructions/new", access: changing, has: rules, show: (*Server).newInstruction},
		{method: "POST", path: "/instructions", access: changing, has: rules, show: (*Server).postInstruction},
		{method: "GET", path: "/instructions/{id}", access: looking, has: rules, show: (*Server).showInstruction},
		{method: "POST", path: "/instructions/{id}", access: changing, has: rules, show: (*Server).postInstruction},
		{method: "POST", path: "/instructions/{id}/delete", access: changing, has: rules, show: (*Server).postDeletion},
		{method: "GET", path: "/anchors", access: looking, menu: "Anchors", group: "Rules", has: rules, show: (*Server).showAnchors},
		{method: "POST", path: "/anchors", access: trusting, has: rules, show: (*Server).postAnchor},
		{method: "POST", path: "/anchors/{id}/delete", access: trusting, has: rules, show: (*Server).postDistrust},
		{method: "GET", path: "/verdicts", access: lookingAt, menu: "Verdicts", group: "Rules", has: rules, show: (*Server).showVerdicts},
		{method: "POST", path: "/verdicts", access: governing, has: rules, show: (*Server).postVerdict},
		{method: "POST", path: "/verdicts/{id}/lift", access: governing, has: rules, show: (*Server).postLift},
		{method: "GET", path: "/configuration", access: trusting, menu: "Configuration", group: "Rules", has: reloads, show: (*Server).showConfiguration},
		{method: "POST", path: "/configuration", access: trusting, has: reloads, show: (*Server).postReload},
		refusalsPage(), {method: "GET", path: "/refusals/{id}", access: lookingAt, has: func(s *Sources) bool { return s.Refusals != nil }, show: (*Server).showRefusal},
		auditPage(),
	})
}

//go:embed pages
var files embed.FS

// templates has each page's template, in the layout of all.
var templates = func() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").Funcs(template.FuncMap{
		"path": url.PathEscape, "date": date, "stamp": stamp, "short": short, "count": count, "ago": ago, "lifetime": lifetime, "pair": func(one, other string) []string { return []string{one, other} }, "lines": func(list []string) string { return strings.Join(list, "\n") },
	}).ParseFS(files, "pages/layout.html"))
	all := map[string]*template.Template{}
	names, err := fs.Glob(files, "pages/*.html")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for _, name := range names {
		all[strings.TrimSuffix(path.Base(name), ".html")] = template.Must(template.Must(layout.Clone()).ParseFS(files, name))
	}
	return all
}()

// policy keeps a browser from loading or running anything that is not served here.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// A frame is what the layout shows around a page.
type frame struct {
	Title   string
	Host    string
	Path    string
	Who     *identity // nil for a stranger
	Menu    []menuGroup
	Problem *problem
	Done    string // what a form has done
	Data    any
}

type menuGroup struct {
	Name  string
	Items []menuItem
}

type menuItem struct {
	Name, Path string
	Here       string // as aria-current takes it
}

// addPages serves the pages, and the files that they need.
func (s *Server) addPages() {
	s.pages = slices.DeleteFunc(pages(), func(p page) bool { return p.has != nil && !p.has(&s.config.Sources) })
	for _, p := range s.pages {
		s.mux.HandleFunc(p.method+" "+p.path, func(w http.ResponseWriter, r *http.Request) { s.servePage(w, r, p) })
	}
	if s.config.Overview == nil {
		s.mux.HandleFunc("GET /{$}", s.leadOn)
	}
	s.mux.HandleFunc("GET /sign-in", func(w http.ResponseWriter, r *http.Request) {
		s.render(w, r, http.StatusOK, view{template: "sign-in", title: "Sign in"}, frame{})
	})
	s.mux.HandleFunc("POST /sign-in", s.signIn)
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		body, err := files.ReadFile("pages/" + name)
		if err != nil {
			panic(err) // it is not embedded
		}
		tag := tagOf(body)
		s.mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-cache") // it may be kept, and is asked for
			w.Header().Set("ETag", tag)
			http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
		})
	}
}

// doneWords are what a page says after a form, by the parameter done in its address.
var doneWords = map[string]string{
	"created": "The instruction is in force.", "changed": "The instruction is changed, and in force.", "deleted": "The instruction is deleted.",
	"added": "The anchor is added; instructions may pin it.", "distrusted": "The anchor is deleted.",
	"passed": "The verdict is in force.", "lifted": "The verdict is lifted.",
	"queued": "The command stands in the queue.", "queued-group": "The command stands in the queue of every registered client whose identifier begins so.",
	"queued-nobody": "No client is registered whose identifier begins so: the command is queued for nobody.",
}

// servePage shows a page to whoever may see it.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request, p page) {
	who, err := s.admit(r, p.method+" "+strings.TrimSuffix(p.path, "{$}"), p.access)
	if err != nil && who.Role == "" {
		s.refusePage(w, r, err)
		return
	}
	query := r.URL.Query()
	done := doneWords[query.Get("done")]
	query.Del("done")
	r.URL.RawQuery = query.Encode()
	var v view
	if err == nil {
		v, err = p.show(s, who, r)
	}
	f := frame{Done: done, Who: new(who.identity()), Menu: s.menu(who, r.URL.Path)}
	status := http.StatusOK
	switch {
	case err != nil:
		f.Problem = s.pageProblem(r, err)
		status, f.Done = f.Problem.Status, ""
		if v.template == "" {
			v = view{template: "refused", title: http.StatusText(status)}
		}
	case v.to != "":
		http.Redirect(w, r, v.to, http.StatusSeeOther)
		return
	}
	s.render(w, r, status, v, f)
}

// refusePage tells a stranger how to sign in, and nothing else; and whoever is none,
// that a page is not there.
func (s *Server) refusePage(w http.ResponseWriter, r *http.Request, err error) {
	who, stranger := s.authenticate(r, s.config.Now())
	if stranger != nil {
		if _, kept := r.Cookie(sessionCookie); kept == nil {
			setCookie(w, sessionCookie, "", -1) // so that a certificate counts again
		}
		p := s.pageProblem(r, stranger)
		if p.Code == muster.CodeNoCertificate {
			p = nil // whoever is here for the first time has done nothing wrong
		}
		dismiss(w)
		s.render(w, r, http.StatusUnauthorized, view{template: "sign-in", title: "Sign in"}, frame{Problem: p})
		return
	}
	p := s.pageProblem(r, err)
	s.render(w, r, p.Status, view{template: "refused", title: http.StatusText(p.Status)}, frame{Problem: p, Who: new(who.identity()), Menu: s.menu(who, r.URL.Path)})
}

// pageProblem logs an error and returns what a page tells of it, the code by itself.
func (s *Server) pageProblem(r *http.Request, err error) *problem {
	p := s.problemOf(r, err)
	p.Detail = strings.TrimPrefix(p.Detail, string(p.Code)+": ")
	return &p
}

// wantsPage reports whether a request that no route serves comes from a browser.
func wantsPage(r *http.Request) bool {
	return !strings.HasPrefix(r.URL.Path, "/v1") && strings.Contains(r.Header.Get("Accept"), "text/html")
}

func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, v view, f frame) {
	f.Title, f.Host, f.Path, f.Data = v.title, r.Host, r.URL.Path, v.data
	var body bytes.Buffer
	if err := templates[v.template].ExecuteTemplate(&body, "layout.html", f); err != nil {
		s.refuse(w, r, fmt.Errorf("the page %s: %w", v.template, err))
		return
	}
	s.write(w, status, "text/html; charset=utf-8", body.Bytes())
}

// menu returns the pages that a caller may see.
func (s *Server) menu(who caller, at string) (groups []menuGroup) {
	for _, p := range s.pages {
		if p.menu == "" || !p.allows(who) || p.group == "" && !lookingAt.allows(who) {
			continue
		}
		item := menuItem{Name: p.menu, Path: strings.TrimSuffix(p.path, "{$}")}
		switch {
		case at == item.Path:
			item.Here = "page"
		case strings.HasPrefix(at, item.Path+"/"):
			item.Here = "true"
		}
		if len(groups) == 0 || groups[len(groups)-1].Name != p.group {
			groups = append(groups, menuGroup{Name: p.group})
		}
		last := &groups[len(groups)-1]
		last.Items = append(last.Items, item)
	}
	return groups
}

// errNothing is for callers whose function has no page for them.
var errNothing = errors.New("there is no page for the role")

// firstPage leads a caller to the first page that is for them.
func (s *Server) firstPage(who caller) (view, error) {
	if menu := s.menu(who, ""); len(menu) > 0 {
		return view{to: menu[0].Items[0].Path}, nil
	}
	return view{}, muster.Refuse(muster.CodeResourceUnknown, "%w", errNothing)
}

// leadOn stands in for the overview of a function that has none.
func (s *Server) leadOn(w http.ResponseWriter, r *http.Request) {
	s.servePage(w, r, page{method: "GET", path: "/", access: looking, show: func(s *Server, who caller, _ *http.Request) (view, error) { return s.firstPage(who) }})
}

func date(t time.Time) string  { return t.UTC().Format("2006-01-02 15:04:05") }
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// short returns the beginning of a digest or identifier.
func short(text string) string {
	if runes := []rune(text); len(runes) > 14 {
		return string(runes[:12]) + "…"
	}
	return text
}

// count returns a number with its thousands apart.
func count(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// lifetime returns a duration as people write it: 24h rather than 24h0m0s.
func lifetime(text string) string {
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// ago returns a time in relation to now, roughly.
func ago(t, now time.Time) string {
	d, form := now.Sub(t), "%s ago"
	if d < 0 {
		d, form = -d, "in %s"
	}
	many := func(n time.Duration, unit string) string {
		if n != 1 {
			unit += "s"
		}
		return fmt.Sprintf(form, fmt.Sprint(int64(n), " ", unit))
	}
	switch {
	case d < time.Minute:
		return many(d/time.Second, "second")
	case d < 2*time.Hour:
		return many(d/time.Minute, "minute")
	case d < 48*time.Hour:
		return many(d/time.Hour, "hour")
	}
	return many(d/(24*time.Hour), "day")
}
