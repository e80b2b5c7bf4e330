package coreutils

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// grepper searches. Its patterns are Go's regular expressions under POSIX's rules of
// what needs a backslash; back-references are not supported.
type grepper struct {
	call                                                  *applet.Call
	re                                                    *regexp.Regexp
	invert, count, list, listWithout, number, quiet, only bool
	names                                                 bool // head each line with its file's name
	before, after, most                                   int
	hits                                                  int // in all files
}

func grep(ctx context.Context, call *applet.Call) int {
	g := &grepper{call: call, most: -1}
	var opts applet.Options
	var extended, fixed, fold, word, line, recursive, silent, withName, noName bool
	var patterns []string
	opts.Bool(&extended, "E extended-regexp")
	opts.Bool(&fixed, "F fixed-strings")
	opts.Ignore("G basic-regexp")
	opts.Bool(&fold, "i ignore-case")
	opts.Bool(&word, "w word-regexp")
	opts.Bool(&line, "x line-regexp")
	opts.Bool(&recursive, "r R recursive")
	opts.Bool(&silent, "s no-messages")
	opts.Bool(&withName, "H with-filename")
	opts.Bool(&noName, "h no-filename")
	opts.Strings(&patterns, "e regexp")
	opts.Bool(&g.invert, "v invert-match")
	opts.Bool(&g.count, "c count")
	opts.Bool(&g.list, "l files-with-matches")
	opts.Bool(&g.listWithout, "L files-without-match")
	opts.Bool(&g.number, "n line-number")
	opts.Bool(&g.quiet, "q quiet")
	opts.Bool(&g.only, "o only-matching")
	opts.Int(&g.most, "m max-count")
	opts.Int(&g.before, "B before-context")
	opts.Int(&g.after, "A after-context")
	both := 0
	opts.Int(&both, "C context")
	opts.Ignore("color colour")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	g.before, g.after = max(g.before, both), max(g.after, both)
	if len(patterns) == 0 {
		if len(names) == 0 {
			return call.Misused(errors.New("no pattern given"))
		}
		patterns, names = names[:1], names[1:]
	}
	var err error
	if g.re, err = compile(patterns, extended, fixed, fold, word, line); err != nil {
		return call.Misused(err)
	}
	if recursive {
		if names, err = filesBelow(call, names); err != nil {
			return call.Misused(err)
		}
	}
	g.names = (len(names) > 1 || recursive || withName) && !noName
	if silent {
		call.Err = io.Discard
	}
	if recursive && len(names) == 0 {
		return applet.Failure
	}
	status = eachInput(ctx, call, names, g.file)
	switch {
	case status > applet.Failure:
		return status
	case g.quiet && g.hits > 0:
		return applet.OK
	case status != applet.OK:
		return applet.Usage // POSIX: greater than 1 on error
	case g.hits == 0:
		return applet.Failure
	}
	return applet.OK
}

// compile joins the patterns to one expression. Newlines separate patterns too.
func compile(patterns []string, extended, fixed, fold, word, line bool) (*regexp.Regexp, error) {
	var alternatives []string
	for _, p := range strings.Split(strings.Join(patterns, "\n"), "\n") {
		switch {
		case fixed:
			p = regexp.QuoteMeta(p)
		case !extended:
			p = fromBasic(p)
		}
		alternatives = append(alternatives, "(?:"+p+")")
	}
	expr := strings.Join(alternatives, "|")
	if word {
		expr = `\b(?:` + expr + `)\b`
	}
	if line {
		expr = `^(?:` + expr + `)$`
	}
	if fold {
		expr = "(?i)" + expr
	}
	return regexp.Compile(expr)
}

// fromBasic turns a basic regular expression into an extended one: there the backslash
// makes ( ) { } | + ? special, here it makes them plain.
func fromBasic(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '[':
			// A bracket expression is the same in both; a ] first in it is a member.
			end := i + 1
			if end < len(p) && p[end] == '^' {
				end++
			}
			if end < len(p) && p[end] == ']' {
				end++
			}
			for end < len(p) && p[end] != ']' {
				if p[end] == '[' && end+1 < len(p) && p[end+1] == ':' {
					if n := strings.Index(p[end:], ":]"); n > 0 {
						end += n + 1
					}
				}
				end++
			}
			end = min(end, len(p)-1)
			b.WriteString(p[i : end+1])
			i = end
		case c == '\\' && i+1 < len(p):
			i++
			if !strings.ContainsRune("(){}|+?", rune(p[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(p[i])
		case strings.ContainsRune("(){}|+?", rune(c)), c == '*' && (i == 0 || strings.HasSuffix(p[:i], `\(`) || i == 1 && p[0] == '^'):
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func filesBelow(call *applet.Call, names []string) ([]string, error) {
	if len(names) == 0 {
		names = []string{"."}
	}
	var found []string
	for _, name := range names {
		if fi, err := os.Stat(call.Path(name)); err != nil || !fi.IsDir() {
			found = append(found, name)
			continue
		}
		err := fs.WalkDir(os.DirFS(call.Path(name)), ".", func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				found = append(found, filepath.Join(name, p))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// numbered is a line held back as context.
type numbered struct {
	n    int
	text []byte
}

func (g *grepper) file(name string, r io.Reader) error {
	shown := name
	if name == "-" {
		shown = "(standard input)"
	}
	hits, n, last, trailing := 0, 0, 0, 0
	var held []numbered
	err := eachLine(r, func(line []byte) error {
		n++
		line = bytes.TrimSuffix(line, []byte{'\n'})
		if g.re.Match(line) == g.invert {
			if trailing > 0 && g.printing() {
				trailing--
				last = n
				g.print(shown, n, '-', line)
			} else if g.before > 0 {
				if held = append(held, numbered{n, line}); len(held) > g.before {
					held = held[1:]
				}
			}
			return nil
		}
		hits++
		g.hits++
		if g.quiet {
			return errStop
		}
		if g.printing() {
			first := n
			if len(held) > 0 {
				first = held[0].n
			}
			if g.before+g.after > 0 && last > 0 && first > last+1 {
				fmt.Fprintln(g.call.Out, "--")
			}
			for _, h := range held {
				g.print(shown, h.n, '-', h.text)
			}
			held, last, trailing = nil, n, g.after
			g.hit(shown, n, line)
		}
		if g.most >= 0 && hits >= g.most || g.list || g.listWithout {
			return io.EOF
		}
		return nil
	})
	if err := ignoreEOF(err); err != nil {
		return err
	}
	switch {
	case g.list && hits > 0, g.listWithout && hits == 0:
		fmt.Fprintln(g.call.Out, shown)
	case g.count && g.names:
		fmt.Fprintf(g.call.Out, "%s:%d\n", shown, hits)
	case g.count:
		fmt.Fprintln(g.call.Out, hits)
	}
	return nil
}

func (g *grepper) printing() bool { return !g.count && !g.list && !g.listWithout && !g.quiet }

func (g *grepper) hit(name string, n int, line []byte) {
	if !g.only {
		g.print(name, n, ':', line)
		return
	}
	if g.invert {
		return
	}
	for _, m := range g.re.FindAll(line, -1) {
		if len(m) > 0 {
			g.print(name, n, ':', m)
		}
	}
}

func (g *grepper) print(name string, n int, mark byte, text []byte) {
	var b bytes.Buffer
	if g.names {
		fmt.Fprintf(&b, "%s%c", name, mark)
	}
	if g.number {
		fmt.Fprintf(&b, "%d%c", n, mark)
	}
	b.Write(text)
	b.WriteByte('\n')
	_, _ = g.call.Out.Write(b.Bytes()) // a reader that has left ends the pipe by itself
}
