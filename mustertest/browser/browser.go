// Package browser looks at pages with a headless Chromium, for tests.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"muster/mustertest"
)

// CSS selects elements of a page.
type CSS = chromedp.CSS

// patience is for a browser on a busy machine; nothing is measured by it.
const patience = 5 * time.Minute

// Start runs a Chromium, which trusts every certificate, until the test ends, and for
// five minutes at most. The test is skipped, or fails, as mustertest.RequirePeer says.
func Start(t testing.TB) context.Context {
	t.Helper()
	mustertest.RequirePeer(t, "chromium")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.IgnoreCertErrors, chromedp.WindowSize(1360, 900),
		chromedp.Flag("allow-pre-commit-input", true)) // else what is entered before a page is painted may be lost
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// A Tab shows one page after the other. What fails in it ends the test. Its methods
// are for one goroutine.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu         sync.Mutex
	complaints []string // guarded by mu
}

// Open opens a tab, with cookies of its own, of what Start returned, until the test ends.
func Open(t testing.TB, chromium context.Context) *Tab {
	t.Helper()
	ctx, end := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	b := &Tab{t: t, ctx: ctx}
	b.Do() // opens it
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	return b
}

// listen keeps what a page without fault never causes: messages of the console,
// exceptions, what the policy of the content keeps back, dialogues.
func (b *Tab) listen(event any) {
	var complaint string
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		text, _ := json.Marshal(e.Args)
		complaint = string(text)
	case *runtime.EventExceptionThrown:
		complaint = e.ExceptionDetails.Text
	case *log.EventEntryAdded:
		complaint = fmt.Sprint(e.Entry.Source, " ", e.Entry.Level, " ", e.Entry.Text, " ", e.Entry.URL)
	case *page.EventJavascriptDialogOpening:
		complaint = "a dialogue: " + e.Message
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint)
}

func (b *Tab) complained() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.complaints = nil }()
	return b.complaints
}

// Complained wants that pages complained, since the last call, of this alone: each
// time of what has the text in it.
func (b *Tab) Complained(of ...string) {
	b.t.Helper()
	if told := b.complained(); !slices.EqualFunc(told, of, strings.Contains) {
		b.t.Errorf("it complained of %q, want %q", told, of)
	}
}

// Run returns the value of an action that loads no page.
func Run[T any](b *Tab, action chromedp.Action[T]) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, action)
	if err != nil {
		b.t.Fatalf("%v; it complained of %q", err, b.complained())
	}
	return value
}

// Eval returns the value of an expression.
func Eval[T any](b *Tab, expression string) T {
	b.t.Helper()
	return Run(b, chromedp.Evaluate[T](expression))
}

// Do runs actions that load no page.
func (b *Tab) Do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	Run(b, chromedp.Steps(actions...))
}

// Load runs an action that loads a page, or one that leads to the next by itself, and
// waits until a page is whole and has an element. Of one that is not whole, Chromium
// soon forgets every element that was found.
func (b *Tab) Load(element CSS, action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	other := "no page"
	shown := fmt.Sprintf(`document.readyState === 'complete' && document.querySelector(%q)
		? '' : location + ': ' + document.body.innerText`, element)
	_, err := chromedp.Run(b.ctx, chromedp.WaitEvent(page.LoadEventFired, func(page.EventLoadEventFired) bool {
		text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](shown))
		if err != nil { // the next page is taking the place of this one
			return false
		}
		other = text
		return text == ""
	}, action))
	if err != nil {
		b.t.Fatalf("%v, waiting for a page with %s; there is %s; it complained of %q", err, element, other, b.complained())
	}
}

// Follow clicks on what leads to a page, and waits until that is whole and has an element.
func (b *Tab) Follow(link, element CSS) {
	b.t.Helper()
	b.Load(element, chromedp.Click(link))
}

// Shows waits for an element, and wants texts in it, in whatever case.
func (b *Tab) Shows(element CSS, texts ...string) {
	b.t.Helper()
	shown := Run(b, chromedp.Text(element))
	for _, text := range texts {
		if !strings.Contains(strings.ToLower(shown), strings.ToLower(text)) {
			b.t.Errorf("%q is not in\n%s", text, shown)
		}
	}
}

// Keep writes a picture of the page into the folder MUSTER_ARTIFACTS, if that is set.
func (b *Tab) Keep(name string) {
	b.t.Helper()
	folder := os.Getenv("MUSTER_ARTIFACTS")
	if folder == "" || testing.Short() {
		return
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".png"), Run(b, chromedp.FullScreenshot(100)), 0o644); err != nil {
		b.t.Fatal(err)
	}
}
