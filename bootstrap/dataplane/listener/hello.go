package listener

import "encoding/binary"

// hello is what the TLS inspector learns from a ClientHello.
type hello struct {
	serverName string
	alpn       []string
}

type verdict int

const (
	needMore verdict = iota
	isTLS
	notTLS
)

// inspectTLS looks for a ClientHello at the start of b. It never fails on malformed bytes: they are not TLS.
func inspectTLS(b []byte) (hello, verdict) {
	var msg []byte
	for {
		if len(b) == 0 {
			return hello{}, needMore
		}
		if b[0] != 22 {
			return hello{}, notTLS
		}
		if len(b) >= 2 && b[1] != 3 {
			return hello{}, notTLS
		}
		if len(b) < 5 {
			return hello{}, needMore
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		if n == 0 || n > 1<<14+256 {
			return hello{}, notTLS
		}
		body := b[5:]
		if len(body) > 0 && len(msg) == 0 && body[0] != 1 {
			return hello{}, notTLS
		}
		if len(body) < n {
			return hello{}, needMore
		}
		msg = append(msg, body[:n]...)
		if len(msg) >= 4 {
			want := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
			if want > maxPeek {
				return hello{}, notTLS
			}
			if len(msg) >= 4+want {
				h, ok := parseHello(msg[4 : 4+want])
				if !ok {
					return hello{}, notTLS
				}
				return h, isTLS
			}
		}
		b = body[n:]
	}
}

// cursor reads length-prefixed fields; ok turns false at the first short read.
type cursor struct {
	b  []byte
	ok bool
}

func (c *cursor) take(n int) []byte {
	if !c.ok || n < 0 || n > len(c.b) {
		c.ok = false
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) vector(prefix int) cursor {
	n := 0
	for _, x := range c.take(prefix) {
		n = n<<8 | int(x)
	}
	body := c.take(n)
	return cursor{body, c.ok}
}

func (c *cursor) uint16() int {
	b := c.take(2)
	if len(b) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

// lower gives a name in the form in which rules and routes compare it. Only ASCII has another case here.
func lower(name []byte) string {
	out := make([]byte, len(name))
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		out[i] = c
	}
	return string(out)
}

func parseHello(b []byte) (hello, bool) {
	c := cursor{b, true}
	c.take(2 + 32) // version, random
	c.vector(1)    // session id
	c.vector(2)    // cipher suites
	c.vector(1)    // compression methods
	if !c.ok {
		return hello{}, false
	}
	var h hello
	if len(c.b) == 0 {
		return h, true
	}
	exts := c.vector(2)
	for exts.ok && len(exts.b) > 0 {
		kind := exts.uint16()
		body := exts.vector(2)
		switch kind {
		case 0:
			names := body.vector(2)
			for names.ok && len(names.b) > 0 {
				t := names.take(1)
				name := names.vector(2)
				if names.ok && t[0] == 0 && h.serverName == "" {
					h.serverName = lower(name.b)
				}
			}
		case 16:
			protos := body.vector(2)
			for protos.ok && len(protos.b) > 0 {
				p := protos.vector(1)
				if protos.ok {
					h.alpn = append(h.alpn, string(p.b))
				}
			}
		}
	}
	return h, exts.ok
}
