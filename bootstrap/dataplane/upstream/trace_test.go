package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// slowServers answer a second after an interim response, which they send two seconds after the request's end, and take
// another three for the body.
var slowServers = map[string]func(c net.Conn){
	"HTTP/1.1": func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			time.Sleep(2 * time.Second)
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n")
			time.Sleep(time.Second)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
			time.Sleep(3 * time.Second)
			_, _ = io.WriteString(c, "ok")
		}
	},
	"HTTP/2": func(c net.Conn) {
		(&http2.Server{}).ServeConn(c, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			time.Sleep(2 * time.Second)
			w.WriteHeader(http.StatusEarlyHints)
			time.Sleep(time.Second)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(3 * time.Second)
			_, _ = io.WriteString(w, "ok")
		})})
	},
}

func pool(protocol string, dial Dial) Pool {
	if protocol == "HTTP/2" {
		return NewH2(dial, Options{})
	}
	return NewH1(dial, Options{})
}

func TestTrace(t *testing.T) {
	// One bubble for all, for the http2 package keeps channels from one connection for another.
	synctest.Test(t, func(t *testing.T) {
		for protocol, serve := range slowServers {
			p := pool(protocol, func(context.Context) (net.Conn, error) {
				c, s := net.Pipe()
				go serve(s)
				t.Cleanup(func() { _, _ = c.Close(), s.Close() })
				return c, nil
			})
			seen := map[uint64]bool{}
			for name, body := range map[string]struct {
				text   string
				length int64
			}{
				"no body": {"", 0}, "body of known length": {"abcd", 4}, "body of unknown length": {"abcd", -1},
			} {
				start := time.Now()
				tr := &Trace{}
				req, err := http.NewRequestWithContext(WithTrace(t.Context(), tr), http.MethodPost, "http://host/", http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				upload := time.Duration(0)
				if body.text != "" {
					upload = 5 * time.Second
					r, w := io.Pipe()
					req.Body, req.ContentLength = r, body.length
					go func() {
						_, _ = io.WriteString(w, body.text[:2])
						time.Sleep(upload)
						_, _ = io.WriteString(w, body.text[2:])
						_ = w.Close()
					}()
				}
				resp, err := p.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" {
					t.Fatalf("%s, %s: %q %v", protocol, name, b, err)
				}
				_ = resp.Body.Close()
				if got := tr.Sent().Sub(start); got != upload {
					t.Errorf("%s, %s: sent after %v, want %v", protocol, name, got, upload)
				}
				if got, want := tr.Answered.Sub(start), upload+3*time.Second; got != want {
					t.Errorf("%s, %s: answered after %v, want %v", protocol, name, got, want)
				}
				if tr.Protocol != protocol || tr.ID == 0 {
					t.Errorf("%s, %s: trace %+v", protocol, name, tr)
				}
				seen[tr.ID] = true
				synctest.Wait()
			}
			if len(seen) != 1 {
				t.Errorf("%s: one connection has the numbers %v", protocol, seen)
			}
			p.Close()
		}
	})
}

func TestTraceOfFailures(t *testing.T) {
	broken := errors.New("no route to host")
	for protocol := range slowServers {
		tr := &Trace{}
		p := pool(protocol, func(context.Context) (net.Conn, error) { return nil, broken })
		req, err := http.NewRequestWithContext(WithTrace(t.Context(), tr), http.MethodPost, "http://host/", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.RoundTrip(req); !errors.Is(err, broken) {
			t.Errorf("%s: %v", protocol, err)
		}
		if !tr.Sent().IsZero() || !tr.Answered.IsZero() || tr.ID != 0 || tr.Protocol != "" {
			t.Errorf("%s: without a connection the trace says %+v", protocol, tr)
		}
		p.Close()
	}
}

// TestStaleTrace: a connection that the peer has closed leaves no mark, nor does it eat the body.
func TestStaleTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		p := NewH1(func(context.Context) (net.Conn, error) {
			if dials++; dials > 2 {
				return nil, errors.New("no more")
			}
			c, s := net.Pipe()
			t.Cleanup(func() { _, _ = c.Close(), s.Close() })
			go func() {
				br := bufio.NewReader(s)
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				b, _ := io.ReadAll(req.Body)
				_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: "+string('0'+rune(len(b)))+"\r\n\r\n"+string(b))
				_, _ = http.ReadRequest(br)
				_ = s.Close() // before it answers
			}()
			return c, nil
		}, Options{})
		defer p.Close()
		send := func(body string) (*Trace, string, error) {
			tr := &Trace{}
			req, err := http.NewRequestWithContext(WithTrace(t.Context(), tr), http.MethodPut, "http://host/", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body == "" {
				req.Body = http.NoBody
			}
			resp, err := p.RoundTrip(req)
			if err != nil {
				return tr, "", err
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			synctest.Wait()
			return tr, string(b), err
		}
		first, _, err := send("")
		if err != nil {
			t.Fatal(err)
		}
		second, _, err := send("")
		if err != nil || second.ID == first.ID {
			t.Errorf("%v; connections %d and %d", err, first.ID, second.ID)
		}
		third, _, err := send("")
		if err == nil || third.ID != 0 || !third.Sent().IsZero() {
			t.Errorf("%v; the trace of a request without connection says %+v", err, third)
		}
	})
}

// TestStaleRequests: a server that closes a connection which was idle may have taken the request before. Only what does no
// harm twice is sent again.
func TestStaleRequests(t *testing.T) {
	for method, want := range map[string]int{"GET": 2, "HEAD": 2, "PUT": 2, "DELETE": 2, "POST": 1, "PATCH": 1, "CHARGE": 1} {
		synctest.Test(t, func(t *testing.T) {
			dials := 0
			p := NewH1(func(context.Context) (net.Conn, error) {
				dials++
				c, s := net.Pipe()
				t.Cleanup(func() { _, _ = c.Close(), s.Close() })
				go func() {
					br := bufio.NewReader(s)
					_, _ = http.ReadRequest(br)
					_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					_, _ = http.ReadRequest(br)
					_ = s.Close() // with the work half done
				}()
				return c, nil
			}, Options{})
			defer p.Close()
			var err error
			for range 2 {
				var req *http.Request
				if req, err = http.NewRequestWithContext(WithTrace(t.Context(), &Trace{}), method, "http://host/", http.NoBody); err != nil {
					t.Fatal(err)
				}
				var resp *http.Response
				if resp, err = p.RoundTrip(req); err == nil {
					_ = resp.Body.Close()
				}
				synctest.Wait()
			}
			if dials != want || (err == nil) != (want == 2) {
				t.Errorf("%s: sent on %d connections, %v", method, dials, err)
			}
		})
	}
}
