package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"muster"
)

// A commandsView lists the commands of a client, with a form for another.
type commandsView struct {
	table
	May     bool
	Entered url.Values // into the form
}

// commandsOf returns the address of the commands that a stakeholder has for a client.
func commandsOf(client, stakeholder string) string {
	return "/commands?" + url.Values{"enrolee": {client}, "stakeholder": {stakeholder}}.Encode()
}

func (s *Server) showCommands(who caller, r *http.Request) (view, error) {
	shown := commandsView{May: s.config.Queue != nil && changing.allows(who)}
	shown.Lead = "The queue of MEF client commands that a stakeholder has for an Enrolee, in its order."
	shown.Columns = []string{"Command", "Status", "Description", "Created", "Changed"}
	found, err := listOf(r, who, s.config.Commands, &shown.table, []filter{
		{Name: "enrolee", Label: "Enrolee", Hint: "//sp.example/device", Required: true}, {Name: "stakeholder", Label: "Stakeholder", Hint: "admin.example", Required: true},
	})
	for _, c := range found {
		shown.Rows = append(shown.Rows, []cell{code(c.ID), state(commandStatus(c.Status)), code(string(c.Description)), at(c.Created), at(c.Changed)})
	}
	shown.Entered = url.Values{"class": {"device"}, "stakeholder": {who.Scope.Stakeholder.String()}}
	for _, f := range shown.Filters {
		if f.Value != "" {
			shown.Entered.Set(f.Name, f.Value)
		}
	}
	return view{template: "commands", title: "Commands", data: &shown}, err
}

// postCommand queues the command of the class that was chosen, and nothing of what was
// entered for another.
func (s *Server) postCommand(who caller, r *http.Request) (view, error) {
	form, err := formOf(r)
	if err != nil {
		return view{}, err
	}
	order := CommandOrder{ID: field(form, "id"), Stakeholder: field(form, "stakeholder"), EnroleeID: field(form, "enrolee"), Prefix: field(form, "prefix")}
	order.Command, err = commandIn(form)
	var queued Queued
	if err == nil {
		queued, err = s.queue(r.Context(), who, order)
	}
	switch {
	case err == nil && order.Prefix == "":
		return view{to: commandsOf(order.EnroleeID, order.Stakeholder) + "&done=queued"}, nil
	case err == nil && queued.Clients > 0:
		return view{to: "/commands?done=queued-group"}, nil
	case err == nil:
		return view{to: "/commands?done=queued-nobody"}, nil
	}
	v, failed := s.showCommands(who, r)
	if failed != nil {
		return view{}, failed
	}
	v.data.(*commandsView).Entered = form
	return v, err
}

// commandFields are the fields with the arguments of each class, as muster command
// queue takes them.
var commandFields = map[string][]string{
	"certificate": {"protocol", "ca", "subject_type", "subject"}, "device": {"server"}, "node": {"path", "node_type"},
}

// commandIn returns the class and the arguments in a form.
func commandIn(form url.Values) (command []string, err error) {
	class := field(form, "class")
	fields, ok := commandFields[class]
	if !ok {
		return nil, muster.Refuse(muster.CodeRequestMalformed, "no class of command was chosen")
	}
	command = append(command, class)
	for _, name := range fields {
		argument := field(form, name)
		if argument == "" {
			return nil, muster.Refuse(muster.CodeRequestMalformed, "the command lacks its %s", strings.ReplaceAll(name, "_", " "))
		}
		command = append(command, argument)
	}
	if usage := field(form, "suid"); class == "node" && usage != "" {
		command = append(command, usage)
	}
	return command, nil
}

// commandStatus returns a status with its word (TS-0003 12.3.2.4).
func commandStatus(status int) string {
	switch {
	case status == 0:
		return "queued" // and not issued yet
	case status == 10:
		return "10 issued"
	case status == 11:
		return "11 issued again"
	case status == 20:
		return "20 performed"
	case status >= 40:
		return fmt.Sprint(status, " failed")
	}
	return fmt.Sprint(status)
}
