package netcat

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

func nc(ctx context.Context, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = Run(ctx, &applet.Call{Name: "nc", Args: args, In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return status, out.String(), errs.String()
}

// echo returns the port of a server that returns what it is sent.
func echo(t *testing.T) (port string) {
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
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// closed is a port where nobody listens.
func closed(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestNetcat(t *testing.T) {
	open, shut := echo(t), closed(t)
	for _, tc := range []struct {
		args   string
		stdin  string
		status int
		stdout string
		stderr string // a part of it; empty: nothing
	}{
		{args: "127.0.0.1 {O}", stdin: "to and fro", stdout: "to and fro"},
		{args: "-z 127.0.0.1 {O}"},
		{args: "-zv 127.0.0.1 {O}", stderr: "Connection to 127.0.0.1 {O} port [tcp/*] succeeded!"},
		{args: "-z 127.0.0.1 {S}", status: 1},
		{args: "-zv -w 1 127.0.0.1 {S}", status: 1, stderr: "connection refused"},
		{args: "127.0.0.1 {S}", status: 1},
		{args: "-v 127.0.0.1 {S}", status: 1, stderr: "connection refused"},
		{args: "-zu 127.0.0.1 {S}", status: 1},
		{args: "-zn localhost {O}", status: 2, stderr: "not an address"},
		{args: "127.0.0.1", status: 2, stderr: "usage"},
		{args: "127.0.0.1 nonsense", status: 2, stderr: "not a port"},
		{args: "127.0.0.1 1-5", status: 2, stderr: "a range needs -z"},
		{args: "-X 127.0.0.1 1", status: 2, stderr: "unknown option -X"},
		{args: "-w x 127.0.0.1 1", status: 2, stderr: "not a number of seconds"},
		{args: "-l 127.0.0.1 {O}", status: 1, stderr: "address already in use"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			fill := strings.NewReplacer("{O}", open, "{S}", shut)
			status, stdout, stderr := nc(t.Context(), tc.stdin, strings.Fields(fill.Replace(tc.args))...)
			if status != tc.status || stdout != tc.stdout || !strings.Contains(stderr, fill.Replace(tc.stderr)) || tc.stderr == "" && stderr != "" {
				t.Errorf("status %d, want %d; stdout %q; stderr %q", status, tc.status, stdout, stderr)
			}
		})
	}
}

// said is a program's standard error, which tells when it listens.
type said struct {
	mu   sync.Mutex
	text string
	news chan string
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += string(p)
	if m := regexp.MustCompile(`Listening on (\S+)\n`).FindStringSubmatch(s.text); m != nil {
		select {
		case s.news <- m[1]:
		default:
		}
	}
	return len(p), nil
}

func TestListen(t *testing.T) {
	for _, tc := range []struct {
		name, network string
		args          []string
	}{
		{"tcp", "tcp", []string{"-lv", "127.0.0.1", closed(t)}},
		{"-p", "tcp", []string{"-lvp", closed(t)}},
		{"unix", "unix", []string{"-lvU", filepath.Join(t.TempDir(), "s")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			errs := &said{news: make(chan string, 1)}
			var out bytes.Buffer
			done := make(chan int)
			go func() {
				done <- Run(t.Context(), &applet.Call{Name: "nc", Args: tc.args, In: strings.NewReader("answer"), Out: &out, Err: errs})
			}()
			var addr string
			select {
			case addr = <-errs.news:
			case status := <-done:
				t.Fatalf("status %d: %s", status, errs.text)
			}
			c, err := net.Dial(tc.network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "question"); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); err != nil || string(b) != "answer" {
				t.Errorf("read %q, %v", b, err)
			}
			c.Close()
			if status := <-done; status != applet.OK || out.String() != "question" {
				t.Errorf("status %d, wrote %q", status, out.String())
			}
		})
	}
}

func TestListenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	errs := &said{news: make(chan string, 1)}
	done := make(chan int)
	go func() {
		done <- Run(ctx, &applet.Call{Name: "nc", Args: []string{"-lkv", "127.0.0.1", closed(t)}, In: strings.NewReader(""), Out: io.Discard, Err: errs})
	}()
	<-errs.news
	cancel(applet.ErrTerminated)
	if status := <-done; status != applet.Terminated {
		t.Errorf("status %d", status)
	}
}
