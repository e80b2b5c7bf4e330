package hcm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"golang.org/x/net/http2"
)

// echoServer sends back what it gets, after a greeting, until its client ends its side.
func echoServer(t testing.TB, greeting string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, greeting)
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

func connectRoute(action string) string {
	return `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"connectMatcher":{}},"route":{"cluster":"up","upgradeConfigs":[` + action + `]}},
		{"match":{"prefix":"/"},"directResponse":{"status":204}}]}]}`
}

func TestConnectEndsHere(t *testing.T) {
	f := newFixture(t, connectRoute(`{"upgradeType":"CONNECT","connectConfig":{}}`), map[string][]string{"up": {echoServer(t, "hello ")}}, nil)
	c := f.connect()
	_, err := io.WriteString(c, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\nearly")
	must(t, err)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	must(t, err)
	_ = c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(br)
	if resp.StatusCode != http.StatusOK || string(b) != "hello early" || err != nil {
		t.Errorf("%d %q %v", resp.StatusCode, b, err)
	}
}

func TestConnectOverHTTP2EndsHere(t *testing.T) {
	f := newFixture(t, connectRoute(`{"upgradeType":"CONNECT","connectConfig":{}}`), map[string][]string{"up": {echoServer(t, "hello ")}}, nil)
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(f.connect())
	must(t, err)
	defer func() { _ = cc.Close() }()
	pr, pw := io.Pipe()
	req, err := http.NewRequest(http.MethodConnect, "http://example.com:443", pr)
	must(t, err)
	resp, err := cc.RoundTrip(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	_, err = io.WriteString(pw, "bytes")
	must(t, err)
	must(t, pw.Close())
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK || string(b) != "hello bytes" || err != nil {
		t.Errorf("%d %q %v", resp.StatusCode, b, err)
	}
}

func TestConnectGoesOnToAProxy(t *testing.T) {
	proxy := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		if !strings.HasPrefix(req.Host, "good") {
			_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			return true
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Via: proxy\r\n\r\nto %s %s: ", req.Host, req.Header.Get("X"))
		_, _ = io.Copy(c, br)
		return false
	})
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"connectMatcher":{}},"route":{"cluster":"up"}}]}]}`,
		map[string][]string{"up": {proxy.addr}}, func(p *hcmv3.HttpConnectionManager) {
			p.UpgradeConfigs = append(p.UpgradeConfigs, &hcmv3.HttpConnectionManager_UpgradeConfig{UpgradeType: "CONNECT"})
		})
	c := f.connect()
	_, err := io.WriteString(c, "CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\nX: 1\r\n\r\nbytes")
	must(t, err)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	must(t, err)
	_ = c.(*net.TCPConn).CloseWrite()
	b, _ := io.ReadAll(br)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Via") != "proxy" || string(b) != "to good.example:443 1: bytes" {
		t.Errorf("%d %v %q", resp.StatusCode, resp.Header, b)
	}
	if resp, body := f.exchange("CONNECT bad.example:443 HTTP/1.1\r\nHost: bad.example:443\r\n\r\n"); resp.StatusCode != http.StatusForbidden || body != "no" {
		t.Errorf("a refusal: %d %q", resp.StatusCode, body)
	}
}

func TestConnectThatNobodyAllows(t *testing.T) {
	f := newFixture(t, connectRoute(""), map[string][]string{"up": {"127.0.0.1:1"}}, nil)
	for target, want := range map[string]int{"example.com:443": 403} {
		if resp, _ := f.exchange("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"); resp.StatusCode != want {
			t.Errorf("CONNECT %s: %d, want %d", target, resp.StatusCode, want)
		}
	}
	plain := newFixture(t, simpleRoutes, map[string][]string{"up": {"127.0.0.1:1"}}, nil)
	if resp, _ := plain.exchange("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("CONNECT without a route for it: %d", resp.StatusCode)
	}
}
