package hcm

import (
	"bufio"
	"io"
	"testing"
	"time"
)

// BenchmarkHop measures requests over keep-alive connections through one connection manager to a server on this host.
func BenchmarkHop(b *testing.B) {
	srv := newBackend(b, reply200("hello"))
	f := newFixture(b, simpleRoutes, map[string][]string{"up": {srv.addr}}, nil)
	f.m.loggers = nil
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := f.connect()
		_ = c.SetDeadline(time.Time{})
		br := bufio.NewReader(c)
		for pb.Next() {
			_, err := io.WriteString(c, "GET /path HTTP/1.1\r\nhost: a.example\r\nuser-agent: bench\r\naccept: */*\r\n\r\n")
			if err != nil {
				b.Error(err)
				return
			}
			readResponse(b, br, "GET")
		}
	})
}
