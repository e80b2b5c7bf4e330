package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// runApp is the application of a pod: an HTTP server on 8080 (HTTP/1.1 and h2c), a TCP echo on 9000, a greeting server
// that speaks first on 9001, and a control socket through which the test sends requests from inside the pod.
func runApp(control string) int {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		host, _ := os.Hostname()
		if r.URL.Path != "/seen" {
			heard.note(r, string(body))
		}
		switch {
		case r.URL.Path == "/seen":
			heard.tell(w, r.URL.Query().Get("path"))
			return
		case strings.HasPrefix(r.URL.Path, "/fail/"):
			// /fail/STATUS/N/NAME fails the first N requests of that name.
			var code, n int
			var name string
			_, _ = fmt.Sscanf(strings.ReplaceAll(r.URL.Path, "/", " "), " fail %d %d %s", &code, &n, &name)
			if heard.count(r.URL.Path) <= n {
				w.Header().Set("X-Failed", name)
				w.WriteHeader(code)
				return
			}
		case strings.HasPrefix(r.URL.Path, "/status/"):
			var code int
			_, _ = fmt.Sscanf(r.URL.Path, "/status/%d", &code)
			w.WriteHeader(code)
			return
		case strings.HasPrefix(r.URL.Path, "/sick/"):
			if strings.TrimPrefix(r.URL.Path, "/sick/") == os.Getenv("POD") {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		case r.URL.Path == "/slow":
			time.Sleep(2 * time.Second)
		case r.URL.Path == "/upgrade":
			c, bw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = bw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_ = bw.Flush()
			_, _ = io.Copy(c, bw)
			return
		case r.URL.Path == "/trailers":
			w.Header().Set("Trailer", "X-After")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-After", "yes")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"host": host, "name": os.Getenv("POD"), "proto": r.Proto, "path": r.RequestURI, "authority": r.Host,
			"headers": r.Header, "body": string(body), "remote": r.RemoteAddr, "method": r.Method,
		})
	})
	if os.Getenv("PORTS") != "none" {
		app := &http.Server{Addr: ":8080", Handler: h, Protocols: new(http.Protocols)}
		app.Protocols.SetHTTP1(true)
		app.Protocols.SetUnencryptedHTTP2(true)
		go func() { _ = app.ListenAndServe() }()
		go serveTLS(":9443", h)
		go serveTCP(":9000", func(c net.Conn) { _, _ = io.Copy(c, c) })
		go serveTCP(":9001", func(c net.Conn) {
			_, _ = io.WriteString(c, "welcome\n")
			_, _ = io.Copy(io.Discard, c)
		})
		go serveGRPC(":7000")
		go func() { _ = http.ListenAndServe(":3128", http.HandlerFunc(forwardProxy)) }()
	}
	ln, err := net.Listen("unix", control)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = os.Chmod(control, 0o666)
	if err := http.Serve(ln, http.HandlerFunc(controlled)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

func serveTCP(addr string, h func(net.Conn)) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			h(c)
		}()
	}
}

// order is one request that the test wants sent from the pod.
type order struct {
	Kind   string // "http", "h2c" or "tcp"
	Method string
	URL    string // for tcp: host:port
	Host   string
	Header map[string]string
	Body   string // for tcp: what is sent
	TLS    bool   // for http: no verification
	Half   bool   // for tcp: end our stream after sending
	Secure tlsOptions
}

// outcome is what came of it.
type outcome struct {
	Status  int
	Header  http.Header
	Trailer http.Header
	Body    string
	Err     string
}

func controlled(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var out outcome
	switch o.Kind {
	case "tcp":
		out = sendTCP(o)
	case "tls":
		out = sendTLS(o)
	case "grpc":
		out = sendGRPC(o)
	case "streams":
		out = sendStreams(o)
	default:
		out = sendHTTP(o)
	}
	_ = json.NewEncoder(w).Encode(out)
}

func sendHTTP(o order) outcome {
	req, err := http.NewRequest(o.Method, o.URL, strings.NewReader(o.Body))
	if err != nil {
		return outcome{Err: err.Error()}
	}
	if o.Body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	if o.Host != "" {
		req.Host = o.Host
	}
	for k, v := range o.Header {
		req.Header.Set(k, v)
	}
	var rt http.RoundTripper = &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: o.Host},
	}
	if o.Kind == "h2c" {
		rt = &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, n, a string, _ *tls.Config) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, n, a)
		}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := rt.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return outcome{Err: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	out := outcome{Status: resp.StatusCode, Header: resp.Header, Trailer: resp.Trailer, Body: string(b)}
	if err != nil {
		out.Err = err.Error()
	}
	return out
}

func sendTCP(o order) outcome {
	c, err := net.DialTimeout("tcp", o.URL, 5*time.Second)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, o.Body); err != nil {
		return outcome{Err: err.Error()}
	}
	if o.Half {
		_ = c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		if err != nil {
			return outcome{Body: string(b), Err: err.Error()}
		}
		return outcome{Body: string(b)}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return outcome{Body: line, Err: err.Error()}
	}
	return outcome{Body: line}
}
