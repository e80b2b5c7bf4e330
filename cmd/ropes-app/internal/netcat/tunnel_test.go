package netcat

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// spoken is standard error that tells when something was first written to it.
type spoken struct {
	once  sync.Once
	spoke chan struct{}
	mu    sync.Mutex
	text  bytes.Buffer
}

func (s *spoken) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.once.Do(func() { close(s.spoke) })
	return s.text.Write(p)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestTLSThroughNetcat does what package checks/probe does for a TLS probe from a pod: nothing
// is sent before nc -v has spoken, then a handshake goes through its standard streams.
func TestTLSThroughNetcat(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	errs := &spoken{spoke: make(chan struct{})}
	done := make(chan int, 1)
	go func() {
		defer theirs.Close()
		done <- Run(t.Context(), &applet.Call{Name: "nc", Args: []string{"-v", "-w", "20", host, port}, In: theirs, Out: theirs, Err: errs})
	}()
	select {
	case <-errs.spoke:
	case status := <-done:
		t.Fatalf("nc ended with status %d before it spoke", status)
	}
	if got := errs.String(); got != "Connection to "+host+" "+port+" port [tcp/*] succeeded!\n" {
		t.Errorf("nc said %q", got)
	}
	c := tls.Client(ours, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // who signed it is not the question
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if certs := c.ConnectionState().PeerCertificates; len(certs) == 0 || !certs[0].Equal(srv.Certificate()) {
		t.Errorf("certificates %v are not the server's", certs)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if status := <-done; status != applet.OK && !strings.Contains(errs.String(), "closed pipe") {
		t.Errorf("status %d: %s", status, errs)
	}
}

func TestVerboseNamesTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	status, _, stderr := nc(t.Context(), "", "-vU", path)
	if status != applet.OK || stderr != "Connection to "+path+" succeeded!\n" {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}
