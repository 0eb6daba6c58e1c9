package console

import (
	"net/http"
	"time"

	"muster"
)

// maxSignIn bounds what a stranger sends to sign in, in octets.
const maxSignIn = 4 << 10

// A confirmation is as whom a link signs a browser in.
type confirmation struct {
	Who   identity
	Token string
	Now   *identity // who the browser is already; nil for a stranger
}

// signIn makes a session of a one-time token, in two steps, so that a link that
// somebody else made signs nobody in unawares: it shows as whom, and takes the word
// for it of a browser only that was shown so. It is the one form for strangers.
func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxSignIn)
	who, secret, err := s.linked(r)
	shown, _ := r.Cookie(shownCookie) // nil without
	switch {
	case err != nil:
	case !r.PostForm.Has("confirmed"):
		data := confirmation{Who: who.identity(), Token: secret}
		if now, err := s.authenticate(r, s.config.Now()); err == nil {
			data.Now = new(now.identity())
		}
		setCookie(w, shownCookie, markOf(secret), signInTime)
		s.render(w, r, http.StatusOK, view{template: "sign-in", title: "Sign in", data: &data}, frame{})
		return
	case shown == nil || shown.Value != markOf(secret):
		err = muster.Refuse(muster.CodeRequestNotAllowed, "this browser was not shown as whom the link signs it in; open the link in it")
	default:
		err = s.begin(w, r, who, secret)
	}
	if err != nil {
		p := s.pageProblem(r, err)
		dismiss(w)
		s.render(w, r, p.Status, view{template: "sign-in", title: "Sign in"}, frame{Problem: p})
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// markOf returns what a browser keeps that was shown as whom a token signs it in.
func markOf(secret string) string { return muster.DigestOf([]byte(secret)).String() }

// linked returns the one-time token in a form, and whose it is.
func (s *Server) linked(r *http.Request) (who caller, secret string, err error) {
	if err := r.ParseForm(); err != nil {
		return who, "", muster.Refuse(muster.CodeRequestMalformed, "the form: %w", err)
	}
	secret = r.PostForm.Get("token")
	who, err = s.bearer(presented{secret, signInToken}, s.config.Now())
	return who, secret, err
}

// begin spends a one-time token on a session, in the place of the one that there was.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, who caller, secret string) error {
	if !s.tokens.revoke(secret) {
		return muster.Refuse(muster.CodeTokenInvalid, "the token is spent")
	}
	if err := s.record(r.Context(), who, "sign in", ""); err != nil {
		return err
	}
	now := s.config.Now()
	session, err := s.tokens.issue(token{who.Name, who.Role, who.chain, sessionToken, now.Add(sessionTime)}, now)
	if err != nil {
		return err
	}
	if old, err := r.Cookie(sessionCookie); err == nil {
		s.tokens.revoke(old.Value)
	}
	setCookie(w, shownCookie, "", -1)
	setCookie(w, sessionCookie, session, sessionTime)
	return nil
}

func (s *Server) signOut(who caller, r *http.Request) (view, error) {
	if cookie, err := r.Cookie(sessionCookie); err == nil && who.token {
		s.tokens.revoke(cookie.Value)
	}
	return view{to: "/sign-in"}, s.record(r.Context(), who, "sign out", "")
}

// setCookie sets a cookie that no script reads and no other site has sent; a negative
// time removes it.
func setCookie(w http.ResponseWriter, name, value string, lifetime time.Duration) {
	age := int(lifetime / time.Second)
	if lifetime < 0 {
		age = -1
	}
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: age,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}
