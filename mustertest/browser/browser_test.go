package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestPagesAreWhole walks from page to page, the end of each of which comes late. The
// first leads to the second by itself, and has been loaded when that has begun.
func TestPagesAreWhole(t *testing.T) {
	t.Parallel()
	b := Open(t, Start(t))
	mux := http.NewServeMux()
	mux.HandleFunc("/favicon.ico", func(http.ResponseWriter, *http.Request) {})
	for path, body := range map[string]string{
		"/{$}":    `<form action="/second"></form><script>const busy = () => { for (const begun = Date.now(); Date.now() < begun + 150;); }; onload = () => { setTimeout(busy); document.forms[0].submit(); busy(); }</script>`,
		"/second": `<a id="second" href="/third">On</a>`,
		"/third":  `<a id="third" href="/missing">On</a><script>console.log("here")</script>`,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<!doctype html><main>", body)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond) // whoever does not wait is there before
			fmt.Fprint(w, " The end")
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	b.Load("#second", chromedp.Steps(chromedp.Navigate(server.URL), chromedp.WaitReady(CSS("#second"))))
	b.Shows("main", "The end")
	b.Follow("#second", "#third")
	b.Shows("main", "The end")
	b.Complained("here")
	b.Follow("#third", "body")
	b.Complained("404")
}
