package upstream

import "bufio"

// Put writes strings to w. A bufio.Writer keeps its first error for Flush, so there is none to return here.
func Put(w *bufio.Writer, parts ...string) {
	for _, p := range parts {
		_, _ = w.WriteString(p)
	}
}
