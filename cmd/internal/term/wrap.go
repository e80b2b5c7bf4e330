package term

import (
	"strings"
	"unicode/utf8"
)

// visible is the number of columns that s takes, escape sequences not counted.
func visible(s string) int {
	n := 0
	for i := 0; i < len(s); {
		if s[i] == '\x1b' {
			end := strings.IndexByte(s[i:], 'm')
			if end < 0 {
				return n
			}
			i += end + 1
			continue
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
		n++
	}
	return n
}

// wrap breaks text at blanks so that no line is wider than width, where words allow. The
// first line begins with first, the others with rest.
func wrap(text, first, rest string, width int) string {
	var sb strings.Builder
	sb.WriteString(first)
	col, fresh := visible(first), true
	for _, word := range strings.Fields(text) {
		w := visible(word)
		if !fresh && col+1+w > width {
			sb.WriteString("\n" + rest)
			col, fresh = visible(rest), true
		}
		if !fresh {
			sb.WriteByte(' ')
			col++
		}
		sb.WriteString(word)
		col += w
		fresh = false
	}
	return sb.String()
}

// cut shortens s to width columns, with an ellipsis where something went.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	return string([]rune(s)[:width-1]) + "…"
}
