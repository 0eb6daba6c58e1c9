package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	cdp "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"muster"
	"muster/mustertest"
)

type css = chromedp.CSS

// browserPatience is for a browser on a busy machine; nothing is measured by it.
const browserPatience = 5 * time.Minute

// A browser is a headless Chromium, and what it complained of.
type browser struct {
	t   *testing.T
	ctx context.Context
	url string

	mu         sync.Mutex
	complaints []string // guarded by mu
}

// TestBrowser has one Chromium, which trusts every certificate, for all that follows.
func TestBrowser(t *testing.T) {
	t.Parallel()
	mustertest.RequirePeer(t, "chromium")
	ctx, cancel := context.WithTimeout(t.Context(), browserPatience)
	defer cancel()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.IgnoreCertErrors, chromedp.WindowSize(1360, 900))
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	defer stop()
	ctx, end := chromedp.NewContext(ctx)
	defer end()
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(*testing.T, context.Context){
		"every page": browseEveryPage, "keyboard": browseByKeyboard, "feed": browseFeed, "form": browseForm, "hostile": browseHostile,
	} {
		t.Run(name, func(t *testing.T) { test(t, ctx) })
	}
}

// newBrowser opens a tab with cookies of its own.
func newBrowser(t *testing.T, chromium context.Context, url string) *browser {
	t.Helper()
	ctx, end := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	b := &browser{t: t, ctx: ctx, url: url}
	b.do() // opens it
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	return b
}

// listen keeps what a page without fault never causes: messages of the console,
// exceptions, what the policy of the content keeps back, dialogues.
func (b *browser) listen(event any) {
	var complaint string
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		text, _ := json.Marshal(e.Args)
		complaint = string(text)
	case *runtime.EventExceptionThrown:
		complaint = e.ExceptionDetails.Text
	case *log.EventEntryAdded:
		complaint = fmt.Sprint(e.Entry.Source, " ", e.Entry.Level, " ", e.Entry.Text, " ", e.Entry.URL)
	case *cdp.EventJavascriptDialogOpening:
		complaint = "a dialogue: " + e.Message
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint)
}

// complained returns what it complained of since the last call.
func (b *browser) complained() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.complaints = nil }()
	return b.complaints
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatalf("%v; it complained of %q", err, b.complained())
	}
}

// open loads a page.
func (b *browser) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.url+path), chromedp.WaitReady(css("main")))
}

// eval returns the value of an expression.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	return run(b, chromedp.Evaluate[T](expression))
}

func run[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, action)
	if err != nil {
		b.t.Fatalf("%v; it complained of %q", err, b.complained())
	}
	return value
}

// emulate has the browser prefer what a media feature says.
func (b *browser) emulate(name, value string) {
	b.t.Helper()
	features := []*emulation.MediaFeature{{Name: name, Value: value}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// keep writes a picture of the page into the folder MUSTER_ARTIFACTS, if that is set.
func (b *browser) keep(name string) {
	b.t.Helper()
	folder := os.Getenv("MUSTER_ARTIFACTS")
	if folder == "" || testing.Short() {
		return
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		b.t.Fatal(err)
	}
	picture := run(b, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(folder, "console-"+name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// signIn opens a one-time link.
func (b *browser) signIn(w *world, role Role) {
	b.t.Helper()
	secret, _ := w.want("admin", http.MethodPost, "/v1/tokens", TokenOrder{Role: role, SignIn: true}, http.StatusOK, "")["token"].(string)
	b.do(chromedp.Navigate(b.url+"/sign-in#"+secret), chromedp.Click(css(`[name="confirmed"]`)), chromedp.WaitReady(css(`nav[aria-label="Pages"]`)))
	if where := eval[string](b, "location.href"); where != b.url+"/" {
		b.t.Fatalf("the link led to %s", where)
	}
}

// contrast returns each text, and each bar of a chart, that its ground is too like
// (WCAG 1.4.3, 1.4.11): composited, against the first opaque ground behind it.
const contrast = `(() => {
  const parse = c => { const v = c.match(/[\d.]+/g).map(Number); return [v[0], v[1], v[2], v[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = c => { const [r, g, b] = c.map(x => { x /= 255; return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const ground = e => { const stack = []; for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); stack.push(c); if (c[3] === 1) break; }
    return stack.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]); };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const s = getComputedStyle(e), svg = e instanceof SVGElement;
    if (s.visibility !== 'visible' || e.closest('.unseen, noscript, template, title, desc') || !e.getClientRects().length) continue;
    const bar = e.matches('.chart svg .enrolled, .chart svg .attached, .chart svg .fetched, .chart svg .refused');
    const told = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || e.matches('input, textarea, select');
    if (!bar && !told) continue;
    const large = parseFloat(s.fontSize) >= 24 || parseFloat(s.fontSize) >= 18.66 && +s.fontWeight >= 700;
    const under = ground(svg ? e.closest('section, figure') : e), r = ratio(over(parse(svg ? s.fill : s.color), under), under);
    if (r < (bar || large ? 3 : 4.5)) poor.push(r.toFixed(2) + ' ' + e.tagName + '.' + (e.getAttribute('class') || '') + ' ' + e.textContent.trim().slice(0, 30));
  }
  return [...new Set(poor)];
})()`

// structure returns what is wrong with headings, landmarks, labels and tables.
const structure = `(() => {
  const wrong = [];
  let before = 0;
  for (const h of document.querySelectorAll('main h1, main h2, main h3, main h4')) {
    const level = +h.tagName[1];
    if (level > before + 1) wrong.push('heading ' + h.textContent + ' jumps to ' + level);
    before = level;
  }
  if (document.querySelectorAll('h1').length !== 1) wrong.push('there is not one h1');
  if (document.querySelectorAll('main').length !== 1) wrong.push('there is not one main');
  for (const e of document.querySelectorAll('input:not([type=hidden]), select, textarea')) if (!e.labels.length) wrong.push('no label: ' + e.name);
  for (const e of document.querySelectorAll('button, a')) if (!e.textContent.trim() && !e.hidden) wrong.push('no name: ' + e.outerHTML);
  for (const e of document.querySelectorAll('table')) if (!e.caption || e.querySelector('th:not([scope])')) wrong.push('a table without caption or scope');
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  for (const id of ids) if (ids.filter(other => other === id).length > 1) wrong.push('twice: ' + id);
  return [...new Set(wrong)];
})()`

// browsed are the pages that a browser walks through, by what their pictures are called.
func browsed(w *world) map[string]string {
	in := w.managed.Instructions[0]
	return map[string]string{
		"overview": "/", "enrolments": "/enrolments", "enrolment": "/enrolments/0@mef.example.com", "credentials": "/credentials", "registrations": "/registrations",
		"keys": "/keys", "commands": "/commands?enrolee=//sp.example/1&stakeholder=admin.example", "instructions": "/instructions", "instruction": "/instructions/" + in.ID, "instruction-new": "/instructions/new",
		"anchors": "/anchors", "configuration": "/configuration", "verdicts": "/verdicts", "refusals": "/refusals", "refusal": "/refusals/0", "audit": "/audit",
	}
}

// browseEveryPage walks through every page as a person does.
func browseEveryPage(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	w.ruled()
	b := newBrowser(t, chromium, w.url)

	b.open("/enrolments")
	if text := eval[string](b, "document.body.innerText"); !strings.Contains(text, "muster admin sign-in") || strings.Contains(text, "mef.example.com") {
		t.Fatalf("a stranger sees %s", text)
	}
	b.keep("sign-in-light")
	if told := b.complained(); len(told) != 1 || !strings.Contains(told[0], "401") {
		t.Errorf("it complained of %q", told)
	}
	b.signIn(w, RoleAdmin)
	looks := []string{"light", "dark", "phone"}
	if testing.Short() {
		looks = looks[:1]
	}
	for _, look := range looks {
		b.emulate("prefers-color-scheme", map[string]string{"light": "light", "dark": "dark", "phone": "light"}[look])
		if look == "phone" {
			b.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateScale(2), chromedp.EmulateMobile))
		}
		for name, path := range browsed(w) {
			b.open(path)
			if look == "light" { // the others have the same
				if wrong := eval[[]string](b, structure); len(wrong) != 0 {
					t.Errorf("%s: %q", path, wrong)
				}
			}
			if look != "phone" { // which has the colours of light
				if poor := eval[[]string](b, contrast); len(poor) != 0 {
					t.Errorf("%s, %s: %q", path, look, poor)
				}
			}
			if dark := eval[bool](b, `getComputedStyle(document.body).backgroundColor.match(/\d+/g).every(x => x < 60)`); dark != (look == "dark") {
				t.Errorf("%s, %s: the ground is dark: %v", path, look, dark)
			}
			if width := eval[int](b, "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth"); width > 0 {
				t.Errorf("%s, %s: the page is %d pixels too wide", path, look, width)
			}
			if look == "light" || slices.Contains([]string{"overview", "enrolment", "refusal", "instruction-new"}, name) {
				b.keep(name + "-" + look)
			}
		}
	}
	if told := b.complained(); len(told) != 0 {
		t.Errorf("it complained of %q", told)
	}
}

// browseByKeyboard reaches the pages with the tabulator, sees where it is, and
// skips to the content.
func browseByKeyboard(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	w.ruled()
	b := newBrowser(t, chromium, w.url)
	b.signIn(w, RoleAdmin)
	b.open("/anchors")
	var reached []string
	for len(reached) < 40 && !slices.Contains(reached, "/audit") {
		b.do(chromedp.KeyEvent(kb.Tab))
		reached = append(reached, eval[string](b, `document.activeElement.getAttribute('href') || document.activeElement.textContent`))
		if !eval[bool](b, `getComputedStyle(document.activeElement).outlineStyle !== 'none' && getComputedStyle(document.activeElement).outlineWidth !== '0px'`) {
			t.Errorf("the focus on %s is not seen", reached[len(reached)-1])
		}
	}
	if len(reached) == 0 || reached[0] != "#main" {
		t.Errorf("the first is not to skip to the content: %q", reached)
	}
	for _, p := range pages() {
		if want := strings.TrimSuffix(p.path, "{$}"); p.menu != "" && !slices.Contains(reached, want) {
			t.Errorf("the keyboard does not reach %s, only %q", want, reached)
		}
	}
	b.do(chromedp.KeyEvent(kb.Enter), chromedp.WaitReady(css(`nav a[href="/audit"][aria-current="page"]`)))
	b.do(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
	if at := eval[string](b, `document.activeElement.id`); at != "main" {
		t.Errorf("skipping leads to %q", at)
	}
}

// browseFeed sees events happen, without motion where none is wanted.
func browseFeed(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	b := newBrowser(t, chromium, w.url)
	b.emulate("prefers-reduced-motion", "reduce")
	b.signIn(w, RoleViewer)
	evil := `<img src=x onerror=alert(1)>`
	done := make(chan struct{})
	defer close(done)
	go func() { // an event may go to the page before, which is not gone yet
		for id := uint64(1); ; id++ {
			select {
			case w.events <- Event{ID: id, Time: w.pki.Now, Kind: "refused", Who: evil, Code: muster.CodeExpired}:
			case <-done:
				return
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-done:
				return
			}
		}
	}()
	b.do(chromedp.WaitReady(css(`.feed li[data-kind="refused"]`)))
	if text := eval[string](b, `document.querySelector('.feed li').innerText`); !strings.Contains(text, evil) || !strings.Contains(text, "expired") {
		t.Errorf("the feed shows %q", text)
	}
	if motion := eval[string](b, `getComputedStyle(document.querySelector('.feed li')).animationName`); motion != "none" {
		t.Errorf("it moves: %s", motion)
	}
	b.do(chromedp.Click(css(`[data-feed] button`)), chromedp.WaitReady(css(`[data-feed] button[aria-pressed="true"]`)))
	if told := b.complained(); len(told) != 0 {
		t.Errorf("it complained of %q", told)
	}
}

// browseForm writes an instruction, is told what is missing, and completes it.
func browseForm(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	w.ruled()
	b := newBrowser(t, chromium, w.url)
	b.signIn(w, RoleOperator)
	b.open("/instructions")
	b.do(chromedp.Click(css(`a[href="/instructions/new"]`)), chromedp.WaitReady(css("#name")))
	b.do(chromedp.SendKeys(css("#name"), "device.example.com"), chromedp.Click(css(`input[name="anchors"]`)), chromedp.SendKeys(css("#enrolee_id"), "//sp.example/9"), chromedp.Click(css("form.sheet button")))
	b.do(chromedp.WaitReady(css(".problem")))
	if text := eval[string](b, `document.querySelector('.problem').innerText`); !strings.Contains(text, "there is no target") || !strings.Contains(text, string(muster.CodeConfiguration)) || !strings.Contains(text, "Remedy") {
		t.Errorf("the problem is told as %q", text)
	}
	if kept := eval[string](b, `document.querySelector('#name').value + document.querySelector('[name=anchors]').checked`); kept != "device.example.comtrue" {
		t.Errorf("what was entered is %q", kept)
	}
	b.keep("instruction-problem-light")
	if told := b.complained(); len(told) != 1 || !strings.Contains(told[0], "422") {
		t.Errorf("it complained of %q", told)
	}
	b.do(chromedp.SendKeys(css("#targets"), "maf.example.com"), chromedp.Click(css("form.sheet button")), chromedp.WaitReady(css(".notice")))
	if _, managed, _ := w.Rules(t.Context()); len(managed.Instructions) != 2 || managed.Instructions[1].EnroleeID != "//sp.example/9" {
		t.Errorf("there are %+v", managed.Instructions)
	}
	b.do(chromedp.Click(css("header form button")), chromedp.WaitReady(css("[data-sign-in]")))
	if where := eval[string](b, "location.pathname"); where != "/sign-in" {
		t.Errorf("signing out leads to %s", where)
	}
	if told := b.complained(); len(told) != 0 {
		t.Errorf("it complained of %q", told)
	}
}

// browseHostile shows it what devices and strangers can write.
func browseHostile(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	evil := hostile(w)
	b := newBrowser(t, chromium, w.url)
	b.signIn(w, RoleAdmin)
	for path := range evil {
		b.open(path)
		if alive := eval[int](b, `document.querySelectorAll('img[src="x"], [onload], [onerror], script:not([src]), a[href^="javascript"]').length`); alive != 0 {
			t.Errorf("%s: %d texts became elements", path, alive)
		}
	}
	if told := b.complained(); len(told) != 0 {
		t.Errorf("it complained of %q", told)
	}
}
