package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"muster/mustertest/browser"
)

type css = browser.CSS

// TestBrowserOperatesARunningMEF signs an operator in by a link, who sees a device enrol
// and a stranger refused, queues a command, bans the device, and reloads.
func TestBrowserOperatesARunningMEF(t *testing.T) {
	t.Parallel()
	b := browser.Open(t, browser.Start(t))
	o := newOperated(t, 2)
	var link struct{ Link string }
	must(t, json.Unmarshal([]byte(o.ok("mef", []string{"sign-in", "--json"})), &link))
	address, _, _ := strings.Cut(link.Link, "/sign-in#")
	turn := func(path string) {
		page := css(`nav a[href="` + path + `"]`)
		b.Follow(page, page+`[aria-current="page"]`)
	}
	// A device knows that it is refused before the MEF has written that down.
	refused := func(code string, element css) {
		for turn("/refusals"); !strings.Contains(browser.Run(b, chromedp.Text(css("main"))), code); {
			turn("/refusals")
		}
		b.Follow("tbody a", element)
	}

	b.Load(`[name="confirmed"]`, chromedp.Navigate(link.Link))
	b.Shows("main", "signs this browser in as", "fqdn:"+labOperator, "admin")
	b.Keep("running-sign-in")
	b.Follow(`[name="confirmed"]`, "[data-feed]")
	b.Shows(`[data-feed-state="open"]`, "Connected")

	device := o.device(0, overTLS)
	attachment, err := attach(t.Context(), device, true, patience)
	must(t, err)
	must(t, attachment.Close())
	b.Shows(`.feed li[data-kind="enrolled"]`, operatedDevice)
	stranger := o.stranger()
	if _, err := stranger.Enrol(t.Context()); err == nil {
		t.Fatal("a stranger enrols")
	}
	b.Shows(`.feed li[data-kind="refused"]`, "name-unknown")
	b.Keep("running-feed")

	b.Load(".reasons li", chromedp.Navigate(address+"/"))
	b.Shows("main", "Ready", "1 enrolled", "name-unknown", "Expires")
	b.Keep("running-overview")
	turn("/enrolments")
	b.Follow("tbody a", ".steps .done")
	b.Shows("main", operatedDevice, "Both exported Ke and KeID", "With "+labMAF, labMAF+" fetched Km, once")
	b.Keep("running-enrolment")

	b.Follow(`main a[href^="/commands"]`, "form.sheet")
	b.Do(chromedp.SendKeys(css("#id"), "1"), chromedp.SendKeys(css("#stakeholder"), labAdmin), chromedp.Click(css("#node")), chromedp.SendKeys(css("#path"), "profile"))
	b.Follow("form.sheet button", ".problem")
	b.Shows("main", "Refused", "request-malformed", "an authentication-profile has a SUID")
	b.Keep("running-command-problem")
	b.Do(chromedp.Click(css("#device")), chromedp.SendKeys(css("#server"), "1:coap://dm.example"))
	b.Follow("form.sheet button", ".notice")
	b.Shows("main", "The command stands in the queue", "queued", "dm.example")
	b.Keep("running-commands")

	refused("name-unknown", ".findings li")
	b.Shows("main", "Judged again", "name-unknown", "Remedy", "fqdn:stranger.example")
	b.Keep("running-refusal")

	turn("/enrolments")
	b.Follow("tbody a", `main a[href^="/verdicts"]`)
	b.Follow(`main a[href^="/verdicts"]`, "form.sheet")
	b.Do(chromedp.Click(css("#ban")), chromedp.SendKeys(css("#reason"), "stolen"))
	b.Follow("form.sheet button", ".notice")
	b.Shows("main", "The verdict is in force", operatedDevice, "stolen")
	b.Keep("running-verdicts")
	if _, err := device.Enrol(t.Context()); err == nil {
		t.Error("a banned device enrols")
	}
	refused("banned", ".judgement")
	b.Shows("main", "banned")
	if offered := browser.Eval[int](b, `document.querySelectorAll('main a[href^="/instructions/new"]').length`); offered != 0 {
		t.Errorf("for who is banned, %d instructions are offered", offered)
	}
	b.Keep("running-banned")

	turn("/configuration")
	b.Follow("form.actions button", ".notice")
	b.Shows("main", "was read again", "instructions")
	b.Keep("running-configuration")
	turn("/audit")
	b.Shows("main", "reload the configuration", "ban "+operatedDevice, "sign in", "enrolled")
	b.Keep("running-audit")
	// What a form is refused with, the browser tells by its status.
	b.Complained("400")
}
