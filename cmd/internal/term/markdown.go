package term

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// Markdown renders the Markdown that lab authors write: headings, paragraphs, nested
// lists, quotes, fenced and indented code, tables, rules; bold, italic, code and links
// inside. What it does not know it shows as it was written.
func (c *Console) Markdown(text string) {
	r := renderer{c: c, width: c.textWidth()}
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		r.line(strings.ReplaceAll(line, "\t", "    "))
	}
	r.flush()
	fmt.Fprintln(c, strings.Trim(strings.Join(r.out, "\n"), "\n"))
}

// renderer collects lines into blocks: the lines of a paragraph or list item are joined
// before they are wrapped.
type renderer struct {
	c     *Console
	width int
	out   []string

	para        []string // lines of the paragraph or item under way
	first, rest string   // what its first line and its other lines begin with
	quote       bool
	table       [][]string
	fence       string // what closes the code block under way; empty outside of one
	fenceIndent int
	list        bool // the last block was a list item
}

var (
	headingRE  = regexp.MustCompile(`^(#{1,6})\s+(.*?)\s*#*$`)
	itemRE     = regexp.MustCompile(`^(\s*)([-*+]|\d{1,3}[.)])\s+(.*)$`)
	fenceRE    = regexp.MustCompile("^(\\s*)(```+|~~~+)(.*)$")
	ruleRE     = regexp.MustCompile(`^\s{0,3}(-\s*){3,}$|^\s{0,3}(\*\s*){3,}$|^\s{0,3}(_\s*){3,}$`)
	tableSepRE = regexp.MustCompile(`^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$`)
)

// codeIndent is what code blocks begin with, beside the indent of their list item.
const codeIndent = "    "

func (r *renderer) line(line string) {
	if r.fence != "" {
		r.codeLine(line)
		return
	}
	trimmed := strings.TrimSpace(line)
	indent := len(line) - len(strings.TrimLeft(line, " "))
	switch {
	case trimmed == "":
		r.flush()
		r.blank()
	case fenceRE.MatchString(line):
		m := fenceRE.FindStringSubmatch(line)
		r.flush()
		r.fence, r.fenceIndent = m[2], len(m[1])
		if !r.list || r.fenceIndent == 0 {
			r.rest = ""
		}
	case strings.HasPrefix(trimmed, "|"):
		if len(r.table) == 0 {
			r.flush()
			r.list = false
		}
		r.tableLine(trimmed)
	case headingRE.MatchString(line):
		r.flush()
		r.heading(headingRE.FindStringSubmatch(line))
	case ruleRE.MatchString(line):
		r.flush()
		r.list = false
		r.emit(r.c.Paint(Dim, strings.Repeat("─", r.width)))
	case itemRE.MatchString(line):
		m := itemRE.FindStringSubmatch(line)
		r.flush()
		marker := m[2]
		if !unicode.IsDigit(rune(marker[0])) {
			marker = "•"
		}
		r.first = "  " + m[1] + marker + " "
		r.rest = strings.Repeat(" ", visible(r.first))
		r.para, r.list = []string{m[3]}, true
	case len(r.para) == 0 && strings.HasPrefix(trimmed, ">"), r.quote && strings.HasPrefix(trimmed, ">"):
		r.quote, r.list = true, false
		r.first, r.rest = "  │ ", "  │ "
		r.para = append(r.para, strings.TrimSpace(strings.TrimPrefix(trimmed, ">")))
	case len(r.para) == 0 && indent >= 4 && !r.list:
		r.emit(r.c.Paint(Cyan, line))
	default:
		if len(r.para) == 0 {
			if r.list && indent > 0 { // a further paragraph of the item
				r.first = r.rest
			} else {
				r.first, r.rest, r.list = "", "", false
			}
		}
		r.para = append(r.para, trimmed)
	}
}

func (r *renderer) codeLine(line string) {
	if strings.HasPrefix(strings.TrimSpace(line), r.fence) && strings.Trim(strings.TrimSpace(line), r.fence[:1]) == "" {
		r.fence = ""
		return
	}
	own := min(r.fenceIndent, len(line)-len(strings.TrimLeft(line, " ")))
	if line = strings.TrimRight(line[own:], " "); line != "" {
		line = r.rest + codeIndent + r.c.Paint(Cyan, line)
	}
	r.out = append(r.out, line)
}

func (r *renderer) heading(m []string) {
	r.blank()
	r.list = false
	text := m[2]
	if r.c.Colour { // the heading's own style stands for the marks
		text = strings.NewReplacer("`", "", "**", "").Replace(text)
	}
	if len(m[1]) == 1 {
		r.emit(r.c.Paint(Title, text))
		r.emit(r.c.Paint(Dim, strings.Repeat("─", min(visible(text), r.width))))
		return
	}
	r.emit(r.c.Paint(Bold, text))
}

func (r *renderer) tableLine(line string) {
	if tableSepRE.MatchString(line) {
		return
	}
	var cells []string
	for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
		cells = append(cells, r.inline(strings.TrimSpace(cell)))
	}
	r.table = append(r.table, cells)
}

// flush writes the block under way.
func (r *renderer) flush() {
	if len(r.table) > 0 {
		r.flushTable()
	}
	if len(r.para) > 0 {
		r.emit(strings.Split(wrap(r.inline(strings.Join(r.para, " ")), r.first, r.rest, r.width), "\n")...)
	}
	r.para, r.quote = nil, false
}

func (r *renderer) flushTable() {
	var widths []int
	for _, row := range r.table {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], visible(cell))
		}
	}
	for n, row := range r.table {
		line := " "
		for i, cell := range row {
			line += " " + cell + strings.Repeat(" ", widths[i]-visible(cell)+1)
		}
		line = strings.TrimRight(line, " ")
		if n == 0 {
			line = r.c.Paint(Bold, line)
		}
		r.emit(line)
	}
	r.table = nil
}

func (r *renderer) emit(lines ...string) { r.out = append(r.out, lines...) }

// blank adds an empty line unless there is one.
func (r *renderer) blank() {
	if n := len(r.out); n > 0 && r.out[n-1] != "" {
		r.out = append(r.out, "")
	}
}

var (
	codeRE   = regexp.MustCompile("``[^`].*?``|`[^`]+`")
	boldRE   = regexp.MustCompile(`\*\*([^*]+)\*\*|__([^_]+)__`)
	italicRE = regexp.MustCompile(`(^|[\s(])\*([^*\s][^*]*)\*|(^|[\s(])_([^_\s][^_]*)_($|[\s.,;:!?)])`)
	linkRE   = regexp.MustCompile(`\[([^\]]+)\]\(([^)\s]+)\)`)
	escapeRE = regexp.MustCompile("\\\\([\\\\`*_{}\\[\\]()#+.!|>~-])")
)

// inline renders what is inside a line. Code is set aside first: nothing in it is markup.
func (r *renderer) inline(s string) string {
	var out strings.Builder
	last := 0
	for _, at := range codeRE.FindAllStringIndex(s, -1) {
		out.WriteString(r.emphasis(s[last:at[0]]))
		code := strings.TrimSpace(strings.Trim(s[at[0]:at[1]], "`"))
		if r.c.Colour {
			out.WriteString(r.paintWords(Cyan, code))
		} else {
			out.WriteString("`" + code + "`")
		}
		last = at[1]
	}
	out.WriteString(r.emphasis(s[last:]))
	return out.String()
}

func (r *renderer) emphasis(s string) string {
	s = linkRE.ReplaceAllStringFunc(s, func(m string) string {
		p := linkRE.FindStringSubmatch(m)
		if p[1] == p[2] {
			return p[1]
		}
		return p[1] + " (" + p[2] + ")"
	})
	s = boldRE.ReplaceAllStringFunc(s, func(m string) string {
		return r.paintWords(Bold, m[2:len(m)-2])
	})
	s = italicRE.ReplaceAllStringFunc(s, func(m string) string {
		p := italicRE.FindStringSubmatch(m)
		return p[1] + p[3] + r.paintWords(Italic, p[2]+p[4]) + p[5]
	})
	return escapeRE.ReplaceAllString(s, "$1")
}

// paintWords paints each word by itself, so that a style ends where wrap breaks the line.
func (r *renderer) paintWords(st Style, s string) string {
	words := strings.Split(s, " ")
	for i, w := range words {
		words[i] = r.c.Paint(st, w)
	}
	return strings.Join(words, " ")
}
