package servers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/bookinfo"
)

// lines is a program's log, which tells when and where it listens.
type lines struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	news chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	select {
	case l.news <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

var listening = regexp.MustCompile(`msg=listening addr=(\S+) kind=(\S+)`)

// start runs a program until the test ends, and returns its addresses by kind.
func start(t *testing.T, fn applet.Func, kinds int, args ...string) (addrs map[string]string, log *lines) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log = &lines{news: make(chan struct{}, 1)}
	done := make(chan int, 1)
	go func() {
		done <- fn(ctx, &applet.Call{Name: "server", Args: args, Err: log, Environ: []string{"HOSTNAME=pod-1", "SERVICE_VERSION=v9"}})
	}()
	t.Cleanup(func() {
		cancel()
		if status := <-done; status != applet.OK {
			t.Errorf("status %d, log %s", status, log)
		}
	})
	for {
		found := listening.FindAllStringSubmatch(log.String(), -1)
		if len(found) == kinds {
			addrs = map[string]string{}
			for _, f := range found {
				addrs[f[2]] = f[1]
			}
			return addrs, log
		}
		select {
		case <-log.news:
		case status := <-done:
			done <- status
			t.Fatalf("ended with status %d: %s", status, log)
		}
	}
}

const anyPort = "127.0.0.1:0"

func do(t *testing.T, client *http.Client, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// client makes a connection per request, so that nothing is left open.
func client(cfg *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
}

func TestOutside(t *testing.T) {
	addrs, log := start(t, Outside, 3, "--http", anyPort, "--https", anyPort, "--tcp", anyPort, "--name", "far.example,10.0.0.1")
	code, body := do(t, client(nil), "POST", "http://"+addrs["http"]+"/a/b?c=d", "hello")
	var got heard
	if err := json.Unmarshal([]byte(body), &got); code != 200 || err != nil {
		t.Fatalf("%d %v %s", code, err, body)
	}
	if got.Beyond != "the mesh" || got.Method != http.MethodPost || got.Path != "/a/b" || got.Query != "c=d" || got.Body != "hello" ||
		got.Hostname != "pod-1" || got.Proto != "HTTP/1.1" || got.Host != addrs["http"] || got.TLS != nil {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(log.String(), `msg=request method=POST`) {
		t.Errorf("no access log: %s", log)
	}

	// Its certificate can be trusted as it stands, for the names it was given.
	var cert *x509.Certificate
	if _, body = do(t, client(&tls.Config{InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		cert = cs.PeerCertificates[0]
		return nil
	}}), "GET", "https://"+addrs["https"]+"/", ""); !strings.Contains(body, `"version": "TLS 1.3"`) {
		t.Errorf("over TLS: %s", body)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	if code, _ := do(t, client(&tls.Config{RootCAs: roots, ServerName: "far.example"}), "GET", "https://"+addrs["https"]+"/", ""); code != 200 {
		t.Errorf("trusting its certificate: %d", code)
	}
	if err := cert.VerifyHostname("10.0.0.1"); err != nil || cert.Subject.CommonName != "far.example" {
		t.Errorf("certificate for %s: %v", cert.Subject, err)
	}

	c, err := net.Dial("tcp", addrs["tcp"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); line != "outside: beyond the mesh\n" || err != nil {
		t.Errorf("greeting %q, %v", line, err)
	}
	if _, err := io.WriteString(c, "echo\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); line != "echo\n" || err != nil {
		t.Errorf("echo %q, %v", line, err)
	}
}

func TestCleartextHTTP2(t *testing.T) {
	addrs, _ := start(t, Serve, 1, "--listen", anyPort)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	defer tr.CloseIdleConnections()
	if _, body := do(t, &http.Client{Transport: tr}, "GET", "http://"+addrs["http"]+"/", ""); !strings.Contains(body, `"proto": "HTTP/2.0"`) {
		t.Errorf("%s", body)
	}
}

func TestServe(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("in the file"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	addrs, _ := start(t, Serve, 3, "--listen", anyPort, "--dir", dir, "--tcp", anyPort, "--listen-tls", anyPort)
	for _, tc := range []struct {
		method, path, body string
		code               int
		part               string
	}{
		{"GET", "/x", "", 200, `"path": "/x"`},
		{"GET", "/hostname", "", 200, "pod-1\n"},
		{"GET", "/version", "", 200, "v9\n"},
		{"GET", "/health", "", 200, "ok"},
		{"GET", "/status/503", "", 503, "503 Service Unavailable"},
		{"GET", "/status/999", "", 400, "not a status"},
		{"GET", "/delay/1ms", "", 200, "after 1ms"},
		{"GET", "/delay/0.001", "", 200, "after 1ms"},
		{"GET", "/delay/soon", "", 400, "not a duration"},
		{"GET", "/file/f", "", 200, "in the file"},
		{"GET", "/file/", "", 200, "f\n"},
		{"GET", "/file/missing", "", 404, ""},
		{"GET", "/file/out", "", 500, "escapes"},
		{"GET", "/file/..%2f..%2fetc%2fpasswd", "", 500, "escapes"},
		{"PUT", "/file/new/deep", "written", 201, ""},
		{"GET", "/file/new/deep", "", 200, "written"},
		{"DELETE", "/file/new/deep", "", 204, ""},
		{"GET", "/file/new/deep", "", 404, ""},
		{"PATCH", "/file/f", "", 405, ""},
	} {
		if code, body := do(t, client(nil), tc.method, "http://"+addrs["http"]+tc.path, tc.body); code != tc.code || !strings.Contains(body, tc.part) {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, code, body)
		}
	}
	if code, _ := do(t, client(&tls.Config{InsecureSkipVerify: true}), "GET", "https://"+addrs["https"]+"/hostname", ""); code != 200 {
		t.Errorf("over TLS: %d", code)
	}
}

func TestHTTPBinAndBookinfo(t *testing.T) {
	addrs, _ := start(t, HTTPBin, 1, "--listen", anyPort)
	if code, body := do(t, client(nil), "GET", "http://"+addrs["http"]+"/headers", ""); code != 200 || !strings.Contains(body, `"headers"`) {
		t.Errorf("httpbin: %d %s", code, body)
	}
	c, err := net.Dial("tcp", addrs["http"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = io.WriteString(c, "GET /websocket/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if line, rerr := bufio.NewReader(c).ReadString('\n'); err != nil || rerr != nil || !strings.HasPrefix(line, "HTTP/1.1 101 ") {
		t.Errorf("websocket: %q %v %v", line, err, rerr)
	}
	addrs, log := start(t, Bookinfo(bookinfo.Details), 1, "--listen", anyPort)
	if code, body := do(t, client(nil), "GET", "http://"+addrs["http"]+"/details/0", ""); code != 200 || !strings.Contains(body, "paperback") {
		t.Errorf("details: %d %s", code, body)
	}
	do(t, client(nil), "GET", "http://"+addrs["http"]+"/health", "")
	if strings.Contains(log.String(), "/health") {
		t.Errorf("health probes fill the log: %s", log)
	}
}

func TestMisuse(t *testing.T) {
	taken, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		fn     applet.Func
		args   []string
		status int
		say    string
	}{
		{Serve, []string{"--nope"}, 2, "unknown option --nope"},
		{Serve, []string{"operand"}, 2, `unexpected operand "operand"`},
		{Serve, []string{"--listen", ""}, 1, "nothing to listen on"},
		{Serve, []string{"--dir", "/no/such/dir"}, 2, "no such file"},
		{Serve, []string{"--tls-cert", "x"}, 2, "need --listen-tls"},
		{Outside, []string{"--tls-key", "x"}, 2, "go together"},
		{HTTPBin, []string{"--listen", taken.Addr().String()}, 1, "address already in use"},
	} {
		var errs bytes.Buffer
		if status := tc.fn(t.Context(), &applet.Call{Name: "x", Args: tc.args, Err: &errs}); status != tc.status || !strings.Contains(errs.String(), tc.say) {
			t.Errorf("%q: status %d, %s", tc.args, status, &errs)
		}
	}
}
