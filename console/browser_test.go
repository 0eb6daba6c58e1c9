package console

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"muster"
	"muster/mustertest/browser"
)

type css = browser.CSS

// TestBrowser has one Chromium, which trusts every certificate, for all that follows.
func TestBrowser(t *testing.T) {
	t.Parallel()
	chromium := browser.Start(t)
	for name, test := range map[string]func(*testing.T, context.Context){
		"every page": browseEveryPage, "keyboard": browseByKeyboard, "feed": browseFeed, "form": browseForm, "hostile": browseHostile,
	} {
		t.Run(name, func(t *testing.T) { test(t, chromium) })
	}
}

// prefer has a browser prefer what a media feature says.
func prefer(b *browser.Tab, name, value string) {
	preferred := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: name, Value: value}}}
	b.Do(chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, preferred)
		return err
	}))
}

// visit has a browser load a page.
func (w *world) visit(b *browser.Tab, path string) {
	w.t.Helper()
	b.Load("main", chromedp.Navigate(w.url+path))
}

// signIn has a browser open a one-time link.
func (w *world) signIn(b *browser.Tab, role Role) {
	w.t.Helper()
	secret, _ := w.want("admin", http.MethodPost, "/v1/tokens", TokenOrder{Role: role, SignIn: true}, http.StatusOK, "")["token"].(string)
	b.Load(`[name="confirmed"]`, chromedp.Navigate(w.url+"/sign-in#"+secret))
	b.Follow(`[name="confirmed"]`, `nav[aria-label="Pages"]`)
	if where := browser.Eval[string](b, "location.href"); where != w.url+"/" {
		w.t.Fatalf("the link led to %s", where)
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
	b := browser.Open(t, chromium)

	w.visit(b, "/enrolments")
	if text := browser.Eval[string](b, "document.body.innerText"); !strings.Contains(text, "muster admin sign-in") || strings.Contains(text, "mef.example.com") {
		t.Fatalf("a stranger sees %s", text)
	}
	b.Keep("console-sign-in-light")
	b.Complained("401")
	w.signIn(b, RoleAdmin)
	looks := []string{"light", "dark", "phone"}
	if testing.Short() {
		looks = looks[:1]
	}
	for _, look := range looks {
		prefer(b, "prefers-color-scheme", map[string]string{"light": "light", "dark": "dark", "phone": "light"}[look])
		if look == "phone" {
			b.Do(chromedp.EmulateViewport(390, 844, chromedp.EmulateScale(2), chromedp.EmulateMobile))
		}
		for name, path := range browsed(w) {
			w.visit(b, path)
			if look == "light" { // the others have the same
				if wrong := browser.Eval[[]string](b, structure); len(wrong) != 0 {
					t.Errorf("%s: %q", path, wrong)
				}
			}
			if look != "phone" { // which has the colours of light
				if poor := browser.Eval[[]string](b, contrast); len(poor) != 0 {
					t.Errorf("%s, %s: %q", path, look, poor)
				}
			}
			if dark := browser.Eval[bool](b, `getComputedStyle(document.body).backgroundColor.match(/\d+/g).every(x => x < 60)`); dark != (look == "dark") {
				t.Errorf("%s, %s: the ground is dark: %v", path, look, dark)
			}
			if width := browser.Eval[int](b, "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth"); width > 0 {
				t.Errorf("%s, %s: the page is %d pixels too wide", path, look, width)
			}
			if look == "light" || slices.Contains([]string{"overview", "enrolment", "refusal", "instruction-new"}, name) {
				b.Keep("console-" + name + "-" + look)
			}
		}
	}
	b.Complained()
}

// browseByKeyboard reaches the pages with the tabulator, sees where it is, and
// skips to the content.
func browseByKeyboard(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	w.ruled()
	b := browser.Open(t, chromium)
	w.signIn(b, RoleAdmin)
	w.visit(b, "/anchors")
	var reached []string
	for len(reached) < 40 && !slices.Contains(reached, "/audit") {
		b.Do(chromedp.KeyEvent(kb.Tab))
		reached = append(reached, browser.Eval[string](b, `document.activeElement.getAttribute('href') || document.activeElement.textContent`))
		if !browser.Eval[bool](b, `getComputedStyle(document.activeElement).outlineStyle !== 'none' && getComputedStyle(document.activeElement).outlineWidth !== '0px'`) {
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
	b.Load(`nav a[href="/audit"][aria-current="page"]`, chromedp.KeyEvent(kb.Enter))
	b.Do(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter), chromedp.WaitReady(css("#main:focus")))
}

// browseFeed sees events happen, without motion where none is wanted.
func browseFeed(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	b := browser.Open(t, chromium)
	prefer(b, "prefers-reduced-motion", "reduce")
	w.signIn(b, RoleViewer)
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
	b.Shows(`.feed li[data-kind="refused"]`, evil, "expired")
	if motion := browser.Eval[string](b, `getComputedStyle(document.querySelector('.feed li')).animationName`); motion != "none" {
		t.Errorf("it moves: %s", motion)
	}
	b.Do(chromedp.Click(css(`[data-feed] button`)), chromedp.WaitReady(css(`[data-feed] button[aria-pressed="true"]`)))
	b.Complained()
}

// browseForm writes an instruction, is told what is missing, and completes it.
func browseForm(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	w.ruled()
	b := browser.Open(t, chromium)
	w.signIn(b, RoleOperator)
	w.visit(b, "/instructions")
	b.Follow(`a[href="/instructions/new"]`, "#name")
	b.Do(chromedp.SendKeys(css("#name"), "device.example.com"), chromedp.Click(css(`input[name="anchors"]`)), chromedp.SendKeys(css("#enrolee_id"), "//sp.example/9"))
	b.Follow("form.sheet button", ".problem")
	b.Shows(".problem", "there is no target", string(muster.CodeConfiguration), "Remedy")
	if kept := browser.Eval[string](b, `document.querySelector('#name').value + document.querySelector('[name=anchors]').checked`); kept != "device.example.comtrue" {
		t.Errorf("what was entered is %q", kept)
	}
	b.Keep("console-instruction-problem-light")
	b.Complained("422")
	b.Do(chromedp.SendKeys(css("#targets"), "maf.example.com"))
	b.Follow("form.sheet button", ".notice")
	if _, managed, _ := w.Rules(t.Context()); len(managed.Instructions) != 2 || managed.Instructions[1].EnroleeID != "//sp.example/9" {
		t.Errorf("there are %+v", managed.Instructions)
	}
	b.Follow("header form button", "[data-sign-in]")
	if where := browser.Eval[string](b, "location.pathname"); where != "/sign-in" {
		t.Errorf("signing out leads to %s", where)
	}
	b.Complained()
}

// browseHostile shows it what devices and strangers can write.
func browseHostile(t *testing.T, chromium context.Context) {
	w := newWorld(t)
	evil := hostile(w)
	b := browser.Open(t, chromium)
	w.signIn(b, RoleAdmin)
	for path := range evil {
		w.visit(b, path)
		if alive := browser.Eval[int](b, `document.querySelectorAll('img[src="x"], [onload], [onerror], script:not([src]), a[href^="javascript"]').length`); alive != 0 {
			t.Errorf("%s: %d texts became elements", path, alive)
		}
	}
	b.Complained()
}
