package console

import "net/http"

// A configurationView has what came of reading the configuration again; nil before it.
type configurationView struct{ Done *Reloaded }

func (s *Server) showConfiguration(caller, *http.Request) (view, error) {
	return view{template: "configuration", title: "Configuration", data: configurationView{}}, nil
}

// postReload shows what came of it at once: there is nothing else to go to.
func (s *Server) postReload(who caller, r *http.Request) (view, error) {
	v, err := s.showConfiguration(who, r)
	done, refused := s.reload(r.Context(), who)
	if err == nil && refused == nil {
		v.data = configurationView{&done}
	}
	return v, refused
}
