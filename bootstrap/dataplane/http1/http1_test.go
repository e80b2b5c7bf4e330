package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func read(in string, limit int) (*http.Request, string, error) {
	// One byte at a time shows that nothing depends on how the bytes come.
	br := bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(in)), 64)
	req, err := ReadRequest(context.Background(), br, limit)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(req.Body)
	return req, string(b), err
}

func TestReadRequest(t *testing.T) {
	for name, tc := range map[string]struct {
		in, method, target, host, body string
		length                         int64
		header                         http.Header
		close                          bool
	}{
		"plain": {
			in: "GET /a%zz?b=c HTTP/1.1\r\nHost: h:80\r\naccept: */*\r\nX-Two: 1\r\nx-two:2 \r\n\r\n", method: "GET", target: "/a%zz?b=c",
			host: "h:80", header: http.Header{"Accept": {"*/*"}, "X-Two": {"1", "2"}},
		},
		"bare line feeds and empty lines before": {in: "\r\n\nGET / HTTP/1.1\nHost: h\n\n", method: "GET", target: "/", host: "h", header: http.Header{}},
		"absolute target": {
			in: "GET http://other/p?q HTTP/1.1\r\nHost: h\r\n\r\n", method: "GET", target: "http://other/p?q", host: "other", header: http.Header{},
		},
		"length": {
			in: "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET", method: "POST", target: "/", host: "h", body: "abc", length: 3,
			header: http.Header{"Content-Length": {"3"}},
		},
		"chunked": {
			in:     "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\nConnection: close, x\r\n\r\n3;ext=1\r\nabc\r\n0\r\n\r\n",
			method: "POST", target: "/", host: "h", body: "abc", length: -1, header: http.Header{"Connection": {"close, x"}}, close: true,
		},
		"HTTP/1.0":     {in: "GET / HTTP/1.0\r\n\r\n", method: "GET", target: "/", header: http.Header{}, close: true},
		"empty value":  {in: "GET / HTTP/1.1\r\nHost: h\r\nX:\r\n\r\n", method: "GET", target: "/", host: "h", header: http.Header{"X": {""}}},
		"long header":  {in: "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("a", 500) + "\r\n\r\n", method: "GET", target: "/", host: "h", header: http.Header{"X": {strings.Repeat("a", 500)}}},
		"not in ASCII": {in: "GET /\xc3\xa4 HTTP/1.1\r\nHost: h\r\nX: \xe4\r\n\r\n", method: "GET", target: "/\xc3\xa4", host: "h", header: http.Header{"X": {"\xe4"}}},
	} {
		t.Run(name, func(t *testing.T) {
			req, body, err := read(tc.in, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if req.Method != tc.method || req.RequestURI != tc.target || req.Host != tc.host || body != tc.body || req.Close != tc.close ||
				req.ContentLength != tc.length {
				t.Errorf("%s %s host %q body %q close %v length %d", req.Method, req.RequestURI, req.Host, body, req.Close, req.ContentLength)
			}
			if diff := cmp.Diff(tc.header, req.Header); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	const start = "POST / HTTP/1.1\r\nHost: h\r\n"
	for name, in := range map[string]string{
		"no version": "GET /\r\n\r\n", "bad version": "GET / HTTP/2.0\r\n\r\n", "lower case version": "GET / http/1.1\r\n\r\n",
		"two spaces": "GET  / HTTP/1.1\r\n\r\n", "trailing space": "GET / HTTP/1.1 \r\n\r\n", "bad method": "G@T / HTTP/1.1\r\n\r\n",
		"tab in target": "GET /\t HTTP/1.1\r\nHost: h\r\n\r\n", "NUL in target": "GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
		"bad target": "GET a HTTP/1.1\r\nHost: h\r\n\r\n", "host with space": "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
		"host with path": "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "two hosts": start + "Host: h\r\n\r\n", "no name": start + ": x\r\n\r\n",
		"name with space": start + "a b: x\r\n\r\n", "space before colon": start + "a : x\r\n\r\n", "fold": start + "a: x\r\n y\r\n\r\n",
		"fold at once": "GET / HTTP/1.1\r\n Host: h\r\n\r\n", "CR in value": start + "a: x\ry\r\n\r\n", "NUL in value": start + "a: \x00\r\n\r\n",
		"DEL in value": start + "a: \x7f\r\n\r\n", "both framings": start + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"two lengths": start + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", "signed length": start + "Content-Length: +1\r\n\r\n",
		"length in hex": start + "Content-Length: 0x1\r\n\r\n", "empty length": start + "Content-Length:\r\n\r\n",
		"huge length":   start + "Content-Length: 9999999999999999999\r\n\r\n",
		"coding in 1.0": "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"chunk size":    start + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "signed chunk": start + "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
		"chunk too long":  start + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
		"framing trailer": start + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n",
		"bad trailer":     start + "Transfer-Encoding: chunked\r\n\r\n0\r\nx y\r\n\r\n",
	} {
		if req, body, err := read(in, 1000); err == nil {
			t.Errorf("%s: accepted as %+v with %q", name, req, body)
		}
	}
	for in, want := range map[string]error{
		"": io.EOF, "GET / HT": io.ErrUnexpectedEOF, start + "a: b": io.ErrUnexpectedEOF, "GET / HTTP/0.9\r\n\r\n": ErrVersion,
		start + "X: " + strings.Repeat("a", 1000): ErrTooLarge, strings.Repeat("a", 1100): ErrTooLarge,
		"GET / HTTP/1.1\r\n" + strings.Repeat("a:b\r\n", 101) + "\r\n":      ErrTooLarge,
		start + "Content-Length: 3\r\n\r\nab":                               io.ErrUnexpectedEOF,
		start + "Transfer-Encoding: chunked, chunked\r\n\r\n":               ErrCoding,
		start + "Transfer-Encoding: xchunked\r\n\r\n":                       ErrCoding,
		start + "Transfer-Encoding: chunked\r\n\r\n2\r\na":                  io.ErrUnexpectedEOF,
		start + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n":         io.ErrUnexpectedEOF,
		start + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\n": io.ErrUnexpectedEOF,
	} {
		if _, _, err := read(in, 1000); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", in, err, want)
		}
	}
}

// TestHeadAtOnce: a head that has come is not waited for any longer.
func TestHeadAtOnce(t *testing.T) {
	r, w := io.Pipe()
	defer func() { _ = w.Close() }()
	go func() { _, _ = io.WriteString(w, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") }()
	if _, err := ReadRequest(context.Background(), bufio.NewReader(r), 1000); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", 100)
	go func() { _, _ = io.WriteString(w, "GET / HTTP/1.1\r\nHost: h\r\nX: "+long+"\r\n\r\n") }()
	if _, err := ReadRequest(context.Background(), bufio.NewReaderSize(r, 64), 1000); err != nil {
		t.Fatal(err)
	}
}

func TestTrailers(t *testing.T) {
	req, body, err := read("POST / HTTP/1.1\r\nHost: h\r\nTrailer: a, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: 1\r\nB: 2\r\n\r\n", 1000)
	if err != nil || body != "x" {
		t.Fatal(body, err)
	}
	if diff := cmp.Diff(http.Header{"A": {"1"}, "B": {"2"}}, req.Trailer); diff != "" {
		t.Error(diff)
	}
	if _, announced := req.Header["Trailer"]; announced {
		t.Error("the announcement is this hop's")
	}
}

func TestReadResponse(t *testing.T) {
	for name, tc := range map[string]struct {
		in, method, body string
		status           int
		length           int64
		close            bool
	}{
		"length":                     {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", "GET", "ok", 200, 2, false},
		"no reason":                  {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", "", 200, 0, false},
		"empty reason":               {"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", "GET", "", 404, 0, false},
		"chunked":                    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "GET", "ok", 200, -1, false},
		"to the end":                 {"HTTP/1.1 200 OK\r\n\r\nok", "GET", "ok", 200, -1, true},
		"answer to HEAD":             {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", "", 200, 5, false},
		"not modified":               {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", "", 304, 5, false},
		"no content":                 {"HTTP/1.1 204 No Content\r\n\r\n", "GET", "", 204, 0, false},
		"no content of no length":    {"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "GET", "", 204, 0, false},
		"no content, yet a length":   {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "GET", "", 204, 0, true},
		"no content, yet chunks":     {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", "", 204, 0, true},
		"HTTP/1.0":                   {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", "ok", 200, 2, true},
		"HTTP/1.0 that stays":        {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "GET", "ok", 200, 2, false},
		"close":                      {"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", "GET", "ok", 200, 2, true},
		"informational, no length":   {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "GET", "", 103, 0, false},
		"switching, bytes to follow": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nraw", "GET", "", 101, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			br := bufio.NewReaderSize(iotest.HalfReader(strings.NewReader(tc.in)), 64)
			resp, err := ReadResponse(br, &http.Request{Method: tc.method}, 1000)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			if err != nil || string(b) != tc.body || resp.StatusCode != tc.status || resp.ContentLength != tc.length || resp.Close != tc.close {
				t.Errorf("%d %q length %d close %v: %v", resp.StatusCode, b, resp.ContentLength, resp.Close, err)
			}
		})
	}
	for _, in := range []string{
		"", "HTTP/1.1\r\n\r\n", "HTTP/1.1 20\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 No\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n",
		"HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "\x00\x01\r\n\r\n", "\r\n\r\n",
	} {
		if resp, err := ReadResponse(bufio.NewReader(strings.NewReader(in)), nil, 1000); err == nil {
			t.Errorf("%q: accepted as %+v", in, resp)
		}
	}
}

func TestWriteRequest(t *testing.T) {
	for name, tc := range map[string]struct{ body, length, want string }{
		"no body": {"", "", "POST /p HTTP/1.1\r\nhost: h\r\nx-a: 1 2\r\ncontent-length: 0\r\n\r\n"},
		"length":  {"abc", "3", "POST /p HTTP/1.1\r\nhost: h\r\nx-a: 1 2\r\ncontent-length: 3\r\n\r\nabc"},
		"chunked": {"abc", "", "POST /p HTTP/1.1\r\nhost: h\r\nx-a: 1 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
	} {
		req := &http.Request{Method: http.MethodPost, RequestURI: "/p", Host: "h", Header: http.Header{"X-A": {"1\n2"}, "User-Agent": nil}, Body: http.NoBody}
		if tc.body != "" {
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(tc.body)), -1
			if tc.length != "" {
				req.ContentLength = int64(len(tc.body))
			}
		}
		var out bytes.Buffer
		if err := WriteRequest(bufio.NewWriter(&out), req); err != nil || out.String() != tc.want {
			t.Errorf("%s: %q %v", name, out.String(), err)
		}
	}
}

func TestWriteTrailer(t *testing.T) {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	WriteTrailer(w, http.Header{"Grpc-Status": {"0"}, "Content-Length": {"3"}, "Host": {"elsewhere"}, "Transfer-Encoding": {"chunked"}})
	if err := w.Flush(); err != nil || out.String() != "grpc-status: 0\r\n\r\n" {
		t.Errorf("%q %v", out.String(), err)
	}
}

// FuzzRequest holds that what is accepted here means the same to net/http, and that nothing is read beyond the message.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabrest",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n1\r\na\r\n0\r\na: b\r\n\r\nrest",
		"OPTIONS * HTTP/1.1\nHost: a\n\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "GET http://b/ HTTP/1.0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		br := bufio.NewReader(bytes.NewReader(in))
		got, err := ReadRequest(context.Background(), br, 4000)
		if err != nil {
			return
		}
		body, err := io.ReadAll(got.Body)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(br)
		obr := bufio.NewReader(bytes.NewReader(bytes.TrimLeft(in, "\r\n")))
		want, err := http.ReadRequest(obr)
		if err != nil {
			if got.RequestURI[0] == '/' || got.Method == http.MethodConnect {
				return // net/http decodes the path
			}
			t.Fatalf("net/http refuses %q: %v", in, err)
		}
		wantBody, err := io.ReadAll(want.Body)
		if err != nil {
			t.Fatalf("net/http refuses the body of %q: %v", in, err)
		}
		wantRest, _ := io.ReadAll(obr)
		if got.Method != want.Method || got.RequestURI != want.RequestURI || !bytes.Equal(body, wantBody) || !bytes.Equal(rest, wantRest) ||
			got.ContentLength != want.ContentLength || got.Close != want.Close {
			t.Fatalf("%q: here %+v %q %q, net/http %+v %q %q", in, got, body, rest, want, wantBody, wantRest)
		}
		for k, v := range want.Header {
			if k != "Host" && !cmp.Equal(got.Header[k], v) {
				t.Fatalf("%q: header %s is %q here and %q to net/http", in, k, got.Header[k], v)
			}
		}
	})
}

// FuzzResponse holds the same for responses.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabrest"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nrest"))
	f.Add([]byte("HTTP/1.0 304 x\r\nConnection: keep-alive\r\n\r\nrest"))
	f.Fuzz(func(t *testing.T, in []byte) {
		br := bufio.NewReader(bytes.NewReader(in))
		got, err := ReadResponse(br, nil, 4000)
		if err != nil {
			return
		}
		body, err := io.ReadAll(got.Body)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(br)
		obr := bufio.NewReader(bytes.NewReader(in))
		want, err := http.ReadResponse(obr, nil)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", in, err)
		}
		if got.StatusCode < 200 {
			return
		}
		wantBody, err := io.ReadAll(want.Body)
		if err != nil {
			t.Fatalf("net/http refuses the body of %q: %v", in, err)
		}
		wantRest, _ := io.ReadAll(obr)
		if got.StatusCode != want.StatusCode || !bytes.Equal(body, wantBody) || !bytes.Equal(rest, wantRest) {
			t.Fatalf("%q: here %+v %q %q, net/http %+v %q %q", in, got, body, rest, want, wantBody, wantRest)
		}
	})
}
