package http1

import (
	"net/textproto"
	"strings"
)

// Names are the names of headers as a peer has written them, by their canonical form. Those in lower case are left out:
// that is how names go out where nothing is known of them. A nil value is for a message that nobody keeps names of.
type Names map[string]string

// Name returns the name to write.
func (n Names) Name(canonical string) string {
	if w, ok := n[canonical]; ok {
		return w
	}
	return LowerName(canonical)
}

// namesOf collects the names in header lines that have been found to be well formed.
func namesOf(head string) Names {
	out := Names{}
	for {
		var l string
		if l, head = line(head); l == "" {
			return out
		}
		name := l[:strings.IndexByte(l, ':')]
		if c := textproto.CanonicalMIMEHeaderKey(name); name != LowerName(c) {
			out[c] = name
		}
	}
}
