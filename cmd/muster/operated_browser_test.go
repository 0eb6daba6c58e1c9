package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"muster/mustertest"
)

type css = chromedp.CSS

// browserPatience is for a browser on a busy machine; nothing is measured by it.
const browserPatience = 3 * time.Minute

// A visitor is an operator with a headless Chromium, which trusts every certificate.
type visitor struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string // guarded by mu
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	mustertest.RequirePeer(t, "chromium")
	ctx, cancel := context.WithTimeout(t.Context(), browserPatience)
	t.Cleanup(cancel)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.IgnoreCertErrors, chromedp.WindowSize(1360, 900))
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	v := &visitor{t: t, ctx: ctx}
	v.do()
	must(t, chromedp.Listen(ctx, v.listen))
	return v
}

// listen keeps what a page without fault never causes.
func (v *visitor) listen(event any) {
	var complaint string
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		text, _ := json.Marshal(e.Args)
		complaint = string(text)
	case *runtime.EventExceptionThrown:
		complaint = e.ExceptionDetails.Text
	case *log.EventEntryAdded:
		complaint = e.Entry.Text + " " + e.Entry.URL
	default:
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.complaints = append(v.complaints, complaint)
}

func (v *visitor) do(actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	if err := chromedp.Do(v.ctx, actions...); err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.t.Fatalf("%v; it complained of %q", err, v.complaints)
	}
}

// turn leads to a page of the navigation, and waits until the one before is gone.
func (v *visitor) turn(path string) {
	v.t.Helper()
	link := `nav a[href="` + path + `"]`
	v.do(chromedp.Click(css(link)), chromedp.WaitReady(css(link+`[aria-current="page"]`)))
}

// sees waits for an element, and wants texts in the page.
func (v *visitor) sees(element string, texts ...string) {
	v.t.Helper()
	v.do(chromedp.WaitReady(css(element)))
	seen, err := chromedp.Run(v.ctx, chromedp.Evaluate[string]("document.querySelector('main').innerText"))
	must(v.t, err)
	for _, text := range texts {
		if !strings.Contains(strings.ToLower(seen), strings.ToLower(text)) {
			v.t.Errorf("%q is not in\n%s", text, seen)
		}
	}
}

// keep writes a picture of the page into the folder MUSTER_ARTIFACTS, if that is set.
func (v *visitor) keep(name string) {
	v.t.Helper()
	folder := os.Getenv("MUSTER_ARTIFACTS")
	if folder == "" || testing.Short() {
		return
	}
	must(v.t, os.MkdirAll(folder, 0o755))
	picture, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
	must(v.t, err)
	must(v.t, os.WriteFile(filepath.Join(folder, "running-"+name+".png"), picture, 0o644))
}

// TestBrowserOperatesARunningMEF signs an operator in by a link, who sees a device enrol
// and a stranger refused, queues a command, bans the device, and reloads.
func TestBrowserOperatesARunningMEF(t *testing.T) {
	t.Parallel()
	v := newVisitor(t)
	o := newOperated(t, 2)
	var link struct{ Link string }
	must(t, json.Unmarshal([]byte(o.ok("mef", []string{"sign-in", "--json"})), &link))
	address, _, _ := strings.Cut(link.Link, "/sign-in#")

	v.do(chromedp.Navigate(link.Link))
	v.sees(`[name="confirmed"]`, "signs this browser in as", "fqdn:"+labOperator, "admin")
	v.keep("sign-in")
	v.do(chromedp.Click(css(`[name="confirmed"]`)))
	v.sees(`[data-feed-state="open"]`, "Connected")

	device := o.device(0, overTLS)
	attachment, err := attach(t.Context(), device, true, patience)
	must(t, err)
	must(t, attachment.Close())
	v.sees(`.feed li[data-kind="enrolled"]`, operatedDevice)
	stranger := o.stranger()
	if _, err := stranger.Enrol(t.Context()); err == nil {
		t.Fatal("a stranger enrols")
	}
	v.sees(`.feed li[data-kind="refused"]`, "name-unknown")
	v.keep("feed")

	v.do(chromedp.Navigate(address+"/"), chromedp.WaitReady(css(".reasons li")))
	v.sees(".reasons li", "Ready", "1 enrolled", "name-unknown", "Expires")
	v.keep("overview")
	v.turn("/enrolments")
	v.do(chromedp.Click(css(`tbody a`)))
	v.sees(".steps .done", operatedDevice, "Both exported Ke and KeID", "With "+labMAF, labMAF+" fetched Km, once")
	v.keep("enrolment")

	v.do(chromedp.Click(css(`main a[href^="/commands"]`)), chromedp.SendKeys(css("#id"), "1"), chromedp.SendKeys(css("#stakeholder"), labAdmin),
		chromedp.Click(css("#node")), chromedp.SendKeys(css("#path"), "profile"), chromedp.Click(css("form.sheet button")))
	v.sees(".problem", "Refused", "request-malformed", "an authentication-profile has a SUID")
	v.keep("command-problem")
	v.do(chromedp.Click(css("#device")), chromedp.SendKeys(css("#server"), "1:coap://dm.example"), chromedp.Click(css("form.sheet button")))
	v.sees(".notice", "The command stands in the queue", "queued", "dm.example")
	v.keep("commands")

	v.turn("/refusals")
	v.do(chromedp.Click(css(`tbody a`)))
	v.sees(".findings li", "Judged again", "name-unknown", "Remedy", "fqdn:stranger.example")
	v.keep("refusal")

	v.turn("/enrolments")
	v.do(chromedp.Click(css(`tbody a`)), chromedp.Click(css(`main a[href^="/verdicts"]`)),
		chromedp.Click(css("#ban")), chromedp.SendKeys(css("#reason"), "stolen"), chromedp.Click(css("form.sheet button")))
	v.sees(".notice", "The verdict is in force", operatedDevice, "stolen")
	v.keep("verdicts")
	if _, err := device.Enrol(t.Context()); err == nil {
		t.Error("a banned device enrols")
	}
	v.turn("/refusals")
	v.sees("tbody tr", "banned")
	v.do(chromedp.Click(css(`tbody a`)))
	v.sees(".judgement", "banned")
	if offered, err := chromedp.Run(v.ctx, chromedp.Evaluate[int](`document.querySelectorAll('main a[href^="/instructions/new"]').length`)); err != nil || offered != 0 {
		t.Errorf("for who is banned, %d instructions are offered: %v", offered, err)
	}
	v.keep("banned")

	v.turn("/configuration")
	v.do(chromedp.Click(css("form.actions button")))
	v.sees(".notice", "was read again", "instructions")
	v.keep("configuration")
	v.turn("/audit")
	v.sees("tbody tr", "reload the configuration", "ban "+operatedDevice, "sign in", "enrolled")
	v.keep("audit")

	v.mu.Lock()
	defer v.mu.Unlock()
	// What a form is refused with, the browser tells by its status.
	if len(v.complaints) != 1 || !strings.Contains(v.complaints[0], "400") {
		t.Errorf("it complained of %q", v.complaints)
	}
}
