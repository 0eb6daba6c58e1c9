package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// assumedWidth is the columns of a terminal that does not tell.
const assumedWidth = 80

// terminalWidth returns how many columns the terminal has that out writes to, and 0
// if it writes to something else.
func terminalWidth(out io.Writer) int {
	file, ok := out.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return assumedWidth
	}
	return int(size.Col)
}

// printable returns text of others with everything escaped that a terminal would
// obey rather than show: controls, line ends, and what turns the direction of writing.
func printable(text string) string {
	clean := func(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }
	if strings.IndexFunc(text, func(r rune) bool { return !clean(r) }) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if clean(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// cut returns text of at most width columns, and whole with 0.
func cut(text string, width int) string {
	if width == 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}

// A progress shows on a terminal how far something is. A nil progress shows nothing.
type progress struct {
	out   io.Writer
	total int
	of    string
}

// newProgress returns a progress if out writes to a terminal.
func newProgress(out io.Writer, total int, of string) *progress {
	if terminalWidth(out) == 0 {
		return nil
	}
	return &progress{out, total, of}
}

// show draws the bar over the one before.
func (p *progress) show(done int) {
	const width = 40
	if p == nil {
		return
	}
	filled := width
	if p.total > 0 {
		filled = done * width / p.total
	}
	fmt.Fprintf(p.out, "\r[%s%s] %d/%d %s", strings.Repeat("#", filled), strings.Repeat(".", width-filled), done, p.total, p.of)
}

// end lets the next line begin below the bar.
func (p *progress) end() {
	if p != nil {
		fmt.Fprintln(p.out)
	}
}
