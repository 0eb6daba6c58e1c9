package console

import (
	"net/http"
	"time"

	"muster"
)

// maxSignIn bounds what a stranger sends to sign in, in octets.
const maxSignIn = 4 << 10

// signIn makes a session of a one-time token. It is the one form for strangers.
func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxSignIn)
	secret, err := s.redeem(r)
	if err != nil {
		p := s.pageProblem(r, err)
		dismiss(w)
		s.render(w, r, p.Status, view{template: "sign-in", title: "Sign in"}, frame{Problem: p})
		return
	}
	if old, err := r.Cookie(sessionCookie); err == nil {
		s.tokens.revoke(old.Value)
	}
	setSession(w, secret, sessionTime)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// redeem returns the secret of a new session for the one-time token in a form.
func (s *Server) redeem(r *http.Request) (string, error) {
	if err := r.ParseForm(); err != nil {
		return "", muster.Refuse(muster.CodeRequestMalformed, "the form: %w", err)
	}
	now := s.config.Now()
	who, err := s.bearer(presented{r.PostForm.Get("token"), signInToken}, now)
	if err != nil {
		return "", err
	}
	if err := s.record(r.Context(), who, "sign in", ""); err != nil {
		return "", err
	}
	return s.tokens.issue(token{who.Name, who.Role, who.chain, sessionToken, now.Add(sessionTime)}, now)
}

func (s *Server) signOut(who caller, r *http.Request) (view, error) {
	if cookie, err := r.Cookie(sessionCookie); err == nil && who.token {
		s.tokens.revoke(cookie.Value)
	}
	return view{to: "/sign-in"}, s.record(r.Context(), who, "sign out", "")
}

// setSession sets the cookie of a session; a negative time removes it.
func setSession(w http.ResponseWriter, secret string, lifetime time.Duration) {
	age := int(lifetime / time.Second)
	if lifetime < 0 {
		age = -1
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: secret, Path: "/", MaxAge: age,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}
