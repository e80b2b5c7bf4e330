package curl

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// curlIn runs curl in a directory.
func curlIn(ctx context.Context, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = Run(ctx, &applet.Call{Name: "curl", Args: args, In: strings.NewReader(stdin), Out: &out, Err: &errs, Dir: dir})
	return status, out.String(), errs.String()
}

// site tells what it was asked, and misbehaves on some paths.
func site(t *testing.T) http.Handler {
	t.Helper()
	var flaky atomic.Int32
	mux := http.NewServeMux()
	tell := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s host=%s ua=%s x=%q ct=%s auth=%s cookie=%s accept=%s body=%s\n", r.Method, r.RequestURI, r.Host, r.UserAgent(),
			r.Header["X"], r.Header.Get("Content-Type"), r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("Accept"), body)
	}
	mux.HandleFunc("/", tell)
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
		fmt.Fprintln(w, "status", code)
	})
	mux.HandleFunc("/flaky", func(w http.ResponseWriter, _ *http.Request) {
		if flaky.Add(1)%3 != 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "at last")
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("u"))
		code := http.StatusFound
		fmt.Sscan(r.URL.Query().Get("code"), &code)
		w.WriteHeader(code)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/partial", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	})
	mux.HandleFunc("/head", func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["x-lower"] = []string{"kept"}
		w.Header()["Date"] = nil
		_, _ = io.WriteString(w, "body")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/..") { // the mux would redirect it
			tell(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func serve(t *testing.T, cleartext2 bool) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(site(t))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(cleartext2)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// raw serves each connection with fn.
func raw(t *testing.T, fn func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go fn(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// refused is an address where nobody listens.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestCurl(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), []byte("line 1\nline 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	addr := serve(t, true)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	answersNothing := raw(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1024))
		c.Close()
	})
	resets := raw(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1024))
		_ = c.SetLinger(0)
		c.Close()
	})
	babbles := raw(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1024))
		_, _ = io.WriteString(c, "hello, this is not HTTP\r\n\r\n")
		c.Close()
	})
	echoes := raw(t, func(c *net.TCPConn) {
		_, _ = io.Copy(c, c)
		c.Close()
	})
	const urlencoded = "application/x-www-form-urlencoded"
	for _, tc := range []struct {
		args   string // words; {A} is the site
		stdin  string
		status int
		stdout string // an expression it must match, whole
		stderr string // a part of it
	}{
		{args: "{A}", stdout: `GET / host={A} ua=curl/8 \(ropes\) x=\[\] ct= auth= cookie= accept=\*/\* body=\n`},
		{args: "http://{A}/a?b=c#frag", stdout: `GET /a\?b=c .*\n`},
		{args: "-X DELETE {A}/x", stdout: `DELETE /x .*\n`},
		{args: "-H X:1 -H X:2 -H Host:other.example -A me {A}", stdout: `GET / host=other.example ua=me x=\["1" "2"\] .*\n`},
		{args: "-H X; -H User-Agent: -H Accept: {A}", stdout: `GET / host=\S+ ua= x=\[""\] .* accept= body=\n`},
		{args: "-d a=1 -d b=2 {A}", stdout: `POST / .* ct=` + urlencoded + ` .* body=a=1&b=2\n`},
		{args: "-d @data {A}", stdout: `POST / .* body=line 1line 2\n`},
		{args: "--data-binary @data {A}", stdout: `POST / .* body=line 1\nline 2\n\n`},
		{args: "--data-raw @data {A}", stdout: `POST / .* body=@data\n`},
		{args: "-d @- {A}", stdin: "typed", stdout: `POST / .* body=typed\n`},
		{args: "-G -d a=1 {A}/?z=0", stdout: `GET /\?z=0&a=1 .* body=\n`},
		{args: "--data-urlencode a=b+&c {A}", stdout: `POST / .* body=a=b%2B%26c\n`},
		{args: `--json {"a":1} {A}`, stdout: `POST / .* ct=application/json .* accept=application/json body={"a":1}\n`},
		{args: "-T data {A}/up/", stdout: `PUT /up/data .* body=line 1\nline 2\n\n`},
		{args: "-F a=b {A}", stdout: `(?s)POST / .* ct=multipart/form-data; boundary=.*name="a".*b.*`},
		{args: "-u ann:secret {A}", stdout: `.* auth=Basic YW5uOnNlY3JldA== .*\n`},
		{args: "--oauth2-bearer tok {A}", stdout: `.* auth=Bearer tok .*\n`},
		{args: "-b c=1 {A}", stdout: `.* cookie=c=1 .*\n`},
		{args: "{A}/a/../b/./c", stdout: `GET /b/c .*\n`},
		{args: "--path-as-is {A}/a/../b", stdout: `GET /a/../b .*\n`},
		{args: "{A}/1 {A}/2", stdout: `GET /1 .*\nGET /2 .*\n`},
		{args: "--resolve far.example:{P}:{H} http://far.example:{P}/", stdout: `GET / host=far.example:{P} .*\n`},
		{args: "--connect-to far.example:80:{H}:{P} far.example", stdout: `GET / host=far.example .*\n`},

		{args: "-i {A}/head", stdout: `HTTP/1.1 200 OK\r\nx-lower: kept\r\nContent-Length: 4\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nbody`},
		{args: "-I {A}/head", stdout: `(?s)HTTP/1.1 200 OK\r\nx-lower: kept\r\n.*\r\n\r\n`},
		{args: "-s -D - -o out {A}/head", stdout: `(?s)HTTP/1.1 200 OK\r\n.*\r\n\r\n`},
		{args: "--http2-prior-knowledge -i {A}/head", stdout: `HTTP/2 200\r\ncontent-length: 4\r\ncontent-type: text/plain; charset=utf-8\r\nx-lower: kept\r\n\r\nbody`},
		{
			args:   "-o /dev/null -w %{http_code}_%{http_version}_%{size_download}_%{content_type}_%{num_connects}_%header{x-lower}\\n%% {A}/head",
			stdout: `200_1.1_4_text/plain; charset=utf-8_1_kept\n%`,
		},
		{args: "-w |%{url}|%{scheme}|%{method}|%{remote_ip}|%{remote_port}|%{exitcode} -o /dev/null http://{A}/x", stdout: `\|http://{A}/x\|http\|GET\|{H}\|{P}\|0`},
		{args: "-w %{nonsense}. -o /dev/null {A}", stdout: `\.`, stderr: "unknown --write-out variable: 'nonsense'"},
		{args: "-w %{time_total} -o /dev/null {A}", stdout: `\d+\.\d{6}`},
		{args: "-s -w %{http_code}:%{exitcode} {R}", status: 7, stdout: `000:7`},
		{args: "-v {A}/head", stdout: "body", stderr: "> GET /head HTTP/1.1\n> Host: "},

		{args: "{A}/status/404", stdout: "status 404\n"},
		{args: "-f {A}/status/404", status: 22, stderr: "curl: (22) the requested URL returned error: 404"},
		{args: "-fsS {A}/status/500", status: 22, stderr: "curl: (22)"},
		{args: "--fail-with-body {A}/status/403", status: 22, stdout: "status 403\n", stderr: "curl: (22)"},
		{args: "--retry 3 --retry-delay 0.001 -s {A}/flaky", stdout: "at last\n"},
		{args: "--retry 1 --retry-delay 0.001 -s -o /dev/null -w %{http_code} {A}/status/503", stdout: "503"},
		{args: "--retry 3 -s {A}/status/404", stdout: "status 404\n"},
		{args: "-s -w %{redirect_url} {A}/to?u=/next", stdout: `http://{A}/next`},
		{args: "-L -d x {A}/to?u=/next", stdout: `GET /next .* body=\n`},
		{args: "-L -d x {A}/to?u=/next&code=307", stdout: `POST /next .* body=x\n`},
		{args: "-L -s -o /dev/null -w %{num_redirects} --max-redirs 4 {A}/loop", status: 47, stdout: "4"},

		{args: "{R}", status: 7, stderr: "curl: (7) failed to connect to 127.0.0.1 port"},
		{args: "-s {R}", status: 7},
		{args: "-sS {R}", status: 7, stderr: "curl: (7)"},
		{args: "--retry 2 --retry-delay 0.001 --retry-connrefused -s {R}", status: 7},
		{args: "http://nowhere.invalid", status: 6, stderr: "could not resolve host: nowhere.invalid"},
		{args: "-m 0.05 {A}/hang", status: 28, stderr: "curl: (28)"},
		{args: "{A}/partial", status: 18, stdout: "short", stderr: "curl: (18)"},
		{args: "{N}", status: 52, stderr: "curl: (52) empty reply from server"},
		{args: "{X}", status: 56, stderr: "connection reset by peer"},
		{args: "{B}", status: 1, stderr: "not HTTP"},
		{args: "https://{A}", status: 35, stderr: "curl: (35)"},
		{args: "https://{N}", status: 35, stderr: "closed the connection in the handshake"},
		{args: "ftp://{A}", status: 1, stderr: `protocol "ftp" not supported`},
		{args: "http://", status: 3, stderr: "no host"},
		{args: "http://[bad", status: 3, stderr: "curl: (3)"},
		{args: "", status: 2, stderr: "no URL given"},
		{args: "--proxy x {A}", status: 2, stderr: "unknown option --proxy"},
		{args: "-b jar {A}", status: 2, stderr: "cookie files are not supported"},
		{args: "-m soon {A}", status: 2, stderr: "not a number of seconds"},
		{args: "-d @missing {A}", status: 26, stderr: "no such file"},
		{args: "-o /no/such/dir/file {A}", status: 23, stderr: "curl: (23)"},
		{args: "--cacert missing {A}", status: 77, stderr: "curl: (77)"},
		{args: "--cacert data {A}", status: 77, stderr: "no certificate in data"},
		{args: "--cert data {A}", status: 58, stderr: "curl: (58)"},
		{args: "telnet://{E}", stdin: "to and fro", stdout: "to and fro"},
		{args: "telnet://{R}", status: 7, stderr: "curl: (7)"},
		{args: "-V", stdout: `curl/8 \(ropes\) .*\n`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			fill := strings.NewReplacer("{A}", addr, "{H}", host, "{P}", port, "{R}", refused(t), "{N}", answersNothing, "{X}", resets, "{B}", babbles, "{E}", echoes)
			status, stdout, stderr := curlIn(t.Context(), dir, tc.stdin, strings.Fields(fill.Replace(tc.args))...)
			if status != tc.status {
				t.Errorf("status %d, want %d", status, tc.status)
			}
			if !regexp.MustCompile(`^(?:` + fill.Replace(tc.stdout) + `)$`).MatchString(stdout) {
				t.Errorf("stdout %q, want %q", stdout, tc.stdout)
			}
			if !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" {
				t.Errorf("stderr %q, want %q", stderr, tc.stderr)
			}
		})
	}
}

func TestOutputFiles(t *testing.T) {
	dir := t.TempDir()
	addr := serve(t, false)
	if err := os.WriteFile(filepath.Join(dir, "head"), []byte("much longer than what comes"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, stdout, stderr := curlIn(t.Context(), dir, "", "-s", "-i", "-o", "full", addr+"/head", "-O", addr+"/head"); status != 0 || stdout != "" {
		t.Fatalf("status %d, %q %q", status, stdout, stderr)
	}
	for name, want := range map[string]string{"full": "HTTP/1.1 200 OK", "head": "HTTP/1.1 200 OK"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.HasPrefix(string(b), want) || !strings.HasSuffix(string(b), "\r\n\r\nbody") {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
}

func TestInterrupted(t *testing.T) {
	addr := serve(t, false)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan int)
	go func() {
		status, _, _ := curlIn(ctx, "", "", addr+"/hang")
		done <- status
	}()
	cancel(applet.ErrTerminated)
	if status := <-done; status != applet.Terminated {
		t.Errorf("status %d", status)
	}
}

// authority makes certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	key, der := a.issue(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "authority"}})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.key, a.cert = key, cert
	return a
}

func (a *authority) issue(t *testing.T, tmpl *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// write puts a certificate and its key into dir as PEM.
func write(t *testing.T, dir, name string, key *ecdsa.PrivateKey, der []byte) {
	t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if key != nil {
		k, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})...)
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	write(t, dir, "ca.pem", nil, ca.cert.Raw)
	key, der := ca.issue(t, &x509.Certificate{DNSNames: []string{"shop.example"}, Subject: pkix.Name{CommonName: "shop"}})
	clientKey, clientDER := ca.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ann"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	write(t, dir, "client.pem", clientKey, clientDER)
	start := func(auth tls.ClientAuthType) (port string) {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := "nobody"
			if len(r.TLS.PeerCertificates) > 0 {
				who = r.TLS.PeerCertificates[0].Subject.CommonName
			}
			fmt.Fprint(w, r.Proto, " ", tls.VersionName(r.TLS.Version), " ", r.TLS.ServerName, " ", who)
		}))
		pool := x509.NewCertPool()
		pool.AddCert(ca.cert)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: auth, ClientCAs: pool}
		srv.EnableHTTP2 = true
		srv.Config.ErrorLog = log.New(io.Discard, "", 0) // refusals are wanted here
		srv.StartTLS()
		t.Cleanup(srv.Close)
		_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	open, strict := start(tls.VerifyClientCertIfGiven), start(tls.RequireAndVerifyClientCert)
	for _, tc := range []struct {
		args   string
		port   string
		status int
		stdout string
		stderr string
	}{
		{args: "--cacert ca.pem", port: open, stdout: "HTTP/2.0 TLS 1.3 shop.example nobody"},
		{args: "--cacert ca.pem --http1.1", port: open, stdout: "HTTP/1.1 TLS 1.3 shop.example nobody"},
		{args: "-k --tls-max 1.2", port: open, stdout: "HTTP/2.0 TLS 1.2 shop.example nobody"},
		{args: "-k -i --http1.1", port: open, stdout: "HTTP/1.1 200 OK\r\nDate:"},
		{args: "-s", port: open, status: 60},
		{args: "", port: open, status: 60, stderr: "curl: (60) SSL certificate problem"},
		{args: "-k", port: open, stdout: "HTTP/2.0"},
		{args: "-kv", port: open, stdout: "HTTP/2.0", stderr: "*  subject: CN=shop\n"},
		{args: "-kv", port: open, stdout: "HTTP/2.0", stderr: "*  subjectAltName: DNS:shop.example\n*  issuer: CN=authority\n"},
		{args: "-kv", port: open, stdout: "HTTP/2.0", stderr: "continuing anyway"},
		{args: "-v --cacert ca.pem", port: open, stdout: "HTTP/2.0", stderr: "SSL certificate verify ok."},
		{args: "--cacert ca.pem --cert client.pem", port: strict, stdout: "HTTP/2.0 TLS 1.3 shop.example ann"},
		{args: "--cacert ca.pem --cert client.pem --key client.pem --tls-max 1.2", port: strict, stdout: "HTTP/2.0 TLS 1.2 shop.example ann"},
		{args: "--cacert ca.pem --tls-max 1.2", port: strict, status: 35, stderr: "curl: (35)"},
	} {
		t.Run(tc.args+" "+tc.port, func(t *testing.T) {
			args := append(strings.Fields(tc.args), "--resolve", "shop.example:"+tc.port+":127.0.0.1", "https://shop.example:"+tc.port+"/")
			status, stdout, stderr := curlIn(t.Context(), dir, "", args...)
			if status != tc.status || !strings.HasPrefix(stdout, tc.stdout) || tc.stdout == "" && stdout != "" || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("status %d, want %d; stdout %q; stderr %q", status, tc.status, stdout, stderr)
			}
		})
	}
	// With TLS 1.3 the refusal comes after the handshake: curl, too, sees it in reading, or
	// where the connection is gone by then, in sending.
	args := []string{"--cacert", "ca.pem", "--resolve", "shop.example:" + strict + ":127.0.0.1", "https://shop.example:" + strict}
	if status, _, stderr := curlIn(t.Context(), dir, "", args...); status != codeReceive && status != codeSend {
		t.Errorf("without the certificate asked for: %d %s", status, stderr)
	}
	args = []string{"-w", "%{ssl_verify_result}", "-o", "/dev/null", "-k", "--connect-to", "::127.0.0.1:" + open, "https://other.example"}
	if status, stdout, stderr := curlIn(t.Context(), dir, "", args...); status != 0 || stdout != "1" {
		t.Errorf("ssl_verify_result: %d %q %s", status, stdout, stderr)
	}
}

func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: site(t)}
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	status, stdout, stderr := curlIn(t.Context(), dir, "", "--unix-socket", "s", "http://any/x")
	if status != 0 || !strings.HasPrefix(stdout, "GET /x host=any ") {
		t.Errorf("%d %q %q", status, stdout, stderr)
	}
	srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}
