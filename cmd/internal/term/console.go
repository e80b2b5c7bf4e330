// Package term is the sole owner of the terminal: colour, width, progress, Markdown and
// how verdicts look. It knows what is shown, not what it means; it decides nothing.
package term

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// The width assumed where there is none to ask for, and the bounds on a readable line.
const (
	defaultWidth = 80
	minWidth     = 40
	maxWidth     = 100
)

// Console is a stream that a person may be looking at.
type Console struct {
	io.Writer

	TTY    bool       // the cursor can be moved
	Colour bool       // escape sequences for colour are wanted
	Width  func() int // columns; nil is 80
}

// Detect finds out what w is. Colour needs a terminal, NO_COLOR unset and TERM not dumb.
func Detect(w io.Writer, getenv func(string) string) *Console {
	c := &Console{Writer: w}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || getenv("TERM") == "dumb" {
		return c
	}
	c.TTY = true
	c.Colour = getenv("NO_COLOR") == ""
	c.Width = func() int {
		w, _, err := term.GetSize(int(f.Fd()))
		if err != nil || w <= 0 {
			return defaultWidth
		}
		return w
	}
	return c
}

// width is the number of columns of the stream.
func (c *Console) width() int {
	if c.Width == nil {
		return defaultWidth
	}
	return c.Width()
}

// textWidth is the width at which prose is wrapped.
func (c *Console) textWidth() int { return min(max(c.width(), minWidth), maxWidth) }

// Style is a set of SGR parameters.
type Style string

// The styles in use.
const (
	Bold   Style = "1"
	Dim    Style = "2"
	Italic Style = "3"
	Red    Style = "31"
	Green  Style = "32"
	Yellow Style = "33"
	Cyan   Style = "36"
	Title  Style = "1;36"
)

// Paint returns s in the style, or s itself where colour is not wanted.
func (c *Console) Paint(st Style, s string) string {
	if !c.Colour || s == "" {
		return s
	}
	return "\x1b[" + string(st) + "m" + s + "\x1b[0m"
}

// Printf writes to the console. A reader that went away is not worth a word.
func (c *Console) Printf(format string, args ...any) { fmt.Fprintf(c, format, args...) }

// Table writes rows in columns, the first row as header.
func (c *Console) Table(rows ...[]string) {
	var sb strings.Builder
	w := tabwriter.NewWriter(&sb, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	for i, line := range strings.Split(strings.TrimSuffix(sb.String(), "\n"), "\n") {
		line = strings.TrimRight(line, " ")
		if i == 0 {
			line = c.Paint(Bold, line)
		}
		fmt.Fprintln(c, line)
	}
}

// Confirm asks a question on c and reads the answer from in. Only y and yes are a yes.
func Confirm(ctx context.Context, c *Console, in io.Reader, question string) (bool, error) {
	c.Printf("%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // left behind where ctx ends first: a read from a terminal cannot be stopped
		line, _ := bufio.NewReader(in).ReadString('\n')
		answer <- line
	}()
	select {
	case <-ctx.Done():
		c.Printf("\n")
		return false, context.Cause(ctx)
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, nil
		}
		return false, nil
	}
}

// IsTerminal tells whether r is a terminal that a person can type at.
func IsTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
