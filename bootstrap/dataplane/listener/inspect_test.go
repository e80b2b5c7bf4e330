package listener

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
)

// clientHello returns the bytes that a real client sends first.
func clientHello(tb testing.TB, name string, alpn ...string) []byte {
	tb.Helper()
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true}).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, err := b.Read(buf)
	if err != nil {
		tb.Fatal(err)
	}
	_ = a.Close()
	_ = b.Close()
	return buf[:n]
}

func TestInspectTLS(t *testing.T) {
	raw := clientHello(t, "outbound_.80_._.x.ns.svc.cluster.local", "istio-http/1.1", "istio", "http/1.1")
	for n := range len(raw) {
		if _, v := inspectTLS(raw[:n]); v != needMore {
			t.Fatalf("%d of %d bytes: verdict %d, want more", n, len(raw), v)
		}
	}
	h, v := inspectTLS(raw)
	if v != isTLS || h.serverName != "outbound_.80_._.x.ns.svc.cluster.local" ||
		!slices.Equal(h.alpn, []string{"istio-http/1.1", "istio", "http/1.1"}) {
		t.Errorf("verdict %d, hello %+v", v, h)
	}
	if h, v := inspectTLS(clientHello(t, "WWW.Bank.EXAMPLE")); v != isTLS || h.serverName != "www.bank.example" {
		t.Errorf("a name in capitals: verdict %d, hello %+v", v, h) // rules on names compare lower case
	}
	// The same hello in records of 100 bytes.
	var split []byte
	for body := raw[5:]; len(body) > 0; {
		n := min(100, len(body))
		split = append(split, 22, 3, 1, 0, byte(n))
		split = append(split, body[:n]...)
		body = body[n:]
	}
	if h2, v := inspectTLS(split); v != isTLS || h2.serverName != h.serverName {
		t.Errorf("split over records: verdict %d, hello %+v", v, h2)
	}
	for _, other := range []string{"GET / HTTP/1.1\r\n", "\x16\x02", "\x16\x03\x01\x00\x00", "\x16\x03\x01\x00\x05\x02abcd"} {
		if _, v := inspectTLS([]byte(other)); v != notTLS {
			t.Errorf("%q: verdict %d, want not TLS", other, v)
		}
	}
}

func FuzzInspectTLS(f *testing.F) {
	f.Add(clientHello(f, "a.example", "h2"))
	f.Add([]byte{22, 3, 1, 0, 1, 1})
	f.Fuzz(func(_ *testing.T, b []byte) { inspectTLS(b) })
}

func TestInspectHTTP(t *testing.T) {
	for _, tc := range []struct {
		in, want string
		more     bool
	}{
		{"", "", true},
		{"G", "", true},
		{"GET", "", true},
		{"GET /", "", true},
		{"GET / HTTP/1.1\r\n", "http/1.1", false},
		{"GET / HTTP/1.0\n", "http/1.0", false},
		{"XYZ", "", false},
		{"GET / HTTP/3\r\n", "", false},
		{"PRI * HTTP/2.0\r\n", "", true},
		{preface, "h2c", false},
		{"PRI", "", true},
		{"PROPFIND /a HTTP/1.1\r\n", "http/1.1", false},
		{"\x00\x01", "", false},
		{"GET\r\n", "", false},
		{"HELLO world\r\n", "", false},
	} {
		if got, more := inspectHTTP([]byte(tc.in)); got != tc.want || more != tc.more {
			t.Errorf("%q: %q more %t, want %q more %t", tc.in, got, more, tc.want, tc.more)
		}
	}
}

func FuzzInspectHTTP(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { inspectHTTP(b) })
}
