package curl

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
)

// headRecorder keeps the head of an HTTP/1 answer as it came: its order, and the case of
// its letters, which net/http does not keep. Only one goroutine reads a connection, and it is
// done with the head when the answer is handed out.
type headRecorder struct {
	raw []byte
}

// maxHead bounds in bytes what is kept.
const maxHead = 1 << 20

func (h *headRecorder) reset() { h.raw = h.raw[:0] }

func (h *headRecorder) write(p []byte) {
	if _, complete := h.head(); !complete && len(h.raw) < maxHead {
		h.raw = append(h.raw, p...)
	}
}

// head returns the lines of the last head recorded, without those of 1xx answers before it.
func (h *headRecorder) head() (lines []string, complete bool) {
	rest := h.raw
	for {
		end := bytes.Index(rest, []byte("\r\n\r\n"))
		if end < 0 {
			return nil, false
		}
		lines = strings.Split(string(rest[:end]), "\r\n")
		rest = rest[end+4:]
		if f := strings.Fields(lines[0]); len(f) < 2 || !strings.HasPrefix(f[1], "1") || f[1] == "101" {
			return lines, true
		}
	}
}

// recordedConn shows the recorder all that is read.
type recordedConn struct {
	net.Conn
	heads *headRecorder
}

func (c recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.heads.write(p[:n])
	return n, err
}

// answerHead is the status line and headers of an answer, one a line.
func answerHead(res *http.Response, info *connInfo) []string {
	if info.heads != nil {
		if lines, ok := info.heads.head(); ok {
			return lines
		}
	}
	lines := []string{fmt.Sprintf("%s %d", protocol(res), res.StatusCode)}
	if res.ProtoMajor < 2 {
		lines[0] = res.Proto + " " + res.Status
	}
	for name, values := range res.Header {
		for _, v := range values {
			lines = append(lines, strings.ToLower(name)+": "+v)
		}
	}
	slices.Sort(lines[1:])
	return lines
}

func protocol(res *http.Response) string {
	if res.ProtoMajor >= 2 {
		return fmt.Sprintf("HTTP/%d", res.ProtoMajor)
	}
	return res.Proto
}
